"""Time zones: every moment is a timestamptz, and no session's time zone changes a result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.postgres.database import Database
from meshhook.statistics import job_statistics
from meshhook.store import queries
from meshhook.tracking import get_job

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kolkata",  # half an hour off
    "Australia/Lord_Howe",  # a summer time of half an hour
    "Pacific/Kiritimati",  # a day ahead
)
JUMPING = ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe")


@asynccontextmanager
async def session(url: str, zone: str) -> AsyncIterator[Connection]:
    """A session whose time zone is another one."""
    connection = await asyncpg.connect(url, server_settings={"timezone": zone})
    try:
        assert await connection.fetchval("show timezone") == zone
        yield connection
    finally:
        await connection.close()


async def in_all_zones(url: str, sql: str, *arguments: object) -> list[list[tuple[Any, ...]]]:
    """Run a statement in a session of each time zone, and return what each gave."""
    results = []
    for zone in ZONES:
        async with session(url, zone) as connection:
            results.append([tuple(row) for row in await connection.fetch(sql, *arguments)])
    return results


async def test_every_moment_has_a_time_zone(connection: Connection) -> None:
    """No column of a table or view, ours or PGMQ's, holds a timestamp without time zone."""
    rows = await connection.fetch(
        "select table_schema, table_name, column_name, data_type from information_schema.columns "
        "where table_schema in ('meshhook', 'pgmq')"
    )
    types = {row["data_type"] for row in rows}
    assert "timestamp with time zone" in types
    assert types.isdisjoint({"timestamp without time zone", "time without time zone", "date"})


async def test_no_function_returns_a_moment_without(connection: Connection) -> None:
    """No function returns a timestamp without time zone, or a date."""
    rows = await connection.fetch(
        "select proname, pg_get_function_result(oid) as result from pg_proc "
        "where pronamespace = 'meshhook'::regnamespace"
    )
    assert rows
    for row in rows:
        assert "without time zone" not in row["result"], row["proname"]
        assert "date" not in row["result"].split(), row["proname"]


@pytest.mark.parametrize("zone", ZONES)
async def test_a_delay_is_exact_across_a_jump(
    database_url: str, connection: Connection, zone: str
) -> None:
    """A delay of half a year is an exact number of seconds, whatever the clocks do meanwhile."""
    async with session(database_url, zone) as own:
        service = QueueService[Any](own, "jobs")
        before = await connection.fetchval("select clock_timestamp()")
        for days in (90, 180, 270):
            await service.enqueue({}, days * 86_400)
        after = await connection.fetchval("select clock_timestamp()")
    rows = await connection.fetch("select vt from pgmq.q_jobs order by msg_id")
    for row, days in zip(rows, (90, 180, 270), strict=True):
        assert before <= row["vt"] - timedelta(days=days) <= after


@pytest.mark.parametrize("zone", ZONES)
async def test_a_jobs_moments_are_the_same_everywhere(
    database_url: str, connection: Connection, zone: str
) -> None:
    """Producer, worker and reader in three time zones agree, in UTC."""
    producer = QueueService[Any](connection, "jobs")
    msg_id = await producer.enqueue({})
    async with session(database_url, zone) as own:
        worker = QueueService[Any](own, "jobs")
        job = await worker.dequeue()
        assert job is not None
        assert job.msg_id == msg_id
        now = datetime.now(UTC)
        for moment in (job.enqueued_at, job.ready_at, job.claimed_at):
            assert moment.tzinfo is UTC
            assert abs(now - moment) < timedelta(minutes=10)
        await worker.acknowledge(job)
        there = await get_job(Database(own), "jobs", msg_id)
    assert await get_job(Database(connection), "jobs", msg_id) == there


async def test_hours_of_statistics_are_the_same_everywhere(
    database_url: str, connection: Connection
) -> None:
    """An hour begins at the same moment for everybody, also in half-hour time zones."""
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select 'jobs', n, 1, 'succeeded', now() - n * interval '13 min' "
        "from generate_series(1, 100) n"
    )
    results = []
    for zone in ZONES:
        async with session(database_url, zone) as own:
            results.append(await job_statistics(Database(own)))
    assert all(result == results[0] for result in results)
    assert all(row.hour == row.hour.replace(minute=0, second=0) for row in results[0])


