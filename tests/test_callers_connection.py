"""Enqueuing over the caller's own connection: in its transaction, and without any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DLQService,
    Job,
    QueueService,
    Worker,
    create_queue,
    get_queue_config,
    get_queue_snapshot,
    list_queue_scaling,
    list_queues,
    list_workers,
    migrate,
    set_queue_config,
)
from meshhook.errors import (
    DatabaseError,
    DatabaseUnavailableError,
    InvalidJobError,
    InvalidSettingError,
    JobTooLargeError,
    NotAJobError,
    QueueNotFoundError,
)
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Service: TypeAlias = "QueueService[Any]"

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture
async def service(pool: Pool) -> AsyncIterator[Service]:
    """The service of queue `jobs`."""
    async with QueueService[Any](pool, "jobs") as service:
        yield service


@pytest.fixture
def grow_old(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets all settings that are kept count as old from then on: still used, while new are read."""
    return lambda: monkeypatch.setattr("meshhook.settings_cache.FRESH_SECONDS", 0.0)


@pytest.fixture
def expire(grow_old: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets all settings that are kept count as too old to be used from then on."""

    def expire() -> None:
        grow_old()
        monkeypatch.setattr("meshhook.settings_cache.USABLE_SECONDS", 0.0)

    return expire


def readers() -> list[asyncio.Task[object]]:
    """Return the tasks that read settings in the background."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "meshhook-settings-jobs"]


async def count(connection: Connection) -> int:
    """Return how many messages the queue has."""
    number: int = await connection.fetchval("select count(*) from pgmq.q_jobs")
    return number


# --- No second connection ----------------------------------------------------------------------


@pytest.mark.parametrize(("size", "tasks"), [(1, 1), (4, 4), (4, 16)])
async def test_callers_that_hold_the_whole_pool_make_progress(
    database_url: str,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    tasks: int,
) -> None:
    """With settings that are always too old, no caller waits for a connection of another."""
    monkeypatch.setattr("meshhook.settings_cache.FRESH_SECONDS", 0.001)
    monkeypatch.setattr("meshhook.settings_cache.RETRY_SECONDS", 0.0)
    async with (
        asyncpg.create_pool(database_url, min_size=size, max_size=size) as pool,
        QueueService[Any](pool, "jobs") as service,
    ):

        async def produce() -> None:
            for n in range(20):
                async with pool.acquire() as own, own.transaction():
                    await own.execute("select 1")
                    await service.enqueue({"n": n}, connection=own)
                    await service.enqueue_many([{"n": n}], connection=own)

        await asyncio.wait_for(asyncio.gather(*(produce() for _ in range(tasks))), 60)
    assert await count(connection) == 40 * tasks


async def test_settings_are_read_over_the_callers_connection(
    database_url: str, connection: Connection, expire: Callable[[], None]
) -> None:
    """The only connection of a pool will do, at the first call and after a long pause."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        service = QueueService[Any](pool, "jobs")
        async with pool.acquire() as own, own.transaction():
            await service.enqueue({}, connection=own)
            expire()
            await service.enqueue({}, connection=own)
        assert await count(connection) == 2
        await service.close()


async def test_old_settings_serve_while_new_ones_are_read(
    service: Service, connection: Connection, grow_old: Callable[[], None]
) -> None:
    """One task reads in the background; the callers do not wait for it, and then have the new."""
    await service.enqueue({})
    await set_queue_config(connection, "jobs", max_payload_bytes=1_024)
    grow_old()
    async with connection.transaction():
        await connection.execute("lock table meshhook.queue_config")
        await asyncio.wait_for(
            asyncio.gather(*(service.enqueue("x" * 2_000) for _ in range(20))), 60
        )
        (reader,) = readers()
    await asyncio.wait_for(reader, 60)
    with pytest.raises(JobTooLargeError):
        await service.enqueue("x" * 2_000)


async def test_settings_that_cannot_be_read_leave_the_old_ones(
    service: Service,
    connection: Connection,
    caplog: pytest.LogCaptureFixture,
    grow_old: Callable[[], None],
) -> None:
    """The error is logged with the queue, and enqueuing goes on."""
    await service.enqueue({})
    grow_old()
    await connection.execute("alter table meshhook.queue_config rename to elsewhere")
    await service.enqueue({})
    await eventually(lambda: not readers())
    await service.enqueue({})
    assert await count(connection) == 3


async def test_closing_ends_the_reading_of_settings(
    service: Service, connection: Connection, grow_old: Callable[[], None]
) -> None:
    """No task is left when `close` returns, whatever it waited for."""
    await service.enqueue({})
    grow_old()
    async with connection.transaction():
        await connection.execute("lock table meshhook.queue_config")
        await service.enqueue({})
        await asyncio.wait_for(service.close(), 60)
        assert readers() == []


async def test_a_queue_that_is_gone_is_noticed_in_the_background(
    service: Service, connection: Connection, grow_old: Callable[[], None]
) -> None:
    """The next caller is told by name."""
    await service.enqueue({})
    await connection.execute("delete from meshhook.queue_config")
    grow_old()
    await service.enqueue({})
    await eventually(lambda: not readers())
    with pytest.raises(QueueNotFoundError):
        await service.enqueue({})


async def test_a_service_on_one_connection_starts_nothing_on_it(
    connection: Connection, grow_old: Callable[[], None]
) -> None:
    """What its owner does next on that connection is in nobody's way."""
    service = QueueService[Any](connection, "jobs")
    await service.enqueue({})
    grow_old()
    await service.enqueue({})
    assert readers() == []
    async with connection.transaction():
        grow_old()
        await service.enqueue({}, connection=connection)
        assert await connection.fetchval("select 1") == 1
    assert await count(connection) == 3


async def test_a_snapshot_does_not_become_everybodys_settings(
    pool: Pool, connection: Connection
) -> None:
    """What a long transaction sees is what its own enqueue goes by, and is read anew for others."""
    service = QueueService[Any](pool, "jobs")
    async with pool.acquire() as own, own.transaction(isolation="repeatable_read"):
        await own.execute("select 1 from meshhook.queue_config")
        await set_queue_config(connection, "jobs", max_payload_bytes=1_024)
        await service.enqueue("x" * 2_000, connection=own)
    with pytest.raises(JobTooLargeError):
        await asyncio.wait_for(refused(lambda: service.enqueue("x" * 2_000)), 60)
    await service.close()


async def refused(call: Callable[[], Any]) -> None:
    """Call again until it is refused."""
    while True:
        await call()


async def test_a_transaction_that_has_failed_is_named(service: Service, pool: Pool) -> None:
    """With or without settings at hand, the error says to roll it back."""
    for _ in range(2):
        async with pool.acquire() as own:
            transaction = own.transaction()
            await transaction.start()
            with suppress(asyncpg.PostgresError):
                await own.execute("select 1/0")
            with pytest.raises(DatabaseError, match=r"failed already.*roll it back"):
                await service.enqueue({}, connection=own)
            await transaction.rollback()
        await service.enqueue({})


# --- All or none -------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", ["not at all", "by the driver", "by hand"])
async def test_many_are_all_or_none_on_the_callers_connection(
    service: Service, connection: Connection, pool: Pool, begins: str
) -> None:
    """When a later batch is refused the earlier ones are not stored, and the caller may go on."""
    await connection.execute(
        "alter table pgmq.q_jobs add constraint small check ((message ->> 'n')::int < 1500)"
    )
    async with pool.acquire() as own:
        transaction = own.transaction()
        if begins == "by the driver":
            await transaction.start()
        if begins == "by hand":
            await own.execute("begin")
        with pytest.raises(DatabaseError, match="small"):
            await service.enqueue_many([{"n": n} for n in range(1_600)], connection=own)
        await service.enqueue_many([{"n": n} for n in range(1_200)], connection=own)
        if begins == "by the driver":
            await transaction.commit()
        if begins == "by hand":
            await own.execute("commit")
    assert await count(connection) == 1_200


@pytest.mark.parametrize("is_callers", [True, False])
async def test_many_are_cut_by_their_size(
    service: Service,
    connection: Connection,
    pool: Pool,
    monkeypatch: pytest.MonkeyPatch,
    is_callers: bool,
) -> None:
    """No statement carries more than some eight megabytes, and the order is kept."""
    sizes: list[int] = []
    load = asyncpg.Connection.fetch

    async def fetch(self: Any, sql: str, *arguments: Any, **options: Any) -> Any:
        if "insert into pgmq" in sql:
            sizes.append(sum(len(body) for body in arguments[0]))
        return await load(self, sql, *arguments, **options)

    monkeypatch.setattr(asyncpg.Connection, "fetch", fetch)
    jobs = [f"{n:03}" + "x" * 1_000_000 for n in range(20)]
    async with pool.acquire() as own:
        ids = await service.enqueue_many(jobs, connection=own if is_callers else None)
    assert len(sizes) == 3
    assert max(sizes) <= 8_388_608
    assert ids == sorted(ids)
    rows = await connection.fetch(
        "select left(message #>> '{}', 3) from pgmq.q_jobs order by msg_id"
    )
    assert [row[0] for row in rows] == [f"{n:03}" for n in range(20)]


async def test_what_postgresql_cannot_store_is_too_large(
    service: Service, connection: Connection
) -> None:
    """A limit that the server meets is the job's fault if the job is large, and else its own."""
    await set_queue_config(connection, "jobs", max_payload_bytes=4_000_000)
    await connection.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin raise exception using errcode = 'program_limit_exceeded'; end $$; "
        "create trigger refuse before insert on pgmq.q_jobs for each row execute function refuse()"
    )
    for call in (service.enqueue, lambda job: service.enqueue_many([{}, job])):
        with pytest.raises(JobTooLargeError, match="PostgreSQL does not store it"):
            await call("x" * 2_000_000)
        with pytest.raises(DatabaseError, match="54000"):
            await call("x")
    assert await count(connection) == 0


