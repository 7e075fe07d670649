"""Times in the options of commands."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from meshhook.cli.failures import UsageError

_AGO = re.compile(r"([0-9]{1,9})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EXAMPLE = "a time with its offset from UTC, as 2030-01-31T08:00Z"


def exact_moment(option: str, text: str) -> datetime:
    """Return the time that an option says.

    Raises:
        UsageError: if it is none, or lacks its offset from UTC.
    """
    moment = _parsed(text)
    if moment is None:
        raise UsageError(f"{option} is {_EXAMPLE}, got {text!r}")
    return moment


def past_moment(option: str, text: str) -> datetime:
    """Return the time that an option says: a time, or how long ago that was, as in 2h.

    Raises:
        UsageError: if it is neither.
    """
    ago = _AGO.fullmatch(text.strip())
    if ago is None:
        moment = _parsed(text)
    else:
        try:
            moment = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        except OverflowError:
            moment = None
    if moment is None:
        raise UsageError(
            f"{option} is how long ago, as 90s, 30m, 2h or 3d, or {_EXAMPLE}; got {text!r}"
        )
    return moment


def length_of_time(option: str, text: str) -> timedelta:
    """Return the length of time that an option says, as in 15m.

    Raises:
        UsageError: if it is none.
    """
    found = _AGO.fullmatch(text.strip())
    try:
        if found is not None:
            return timedelta(**{_UNITS[found[2]]: int(found[1])})
    except OverflowError:
        pass
    raise UsageError(f"{option} is a length of time, as 90s, 15m, 2h or 1d; got {text!r}")


def _parsed(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if moment.utcoffset() is None else moment
