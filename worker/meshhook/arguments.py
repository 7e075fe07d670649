"""Checks of arguments: numbers, texts and flags, and how to name a value of the wrong type."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import MINYEAR, UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from meshhook.errors import InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.names import KEY_HEADER, MAX_KEY_LENGTH

MAX_ID = 2**63 - 1
"""The largest id that the database can hold."""
MAX_PORT = 65_535
"""The highest TCP port."""


def check_range(name: str, value: int, maximum: int, minimum: int = 1) -> None:
    """Check that a number is between `minimum` and `maximum`.

    Raises:
        InvalidSettingError: if it is not.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or not minimum <= value <= maximum:
        raise InvalidSettingError(
            f"{name} is a whole number from {minimum} to {maximum}, got {quoted(value)}"
        )


def checked_seconds(name: str, value: float, least: float, most: float) -> float:
    """Return a duration in seconds that lies between `least` and `most`.

    Raises:
        InvalidSettingError: if it does not, or is no number.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise InvalidSettingError(f"{name} is {least:g} to {most:g} seconds, got {quoted(value)}")
    return float(value)


def checked_id(name: str, value: int) -> int:
    """Return an id that the database can look up; one out of range becomes an id that is unused.

    Raises:
        InvalidSettingError: if it is not a whole number.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSettingError(f"{name} is a whole number, got {quoted(value)}")
    return max(-1, min(value, MAX_ID))


def checked_text(name: str, value: str) -> str:
    """Return a text.

    Raises:
        InvalidSettingError: if it is not a string.
    """
    if not isinstance(value, str):
        raise InvalidSettingError(f"{name} is text, got {quoted(value)}")
    return value


def checked_storable_text(name: str, value: str) -> str:
    """Return a text that a database can hold.

    Raises:
        InvalidSettingError: if it is not a string, or has a NUL or half of a surrogate pair.
    """
    text = checked_text(name, value)
    if "\0" in text or text.encode("utf-8", "replace").decode() != text:
        raise InvalidSettingError(f"{name}: no text that a database can hold, got {quoted(text)}")
    return text


def checked_flag(name: str, value: bool) -> bool:  # noqa: FBT001 - it is what is checked
    """Return true or false.

    Raises:
        InvalidSettingError: if it is neither.
    """
    if not isinstance(value, bool):
        raise InvalidSettingError(f"{name} is true or false, got {quoted(value)}")
    return value


def utc_moment(moment: datetime, plus: timedelta = timedelta()) -> datetime:
    """Return a time, moved by `plus`, in UTC; at the ends of Python's calendar, the end.

    The database takes no time that is beyond them in UTC, such as 0001-01-01 00:00+14:00.
    """
    try:
        return moment.astimezone(UTC) + plus
    except OverflowError:
        is_first = moment.year == MINYEAR
        return datetime.min.replace(tzinfo=UTC) if is_first else datetime.max.replace(tzinfo=UTC)


def checked_ids(values: Sequence[int], maximum: int) -> list[int]:
    """Return ids that the database can look up.

    Raises:
        InvalidSettingError: if one is not a whole number, if there are more than `maximum`, or if
            `values` is not a list.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise InvalidSettingError(f"ids: expected a list of whole numbers, got {quoted(values)}")
    if len(values) > maximum:
        raise InvalidSettingError(
            f"at most {maximum} ids are taken at once, got {len(values)}; give them in parts"
        )
    return [checked_id("an id", value) for value in values]


def headers_with_key(
    headers: Mapping[str, Any] | None, key: str | UUID | None, key_path: str | None
) -> Mapping[str, Any] | None:
    """Return a message's headers with its key among them.

    Args:
        headers: the other headers.
        key: a string of 1 to 200 characters or a UUID; None for none.
        key_path: where in the body the queue takes its keys from; None if it does not.

    Raises:
        InvalidJobError: if the key is anything else, or is given twice.
    """
    if key is None or not isinstance(headers, Mapping | None):
        return headers  # what is no mapping is refused with the other headers
    if isinstance(key, UUID):
        key = str(key)
    if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidJobError(
            f"key is a string of 1 to {MAX_KEY_LENGTH} characters or a UUID, got {quoted(key)}"
        )
    if key_path is not None:
        raise InvalidJobError(
            f"key={quoted(key)}: this queue takes the key from the body, at {key_path}; leave key "
            "out"
        )
    if headers is not None and KEY_HEADER in headers:
        raise InvalidJobError(
            f"key={quoted(key)} was given beside the header {KEY_HEADER}, which is the key; leave "
            "one of them out"
        )
    return {**(headers or {}), KEY_HEADER: key}


def kind_of(value: object) -> str:
    """Return what to call the type of a value in an error."""
    kind = value if isinstance(value, type) else type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"the class {name}" if isinstance(value, type) else name


def way_out(value: object) -> str:
    """Return what to do instead of passing a value for a pool or connection."""
    if value is None or isinstance(value, str | bytes):
        return "; a pool is opened by await Database.connect(url) or await asyncpg.create_pool(url)"
    if asyncio.iscoroutine(value):
        return "; await it first"
    package = type(value).__module__.partition(".")[0]
    if package in {"django", "psycopg", "psycopg_pool", "sqlalchemy"}:
        return (
            "; MeshHook opens its own connections with asyncpg. The connection or session that "
            "your transaction is on is taken by enqueue(..., connection=...)"
        )
    if package == "asyncpg":
        return "; pass the connection itself"
    return ""
