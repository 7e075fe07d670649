"""Fixtures for all tests: a PostgreSQL a session, a database of its own for each test."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import asyncpg
import pytest

from meshhook.administration import set_queue_config
from meshhook.embedded import EmbeddedPostgres
from meshhook.schema import migrate
from meshhook.testing.databases import name_of
from support import released_migrations, slow_tests, tiers
from support.databases import TEST_SETTINGS, Databases, quicken_logins, server_directory
from support.days import seconds_until_a_day_has_begun
from support.fuzzing import load_profile
from support.lanes import Lanes
from support.last_tests import stop_unused
from support.pgmq_versions import PGMQ_VERSIONS, pgmq_sql

# Each of the many processes that tests start would compile all that it imports, for a second.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

load_profile()

_guard = tiers.ProcessGuard()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that record new migrations and slow tests."""
    parser.addoption(
        "--add-migrations",
        action="store_true",
        help="add the migrations that are new to tests/released_migrations.json",
    )
    parser.addoption(
        "--record-slow",
        action="store_true",
        help="write which of these tests are slow into tests/slow_tests.txt; takes -n0, and a "
        "machine that does nothing else",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Hear the signals that tests send, and record new migrations before any test looks at them."""
    # A run in the background, or under nohup, ignores these, and so would all that it starts.
    for number, action in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, action)
    if config.getoption("add_migrations") and not hasattr(config, "workerinput"):
        released_migrations.add_new()
    if config.getoption("record_slow"):
        if config.getoption("numprocesses", None):
            raise pytest.UsageError("--record-slow measures one test at a time: add -n0")
        config.pluginmanager.register(slow_tests.Recorder())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect the tests with the garbage collector off, and let it pass over them from then on.

    It would look at all of them, a million objects, again and again for a quarter of the time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with what it needs."""
    tiers.mark(items)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let a test that is marked `unit` start no program."""
    _guard.is_on = "unit" in tiers.tiers_of(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Let programs be stopped that no test needs any more."""
    _guard.is_on = False
    try:
        return (yield)
    finally:
        stop_unused(item.config, nextitem.path if nextitem is not None else None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Lanes:
    """Share the tests out by files and lanes, whatever `--dist` says."""
    return Lanes(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Let captured text travel between processes, also halves of surrogate pairs."""
    report.sections[:] = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]


@pytest.fixture(autouse=True, scope="module")
def _garbage() -> Iterator[None]:
    """Find what the tests of a module left open, so that its last test fails and no later one."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A running server; one for each process of pytest-xdist."""
    with server_directory(in_memory=True) as directory:
        server = EmbeddedPostgres(directory / "postgres", settings=TEST_SETTINGS)
        quicken_logins(server.start())
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="session")
def databases(postgres: EmbeddedPostgres) -> Iterator[Databases]:
    """Creates and drops databases on the server."""
    databases = Databases(postgres)
    yield databases
    databases.close()


@pytest.fixture(scope="session")
def template_of_day(databases: Databases) -> Callable[[date], str]:
    """Returns the name of a database that was migrated on a day of UTC, made at the first call."""
    get = cache(lambda _: databases.create_template(migrate))
    get(datetime.now(UTC).date())
    return get


@pytest.fixture(scope="session")
def template_with_queue_of_day(
    databases: Databases, template_of_day: Callable[[date], str]
) -> Callable[[date], str]:
    """Returns the name of such a database with the empty queue `jobs`."""

    async def create_queue(url: str) -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("select meshhook.create_queue('jobs')")
        finally:
            await connection.close()

    @cache
    def get(day: date) -> str:
        url = databases.create(template=template_of_day(day))
        databases.run(create_queue(url))
        return name_of(url)

    get(datetime.now(UTC).date())
    return get


@pytest.fixture
def today() -> date:
    """The day of UTC. Just before its end the test waits for the next one: the history has days."""
    time.sleep(seconds_until_a_day_has_begun(datetime.now(UTC)))
    return datetime.now(UTC).date()


@pytest.fixture
def template(template_of_day: Callable[[date], str], today: date) -> str:
    """The name of a migrated database to clone: of today, since the history has days."""
    return template_of_day(today)


@pytest.fixture
def database_url(
    request: pytest.FixtureRequest,
    databases: Databases,
    template_of_day: Callable[[date], str],
    today: date,
) -> Iterator[str]:
    """The URL of a migrated database for this test alone, without queues or with `queue_name`."""
    of_day = template_of_day
    if "queue_name" in request.fixturenames:
        # Creating the queue in every clone would take as long as cloning.
        of_day = request.getfixturevalue("template_with_queue_of_day")
    url = databases.create(template=of_day(today))
    yield url
    databases.drop(url)


@pytest.fixture
def meshhook_database_url(database_url: str) -> str:
    """The database of `meshhook_database`, the fixture of the plugin, is on the same server."""
    return database_url


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to `database_url`."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    """A pool of 1 to 10 connections to `database_url`."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=10) as pool:
        yield pool


@pytest.fixture
def queue_name(database_url: str) -> str:
    """The name of a new, empty queue in `database_url`: `jobs`."""
    return "jobs"


@pytest.fixture
async def late_retries(database_url: str, queue_name: str) -> None:
    """Let failed jobs of the queue wait for ten minutes.

    However long a busy machine takes, none runs again before a test has looked at what is there.
    """
    await set_queue_config(
        database_url,
        queue_name,
        retry_backoff_base_ms=600_000,
        retry_backoff_max_ms=600_000,
    )


@pytest.fixture
def empty_database_url(databases: Databases) -> Iterator[str]:
    """The URL of a database with nothing in it, not even PGMQ."""
    url = databases.create()
    yield url
    databases.drop(url)


@pytest.fixture
async def empty_connection(
    empty_database_url: str,
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to `empty_database_url`."""
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


@pytest.fixture
def encoding() -> str:
    """The encoding of `encoded_url`; a module may have others."""
    return "SQL_ASCII"


@pytest.fixture
def encoded_url(databases: Databases, encoding: str) -> Iterator[str]:
    """The URL of a database of an encoding, with nothing in it."""
    url = databases.create(encoding=encoding)
    yield url
    databases.drop(url)


@pytest.fixture
async def encoded(encoded_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to `encoded_url`, with the schema and a queue `jobs`."""
    connection = await asyncpg.connect(encoded_url)
    await migrate(connection)
    await connection.execute("select meshhook.create_queue('jobs')")
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def pgmq_template(databases: Databases) -> Callable[[str], str]:
    """Returns the name of a migrated database on a version of PGMQ, made at the first call."""

    @cache
    def get(version: str, _: date) -> str:
        async def prepare(connection: asyncpg.Connection[asyncpg.Record]) -> None:
            await connection.execute(pgmq_sql(version))
            await migrate(connection)

        return databases.create_template(prepare)

    return lambda version: get(version, datetime.now(UTC).date())


@pytest.fixture(params=PGMQ_VERSIONS, ids=lambda version: f"pgmq-{version}")
def pgmq_version(request: pytest.FixtureRequest) -> str:
    """A version of PGMQ; a test that uses it runs once with each (1.5.1 is emulated)."""
    version: str = request.param
    return version


@pytest.fixture
def pgmq_database_url(
    databases: Databases, pgmq_template: Callable[[str], str], pgmq_version: str
) -> Iterator[str]:
    """The URL of a migrated database on each version of PGMQ in turn."""
    url = databases.create(template=pgmq_template(pgmq_version))
    yield url
    databases.drop(url)


@pytest.fixture
async def pgmq_database(
    pgmq_database_url: str,
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to `pgmq_database_url`."""
    connection = await asyncpg.connect(pgmq_database_url)
    yield connection
    await connection.close()
