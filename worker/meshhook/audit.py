"""The audit log: who changed what, written by the database in the transaction of each change."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from meshhook.actors import MAX_ACTOR_LENGTH, Source, acting_as, one_operation
from meshhook.arguments import MAX_ID, check_range, checked_id, checked_storable_text, checked_text
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
    rows = await Database.of(database).fetch(
        queries.load("list_audit_entries"),
        None if queue is None else validate_queue_name(queue),
        None if action is None else _text("action", action, MAX_ACTION_LENGTH),
        None if actor is None else _text("actor", actor, MAX_ACTOR_LENGTH),
        _moment("since", since),
        _moment("until", until),
        MAX_ID if before is None else checked_id("before", before),
        limit,
    )
    return [
        AuditEntry(
            **{**dict(row), "filter": _object(row["filter"]), "details": _object(row["details"])}
        )
        for row in rows
    ]


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
    return None if text is None else json.loads(text)


def _text(name: str, value: str, max_length: int) -> str:
    return checked_storable_text(name, checked_text(name, value))[:max_length]


def _moment(name: str, value: datetime | None) -> datetime | None:
    if value is not None and (not isinstance(value, datetime) or value.utcoffset() is None):
        raise InvalidSettingError(f"{name} is a datetime with a time zone, got {quoted(value)}")
    return value