# --- What is no connection ---------------------------------------------------------------------


def stand_in(module: str, name: str) -> Any:
    """Return an instance of a class of this name and module."""
    return type(name, (), {"__module__": module})()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pool", "got a pool, each of whose statements is outside of your transaction"),
        ("database", "expected an asyncpg connection, got meshhook.postgres.database.Database"),
        ("transaction", "got asyncpg.transaction.Transaction; pass the connection itself"),
        ("url", "expected an asyncpg connection, got str; a pool is opened by"),
        ("psycopg", "got psycopg.AsyncConnection; MeshHook opens its own connections"),
        ("sqlalchemy", "got sqlalchemy.ext.asyncio.AsyncConnection; .* is taken by enqueue"),
        ("class", "the class asyncpg.connection.Connection"),
    ],
)
async def test_what_is_no_connection_is_refused(
    service: Service, connection: Connection, pool: Pool, kind: str, message: str
) -> None:
    """The error names what was received and the way out, and nothing is stored."""
    given: Any = {
        "pool": pool,
        "database": Database(pool),
        "transaction": connection.transaction(),
        "url": "postgresql://x",
        "psycopg": stand_in("psycopg", "AsyncConnection"),
        "sqlalchemy": stand_in("sqlalchemy.ext.asyncio", "AsyncConnection"),
        "class": asyncpg.Connection,
    }[kind]
    for call in (service.enqueue, lambda job, **own: service.enqueue_many([job], **own)):
        with pytest.raises(InvalidSettingError, match=message):
            await call({}, connection=given)
    assert await count(connection) == 0


