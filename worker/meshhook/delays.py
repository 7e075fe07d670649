"""Delays: how long until a job is ready."""

from __future__ import annotations

from datetime import timedelta

from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

MAX_DELAY_SECONDS = 366 * 24 * 3600.0


def delay_in_seconds(delay: float | timedelta) -> float:
    """Return a delay in seconds, from seconds or a timedelta.

    Raises:
        InvalidSettingError: if it is negative, not a number, or longer than 366 days.
    """
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else delay
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        message = f"a delay is a number of seconds or a timedelta, got {quoted(delay)}"
        raise InvalidSettingError(message)
    if not 0 <= seconds <= MAX_DELAY_SECONDS:
        message = f"a delay is 0 to {MAX_DELAY_SECONDS:.0f} seconds (366 days), got {quoted(delay)}"
        raise InvalidSettingError(message)
    return float(seconds)
