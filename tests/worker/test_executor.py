"""Running jobs in slots: when slots are made, and what they share with the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import Any

import asyncpg
import pytest

from meshhook import Job, LeaseLostError, QueueService, create_job_handler
from meshhook.worker.executor import TURN_SECONDS, LoopTurns
from meshhook.worker.parked_slots import ParkedSlots
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
    slots = ParkedSlots(2)
    turns = LoopTurns(slots)
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
        slots.wake(1)  # as for the slot that takes its place

    task = asyncio.create_task(other(), name="other")
    until = time.monotonic() + 100 * TURN_SECONDS
    await asyncio.gather(compute(until), compute(until))
    task.cancel()
    assert others >= 5


async def test_a_slot_that_wakes_in_an_idle_loop_begins_at_once() -> None:
    """The loop has had its turn: there is nothing to wait for."""
    turns = LoopTurns(ParkedSlots(2))
    assert await turns.begin()
    assert not await turns.begin()
    assert await turns.begin()


async def test_a_turn_of_the_loop_wakes_one_slot() -> None:
    """However many wait: it runs what all of them would have run."""
    turns = LoopTurns(ParkedSlots(100))
    begun: list[bool] = []

    async def begin() -> None:
        begun.append(await turns.begin())

    waiting = [asyncio.create_task(begin(), name=f"slot-{n}") for n in range(100)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert begun == [True, False], "one has begun a turn, and one is woken after it"
    for task in waiting:
        task.cancel()


async def test_handlers_that_wait_let_the_other_slots_start(
    pool: asyncpg.Pool[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that were claimed together run together: the slot of each wakes two more."""
    # Without the look of each second, which would hide a slot that nobody wakes.
    monkeypatch.setattr("meshhook.worker.executor.WATCH_SECONDS", 3600.0)
    service = QueueService[Any](pool, "jobs")
    together = asyncio.Barrier(50)

    async def handler(_: Job[Any]) -> None:
        await together.wait()

    await service.enqueue_many([{"n": n} for n in range(150)])
    async with make_worker(database_url, handler, concurrency=50) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 150)
        # Once more, with slots that are there already and wait.
        await service.enqueue_many([{"n": n} for n in range(50)])
        await eventually(lambda: worker.get_stats().succeeded == 200)


@pytest.mark.parametrize("batch", [None, 10])
async def test_ended_jobs_leave_nothing_for_the_garbage_collector(
    pool: asyncpg.Pool[Any], database_url: str, batch: int | None
) -> None:
    """A job refers to nothing that refers to it: it is freed at once when it has ended."""

    async def handle(_: Any) -> None:
        await asyncio.sleep(0)

    def are_freed() -> bool:
        # The last attempt of each slot stays in its variables; the rest is freed when the
        # settlement has been answered. Jobs that another test of this process left are no concern.
        jobs = [each for each in gc.get_objects() if isinstance(each, Job)]
        return sum(own in str(each.body) for each in jobs) <= 4

    own = database_url.rpartition("/")[2]
    await QueueService[Any](pool, "jobs").enqueue_many([{"of": own}] * 200)
    handler = create_job_handler(handle, batch=batch)
    gc.collect()
    gc.disable()
    try:
        async with make_worker(database_url, handler, concurrency=4) as worker:
            await eventually(lambda: worker.get_stats().succeeded == 200)
            await eventually(are_freed)
    finally:
        gc.enable()


async def test_an_ended_job_is_not_completed(pool: asyncpg.Pool[Any], database_url: str) -> None:
    """Somebody else who calls `complete` after the handler has returned is told so."""
    seen: list[Job[Any]] = []

    async def handle(job: Job[Any]) -> None:
        seen.append(job)

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, create_job_handler(handle)) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
        async with pool.acquire() as connection, connection.transaction():
            with pytest.raises(LeaseLostError):
                await seen[0].complete(connection=connection)
