"""Outcomes that cannot be recorded at once: none is lost, counted wrongly, or in others' way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Job, QueueService
from meshhook.errors import DatabaseConflictError, DatabaseUnavailableError, UncertainCommitError
from meshhook.outcomes import AttemptOutcome
from meshhook.store import settlements
from meshhook.store.settlements import Settlement
from meshhook.worker import completer, lane
from meshhook.worker.attempt_runner import AttemptRunner
from meshhook.worker.ended_jobs import EndedJobs
from meshhook.worker.held_job import HeldJob
from support.claimed_jobs import claimed_job
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection

EXPIRE = "update pgmq.q_jobs set vt = clock_timestamp() - interval '1 ms'"


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


@pytest.mark.usefixtures("late_retries")
async def test_a_locked_message_holds_up_no_other_outcome(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A transaction that a handler left open keeps its own job's outcome waiting, and no more."""
    monkeypatch.setattr(lane, "MAX_UNSETTLED_SECONDS", 1.0)
    left_open = await asyncpg.connect(database_url)

    async def handler(job: Job[Any]) -> None:
        if job.payload == "locks":
            await left_open.execute("begin")
            await job.complete(connection=left_open)
            raise TimeoutError("the commit was not answered")

    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, handler, concurrency=20) as worker:
        locked = await queue.enqueue({"payload": "locks"})
        await eventually(lambda: worker._parts and worker._parts.lanes[0].held_jobs.unsettled == 1)
        for number in range(1, 4):
            await queue.enqueue_many([{}] * 100)
            done = 100 * number

            def are_done(done: int = done) -> bool:
                return worker.get_stats().succeeded == done

            await eventually(are_done)
        assert [check.fault for check in worker.liveness() if check.fault] == []

        def says_so() -> bool:
            return any("to be recorded" in str(check.fault) for check in worker.readiness())

        await eventually(says_so)
        await left_open.execute("rollback")
        await eventually(lambda: worker.get_stats().retried == 1)
        await eventually(lambda: all(check.fault is None for check in worker.readiness()))
    await left_open.close()
    assert await outcomes(connection, locked) == [("retried", 1)]


async def test_an_old_outcome_behind_younger_ones_is_the_oldest() -> None:
    """What was put off and is tried again stands behind younger ones, and its wait goes on."""
    ended = EndedJobs()
    assert ended.oldest_seconds == 0
    now = time.monotonic()
    for msg_id, since in ((1, now), (2, now - 60), (3, now)):
        held = HeldJob(claimed_job(), 0.0, 0.0)
        held.settlement = Settlement(msg_id, 1, 0.0, 1, AttemptOutcome.SUCCEEDED, None, 0.0)
        held.ended_at = since
        ended.put(held)
    assert ended.oldest_seconds >= 60


