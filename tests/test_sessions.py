"""Sessions that are not worth keeping, and connections that do not answer: every call ends."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    DLQService,
    Job,
    QueueExporter,
    QueueService,
    create_queue,
    drop_queue,
    get_priority_statistics,
    get_queue_config,
    get_queue_snapshot,
    list_queue_scaling,
    list_queues,
    list_workers,
    set_queue_config,
)
from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    UncertainCommitError,
)
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook.schema import check_schema
from meshhook.statistics import job_statistics
from meshhook.tracking import find_jobs, get_job
from meshhook.worker.connections import WorkerConnection
from support.proxy import HOST, Proxy
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")


async def set_for_all(connection: Connection, setting: str, value: str | None) -> None:
    """Set what sessions of this database begin with, or set it no more."""
    name = await connection.fetchval("select current_database()")
    change = f"set {setting} = '{value}'" if value else f"reset {setting}"
    await connection.execute(f'alter database "{name}" {change}')


# --- Sessions that only read -------------------------------------------------------------------


@asynccontextmanager
async def read_only_pool(
    connection: Connection, url: str, size: int = 4
) -> AsyncIterator[asyncpg.Pool[asyncpg.Record]]:
    """A pool whose connections were opened while the server took no writes; now it does."""
    await set_for_all(connection, "default_transaction_read_only", "on")
    async with asyncpg.create_pool(url, min_size=size, max_size=size) as pool:
        await set_for_all(connection, "default_transaction_read_only", None)
        yield pool


WRITES: dict[str, Callable[[Pool], Awaitable[object]]] = {
    "enqueue": lambda pool: QueueService(pool, "jobs").enqueue({}),
    "enqueue_many": lambda pool: QueueService(pool, "jobs").enqueue_many([{}]),
    "a large enqueue_many": lambda pool: QueueService(pool, "jobs").enqueue_many([{}] * 1_001),
    "dequeue": lambda pool: QueueService(pool, "jobs").dequeue(),
    "purge_queue": lambda pool: QueueService(pool, "jobs").purge_queue(),
    "create_queue": lambda pool: create_queue(pool, "more"),
    "set_queue_config": lambda pool: set_queue_config(pool, "jobs", paused=True),
    "replay": lambda pool: DLQService(pool, "jobs").replay_multiple_jobs(),
}


@pytest.mark.parametrize("call", WRITES)
async def test_a_session_that_only_reads_is_not_kept(
    connection: Connection, database_url: str, call: str
) -> None:
    """After one refusal the whole pool is replaced: what comes next finds who takes writes."""
    async with read_only_pool(connection, database_url) as pool:
        await connection.execute("select pgmq.send('jobs_dlq', '{}')")
        with pytest.raises(DatabaseReadOnlyError):
            await WRITES[call](pool)
        await asyncio.gather(
            *(QueueService[Any](pool, "jobs").enqueue_many([{}]) for _ in range(8))
        )
        await WRITES[call](pool)


async def test_one_service_goes_on_after_a_failover(
    connection: Connection, database_url: str
) -> None:
    """The concurrent callers of the first batch are told, and those that follow are stored."""
    async with read_only_pool(connection, database_url) as pool:
        service = QueueService[Any](pool, "jobs")
        await service.get_config()  # else the first to have read them would send alone
        first = await asyncio.gather(
            *(service.enqueue({}) for _ in range(5)), return_exceptions=True
        )
        assert {type(each) for each in first} == {DatabaseReadOnlyError}
        await asyncio.gather(*(service.enqueue({}) for _ in range(20)))
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 20


async def test_a_server_that_stays_read_only_is_not_flooded(
    connection: Connection, database_url: str
) -> None:
    """While it is, each call fails with its cause; connections are replaced, not piled up."""
    await set_for_all(connection, "default_transaction_read_only", "on")
    async with asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:
        for _ in range(5):
            with pytest.raises(DatabaseReadOnlyError):
                await QueueService[Any](pool, "jobs").enqueue({})
        assert pool.get_size() <= 2
    await set_for_all(connection, "default_transaction_read_only", None)


async def test_a_statement_of_the_callers_transaction_closes_nothing(
    connection: Connection, pool: Pool
) -> None:
    """A transaction that was made read-only by its owner keeps its connection."""
    service = QueueService[Any](pool, "jobs")
    async with pool.acquire() as own:
        with pytest.raises(DatabaseReadOnlyError):
            async with own.transaction(readonly=True):
                await service.enqueue({}, connection=own)
        assert await own.fetchval("select 1") == 1


async def test_a_plan_that_does_not_fit_any_more_is_made_anew(
    connection: Connection, database_url: str
) -> None:
    """A column that a migration adds costs no call, in a transaction or out of one."""
    database = await Database.connect(database_url, min_size=1, max_size=1)
    try:
        for name in ("added", "more"):
            await set_queue_config(database, "jobs", paused=False)
            await get_queue_config(database, "jobs")
            await connection.execute(f"alter table meshhook.queue_config add column {name} int")
        config = await set_queue_config(database, "jobs", paused=True)
        assert config.paused
    finally:
        await database.close()


async def test_prepared_statements_that_were_lost_are_prepared_anew(database_url: str) -> None:
    """The call goes on with another session."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=1) as pool:
        service = QueueService[Any](pool, "jobs")
        await service.enqueue_many([{}])
        await pool.execute("deallocate all")
        assert await service.enqueue_many([{}]) == [2]


