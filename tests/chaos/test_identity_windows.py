"""The moments in which ids of messages come again: no job takes the outcome of another."""

from __future__ import annotations

import time
from typing import Any

from meshhook import Job, QueueService
from support.chaos.counts import CLEAN
from support.chaos.gate import Gate
from support.chaos.window import Window
from support.waiting import eventually

OLD = tuple(f"old{number}" for number in range(10))
NEW = tuple(f"new{number}" for number in range(10))


async def drop_and_create(window: Window, *, lease_seconds: int = 4) -> None:
    """Make the queue anew."""
    await window.connection.execute("select meshhook.drop_queue('jobs')")
    await window.connection.execute("select meshhook.create_queue('jobs')")
    await window.set_queue(visibility_timeout_seconds=lease_seconds)
    window.observed.went_back = (0.0, time.monotonic())


async def test_a_queue_is_dropped_and_made_again_while_its_jobs_run(window: Window) -> None:
    """New jobs with the ids of running ones run too, and end with outcomes of their own."""
    gate = Gate()

    async def behave(job: Job[Any]) -> None:
        if str(job.run_id).startswith("old"):
            await gate(job)

    async with window.worker(behave, concurrency=40) as worker:
        old = await window.enqueue(*OLD)
        await eventually(lambda: gate.waiting == len(OLD))
        await drop_and_create(window)
        assert await window.enqueue(*NEW) == old
        await window.all_ended()
        gate.open()
        await eventually(lambda: worker.get_stats().running == 0)
    assert sorted(entry.run_id for entry in window.ended() if entry.run_id in NEW) == list(NEW)
    for run_id in NEW:
        assert await window.outcomes(run_id) == [(1, "succeeded")]
    assert window.counts() == CLEAN


async def test_a_queue_is_dropped_and_made_again_while_outcomes_wait(window: Window) -> None:
    """An outcome that comes late is not that of the new job with the same id."""
    gate = Gate()

    async def behave(job: Job[Any]) -> None:
        if str(job.run_id).startswith("old"):
            await gate(job)

    # Nobody looks after the leases before the outcomes are there.
    await window.set_queue(visibility_timeout_seconds=30)
    async with window.worker(behave, concurrency=40) as worker:
        await window.enqueue(*OLD)
        await eventually(lambda: gate.waiting == len(OLD))
        await drop_and_create(window, lease_seconds=30)
        async with window.connection.transaction():
            await window.enqueue(*NEW)
            # As far as ids and attempts go, the leases of the old jobs fit the new ones.
            await window.connection.execute("update pgmq.q_jobs set vt = now()")
            queue = QueueService[Any](window.connection, "jobs")
            for _ in NEW:
                assert await queue.dequeue(600) is not None
        gate.open()
        await eventually(lambda: worker.get_stats().running == 0)
        await eventually(lambda: window.unsettled() == 0)
        assert await window.connection.fetchval("select count(*) from pgmq.q_jobs") == len(NEW)
        await window.connection.execute("update pgmq.q_jobs set vt = now()")
        await window.all_ended()
    for run_id in NEW:
        assert await window.outcomes(run_id) == [(1, "lost"), (2, "succeeded")]
    assert window.counts() == CLEAN
