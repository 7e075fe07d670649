"""Searching the dead letters of a queue by error, time, key, run, workflow and project."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from meshhook.administration import get_queue_config
from meshhook.arguments import MAX_ID, check_range, checked_id, checked_seconds, utc_moment
from meshhook.arguments import checked_storable_text as storable
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.jobs import MAX_ID_LENGTH
from meshhook.names import MAX_KEY_LENGTH, validate_queue_name
from meshhook.postgres.database import Database, takes_url
from meshhook.store import queries
from meshhook.store.dead_letter_rows import DeadLetterLine, ErrorGroup, dead_letter_line_from
from meshhook.store.settlements import MAX_ERROR_TYPE_LENGTH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    from meshhook.postgres.database import DatabaseSource

SEARCH_SECONDS = 2.0
"""The default time limit of a search for a page."""
MAX_MATCHES = 1_000_000
"""The most dead letters that one search collects."""

COUNTED_OF_TYPE = 500
"""Where the count of an error type stops."""

_FIRST_CHUNK_ROWS = 500
_CHUNK_ROWS = 10_000
_COUNTED_WITHOUT_INDEX = 10_000
_NEWEST_TYPED = 200
"""How many of the newest dead letters tell which error types come first."""
_DISORDER = timedelta(minutes=10)
"""How much later one with a lower id may have died: ids are given before transactions end."""


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead letters of a queue; None means any."""

    error_type: str | None = None
    since: datetime | None = None
    """Only those that died at this time or later."""
    until: datetime | None = None
    """Only those that died before this time."""
    key: str | None = None
    run_id: str | None = None
    workflow_id: str | None = None
    project_id: str | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InvalidSettingError: naming the one that no dead letter can have.
        """
        for name in ("error_type", "key", "run_id", "workflow_id", "project_id"):
            value = getattr(self, name)
            if value is not None:
                storable(name, value)
        for name in ("since", "until"):
            moment = getattr(self, name)
            if moment is not None and moment.utcoffset() is None:
                raise InvalidSettingError(f"{name} has a time zone, got {quoted(moment)}")

    @property
    def is_empty(self) -> bool:
        """Whether all dead letters fit."""
        return self == DeadLetterFilter()

    def fields(self) -> dict[str, str]:
        """Return what is asked for, by name, as text."""
        found = {each: getattr(self, each) for each in self.__slots__}
        return {name: str(value) for name, value in found.items() if value is not None}

    def arguments(self) -> tuple[object, ...]:
        """Return what the statement takes, texts as long as the database has them."""
        return (
            _cut(self.error_type, MAX_ERROR_TYPE_LENGTH),
            None if self.since is None else utc_moment(self.since),
            None if self.until is None else utc_moment(self.until),
            _cut(self.key, MAX_KEY_LENGTH),
            *(_cut(each, MAX_ID_LENGTH) for each in (self.run_id, self.workflow_id)),
            _cut(self.project_id, MAX_ID_LENGTH),
        )


@dataclass(slots=True)
class FoundDeadLetters:
    """A page of dead letters that fit, newest first."""

    dead_letters: list[DeadLetterLine] = field(default_factory=list)
    next_before: int | None = None
    """From where the next page continues, with `before_id`; None if all have been looked at."""
    is_complete: bool = True
    """Whether the page is full, or all have been looked at; else the time was up."""


@dataclass(slots=True)
class MatchedIds:
    """The ids of dead letters that fit."""

    ids: list[int] = field(default_factory=list)
    """Newest first."""
    is_complete: bool = True
    """Whether these are all that fit; else the time was up, or there are too many."""


@takes_url
async def find_dead_letters(
    database: DatabaseSource,
    queue: str,
    wanted: DeadLetterFilter,
    *,
    before_id: int | None = None,
    limit: int = 50,
    search_seconds: float = SEARCH_SECONDS,
) -> FoundDeadLetters:
    """Return dead letters of a queue that fit, newest first.

    Args:
        database: where the queue is.
        queue: the queue.
        wanted: which ones.
        before_id: only ids below this one. Default: from the newest.
        limit: how many at the most, 1 to 1,000. Default 50.
        search_seconds: after how long no further part is looked at, 0.1 to 3,600. Default 2.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        QueueNotFoundError, DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, 1_000)
    below = MAX_ID if before_id is None else checked_id("before_id", before_id)
    source = Database.of(database)
    ids: list[int] = []
    found = FoundDeadLetters(is_complete=True)
    async for chunk in _chunks(source, queue, wanted, below, search_seconds, size=limit + 1):
        ids += chunk.ids
        found.next_before = chunk.next_below
        found.is_complete = chunk.is_in_time
        if len(ids) > limit:
            found.next_before = ids[limit - 1]
            found.is_complete = True
            break
    rows = await source.fetch(queries.load("list_dead_letter_lines", queue), ids[:limit])
    found.dead_letters = [dead_letter_line_from(row) for row in rows]
    return found


