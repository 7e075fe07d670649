"""Cancelling jobs that run: what their handlers see, and what becomes of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService, RetryAfter, Snooze
from meshhook.worker.cancellations import CancellationWatcher
from support.waiting import eventually
from support.workers import extend_often, live, make_worker, outcomes

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


@pytest.fixture
def service(pool: Pool[Any]) -> QueueService[Any]:
    """The queue `jobs`."""
    return QueueService[Any](pool, "jobs")


async def closed(connection: Connection[Any]) -> str | None:
    """Wait until the only request is closed, and return the outcome it has."""

    async def is_closed() -> bool:
        return bool(
            await connection.fetchval("select ended_at is not null from meshhook.cancellations")
        )

    await eventually(is_closed)
    outcome: str | None = await connection.fetchval("select outcome from meshhook.cancellations")
    return outcome


async def test_whoever_lost_the_lease_cancels_nothing(
    service: QueueService[Any], connection: Connection[Any], database_url: str
) -> None:
    """A worker stops what it runs; the job is somebody else's by now, and ends as they say."""
    started = asyncio.Event()
    stopped = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    msg_id = await service.enqueue({"payload": 1})
    async with make_worker(database_url, handler, concurrency=1):
        await started.wait()
        # At once claimed by another, in one transaction: the worker may not have it again.
        async with connection.transaction():
            await connection.execute("update pgmq.q_jobs set vt = now()")
            other = await QueueService[Any](connection, "jobs").dequeue()
        assert other is not None
        assert (await service.cancel(msg_id)).requested == 1
        await stopped.wait()
    assert (await live(connection)).keys() == {msg_id}
    assert await service.acknowledge(other)
    assert await outcomes(connection, msg_id) == [("lost", 1), ("succeeded", 2)]


@pytest.mark.parametrize("pooled", [False, True], ids=["told", "polling"])
async def test_a_handler_is_stopped(
    service: QueueService[Any], connection: Connection[Any], database_url: str, pooled: bool
) -> None:
    """It sees why, and the job is settled as cancelled; also where no notification comes."""
    started = asyncio.Event()
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            seen.append(job.cancellation)
            raise

    msg_id = await service.enqueue({"payload": 1})
    async with make_worker(database_url, handler, pooled=pooled) as worker:
        await started.wait()
        done = await service.cancel(msg_id, reason="withdrawn", requested_by="ann")
        assert done.requested == 1
        await eventually(lambda: worker.get_stats().processed == 1)
        assert await closed(connection) == "cancelled"
    assert [(each.reason, each.requested_by) for each in seen] == [("withdrawn", "ann")]
    assert await live(connection) == {}
    rows = await connection.fetch(
        "select outcome, attempt, worker is not null as by_worker, error_message "
        "from meshhook.job_attempts"
    )
    assert [tuple(row) for row in rows] == [("cancelled", 1, True, "withdrawn")]


async def suppresses(job: Job[Any]) -> None:
    """Go on after the cancellation, and succeed."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        assert job.cancellation is not None


async def breaks(_: Job[Any]) -> None:
    """Fail while it is stopped."""
    try:
        await asyncio.sleep(60)
    finally:
        raise ValueError("no way back")


async def asks_for_a_retry(_: Job[Any]) -> object:
    """Ask for a retry when it is stopped."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return RetryAfter(0)
    return None


async def asks_for_a_snooze(_: Job[Any]) -> object:
    """Ask for a snooze when it is stopped."""
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        return Snooze(0)
    return None