async def test_states_and_ages_are_the_same_everywhere(
    database_url: str, connection: Connection
) -> None:
    """What is ready, delayed or old does not depend on the reader's time zone."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message, enqueued_at) "
        "select now() + (n - 5) * interval '30 min', '{}', now() - interval '200 days' "
        "from generate_series(1, 10) n"
    )
    sql = (
        "select queue, ready, scheduled, running, retrying, lost, "
        "round(oldest_ready_seconds / 60), round(oldest_message_seconds / 60) "
        "from meshhook.queue_snapshot('jobs')"
    )
    results = await in_all_zones(database_url, sql)
    assert all(result == results[0] for result in results)
    assert results[0] == [("jobs", 5, 5, 0, 0, 0, 120, 200 * 24 * 60)]


@pytest.mark.parametrize("zone", ZONES)
async def test_days_of_the_history_are_of_utc(
    database_url: str, connection: Connection, zone: str
) -> None:
    """Partitions join without a gap, 24 hours each, across all clock changes of a year."""
    async with session(database_url, zone) as own:
        assert await own.fetchval("select meshhook.create_attempt_partitions(400)") == 393
    rows = await connection.fetch(
        "select c.relname, pg_get_expr(c.relpartbound, c.oid) as bounds "
        "from pg_inherits i join pg_class c on c.oid = i.inhrelid "
        "where i.inhparent = 'meshhook.job_attempts'::regclass and c.relname ~ '[0-9]$' order by 1"
    )
    assert len(rows) == 401
    day = datetime.now(UTC).date()
    for row in rows:
        assert row["relname"] == f"job_attempts_{day:%Y%m%d}"
        next_day = day + timedelta(days=1)
        expected = f"FOR VALUES FROM ('{day} 00:00:00+00') TO ('{next_day} 00:00:00+00')"
        assert row["bounds"] == expected
        day = next_day


async def days_across_a_jump(connection: Connection, zone: str) -> int:
    """Return how many days ago a time zone's clocks stood differently from now."""
    days: int | None = await connection.fetchval(
        "select min(d) from generate_series(1, 366) d where "
        "(now() - d * interval '24 hours') at time zone $1 <> "
        "(now() at time zone $1) - d * interval '24 hours'",
        zone,
    )
    assert days is not None
    return days + 1


@pytest.mark.parametrize("zone", JUMPING)
async def test_dead_letters_are_kept_for_whole_days(
    database_url: str, connection: Connection, zone: str
) -> None:
    """A day of retention is 24 hours, although a local day in between was not."""
    days = await days_across_a_jump(connection, zone)
    await connection.execute(
        "insert into pgmq.q_jobs_dlq (vt, message, enqueued_at) "
        "select now(), '{}', now() - make_interval(hours => 24 * $1::int, mins => m) "
        "from unnest(array[-15, 15]) m",
        days,
    )
    async with session(database_url, zone) as own:
        sql = queries.load("delete_expired_dead_letters", "jobs")
        assert await own.fetchval(sql, 100, days) == 1


@pytest.mark.parametrize("zone", JUMPING)
async def test_attempts_are_kept_for_whole_days(
    database_url: str, connection: Connection, zone: str
) -> None:
    """The history is divided by days of UTC, whatever the time zone of the worker's session."""
    days = await days_across_a_jump(connection, zone)
    await connection.execute("update meshhook.queue_config set history_retention_days = $1", days)
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select 'jobs', 1, 1, 'succeeded', date_trunc('day', now(), 'UTC') "
        "- make_interval(hours => 24 * $1::int, mins => m) from unnest(array[-15, 15]) m",
        days,
    )
    async with session(database_url, zone) as own:
        assert await own.fetchval(queries.load("delete_expired_attempts")) == 1


async def test_workers_in_all_zones_share_one_queue(
    database_url: str, connection: Connection
) -> None:
    """No worker claims early, late or twice."""
    service = QueueService[Any](connection, "jobs")
    ready = await service.enqueue_many([{}] * len(ZONES))
    await service.enqueue_many([{}] * 3, 1_800)

    async def claim_all(zone: str) -> list[int]:
        ids = []
        async with session(database_url, zone) as own:
            while (job := await QueueService[Any](own, "jobs").dequeue()) is not None:
                ids.append(job.msg_id)
        return ids

    claimed = await asyncio.gather(*map(claim_all, ZONES))
    assert sorted(msg_id for ids in claimed for msg_id in ids) == ready
