"""Claiming: when a job became ready, as its worker tells it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from meshhook.errors import UncertainCommitError
from meshhook.store import claims
from meshhook.store.claims import EVERYTHING, Claim
from meshhook.worker import queue_claims
from meshhook.worker.producer import WAITING_SECONDS
from support.waiting import eventually
from support.workers import make_worker

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


async def waited_at(connection: Connection[Any]) -> datetime:
    """Return when a worker last found nothing and began to wait, by the database's clock."""
    moment: datetime = await connection.fetchval(
        "select to_timestamp(last_value / 1000.0) from meshhook.waiting_jobs"
    )
    return moment - timedelta(seconds=WAITING_SECONDS)


async def next_wait(connection: Connection[Any], after: datetime) -> datetime:
    """Wait until a worker begins to wait after a moment, and return when it did."""

    async def has_waited() -> bool:
        return await waited_at(connection) > after

    await eventually(has_waited)
    return await waited_at(connection)


async def test_a_producers_long_transaction_is_not_the_workers_fault(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A job that is committed long after it was written is ready from its commit on."""
    service = QueueService[Any](pool, "jobs")
    seen: dict[str, Job[Any]] = {}

    async def handler(job: Job[Any]) -> None:
        seen[job.payload] = job

    async with make_worker(database_url, handler) as worker, pool.acquire() as producer:
        await service.enqueue({"payload": "first"})
        await eventually(lambda: "first" in seen)
        async with producer.transaction():
            late_id = await service.enqueue({"payload": "late"}, connection=producer)
            written_at = await producer.fetchval(
                "select vt from pgmq.q_jobs where msg_id = $1", late_id
            )
            # The claims between these waits look for it and cannot see it.
            first = await next_wait(connection, written_at + timedelta(milliseconds=100))
            await next_wait(connection, await next_wait(connection, first))
        await eventually(lambda: "late" in seen)
        await eventually(lambda: worker.get_stats().succeeded == 2)
    late = seen["late"]
    assert late.ready_at > first > written_at
    assert late.ready_at <= late.claimed_at


async def test_a_job_that_waits_for_a_busy_worker_is_ready_all_the_while(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A visible job that nobody takes keeps the moment at which it fell due."""
    service = QueueService[Any](pool, "jobs")
    go_on = asyncio.Event()
    seen: dict[str, Job[Any]] = {}

    async def handler(job: Job[Any]) -> None:
        seen[job.payload] = job
        if job.payload == "long":
            await go_on.wait()

    async with make_worker(database_url, handler, concurrency=1):
        await service.enqueue({"payload": "first"})
        await eventually(lambda: "first" in seen)
        await next_wait(connection, seen["first"].claimed_at)
        await service.enqueue({"payload": "long"})
        await eventually(lambda: "long" in seen)
        due_id = await service.enqueue({"payload": "due"})
        due_at = await connection.fetchval("select vt from pgmq.q_jobs where msg_id = $1", due_id)
        go_on.set()
        await eventually(lambda: "due" in seen)
    assert seen["due"].ready_at == due_at


async def test_a_delayed_job_is_ready_when_it_falls_due(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """The delay that was asked for does not count as waiting."""
    service = QueueService[Any](pool, "jobs")
    seen: dict[str, Job[Any]] = {}

    async def handler(job: Job[Any]) -> None:
        seen[job.payload] = job

    async with make_worker(database_url, handler):
        await service.enqueue({"payload": "first"})
        await eventually(lambda: "first" in seen)
        async with connection.transaction():
            msg_id = await service.enqueue({"payload": "delayed"}, 0.5, connection=connection)
            due_at = await connection.fetchval(
                "select vt from pgmq.q_jobs where msg_id = $1", msg_id
            )
        await eventually(lambda: "delayed" in seen)
    assert seen["delayed"].ready_at == due_at
    assert seen["delayed"].enqueued_at < due_at <= seen["delayed"].claimed_at


async def test_a_worker_starts_above_what_it_cannot_walk_over(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New jobs run at once, and old ones in time, although a first look is never answered."""
    service = QueueService[Any](pool, "jobs")
    old = await service.enqueue({"payload": "old"})
    await connection.execute("update pgmq.q_jobs set vt = vt - interval '70 seconds'")
    gone_wrong = 0

    async def claim(*arguments: Any, **options: Any) -> Claim:
        nonlocal gone_wrong
        if options["from_vt"] == EVERYTHING and options["to_vt"] is None and gone_wrong < 2:
            gone_wrong += 1
            raise UncertainCommitError("no answer in time")
        return await claims.claim(*arguments, **options)

    monkeypatch.setattr(queue_claims, "claim", claim)
    monkeypatch.setattr("meshhook.worker.claim_window.HOPELESS_SECONDS", 0.0)
    # A machine that is slow for other reasons must not narrow the slices, or spread the sweeps.
    monkeypatch.setattr("meshhook.worker.claim_window.SLICE_SECONDS", 10.0)
    monkeypatch.setattr("meshhook.worker.claim_window.SWEEP_SHARE", 0.5)
    done: list[int] = []

    async def handler(job: Job[Any]) -> None:
        done.append(job.msg_id)

    async with make_worker(database_url, handler):
        new = await service.enqueue({"payload": "new"})
        await eventually(lambda: new in done)
        await eventually(lambda: old in done)
    assert gone_wrong >= 1
