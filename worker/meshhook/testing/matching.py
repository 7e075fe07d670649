"""Comparing a payload with what a test expects of it: a pure function that names the difference."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from meshhook.escaping import quoted
from meshhook.store.bodies import encode_body

_SHOWN_CHARACTERS = 80
_AS_TEXT = (UUID, date, time, timedelta, Decimal, Enum)
"""Types that JSON lacks, which are stored as the text that pydantic writes for them."""


def difference(expected: Any, found: Any, place: str = "payload") -> str | None:
    """Return the first difference between `found` and what is expected, or None.

    An object may have keys that are not expected; a list must have exactly the expected items. A
    pydantic model stands for its JSON. Other values are compared with `==`, so `pytest.approx(...)`
    and `unittest.mock.ANY` can be used.

    Args:
        expected: what the test expects.
        found: what is there, as plain JSON values.
        place: the name of the compared value, for the message.
    """
    expected = _plain(expected)
    if isinstance(expected, Mapping) and isinstance(found, dict):
        return _difference_of_objects(expected, found, place)
    if isinstance(expected, list | tuple) and isinstance(found, list):
        return _difference_of_lists(expected, found, place)
    # In Python True == 1; in JSON they differ.
    is_same_kind = isinstance(found, bool) == isinstance(expected, bool) or not isinstance(
        expected, bool | int | float
    )
    if is_same_kind and expected == found:
        return None
    return f"{place} is {_shown(found)}, not {_shown(expected)}"


def _difference_of_objects(
    expected: Mapping[Any, Any], found: dict[str, Any], place: str
) -> str | None:
    for key, value in expected.items():
        name = str(key)
        if name not in found:
            return f"{place}.{name} is missing"
        fault = difference(value, found[name], f"{place}.{name}")
        if fault is not None:
            return fault
    return None


def _difference_of_lists(expected: Sequence[Any], found: list[Any], place: str) -> str | None:
    if len(expected) != len(found):
        return f"{place} has {len(found)} items, not {len(expected)}"
    for position, (value, item) in enumerate(zip(expected, found, strict=True)):
        fault = difference(value, item, f"{place}[{position}]")
        if fault is not None:
            return fault
    return None


def _plain(expected: Any) -> Any:
    if isinstance(expected, BaseModel):
        return json.loads(encode_body([expected], sys.maxsize))[0]
    return to_jsonable_python(expected) if isinstance(expected, _AS_TEXT) else expected


def _shown(value: object) -> str:
    return quoted(value, limit=_SHOWN_CHARACTERS)
