"""PGMQ below the migrations: found, installed or refused; and the script for an administrator."""

from __future__ import annotations

import asyncio
import re
import tomllib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from meshhook.embedded.programs import Programs
from meshhook.errors import UnsupportedPgmqError
from meshhook.schema import (
    PgmqSource,
    PgmqVersion,
    check_schema,
    migrate,
    pgmq,
    plan,
    script,
)
from support.databases import Databases, server_directory
from support.pgmq_versions import PGMQ_VERSIONS, pgmq_sql

PACKAGED = PGMQ_VERSIONS[0]
PGMQ_1_4 = """
create schema if not exists pgmq;
create table pgmq.meta (queue_name varchar unique not null);
create type pgmq.message_record as (
    msg_id bigint, read_ct integer, enqueued_at timestamptz, vt timestamptz, message jsonb);
"""


@pytest.fixture
def offer_extension(empty_connection) -> Iterator[Callable[[str, str], Awaitable[None]]]:
    """Makes the server offer a PGMQ extension to `empty_connection`: await it with a version."""
    with server_directory() as directory:
        folder = directory / "extension"
        folder.mkdir()

        async def offer(version: str, sql: str) -> None:
            control = f"default_version = '{version}'\nrelocatable = false\nschema = 'pgmq'\n"
            (folder / "pgmq.control").write_text(control)
            (folder / f"pgmq--{version}.sql").write_text(sql)
            await empty_connection.execute(f"set extension_control_path = '$system:{directory}'")

        directory.chmod(0o755)
        yield offer


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the Python package with the SQL of PGMQ were not installed."""
    monkeypatch.setattr(pgmq, "_package_folder", lambda: None)


async def installations(connection):
    """Return what is recorded about PGMQ."""
    rows = await connection.fetch("select version, source from meshhook.pgmq_installation")
    return [tuple(row) for row in rows]


async def run_program(name: str, *arguments: str, text: str = "") -> str:
    """Run a program of PostgreSQL, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        Programs.find(None).directory / name,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate(text.encode())
    assert process.returncode == 0, output.decode()
    return output.decode()


async def dump(url: str) -> str:
    """Return the whole schema of a database as text, and what is recorded but for the times."""
    text = await run_program("pg_dump", "--schema-only", url)
    text = re.sub(r"^\\(un)?restrict .*$", "", text, flags=re.MULTILINE)
    connection = await asyncpg.connect(url)
    records = await connection.fetch(
        "select version, name, checksum, applied_by, library_version from meshhook.migrations"
    )
    text += "".join(f"{record}\n" for record in (*records, *await installations(connection)))
    await connection.close()
    return text


async def test_the_sql_of_the_package_is_installed(empty_connection):
    """Where the server does not offer the extension, the package's SQL runs and is recorded."""
    report = await migrate(empty_connection)
    assert report.pgmq == PgmqVersion(PACKAGED, PgmqSource.SQL)
    assert report.pgmq_before is None
    assert await installations(empty_connection) == [(PACKAGED, "sql")]
    assert (await plan(empty_connection)).pgmq.found == report.pgmq


async def test_the_extension_is_created_where_it_is_offered(empty_connection, offer_extension):
    """CREATE EXTENSION comes before the package's SQL."""
    await offer_extension("1.11.1", pgmq_sql("1.11.1"))
    report = await migrate(empty_connection)
    assert report.pgmq == PgmqVersion("1.11.1", PgmqSource.EXTENSION)
    assert await installations(empty_connection) == [("1.11.1", "extension")]
    await empty_connection.execute("select meshhook.create_queue('jobs')")
    await check_schema(empty_connection)


async def test_a_newer_extension_is_reported_and_not_installed(empty_connection, offer_extension):
    """What is there stays, and the report names what is at hand."""
    await offer_extension("1.11.1", pgmq_sql("1.11.1"))
    await empty_connection.execute("create extension pgmq")
    await offer_extension("1.13.0", pgmq_sql("1.13.0"))
    report = await migrate(empty_connection)
    assert report.pgmq == report.pgmq_before == PgmqVersion("1.11.1", PgmqSource.EXTENSION)
    assert report.pgmq_newer == "1.13.0"
    assert await installations(empty_connection) == []


