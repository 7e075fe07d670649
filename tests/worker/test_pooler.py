"""Everything through a real PgBouncer in transaction mode, with fewer connections than clients."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from meshhook import Database, DLQService, Job, QueueService, set_queue_config
from meshhook.errors import InvalidSettingError, JobNotFoundError
from meshhook.postgres.connecting import connect
from meshhook.schema import available_migrations, migrate
from meshhook.worker import producer
from support.databases import Databases, server_directory
from support.pgbouncer import PgBouncer, pgbouncer
from support.waiting import eventually
from support.workers import extend_often, live, make_worker, reports

pytestmark = pytest.mark.usefixtures("queue_name")

Connection = asyncpg.Connection

POOL_SIZE = 2
LISTENING = "select pg_listening_channels()"


@pytest.fixture
def pooler(database_url: str) -> Iterator[PgBouncer]:
    """A pooler with two connections to each database."""
    with (
        server_directory() as folder,
        pgbouncer(folder, database_url, pool_size=POOL_SIZE) as running,
    ):
        yield running


@pytest.fixture
def pooled_url(pooler: PgBouncer, database_url: str) -> str:
    """The URL of `database_url` through the pooler."""
    return pooler.url(database_url)


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


async def test_producers_and_dead_letters_work_under_load(
    connection: Connection[Any], pooled_url: str
) -> None:
    """Statements of many clients take turns on two connections, and none gets another's."""
    databases = [
        await Database.connect(pooled_url, min_size=1, max_size=3, pooled=True) for _ in range(4)
    ]
    try:

        async def produce(database: Database, number: int) -> list[int]:
            async with QueueService[Any](database, "jobs") as queue:
                ids = [await queue.enqueue({"payload": number}) for _ in range(10)]
                ids += await queue.enqueue_many([{"payload": number}] * 5)
                await queue.get_queue_metrics()
                return ids

        async def bury(database: Database, number: int) -> int:
            queue, dlq = QueueService[Any](database, "jobs"), DLQService(database, "jobs")
            for _ in range(5):
                job = await queue.dequeue()
                assert job is not None
                await dlq.move_to_dead_letter(job, "broken", error_type=f"E{number}")
            return len(await dlq.list_dead_letter_jobs(limit=100))

        clients = [databases[n % 4] for n in range(16)]
        ids = await asyncio.gather(*(produce(each, n) for n, each in enumerate(clients)))
        assert len({msg_id for some in ids for msg_id in some}) == 16 * 15
        await asyncio.gather(*(bury(each, n) for n, each in enumerate(clients)))
        dlq = DLQService(databases[0], "jobs")
        assert (await dlq.get_dlq_metrics()).dead_letters == 16 * 5
        await dlq.replay_multiple_jobs(error_type="E3")
        await dlq.replay_multiple_jobs(limit=1_000)
        assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 16 * 15
    finally:
        for database in databases:
            await database.close()


async def test_workers_claim_settle_and_retry_under_load(
    connection: Connection[Any], pooled_url: str
) -> None:
    """Three workers and a producer share two connections; every job ends once."""

    async def handler(job: Job[Any]) -> None:
        if job.payload == "again" and job.attempt == 1:
            raise ValueError("again")

    database = await Database.connect(pooled_url, pooled=True)
    await set_queue_config(database, "jobs", retry_backoff_base_ms=1, retry_backoff_max_ms=10)
    async with (
        make_worker(pooled_url, handler, pooled=True, concurrency=10),
        make_worker(pooled_url, handler, pooled=True, concurrency=10),
        make_worker(pooled_url, handler, pooled=True, concurrency=10),
        QueueService[Any](database, "jobs") as queue,
    ):
        ids: list[int] = []
        for n in range(60):
            payload = "again" if n % 3 == 0 else "fine"
            ids += await queue.enqueue_many([{"payload": payload}] * 20)

        async def is_empty() -> bool:
            return await live(connection) == {}

        await eventually(is_empty, timeout=60)
        counted = await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and pid <> pg_backend_pid() and backend_type = 'client backend'"
        )
        assert counted <= POOL_SIZE
    await database.close()
    rows = await connection.fetch(
        "select msg_id, count(*) as times from meshhook.job_attempts "
        "where outcome = 'succeeded' group by msg_id"
    )
    assert {row["msg_id"]: row["times"] for row in rows} == dict.fromkeys(ids, 1)


