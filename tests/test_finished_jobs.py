"""Kept bodies of finished jobs: which are kept, for how long, and who may read them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import Done, Job, QueueService, create_queue, drop_queue, set_queue_config
from meshhook.dead_letters import DLQService
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.store.settlements import Settlement, settle
from meshhook.tracking import get_job
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

PARTITIONS = """
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'meshhook.finished_jobs'::regclass and c.relname <> 'finished_jobs_default'
    order by 1
"""
HOUSEKEEPING = ("create_attempt_partitions", "drop_expired_attempt_partitions")


async def keep(pool: Pool, days: int | None = 7, queue: str = "jobs") -> None:
    """Let a queue keep bodies."""
    await set_queue_config(pool, queue, keep_bodies_days=days)


async def kept(connection: Connection, queue: str = "jobs") -> list[tuple[int, str, str | None]]:
    """Return what is kept of a queue: ids, outcomes and bodies."""
    rows = await connection.fetch(
        "select msg_id, outcome, message::text from meshhook.finished_jobs where queue = $1 "
        "order by msg_id",
        queue,
    )
    return [tuple(row) for row in rows]


async def clean_up(connection: Connection) -> int:
    """Do what housekeeping does to the history, and return how many rows were deleted."""
    for statement in HOUSEKEEPING:
        await connection.fetch(queries.load(statement))
    return int(await connection.fetchval(queries.load("delete_expired_attempts")))


async def add_finished(connection: Connection, ages_days: list[float], queue: str = "jobs") -> None:
    """Add kept bodies of jobs that ended a while ago."""
    await connection.execute(
        "insert into meshhook.finished_jobs (queue, msg_id, enqueued_at, finished_at, outcome, "
        "message) select $1, n, now(), now() - make_interval(secs => age * 86400), 'succeeded', "
        "'{}' from unnest($2::float8[]) with ordinality as u (age, n)",
        queue,
        ages_days,
    )


async def partitions(connection: Connection) -> list[str]:
    """Return the names of the daily partitions."""
    return [row[0] for row in await connection.fetch(PARTITIONS)]


async def test_nothing_is_kept_unless_asked_for(pool: Pool, connection: Connection) -> None:
    """By default a finished job leaves its history and no body, and there are no partitions."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({"n": 1})
    job = await queue.dequeue()
    assert job is not None
    assert await queue.acknowledge(job)
    assert await kept(connection) == []
    await clean_up(connection)
    assert await partitions(connection) == []


async def test_outcomes_that_are_kept(pool: Pool, connection: Connection) -> None:
    """What succeeded or was cancelled is kept; what moved elsewhere or will be back is not."""
    await keep(pool)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue_many([{"n": n} for n in range(6)])
    jobs = [job for _ in range(5) if (job := await queue.dequeue()) is not None]
    assert await queue.acknowledge_many(jobs[:2]) == [True, True]
    assert await queue.archive_job(jobs[2])
    assert await DLQService(pool, "jobs").move_to_dead_letter(jobs[3], "broken") is not None
    assert await queue.release(jobs[4])
    assert (await queue.cancel(6)).changed == 1
    assert await kept(connection) == [
        (1, "succeeded", '{"n": 0}'),
        (2, "succeeded", '{"n": 1}'),
        (6, "cancelled", '{"n": 5}'),
    ]
    assert await connection.fetchval("select count(*) from meshhook.finished_jobs_default") == 0