async def test_an_extension_offered_in_an_old_version_is_passed_over(
    empty_connection, offer_extension
):
    """A server that offers only a PGMQ before 1.5.0 gets the package's SQL."""
    await offer_extension("1.4.4", PGMQ_1_4)
    report = await migrate(empty_connection)
    assert report.pgmq == PgmqVersion(PACKAGED, PgmqSource.SQL)


async def test_an_old_extension_is_refused(empty_connection, offer_extension):
    """The error names the version found, the one needed, and the statement that updates it."""
    await offer_extension("1.4.4", PGMQ_1_4.replace("create schema if not exists pgmq;", ""))
    await empty_connection.execute("create extension pgmq")
    for act in (migrate, plan):
        with pytest.raises(
            UnsupportedPgmqError, match=r"PGMQ 1\.4\.4; 1\.5\.0 .*\(ALTER EXTENSION pgmq UPDATE"
        ):
            await act(empty_connection)
    assert await empty_connection.fetchval("select to_regnamespace('meshhook')") is None


async def test_an_old_pgmq_without_a_version_is_refused(empty_connection):
    """Plain SQL from before 1.5.0 is known by its missing headers."""
    await empty_connection.execute(PGMQ_1_4)
    with pytest.raises(UnsupportedPgmqError, match=r"PGMQ older than 1\.5\.0; 1\.5\.0 or newer"):
        await migrate(empty_connection)


@pytest.mark.parametrize("version", PGMQ_VERSIONS[:2])
async def test_a_pgmq_of_somebody_else_is_kept(empty_connection, version):
    """Plain SQL that was there is used, and its functions tell the lowest version it can be."""
    await empty_connection.execute(pgmq_sql(version))
    report = await migrate(empty_connection)
    assert report.pgmq == report.pgmq_before == PgmqVersion(version, PgmqSource.OTHER)
    assert str(report.pgmq) == f"{version} or newer (other)"
    assert await installations(empty_connection) == []


async def test_the_oldest_supported_pgmq_is_kept(empty_connection):
    """1.5.1 cannot be told from 1.5.0, and both are new enough."""
    await empty_connection.execute(pgmq_sql("1.5.1"))
    assert (await migrate(empty_connection)).pgmq == PgmqVersion("1.5.0", PgmqSource.OTHER)
    await check_schema(empty_connection)


async def test_the_lock_of_queues_came_with_1_5_2(empty_connection):
    """1.6.0 brought no function by which it could be told from it."""
    await empty_connection.execute(pgmq_sql("1.5.1"))
    await empty_connection.execute(
        "create function pgmq.acquire_queue_lock(queue_name text) returns void language sql "
        "as $$ select pg_advisory_xact_lock(hashtext('pgmq.queue_' || queue_name)) $$"
    )
    assert (await migrate(empty_connection)).pgmq == PgmqVersion("1.5.2", PgmqSource.OTHER)


async def test_a_newer_package_is_reported_and_not_installed(empty_connection, monkeypatch):
    """SQL that we installed is not replaced when the package is newer."""
    await migrate(empty_connection)
    monkeypatch.setattr(pgmq, "packaged_version", lambda: "1.99.0")
    report = await migrate(empty_connection)
    assert report.pgmq == PgmqVersion(PACKAGED, PgmqSource.SQL)
    assert report.pgmq_newer == "1.99.0"
    assert report.applied == ()


async def test_a_record_that_is_no_longer_true_is_not_believed(empty_connection):
    """If somebody replaced the PGMQ that we installed, its functions count."""
    await migrate(empty_connection)
    await empty_connection.execute("drop schema pgmq cascade")
    await empty_connection.execute(pgmq_sql("1.11.1"))
    found = (await plan(empty_connection)).pgmq.found
    assert found == PgmqVersion("1.11.1", PgmqSource.OTHER)


async def test_no_pgmq_at_all_is_explained(empty_connection, no_package):
    """Without the extension and without the package the error says how to get either."""
    with pytest.raises(UnsupportedPgmqError, match=r"the server does not offer it.*pip install"):
        await migrate(empty_connection)


async def test_a_package_is_not_needed_where_pgmq_is(empty_connection, no_package):
    """A database with PGMQ migrates without the package."""
    await empty_connection.execute(pgmq_sql("1.11.1"))
    assert (await migrate(empty_connection)).pgmq_newer is None


async def test_pgmq_that_is_gone_is_noticed(connection):
    """A worker's check fails when somebody dropped PGMQ."""
    await connection.execute("drop schema pgmq cascade")
    with pytest.raises(UnsupportedPgmqError, match=r"no PGMQ; .* run: meshhook migrate"):
        await check_schema(connection)


