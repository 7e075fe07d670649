"""Which job an outcome is about: ids come again, and other clients count in the same columns."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService, create_queue, drop_queue, set_queue_config
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import extend_often, live, make_worker, outcomes

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


async def make_anew(pool: Pool[Any]) -> None:
    """Drop the queue and make it anew: its ids start again at 1."""
    assert await drop_queue(Database(pool), "jobs")
    assert await create_queue(Database(pool), "jobs")


async def lose(queue: QueueService[Any], connection: Connection[Any]) -> None:
    """Claim a job, and let its lease end with no outcome."""
    assert await queue.dequeue() is not None
    await connection.execute("update pgmq.q_jobs set vt = clock_timestamp() - interval '1 ms'")


async def runs(connection: Connection[Any]) -> Counter[tuple[str, str]]:
    """Return how often each run came to each outcome."""
    rows = await connection.fetch("select run_id, outcome from meshhook.job_attempts")
    return Counter((row["run_id"], row["outcome"]) for row in rows)


async def test_an_outcome_is_not_taken_for_that_of_another_job_of_the_same_id(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Jobs of a queue that was dropped end under running workers; the new ones all run."""
    go_on = asyncio.Event()
    ran: list[str | None] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.run_id)
        if str(job.run_id).startswith("old"):
            await go_on.wait()

    queue = QueueService[Any](pool, "jobs")
    old = await queue.enqueue_many([{"run_id": f"old-{n}"} for n in range(5)])
    async with make_worker(database_url, handler, concurrency=20) as worker:
        await eventually(lambda: worker.get_stats().running == 5)
        await make_anew(pool)
        new = await queue.enqueue_many([{"run_id": f"new-{n}"} for n in range(5)])
        assert new == old
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 5)
        await eventually(lambda: worker.get_stats().leases_lost == 5)
    assert sorted(map(str, ran)) == sorted(f"{age}-{n}" for age in ("old", "new") for n in range(5))
    assert await runs(connection) == {(f"new-{n}", "succeeded"): 1 for n in range(5)}


async def test_two_jobs_of_one_id_are_two_jobs_for_every_statement(
    pool: Pool[Any], connection: Connection[Any]
) -> None:
    """An outcome, a release, and a completion of the old job leave its namesake alone."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({"run_id": "old"})
    old = await queue.dequeue()
    await make_anew(pool)
    msg_id = await queue.enqueue({"run_id": "new"})
    new = await QueueService[Any](pool, "jobs").dequeue()
    assert old is not None
    assert new is not None
    assert (new.msg_id, new.attempt) == (old.msg_id, old.attempt)
    before = await live(connection)
    service = QueueService[Any](pool, "jobs")
    assert not await service.acknowledge(old)
    assert not await service.archive_job(old)
    assert not await service.release(old)
    assert await live(connection) == before
    assert await outcomes(connection, msg_id) == []
    assert await service.acknowledge(new)


async def test_the_lease_of_a_namesake_is_not_extended(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker whose queue was made anew loses its leases, and stops what runs under them."""
    extend_often(monkeypatch)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({"run_id": "old"})
    was_cancelled = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        if job.run_id == "old":
            try:
                await asyncio.Event().wait()
            finally:
                was_cancelled.set()

    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().running == 1)
        await make_anew(pool)
        await queue.enqueue({"run_id": "new"})
        await asyncio.wait_for(was_cancelled.wait(), 60)
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert await runs(connection) == {("new", "succeeded"): 1}


async def adopt(connection: Connection[Any], reads: int, messages: int = 50) -> list[int]:
    """Make a stock PGMQ queue whose messages were read before, and let MeshHook manage it."""
    await connection.execute("select pgmq.create('foreign')")
    ids = await connection.fetchval(
        "select array_agg(id) from generate_series(1, $1::int) n, "
        "lateral pgmq.send('foreign', jsonb_build_object('run_id', 'f-' || n)) id",
        messages,
    )
    for _ in range(reads):
        await connection.execute("select pgmq.read('foreign', 0, 1000)")
    await connection.execute("select meshhook.create_queue('foreign')")
    return list(ids)


@pytest.mark.parametrize("reads", [1, 5, 12])
async def test_reads_before_the_adoption_of_a_queue_are_no_attempts(
    connection: Connection[Any], database_url: str, reads: int
) -> None:
    """Messages that another consumer has read, however often, run at once and as first attempts."""
    ids = await adopt(connection, reads)
    attempts: list[int] = []

    async def handler(job: Job[Any]) -> None:
        attempts.append(job.attempt)

    async with make_worker(database_url, handler, queue_name="foreign") as worker:
        await eventually(lambda: worker.get_stats().succeeded == len(ids))
    assert attempts == [1] * len(ids)
    assert await runs(connection) == {(f"f-{n}", "succeeded"): 1 for n in range(1, 51)}