async def test_every_way_to_succeed(database_url: str, pool: Pool, connection: Connection) -> None:
    """A worker keeps bodies alone, in mixed batches, with links, results and `job.complete()`."""
    await keep(pool)
    await set_queue_config(pool, "jobs", results=True)
    queue = QueueService[Any](pool, "jobs")
    ends = ["plain", "result", "unique", "complete", "group", "cancel", "die"]

    async def handle(job: Job[Any]) -> object:
        match job.payload["end"]:
            case "result":
                return Done(result=7)
            case "complete":
                async with pool.acquire() as own, own.transaction():
                    await job.complete(connection=own)
            case "cancel":
                await queue.cancel(job.msg_id)
                await asyncio.sleep(60)
            case "die":
                raise ValueError("no")
        return None

    await set_queue_config(pool, "jobs", max_retry_attempts=1)
    for end in ends:
        body = {"payload": {"end": end}}
        if end == "unique":
            await queue.enqueue(body, unique_key="u")
        elif end == "group":
            await queue.enqueue_many([body], group="g")
        else:
            await queue.enqueue(body)
    async with make_worker(database_url, handle):
        for msg_id in range(1, len(ends) + 1):
            await queue.wait(msg_id, timeout_seconds=60)
    found = [(ends[msg_id - 1], outcome) for msg_id, outcome, _ in await kept(connection)]
    assert found == [*((end, "succeeded") for end in ends[:5]), ("cancel", "cancelled")]
    await queue.close()


async def test_a_lost_lease_keeps_nothing(pool: Pool, connection: Connection) -> None:
    """An outcome that is not recorded keeps no body: the job runs again."""
    await keep(pool)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({})
    job = await queue.dequeue()
    assert job is not None
    await connection.execute("update pgmq.q_jobs set read_ct = read_ct + 1")
    assert not await queue.acknowledge(job)
    assert await kept(connection) == []


async def test_oversized_messages_are_not_kept(pool: Pool, connection: Connection) -> None:
    """Neither a body of more than 16 MiB as stored nor enormous headers; the job succeeds."""
    await keep(pool)
    await connection.execute(
        """insert into pgmq.q_jobs (vt, message, headers) values
        (now(), jsonb_build_object('a', (select string_agg(md5(n::text), '')
            from generate_series(1, 1100000) n)), null),
        (now(), '{}', jsonb_build_object('a', (select string_agg(md5(n::text), '')
            from generate_series(1, 9000) n))),
        (now(), null, null)"""
    )
    rows = await connection.fetch("select msg_id, enqueued_at from pgmq.q_jobs order by 1")
    await connection.execute("update pgmq.q_jobs set read_ct = 1")
    settlements = [
        Settlement(
            row["msg_id"], 1, row["enqueued_at"].timestamp(), 1, AttemptOutcome.SUCCEEDED, 1.0, 2.0
        )
        for row in rows
    ]
    tables = queries.QueueTables("jobs")
    done = await settle(connection, tables, "w", settlements, keeps_bodies=True)
    assert done == {0, 1, 2}
    assert await kept(connection) == [(3, "succeeded", None)]


async def test_bodies_are_moved_as_they_are_stored(pool: Pool, connection: Connection) -> None:
    """A compressed body is not compressed anew: it keeps its size and its method."""
    await keep(pool)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({"text": "abcdefgh" * 4000})
    sql = "select pg_column_compression(message), pg_column_size(message) from "
    before = await connection.fetchrow(sql + "pgmq.q_jobs")
    assert before is not None
    assert before[0] is not None
    job = await queue.dequeue()
    assert job is not None
    assert await queue.acknowledge(job)
    assert await connection.fetchrow(sql + "meshhook.finished_jobs") == before


async def test_each_queue_keeps_its_own_days(pool: Pool, connection: Connection) -> None:
    """Whole days are dropped for the queue that keeps most, rows deleted for all others."""
    await create_queue(pool, "other")
    await keep(pool, 3)
    await keep(pool, 1, "other")
    day = datetime.now(UTC).date()
    for days_ago in (1, 2, 5):
        of_day = day - timedelta(days=days_ago)
        await connection.execute(
            f"create table meshhook.finished_jobs_{of_day:%Y%m%d} partition of "
            f"meshhook.finished_jobs for values from ('{of_day} 00:00+00') to "
            f"('{of_day + timedelta(days=1)} 00:00+00')"
        )
    for queue in ("jobs", "other"):
        await add_finished(connection, [0, 2, 5], queue)
    assert await clean_up(connection) == 1, "the oldest two have gone with their day"
    assert [len(await kept(connection, queue)) for queue in ("jobs", "other")] == [2, 1]
    names = await partitions(connection)
    assert len(names) == 10
    assert names[0] == f"finished_jobs_{day - timedelta(days=2):%Y%m%d}"
    assert await clean_up(connection) == 0


