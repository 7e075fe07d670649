"""Workers, producers, exporters and the operator's reads among hostile objects: none runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    Database,
    DeadLetter,
    DLQService,
    Job,
    QueueExporter,
    QueueService,
    RetryAfter,
    Snooze,
    create_queue,
    drop_queue,
    get_priority_statistics,
    get_queue_config,
    get_queue_snapshot,
    list_queues,
    list_workers,
    migrate,
    set_queue_config,
)
from meshhook.statistics import job_statistics
from meshhook.tracking import find_jobs, get_job
from meshhook_operator.databases.demand import DemandRequest, load, read_demand
from support.hostile_objects import Way, shadow, what_ran
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Source: TypeAlias = "asyncpg.Pool[asyncpg.Record] | Connection"

EVERYBODYS = '"$user", public'


@asynccontextmanager
async def pinned(url: str) -> AsyncIterator[Connection]:
    """A connection that finds nothing hostile, for what the test itself asks."""
    connection = await asyncpg.connect(url, server_settings={"search_path": "pg_catalog"})
    try:
        yield connection
    finally:
        await connection.close()


class Handler:
    """Ends each job as it says; with a connection for transactions of its own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._put_off: set[int] = set()

    async def __call__(self, job: Job[Any]) -> Any:
        """Work on a job."""
        match job.payload:
            case "completed":
                async with self._connection.transaction():
                    await job.complete(connection=self._connection)
            case "retried" | "snoozed" if job.msg_id not in self._put_off:
                self._put_off.add(job.msg_id)
                return RetryAfter(0.01) if job.payload == "retried" else Snooze(0.01)
            case "dead":
                return DeadLetter("no use")
            case "failed":
                raise ValueError(job.msg_id)
            case "slow":
                # Beyond a third of the lease, when it is extended.
                await asyncio.sleep(1.5)
        return None


async def test_a_worker_runs_nothing_hostile(way: Way, hostile_queues_url: str) -> None:
    """Claims, extensions, all outcomes, lost leases, housekeeping, waiting, releases, an end."""
    async with pinned(hostile_queues_url) as connection:
        await connection.execute(
            "update meshhook.queue_config set visibility_timeout_seconds = 3, "
            "max_retry_attempts = 2, retry_backoff_base_ms = 1, dlq_retention_days = 1, "
            "archive_retention_days = 1 where queue_name = 'jobs'"
        )
        payloads = ["done", "retried", "snoozed", "dead", "failed", "slow", "completed"]
        await connection.executemany(
            "insert into pgmq.q_jobs (vt, message) "
            "values (now(), pg_catalog.jsonb_build_object('payload', $1::text, 'run_id', 'r'))",
            [(payload,) for payload in payloads],
        )
        # Of a worker that died.
        await connection.execute(
            "insert into pgmq.q_jobs (vt, message, read_ct) values (now(), '{\"payload\": 1}', 1)"
        )

        async def is_empty() -> bool:
            return not await connection.fetchval("select exists (select from pgmq.q_jobs)")

        async def is_busy() -> bool:
            return bool(
                await connection.fetchval(
                    "select exists (select from pgmq.q_jobs where vt > now())"
                )
            )

        handlers = await asyncpg.connect(hostile_queues_url)
        worker = make_worker(way.url, Handler(handlers), pooled=way.is_pooled, concurrency=4)
        running = asyncio.create_task(worker.run())
        try:
            await eventually(is_empty)
            # More than it can run: the rest is given back at the end.
            await connection.execute(
                "insert into pgmq.q_jobs (vt, message) "
                'select now(), \'{"payload": "slow"}\' from generate_series(1, 40)'
            )
            await eventually(is_busy)
        finally:
            await worker.stop()
            await running
            await handlers.close()
        rows = await connection.fetch("select distinct outcome from meshhook.job_attempts")
    assert await what_ran(hostile_queues_url) == []
    outcomes = {row["outcome"] for row in rows}
    assert outcomes >= {"succeeded", "retried", "snoozed", "dead_lettered", "lost"}


