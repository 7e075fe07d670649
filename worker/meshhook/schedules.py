"""Schedules: jobs that are enqueued at due times, by whichever worker is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from meshhook.arguments import check_range
from meshhook.due_times import Timetable
from meshhook.encryption.key_ring import checked_ring
from meshhook.errors import DatabaseError, ScheduleNotFoundError
from meshhook.names import validate_queue_name, validate_schedule_name
from meshhook.new_schedule import NewSchedule, refusal_of
from meshhook.postgres.database import Database, takes_url
from meshhook.store import queries
from meshhook.store.changes import change_value

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.job_policies import SchedulePolicies
    from meshhook.postgres.database import DatabaseSource
    from meshhook.priorities import AnyPriority

MAX_SCHEDULES = 1_000
MAX_HISTORY = 10_000


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule at one moment."""

    queue: str
    """The queue that its jobs go to."""
    name: str
    """Its name, unique in the queue."""
    cron: str | None
    """The cron expression; None if it has an interval."""
    every_seconds: int | None
    """The interval in seconds; None if it has a cron expression."""
    time_zone: str
    """The time zone of the cron expression."""
    message: str | None
    """The body of each job as JSON text; None if it is too long to be shown."""
    key: str | None
    """The key of each job; None for none."""
    missed: str
    """What becomes of due times that passed while no worker ran: `skip`, `once` or `all`."""
    overlap: str
    """Whether a due time gets no job while an earlier one is in the queue: `allow` or `skip`."""
    paused: bool
    """Whether it is paused."""
    next_at: datetime | None
    """The next due time; None if there is none, or no worker has worked it out yet."""
    late_seconds: float
    """For how long the next due time has passed without its job, or no worker has worked one out;
    0 if neither is so."""
    last_fired_at: datetime | None
    """When the last job was enqueued; None if there was none."""
    last_msg_id: int | None
    """The last job's msg_id."""
    error: str | None
    """Why it could not be fired; it is tried again every minute."""
    failed_at: datetime | None
    """When that was."""
    created_at: datetime
    read_at: datetime
    """When this was read, by the database's clock."""


@dataclass(frozen=True, slots=True)
class ScheduleFiring:
    """A due time of a schedule that has passed."""

    due_at: datetime
    """The due time."""
    fired_at: datetime
    """When a worker came to it."""
    outcome: str
    """`enqueued`; `overlapped`: an earlier job was in the queue; `missed`: it was too late."""
    msg_id: int | None
    """The job; None if none was enqueued."""
    missed: int
    """How many earlier due times had passed and got no job of their own, counted up to 100."""
    is_manual: bool
    """Whether somebody ran the schedule by hand."""


@takes_url
async def add_schedule(
    database: DatabaseSource,
    queue: str,
    name: str,
    cron: str | None = None,
    *,
    every: float | timedelta | None = None,
    tz: str = "UTC",
    payload: Any = None,
    key: str | UUID | None = None,
    priority: AnyPriority | None = None,
    headers: Mapping[str, Any] | None = None,
    missed: str = "once",
    overlap: str = "allow",
    encryption: KeyRing | None = None,
    **policies: Unpack[SchedulePolicies],
) -> bool:
    """Add a schedule, or change the one of that name.

    A schedule whose due times change starts at the first one from now on. One that is paused stays
    so.

    Args:
        database: where the queue is.
        queue: the queue that its jobs go to.
        name: its name, unique in the queue: 1 to 100 characters of a-z, A-Z, 0-9, `_`, `.` and
            `-`, of which the first is a letter or digit.
        cron: minute, hour, day of the month, month and day of the week, as `0 9 * * 1-5`; or
            `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Default: none; give `every`.
        every: the interval, as seconds or a timedelta: whole seconds, up to 366 days. Due times are
            its multiples since 1970 began in UTC. Default: none; give `cron`.
        tz: the time zone of the cron expression, such as `Europe/Berlin`. Default `UTC`.
        payload: what the handler receives. Default: an empty object.
        key: whose jobs they are, for a keyed queue. Default: none.
        priority: how urgent they are: `urgent`, `high`, `normal` or `low`, or 0 to 3. Default:
            normal.
        headers: message headers. Default: none.
        missed: what becomes of due times that passed while no worker ran. `once`: one job, for the
            last of them; `all`: a job for each; `skip`: none. Default `once`.
        overlap: `skip` lets a due time pass while an earlier job of the schedule is in the queue,
            waiting, running or retrying. Default `allow`.
        encryption: the keys with which its jobs are encrypted. They are encrypted once, here.
            Default: none.
        **policies: policies of the jobs' own, which count before the queue's settings: `retry`, a
            `RetryPolicy`; `expires_in`, seconds or a timedelta after which a job is no longer to be
            started; `on_dead_letter`, a `FollowUp` to enqueue for each that becomes a dead letter.
            Default: none.

    Returns:
        Whether anything was changed. Calling it again is safe.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument, such as the expression.
        InvalidJobError, JobTooLargeError: its jobs could not be stored.
        QueueNotFoundError, DatabaseError: it is not stored.
    """
    new = NewSchedule.of(
        queue,
        name,
        cron,
        every=every,
        tz=tz,
        payload={} if payload is None else payload,
        key=key,
        priority=priority,
        headers=headers,
        missed=missed,
        overlap=overlap,
        **policies,
    )
    return await new.store(Database.of(database), checked_ring(encryption))