@pytest.mark.parametrize(
    ("handler", "ends"),
    [
        (suppresses, ("succeeded", None)),
        (breaks, ("cancelled", "withdrawn; while it was stopped: no way back")),
        (
            asks_for_a_retry,
            ("cancelled", "withdrawn; while it was stopped: the handler asked for a retry"),
        ),
        (asks_for_a_snooze, ("cancelled", "withdrawn")),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
async def test_what_a_handler_does_about_it(
    service: QueueService[Any],
    connection: Connection[Any],
    database_url: str,
    handler: Callable[[Job[Any]], Any],
    ends: tuple[str, str | None],
) -> None:
    """What it decides for good counts; a failure, a retry or a snooze is no way out."""
    started = asyncio.Event()

    async def run(job: Job[Any]) -> object:
        started.set()
        return await handler(job)

    msg_id = await service.enqueue({"payload": 1})
    async with make_worker(database_url, run) as worker:
        await started.wait()
        await service.cancel(msg_id, reason="withdrawn")
        await eventually(lambda: worker.get_stats().processed == 1)
        assert await closed(connection) == ends[0]
    rows = await connection.fetch("select outcome, error_message from meshhook.job_attempts")
    assert [tuple(row) for row in rows] == [ends]
    assert await live(connection) == {}


async def test_a_handler_that_goes_on(
    service: QueueService[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that ignores its cancellation keeps its job and its lease until it ends."""
    started, swallowed, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.set()
        await go_on.wait()

    extend_often(monkeypatch)
    msg_id = await service.enqueue({"payload": 1})
    async with make_worker(database_url, handler) as worker:
        await started.wait()
        await service.cancel(msg_id)
        await swallowed.wait()
        before = (await live(connection))[msg_id]

        async def is_extended() -> bool:
            now = (await live(connection))[msg_id]
            return bool(now["vt"] > before["vt"] and now["state"] == "running")

        await eventually(is_extended)
        assert await connection.fetchval("select ended_at from meshhook.cancellations") is None
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 1)
        assert await closed(connection) == "succeeded"


async def test_a_plain_function_is_told(
    service: QueueService[Any], connection: Connection[Any], database_url: str
) -> None:
    """A thread cannot be stopped: it looks at the job, and what it raises then cancels it."""
    started = threading.Event()
    look = threading.Event()

    def handler(job: Job[Any]) -> None:
        started.set()
        while job.cancellation is None:
            look.wait(0.01)
        raise InterruptedError(job.cancellation.reason)

    msg_id = await service.enqueue({"payload": 1})
    async with make_worker(database_url, handler) as worker:
        await eventually(started.is_set)
        await service.cancel(msg_id, reason="withdrawn")
        await eventually(lambda: worker.get_stats().processed == 1)
        assert await closed(connection) == "cancelled"
    assert await outcomes(connection, msg_id) == [("cancelled", 1)]


async def test_a_plain_function_that_does_not_look(
    service: QueueService[Any], connection: Connection[Any], database_url: str
) -> None:
    """It runs to its end, and its outcome counts."""
    started, told = threading.Event(), threading.Event()

    def handler(job: Job[Any]) -> None:
        started.set()
        while job.cancellation is None:
            told.wait(0.01)

    msg_id = await service.enqueue({"payload": 1})
    async with make_worker(database_url, handler):
        await eventually(started.is_set)
        await service.cancel(msg_id)
        assert await closed(connection) == "succeeded"
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]


async def test_a_job_that_waits_for_a_slot(
    service: QueueService[Any], connection: Connection[Any], database_url: str
) -> None:
    """One that a worker holds and has not started never starts; the history has its run."""
    ran: list[int] = []
    go_on = asyncio.Event()
    # After many quick ones the worker claims ahead.
    jobs = [{"run_id": f"r{n}", "payload": {"n": n}} for n in range(300)]
    *_, slow, target = await service.enqueue_many(jobs)

    async def handler(job: Job[Any]) -> None:
        ran.append(job.msg_id)
        if job.msg_id == slow:
            await go_on.wait()

    async with make_worker(database_url, handler, concurrency=1) as worker:

        async def holds_both() -> bool:
            left = await live(connection)
            return left.keys() == {slow, target} and left[target]["state"] == "running"

        await eventually(holds_both)
        assert (await service.cancel(target)).requested == 1
        held_jobs = worker._parts.lanes[0].held_jobs  # type: ignore[union-attr]
        await eventually(lambda: bool(held_jobs.cancellations))
        go_on.set()
        await eventually(lambda: worker.get_stats().processed == 300)
        assert await closed(connection) == "cancelled"
    assert ran[-1] == slow
    assert await outcomes(connection, target) == [("cancelled", 1)]
    run = "select run_id from meshhook.job_attempts where msg_id = $1"
    assert await connection.fetchval(run, target) == "r299"


async def _ignores_requests(_: CancellationWatcher) -> None:
    """Stand in for a worker of an older version."""


async def test_an_older_worker(
    service: QueueService[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not know of requests: one waits until its job does, and a newer worker sees to it."""
    go_on = asyncio.Event()
    runs: list[str] = []

    async def old(_: Job[Any]) -> object:
        runs.append("old")
        await go_on.wait()
        return RetryAfter(3600)

    async def new(_: Job[Any]) -> None:
        runs.append("new")

    msg_id = await service.enqueue({"payload": 1})
    with monkeypatch.context() as patch:
        patch.setattr(CancellationWatcher, "_look", _ignores_requests)
        async with make_worker(database_url, old) as worker:
            await eventually(lambda: runs == ["old"])
            assert (await service.cancel(msg_id)).requested == 1
            go_on.set()
            await eventually(lambda: worker.get_stats().retried == 1)
    assert await outcomes(connection, msg_id) == [("retried", 1)]
    await service.run_now(msg_id)
    async with make_worker(database_url, new):
        assert await closed(connection) == "cancelled"
    assert runs == ["old"], "it does not start again"
    assert await outcomes(connection, msg_id) == [("retried", 1), ("cancelled", 1)]


async def test_after_a_crash(
    service: QueueService[Any], connection: Connection[Any], database_url: str
) -> None:
    """The worker is gone, its lease runs out: the job is cancelled, and does not run again."""
    runs: list[int] = []

    async def handler(job: Job[Any]) -> None:
        runs.append(job.attempt)

    msg_id = await service.enqueue({"payload": 1})
    await service.dequeue()
    await service.cancel(msg_id)
    await connection.execute("update pgmq.q_jobs set vt = now()")
    async with make_worker(database_url, handler):
        assert await closed(connection) == "cancelled"
    assert runs == []
    assert await outcomes(connection, msg_id) == [("cancelled", 1)]


async def test_a_completed_job(
    service: QueueService[Any],
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
) -> None:
    """A handler that has committed its completion has succeeded, whatever comes after."""
    completed = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as own, own.transaction():
            await job.complete(connection=own)
        completed.set()
        await asyncio.sleep(60)

    msg_id = await service.enqueue({"payload": 1})
    async with make_worker(database_url, handler, grace_seconds=0.1) as worker:
        await completed.wait()
        done = await service.cancel(msg_id)
        assert (done.unchanged, done.jobs[0].was) == (1, "succeeded")
        assert worker.get_stats().cancelled == 0
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]


async def test_a_locked_job_keeps_no_other_from_being_cancelled(
    service: QueueService[Any], pool: Pool[Any], connection: Connection[Any]
) -> None:
    """Of the jobs that came back to wait, those that nobody has locked are cancelled at once."""
    locked, _ = ids = await service.enqueue_many([{}] * 2)
    jobs = [await service.dequeue() for _ in ids]
    assert (await service.cancel(ids, reason="withdrawn", requested_by="ann")).requested == 2
    for job in jobs:
        assert job is not None
        await connection.execute("update pgmq.q_jobs set vt = now() where msg_id = $1", job.msg_id)
    async with connection.transaction():
        await connection.execute("select from pgmq.q_jobs where msg_id = $1 for update", locked)
        assert await pool.fetchval("select meshhook.carry_out_cancellations('jobs')") == 1
        assert (await live(pool)).keys() == {locked}
    assert await pool.fetchval("select meshhook.carry_out_cancellations('jobs')") == 1
    assert [await outcomes(connection, msg_id) for msg_id in ids] == [[("cancelled", 1)]] * 2
    who = "select distinct requested_by, reason from meshhook.cancellations"
    assert [tuple(row) for row in await connection.fetch(who)] == [("ann", "withdrawn")]
