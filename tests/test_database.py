"""The way to the database: errors by their kind, connections that break, and transactions."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseLockedError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    SchemaMissingError,
    UncertainCommitError,
)
from meshhook.postgres.connecting import STEADY_PLANS, connect
from meshhook.postgres.database import Database
from meshhook.postgres.driver_errors import translated_errors
from meshhook.store.sending import insert_messages
from support.proxy import Proxy
from support.waiting import eventually, lock_waiters

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

OTHERS = (
    "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
    "and application_name = 'under test'"
)


@asynccontextmanager
async def pool_of(url: str, size: int = 3, **options: Any) -> AsyncIterator[Pool]:
    """A pool whose connections can be told from others."""
    settings = {"application_name": "under test"} | options.pop("server_settings", {})
    async with asyncpg.create_pool(
        url, min_size=size, max_size=size, server_settings=settings, **options
    ) as pool:
        yield pool


async def terminate(connection: Connection) -> int:
    """Terminate all connections under test, and return how many they were."""
    rows = await connection.fetch(f"select pg_terminate_backend(pid) {OTHERS}")
    return len(rows)


def connections_of(pool: Pool) -> list[Connection]:
    """Return the connections that a pool has open."""
    return [holder._con for holder in pool._holders]  # type: ignore[attr-defined]


# --- Errors by their kind ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "kind", "message"),
    [
        ("select 1/0", DatabaseError, r"division by zero \(SQLSTATE 22012\)"),
        ("selec 1", DatabaseError, "SQLSTATE 42601"),
        ("table meshhook.nothing", SchemaMissingError, "run: meshhook migrate"),
        ("select meshhook.nothing()", SchemaMissingError, "run: meshhook migrate"),
        ("select nothing from meshhook.queue_config", SchemaMissingError, "meshhook migrate"),
        ("create table nowhere.x ()", SchemaMissingError, "run: meshhook migrate"),
        ("create temporary table x (y text check (y <> ''))", None, ""),
    ],
)
async def test_a_refused_statement_has_its_kind(
    pool: Pool, sql: str, kind: type[DatabaseError] | None, message: str
) -> None:
    """What the server says is kept, with its SQLSTATE or with the command that helps."""
    database = Database(pool)
    if kind is None:
        await database.fetch(sql)
        return
    with pytest.raises(kind, match=message) as caught:
        await database.fetch(sql)
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)


@pytest.mark.parametrize(
    ("sql", "argument"),
    [("select $1::int", 2**40), ("select $1::int", "x"), ("select $1::text", 5)],
)
async def test_a_wrong_argument_is_not_a_broken_connection(
    pool: Pool, sql: str, argument: Any
) -> None:
    """An argument that the type cannot hold is refused, and not worth another try."""
    with pytest.raises(DatabaseError, match="invalid input for query argument") as caught:
        await Database(pool).fetch(sql, argument)
    assert not isinstance(caught.value, DatabaseUnavailableError)


async def test_a_read_only_session(database_url: str) -> None:
    """The error names the remedy, and is not one that passes with time."""
    settings = {"default_transaction_read_only": "on"}
    async with pool_of(database_url, server_settings=settings) as pool:
        with pytest.raises(DatabaseReadOnlyError, match="primary server") as caught:
            await Database(pool).fetch("create table x ()")
    assert not isinstance(caught.value, DatabaseUnavailableError)


@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
async def test_a_lock_that_is_not_to_be_had(
    connection: Connection, database_url: str, queue_name: str, setting: str
) -> None:
    """A statement that the server gave up is refused: it has certainly done nothing."""
    async with (
        pool_of(database_url, server_settings={setting: "1ms"}) as pool,
        connection.transaction(),
    ):
        await connection.execute("lock table pgmq.q_jobs")
        with pytest.raises(DatabaseError, match=r"SQLSTATE (55P03|57014)") as caught:
            await Database(pool).fetch("select from pgmq.q_jobs")
        assert not isinstance(caught.value, DatabaseUnavailableError)


async def test_a_server_that_does_not_answer() -> None:
    """A refused connection is an unavailable database; nothing was sent."""
    url = "postgresql://nobody@127.0.0.1:1/none"
    for attempt in (connect(url), Database.connect(url)):
        with pytest.raises(DatabaseUnavailableError, match="cannot be reached") as caught:
            await attempt
        assert not isinstance(caught.value, UncertainCommitError)


async def test_a_database_that_does_not_exist(database_url: str) -> None:
    """It is refused by name."""
    with pytest.raises(DatabaseError, match='"no_such_database" does not exist'):
        await connect(database_url.rpartition("/")[0] + "/no_such_database")


async def test_a_login_that_is_refused(database_url: str) -> None:
    """The error says that it is the login."""
    with pytest.raises(DatabaseError, match="refused the login: password"):
        await connect(database_url.replace("//postgres:", "//postgres:x"))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:se#cret@127.0.0.1/db",
        "postgresql://user:se/cret@127.0.0.1/db",
        "postgresql://user:se?cret@127.0.0.1/db",
        "postgresql://user:secret@127.0.0.1:9x/db",
        "postgresql://user:secret@[::1/db",
        "mysql://user:secret@127.0.0.1/db",
        "host=127.0.0.1 password=secret",
        "nonsense",
    ],
)
async def test_a_url_that_is_not_valid(url: str) -> None:
    """The error shows the right form, and nothing of the password."""
    for attempt in (connect(url), Database.connect(url)):
        with pytest.raises(InvalidSettingError, match="user:password@host:port") as caught:
            await attempt
        assert "cret" not in str(caught.value)
        assert "'se'" not in str(caught.value)


async def test_a_pool_with_no_free_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting in vain for a connection is an unavailable database; nothing was sent."""
    monkeypatch.setattr("meshhook.postgres.database.CONNECT_TIMEOUT_SECONDS", 0.01)
    async with pool_of(database_url, size=1) as pool, pool.acquire():
        with pytest.raises(DatabaseUnavailableError, match="none of the 1 connections") as caught:
            await Database(pool).fetch("select 1")
    assert not isinstance(caught.value, UncertainCommitError)


