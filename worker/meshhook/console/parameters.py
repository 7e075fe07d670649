"""What pages are asked for in addresses and forms, checked."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from meshhook.arguments import MAX_ID, checked_id
from meshhook.dead_letter_search import DeadLetterFilter
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import FormData, QueryParams

FILTER_NAMES = ("error_type", "since", "until", "key", "run_id", "workflow_id", "project_id")

_MAY_BE_BLANK = frozenset(FILTER_NAMES) - {"since", "until"}
_AGO = re.compile(r"(\d{1,4})\s*(min|h|d)")
_UNITS = {"min": "minutes", "h": "hours", "d": "days"}
_MAX_TEXT = 1_000


def text(values: QueryParams | FormData, name: str) -> str | None:
    """Return a field without blanks around it; None if it is empty.

    Raises:
        InvalidSettingError: if it is too long, or holds what no text in the database has.
    """
    value = values.get(name)
    if not isinstance(value, str) or not value.strip():
        return None
    return checked_text(value, name).strip()


def sought(values: QueryParams | FormData, name: str) -> str | None:
    """Return what is searched for, without blanks around it; None if there is nothing.

    Blanks alone are kept of what is no time, number or name of ours: an error or a run may be
    called so, and without it all would be found.

    Raises:
        InvalidSettingError: if it is too long, or holds what no text in the database has.
    """
    found = text(values, name)
    if found is None and name in _MAY_BE_BLANK:
        found = exact_text(values, name) or None
    return found


def exact_text(values: QueryParams | FormData, name: str) -> str | None:
    """Return a field as it is, with blanks around it; None if there is none.

    Raises:
        InvalidSettingError: if it is too long, or holds what no text in the database has.
    """
    value = values.get(name)
    return checked_text(value, name) if isinstance(value, str) else None


def checked_text(value: str, name: str) -> str:
    """Return a text as it is.

    Raises:
        InvalidSettingError: if it is too long, or holds what no text in the database has.
    """
    if len(value) > _MAX_TEXT:
        raise InvalidSettingError(f"{name} has at most {_MAX_TEXT} characters, got {len(value)}")
    if "\0" in value:
        raise InvalidSettingError(f"{name} holds the character U+0000, got {quoted(value)}")
    return value


def number(value: str, name: str) -> int:
    """Return an id.

    Raises:
        InvalidSettingError: if it is none.
    """
    if not value.isascii() or not value.isdecimal() or len(value) > len(str(MAX_ID)):
        raise InvalidSettingError(f"{name} is a number, got {quoted(value)}")
    return checked_id(name, int(value))


def optional_number(values: QueryParams | FormData, name: str) -> int | None:
    """Return an id; None if the field is empty."""
    value = text(values, name)
    return None if value is None else number(value, name)


def moment(value: str, name: str, now: datetime | None = None) -> datetime:
    """Return a time: `2026-12-01 02:00` in UTC, with another offset, or `12 h` ago.

    Raises:
        InvalidSettingError: if it is none.
    """
    now = now or datetime.now(UTC)
    ago = _AGO.fullmatch(value.removesuffix("ago").strip())
    try:
        if ago is not None:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(value)
        return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidSettingError(
            f"{name} is a time such as 2026-12-01 02:00 (UTC) or 12 h, got {quoted(value)}"
        ) from None


def filter_of(values: QueryParams | FormData) -> DeadLetterFilter:
    """Return which dead letters are asked for.

    Raises:
        InvalidSettingError: naming the field that is wrong.
    """
    found = {name: sought(values, name) for name in FILTER_NAMES}
    since, until = found.pop("since"), found.pop("until")
    return DeadLetterFilter(
        since=None if since is None else moment(since, "since"),
        until=None if until is None else moment(until, "until"),
        **found,
    )


def filter_fields(values: QueryParams | FormData, *, is_fixed: bool = False) -> dict[str, str]:
    """Return the fields of a filter as they were written; if fixed, with times in full."""
    found = {name: value for name in FILTER_NAMES if (value := sought(values, name)) is not None}
    if is_fixed:
        for name in ("since", "until"):
            if name in found:
                found[name] = moment(found[name], name).isoformat()
    return found


def query(values: Mapping[str, object]) -> str:
    """Return values as the end of an address, from its question mark on; a list as one each."""
    found = {name: value for name, value in values.items() if value is not None}
    text = urlencode(found, doseq=True)
    return f"?{text}" if text else ""
