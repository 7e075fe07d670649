"""Deadlines of jobs: until when a job may start, by its own headers or its queue's setting."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from math import inf
from typing import TYPE_CHECKING, Any

from meshhook.delays import MAX_DELAY_SECONDS
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.jobs import EXPIRES_AT_HEADER, EXPIRES_IN_HEADER, moment_from

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook.jobs import Job

MIN_EXPIRY_SECONDS = 0.001
# What PostgreSQL understands and Python does not: midnight at the end of a day, and a leap second.
_END_OF_DAY = re.compile(r"(.{10})[T ]24:00(?::00(?:\.0+)?)?([^:.0-9].*)")
_LEAP_SECOND = re.compile(r"(.{10}[T ]..:..):60(?:\.0+)?([^:.0-9].*)")


def deadline_of(job: Job[Any], queue_seconds: float | None) -> float:
    """Return until when a job may start, in seconds since 1970; infinite if for ever.

    Args:
        job: the job. Its own headers count before the queue's setting; nonsense of other clients
            under their names does not.
        queue_seconds: how long after it was enqueued, as the setting of its queue says; None means
            for ever.
    """
    headers = job.headers
    if headers:
        if EXPIRES_AT_HEADER in headers:
            moment = _moment(headers[EXPIRES_AT_HEADER])
            if moment is not None:
                return moment.timestamp()
        if EXPIRES_IN_HEADER in headers:
            seconds = headers[EXPIRES_IN_HEADER]
            if _is_length(seconds):
                return job.enqueued_timestamp + float(seconds)
    return inf if queue_seconds is None else job.enqueued_timestamp + queue_seconds


def job_expired_message(deadline: float) -> str:
    """Return the error message of a job that was not started before its deadline."""
    return f"not started before its deadline, {shown_moment(deadline)}"


def shown_moment(timestamp: float) -> str:
    """Return a moment as text; `timestamp` is in seconds since 1970."""
    return moment_from(timestamp).isoformat(timespec="milliseconds")


def expiry_headers(
    expires_at: datetime | None, expires_in: float | timedelta | None
) -> dict[str, Any]:
    """Return the headers for the deadline that a producer gives.

    Raises:
        InvalidSettingError: naming the argument, or if both are given.
    """
    if expires_at is None and expires_in is None:
        return {}
    if expires_at is not None and expires_in is not None:
        raise InvalidSettingError(
            "expires_at and expires_in were both given; leave one of them out"
        )
    if expires_at is not None:
        if not isinstance(expires_at, datetime) or expires_at.utcoffset() is None:
            raise InvalidSettingError(
                f"expires_at is a datetime with a time zone, got {quoted(expires_at)}"
            )
        try:
            text = expires_at.astimezone(UTC).isoformat()
        except OverflowError:
            raise InvalidSettingError(
                f"expires_at is a time of the years 1 to 9999, got {quoted(expires_at)}"
            ) from None
        return {EXPIRES_AT_HEADER: text}
    seconds = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
    if not _is_length(seconds):
        raise InvalidSettingError(
            f"expires_in is {MIN_EXPIRY_SECONDS:g} to {MAX_DELAY_SECONDS:.0f} seconds (366 days), "
            f"or a timedelta, got {quoted(expires_in)}"
        )
    return {EXPIRES_IN_HEADER: seconds}


def check_expires_at(value: object) -> None:
    """Check the header `meshhook-expires-at`.

    Raises:
        InvalidSettingError: if it is no time with its offset from UTC.
    """
    if _moment(value) is None:
        raise InvalidSettingError(
            f"a time with its offset from UTC, as 2030-01-31T08:00:00Z, got {quoted(value)}"
        )


def check_expires_in(value: object) -> None:
    """Check the header `meshhook-expires-in`.

    Raises:
        InvalidSettingError: if it is no number of seconds from 0.001 to 366 days.
    """
    if not _is_length(value):
        raise InvalidSettingError(
            f"{MIN_EXPIRY_SECONDS:g} to {MAX_DELAY_SECONDS:.0f} seconds (366 days), "
            f"got {quoted(value)}"
        )


def check_single_deadline(headers: Mapping[str, Any]) -> None:
    """Check that a job does not have two deadlines of its own.

    Raises:
        InvalidSettingError: if it does.
    """
    if EXPIRES_AT_HEADER in headers and EXPIRES_IN_HEADER in headers:
        raise InvalidSettingError(
            f"headers {EXPIRES_AT_HEADER} and {EXPIRES_IN_HEADER} were both given; leave one of "
            "them out"
        )


def _moment(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        if found := _END_OF_DAY.fullmatch(value):
            moment = datetime.fromisoformat(f"{found[1]}T00:00{found[2]}") + timedelta(days=1)
        elif found := _LEAP_SECOND.fullmatch(value):
            moment = datetime.fromisoformat(f"{found[1]}{found[2]}") + timedelta(minutes=1)
        else:
            moment = datetime.fromisoformat(value)
        return None if moment.utcoffset() is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _is_length(seconds: Any) -> bool:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return is_number and MIN_EXPIRY_SECONDS <= seconds <= MAX_DELAY_SECONDS
