"""Slots that end under their jobs: noticed, counted, replaced, and their jobs accounted for."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Job, QueueService, create_queue
from meshhook.postgres.database import Database
from meshhook.worker.attempt_runner import AttemptRunner
from meshhook.worker.worker import Worker
from support.waiting import eventually
from support.workers import make_worker, outcomes

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection

own_task = asyncio.current_task


async def cancels_and_waits() -> None:
    """Cancel the own task, and wait: the cancellation strikes at once."""
    task = own_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def cancels_and_returns() -> None:
    """Cancel the own task, and end: the cancellation strikes where the slot waits next."""
    task = own_task()
    assert task is not None
    task.cancel()


async def cancels_and_swallows() -> None:
    """Cancel the own task, and go on."""
    task = own_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        await asyncio.sleep(0)


async def cancels_and_takes_it_back() -> None:
    """Cancel the own task, and withdraw the request; Python 3.11 cancels it all the same."""
    task = own_task()
    assert task is not None
    task.cancel()
    task.uncancel()


async def cancels_later() -> None:
    """Let a callback cancel the own task after the job has ended."""
    task = own_task()
    assert task is not None
    asyncio.get_running_loop().call_soon(task.cancel)


async def cancels_twice_in_a_timeout() -> None:
    """Cancel the own task within a timeout that has its own idea of cancellations."""
    task = own_task()
    assert task is not None
    async with asyncio.timeout(60):
        task.cancel()
        task.cancel()
        await asyncio.sleep(0)


async def lets_its_coroutine_be_closed() -> None:
    """Let a callback close the coroutine of the own task, whose task then has nothing to run."""
    task = own_task()
    assert task is not None
    coroutine: Any = task.get_coro()
    asyncio.get_running_loop().call_soon(coroutine.close)
    await asyncio.sleep(0.001)


BAD = {
    each.__name__: each
    for each in (
        cancels_and_waits,
        cancels_and_returns,
        cancels_and_swallows,
        cancels_and_takes_it_back,
        cancels_later,
        cancels_twice_in_a_timeout,
        lets_its_coroutine_be_closed,
    )
}


def replaced(registry: CollectorRegistry) -> float:
    """Return how many slots the metrics say have been replaced."""
    value = registry.get_sample_value("meshhook_worker_slots_replaced_total", {"queue": "jobs"})
    assert value is not None
    return value


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.usefixtures("late_retries")
async def test_a_handler_that_cancels_its_own_task_costs_no_slot(
    pool: Pool[Any], connection: Connection[Any], database_url: str, bad: Any
) -> None:
    """Its attempt has an outcome, and as many jobs run at once afterwards as before."""
    together = asyncio.Barrier(4)

    async def handler(job: Job[Any]) -> None:
        if job.payload == "bad":
            await bad()
        else:
            await together.wait()

    queue = QueueService[Any](pool, "jobs")
    bad_ids = await queue.enqueue_many([{"payload": "bad"}] * 12)
    async with make_worker(database_url, handler, concurrency=4) as worker:
        await eventually(lambda: worker.get_stats().processed >= 12)
        good_ids = await queue.enqueue_many([{"payload": "good"}] * 4)
        await eventually(lambda: worker.get_stats().processed >= 16)
        assert all(check.fault is None for check in worker.liveness())
    for msg_id in bad_ids:
        [(outcome, attempt)] = await outcomes(connection, msg_id)
        assert attempt == 1
        assert outcome in {"succeeded", "retried"}
    # A request that a callback makes may strike a job that has nothing to do with it.
    strays = bad is cancels_later
    for msg_id in good_ids:
        assert await outcomes(connection, msg_id) == [("succeeded", 1)] or strays


async def test_a_slot_that_is_replaced_is_counted_and_logged(
    pool: Pool[Any], database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The metric and the log say that a handler has ended it."""
    registry = CollectorRegistry()

    async def handler(_: Job[Any]) -> None:
        await cancels_and_swallows()

    async with make_worker(database_url, handler, registry=registry) as worker:
        assert replaced(registry) == 0
        await QueueService[Any](pool, "jobs").enqueue({})
        await eventually(lambda: worker.get_stats().processed == 1)
        await eventually(lambda: replaced(registry) == 1)
    [record] = [each for each in caplog.records if "a slot has ended" in each.getMessage()]
    assert "its task was cancelled" in str(vars(record)["reason"])