async def test_a_worker_keeps_no_session_that_lost_its_statements(database_url: str) -> None:
    """The call that found out fails with the reason; the next one has another session."""
    own = WorkerConnection(database_url, application_name="under test")
    try:
        assert await own.fetchval("select $1::int", 1) == 1
        await own.fetch("deallocate all")
        with pytest.raises(DatabaseError, match="has lost its prepared statements"):
            await own.fetchval("select $1::int", 2)
        assert await own.fetchval("select $1::int", 3) == 3
    finally:
        await own.close()


# --- The isolation that sessions begin with ----------------------------------------------------


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_our_own_sessions_read_what_is_committed(
    connection: Connection, database_url: str, level: str
) -> None:
    """Whatever the database or the role says."""
    await set_for_all(connection, "default_transaction_isolation", level)
    database = await Database.connect(database_url)
    own = await connect(database_url)
    try:
        for source in (database, own):
            found = await source.fetchval("show default_transaction_isolation")
            assert found == "read committed"
    finally:
        await own.close()
        await database.close()


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_what_another_transaction_undid_is_done_again(
    connection: Connection, database_url: str, level: str
) -> None:
    """On a caller's pool with such an isolation, changes of one row at once all succeed."""
    await set_for_all(connection, "default_transaction_isolation", level)
    async with asyncpg.create_pool(database_url, min_size=4, max_size=4) as pool:
        for _ in range(5):
            await asyncio.gather(
                *(set_queue_config(pool, "jobs", max_retry_attempts=n) for n in range(1, 5))
            )
        service = QueueService[Any](pool, "jobs")
        await service.enqueue_many([{}] * 40)
        jobs = await asyncio.gather(*(service.dequeue() for _ in range(40)))
        assert len({job.msg_id for job in jobs if job}) == 40


# --- Connections that do not answer ------------------------------------------------------------


class Stage(NamedTuple):
    """What a call has to work with."""

    pool: Pool
    service: QueueService[Any]
    job: Job[Any]
    own: Any