async def test_a_connection_that_is_closed_or_given_back(
    service: Service, database_url: str, pool: Pool
) -> None:
    """It is an unavailable database, whether settings are at hand or not."""
    closed = await asyncpg.connect(database_url)
    await closed.close()
    async with pool.acquire() as given_back:
        pass
    for _ in range(2):
        for own in (closed, given_back):
            with pytest.raises(DatabaseUnavailableError, match="cannot be used"):
                await service.enqueue({}, connection=own)
        await service.enqueue({})


async def test_a_connection_of_another_loop_is_refused(service: Service, database_url: str) -> None:
    """It is not used, since it would never answer here."""

    def elsewhere() -> tuple[asyncio.AbstractEventLoop, Any]:
        loop = asyncio.new_event_loop()
        return loop, loop.run_until_complete(asyncpg.connect(database_url))

    loop, own = await asyncio.to_thread(elsewhere)
    try:
        with pytest.raises(InvalidSettingError, match="belongs to another event loop"):
            await service.enqueue({}, connection=own)
        with pytest.raises(InvalidSettingError, match="belongs to another event loop"):
            await QueueService[Any](own, "jobs").enqueue({})
    finally:
        await asyncio.to_thread(loop.run_until_complete, own.close())
        loop.close()


async def test_outside_a_transaction_a_job_is_stored_at_once(
    service: Service, connection: Connection, pool: Pool
) -> None:
    """The statement is a transaction of its own."""
    async with pool.acquire() as own:
        await service.enqueue({}, connection=own)
        assert await count(connection) == 1


# --- What is no source, no job, no list --------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (b"postgresql://localhost/jobs", "got bytes; a pool is opened by await Database.connect"),
        (None, "got NoneType; a pool is opened by"),
        (stand_in("psycopg_pool", "AsyncConnectionPool"), "is taken by enqueue"),
        (stand_in("sqlalchemy.ext.asyncio.engine", "AsyncEngine"), "is taken by enqueue"),
        (asyncpg.Pool, "got the class asyncpg.pool.Pool"),
    ],
)
def test_what_is_no_source_is_refused(given: Any, message: str) -> None:
    """The error says what was received, and how to get what is needed."""
    with pytest.raises(InvalidSettingError, match=message):
        QueueService[Any](given, "jobs")


async def test_a_connection_that_was_not_awaited_is_refused(database_url: str) -> None:
    """The error says what is missing."""
    coming = connect_later(database_url)
    with pytest.raises(InvalidSettingError, match="got coroutine; await it first"):
        QueueService[Any](coming, "jobs")
    coming.close()