async def use_all(source: Source, prepared: Connection) -> None:
    """Call what the library offers on a pool or connection of the caller's."""
    queue, dlq = QueueService[Any](source, "jobs"), DLQService(source, "jobs")
    await migrate(source)
    await queue.enqueue({"payload": 1, "run_id": "r"}, headers={"h": "1"})
    await queue.enqueue_many([{"payload": n, "workflow_id": "w"} for n in range(8)])
    await queue.enqueue({"payload": 2}, delay_seconds=60)
    jobs = [job for _ in range(6) if (job := await queue.dequeue())]
    await queue.acknowledge(jobs[0])
    await queue.release(jobs[1])
    await queue.archive_job(jobs[2])
    for job in jobs[3:]:
        await dlq.move_to_dead_letter(job, "broken", error_type="E")
    async with prepared.transaction():
        await QueueService[Any](source, "jobs").enqueue({"payload": 3}, connection=prepared)
    await queue.get_queue_metrics()
    await dlq.list_dead_letter_jobs()
    await dlq.list_dead_letter_jobs(error_type="E")
    await dlq.get_dead_letter_job(1)
    await dlq.get_dlq_metrics()
    await dlq.get_jobs_by_error_type()
    await dlq.replay_dead_letter_job(1)
    await dlq.replay_multiple_jobs(error_type="E", limit=1)
    await dlq.delete_dead_letter_job(3)
    await dlq.purge_dlq()
    await find_jobs(source)
    await find_jobs(source, run_id="r")
    await find_jobs(source, queue="jobs", state="ready", workflow_id="w")
    await find_jobs(source, queue="jobs", state="succeeded")
    await get_job(source, "jobs", jobs[0].msg_id)
    await get_job(source, "jobs", jobs[3].msg_id)
    await job_statistics(source)
    await job_statistics(source, "jobs")
    await list_workers(source)
    await list_queues(source)
    await create_queue(source, "made")
    await get_queue_config(source, "made")
    await set_queue_config(source, "made", max_retry_attempts=7)
    await get_queue_snapshot(source, "made")
    await set_queue_config(source, "made", prioritized=True)
    await get_priority_statistics(source, "made")
    await drop_queue(source, "made")
    exporter = QueueExporter(source, registry=CollectorRegistry())
    await exporter.collect()
    await queue.close()


@pytest.mark.parametrize("has_shadows", [False, True])
async def test_the_library_runs_nothing_hostile_on_a_callers_connection(
    hostile_queues_url: str, has_shadows: bool
) -> None:
    """Nor does it change the path; temporary tables of names of ours are no obstacle either."""
    callers = await asyncpg.connect(hostile_queues_url)
    other = await asyncpg.connect(hostile_queues_url)
    try:
        if has_shadows:
            await shadow(callers)
            await shadow(other)
        await use_all(callers, other)
        assert await callers.fetchval("show search_path") == EVERYBODYS
    finally:
        await callers.close()
        await other.close()
    assert await what_ran(hostile_queues_url) == []


async def test_the_library_runs_nothing_hostile_on_its_own_pool(
    way: Way, hostile_queues_url: str
) -> None:
    """Directly, with the path of everybody, and behind a pooler."""
    database = await Database.connect(way.url, pooled=way.is_pooled)
    other = await asyncpg.connect(way.url, statement_cache_size=0 if way.is_pooled else 100)
    try:
        await use_all(database, other)  # type: ignore[arg-type]  # a Database will do
    finally:
        await database.close()
        await other.close()
    assert await what_ran(hostile_queues_url) == []


async def test_the_operators_reads_run_nothing_hostile(way: Way, hostile_queues_url: str) -> None:
    """Nor do cordons, nor dropping a queue that is empty."""
    database = await Database.connect(way.url, pooled=way.is_pooled)
    try:
        requests = [DemandRequest("jobs", 30, is_waiting=True), DemandRequest("missing", 30)]
        demand = await read_demand(database, requests, waiting_seconds=5)
        assert await database.fetchval(load("cordon_workers"), "jobs", ["pod"], 30.0) == 0
        assert await database.fetchval(load("has_queue_table"), "other")
        assert await database.fetchval(load("drop_queue_if_empty"), "other")
    finally:
        await database.close()
    assert len(demand) == 2
    assert await what_ran(hostile_queues_url) == []


async def test_a_producer_in_sql_runs_nothing_hostile_of_ours(hostile_queues_url: str) -> None:
    """What fires at an insert has a path of its own, whatever that of the producer."""
    async with pinned(hostile_queues_url) as connection:
        await connection.execute("select setval('meshhook.waiting_jobs', 9000000000000)")
    producer = await asyncpg.connect(hostile_queues_url)
    heard = asyncio.Event()
    try:
        await producer.add_listener("meshhook_wake_jobs", lambda *_: heard.set())
        await producer.execute("insert into pgmq.q_jobs (vt, message) values (now(), '{}')")
        await producer.execute("update meshhook.queue_config set paused = true")
        await producer.fetch("select * from meshhook.job_tracking")
        await producer.fetch("select * from meshhook.queue_monitoring")
        await producer.fetch("select * from meshhook.job_statistics")
        await asyncio.wait_for(heard.wait(), 60)
    finally:
        await producer.close()
    assert await what_ran(hostile_queues_url) == []
