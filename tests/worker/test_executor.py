"""Running jobs in slots: when slots are made, and what they share with the event loop."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from meshhook.worker.executor import TURN_SECONDS, LoopTurns
from support.waiting import eventually
from support.workers import make_worker

pytestmark = pytest.mark.usefixtures("queue_name")


def slots() -> int:
    """Return how many slots have been made in this loop."""
    return sum(task.get_name().startswith("meshhook-slot-") for task in asyncio.all_tasks())


async def test_slots_are_made_as_they_are_needed(
    pool: asyncpg.Pool[Any], database_url: str
) -> None:
    """A worker that may run 10,000 jobs at once has no 10,000 tasks while it runs three."""
    service = QueueService[Any](pool, "jobs")
    go_on = asyncio.Event()
    running = 0

    async def handler(_: Job[Any]) -> None:
        nonlocal running
        running += 1
        await go_on.wait()

    async with make_worker(database_url, handler, concurrency=10_000) as worker:
        assert slots() == 0
        await service.enqueue_many([{"n": n} for n in range(3)])
        await eventually(lambda: running == 3)
        assert slots() == 3
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 3)
        await service.enqueue({"n": 3})
        await eventually(lambda: worker.get_stats().succeeded == 4)
        assert slots() == 3, "a slot is used again"
    assert slots() == 0


async def test_no_more_slots_than_the_concurrency(
    pool: asyncpg.Pool[Any], database_url: str
) -> None:
    """However many jobs there are."""
    service = QueueService[Any](pool, "jobs")
    most = running = 0

    async def handler(_: Job[Any]) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1

    await service.enqueue_many([{"n": n} for n in range(200)])
    async with make_worker(database_url, handler, concurrency=7) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 200)
        assert slots() == 7
    assert most == 7


async def test_slots_that_never_wait_leave_the_loop_its_turns() -> None:
    """Two slots that only compute: in between, everything else of the loop runs."""
    turns = LoopTurns()
    others = 0

    async def other() -> None:
        nonlocal others
        while True:
            await asyncio.sleep(0)
            others += 1

    async def compute(until: float) -> None:
        while time.monotonic() < until:
            if time.monotonic() >= turns.ends_at:
                await turns.begin()

    task = asyncio.create_task(other(), name="other")
    until = time.monotonic() + 100 * TURN_SECONDS
    await asyncio.gather(compute(until), compute(until))
    task.cancel()
    assert others >= 5


async def test_a_slot_that_wakes_in_an_idle_loop_begins_at_once() -> None:
    """The loop has had its turn: there is nothing to wait for."""
    turns = LoopTurns()
    assert await turns.begin()
    assert not await turns.begin()
    assert await turns.begin()
