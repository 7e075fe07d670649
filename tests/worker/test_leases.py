"""Leases: extended while a job runs, fenced when they are lost."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService, set_queue_config
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.database import Database
from meshhook.store import queries
from meshhook.store.settlements import settle
from meshhook.worker.attempt import settlement_of
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.leases import Lease
from meshhook.worker.verdicts import Verdict
from support.waiting import eventually
from support.workers import (
    extend_often,
    ledger_lines,
    live,
    make_worker,
    outcomes,
    worker_process,
)

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection

EXPIRE = (
    "update pgmq.q_jobs set vt = clock_timestamp() - interval '1 ms' where msg_id = $1 returning 1"
)


async def test_a_job_of_three_visibility_timeouts_runs_once(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """The lease is extended for as long as the job runs, and `read_ct` stays 1."""
    await set_queue_config(Database(pool), "jobs", visibility_timeout_seconds=3)
    read_counts: list[int] = []

    async def handler(job: Job[Any]) -> None:
        first_end = await connection.fetchval("select vt + interval '6 s' from pgmq.q_jobs")

        async def three_timeouts_have_passed() -> bool:
            row = (await live(connection))[job.msg_id]
            read_counts.append(row["read_ct"])
            assert row["state"] == "running"
            return bool(await connection.fetchval("select now() > $1", first_end))

        await eventually(three_timeouts_have_passed)

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as one, make_worker(database_url, handler) as two:
        await eventually(lambda: one.get_stats().processed + two.get_stats().processed == 1)
    assert set(read_counts) == {1}
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]


async def test_a_handler_that_blocks_the_event_loop_keeps_its_lease(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """A thread extends leases, so a job that blocks the event loop for long runs only once."""
    await set_queue_config(Database(pool), "jobs", visibility_timeout_seconds=3)
    msg_id = await QueueService(pool, "jobs").enqueue({"payload": {"seconds": 9}})
    ledger = tmp_path / "ledger"
    async with (
        worker_process(database_url, "blocking", ledger=ledger),
        worker_process(database_url, "blocking", ledger=ledger),
    ):

        async def is_settled() -> bool:
            return await outcomes(connection, msg_id) == [("succeeded", 1)]

        await eventually(is_settled)
    assert [line[0] for line in ledger_lines(ledger)] == ["start", "end"]


async def test_the_same_worker_takes_up_a_lease_that_ran_out(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A message that becomes visible while it runs here is not run here a second time."""
    starts: list[int] = []
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        starts.append(job.attempt)
        await go_on.wait()

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler, concurrency=5) as worker:
        await eventually(lambda: starts == [1])
        assert await connection.fetchval(EXPIRE, msg_id)

        async def is_claimed_again() -> bool:
            return bool((await live(connection))[msg_id]["read_ct"] == 2)

        await eventually(is_claimed_again)
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert starts == [1]
    assert await outcomes(connection, msg_id) == [("lost", 1), ("succeeded", 2)]