async def test_an_empty_schema_of_that_name_is_no_pgmq(empty_connection):
    """An administrator may create the schema pgmq beforehand."""
    await empty_connection.execute("create schema pgmq")
    assert (await migrate(empty_connection)).pgmq_before is None


async def test_queues_work_on_each_version(pgmq_database):
    """Creating, sending, reading, monitoring and dropping work on each supported PGMQ."""
    await pgmq_database.execute("select meshhook.create_queue('jobs')")
    await pgmq_database.execute("select pgmq.send('jobs', '{\"run_id\": \"r1\"}'::jsonb)")
    await pgmq_database.execute("select pgmq.send('jobs', '{\"run_id\": \"r2\"}'::jsonb)")
    await pgmq_database.execute("select msg_id from pgmq.read('jobs', 30, 1)")
    row = await pgmq_database.fetchrow("select * from meshhook.queue_monitoring")
    assert (row["ready"], row["running"], row["enqueued_total"]) == (1, 1, 2)
    states = await pgmq_database.fetch(
        "select run_id, state from meshhook.job_tracking order by run_id"
    )
    assert [tuple(state) for state in states] == [("r1", "running"), ("r2", "ready")]
    assert await pgmq_database.fetchval("select meshhook.drop_queue('jobs')")
    assert not await pgmq_database.fetchval("select meshhook.drop_queue('jobs')")


async def test_the_script_leaves_what_migrate_leaves(
    databases: Databases, template, empty_database_url
):
    """Psql with the script, and migrate, give the same schema and the same records."""
    await run_program(
        "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", empty_database_url, text=script(pgmq_sql=True)
    )
    assert await dump(empty_database_url) == await dump(databases.server.url(template))


async def test_the_script_uses_the_pgmq_that_is_there(empty_connection):
    """Without the SQL of PGMQ, the script runs on a database that has it."""
    await empty_connection.execute(pgmq_sql("1.11.1"))
    await empty_connection.execute(script(pgmq_sql=False))
    await check_schema(empty_connection)
    assert (await migrate(empty_connection)).applied == ()
    assert await installations(empty_connection) == []


async def test_the_script_creates_the_extension(empty_connection, offer_extension):
    """Without the SQL of PGMQ, the script creates the extension, and records it."""
    await offer_extension("1.11.1", pgmq_sql("1.11.1"))
    await empty_connection.execute(script(pgmq_sql=False))
    assert await installations(empty_connection) == [("1.11.1", "extension")]
    await check_schema(empty_connection)


@pytest.mark.parametrize(
    ("before", "with_pgmq", "message"),
    [
        ("select", False, "this database has no PGMQ, and the server does not offer the extension"),
        (PGMQ_1_4, False, "this database has a PGMQ older than 1.5.0"),
        (PGMQ_1_4, True, "this database has PGMQ already"),
    ],
)
async def test_the_script_explains_why_it_cannot_run(empty_connection, before, with_pgmq, message):
    """A PGMQ that is missing, too old, or in the way ends the script, and nothing is left."""
    await empty_connection.execute(before)
    with pytest.raises(asyncpg.RaiseError, match=re.escape(message)):
        await empty_connection.execute(script(pgmq_sql=with_pgmq))
    await empty_connection.execute("rollback")
    assert await empty_connection.fetchval("select to_regnamespace('meshhook')") is None


async def test_the_script_refuses_a_migrated_database(connection):
    """It is for fresh databases only."""
    with pytest.raises(asyncpg.RaiseError, match="has migrations already; run: meshhook migrate"):
        await connection.execute(script(pgmq_sql=True))


def test_the_script_without_the_package_is_refused(no_package):
    """The SQL of PGMQ can only be printed where it is installed."""
    with pytest.raises(UnsupportedPgmqError, match="pip install pgmq"):
        script(pgmq_sql=True)


def test_a_plain_installation_brings_the_sql_of_pgmq():
    """`pip install meshhook-queue` is enough for `meshhook migrate` on a stock PostgreSQL."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[^\w-]", each)[0] for each in project["dependencies"]}
    assert "pgmq" in names


def test_the_installed_package_is_the_newest_version_tested():
    """The tests on several versions of PGMQ include the one that is installed."""
    assert pgmq.packaged_version() == PACKAGED
    assert Path(pgmq.__file__).name == "pgmq.py"