SILENT_WRITES: dict[str, Callable[[Stage], Awaitable[object]]] = {
    "enqueue": lambda stage: stage.service.enqueue({}),
    "enqueue_many": lambda stage: stage.service.enqueue_many([{}]),
    "a large enqueue_many": lambda stage: stage.service.enqueue_many([{}] * 1_001),
    "enqueue in a transaction": lambda stage: stage.service.enqueue({}, connection=stage.own),
    "enqueue_many in a transaction": lambda stage: stage.service.enqueue_many(
        [{}] * 1_001, connection=stage.own
    ),
    "dequeue": lambda stage: stage.service.dequeue(),
    "acknowledge": lambda stage: stage.service.acknowledge(stage.job),
    "archive_job": lambda stage: stage.service.archive_job(stage.job),
    "release": lambda stage: stage.service.release(stage.job),
    "purge_queue": lambda stage: stage.service.purge_queue(),
    "move_to_dead_letter": lambda stage: DLQService(
        stage.pool, "jobs", answer_timeout_seconds=0.1
    ).move_to_dead_letter(stage.job, "bad"),
    "replay": lambda stage: dead_letters(stage).replay_multiple_jobs(),
    "delete_dead_letter_job": lambda stage: dead_letters(stage).delete_dead_letter_job(1),
    "purge_dlq": lambda stage: dead_letters(stage).purge_dlq(),
    "create_queue": lambda stage: create_queue(hurried(stage), "more"),
    "drop_queue": lambda stage: drop_queue(hurried(stage), "jobs"),
    "set_queue_config": lambda stage: set_queue_config(hurried(stage), "jobs", paused=True),
}
SILENT_READS: dict[str, Callable[[Stage], Awaitable[object]]] = {
    "get_queue_metrics": lambda stage: stage.service.get_queue_metrics(),
    "list_dead_letter_jobs": lambda stage: dead_letters(stage).list_dead_letter_jobs(),
    "get_dlq_metrics": lambda stage: dead_letters(stage).get_dlq_metrics(),
    "get_jobs_by_error_type": lambda stage: dead_letters(stage).get_jobs_by_error_type(),
    "find_jobs": lambda stage: find_jobs(hurried(stage)),
    "get_job": lambda stage: get_job(hurried(stage), "jobs", 1),
    "job_statistics": lambda stage: job_statistics(hurried(stage)),
    "list_workers": lambda stage: list_workers(hurried(stage)),
    "list_queue_scaling": lambda stage: list_queue_scaling(hurried(stage)),
    "list_queues": lambda stage: list_queues(hurried(stage)),
    "get_queue_snapshot": lambda stage: get_queue_snapshot(hurried(stage), "jobs"),
    "get_priority_statistics": lambda stage: get_priority_statistics(hurried(stage), "jobs"),
    "get_queue_config": lambda stage: get_queue_config(hurried(stage), "jobs"),
    "check_schema": lambda stage: check_schema(hurried(stage)),
}


def hurried(stage: Stage) -> Database:
    """A Database that waits for no answer for long."""
    return Database(stage.pool, answer_timeout_seconds=0.1)


def dead_letters(stage: Stage) -> DLQService:
    """The dead letters, read by somebody in a hurry."""
    return DLQService(stage.pool, "jobs", answer_timeout_seconds=0.1)


