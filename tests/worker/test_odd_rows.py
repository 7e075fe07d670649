"""Queues and rows as other clients and administrators leave them: no worker ends of them."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from meshhook import Job, QueueService, create_queue, drop_queue, set_queue_config
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


@pytest.mark.parametrize("vt", ["-infinity", "4713-01-01 BC", "1970-01-01"])
@pytest.mark.parametrize(
    "enqueued_at", ["infinity", "-infinity", "4713-01-01 BC", "294276-12-31", "2020-01-01"]
)
async def test_a_message_of_any_time_runs(
    pool: Pool[Any], connection: Connection[Any], database_url: str, vt: str, enqueued_at: str
) -> None:
    """Times that Python has no date for are claimed, shown, measured and recorded."""
    queue = QueueService[Any](pool, "jobs")
    odd = await queue.enqueue({})
    await connection.execute(
        "update pgmq.q_jobs set vt = $1::text::timestamptz, enqueued_at = $2::text::timestamptz",
        vt,
        enqueued_at,
    )
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append((job.enqueued_at, job.ready_at, job.claimed_at, job.started_at))

    registry = CollectorRegistry()
    async with make_worker(database_url, handler, registry=registry) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
        await queue.enqueue({})
        await eventually(lambda: worker.get_stats().succeeded == 2)
    assert len(seen) == 2
    assert all(ready_at <= claimed_at for _, ready_at, claimed_at, _ in seen)
    assert await outcomes(connection, odd) == [("succeeded", 1)]
    sums = [
        line
        for line in generate_latest(registry).decode().splitlines()
        if "_sum{" in line or "_bucket{" in line
    ]
    assert sums
    assert not [line for line in sums if line.endswith(("Inf", "NaN"))]


@pytest.mark.parametrize("setting", ["keyed", "prioritized", None])
async def test_a_message_of_the_future_hides_no_later_one(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    setting: str | None,
) -> None:
    """Claims begin at what was ready last, and this was not ready later than it was claimed."""
    monkeypatch.setattr("meshhook.worker.claim_window.SWEEP_SHARE", 1e-9)
    monkeypatch.setattr("meshhook.worker.claim_window.MAX_SWEEP_INTERVAL_SECONDS", 86_400.0)
    if setting is not None:
        await set_queue_config(Database(pool), "jobs", **{setting: True})
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({})
    await connection.execute("update pgmq.q_jobs set enqueued_at = now() + interval '1 day'")

    async def nothing(_: Job[Any]) -> None:
        """Do nothing."""

    async with make_worker(database_url, nothing) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
        await queue.enqueue({})
        await eventually(lambda: worker.get_stats().succeeded == 2)


async def test_a_dropped_queue_is_named_and_taken_up_when_it_is_back(
    pool: Pool[Any], database_url: str
) -> None:
    """Readiness says that the queue is not there and how to make it, and not to migrate."""
    database = Database(pool)

    async def nothing(_: Job[Any]) -> None:
        """Do nothing."""

    async with make_worker(database_url, nothing) as worker:
        await drop_queue(database, "jobs")

        def fault() -> str:
            return " ".join(str(check.fault) for check in worker.readiness() if check.fault)

        await eventually(lambda: "meshhook queue create jobs" in fault())
        assert "migrate" not in fault()
        await create_queue(database, "jobs")
        await QueueService[Any](pool, "jobs").enqueue({})
        await eventually(lambda: worker.get_stats().succeeded == 1)
        await eventually(lambda: fault() == "")


async def test_a_busy_worker_leaves_suspects_to_an_idle_one(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """It goes on with other jobs meanwhile, and the suspect runs where nothing else does."""
    go_on = asyncio.Event()
    ran_by: dict[int, str] = {}

    def handler_of(name: str) -> Any:
        async def handler(job: Job[Any]) -> None:
            ran_by[job.msg_id] = name
            if job.payload == "long":
                await go_on.wait()

        return handler

    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, handler_of("busy"), concurrency=5) as busy:
        await queue.enqueue({"payload": "long"})
        await eventually(lambda: busy.get_stats().running == 1)
        async with connection.transaction():
            suspect = await queue.enqueue({}, connection=connection)
            await connection.execute(
                "update pgmq.q_jobs set read_ct = 1 where msg_id = $1", suspect
            )
        await eventually(lambda: busy.get_stats().released >= 1)
        await queue.enqueue_many([{}] * 10)
        await eventually(lambda: busy.get_stats().succeeded == 10)
        assert suspect not in ran_by
        async with make_worker(database_url, handler_of("idle")):

            async def is_gone() -> bool:
                return suspect not in await live(connection)

            await eventually(is_gone)
        assert ran_by[suspect] == "idle"
        go_on.set()
    assert await outcomes(connection, suspect) == [("lost", 1), ("succeeded", 2)]
