"""Schedules that JobSchedules declare, as they are in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, Field, ValidationError

from meshhook.errors import DatabaseError
from meshhook.store.changes import change_rows, change_value
from meshhook.store.queries import load as load_library_query
from meshhook_operator.databases.demand import load

if TYPE_CHECKING:
    import asyncpg

    from meshhook.new_schedule import NewSchedule
    from meshhook.postgres.database import Database

MAX_SCHEDULES = 2_000
"""How many are read: more than may be declared, so that those of former JobSchedules are found."""

_Seconds = Annotated[float, Field(ge=-1e14, le=1e14, allow_inf_nan=False)]


class DeclaredSchedule(BaseModel):
    """A schedule as the database answered. The server may be anybody's, so nothing is trusted."""

    name: Annotated[str, Field(max_length=100)]
    resource: Annotated[str, Field(max_length=600)]
    """The JobSchedule that declares it, as namespace/name."""
    paused: bool
    content: int
    """Changes when somebody changes what is declared."""
    next_at: _Seconds | None
    """The next due time, in seconds since 1970."""
    last_at: _Seconds | None
    """When the last job was enqueued, in seconds since 1970."""
    error: Annotated[str, Field(max_length=8_000)] | None
    """Why it could not be fired."""


async def read_declared(database: Database, queue_name: str) -> list[DeclaredSchedule]:
    """Return the schedules of a queue that JobSchedules declare.

    Raises:
        DatabaseError: if they cannot be read.
    """
    rows = await database.fetch(load("declared_schedules"), queue_name, None, MAX_SCHEDULES)
    return [_checked(row) for row in rows]


async def declare(
    database: Database, new: NewSchedule, *, resource: str, paused: bool | None
) -> tuple[str | None, DeclaredSchedule | None]:
    """Store a schedule for a JobSchedule.

    Args:
        database: where the queue is.
        new: the schedule.
        resource: the JobSchedule, as namespace/name.
        paused: whether it is paused; None leaves that as it is.

    Returns:
        The JobSchedule that has it, None if it was made by hand; and the schedule as it is now,
        None if it is not that of this JobSchedule.

    Raises:
        DatabaseError: if it is not stored.
    """
    now = await database.fetchval(load_library_query("clock"))
    owner = await change_value(
        database,
        load("declare_schedule"),
        new.queue,
        new.name,
        resource,
        new.table.cron,
        new.table.every_seconds,
        new.table.zone.key,
        new.message.body,
        new.message.headers,
        new.message.key,
        str(new.missed),
        str(new.overlap),
        paused,
        new.table.next_after(now),
    )
    if owner != resource:
        return owner, None
    rows = await database.fetch(load("declared_schedules"), new.queue, new.name, 1)
    return owner, _checked(rows[0]) if rows else None


async def delete_declared(database: Database, queue_name: str, name: str, resource: str) -> None:
    """Delete a schedule with its history, if it is that of a JobSchedule.

    Raises:
        DatabaseError: if it is not deleted.
    """
    await change_rows(database, load("delete_declared_schedule"), queue_name, name, resource)


def _checked(row: asyncpg.Record) -> DeclaredSchedule:
    try:
        return DeclaredSchedule.model_validate(dict(row))
    except ValidationError as error:
        message = "the answer of the database makes no sense: a declared schedule"
        raise DatabaseError(message) from error