async def test_an_attempt_that_cannot_be_ended_has_waited_since_then(
    pool: Pool[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome of an attempt for which the worker itself raises is as old as that, no older."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    async def away(*_: Any, **__: Any) -> Any:
        raise DatabaseConflictError("not now")

    monkeypatch.setattr(AttemptRunner, "finish", broken)
    monkeypatch.setattr(completer, "settle", away)
    began_at = time.monotonic()
    worker = make_worker(database_url, nothing, grace_seconds=0)
    async with worker:
        await QueueService[Any](pool, "jobs").enqueue({})
        assert worker._parts is not None
        ended = worker._parts.lanes[0].held_jobs.ended
        await eventually(lambda: len(ended) == 1)
        assert ended.oldest_seconds <= time.monotonic() - began_at
        monkeypatch.undo()


async def test_a_table_that_is_locked_against_writes_is_waited_for(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """While an index is built, outcomes wait; afterwards they are recorded, once each."""
    queue = QueueService[Any](pool, "jobs")
    ids = await queue.enqueue_many([{}] * 50)
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        await go_on.wait()

    async with make_worker(database_url, handler, concurrency=50) as worker:
        await eventually(lambda: worker.get_stats().running == 50)
        async with connection.transaction():
            await connection.execute("lock table pgmq.q_jobs in share mode")
            go_on.set()
            assert worker._parts is not None
            ended = worker._parts.lanes[0].held_jobs.ended
            await eventually(lambda: len(ended._put_off) == 50)
        await eventually(lambda: worker.get_stats().succeeded == 50)
    for msg_id in ids:
        assert await outcomes(connection, msg_id) == [("succeeded", 1)]


async def test_a_locked_message_keeps_no_other_from_being_given_back(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A worker that stops gives back what it can lock, and leaves the rest to run out."""
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        await go_on.wait()

    queue = QueueService[Any](pool, "jobs")
    first, *others = await queue.enqueue_many([{}] * 5)
    async with make_worker(database_url, handler, grace_seconds=4) as worker:
        await eventually(lambda: worker.get_stats().running == 5)
        holder = connection.transaction()
        await holder.start()
        await connection.execute("select from pgmq.q_jobs where msg_id = $1 for update", first)
        await worker.stop()
        await holder.rollback()
    states = await live(connection)
    assert {i: states[i]["state"] for i in others} == dict.fromkeys(others, "ready")
    assert states[first]["state"] == "running"


async def test_a_completed_job_whose_answer_was_lost_is_counted_as_done(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The history says that its handler's own transaction has recorded it; so do the counts."""
    settle = settlements.settle
    lost = 0

    async def lose_answer(*arguments: Any, **options: Any) -> Any:
        nonlocal lost
        await settle(*arguments, **options)
        if not lost:
            lost += 1
            raise UncertainCommitError("the answer was lost")
        return set()

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as own, own.transaction():
            await job.complete(connection=own)

    monkeypatch.setattr(completer, "settle", lose_answer)
    registry = CollectorRegistry()
    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler, registry=registry) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
        assert (worker.get_stats().succeeded, worker.get_stats().retried) == (1, 0)
    assert lost == 1
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]
    labels = {"queue": "jobs", "outcome": "retried"}
    assert registry.get_sample_value("meshhook_worker_messages_total", labels) == 0


async def test_a_lost_attempt_is_recorded_although_the_answer_to_its_claim_was_lost(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Claiming and recording are one statement: the history has no gap whatever breaks."""
    queue = QueueService[Any](pool, "jobs")
    msg_id = await queue.enqueue({})
    for _ in range(2):
        # The second claim commits, and whoever made it never hears of it.
        assert await queue.dequeue() is not None
        await connection.execute(EXPIRE)
    async with make_worker(database_url, nothing) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert await outcomes(connection, msg_id) == [("lost", 1), ("lost", 2), ("succeeded", 3)]


async def test_an_outcome_that_waits_past_its_lease_is_recorded_and_not_run_again(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What this process claims again although it has ended here goes on under the new lease."""
    is_away = True
    settle = settlements.settle
    ran: list[int] = []

    async def away(*arguments: Any, **options: Any) -> Any:
        if is_away:
            raise DatabaseUnavailableError("away")
        return await settle(*arguments, **options)

    async def handler(job: Job[Any]) -> None:
        ran.append(job.msg_id)

    monkeypatch.setattr(completer, "settle", away)
    ids = await QueueService[Any](pool, "jobs").enqueue_many([{}] * 100)
    async with make_worker(database_url, handler, concurrency=10) as worker:
        await eventually(lambda: len(ran) == 100)
        await connection.execute(EXPIRE)

        async def are_claimed_again() -> bool:
            return {row["read_ct"] for row in (await live(connection)).values()} == {2}

        await eventually(are_claimed_again)
        is_away = False
        await eventually(lambda: worker.get_stats().succeeded == 100)
        assert worker.get_stats().leases_lost == 0
    assert sorted(ran) == ids
    assert await outcomes(connection, ids[0]) == [("lost", 1), ("succeeded", 2)]


async def test_an_outcome_keeps_its_lease_until_it_is_recorded(
    pool: Pool[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a lease is for a handler that goes on past its time, not for one that ended."""
    is_away = True
    settle = settlements.settle

    async def away(*arguments: Any, **options: Any) -> Any:
        if is_away:
            raise DatabaseUnavailableError("away")
        return await settle(*arguments, **options)

    monkeypatch.setattr(completer, "settle", away)
    async with make_worker(database_url, nothing) as worker:
        await QueueService[Any](pool, "jobs").enqueue({})
        assert worker._parts is not None
        [lane] = worker._parts.lanes
        await eventually(lambda: lane.held_jobs.unsettled == 1)
        # Long after the job's time limit.
        assert len(lane.held_jobs.leases.due(1e300, 0)) == 1
        is_away = False
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert len(lane.held_jobs.leases) == 0


async def test_a_completion_in_an_old_snapshot_says_what_to_do(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A REPEATABLE READ transaction from before the last extension fails with a way out."""
    found: list[Exception] = []

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as own:
            transaction = own.transaction(isolation="repeatable_read")
            await transaction.start()
            await own.fetchval("select count(*) from pgmq.q_jobs")
            await pool.execute("update pgmq.q_jobs set vt = vt + interval '1 s'")
            try:
                await job.complete(connection=own)
            except DatabaseConflictError as error:
                found.append(error)
            await transaction.rollback()

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
    assert len(found) == 1
    assert "READ COMMITTED" in str(found[0])
    assert "visibility_timeout_seconds" in str(found[0])