@takes_url
async def list_schedules(
    database: DatabaseSource, queue: str | None = None, *, limit: int = MAX_SCHEDULES
) -> list[Schedule]:
    """Return schedules in the order of their queues and names.

    Args:
        database: where the queues are.
        queue: only those of this queue. Default: of all.
        limit: how many at the most, 1 to 1,000. Default 1,000.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        DatabaseError: if they cannot be read.
    """
    check_range("limit", limit, MAX_SCHEDULES)
    of_queue = None if queue is None else validate_queue_name(queue)
    rows = await Database.of(database).fetch(queries.load("list_schedules"), of_queue, None, limit)
    return [Schedule(**dict(row)) for row in rows]


@takes_url
async def get_schedule(database: DatabaseSource, queue: str, name: str) -> Schedule:
    """Return a schedule.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if the queue or the name is not a valid one.
        ScheduleNotFoundError, DatabaseError: if there is none, or it cannot be read.
    """
    return await _read(
        Database.of(database), validate_queue_name(queue), validate_schedule_name(name)
    )


@takes_url
async def pause_schedule(database: DatabaseSource, queue: str, name: str) -> None:
    """Let no due time of a schedule get a job until it is resumed.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if the queue or the name is not a valid one.
        ScheduleNotFoundError, DatabaseError: nothing was changed.
    """
    await _pause(Database.of(database), queue, name, next_at=None, is_paused=True)


@takes_url
async def resume_schedule(database: DatabaseSource, queue: str, name: str) -> None:
    """Let a schedule go on at its first due time from now on.

    Due times that passed while it was paused are not missed. A schedule that is not paused also
    goes on from now: after the database's clock had been wrong, for example.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if the queue or the name is not a valid one, or
            the schedule's own expression or time zone, naming it.
        ScheduleNotFoundError, DatabaseError: nothing was changed.
    """
    source = Database.of(database)
    found = await _read(source, validate_queue_name(queue), validate_schedule_name(name))
    table = Timetable.of(found.cron, found.every_seconds, found.time_zone)
    await _pause(source, queue, name, next_at=table.next_after(found.read_at), is_paused=False)


@takes_url
async def run_schedule(database: DatabaseSource, queue: str, name: str) -> int:
    """Enqueue the job of a schedule now, also of a paused one, and return its msg_id.

    Its due times stay as they are.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if the queue or the name is not a valid one.
        InvalidJobError: the queue no longer takes its message.
        QueueNotFoundError, ScheduleNotFoundError, DatabaseError: no job was enqueued.
    """
    queue, name = validate_queue_name(queue), validate_schedule_name(name)
    try:
        msg_id = await change_value(
            Database.of(database), queries.load("run_schedule"), queue, name
        )
    except DatabaseError as error:
        raise refusal_of(error, queue, name) from error
    if msg_id is None:
        raise ScheduleNotFoundError(queue, name)
    return int(msg_id)


@takes_url
async def delete_schedule(database: DatabaseSource, queue: str, name: str) -> None:
    """Delete a schedule with its history. Jobs that it has enqueued stay.

    Raises:
        InvalidQueueNameError, InvalidSettingError: if the queue or the name is not a valid one.
        ScheduleNotFoundError, DatabaseError: nothing was deleted.
    """
    queue, name = validate_queue_name(queue), validate_schedule_name(name)
    source = Database.of(database)
    if not await change_value(source, queries.load("delete_schedule"), queue, name):
        raise ScheduleNotFoundError(queue, name)


@takes_url
async def list_schedule_firings(
    database: DatabaseSource, queue: str, name: str, *, limit: int = 50
) -> list[ScheduleFiring]:
    """Return the due times of a schedule that have passed, the newest first.

    Those older than the queue's `history_retention_days` are deleted, except for the newest 100.

    Args:
        database: where the queue is.
        queue: the queue.
        name: the schedule.
        limit: how many at the most, 1 to 10,000. Default 50.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        ScheduleNotFoundError, DatabaseError: if there is none, or it cannot be read.
    """
    queue, name = validate_queue_name(queue), validate_schedule_name(name)
    check_range("limit", limit, MAX_HISTORY)
    source = Database.of(database)
    rows = await source.fetch(queries.load("list_schedule_firings"), queue, name, limit)
    if not rows:
        await _read(source, queue, name)
    return [ScheduleFiring(**dict(row)) for row in rows]


async def _read(database: Database, queue: str, name: str) -> Schedule:
    row = await database.fetchrow(queries.load("list_schedules"), queue, name, 1)
    if row is None:
        raise ScheduleNotFoundError(queue, name)
    return Schedule(**dict(row))


async def _pause(
    database: Database, queue: str, name: str, *, next_at: datetime | None, is_paused: bool
) -> None:
    queue, name = validate_queue_name(queue), validate_schedule_name(name)
    sql = queries.load("pause_schedule")
    if not await change_value(database, sql, queue, name, is_paused, next_at):
        raise ScheduleNotFoundError(queue, name)