@pytest.mark.parametrize("call", [*SILENT_WRITES, *SILENT_READS])
async def test_no_call_waits_for_a_silent_connection(
    database_url: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Every call ends after its limit, and says of a write that it may have happened."""
    monkeypatch.setattr("meshhook.postgres.database._CANCEL_TIMEOUT_SECONDS", 0.05)
    for module in (
        "administration.purges",
        "administration.snapshots",
        "dead_letters",
        "statistics",
        "store.table_locks",
    ):
        monkeypatch.setattr(f"meshhook.{module}.LONG_ANSWER_TIMEOUT_SECONDS", 0.1)
    with Proxy(database_url) as proxy:
        url = proxy.through(database_url)
        pool = await asyncpg.create_pool(url, min_size=2, max_size=2)
        own = await asyncpg.connect(url)
        try:
            service = QueueService[Any](pool, "jobs")
            await service.enqueue({})
            job = await service.dequeue()
            assert job is not None
            await own.execute("begin")
            service._database._answer_timeout_seconds = service._answer_timeout_seconds = 0.1
            proxy.swallow(new_ones=True)
            stage = Stage(pool, service, job, own)
            writes = call in SILENT_WRITES
            kind = UncertainCommitError if writes else DatabaseUnavailableError
            with pytest.raises(kind, match="no answer in time"):
                await asyncio.wait_for((SILENT_WRITES | SILENT_READS)[call](stage), 60)
        finally:
            own.terminate()
            pool.terminate()


def test_a_proxy_that_ends_closes_what_it_has_just_taken() -> None:
    """What it left open would be told as a fault of a later test."""
    for _ in range(20):
        with Proxy(1) as proxy, ExitStack() as clients:
            for _ in range(50):
                client = clients.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex((HOST, proxy.port))
    gc.collect()


async def test_completing_a_job_over_a_silent_connection_ends(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler is told that it does not know what became of the job."""
    told: list[BaseException] = []
    with Proxy(database_url) as proxy:
        url = proxy.through(database_url)
        own = await asyncpg.connect(url)

        async def handler(job: Job[Any]) -> None:
            async with own.transaction():
                proxy.swallow(new_ones=True)
                monkeypatch.setattr("meshhook.postgres.database.ANSWER_TIMEOUT_SECONDS", 0.1)
                try:
                    await job.complete(connection=own)
                except UncertainCommitError as error:
                    told.append(error)
                finally:
                    monkeypatch.undo()
                    own.terminate()
                    proxy.heal()

        await QueueService[Any](pool, "jobs").enqueue({})
        async with make_worker(database_url, handler):
            await eventually(lambda: told)
    assert "no answer in time" in str(told[0])


async def test_a_silent_connection_stops_no_reading_of_the_exporter(database_url: str) -> None:
    """It counts as a failed reading, and the next one has another connection."""
    with Proxy(database_url) as proxy:
        url = proxy.through(database_url)
        pool = await asyncpg.create_pool(url, min_size=1, max_size=1)
        database = Database(pool)
        exporter = QueueExporter(
            database, registry=CollectorRegistry(), statement_timeout_seconds=60
        )
        try:
            assert await exporter.collect()
            proxy.swallow(new_ones=True)
            # Only what is never answered may be in a hurry.
            exporter._timeout_seconds = database._answer_timeout_seconds = 0.1
            assert not await asyncio.wait_for(exporter.collect(), 60)
        finally:
            pool.terminate()


async def test_a_command_timeout_of_the_callers_comes_first(
    connection: Connection, database_url: str
) -> None:
    """Who makes a pool with a limit of its own has that one, longer or shorter."""
    async with asyncpg.create_pool(
        database_url, min_size=1, max_size=1, command_timeout=30
    ) as pool:
        database = Database(pool, answer_timeout_seconds=0.01)
        assert await database.fetchval("select pg_sleep(0.1) is not null")


@pytest.mark.parametrize("limit", [0, -1, 86_401, "5", True])
def test_a_limit_out_of_range_is_refused(pool: Pool, limit: Any) -> None:
    """The error names the argument and its range."""
    for make in (Database, QueueService, DLQService):
        with pytest.raises(InvalidSettingError, match=r"answer_timeout_seconds is 0\.001 to 86400"):
            make(pool, answer_timeout_seconds=limit)


async def test_a_statement_with_much_to_do_may_take_longer(
    pool: Pool, connection: Connection
) -> None:
    """A chunk of a purge is not held to the limit of a short statement."""
    await QueueService[Any](pool, "jobs").enqueue({})
    service = QueueService[Any](pool, "jobs", answer_timeout_seconds=2)
    await connection.execute(
        "create function slow() returns trigger language plpgsql as "
        "$$ begin perform pg_sleep(3); return old; end $$; "
        "create trigger slow before delete on pgmq.q_jobs for each row execute function slow()"
    )
    assert await service.purge_queue() == 1
