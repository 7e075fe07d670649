"""Reading the header Retry-After: a pure function."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SECONDS = re.compile(r"[0-9]{1,30}")
_MAX_LENGTH = 100


def retry_after_seconds(header: str | None, now: datetime, most_seconds: float) -> float | None:
    """Return how long a receiver asks to wait.

    Args:
        header: whole seconds, or an HTTP date.
        now: the present moment, with its time zone.
        most_seconds: a longer time becomes this one, so that no receiver parks a job for years.

    Returns:
        The seconds; None if there is no header, if it is neither of the two, or if it names no time
        in the future.
    """
    text = (header or "").strip()
    if not text or len(text) > _MAX_LENGTH:
        return None
    if _SECONDS.fullmatch(text):
        seconds = float(text)
    else:
        try:
            moment = parsedate_to_datetime(text)
            # HTTP dates are in GMT, even where they do not say so.
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            seconds = (moment - now).total_seconds()
        except (ValueError, OverflowError, TypeError):
            return None
    return min(seconds, most_seconds) if seconds > 0 else None
