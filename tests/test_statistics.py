"""The statistics of the last day, hour by hour."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.errors import InvalidQueueNameError
from meshhook.postgres.database import Database
from meshhook.statistics import job_statistics

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture(autouse=True)
async def _one_moment(connection: Connection) -> AsyncIterator[None]:
    """Let `now()` stand still: no hour begins during a test."""
    async with connection.transaction():
        yield


async def record(
    connection: Connection,
    outcome: str,
    *,
    queue: str = "jobs",
    hours_ago: int = 0,
    run_seconds: float | None = 1,
) -> None:
    """Write one row of history, which ended when an hour began."""
    await connection.execute(
        """
        insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, started_at, finished_at)
        select $1, 1, 1, $2, moment - make_interval(secs => $4), moment
        from (select date_trunc('hour', now()) - make_interval(hours => $3)) as m (moment)
        """,
        queue,
        outcome,
        hours_ago,
        run_seconds,
    )


async def test_nothing_has_ended(connection: Connection):
    """Hours without attempts are left out, so there are none."""
    assert await job_statistics(Database(connection)) == []


async def test_outcomes_are_counted_by_hour_and_queue(connection: Connection):
    """Newest hour first, then by queue; a replay is no attempt; yesterday is not there."""
    for outcome in ("succeeded", "succeeded", "retried", "snoozed", "dead_lettered", "replayed"):
        await record(connection, outcome)
    for outcome in ("cancelled", "archived", "lost"):
        await record(connection, outcome, hours_ago=2)
    await record(connection, "succeeded", queue="a")
    await record(connection, "succeeded", hours_ago=30)
    new_a, new, old = await job_statistics(Database(connection))
    assert (new_a.queue, new.queue, old.queue) == ("a", "jobs", "jobs")
    assert new_a.hour == new.hour > old.hour
    assert (new.attempts, new.succeeded, new.retried, new.snoozed) == (5, 2, 1, 1)
    assert (new.dead_lettered, new.replayed) == (1, 1)
    assert (old.attempts, old.cancelled, old.archived, old.lost) == (3, 1, 1, 1)


async def test_run_times_are_seconds(connection: Connection):
    """Mean and percentiles are plain numbers; attempts of unknown start do not count."""
    for seconds in (1, 2, 3, 10, None):
        await record(connection, "succeeded", run_seconds=seconds)
    (hour,) = await job_statistics(Database(connection))
    assert (hour.mean_run_seconds, hour.p50_run_seconds) == (4.0, 2.5)
    assert hour.p95_run_seconds == pytest.approx(8.95)
    assert isinstance(hour.mean_run_seconds, float)


async def test_run_times_may_be_unknown(connection: Connection):
    """Where no attempt was seen to start there are no run times."""
    await record(connection, "lost", run_seconds=None)
    (hour,) = await job_statistics(Database(connection))
    assert (hour.mean_run_seconds, hour.p50_run_seconds, hour.p95_run_seconds) == (None,) * 3


async def test_one_queue_can_be_asked_for(connection: Connection):
    """Also one that exists no more, as long as its history does."""
    await record(connection, "succeeded", queue="a")
    await record(connection, "succeeded", queue="b")
    (hour,) = await job_statistics(Database(connection), "b")
    assert hour.queue == "b"
    assert await job_statistics(Database(connection), "c") == []


@pytest.mark.parametrize("name", ["", "A", "a_dlq", 7])
async def test_a_wrong_name_is_refused(connection: Connection, name: Any):
    """Before anything is read."""
    with pytest.raises(InvalidQueueNameError):
        await job_statistics(Database(connection), name)
