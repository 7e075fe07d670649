"""Queues at one moment: how many jobs they have in each state, and how old these are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook.arguments import check_range
from meshhook.errors import QueueNotFoundError
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database, takes_url
from meshhook.store import queries

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from meshhook.postgres.database import DatabaseSource

COUNT_LIMIT = 10_000
MAX_COUNT_LIMIT = 10_000_000


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One queue at one moment. Counts stop at a limit, which bounds the cost of reading."""

    queue: str
    ready: int
    """Messages that may be claimed now."""
    scheduled: int
    """Messages that were never read and fall due later."""
    running: int
    """Messages that are leased."""
    retrying: int
    """Messages that failed and wait for their next attempt."""
    lost: int
    """Messages whose lease ran out without an outcome; the next claim takes them."""
    capped: bool
    """Whether a count stopped at the limit: there are at least as many."""
    oldest_ready_seconds: float
    """How long the oldest ready or lost message has been in that state; 0 if there is none."""
    oldest_message_seconds: float | None
    """The age of the oldest message since it was enqueued; None if the queue is empty."""
    newest_message_seconds: float | None
    """The age of the newest message since it was enqueued; None if the queue is empty."""
    enqueued_total: int
    """How many messages were ever enqueued."""
    dead_letters: int
    """Dead letters of the queue."""
    dead_letters_capped: bool
    """Whether that count stopped at the limit."""
    oldest_dead_letter_seconds: float | None
    """The age of the oldest dead letter; None if there is none."""
    paused: bool
    """Whether the queue is paused."""
    sampled_at: datetime
    """When the snapshot was taken, by the database's clock."""

    @property
    def queue_length(self) -> int:
        """All messages in the queue, dead letters not included."""
        return self.ready + self.scheduled + self.running + self.retrying + self.lost


@takes_url
async def list_queues(
    database: DatabaseSource, *, count_limit: int = COUNT_LIMIT
) -> list[QueueSnapshot]:
    """Return every queue, counted up to `count_limit` messages a state.

    Args:
        database: where the queues are.
        count_limit: 1 to 10 million. Default 10,000.

    Raises:
        InvalidSettingError: if `count_limit` is out of range.
        DatabaseError: if they cannot be read.
    """
    check_range("count_limit", count_limit, MAX_COUNT_LIMIT)
    rows = await Database.of(database).fetch(
        queries.load("list_queue_snapshots"),
        count_limit,
        answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
    )
    return [snapshot_from(row) for row in rows]


@takes_url
async def get_queue_snapshot(
    database: DatabaseSource,
    queue: str = DEFAULT_QUEUE_NAME,
    *,
    count_limit: int = COUNT_LIMIT,
) -> QueueSnapshot:
    """Return one queue, counted up to `count_limit` messages a state.

    Args:
        database: where the queue is.
        queue: the queue. Default `workflow_jobs`.
        count_limit: 1 to 10 million. Default 10,000.

    Raises:
        InvalidSettingError: if `count_limit` is out of range.
        InvalidQueueNameError, QueueNotFoundError: if there is no such queue.
    """
    name = validate_queue_name(queue)
    check_range("count_limit", count_limit, MAX_COUNT_LIMIT)
    row = await Database.of(database).fetchrow(queries.load("queue_snapshot"), name, count_limit)
    if row is None:
        raise QueueNotFoundError(name)
    return snapshot_from(row)


def snapshot_from(row: asyncpg.Record) -> QueueSnapshot:
    """Return the snapshot that a row of `meshhook.queue_snapshot` holds."""
    return QueueSnapshot(**dict(row))
