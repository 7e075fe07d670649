"""The JSON of any value that PostgreSQL can store, or an error that names the place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic_core import from_json, to_json, to_jsonable_python

from meshhook.errors import InvalidJobError
from meshhook.jobs import WorkflowJob
from meshhook.store._json_faults import SCALARS_AS_TEXT, first_fault, first_lost_float
from meshhook.store._model_json import UnreadableModelError, model_json

_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_ORJSON_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def encode(value: object, what: str) -> tuple[str, int]:
    """Return the JSON text of `value` and its length in bytes; `what` names it in errors."""
    try:
        # Not a copy: the dictionary of a WorkflowJob holds its fields and nothing else.
        plain = value.__dict__ if type(value) is WorkflowJob else value
        # It accepts JSON's own types, a few types with one obvious form, and models.
        text = orjson.dumps(plain, default=_fragment, option=_ORJSON_OPTIONS)
        if b"\\u0000" not in text and not (b"null" in text and _may_hold_lost_float(plain)):
            return text.decode(), len(text)
    except (TypeError, ValueError, RecursionError):
        pass
    return encode_with_care(value, what)


def _fragment(item: object) -> orjson.Fragment:
    """Return the JSON of a model.

    Raises:
        TypeError: if it is not a model, or could not be decoded from its own JSON.
    """
    if not isinstance(item, BaseModel):
        raise TypeError
    text = model_json(item)
    # pydantic writes NaN as null or as a name, as the model is configured.
    is_doubtful = b"NaN" in text or b"Infinity" in text
    if is_doubtful or (b"null" in text and first_lost_float(item, "") is not None):
        raise TypeError
    return orjson.Fragment(text)


def _may_hold_lost_float(plain: object) -> bool:
    """Return whether a null may stand for NaN or an infinity, which orjson writes as null."""
    text = to_json(plain, inf_nan_mode="constants")
    return b"NaN" in text or b"Infinity" in text


def encode_with_care(value: object, what: str) -> tuple[str, int]:
    """Encode values that orjson does not accept, or raise an error that names the place."""
    has_model = isinstance(value, BaseModel) and type(value) is not WorkflowJob

    def as_json(item: object) -> Any:
        nonlocal has_model
        has_model = has_model or isinstance(item, BaseModel)
        return _readable(item) if isinstance(item, BaseModel) else _as_json(item)

    try:
        body = _readable(value) if isinstance(value, BaseModel) else value
        text = json.dumps(
            body, allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=as_json
        )
    except RecursionError:
        message = f"the {what} is nested too deeply for JSON, or refers to itself"
        raise InvalidJobError(message) from None
    except UnreadableModelError as error:
        fault = first_fault(value, what) or first_lost_float(value, what)
        raise InvalidJobError(fault or str(error)) from None
    except (TypeError, ValueError) as error:
        message = first_fault(value, what) or f"the {what} is not JSON: {error}"
        raise InvalidJobError(message) from None
    if "\\u0000" in text and _NUL.search(text):
        place = first_fault(body, what) or f"the {what}"
        message = f"{place}: PostgreSQL cannot store the character U+0000 in JSON; remove it"
        raise InvalidJobError(message)
    # In fields of type Any, pydantic silently writes null for NaN.
    if has_model and "null" in text and (lost := first_lost_float(value, what)):
        raise InvalidJobError(lost)
    try:
        return text, len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        place = first_fault(body, what) or f"the {what}"
        message = f"{place}: holds half of a surrogate pair, which is no character; remove it"
        raise InvalidJobError(message) from None


def _no_form(value: object) -> object:
    message = f"{type(value).__name__} has no form in JSON"
    raise TypeError(message)


def _readable(model: BaseModel) -> Any:
    return dict(model) if type(model) is WorkflowJob else from_json(model_json(model))


def _as_json(value: object) -> Any:
    if isinstance(value, SCALARS_AS_TEXT):
        return to_jsonable_python(value, inf_nan_mode="constants")
    if isinstance(value, Mapping):
        return dict(value)
    return _no_form(value)