@pytest.mark.parametrize("pooled", [True, False])
async def test_ends_are_waited_for(
    connection: Connection[Any], pooled_url: str, pooled: bool
) -> None:
    """Every end arrives, and no session is left that listens, said to be pooled or not."""
    heard_of: list[str] = []

    async def handler(job: Job[Any]) -> int:
        await asyncio.sleep(job.payload / 100)
        return int(job.payload)

    own_pool = asyncpg.create_pool(pooled_url, statement_cache_size=0, min_size=1, max_size=3)
    async with own_pool as own:
        database = await Database.connect(pooled_url, pooled=True)
        await set_queue_config(database, "jobs", results=True)
        async with (
            QueueService[Any](database if pooled else own, "jobs") as queue,
            make_worker(pooled_url, handler, pooled=True, concurrency=10),
        ):
            ids = await queue.enqueue_many([{"payload": n} for n in range(20)])
            waiting = [asyncio.create_task(queue.wait(n, timeout_seconds=30)) for n in ids]
            put_off = await queue.enqueue({"payload": 0}, delay_seconds=3600)
            cancelled = asyncio.create_task(queue.wait(put_off, timeout_seconds=30))
            purged = await queue.enqueue({"payload": 0}, delay_seconds=3600)
            lost = asyncio.create_task(queue.wait(purged, timeout_seconds=30))
            ends = await asyncio.gather(*waiting)
            await queue.cancel([put_off])
            assert (await cancelled).outcome == "cancelled"
            await queue.purge_queue()
            with pytest.raises(JobNotFoundError):
                await lost
            # Every session of the pooler, one after the other: none listens.
            async with (
                own.acquire() as one,
                own.acquire() as other,
                one.transaction(),
                other.transaction(),
            ):
                for each in (one, other):
                    heard_of += [row[0] for row in await each.fetch(LISTENING)]
        await database.close()
    assert [end.result for end in ends] == list(range(20))
    assert heard_of == []


async def test_leases_are_kept_and_given_back(
    connection: Connection[Any], pooled_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease of a job is extended again and again; a stop gives back what waits."""
    extend_often(monkeypatch)
    database = await Database.connect(pooled_url, pooled=True)
    begun: list[int] = []
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        begun.append(job.msg_id)
        await go_on.wait()

    await QueueService[Any](database, "jobs").enqueue_many([{}] * 2)
    worker = make_worker(pooled_url, handler, pooled=True, concurrency=1)
    await worker.start()
    await eventually(lambda: begun)
    ends: set[Any] = set()

    async def was_renewed_often() -> bool:
        row = (await live(connection))[begun[0]]
        assert row["read_ct"] == 1
        ends.add(row["vt"])
        return len(ends) > 3

    await eventually(was_renewed_often)
    assert (await reports(connection))["jobs"]["running"] >= 0
    stopping = asyncio.create_task(worker.stop())
    go_on.set()
    await stopping
    assert len(begun) == worker.get_stats().succeeded
    rows = await live(connection)
    assert len(rows) == 2 - len(begun)
    assert {(row["state"], row["read_ct"]) for row in rows.values()} <= {("ready", 0)}
    assert await reports(connection) == {}
    await database.close()


async def test_notifications_come_by_a_direct_connection(
    connection: Connection[Any],
    database_url: str,
    pooled_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a URL to listen on, claims go there too, and an insert is heard; no poll is needed."""
    monkeypatch.setattr(producer, "POLL_SECONDS", 600.0)
    monkeypatch.setattr(producer, "WAITING_SECONDS", 600.0)
    database = await Database.connect(pooled_url, pooled=True)
    async with make_worker(pooled_url, nothing, pooled=True, listen_url=database_url) as worker:
        assert worker._parts is not None
        parts = worker._parts
        await eventually(lambda: parts.lanes[0].producer._waiting_until)
        await QueueService[Any](database, "jobs").enqueue({})
        await eventually(lambda: worker.get_stats().succeeded == 1)
        counted = await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and application_name = 'meshhook worker jobs' and query not like '%pgbouncer%'"
        )
        assert counted == 1
    await database.close()


async def test_a_url_to_listen_on_that_leads_elsewhere_is_refused(
    databases: Databases, template: str, pooled_url: str
) -> None:
    """Claims from one database and outcomes in another would lose jobs."""
    other = databases.create(template=template)
    try:
        worker = make_worker(pooled_url, nothing, pooled=True, listen_url=other)
        with pytest.raises(InvalidSettingError, match="MESHHOOK_LISTEN_URL"):
            await worker.start()
    finally:
        databases.drop(other)


async def test_a_pooler_that_is_started_again_is_waited_for(
    connection: Connection[Any], pooler: PgBouncer, database_url: str, pooled_url: str
) -> None:
    """Running jobs are recorded, and new ones are claimed, once it is back."""
    direct = await Database.connect(database_url)
    queue = QueueService[Any](direct, "jobs")
    async with make_worker(pooled_url, nothing, pooled=True) as worker:
        await queue.enqueue({})
        await eventually(lambda: worker.get_stats().succeeded == 1)
        pooler.stop()
        await queue.enqueue({})
        pooler.start()
        await eventually(lambda: worker.get_stats().succeeded == 2, timeout=60)
    await direct.close()


@pytest.mark.usefixtures("connection")
async def test_migrations_run_through_the_pooler(
    pooler: PgBouncer, empty_database_url: str
) -> None:
    """Each is a transaction, and so is what keeps others from migrating at the same time."""
    url = pooler.url(empty_database_url)
    first, second = [
        await connect(url, application_name="meshhook migrate", pooled=True) for _ in range(2)
    ]
    try:
        one, other = await asyncio.gather(migrate(first), migrate(second))
        assert len(one.applied) + len(other.applied) == len(available_migrations())
    finally:
        await first.close()
        await second.close()