# --- Connections that break --------------------------------------------------------------------


async def test_terminated_connections_in_the_pool_are_replaced(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """After idle connections were terminated, enqueues succeed, each once."""
    async with pool_of(database_url) as pool:
        service = QueueService[Any](pool, queue_name)
        await service.enqueue({})
        held = connections_of(pool)
        assert await terminate(connection) == 3
        await eventually(lambda: all(each.is_closed() for each in held))
        ids = await asyncio.gather(*(service.enqueue({}) for _ in range(20)))
        assert len(set(ids)) == 20
        assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 21
        assert len(await connection.fetch(f"select {OTHERS}")) >= 1


async def test_a_terminated_read_is_repeated(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """Reading the settings is repeated: an enqueue that broke there is stored once."""
    async with pool_of(database_url) as pool:
        service = QueueService[Any](pool, queue_name)
        async with connection.transaction():
            await connection.execute("lock table meshhook.queue_config")
            task = asyncio.create_task(service.enqueue({}))
            await eventually(lambda: lock_waiters(connection))
            await terminate(connection)
        await task
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 1


async def test_a_terminated_enqueue_says_that_it_is_uncertain(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """It is not repeated; every caller of the batch is told, and later batches succeed."""
    async with pool_of(database_url) as pool:
        service = QueueService[Any](pool, queue_name)
        await service.get_config()
        held = connections_of(pool)
        async with connection.transaction():
            await connection.execute("lock table pgmq.q_jobs")
            tasks = [asyncio.create_task(service.enqueue({})) for _ in range(5)]
            await eventually(lambda: lock_waiters(connection))
            await terminate(connection)
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            assert isinstance(result, UncertainCommitError)
            assert "while a statement was under way" in str(result)
        await eventually(lambda: all(each.is_closed() for each in held))
        await service.enqueue({})
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 1


@pytest.mark.parametrize(
    ("jobs", "swallowed"), [(1, b"needle"), (2, b"needle"), (1_001, b"COMMIT")]
)
async def test_a_commit_whose_answer_is_lost_is_not_repeated(
    connection: Connection, database_url: str, queue_name: str, jobs: int, swallowed: bytes
) -> None:
    """The job is stored once, although its caller was told that this is uncertain."""
    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(Proxy(database_url))
        pool = await stack.enter_async_context(pool_of(proxy.through(database_url), size=1))
        service = QueueService[Any](pool, queue_name)
        warm = (service.enqueue({}), service.enqueue_many([{}]))
        await asyncio.gather(*warm)
        proxy.lose_answer_to(swallowed)
        headers = {"needle": 1}
        sending: Awaitable[Any] = (
            service.enqueue({}, headers=headers)
            if jobs == 1
            else service.enqueue_many([{}] * jobs, headers=headers)
        )
        with pytest.raises(UncertainCommitError):
            await sending
        assert proxy.cuts == 1
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 2 + jobs


async def test_no_answer_in_time_is_uncertain(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """The server may commit after the pool's command_timeout; nothing is repeated."""
    async with pool_of(database_url) as pool:
        service = QueueService[Any](pool, queue_name)
        await service.get_config()
        async with connection.transaction():
            await connection.execute("lock table pgmq.q_jobs")
            async with pool_of(database_url, command_timeout=0.05) as hurried:
                service._database.source = hurried
                with pytest.raises(UncertainCommitError, match="no answer in time"):
                    await service.enqueue({})
                with pytest.raises(UncertainCommitError, match="no answer in time"):
                    await service.enqueue_many([{}])


async def test_a_pool_without_a_time_limit_waits_no_longer_than_ours(
    connection: Connection, database_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that is never answered delays the jobs of its batch, not all later ones."""
    async with pool_of(database_url) as pool:
        service = QueueService[Any](pool, queue_name)
        async with connection.transaction():
            await connection.execute("lock table meshhook.queue_config")
            with monkeypatch.context() as patch:
                patch.setattr("meshhook.postgres.database.ANSWER_TIMEOUT_SECONDS", 0.05)
                with pytest.raises(DatabaseUnavailableError) as caught:
                    await service.enqueue({})
                assert not isinstance(caught.value, UncertainCommitError)
        await service.get_config()
        async with connection.transaction():
            await connection.execute("lock table pgmq.q_jobs")
            with monkeypatch.context() as patch:
                patch.setattr("meshhook.postgres.database.ANSWER_TIMEOUT_SECONDS", 0.05)
                with pytest.raises(UncertainCommitError, match="no answer in time"):
                    await service.enqueue({})
        await service.enqueue({})
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 1


async def test_a_connection_that_cannot_be_given_back_changes_no_outcome(
    connection: Connection, database_url: str, queue_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that were stored, or may have been, are not reported as unsent."""
    release = asyncpg.Pool.release

    async def fail(self: Pool, lent: Any, **options: Any) -> None:
        await release(self, lent, **options)
        raise TimeoutError

    async with pool_of(database_url) as pool:
        service = QueueService[Any](pool, queue_name)
        monkeypatch.setattr(asyncpg.Pool, "release", fail)
        assert await service.enqueue_many([{}, {}]) == [1, 2]
        assert await service.enqueue_many([{}] * 1_001) == list(range(3, 1_004))
        async with connection.transaction():
            await connection.execute("lock table pgmq.q_jobs")
            task = asyncio.create_task(service.enqueue({}))
            await eventually(lambda: lock_waiters(connection))
            await terminate(connection)
            with pytest.raises(UncertainCommitError):
                await task
        monkeypatch.undo()
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 1_003


async def test_what_was_stored_before_the_database_went_away_is_not_sent_again(
    pool: Pool, queue_name: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a batch that is sent one by one, only the rest is sent again."""
    service = QueueService[Any](pool, queue_name)
    await service.get_config()
    failures = [DatabaseError("one of them"), None, DatabaseUnavailableError("away")]

    async def insert(*arguments: Any) -> list[int]:
        if failures and (failure := failures.pop(0)) is not None:
            raise failure
        return await insert_messages(*arguments)

    monkeypatch.setattr(service._send_buffer, "_insert_messages", insert)
    assert await asyncio.gather(*(service.enqueue({}) for _ in range(3))) == [1, 2, 3]
    assert failures == []
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 3


async def test_what_was_not_sent_is_sent_again(
    pool: Pool, queue_name: str, connection: Connection
) -> None:
    """A database that is away for a moment loses no job and doubles none."""
    service = QueueService[Any](pool, queue_name)
    await service.get_config()
    failures = [DatabaseUnavailableError("away"), DatabaseUnavailableError("still away")]
    acquire = Database(pool).acquire

    @asynccontextmanager
    async def away() -> AsyncIterator[Any]:
        if failures:
            raise failures.pop()
        async with acquire() as lent:
            yield lent

    service._send_buffer._database.acquire = away  # type: ignore[method-assign]
    await service.enqueue({})
    assert failures == []
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 1


async def test_a_closed_connection_is_an_unavailable_database(database_url: str) -> None:
    """A single connection that was closed is not opened again by us, and says so."""
    own = await asyncpg.connect(database_url)
    await own.close()
    with pytest.raises(DatabaseUnavailableError, match="connection"):
        await Database(own).fetch("select 1")


# --- Sources and transactions ------------------------------------------------------------------


async def test_a_pool_a_connection_and_a_database_will_do(
    pool: Pool, connection: Connection
) -> None:
    """Each is a source; one of ours shares what the other has."""
    for source in (pool, connection, Database(pool)):
        database = Database(source)
        assert await database.fetchval("select 1") == 1
        row = await database.fetchrow("select 1 as one, 2 as two")
        assert dict(row or {}) == {"one": 1, "two": 2}
        assert await database.fetchrow("select where false") is None
        assert len(await database.fetch("select generate_series(1, 3)")) == 3
    assert Database(Database(pool)).source is pool


@pytest.mark.parametrize("source", [None, b"postgresql://localhost/jobs", 5, object()])
def test_anything_else_is_refused(source: Any) -> None:
    """The error names the type received."""
    with pytest.raises(InvalidSettingError, match=f"got {type(source).__name__}"):
        Database(source)


async def test_only_what_is_ours_is_closed(database_url: str, connection: Connection) -> None:
    """The caller's connection stays open; a pool that we opened is closed."""
    await Database(connection).close()
    assert await connection.fetchval("select 1") == 1
    database = await Database.connect(database_url)
    await database.close()
    with pytest.raises(DatabaseUnavailableError):
        await database.fetch("select 1")


async def test_statements_on_one_connection_are_put_in_line(connection: Connection) -> None:
    """Tasks that share a connection wait for each other instead of failing."""
    database = Database(connection)
    values = await asyncio.gather(*(database.fetchval("select $1::int", n) for n in range(20)))
    assert values == list(range(20))


async def test_those_who_share_a_connection_stay_out_of_a_transaction(
    connection: Connection,
) -> None:
    """A statement of one waits until the other's transaction has ended."""
    await connection.execute("create table x (y int)")
    first = Database(connection)
    second = Database(first)
    async with first.transaction() as own:
        task = asyncio.create_task(second.fetch("insert into x values (1)"))
        await asyncio.sleep(0)
        await own.execute("insert into x values (2)")
        assert not task.done()
    await task
    assert [row["y"] for row in await second.fetch("table x")] == [2, 1]


@pytest.mark.parametrize("single", [True, False])
async def test_a_transaction_commits_or_rolls_back(
    pool: Pool, connection: Connection, single: bool
) -> None:
    """What raises leaves nothing behind, and is passed on as it is."""
    await connection.execute("create table x (y int)")
    database = Database(connection if single else pool)
    async with database.transaction() as own:
        await own.execute("insert into x values (1)")

    async def insert_and_raise(error: BaseException) -> None:
        async with database.transaction() as own:
            await own.execute("insert into x values (2)")
            raise error

    async def insert_and_run(sql: str) -> None:
        async with database.transaction() as own:
            await own.execute("insert into x values (3)")
            await own.execute(sql)

    for error in (OSError("of the caller's own"), KeyError("x"), asyncio.CancelledError()):
        with pytest.raises(type(error)) as caught:
            await insert_and_raise(error)
        assert caught.value is error
    with pytest.raises(DatabaseError, match="22012"):
        await insert_and_run("select 1/0")
    assert [row["y"] for row in await database.fetch("table x")] == [1]


async def test_a_commit_that_the_server_refuses(pool: Pool, connection: Connection) -> None:
    """A constraint that is checked at the commit is a refused statement."""
    await connection.execute("create table x (y int unique deferrable initially deferred)")
    database = Database(pool)

    async def insert_twice() -> None:
        async with database.transaction() as own:
            await own.execute("insert into x values (1), (1)")

    with pytest.raises(DatabaseError, match="23505"):
        await insert_twice()
    assert await database.fetch("table x") == []


async def test_a_transaction_whose_connection_breaks(
    connection: Connection, database_url: str
) -> None:
    """The first error is the one that counts: rolling back on a dead connection hides nothing."""
    async with pool_of(database_url, size=1) as pool:

        async def break_it() -> None:
            async with Database(pool).transaction() as own:
                await terminate(connection)
                await own.fetch("select 1")

        with pytest.raises(DatabaseUnavailableError):
            await break_it()
        assert await Database(pool).fetchval("select 1") == 1


async def test_steady_plans_are_set_where_no_pooler_stands(database_url: str) -> None:
    """A worker's connection plans by index; a pooler would refuse the settings."""
    for pooled, is_set in ((False, True), (True, False)):
        own = await connect(database_url, pooled=pooled, steady_plans=True)
        try:
            for name, value in STEADY_PLANS.items():
                found = await own.fetchval("select current_setting($1)", name)
                assert (found == value) is is_set or value == "on", name
        finally:
            await own.close()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("55P03", DatabaseLockedError),
        ("40001", DatabaseConflictError),
        ("40P01", DatabaseConflictError),
    ],
)
async def test_what_may_be_tried_again_is_told_from_what_is_refused(
    connection: Connection, code: str, expected: type[Exception]
) -> None:
    """A lock that is held, and a conflict of transactions, have errors of their own."""
    with pytest.raises(expected) as found, translated_errors():
        await connection.execute(f"do $$ begin raise exception using errcode = '{code}'; end $$")
    assert isinstance(found.value, DatabaseError)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://abc.supabase.co", r"starts with https://.*connection string.*under Connect"),
        ("HTTP://localhost:54321", r"starts with HTTP://.*connection string"),
        ("postgresql+asyncpg://a:hunter2@h/n", r"postgresql\+asyncpg://.*name of a driver"),
        ("jdbc:postgresql://h/n", r"starts with jdbc:postgresql://.*name of a driver"),
        ("mysql://a:hunter2@h/n", r"starts with mysql://.*a PostgreSQL database"),
    ],
)
@pytest.mark.parametrize("opened", [connect, Database.connect], ids=["connection", "pool"])
async def test_a_url_of_something_else_says_where_the_right_one_is(
    opened: Callable[[str], Awaitable[object]], url: str, message: str
):
    """The scheme is named and nothing behind it, which may be a password."""
    with pytest.raises(InvalidSettingError, match=message) as raised:
        await opened(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:secret@127.0.0.1:1,127.0.0.1:2/jobs?target_session_attrs=read-write",
        "postgresql://me:secret@127.0.0.1:1/jobs?sslmode=verify-full&sslrootcert=/no/such/secret",
        "postgresql://me:secret@127.0.0.1:1/jobs?ssl_min_protocol_version=secret&sslmode=require",
        "postgresql://me:secret@127.0.0.1:1/jobs?sslnegotiation=direct",
        "postgresql://me:secret@127.0.0.1:1/jobs?sslnegotiation=secret",
        "postgresql://me:secret@127.0.0.1:1/jobs?gsslib=secret",
        "postgresql://me:secret@" + "x" * 300 + "/jobs",
        "postgresql://me:secret@x..y/jobs",
        "postgresql://me:secret@,,/jobs?port=1,2,3",
        "postgresql://me:secret@%2Fno%2Fsuch%2Fsocket/jobs",
    ],
)
async def test_whatever_is_wrong_with_a_url_is_an_error_of_ours(url: str) -> None:
    """No error of the driver or of Python gets through, and none shows the password."""
    for attempt in (connect(url), Database.connect(url)):
        with pytest.raises((InvalidSettingError, DatabaseUnavailableError)) as caught:
            await attempt
        assert "me:secret" not in str(caught.value)


async def test_the_primary_is_found_among_several_hosts(
    database_url: str, connection: Connection
) -> None:
    """Hosts that refuse, that are silent, and that only read are passed over, each in its time."""
    parts = urlsplit(database_url)
    name = await connection.fetchval("select current_database()")
    with Proxy(database_url) as proxy:
        proxy.swallow(new_ones=True)
        hosts = f"127.0.0.1:1,127.0.0.1:{proxy.port},{parts.hostname}:{parts.port}"
        url = database_url.replace(f"{parts.hostname}:{parts.port}", hosts)
        # Also the time in which a busy machine must answer.
        wanted = f"{url}?connect_timeout=4&target_session_attrs="
        for attributes in ("read-write", "prefer-standby"):
            own = await connect(wanted + attributes)
            assert await own.fetchval("select current_database()") == name
            await own.close()
        database = await Database.connect(wanted + "read-write")
        assert await database.fetchval("select current_database()") == name
        await database.close()
        await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
        with pytest.raises(DatabaseUnavailableError, match="target_session_attrs"):
            await connect(wanted + "read-write")


async def test_what_a_url_says_of_the_session_has_its_effect(database_url: str) -> None:
    """Settings, `options`, the name of the application and the keepalives of the socket."""
    url = (
        f"{database_url}?statement_timeout=9s&options=-c%20work_mem%3D5MB&application_name=shop"
        "&keepalives_idle=33&gssencmode=prefer&channel_binding=prefer&connect_timeout=60"
    )
    own = await connect(url)
    database = await Database.connect(url)
    try:
        for source in (own, database):
            assert await source.fetchval("show statement_timeout") == "9s"
            assert await source.fetchval("show work_mem") == "5MB"
            assert await source.fetchval("show application_name") == "shop"
        found = own._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
    finally:
        await own.close()
        await database.close()


@pytest.mark.parametrize("query", ["no_such_setting=1", "work_mem=much"])
async def test_a_setting_that_the_server_refuses_is_named(database_url: str, query: str) -> None:
    """The error says that it comes from the URL."""
    name = query.partition("=")[0]
    url = f"{database_url}?{query}"
    for attempt in (connect(url), Database.connect(url)):
        with pytest.raises(DatabaseError, match=f"a parameter of the database URL: .*{name}"):
            await attempt
