"""What a worker's metrics say while it works."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
from prometheus_client import REGISTRY, CollectorRegistry

from meshhook import Job, QueueService, RetryAfter, set_queue_config
from meshhook.observability.loops import WatchedLoop
from meshhook.observability.metrics import METRICS, Source
from meshhook.observability.metrics.label_values import LOOPS, OUTCOMES
from meshhook.observability.worker_metrics import WorkerGauges, WorkerMetrics
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import make_worker

Pool = asyncpg.Pool


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """Return the value of a worker's series of queue `jobs`, None if there is no such series."""
    return registry.get_sample_value(f"meshhook_worker_{name}", {"queue": "jobs", **labels})


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


def test_every_series_is_there_from_the_start() -> None:
    """A worker that has done nothing yet exports all its families, and outcomes at zero."""
    registry = CollectorRegistry()
    WorkerMetrics("jobs", registry)
    families = {family.name for family in registry.collect() if family.samples}
    expected = {
        name.removesuffix("_total") for name, m in METRICS.items() if Source.WORKER in m.sources
    }
    # A loop that does not run has no last turn; producers have a registry of their own; priorities
    # have series from the first job of a queue that has them.
    assert expected - families == {
        "meshhook_worker_last_loop_age_seconds",
        "meshhook_worker_priority_late",
        "meshhook_worker_priority_wait_seconds",
        "meshhook_producer_messages",
    }
    assert all(value(registry, "messages_total", outcome=o) == 0 for o in OUTCOMES)
    assert value(registry, "errors_total", error_type="_OTHER") == 0


def test_error_types_beyond_twenty_are_other() -> None:
    """The first 20 error types have a series each; all others share one."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics("jobs", registry)
    for number in range(25):
        metrics.errors(f"Error{number}")
    # The cap is the queue's, however many workers there are.
    WorkerMetrics("jobs", registry).errors("Error30")
    metrics.errors("Error0", 2)
    assert value(registry, "errors_total", error_type="Error0") == 3
    assert value(registry, "errors_total", error_type="Error19") == 1
    assert value(registry, "errors_total", error_type="Error20") is None
    assert value(registry, "errors_total", error_type="_OTHER") == 6


def test_gauges_of_two_workers_are_added_up() -> None:
    """Two workers of a queue in one process: counts add up, the oldest turn and wait count."""
    registry = CollectorRegistry()
    metrics = WorkerMetrics("jobs", registry)
    now = [100.0]
    old = WatchedLoop("claimer", clock=lambda: now[0])
    now[0] = 107.0
    new = WatchedLoop("claimer", clock=lambda: now[0])
    gauges = [
        WorkerGauges(
            inflight=lambda: 3,
            running=lambda: 2,
            limit=lambda: 10,
            unsettled=lambda: 1,
            oldest_unsettled_seconds=lambda waited=waited: waited,  # type: ignore[misc]
            is_connected=lambda connected=connected: connected,  # type: ignore[misc]
            is_draining=lambda: False,
            is_cordoned=lambda: False,
            loops=(loop,),
        )
        for loop, connected, waited in ((old, True, 3.0), (new, False, 41.0))
    ]
    for each in gauges:
        metrics.attach(each)
    assert value(registry, "inflight_messages") == 6
    assert value(registry, "concurrency_limit") == 20
    assert value(registry, "db_connected") == 0
    assert value(registry, "oldest_unsettled_seconds") == 41
    age = value(registry, "last_loop_age_seconds", loop="claimer")
    assert age == old.age_seconds
    metrics.detach(gauges[1])
    assert value(registry, "inflight_messages") == 3
    assert value(registry, "db_connected") == 1
    assert value(registry, "oldest_unsettled_seconds") == 3
    metrics.detach(gauges[0])
    assert value(registry, "oldest_unsettled_seconds") == 0


async def test_outcomes_errors_and_times(
    pool: Pool[Any], queue_name: str, database_url: str
) -> None:
    """Attempts are counted by outcome and error type, with how long each waited and ran."""
    registry = CollectorRegistry()
    await set_queue_config(Database(pool), queue_name, max_retry_attempts=2)

    async def handler(job: Job[Any]) -> None:
        if job.payload == "fails":
            raise RetryAfter(0, error_type="HTTPError")

    before = REGISTRY.get_sample_value("meshhook_producer_messages_total", {"queue": queue_name})
    queue = QueueService[Any](pool, queue_name)
    await queue.enqueue_many([{"payload": "works"}] * 3 + [{"payload": "fails"}])
    async with make_worker(database_url, handler, registry=registry) as worker:
        await eventually(lambda: worker.get_stats().processed == 5)
    assert value(registry, "messages_total", outcome="succeeded") == 3
    assert value(registry, "messages_total", outcome="retried") == 1
    assert value(registry, "messages_total", outcome="dead_lettered") == 1
    assert value(registry, "errors_total", error_type="HTTPError") == 2
    assert value(registry, "message_duration_seconds_count") == 5
    assert value(registry, "message_wait_seconds_count") == 5
    assert value(registry, "message_age_seconds_count") == 4
    after = REGISTRY.get_sample_value("meshhook_producer_messages_total", {"queue": queue_name})
    assert (after or 0) - (before or 0) == 4


async def test_operations_of_an_idle_worker(queue_name: str, database_url: str) -> None:
    """An idle worker's claims are counted as empty, and its loops turn."""
    registry = CollectorRegistry()
    async with make_worker(database_url, nothing, registry=registry):
        await eventually(lambda: (value(registry, "empty_claims_total") or 0) > 1)
        claims = value(
            registry, "operation_duration_seconds_count", operation="claim", outcome="ok"
        )
        assert claims is not None
        assert claims > 1
        assert value(registry, "claim_batch_messages_count") == 0
        assert value(registry, "db_connected") == 1
        assert value(registry, "concurrency_limit") == 50
        for loop in LOOPS:
            assert value(registry, "last_loop_age_seconds", loop=loop) is not None
    assert value(registry, "last_loop_age_seconds", loop="claimer") is None
    assert value(registry, "concurrency_limit") == 0