async def test_turning_it_off_or_dropping_the_queue_deletes(
    pool: Pool, connection: Connection
) -> None:
    """Bodies of a queue that keeps none any more, or that is gone, are deleted by housekeeping."""
    await create_queue(pool, "gone")
    await create_queue(pool, "stays")
    for queue in ("jobs", "gone", "stays"):
        await keep(pool, 7, queue)
        await add_finished(connection, [0, 1, 2], queue)
    await keep(pool, None)
    await drop_queue(pool, "gone")
    assert await connection.fetchval("select meshhook.delete_expired_finished(4)") == 4
    assert await connection.fetchval("select meshhook.delete_expired_finished(4)") == 2
    assert await connection.fetchval("select meshhook.delete_expired_finished(4)") == 0
    assert len(await kept(connection, "stays")) == 3
    await keep(pool, None, "stays")
    before = await partitions(connection)
    await clean_up(connection)
    assert await partitions(connection) == before, "of today and coming days none go"


async def test_locked_partitions_hold_up_no_history(
    database_url: str, pool: Pool, connection: Connection
) -> None:
    """While somebody reads kept bodies, the history's partitions are still made and dropped."""
    await keep(pool)
    other = await asyncpg.connect(database_url)
    try:
        for name in await partitions(connection):
            await connection.execute(f"drop table meshhook.{name}")
        day = datetime.now(UTC).date() + timedelta(days=7)
        await connection.execute(f"drop table meshhook.job_attempts_{day:%Y%m%d}")
        transaction = other.transaction()
        await transaction.start()
        await other.execute("lock table meshhook.finished_jobs_default in access share mode")
        await clean_up(connection)
        assert await partitions(connection) == []
        assert await connection.fetchval(
            f"select to_regclass('meshhook.job_attempts_{day:%Y%m%d}')"
        )
        await transaction.rollback()
        await clean_up(connection)
        assert len(await partitions(connection)) == 8
    finally:
        await other.close()


async def test_deleting_a_job_deletes_its_body(pool: Pool, connection: Connection) -> None:
    """`delete_jobs` leaves nothing of a job, whether its history is there or not."""
    await keep(pool)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue_many([{}] * 3)
    jobs = [job for _ in range(3) if (job := await queue.dequeue()) is not None]
    await queue.acknowledge_many(jobs)
    await connection.execute("delete from meshhook.job_attempts where msg_id = 2")
    assert (await queue.delete_jobs([1, 2])).changed == 2
    assert [row[0] for row in await kept(connection)] == [3]


async def test_the_life_of_a_job_shows_its_body(pool: Pool, connection: Connection) -> None:
    """`get_job` returns the kept body, and says by id what it was replayed as and from."""
    await keep(pool)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({"n": 1})
    job = await queue.dequeue()
    assert job is not None
    await queue.acknowledge(job)
    life = await get_job(pool, "jobs", 1)
    assert (life.state, life.body, life.replayed_as_id) == ("succeeded", '{"n": 1}', None)
    await queue.replay_jobs(1)
    life = await get_job(pool, "jobs", 1)
    assert (life.state, life.replayed_as_id, life.last.msg_id) == ("succeeded", 2, 2)
    assert (life.last.state, life.last.replay_of_id) == ("ready", 1)
    job = await queue.dequeue()
    assert job is not None
    await queue.acknowledge(job)
    assert (await get_job(pool, "jobs", 2)).replay_of_id == 1


async def test_a_worker_of_before_cleans_up(pool: Pool, connection: Connection) -> None:
    """The functions that older workers call know of kept bodies, too."""
    await keep(pool, 1)
    await add_finished(connection, [0, 3])
    assert await connection.fetchval("select meshhook.delete_past_attempts()") == 1
    assert len(await kept(connection)) == 1
