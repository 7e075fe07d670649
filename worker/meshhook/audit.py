"""The audit log: who changed what, written by the database in the transaction of each change."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from meshhook.actors import MAX_ACTOR_LENGTH, Source, acting_as, one_operation
from meshhook.arguments import (
    MAX_ID,
    check_range,
    checked_id,
    checked_storable_text,
    checked_text,
    utc_moment,
)
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, takes_url
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.postgres.database import DatabaseSource

__all__ = [
    "MAX_ENTRIES",
    "AuditEntry",
    "Source",
    "acting_as",
    "list_audit_entries",
    "one_operation",
    "sum_operations",
]

MAX_ENTRIES = 1_000
"""The most entries that one call lists."""
MAX_ACTION_LENGTH = 100

_MAX_LEVELS = 20
"""How deeply filters and details are nested at the most; a setting has two levels."""
_LOOKED_AT = 5_000
"""How many entries a page looks at for those that fit."""
_DISORDER = timedelta(minutes=10)
"""How much later a change with a lower id may have been made: ids are given before commits."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change."""

    id: int
    at: datetime
    """When, by the database's clock."""
    database_role: str
    """The role that had logged in; the database vouches for it."""
    actor: str
    """The person or program, as the program said; else the role."""
    source: str
    """With what: `cli`, `console`, `operator`, `library`, or `sql` for anything else."""
    action: str
    """What was done, such as `queue.paused`, `settings.changed` or `dead_letters.replayed`."""
    queue: str | None
    """The queue; None if it is about none, such as a role."""
    filter: dict[str, Any] | None
    """What was asked for: ids (the first 100), a key, an error type; None if that says nothing."""
    count: int | None
    """How many jobs, messages or dead letters were changed; None where it says nothing."""
    details: dict[str, Any] | None
    """More about it; of each changed setting the `old` and the `new` value."""
    operation: str | None
    """The same for all chunks of one change."""


@takes_url
async def list_audit_entries(
    database: DatabaseSource,
    queue: str | None = None,
    *,
    action: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """Return changes, the newest first.

    Args:
        database: where the queues are.
        queue: only those of this queue, which may be gone. Default: of all, and of none.
        action: only this action, or all of a group, such as `schedule`. Default: any.
        actor: only those of this actor. Default: of anybody.
        since: only those from this time on. Default: from the oldest on.
        until: only those before this time. Default: up to the newest.
        before: only ids below this one, to continue a list. Default: from the newest on.
        limit: how many at the most, 1 to 1,000. Default 100.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, MAX_ENTRIES)
    wanted = _wanted(queue, action, actor, since, until)
    below = MAX_ID if before is None else checked_id("before", before)
    return await _entries(Database.of(database), wanted, below, limit, from_id=0)


@dataclass(frozen=True, slots=True)
class FoundEntries:
    """A page of changes, the newest first."""

    entries: list[AuditEntry]
    next_before: int | None
    """Where the next page continues, with `before`; None if there is none."""
    is_complete: bool
    """Whether the page is full, or all was looked at; else so many entries were that do not fit
    that the search ended."""


async def find_audit_entries(
    database: DatabaseSource,
    queue: str | None = None,
    *,
    action: str | None = None,
    actor: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: int | None = None,
    limit: int = 50,
) -> FoundEntries:
    """Return a page of changes like `list_audit_entries`, reading no more of a long log.

    At most 5,000 entries are looked at; the page may go on below them. Of a time, entries are read
    whose ids are those of that time, give or take ten minutes.
    """
    check_range("limit", limit, MAX_ENTRIES)
    source = Database.of(database)
    wanted = _wanted(queue, action, actor, since, until)
    below = MAX_ID if before is None else checked_id("before", before)
    lowest = 0
    if since is not None:
        lowest = await _id_at(source, utc_moment(since, -_DISORDER), 0)
    if until is not None:
        below = min(below, await _id_at(source, utc_moment(until, _DISORDER), below))
    of_all = queue is None
    sql = queries.load("bound_audit_entries" if of_all else "bound_audit_entries_of_queue")
    bound = await source.fetchval(sql, wanted[0], below, _LOOKED_AT, lowest)
    entries = await _entries(source, wanted, below, limit, from_id=bound or lowest)
    is_full = len(entries) == limit
    return FoundEntries(
        entries,
        next_before=entries[-1].id if is_full else bound,
        is_complete=is_full or bound is None,
    )


def _wanted(
    queue: str | None,
    action: str | None,
    actor: str | None,
    since: datetime | None,
    until: datetime | None,
) -> tuple[str | None, str | None, str | None, datetime | None, datetime | None]:
    return (
        None if queue is None else validate_queue_name(queue),
        None if action is None else _text("action", action, MAX_ACTION_LENGTH),
        None if actor is None else _text("actor", actor, MAX_ACTOR_LENGTH),
        _moment("since", since),
        _moment("until", until),
    )


async def _entries(
    database: Database, wanted: tuple[object, ...], below: int, limit: int, *, from_id: int
) -> list[AuditEntry]:
    of_all = wanted[0] is None
    sql = queries.load("list_audit_entries" if of_all else "list_audit_entries_of_queue")
    rows = await database.fetch(sql, *wanted, below, limit, from_id)
    return [
        AuditEntry(
            **{**dict(row), "filter": _object(row["filter"]), "details": _object(row["details"])}
        )
        for row in rows
    ]


async def _id_at(database: Database, moment: datetime, default: int) -> int:
    """Return from which id on changes were made at a time or later; the default without any."""
    found: int | None = await database.fetchval(queries.load("find_audit_id"), moment)
    return default if found is None else found


def sum_operations(entries: Iterable[AuditEntry]) -> list[AuditEntry]:
    """Return entries with the chunks of each operation as one, in the place of its newest.

    Its count is the sum of theirs; all else is that of the newest chunk.
    """
    found: list[AuditEntry] = []
    places: dict[tuple[object, ...], int] = {}
    for entry in entries:
        chunk_of = (entry.operation, entry.action, entry.queue)
        place = places.get(chunk_of)
        if entry.operation is None or entry.count is None or place is None:
            places[chunk_of] = len(found)
            found.append(entry)
        else:
            total = (found[place].count or 0) + entry.count
            found[place] = replace(found[place], count=total)
    return found


def _object(text: str | None) -> dict[str, Any] | None:
    """Return a filter or details, whatever JSON a role that may write to the log has put there.

    No row keeps anybody from reading the others.
    """
    if text is None:
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # also numbers of more digits than Python reads
        return {"unreadable": quoted(text)}
    if _is_deeper(found, _MAX_LEVELS):
        return {"unreadable": quoted(text)}
    return found if isinstance(found, dict) else {"value": found}


def _is_deeper(value: object, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(levels == 0 or _is_deeper(each, levels - 1) for each in items)


def _text(name: str, value: str, max_length: int) -> str:
    return checked_storable_text(name, checked_text(name, value))[:max_length]


def _moment(name: str, value: datetime | None) -> datetime | None:
    if value is not None and (not isinstance(value, datetime) or value.utcoffset() is None):
        raise InvalidSettingError(f"{name} is a datetime with a time zone, got {quoted(value)}")
    return None if value is None else utc_moment(value)
