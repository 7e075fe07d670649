"""What the attempts of the last day came to, hour by hour."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meshhook.names import validate_queue_name
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database, DatabaseSource
from meshhook.store import queries


@dataclass(frozen=True, slots=True)
class HourStatistics:
    """The attempts of one queue that ended in one hour."""

    queue: str
    hour: datetime
    """When the hour began."""
    attempts: int
    """All that ended; replays are no attempts."""
    succeeded: int
    retried: int
    snoozed: int
    dead_lettered: int
    cancelled: int
    archived: int
    lost: int
    """Attempts whose lease ran out with no outcome."""
    replayed: int
    """Dead letters that were made jobs again."""
    mean_run_seconds: float | None
    """How long an attempt ran, on average; None if none of them was seen to start."""
    p50_run_seconds: float | None
    """How long half of the attempts ran at the most."""
    p95_run_seconds: float | None
    """How long 95% of the attempts ran at the most."""


async def job_statistics(
    database: DatabaseSource, queue: str | None = None
) -> list[HourStatistics]:
    """Return the last 24 hours, newest first; hours in which nothing ended are left out.

    It reads every attempt of that time, some 1.5 seconds a million.

    Args:
        database: where the queues are.
        queue: one queue, which need not exist any more. Default: all.

    Raises:
        InvalidQueueNameError: if no queue may have that name.
        DatabaseError: if the statistics cannot be read.
    """
    name = None if queue is None else validate_queue_name(queue)
    rows = await Database.of(database).fetch(
        queries.load("job_statistics"), name, answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS
    )
    return [HourStatistics(**dict(row)) for row in rows]
