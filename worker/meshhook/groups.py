"""Groups of jobs: how far each has come, and repairing those of which jobs are gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from meshhook.arguments import check_range, checked_flag, checked_text
from meshhook.errors import GroupNotFoundError, QueueNotFoundError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import (
    LONG_ANSWER_TIMEOUT_SECONDS,
    Database,
    DatabaseSource,
    takes_url,
)
from meshhook.store import queries

if TYPE_CHECKING:
    import asyncpg

MAX_GROUPS = 1_000


@dataclass(frozen=True, slots=True)
class JobGroup:
    """A group of jobs at one moment."""

    queue: str
    """The queue of its jobs."""
    name: str
    """Its name, unique in the queue."""
    total: int
    """How many jobs it has."""
    succeeded: int
    """How many have succeeded."""
    failed: int
    """How many have become dead letters, were archived with an error, expired, or were lost."""
    cancelled: int
    """How many were cancelled."""
    lost: int
    """How many of those that failed are gone without an outcome, since somebody deleted their
    messages; known once the group has finished."""
    created_at: datetime
    finished_at: datetime | None
    """When the last job had its final outcome; None while there are jobs that have none."""
    callback_queue: str | None
    """The queue that its callback goes to; None if it has no callback."""
    callback_id: int | None
    """The msg_id of the callback; None while it is not enqueued."""
    callback_error: str | None
    """Why the callback could not be enqueued when the group finished; it is tried again every
    minute."""

    @property
    def pending(self) -> int:
        """How many jobs have no final outcome yet."""
        return self.total - self.succeeded - self.failed - self.cancelled

    @property
    def is_finished(self) -> bool:
        """Whether every job has its final outcome."""
        return self.finished_at is not None


@takes_url
async def get_group(database: DatabaseSource, queue: str, name: str | UUID) -> JobGroup:
    """Return a group of jobs.

    Args:
        database: where the queue is.
        queue: the queue of its jobs.
        name: its name.

    Raises:
        GroupNotFoundError: if there is none; finished ones are kept as long as the history.
        InvalidQueueNameError, InvalidSettingError: if the queue or the name is not a valid one.
        QueueNotFoundError, DatabaseError: if it cannot be read.
    """
    return await _read(Database.of(database), validate_queue_name(queue), _checked_name(name))


@takes_url
async def list_groups(
    database: DatabaseSource,
    queue: str | None = None,
    *,
    unfinished: bool = False,
    limit: int = 50,
) -> list[JobGroup]:
    """Return groups of jobs, the newest first.

    Args:
        database: where the queues are.
        queue: only those of this queue. Default: of all.
        unfinished: only those that have not finished. Default false.
        limit: how many at the most, 1 to 1,000. Default 50.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, MAX_GROUPS)
    name = None if queue is None else validate_queue_name(queue)
    rows = await Database.of(database).fetch(
        queries.load("list_groups"), name, checked_flag("unfinished", unfinished), limit
    )
    return [_group(row) for row in rows]


@takes_url
async def repair_group(database: DatabaseSource, queue: str, name: str | UUID) -> JobGroup:
    """Finish a group if none of its messages is left, and return it.

    Its jobs may have been settled by workers of a version that does not count them, which the
    history tells, or somebody deleted their messages: then they are lost. If the callback of a
    finished group could not be enqueued, it is tried again. Workers of the queue do all this by
    themselves, every minute.

    Args:
        database: where the queue is.
        queue: the queue of its jobs.
        name: its name.

    Raises:
        GroupNotFoundError, InvalidQueueNameError, InvalidSettingError: as `get_group`.
        QueueNotFoundError, DatabaseError: nothing was changed.
    """
    source = Database.of(database)
    queue, text = validate_queue_name(queue), _checked_name(name)
    await source.fetch(
        queries.load("repair_groups"),
        queue,
        0.0,
        1,
        text,
        answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
    )
    return await _read(source, queue, text)


def _checked_name(name: str | UUID) -> str:
    return str(name) if isinstance(name, UUID) else checked_text("the name of a group", name)


async def _read(database: Database, queue: str, name: str) -> JobGroup:
    # No group can have such a name, and no statement could ask for it.
    is_askable = "\0" not in name and not any("\ud800" <= each <= "\udfff" for each in name)
    row = await database.fetchrow(queries.load("get_group"), queue, name) if is_askable else None
    if row is not None:
        return _group(row)
    if await database.fetchrow(queries.load("get_queue_config"), queue) is None:
        raise QueueNotFoundError(queue)
    raise GroupNotFoundError(queue, name)


def _group(row: asyncpg.Record) -> JobGroup:
    return JobGroup(**dict(row))
