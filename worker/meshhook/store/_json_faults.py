"""Where a value cannot be JSON, or cannot be stored as such: the place and the reason."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from meshhook.escaping import quoted, shown
from meshhook.jobs import WorkflowJob

SCALARS_AS_TEXT = (UUID, datetime, date, time, timedelta, Decimal, Enum, BaseModel)
"""Types that JSON does not have, and for which pydantic knows a form."""

_MAX_FAULT_DEPTH = 100
_MAX_PLACE_CHARACTERS = 500


def first_fault(value: object, place: str, depth: int = 0) -> str | None:
    """Return the first place in a value that JSON or PostgreSQL cannot hold, and the reason."""
    if depth > _MAX_FAULT_DEPTH:
        return None
    if isinstance(value, BaseModel):
        try:
            value = _as_mapping(value)
        except ValueError as error:
            return f"{place} cannot be written as JSON: {error}"
    if isinstance(value, Mapping):
        faults = (_fault_of_item(key, item, place, depth) for key, item in value.items())
    elif isinstance(value, list | tuple):
        faults = (first_fault(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value))
    else:
        return _fault_of_scalar(value, place)
    return next((fault for fault in faults if fault), None)


def _as_mapping(model: BaseModel) -> dict[str, Any]:
    if type(model) is WorkflowJob:
        return dict(model)
    # Not model_dump: it would turn NaN into null without a word.
    dumped = to_jsonable_python(model, inf_nan_mode="constants")
    return dict(dumped) if isinstance(dumped, dict) else {"payload": dumped}


def _fault_of_item(key: object, item: object, place: str, depth: int) -> str | None:
    if not isinstance(key, str | int | float | bool | None):
        return f"{place} has the key {quoted(key)}; the keys of a JSON object are strings"
    return _fault_of_scalar(key, f"{place}: the key {quoted(key)}") or first_fault(
        item, _within(place, key), depth + 1
    )


def _within(place: str, key: object) -> str:
    """Return the place below a key, which may be any text; a long path is cut at its end."""
    name = shown(key, limit=80) if isinstance(key, str) else quoted(key, limit=80)
    return f"{place[:_MAX_PLACE_CHARACTERS]}.{name}"


def _fault_of_scalar(value: object, place: str) -> str | None:
    if isinstance(value, str):
        is_storable = "\x00" not in value and not any("\ud800" <= c <= "\udfff" for c in value)
        return None if is_storable else place
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{place} is {value}, which is not JSON"
    if value is None or isinstance(value, (int, *SCALARS_AS_TEXT)):
        return None
    return f"{place} is of type {type(value).__name__}, which JSON does not have"


def first_lost_float(value: object, place: str, *, in_model: bool = False) -> str | None:
    """Return the first place in a model that holds NaN or an infinity."""
    if isinstance(value, BaseModel):
        in_model = in_model or type(value) is not WorkflowJob
        value = value.model_dump(warnings=False) if in_model else dict(value)
    if isinstance(value, Mapping):
        items = [(_within(place, key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{place}[{i}]", item) for i, item in enumerate(value)]
    else:
        is_lost = in_model and isinstance(value, float) and not math.isfinite(value)
        return f"{place} is {value}, which is not JSON" if is_lost else None
    faults = (first_lost_float(item, name, in_model=in_model) for name, item in items)
    return next((fault for fault in faults if fault), None)
