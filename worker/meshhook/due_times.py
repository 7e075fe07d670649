"""Due times of schedules: when they are, and which of them get a job. Nothing here does I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from meshhook.cron import Cron
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CRON_LENGTH = 200
MAX_TIME_ZONE_LENGTH = 100
MAX_EVERY_SECONDS = 366 * 24 * 3600
MAX_FIRINGS = 100
"""How many due times of a schedule get their jobs at once; the others follow a second later."""
MAX_FIRED_BYTES = 4 * 1024 * 1024
"""How large the messages of one schedule are together that are enqueued at once; one may be
larger."""
MAX_COUNTED = 100
"""Up to how many missed due times are counted."""
ONCE_AFTER = timedelta(seconds=5)
"""How late a due time may be until `once` takes it for missed."""
SKIP_AFTER = timedelta(seconds=60)
"""How late a due time may be until `skip` leaves it out: a restart of the workers skips none."""

CRON_FIELDS = 5
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# These are what the machine is set to, so that two machines may differ.
_LOCAL_ZONES = {"localtime", "posixrules", "Factory"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STEP = timedelta(microseconds=1)


class Missed(StrEnum):
    """What becomes of due times that passed while no worker ran."""

    SKIP = "skip"
    """No job; a due time up to 60 seconds late still gets its own."""
    ONCE = "once"
    """One job, for the last of them."""
    ALL = "all"
    """A job for each."""


class Overlap(StrEnum):
    """What happens at a due time while an earlier job of the schedule is in the queue."""

    ALLOW = "allow"
    """Its job is enqueued, too."""
    SKIP = "skip"
    """No job is enqueued."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """All due times of a schedule: by a cron expression in a time zone, or at an interval."""

    cron: str | None
    """The cron expression, with five fields; None with an interval."""
    every_seconds: int | None
    """The interval in seconds, counted from 1970 on; None with a cron expression."""
    zone: ZoneInfo
    """The time zone of the cron expression."""

    @classmethod
    def of(cls, cron: str | None, every_seconds: int | None, time_zone: str) -> Timetable:
        """Check what a schedule says.

        Raises:
            InvalidSettingError: naming the field, the value and the rule.
        """
        if (cron is None) == (every_seconds is None):
            raise InvalidSettingError("a schedule has either cron or every, and not both")
        zone = checked_zone(time_zone)
        if every_seconds is not None:
            return cls(None, every_seconds, zone)
        table = cls(checked_cron(cron), None, zone)
        if table.next_after(datetime(2024, 1, 1, tzinfo=UTC)) is None:
            raise InvalidSettingError(f"cron={quoted(cron)}: no day is ever like that")
        return table

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first due time after a moment, in UTC; None if there is none in 50 years."""
        return next(self.all_after(moment), None)

    def all_after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the due times after a moment, in UTC and in order."""
        moment = moment.astimezone(UTC)
        if self.cron is None:
            step = timedelta(seconds=self.every_seconds or 0)
            last = _EPOCH + (moment - _EPOCH) // step * step
            while True:
                last += step
                yield last
        for local in Cron(self.cron, moment.astimezone(self.zone)):
            due = local.astimezone(UTC)
            # In the hour that comes twice, the first passage of a time is named during the second.
            if due > moment:
                moment = due
                yield due

    def last_until(self, moment: datetime, first: datetime) -> datetime:
        """Return the last due time that is not after a moment; `first` is one that is not."""
        back = timedelta(hours=1)
        while moment - back > first:
            last = max(_until(self, moment - back, moment), default=None)
            if last is not None:
                return last
            back *= 24
        return max(_until(self, first, moment), default=first)


@dataclass(frozen=True, slots=True)
class Firing:
    """What to do about a schedule that workers have to look at."""

    due: tuple[datetime, ...]
    """The due times to note, in order."""
    following: datetime | None
    """The due time that comes next; None if there is none."""
    is_sent: bool = True
    """Whether they get jobs."""
    missed: int = 0
    """How many earlier due times have passed and get no job of their own, counted up to 100."""


def plan(
    table: Timetable,
    *,
    next_at: datetime | None,
    now: datetime,
    missed: Missed | str,
    since: datetime | None = None,
    most: int = MAX_FIRINGS,
) -> Firing:
    """Return which due times of a schedule get a job now, and which one comes next.

    Args:
        table: the due times.
        next_at: the first one that had no job yet; None if it was not worked out yet.
        now: the time, by the database's clock.
        missed: what becomes of those that are too late.
        since: where a schedule without `next_at` starts. What has been due since then is not lost:
            the next look finds it. Default: now.
        most: how many due times get a job at once, if each gets one. Default 100.
    """
    if next_at is None:
        return Firing((), table.next_after(now if since is None else since))
    if next_at > now:  # the clock was set back; time comes to it again
        return Firing((), next_at)
    if missed == Missed.ALL:
        times = list(islice(_due(table, next_at, now), most))
        return Firing(tuple(times), table.next_after(times[-1]))
    start = now - (ONCE_AFTER if missed == Missed.ONCE else SKIP_AFTER)
    if next_at >= start:
        late = 0
        in_time = list(_due(table, next_at, now))
    else:
        late = sum(1 for _ in islice(_due(table, next_at, start - _STEP), MAX_COUNTED))
        in_time = list(_until(table, start - _STEP, now))
    following = table.next_after(now)
    if in_time:
        return Firing(tuple(in_time), following, missed=late)
    last = table.last_until(now, next_at)
    return Firing((last,), following, is_sent=missed == Missed.ONCE, missed=max(late - 1, 0))


def most_at_once(message_bytes: int) -> int:
    """Return how many jobs of a schedule are enqueued in one transaction, by their size."""
    return max(1, min(MAX_FIRINGS, MAX_FIRED_BYTES // max(message_bytes, 1)))


def checked_cron(cron: object) -> str:
    """Return a cron expression with five fields, parted by single spaces.

    Raises:
        InvalidSettingError: naming the expression and what is wrong with it.
    """
    if not isinstance(cron, str) or not 1 <= len(cron) <= MAX_CRON_LENGTH:
        raise InvalidSettingError(
            f"cron is text of 1 to {MAX_CRON_LENGTH} characters, as '0 9 * * 1-5', got "
            f"{quoted(cron)}"
        )
    text = _NAMED.get(cron.strip().lower(), cron)
    fields = text.split()
    if len(fields) != CRON_FIELDS:
        raise InvalidSettingError(
            f"cron={quoted(cron)}: it has {len(fields)} fields; five are expected: minute, hour, "
            "day of the month, month, day of the week. Or one of " + ", ".join(_NAMED)
        )
    try:
        Cron(text, _EPOCH)
    except Exception as error:  # the parser is not ours, and anybody may have written it
        raise InvalidSettingError(f"cron={quoted(cron)}: {_reason(error)}") from error
    return " ".join(fields)


def checked_zone(name: object) -> ZoneInfo:
    """Return a time zone by its name in the IANA database.

    Raises:
        InvalidSettingError: naming the zone, if there is none of that name.
    """
    if isinstance(name, str) and 1 <= len(name) <= MAX_TIME_ZONE_LENGTH:
        try:
            if name not in _LOCAL_ZONES:
                return ZoneInfo(name)
        # A folder of the database, a file that is not a zone, a path that leads out of it.
        except (ZoneInfoNotFoundError, OSError, ValueError):
            pass
    raise InvalidSettingError(
        f"the time zone {quoted(name)} is not known; name one of the IANA database, such as UTC, "
        "Europe/Berlin or America/Sao_Paulo"
    )


def checked_every(every: object) -> int:
    """Return an interval in seconds, from a timedelta or a number of seconds.

    Raises:
        InvalidSettingError: if it is not whole seconds, from 1 second to 366 days.
    """
    seconds = every.total_seconds() if isinstance(every, timedelta) else every
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 1 <= seconds <= MAX_EVERY_SECONDS
        or seconds != int(seconds)
    ):
        raise InvalidSettingError(
            f"every is whole seconds or a timedelta, from 1 second to 366 days, got {quoted(every)}"
        )
    return int(seconds)


def _due(table: Timetable, first: datetime, until: datetime) -> Iterator[datetime]:
    yield first
    yield from _until(table, first, until)


def _until(table: Timetable, moment: datetime, until: datetime) -> Iterator[datetime]:
    for due in table.all_after(moment):
        if due > until:
            return
        yield due


def _reason(error: Exception) -> str:
    said = str(error)
    return f"{said[:1].lower()}{said[1:100]}" if said else "it cannot be read"
