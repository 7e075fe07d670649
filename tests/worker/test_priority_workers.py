"""Workers of a queue with priorities: the most urgent first, at every moment of a job's life."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import DeadLetter, DLQService, Done, FollowUp, Job, Priority, QueueService
from meshhook.administration import set_queue_config
from meshhook.worker import urgent_load
from support.waiting import eventually
from support.workers import make_worker

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

AGED = """
    insert into pgmq.q_jobs (vt, enqueued_at, message, headers)
    select now() - interval '1 hour', now() - interval '1 hour', '"low"', '{"meshhook-priority": 3}'
    from generate_series(1, $1::int)
"""


class Gate:
    """A handler whose jobs run until they are let go."""

    def __init__(self) -> None:
        self.running: list[Job[Any]] = []
        self._gates: dict[int, asyncio.Event] = {}

    async def __call__(self, job: Job[Any]) -> None:
        """Run until let go."""
        self.running.append(job)
        self._gates[job.msg_id] = asyncio.Event()
        await self._gates[job.msg_id].wait()
        self.running.remove(job)

    @property
    def priorities(self) -> Counter[Priority]:
        """How many jobs of each priority run."""
        return Counter(job.priority for job in self.running)

    def let_go(self, *jobs: Job[Any]) -> None:
        """Let jobs end."""
        for job in jobs:
            self._gates[job.msg_id].set()


@pytest.fixture
async def prioritized(pool: Pool, queue_name: str) -> Pool:
    """A database whose queue `jobs` has priorities."""
    await set_queue_config(pool, queue_name, prioritized=True)
    return pool


async def test_an_urgent_job_starts_beside_a_flood(database_url: str, prioritized: Pool) -> None:
    """While low jobs fill all other slots and none ends, an urgent job starts in the kept one."""
    service = QueueService[Any](prioritized, "jobs")
    handler = Gate()
    await service.enqueue_many(["low"] * 200, priority="low")
    async with make_worker(database_url, handler, concurrency=4):
        await eventually(lambda: handler.priorities == {Priority.LOW: 3})
        await service.enqueue("urgent", priority="urgent")
        await eventually(lambda: handler.priorities == {Priority.LOW: 3, Priority.URGENT: 1})
        handler.let_go(*handler.running)
        await eventually(lambda: handler.priorities == {Priority.LOW: 3})


async def test_more_slots_are_kept_where_urgent_jobs_run(
    database_url: str, prioritized: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside urgent jobs that run, low ones leave two more free; they return when these end."""
    monkeypatch.setattr(urgent_load, "MEMORY_SECONDS", 0.2)
    service = QueueService[Any](prioritized, "jobs")
    handler = Gate()
    low, urgent = Priority.LOW, Priority.URGENT
    await service.enqueue_many(["urgent"] * 3, priority="urgent")
    async with make_worker(database_url, handler, concurrency=20):
        await eventually(lambda: handler.priorities == {urgent: 3})
        await service.enqueue_many(["low"] * 200, priority="low")

        def are_kept(urgent_jobs: int) -> bool:
            # Low jobs that start before the worker knows three urgent ones as the average end for
            # none of these: let others take their place.
            if handler.priorities[low] > 15:
                handler.let_go(*[job for job in handler.running if job.priority == low])
            return handler.priorities == {urgent: urgent_jobs, low: 15}

        await eventually(lambda: are_kept(3))
        await service.enqueue_many(["urgent"] * 2, priority="urgent")
        await eventually(lambda: are_kept(5))
        handler.let_go(*[job for job in handler.running if job.priority == urgent])
        await eventually(lambda: handler.priorities == {low: 19})
        handler.let_go(*handler.running)


async def test_the_next_slot_is_for_the_most_urgent(database_url: str, prioritized: Pool) -> None:
    """Without kept slots, the slot that becomes free takes the most urgent of all that wait."""
    await set_queue_config(prioritized, "jobs", urgent_slots=0)
    service = QueueService[Any](prioritized, "jobs")
    handler = Gate()
    await service.enqueue_many(["low"] * 200, priority=3)
    async with make_worker(database_url, handler, concurrency=2):
        await eventually(lambda: handler.priorities == {Priority.LOW: 2})
        await service.enqueue("normal")
        await service.enqueue("high", priority="high")
        for expected in (Priority.HIGH, Priority.NORMAL, Priority.LOW):
            before = list(handler.running)
            handler.let_go(before[0])
            await eventually(lambda: before[0] not in handler.running)  # noqa: B023 - awaited here
            await eventually(lambda: len(handler.running) == 2)
            [started] = [job for job in handler.running if job not in before]
            assert started.priority == expected
        handler.let_go(*handler.running)


async def test_an_aged_job_runs_although_urgent_ones_never_end(
    database_url: str, prioritized: Pool
) -> None:
    """Each urgent job enqueues two more; low jobs that have aged run all the same."""
    service = QueueService[Any](prioritized, "jobs")
    ended: Counter[str] = Counter()

    async def handler(job: Job[Any]) -> Done | None:
        ended[job.payload] += 1
        if job.payload == "urgent" and ended["low"] < 20:
            return Done(then=[FollowUp("jobs", "urgent", priority="urgent")] * 2)
        return None

    await prioritized.execute(AGED, 20)
    await service.enqueue_many(["urgent"] * 50, priority=Priority.URGENT)
    async with make_worker(database_url, handler, concurrency=2):
        await eventually(lambda: ended["low"] == 20)


async def test_retries_and_replays_keep_the_priority(database_url: str, prioritized: Pool) -> None:
    """A job has its priority in each attempt, as a dead letter, and after it is replayed."""
    await set_queue_config(prioritized, "jobs", max_retry_attempts=2, retry_backoff_base_ms=0)
    service = QueueService[Any](prioritized, "jobs")
    dead_letters = DLQService(prioritized, "jobs")
    seen: list[Priority] = []

    async def handler(job: Job[Any]) -> DeadLetter | None:
        seen.append(job.priority)
        if len(seen) == 1:
            raise ValueError("try again")
        return DeadLetter("broken") if len(seen) == 2 else None

    await service.enqueue("job", priority="high")
    async with make_worker(database_url, handler):
        await eventually(lambda: len(seen) == 2)

        async def died() -> bool:
            return bool(await dead_letters.list_dead_letter_jobs())

        await eventually(died)
        await dead_letters.replay_multiple_jobs()
        await eventually(lambda: len(seen) == 3)
    assert seen == [Priority.HIGH] * 3


async def test_a_running_worker_follows_the_setting(
    database_url: str, pool: Pool, queue_name: str
) -> None:
    """Priorities are turned on and off under a worker, and every job runs once."""
    service = QueueService[Any](pool, "jobs")
    ended: Counter[int] = Counter()

    async def handler(job: Job[Any]) -> None:
        ended[job.payload] += 1

    async with make_worker(database_url, handler, concurrency=4) as worker:
        for number, is_on in enumerate([False, True, False, True]):
            await set_queue_config(pool, queue_name, prioritized=is_on)
            for band in Priority:
                jobs = [number * 400 + band * 100 + n for n in range(100)]
                await service.enqueue_many(jobs, priority=band)
            await eventually(lambda: len(ended) == (number + 1) * 400)  # noqa: B023 - awaited here
        assert worker.get_stats().failed == 0
    assert set(ended.values()) == {1}