async def test_a_request_to_cancel_does_not_strike_the_next_job(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Jobs that wait their turn in the slot of one that has cancelled it run in another."""

    async def handler(job: Job[Any]) -> None:
        if job.payload == "bad":
            await cancels_and_returns()
        else:
            await asyncio.sleep(0)

    ids = await QueueService[Any](pool, "jobs").enqueue_many(
        [{"payload": "bad" if n % 2 == 0 else "good"} for n in range(40)]
    )
    async with make_worker(database_url, handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().processed == 40)
    for msg_id in ids:
        assert await outcomes(connection, msg_id) == [("succeeded", 1)]


@pytest.mark.usefixtures("late_retries")
async def test_an_attempt_that_cannot_be_ended_is_a_failure_of_its_job(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the worker itself raises for a job is recorded, and the slot replaced."""
    finish = AttemptRunner.finish

    def broken(self: AttemptRunner, held: Any, attempt: Any) -> None:
        if attempt.job.payload == "bad":
            raise ZeroDivisionError
        finish(self, held, attempt)

    monkeypatch.setattr(AttemptRunner, "finish", broken)

    async def handler(_: Job[Any]) -> None:
        """Do nothing."""

    registry = CollectorRegistry()
    queue = QueueService[Any](pool, "jobs")
    bad = await queue.enqueue({"payload": "bad"})
    async with make_worker(database_url, handler, concurrency=1, registry=registry) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
        good = await queue.enqueue({"payload": "good"})
        await eventually(lambda: worker.get_stats().processed == 2)
        assert replaced(registry) == 1
    assert await outcomes(connection, bad) == [("retried", 1)]
    assert await outcomes(connection, good) == [("succeeded", 1)]
    recorded = await connection.fetchval(
        "select error_type from meshhook.job_attempts where msg_id = $1", bad
    )
    assert recorded == "SlotEndedError"


@pytest.mark.usefixtures("late_retries")
async def test_slots_shared_by_queues_are_replaced(pool: Pool[Any], database_url: str) -> None:
    """A queue whose handler ends slots leaves the other queue's share as it was."""
    await create_queue(Database(pool), "other")
    together = asyncio.Barrier(3)

    async def bad(_: Job[Any]) -> None:
        await cancels_and_waits()

    async def good(_: Job[Any]) -> None:
        await together.wait()

    worker = Worker(
        database_url,
        ["jobs", "other"],
        {"jobs": bad, "other": good},
        concurrency=3,
        registry=CollectorRegistry(),
    )
    async with worker:
        await QueueService[Any](pool, "jobs").enqueue_many([{}] * 9)
        await eventually(lambda: worker.get_stats("jobs").retried == 9)
        await QueueService[Any](pool, "other").enqueue_many([{}] * 3)
        await eventually(lambda: worker.get_stats("other").succeeded == 3)


async def test_slots_that_do_not_start_jobs_fail_the_liveness(
    pool: Pool[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While jobs wait and no free slot takes one, the loop that watches the slots stands still."""
    monkeypatch.setattr("meshhook.worker.executor.WATCH_SECONDS", 0.02)

    async def handler(_: Job[Any]) -> None:
        """Never reached."""

    worker = make_worker(database_url, handler, grace_seconds=0)
    async with worker:
        assert worker._parts is not None
        held_jobs = worker._parts.lanes[0].held_jobs
        monkeypatch.setattr(held_jobs.slots, "wake", lambda _: None)
        await QueueService[Any](pool, "jobs").enqueue({})
        await eventually(lambda: held_jobs.unstarted == 1)
        worker._parts.lanes[0].loops[2].stall_seconds = 0.5
        await eventually(
            lambda: any(
                check.name == "jobs slots" and check.fault is not None
                for check in worker.liveness()
            )
        )
