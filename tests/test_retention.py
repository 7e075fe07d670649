"""Retention: the history and the dead letters go when their time is over, and nobody waits long."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService, create_queue, set_queue_config
from meshhook.postgres.database import Database
from meshhook.store import queries
from meshhook.worker.connections import WorkerConnection
from meshhook.worker.housekeeping import Housekeeper
from support.waiting import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

PARTITIONS = """
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'meshhook.job_attempts'::regclass and c.relname <> 'job_attempts_default'
    order by 1
"""
IS_WAITING = (
    "select 1 from pg_stat_activity where datname = current_database() "
    "and wait_event_type = 'Lock' and pid <> pg_backend_pid()"
)
DROP = queries.load("drop_expired_attempt_partitions")
CREATE = queries.load("create_attempt_partitions")


def today() -> date:
    """Return the day by which partitions are named."""
    return datetime.now(UTC).date()


async def partitions(connection: Connection) -> list[str]:
    """Return the names of the daily partitions."""
    return [row["relname"] for row in await connection.fetch(PARTITIONS)]


async def add_partition(connection: Connection, days_ago: int) -> str:
    """Make the partition of a past day, and return its name."""
    day = today() - timedelta(days=days_ago)
    name = f"job_attempts_{day:%Y%m%d}"
    await connection.execute(
        f"create table meshhook.{name} partition of meshhook.job_attempts "
        f"for values from ('{day} 00:00+00') to ('{day + timedelta(days=1)} 00:00+00')"
    )
    return name


async def add_attempts(
    connection: Connection, count: int, age: timedelta, queue: str = "jobs"
) -> None:
    """Add attempts that ended a while ago."""
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select $2, n, 1, 'succeeded', clock_timestamp() - $3::interval "
        "from generate_series(1, $1::int) n",
        count,
        queue,
        age,
    )


async def attempts(connection: Connection, queue: str = "jobs") -> int:
    """Return how many attempts of a queue are kept."""
    number: int = await connection.fetchval(
        "select count(*) from meshhook.job_attempts where queue = $1", queue
    )
    return number


async def test_expired_partitions_are_dropped(connection: Connection) -> None:
    """A day's partition is dropped as a whole once no queue keeps that day."""
    kept = await partitions(connection)
    kept.insert(0, await add_partition(connection, 7))
    for days_ago in (8, 9, 30):
        await add_partition(connection, days_ago)
    await add_attempts(connection, 5, timedelta(days=9))
    assert await connection.fetchval(DROP) == 3
    assert await partitions(connection) == kept
    assert await attempts(connection) == 0
    assert await connection.fetchval(DROP) == 0


async def test_the_queue_that_keeps_most_decides(connection: Connection) -> None:
    """Queues share a partition, so it stays for the queue that keeps it longest."""
    database = Database(connection)
    await create_queue(database, "other")
    await set_queue_config(database, "other", history_retention_days=30)
    kept = await partitions(connection)
    kept = [await add_partition(connection, 30), await add_partition(connection, 10), *kept]
    await add_partition(connection, 31)
    assert await connection.fetchval(DROP) == 1
    assert await partitions(connection) == kept


async def test_expired_attempts_go_in_chunks(connection: Connection) -> None:
    """One call deletes a limited number of rows, however many have expired."""
    await add_attempts(connection, 12, timedelta(days=8))
    await add_attempts(connection, 3, timedelta(days=6))
    deleted = [
        await connection.fetchval("select meshhook.delete_expired_attempts(5)") for _ in range(4)
    ]
    assert deleted == [5, 5, 2, 0]
    assert await attempts(connection) == 3


async def test_the_last_day_that_is_kept_goes_with_its_partition(connection: Connection) -> None:
    """Attempts of the last day that is kept are not deleted one by one as they expire."""
    await add_partition(connection, 7)
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select 'jobs', n, 1, 'succeeded', (date_trunc('day', now() at time zone 'UTC') "
        "- interval '7 days' + make_interval(secs => n)) at time zone 'UTC' "
        "from unnest(array[-1, 0, 1]) n"
    )
    assert await connection.fetchval(queries.load("delete_expired_attempts")) == 1
    left = await connection.fetch("select msg_id from meshhook.job_attempts order by 1")
    assert [row["msg_id"] for row in left] == [0, 1]
    assert await connection.fetchval(DROP) == 0