async def test_a_worker_that_lost_its_lease_changes_nothing(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """An outcome is not recorded once another worker has taken over the lease."""
    running = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        running.set()
        await go_on.wait()

    queue = QueueService[Any](pool, "jobs")
    msg_id = await queue.enqueue({})
    async with make_worker(database_url, handler, concurrency=1) as worker:
        await asyncio.wait_for(running.wait(), 60)
        await connection.execute("update pgmq.q_jobs set read_ct = read_ct + 1")
        go_on.set()
        await eventually(lambda: worker.get_stats().leases_lost == 1)
    assert worker.get_stats().processed == 0
    assert await outcomes(connection, msg_id) == []
    assert (await live(connection))[msg_id]["read_ct"] == 2


async def test_a_job_whose_lease_is_lost_is_cancelled(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When an extension finds the lease gone, the job is stopped: another may run it."""
    extend_often(monkeypatch)
    cancelled = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().running == 1)
        await connection.execute("delete from pgmq.q_jobs")
        await asyncio.wait_for(cancelled.wait(), 60)
        await eventually(lambda: worker.get_stats().running == 0)
    assert worker.get_stats().leases_lost == 1


async def test_a_job_that_is_being_settled_has_not_lost_its_lease(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An extension that finds the message gone, since its success is recorded, says nothing."""
    extend_often(monkeypatch)
    looked = asyncio.Event()
    go_on = asyncio.Event()
    leases_lost = HeldJobs.leases_lost

    def note(held_jobs: HeldJobs, lost: list[Lease]) -> int:
        count = leases_lost(held_jobs, lost)
        looked.set()
        return count

    async def nothing(_: Job[Any]) -> None:
        pass

    monkeypatch.setattr(HeldJobs, "leases_lost", note)
    async with make_worker(database_url, nothing) as worker:
        assert worker._parts is not None
        settling = worker._parts.settle_connection
        fetch = settling.fetch

        async def answer_late(sql: str, *arguments: Any, **options: Any) -> Any:
            rows = await fetch(sql, *arguments, **options)
            await go_on.wait()
            return rows

        monkeypatch.setattr(settling, "fetch", answer_late)
        await QueueService(pool, "jobs").enqueue({})
        await asyncio.wait_for(looked.wait(), 60)
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 1)
        assert worker.get_stats().leases_lost == 0
    assert await live(connection) == {}


async def test_a_long_completion_costs_no_lease(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler that completes its job in a transaction of its own may take long before and after.

    The message is locked meanwhile. The other jobs' leases are extended all the same, and the job
    is not stopped for a lease that it no longer needs.
    """
    extend_often(monkeypatch)
    queue = QueueService[Any](pool, "jobs")
    ids = await queue.enqueue_many([{"payload": "completes"}, {"payload": "neighbour"}])
    is_complete = asyncio.Event()
    ended: list[str] = []

    async def extensions(count: int) -> None:
        """Wait until the lease of the neighbour has been extended so many times."""
        vt = (await live(connection))[ids[1]]["vt"]
        for _ in range(count):

            async def is_extended(before: Any = vt) -> Any:
                now = (await live(connection))[ids[1]]["vt"]
                return now if now > before else None

            vt = await eventually(is_extended)

    async def handler(job: Job[Any]) -> None:
        if job.payload == "completes":
            async with pool.acquire() as own, own.transaction():
                await job.complete(connection=own)
                await extensions(3)
            await extensions(3)
            is_complete.set()
        else:
            await is_complete.wait()
        ended.append(job.payload)

    async with make_worker(database_url, handler, concurrency=2) as worker:
        await eventually(lambda: len(ended) == 2)
    assert worker.get_stats().leases_lost == 0
    assert sorted(ended) == ["completes", "neighbour"]
    for msg_id in ids:
        assert await outcomes(connection, msg_id) == [("succeeded", 1)]


async def test_a_completion_that_is_rolled_back_keeps_its_lease(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job is not done after all: its lease is extended as long as the handler goes on."""
    extend_often(monkeypatch)
    await set_queue_config(Database(pool), "jobs", retry_backoff_base_ms=300_000)

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as own:
            transaction = own.transaction()
            await transaction.start()
            await job.complete(connection=own)
            # Extensions come while the message is locked; nothing says when.
            await asyncio.sleep(0.5)
            await transaction.rollback()
        before = (await live(connection))[job.msg_id]["vt"]

        async def is_extended() -> bool:
            return bool((await live(connection))[job.msg_id]["vt"] > before)

        await eventually(is_extended)

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as one, make_worker(database_url, handler) as two:
        await eventually(lambda: one.get_stats().processed + two.get_stats().processed == 1)
    assert await outcomes(connection, msg_id) == [("retried", 1)]


async def test_extending_waits_for_no_lock_and_says_what_it_left(
    pool: Pool[Any], connection: Connection[Any]
) -> None:
    """A locked message is held and not extended; one that another has claimed since is not held."""
    queue = QueueService[Any](pool, "jobs")
    ids = await queue.enqueue_many([{}] * 3)
    jobs = [job for _ in ids if (job := await queue.dequeue()) is not None]
    sql = queries.load("extend", "jobs")
    before = await live(connection)
    async with connection.transaction():
        await connection.execute("select from pgmq.q_jobs where msg_id = $1 for update", ids[0])
        await pool.execute("update pgmq.q_jobs set read_ct = 2 where msg_id = $1", ids[1])
        reads = [job.read_ct for job in jobs]
        rows = await pool.fetch(
            sql, ids, reads, [job.enqueued_timestamp for job in jobs], 600.0, False
        )
    assert {row["position"]: row["is_extended"] for row in rows} == {1: False, 3: True}
    after = await live(connection)
    assert [after[i]["vt"] > before[i]["vt"] for i in ids] == [False, False, True]


async def test_a_completion_that_races_a_rescue_stays_completed(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A message settled as done is gone, whoever else was about to claim it."""
    await set_queue_config(Database(pool), "jobs", max_retry_attempts=1000)

    async def handler(job: Job[Any]) -> None:
        # Expires while the job is about to be settled: the other worker may claim it now. Not for
        # ever, or the two could take it from each other until its attempts are spent.
        if job.attempt <= 10:
            await pool.fetchval(EXPIRE, job.msg_id)

    queue = QueueService[Any](pool, "jobs")
    ids = await queue.enqueue_many([{}] * 20)
    async with (
        make_worker(database_url, handler, concurrency=1) as one,
        make_worker(database_url, handler, concurrency=1) as two,
    ):

        async def all_are_done() -> bool:
            return await live(connection) == {}

        await eventually(all_are_done)
        workers = (one.get_stats(), two.get_stats())
    done = await connection.fetch(
        "select msg_id, count(*) as n from meshhook.job_attempts "
        "where outcome = 'succeeded' group by msg_id"
    )
    assert {row["msg_id"]: row["n"] for row in done} == dict.fromkeys(ids, 1)
    assert sum(stats.succeeded for stats in workers) <= 20


async def test_extending_does_not_touch_a_job_that_waits_for_its_retry(
    pool: Pool[Any], connection: Connection[Any]
) -> None:
    """A late extension, release or second settlement of a settled attempt changes nothing."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({})
    job = await queue.dequeue()
    assert job is not None
    tables = queries.QueueTables("jobs")
    retry = settlement_of(job, Verdict(AttemptOutcome.RETRIED, delay_seconds=600), 1.0, 2.0)
    assert await settle(connection, tables, "w", [retry]) == {0}
    before = await live(connection)
    assert await settle(connection, tables, "w", [retry]) == set()
    lease = [job.msg_id], [job.read_ct], [job.enqueued_timestamp]
    assert not await connection.fetch(queries.load("extend", "jobs"), *lease, 30.0, False)
    assert not await queue.release(job)
    assert not await queue.acknowledge(job)
    assert await live(connection) == before