async def test_gauges_while_jobs_run_and_drain(
    pool: Pool[Any], queue_name: str, database_url: str
) -> None:
    """Running handlers, held leases and draining are seen while they last."""
    registry = CollectorRegistry()
    go = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        await go.wait()

    await QueueService[Any](pool, queue_name).enqueue_many([{"payload": n} for n in range(3)])
    worker = make_worker(database_url, handler, registry=registry, concurrency=2)
    await worker.start()
    await eventually(lambda: value(registry, "running_messages") == 2)
    assert (value(registry, "inflight_messages") or 0) >= 2
    assert value(registry, "draining") == 0
    stopping = asyncio.create_task(worker.stop())
    await eventually(lambda: value(registry, "draining") == 1)
    go.set()
    await stopping
    assert value(registry, "running_messages") == 0
    assert value(registry, "inflight_messages") == 0


async def test_an_outcome_that_waits_to_be_recorded_is_seen(
    pool: Pool[Any], connection: asyncpg.Connection[Any], queue_name: str, database_url: str
) -> None:
    """While a transaction has a message locked, the wait of its outcome grows; then it is zero."""
    registry = CollectorRegistry()
    go = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        await go.wait()

    def waited_seconds() -> float:
        return value(registry, "oldest_unsettled_seconds") or 0.0

    await QueueService[Any](pool, queue_name).enqueue({})
    async with make_worker(database_url, handler, registry=registry):
        await eventually(lambda: value(registry, "running_messages") == 1)
        assert value(registry, "oldest_unsettled_seconds") == 0
        async with connection.transaction():
            await connection.execute("select from pgmq.q_jobs for update")
            go.set()
            await eventually(lambda: waited_seconds() > 0)
            first = waited_seconds()
            await eventually(lambda: waited_seconds() > first + 1)
            assert value(registry, "unsettled_messages") == 1
        await eventually(lambda: waited_seconds() == 0)
        assert value(registry, "messages_total", outcome="succeeded") == 1


async def test_a_refused_claim_is_an_error(
    pool: Pool[Any], queue_name: str, database_url: str
) -> None:
    """A claim that the server refuses is timed as an error."""
    registry = CollectorRegistry()
    async with make_worker(database_url, nothing, registry=registry):
        await pool.execute("alter table pgmq.q_jobs rename to q_jobs_away")
        await eventually(
            lambda: value(
                registry, "operation_duration_seconds_count", operation="claim", outcome="error"
            )
        )
        await pool.execute("alter table pgmq.q_jobs_away rename to q_jobs")


async def test_an_attempt_is_lost_once(pool: Pool[Any], queue_name: str, database_url: str) -> None:
    """What an earlier claim has recorded as lost is not counted again at the next one."""
    registry = CollectorRegistry()
    queue = QueueService[Any](pool, queue_name)
    msg_id = await queue.enqueue({})
    for _ in range(2):
        assert await queue.dequeue() is not None
        await pool.execute("update pgmq.q_jobs set vt = clock_timestamp() - interval '1 ms'")
    async with make_worker(database_url, nothing, registry=registry) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
    lost = await pool.fetch(
        "select attempt from meshhook.job_attempts where msg_id = $1 and outcome = 'lost'", msg_id
    )
    assert sorted(row["attempt"] for row in lost) == [1, 2]
    assert value(registry, "messages_total", outcome="lost") == 1