async def test_reads_by_others_while_a_worker_works_spend_no_attempts(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """At most the first of them may be taken for an attempt that was lost."""
    await set_queue_config(Database(pool), "jobs", max_retry_attempts=3)
    queue = QueueService[Any](pool, "jobs")
    msg_id = await queue.enqueue({}, delay_seconds=600)
    await connection.execute("update pgmq.q_jobs set vt = now()")
    for _ in range(7):
        await connection.execute("select pgmq.read('jobs', 0, 10)")
    attempts: list[int] = []

    async def handler(job: Job[Any]) -> None:
        attempts.append(job.attempt)
        if len(attempts) < 2:
            raise ValueError

    await set_queue_config(Database(pool), "jobs", retry_backoff_base_ms=0)
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert attempts == [2, 3]
    assert await outcomes(connection, msg_id) == [("lost", 1), ("retried", 2), ("succeeded", 3)]


@pytest.mark.parametrize("read_ct", [-5, -1, 100_000, 900_000, 2**31 - 2, 2**31 - 1])
async def test_a_number_that_somebody_wrote_costs_nothing(
    pool: Pool[Any], connection: Connection[Any], database_url: str, read_ct: int
) -> None:
    """Any `read_ct` is claimed, run and recorded in as many rows as any other."""
    queue = QueueService[Any](pool, "jobs")
    ids = await queue.enqueue_many([{"run_id": str(n)} for n in range(6)])
    await connection.execute(
        "update pgmq.q_jobs set read_ct = $1 where msg_id < $2", read_ct, ids[5]
    )

    async def handler(job: Job[Any]) -> None:
        if job.lost_attempts == 0 and job.attempt == 1 and job.run_id == "4":
            raise ValueError

    await set_queue_config(Database(pool), "jobs", retry_backoff_base_ms=0)
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 6)
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") <= 12
    assert await connection.fetchval("select max(attempt) from meshhook.job_attempts") <= 3
    assert await live(connection) == {}


async def test_a_suspect_that_was_given_back_is_the_same_attempt(
    pool: Pool[Any], connection: Connection[Any]
) -> None:
    """A lost attempt is recorded once, however often the next one is claimed and given back."""
    queue = QueueService[Any](pool, "jobs")
    msg_id = await queue.enqueue({})
    await lose(queue, connection)
    for _ in range(3):
        job = await queue.dequeue()
        assert job is not None
        assert (job.attempt, job.lost_attempts) == (2, 1)
        assert await queue.release(job)
    assert await outcomes(connection, msg_id) == [("lost", 1)]
    await lose(queue, connection)
    job = await queue.dequeue()
    assert job is not None
    assert (job.attempt, job.lost_attempts, job.settled_attempts) == (3, 2, 0)
    assert await outcomes(connection, msg_id) == [("lost", 1), ("lost", 2)]


async def test_attempts_that_an_older_worker_lost_count_on(
    pool: Pool[Any], connection: Connection[Any]
) -> None:
    """The history says which of the reads were attempts where no claim has left a mark."""
    queue = QueueService[Any](pool, "jobs")
    msg_id = await queue.enqueue({})
    await connection.execute("update pgmq.q_jobs set read_ct = 3")
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, enqueued_at, "
        "finished_at) select 'jobs', msg_id, n, 'lost', enqueued_at, now() "
        "from pgmq.q_jobs, generate_series(1, 2) n"
    )
    job = await queue.dequeue()
    assert job is not None
    assert (job.attempt, job.lost_attempts) == (4, 3)
    assert await outcomes(connection, msg_id) == [("lost", 1), ("lost", 2), ("lost", 3)]


MARKS = [
    "7",
    "[]",
    '{"read_ct": "x", "attempt": 1, "lost": 0}',
    '{"read_ct": 1e300, "attempt": 1, "lost": 0}',
    '{"read_ct": 1, "attempt": -3, "lost": 0}',
    '{"read_ct": 1.5, "attempt": 2, "lost": 0}',
    '{"read_ct": 1, "attempt": 2}',
]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("read_ct", [0, 1, 3])
async def test_nonsense_under_the_name_of_the_mark_is_no_mark(
    pool: Pool[Any], connection: Connection[Any], mark: str, read_ct: int
) -> None:
    """A message is claimed and settled whatever some other client wrote into its headers."""
    queue = QueueService[Any](pool, "jobs")
    msg_id = await queue.enqueue({})
    await connection.execute(
        "update pgmq.q_jobs set read_ct = $1, "
        "headers = jsonb_build_object('meshhook-claim', $2::jsonb)",
        read_ct,
        mark,
    )
    job = await queue.dequeue()
    assert job is not None
    assert job.attempt == (1 if read_ct == 0 else 2)
    assert await queue.acknowledge(job)
    assert (await outcomes(connection, msg_id))[-1] == ("succeeded", job.attempt)