@takes_url
async def match_dead_letters(
    database: DatabaseSource,
    queue: str,
    wanted: DeadLetterFilter,
    *,
    up_to_id: int = MAX_ID,
    limit: int = MAX_MATCHES,
    search_seconds: float = SEARCH_SECONDS,
) -> MatchedIds:
    """Return the ids of dead letters of a queue that fit, newest first.

    Args:
        database: where the queue is.
        queue: the queue.
        wanted: which ones.
        up_to_id: only those with ids up to this one. Default: all.
        limit: how many at the most, 1 to a million. Default a million.
        search_seconds: after how long no further part is looked at, 0.1 to 3,600. Default 2.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        QueueNotFoundError, DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, MAX_MATCHES)
    found = MatchedIds()
    below = min(MAX_ID, up_to_id + 1)
    source = Database.of(database)
    async for chunk in _chunks(source, queue, wanted, below, search_seconds, size=_CHUNK_ROWS):
        found.ids += chunk.ids
        found.is_complete = chunk.next_below is None and len(found.ids) <= limit
        if len(found.ids) > limit:
            del found.ids[limit:]
            break
    return found


@takes_url
async def list_error_groups(
    database: DatabaseSource, queue: str, *, limit: int = 20
) -> list[ErrorGroup]:
    """Group the dead letters of a queue by error type, the most frequent first.

    Unlike `DLQService.get_jobs_by_error_type` it finds types that are older than the newest 10,000
    dead letters, and reads no more of a deep queue than of a shallow one: counts stop at 500.
    Types beyond `limit` are left out, those of the newest dead letters last.

    Args:
        database: where the queue is.
        queue: the queue.
        limit: the most error types to return, 1 to 1,000. Default 20.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        QueueNotFoundError, DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, 1_000)
    source = Database.of(database)
    rows = await source.fetch(
        queries.load("list_error_groups", validate_queue_name(queue)),
        *(limit, _NEWEST_TYPED, COUNTED_OF_TYPE),
    )
    if not rows:
        # There are none, or their index is missing.
        sql = queries.load("count_dead_letters_by_error", queue)
        rows = await source.fetch(sql, _COUNTED_WITHOUT_INDEX, limit)
    return [ErrorGroup(**dict(row)) for row in rows]


@dataclass(frozen=True, slots=True)
class _Chunk:
    ids: list[int]
    next_below: int | None
    is_in_time: bool


async def _chunks(
    database: Database,
    queue: str,
    wanted: DeadLetterFilter,
    below: int,
    search_seconds: float,
    *,
    size: int,
) -> AsyncIterator[_Chunk]:
    """Yield the matches of one part after the other, until the end or the time is up."""
    name = validate_queue_name(queue)
    checked_seconds("search_seconds", search_seconds, 0.1, 3_600)
    config = await get_queue_config(database, name)
    statement = "match_dead_letters"
    if wanted.error_type is not None:
        statement = "match_dead_letters_by_error_type"
    sql = queries.load(statement, name, key_path=config.body_key_path)
    deadline = time.monotonic() + search_seconds
    rows = size if wanted.is_empty else max(size, _FIRST_CHUNK_ROWS)
    # Whatever is too new or too old is not looked at.
    if wanted.until is not None:
        latest = utc_moment(wanted.until, _DISORDER)
        below = min(below, await _id_at(database, name, latest, below))
        # Hardly any fits whose id is that of a later time: these are looked at in one go.
        until_id = await _id_at(database, name, utc_moment(wanted.until), below)
        rows = min(max(rows, below - until_id + size), _CHUNK_ROWS)
    lowest = 0
    if wanted.since is not None:
        lowest = await _id_at(database, name, utc_moment(wanted.since, -_DISORDER), 0)
    while True:
        row = await database.fetchrow(sql, below, rows, *wanted.arguments(), lowest)
        if row is None:
            raise AssertionError
        is_over = row["seen"] < rows
        is_late = not is_over and time.monotonic() >= deadline
        below = below if row["lowest"] is None else row["lowest"]
        yield _Chunk(row["ids"] or [], None if is_over else below, not is_late)
        if is_over or is_late:
            return
        rows = min(4 * rows, _CHUNK_ROWS)


async def _id_at(database: Database, queue: str, moment: datetime, default: int) -> int:
    """Return from which id on dead letters died at a time or later; the default without any."""
    found: int | None = await database.fetchval(queries.load("find_dead_letter_id", queue), moment)
    return default if found is None else found


def _cut(text: str | None, length: int) -> str | None:
    return None if text is None else text[:length]