async def test_each_queue_keeps_its_own_days(connection: Connection) -> None:
    """Attempts that their queue no longer keeps go, although the day's partition stays."""
    database = Database(connection)
    await create_queue(database, "other")
    await set_queue_config(database, "jobs", history_retention_days=1)
    await add_partition(connection, 3)
    for queue in ("jobs", "other"):
        await add_attempts(connection, 4, timedelta(days=3), queue)
    assert await connection.fetchval(queries.load("delete_expired_attempts")) == 4
    assert await attempts(connection, "jobs") == 0
    assert await attempts(connection, "other") == 4


@pytest.mark.parametrize("sql", [DROP, CREATE])
async def test_a_reader_is_not_waited_for_long(
    connection: Connection, pool: Pool, sql: str
) -> None:
    """While somebody reads the history, dropping and adding days gives up within a second."""
    await add_partition(connection, 9)
    newest = (await partitions(connection))[-1]
    await connection.execute(f"drop table meshhook.{newest}")
    async with pool.acquire() as reader:
        transaction = reader.transaction()
        await transaction.start()
        await reader.fetch("select from meshhook.job_attempts")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await connection.execute(sql)
        await transaction.rollback()
    assert await connection.fetchval(sql) == 1


async def test_housekeeping_comes_back_to_a_table_in_use(
    connection: Connection, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads the history for a while does not put retention off for an hour."""
    monkeypatch.setattr("meshhook.worker.housekeeping.LOCK_PAUSES_SECONDS", (0.2,) * 20)
    name = await add_partition(connection, 9)
    own = WorkerConnection(database_url, application_name="under test")
    keeping = Housekeeper(connection=own, configs={})
    try:
        async with pool.acquire() as reader, reader.transaction():
            await reader.fetch("select count(*) from meshhook.job_attempts")
            task = asyncio.create_task(keeping.keep_house())
            await eventually(lambda: connection.fetchval(IS_WAITING))
            await eventually(lambda: connection.fetch(f"{IS_WAITING} having count(*) = 0"))
        await task
    finally:
        await own.close()
    assert name not in await partitions(connection)


async def test_the_time_to_wait_for_a_lock_is_set(connection: Connection) -> None:
    """Statements that queue up behind a drop wait a second at most."""
    rows = await connection.fetch(
        "select proname, proconfig from pg_proc where pronamespace = 'meshhook'::regnamespace "
        "and proname ~ 'attempt_partitions$'"
    )
    assert len(rows) == 2
    for row in rows:
        assert "lock_timeout=1s" in row["proconfig"], row["proname"]


async def test_settling_goes_on_while_attempts_are_deleted(
    connection: Connection, pool: Pool
) -> None:
    """Deleting expired attempts locks no table, and no row that a worker writes."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue({})
    job = await service.dequeue()
    assert job is not None
    await add_attempts(connection, 10, timedelta(days=8))
    async with connection.transaction():
        assert await connection.fetchval(queries.load("delete_expired_attempts")) == 10
        assert await service.acknowledge(job)
        assert await pool.fetchval("select count(*) from meshhook.job_attempts") == 11
    assert await attempts(connection) == 1


async def wait_long_for_locks(connection: Connection, function: str) -> None:
    """Let a function wait for a lock until the test gives it back.

    Else it gives up after a second, in which a busy machine may let nobody come to an end.
    """
    await connection.execute(f"alter function meshhook.{function} set lock_timeout = '60s'")


async def test_ten_add_days_at_once(pool: Pool, connection: Connection) -> None:
    """All of ten workers that add days at the same time succeed."""
    await wait_long_for_locks(connection, "create_attempt_partitions(integer)")
    for name in (await partitions(connection))[2:]:
        await connection.execute(f"drop table meshhook.{name}")
    created = await asyncio.gather(*(pool.fetchval(CREATE) for _ in range(10)))
    assert sorted(created) == [0] * 9 + [6]
    assert len(await partitions(connection)) == 8


async def test_two_drop_the_same_day(pool: Pool, connection: Connection) -> None:
    """The second of two that drop the same day finds it gone, and does not fail."""
    await wait_long_for_locks(connection, "drop_expired_attempt_partitions()")
    await add_partition(connection, 9)
    async with pool.acquire() as first:
        transaction = first.transaction()
        await transaction.start()
        assert await first.fetchval(DROP) == 1
        second = asyncio.create_task(pool.fetchval(DROP))
        await eventually(lambda: connection.fetch(IS_WAITING))
        await transaction.commit()
        assert await second == 0


async def test_rows_before_their_partition_stay_where_they_are(connection: Connection) -> None:
    """After a week without any worker, attempts are still recorded, and no day is lost for it."""
    names = await partitions(connection)
    for name in names:
        await connection.execute(f"drop table meshhook.{name}")
    await add_attempts(connection, 3, timedelta(0))
    assert await connection.fetchval(CREATE) == len(names) - 1
    await add_attempts(connection, 2, timedelta(0))
    assert await attempts(connection) == 5
    assert await connection.fetchval("select count(*) from meshhook.job_attempts_default") == 5


async def test_expired_dead_letters_go_in_chunks(connection: Connection) -> None:
    """Dead letters are kept as long as their queue says, and those that are locked are left."""
    await connection.execute(
        "insert into pgmq.q_jobs_dlq (vt, message, enqueued_at) "
        "select now(), '{}', now() - make_interval(hours => case when n <= 8 then 49 else 47 end) "
        "from generate_series(1, 10) n"
    )
    sql = queries.load("delete_expired_dead_letters", "jobs")
    deleted = [await connection.fetchval(sql, 5, 2) for _ in range(3)]
    assert deleted == [5, 3, 0]
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 2


async def test_expired_archived_messages_go_in_chunks(connection: Connection) -> None:
    """Archived messages are kept as long as their queue says."""
    await connection.execute(
        "insert into pgmq.a_jobs (msg_id, vt, message, archived_at) select n, now(), '{}', "
        "now() - make_interval(hours => case when n <= 8 then 49 else 47 end) "
        "from generate_series(1, 10) n"
    )
    sql = queries.load("delete_expired_archived", "jobs")
    deleted = [await connection.fetchval(sql, 5, 2) for _ in range(3)]
    assert deleted == [5, 3, 0]
    assert await connection.fetchval("select count(*) from pgmq.a_jobs") == 2


@pytest.mark.parametrize(("days", "left"), [(None, 2), (30, 1)])
async def test_a_worker_keeps_archives_in_bounds(
    pool: Pool, connection: Connection, database_url: str, days: int | None, left: int
) -> None:
    """An archive grows for ever only if its queue says so."""
    config = await set_queue_config(Database(pool), "jobs", archive_retention_days=days)
    await connection.execute(
        "insert into pgmq.a_jobs (msg_id, vt, message, archived_at) "
        "values (1, now(), '{}', now() - interval '31 days'), (2, now(), '{}', now())"
    )
    own = WorkerConnection(database_url, application_name="under test")
    try:
        tables = queries.QueueTables("jobs")
        await Housekeeper(connection=own, configs={tables: lambda: config}).keep_house()
    finally:
        await own.close()
    assert await connection.fetchval("select count(*) from pgmq.a_jobs") == left


async def test_a_step_that_the_database_refuses_holds_up_no_other(
    pool: Pool, connection: Connection, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Dropping partitions needs their owner; expired attempts and dead letters go all the same."""
    config = await set_queue_config(
        Database(pool), "jobs", history_retention_days=1, dlq_retention_days=30
    )
    await add_partition(connection, 9)
    await add_attempts(connection, 3, timedelta(days=5))
    await connection.execute("select pgmq.send('jobs_dlq', '{}')")
    await connection.execute("update pgmq.q_jobs_dlq set enqueued_at = now() - interval '40 days'")
    await connection.execute(
        "create or replace function meshhook.drop_expired_attempt_partitions() returns integer "
        "language plpgsql as $$begin raise insufficient_privilege using message = 'not yours'; "
        "end$$"
    )
    own = WorkerConnection(database_url, application_name="under test")
    tables = queries.QueueTables("jobs")
    try:
        await Housekeeper(connection=own, configs={tables: lambda: config}).keep_house()
    finally:
        await own.close()
    assert await attempts(connection) == 0
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 0
    [record] = caplog.records
    assert record.__dict__["event"] == "housekeeping put off"
    assert record.__dict__["step"] == "drop_expired_attempt_partitions"
    assert "not yours" in record.__dict__["error"]
