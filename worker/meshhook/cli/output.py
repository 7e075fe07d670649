"""What commands print: JSON for programs, tables and sentences for people."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from meshhook.escaping import shown_json, shown_sentence

_MINUTE = 60
_HOUR = 3_600
_DAY = 86_400


def note(text: str) -> None:
    """Print a remark for people, on standard error."""
    sys.stderr.write(f"{shown_sentence(text)}\n")


def say(text: str) -> None:
    """Print a sentence as the result of a command."""
    sys.stdout.write(f"{shown_sentence(text)}\n")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    shrinks: bool = False
    """Whether its cells may be cut short."""
    is_optional: bool = False
    """Whether to leave it out where there is no room for it, or nothing in it."""


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Print rows, at most as wide as the terminal."""
    from meshhook.cli import tables  # noqa: PLC0415 - rich is slow to load, and --json needs none

    tables.print_renderable(tables.table(columns, rows, tables.console().width))


def print_fields(fields: Sequence[tuple[str, str]], *, indent: int = 0) -> None:
    """Print names and values, one pair a line."""
    from meshhook.cli import tables  # noqa: PLC0415 - as in print_table

    tables.print_renderable(tables.fields(fields, indent=indent))


def print_json(value: object) -> None:
    """Print one JSON document, escaped so that a terminal obeys nothing in it.

    Dataclasses and models become objects with their fields, moments ISO 8601 in UTC.
    """
    try:
        text = shown_json(_json(value, ensure_ascii=False))
    except ValueError:  # a number that JSON lacks: infinity or NaN
        value = _finite(value)
        text = shown_json(_json(value, ensure_ascii=False))
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # The output's encoding lacks a character. Escaped, it is still the same document.
        text = _json(value, ensure_ascii=True)
    sys.stdout.write(f"{text}\n")


def _json(value: object, *, ensure_ascii: bool) -> str:
    return json.dumps(value, default=_as_json, indent=2, ensure_ascii=ensure_ascii, allow_nan=False)


def _as_json(value: object) -> object:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return {field.name: getattr(value, field.name) for field in fields}
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _finite(value: Any) -> Any:
    """Return a value with null in place of infinity and NaN, which JSON lacks."""
    if dataclasses.is_dataclass(value) or isinstance(value, BaseModel):
        value = _as_json(value)
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def duration(seconds: float | None) -> str:
    """Return a length of time for people: `3m 12s`, `2h 5m`; `-` for None and infinity."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    seconds = max(0.0, float(seconds))
    if seconds < 10:  # noqa: PLR2004 - fractions matter below ten
        return _short_duration(seconds)
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR}h"


def _short_duration(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds}ms" if milliseconds else "0s"
    return f"{seconds:.1f}s"


def age(moment: datetime | None) -> str:
    """Return how long ago a moment was; `-` for None."""
    return "-" if moment is None else duration((datetime.now(UTC) - moment).total_seconds())


def moment_with_age(moment: datetime | None) -> str:
    """Return a moment in UTC and its distance from now; `-` for None."""
    if moment is None:
        return "-"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    distance = f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC ({distance})"


def count(number: int, *, capped: bool = False) -> str:
    """Return a number with thousands separators, and `+` if there may be more."""
    return f"{number:,}+" if capped and number else f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 job`, `1,200 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