async def connect_later(url: str) -> Any:
    """Connect."""
    return await asyncpg.connect(url)


@pytest.mark.parametrize("given", [5, "five", None, {"msg_id": 5}, [5]])
@pytest.mark.parametrize("method", ["acknowledge", "archive_job", "release", "acknowledge_many"])
async def test_settling_takes_jobs_only(service: Service, method: str, given: Any) -> None:
    """An id is not enough, and says so."""
    argument = [given] if method == "acknowledge_many" else given
    with pytest.raises(NotAJobError, match="expected a job"):
        await getattr(service, method)(argument)


@pytest.mark.parametrize("given", [5, "five", None, b"bytes"])
async def test_settling_many_takes_a_list(service: Service, given: Any) -> None:
    """One job, or something else, in place of the list is named."""
    with pytest.raises(InvalidJobError, match="expected a list of jobs"):
        await service.acknowledge_many(given)
    await service.enqueue({})
    job = await service.dequeue()
    with pytest.raises(InvalidJobError, match=r"expected a list of jobs.* meshhook\.jobs\.Job"):
        await service.acknowledge_many(job)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [5, "five", {5}, {"id": 5}])
async def test_replaying_takes_a_list_of_ids(pool: Pool, given: Any) -> None:
    """One id, or something else, in place of the list is named."""
    with pytest.raises(InvalidSettingError, match="ids: expected a list of whole numbers, got"):
        await DLQService(pool, "jobs").replay_multiple_jobs(given)


@pytest.mark.parametrize("given", [5, "Invoice", {"n": int}, [int]])
def test_a_payload_model_is_a_type(pool: Pool, given: Any) -> None:
    """What pydantic cannot read is refused when the service is made."""
    with pytest.raises(InvalidSettingError, match="payload_model: expected a type"):
        QueueService[Any](pool, "jobs", payload_model=given)


@pytest.mark.parametrize("given", [5, "text", b"bytes", {"n": 1}, None])
async def test_enqueuing_many_takes_a_list(
    service: Service, connection: Connection, given: Any
) -> None:
    """A text is not taken apart into letters, nor an object into its keys."""
    with pytest.raises(InvalidJobError, match="expected a list of jobs"):
        await service.enqueue_many(given)
    assert await count(connection) == 0


async def test_completing_takes_the_callers_connection_only(
    service: Service, pool: Pool, connection: Connection, database_url: str
) -> None:
    """A pool given to `job.complete` fails the attempt, and says why."""
    faults: list[BaseException] = []

    async def handler(job: Job[Any]) -> None:
        for given in (pool, None, connection):
            try:
                await job.complete(connection=given)
            except InvalidSettingError as error:
                faults.append(error)

    await service.enqueue({})
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
    texts = [str(fault) for fault in faults]
    assert [text.partition(":")[0] for text in texts[:2]] == ["connection", "connection"]
    assert "inside a transaction" in texts[2]


@pytest.mark.parametrize("given", ["pool", "none", "bytes"])
def test_a_worker_takes_a_url_only(pool: Pool, given: str) -> None:
    """It opens connections of its own, and says so of anything else."""
    url: Any = {"pool": pool, "none": None, "bytes": b"postgresql://me:secret@x/y"}[given]
    with pytest.raises(InvalidSettingError, match="the database URL is text, got ") as caught:
        Worker(url, "jobs", lambda _: None)
    assert "secret" not in str(caught.value)


async def test_functions_take_whatever_leads_to_the_database(
    pool: Pool, connection: Connection
) -> None:
    """A pool, a connection and a Database are the same to all of them."""
    for source in (pool, connection, Database(pool)):
        assert (await migrate(source)).applied == ()
        assert not await create_queue(source, "jobs")
        assert (await get_queue_config(source, "jobs")).queue == "jobs"
        assert (await set_queue_config(source, "jobs", paused=False)).queue == "jobs"
        assert (await get_queue_snapshot(source, "jobs")).queue == "jobs"
        assert [queue.queue for queue in await list_queues(source)] == ["jobs"]
        assert await list_workers(source) == []
        assert await list_queue_scaling(source) == []
        assert await DLQService(source, "jobs").list_dead_letter_jobs() == []


async def test_a_migration_costs_no_transaction_that_enqueues(
    pool: Pool, connection: Connection, expire: Callable[[], None]
) -> None:
    """Settings that were read in a transaction before are read again after a column was added."""
    service = QueueService[Any](pool, "jobs")
    async with pool.acquire() as own:
        for name in ("added", "more"):
            async with own.transaction():
                expire()
                await service.enqueue({}, connection=own)
            await connection.execute(f"alter table meshhook.queue_config add column {name} int")
        async with own.transaction():
            expire()
            await service.enqueue({}, connection=own)
    assert await count(connection) == 3
    await service.close()
