"""Numbers, durations and sentences as people write them. Pure."""

from __future__ import annotations

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_SMALLEST_RATE = 0.01
_WHOLE = 10
"""From here on, no digit after the point matters."""


def as_sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop; names at its start stay as they are."""
    text = text.strip()
    if not text:
        return ""
    word = text.split(maxsplit=1)[0]
    if word.isalpha() and word.islower():
        text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else f"{text}."


def replicas_text(count: int) -> str:
    """Return a number of replicas: `1 replica`, `20 replicas`."""
    return f"{count:,} replica{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return a duration in the unit that people use for one of its size: `95 s`, `20 min`."""
    if seconds < 1:
        return "less than 1 s"
    if seconds < 10 * _MINUTE:
        return f"{seconds:,.0f} s"
    for unit, name in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * unit:
            count = seconds / unit
            return f"{count:,.0f} {name}" if count >= _WHOLE else f"{count:.2g} {name}"
    return f"{seconds:,.0f} s"


def rate_text(per_second: float) -> str:
    """Return a rate with two digits; below 0.01 it is 0."""
    if per_second < _SMALLEST_RATE:
        return "0"
    return f"{two_digits(per_second):,}"


def two_digits(value: float) -> float:
    """Return a number with two significant digits, an integer if it is one."""
    number = float(f"{value:.2g}")
    return int(number) if number.is_integer() else number
