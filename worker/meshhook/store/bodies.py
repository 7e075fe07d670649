"""The JSON of a job: encoding what a producer enqueues and decoding what a handler receives."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, NamedTuple
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json, to_jsonable_python

from meshhook.errors import (
    InvalidJobError,
    InvalidPayloadError,
    InvalidSettingError,
    JobTooLargeError,
)
from meshhook.escaping import quoted, shown
from meshhook.job_policies import check_policy_header
from meshhook.jobs import MAX_ID_LENGTH, Job, PayloadT, WorkflowJob
from meshhook.priorities import PRIORITY_HEADER, checked_priority
from meshhook.store._model_json import UnreadableModelError, describe_faults, model_json

MAX_HEADERS_BYTES = 65_536
MAX_RESULT_BYTES = 65_536
_IDENTIFIERS = ("run_id", "workflow_id", "project_id")
_ENVELOPE = frozenset((*_IDENTIFIERS, "payload"))
_MAX_FAULT_DEPTH = 100
_MAX_PLACE_CHARACTERS = 500
_HEAD = re.compile(r'\{"run_id": "([^"\\]*)", "payload": ')
_MAX_TAIL_LENGTH = 1_000
"""How long the end of a body may be to be kept: an id of another client may have any length."""
_TAIL_START = ', "project_id": "'
_TAIL = re.compile(r', "project_id": "([^"\\]*)", "workflow_id": "([^"\\]*)"\}')
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_SCALARS_AS_TEXT = (UUID, datetime, date, time, timedelta, Decimal, Enum, BaseModel)


def encode_body(job: object, max_bytes: int, *, is_payload: bool = False) -> str:
    """Return the JSON text of a job's message.

    A model that has a field `payload` but is not an envelope would be mistaken for one; it is
    therefore wrapped in an envelope.

    Args:
        job: a `WorkflowJob`, another pydantic model, or anything that JSON can hold.
        max_bytes: the most bytes of UTF-8 that the text may have.
        is_payload: whether a model is the payload even if it has all the fields of an envelope.
            Default false.

    Raises:
        InvalidJobError: if it is not JSON, or holds NaN, an infinity, or a character that
            PostgreSQL cannot store (the message names the place), or a model that could not be
            decoded from its own JSON.
        JobTooLargeError: if it is longer than `max_bytes`.
    """
    text, size_bytes = _encode(job, "job")
    if '"payload"' in text and isinstance(job, BaseModel) and not isinstance(job, WorkflowJob):
        text, size_bytes = _put_into_envelope(text, size_bytes, is_payload=is_payload)
    if size_bytes > max_bytes:
        raise JobTooLargeError(size_bytes, max_bytes)
    return text


def checked_body(text: str, max_bytes: int) -> str:
    """Return a whole message that somebody wrote as JSON text.

    Raises:
        InvalidJobError: if it is not JSON, or holds what PostgreSQL cannot store; the message
            names the place.
        JobTooLargeError: if it is longer than `max_bytes`.
    """
    if not isinstance(text, str):
        raise InvalidJobError(f"body is JSON text, got {quoted(text)}")
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJobError(f"the body is not JSON: {error}") from None
    _encode_with_care(plain, "body")
    size_bytes = len(text.encode())
    if size_bytes > max_bytes:
        raise JobTooLargeError(size_bytes, max_bytes)
    # Not as Python would write it: a number may have more digits than a float.
    return text


def encode_headers(headers: Mapping[str, Any] | None) -> str | None:
    """Return the JSON text of a message's headers, or None if there are none.

    Raises:
        InvalidJobError: if they are not a JSON object, use a `meshhook-` name that is no policy or
            priority of the job, or are longer than 65,536 bytes.
    """
    if headers is None:
        return None
    if not isinstance(headers, Mapping):
        message = f"headers are a mapping of names to JSON values, got {quoted(headers)}"
        raise InvalidJobError(message)
    if not headers:
        return None
    for name, value in headers.items():
        if name == PRIORITY_HEADER:
            checked_priority(value)
        elif str(name).startswith("meshhook-") and not check_policy_header(name, value, headers):
            message = (
                f"header {quoted(name)}: names that start with 'meshhook-' are the queue's own"
            )
            raise InvalidJobError(message)
    text, size_bytes = _encode(dict(headers), "headers")
    if size_bytes > MAX_HEADERS_BYTES:
        message = f"the headers are {size_bytes} bytes of JSON, at most {MAX_HEADERS_BYTES} are "
        raise InvalidJobError(message + "allowed; put data into the payload")
    return text


def encode_result(result: object) -> str:
    """Return the JSON text of what a handler returned.

    Raises:
        InvalidJobError: if it is not JSON, or longer than 65,536 bytes.
    """
    text, size_bytes = _encode(result, "result")
    if size_bytes > MAX_RESULT_BYTES:
        raise InvalidJobError(
            f"the result is {size_bytes} bytes of JSON, at most {MAX_RESULT_BYTES} are kept; "
            "store the data elsewhere and return a reference"
        )
    return text


def with_header(headers: str | None, name: str, value: str) -> str:
    """Return headers as JSON text with one more among them, one of the queue's own."""
    header = f"{json.dumps(name)}:{json.dumps(value)}"
    return f"{{{header}}}" if headers is None else f"{headers[:-1]},{header}}}"


def is_envelope(body: object) -> bool:
    """Return whether a body is an envelope: a payload and nothing else but identifiers."""
    return isinstance(body, dict) and "payload" in body and body.keys() <= _ENVELOPE


def _put_into_envelope(text: str, size_bytes: int, *, is_payload: bool) -> tuple[str, int]:
    """Return a model's JSON such that all of it is the payload, whatever its fields are called."""
    body = json.loads(text)
    if not is_envelope(body) or (body.keys() == _ENVELOPE and not is_payload):
        return text, size_bytes
    known = {name: body[name] for name in _IDENTIFIERS if isinstance(body.get(name), str)}
    return _encode({**known, "payload": body}, "job")


_ORJSON_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME


def _encode(value: object, what: str) -> tuple[str, int]:
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
    return _encode_with_care(value, what)


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
    if is_doubtful or (b"null" in text and _first_lost_float(item, "") is not None):
        raise TypeError
    return orjson.Fragment(text)


def _may_hold_lost_float(plain: object) -> bool:
    """Return whether a null may stand for NaN or an infinity, which orjson writes as null."""
    text = to_json(plain, inf_nan_mode="constants")
    return b"NaN" in text or b"Infinity" in text


def _encode_with_care(value: object, what: str) -> tuple[str, int]:
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
        fault = _first_fault(value, what) or _first_lost_float(value, what)
        raise InvalidJobError(fault or str(error)) from None
    except (TypeError, ValueError) as error:
        message = _first_fault(value, what) or f"the {what} is not JSON: {error}"
        raise InvalidJobError(message) from None
    if "\\u0000" in text and _NUL.search(text):
        place = _first_fault(body, what) or f"the {what}"
        message = f"{place}: PostgreSQL cannot store the character U+0000 in JSON; remove it"
        raise InvalidJobError(message)
    # In fields of type Any, pydantic silently writes null for NaN.
    if has_model and "null" in text and (lost := _first_lost_float(value, what)):
        raise InvalidJobError(lost)
    try:
        return text, len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        place = _first_fault(body, what) or f"the {what}"
        message = f"{place}: holds half of a surrogate pair, which is no character; remove it"
        raise InvalidJobError(message) from None


def _no_form(value: object) -> object:
    message = f"{type(value).__name__} has no form in JSON"
    raise TypeError(message)


def _readable(model: BaseModel) -> Any:
    return dict(model) if type(model) is WorkflowJob else from_json(model_json(model))


def _as_mapping(model: BaseModel) -> dict[str, Any]:
    if type(model) is WorkflowJob:
        return dict(model)
    # Not model_dump: it would turn NaN into null without a word.
    dumped = to_jsonable_python(model, inf_nan_mode="constants")
    return dict(dumped) if isinstance(dumped, dict) else {"payload": dumped}


def _as_json(value: object) -> Any:
    if isinstance(value, _SCALARS_AS_TEXT):
        return to_jsonable_python(value, inf_nan_mode="constants")
    if isinstance(value, Mapping):
        return dict(value)
    return _no_form(value)


def _first_fault(value: object, place: str, depth: int = 0) -> str | None:
    """Return the first place in a body that JSON or PostgreSQL cannot hold, and the reason."""
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
        faults = (_first_fault(item, f"{place}[{i}]", depth + 1) for i, item in enumerate(value))
    else:
        return _fault_of_scalar(value, place)
    return next((fault for fault in faults if fault), None)


def _fault_of_item(key: object, item: object, place: str, depth: int) -> str | None:
    if not isinstance(key, str | int | float | bool | None):
        return f"{place} has the key {quoted(key)}; the keys of a JSON object are strings"
    return _fault_of_scalar(key, f"{place}: the key {quoted(key)}") or _first_fault(
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
    if value is None or isinstance(value, (int, *_SCALARS_AS_TEXT)):
        return None
    return f"{place} is of type {type(value).__name__}, which JSON does not have"


def _first_lost_float(value: object, place: str, *, in_model: bool = False) -> str | None:
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
    faults = (_first_lost_float(item, name, in_model=in_model) for name, item in items)
    return next((fault for fault in faults if fault), None)


def decode_headers(text: str | None) -> dict[str, Any]:
    """Return a message's headers as a dictionary; any other JSON is kept under one key."""
    if text is None:
        return {}
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if isinstance(headers, dict):
        return headers
    return {} if headers is None else {"meshhook-foreign-headers": headers}


class _Tail(NamedTuple):
    """The end of a body behind its payload, and the identifiers in it."""

    text: str = ""
    project_id: str | None = None
    workflow_id: str | None = None


class _Envelope(BaseModel, Generic[PayloadT]):
    model_config = ConfigDict(coerce_numbers_to_str=True, extra="forbid")

    run_id: str | None = None
    workflow_id: str | None = None
    project_id: str | None = None
    payload: PayloadT


MAX_READABLE_LENGTH = 640
"""How long a body may be to be readable for certain: it has no room for deeper nesting than Python
reads, nor for a longer number."""


class BodyDecoder(Generic[PayloadT]):
    """Reads message bodies for one payload model.

    A body is an envelope if it is an object with `payload` and nothing else but `run_id`,
    `workflow_id` and `project_id`, each of which may be missing. Any other body, such as other PGMQ
    clients send, is itself the payload; identifiers in it are recognized all the same.
    """

    def __init__(self, payload_model: Any = None) -> None:
        """Take a pydantic model or any other type that a TypeAdapter accepts; None means any JSON.

        Raises:
            InvalidSettingError: if it is not a type that pydantic can decode.
        """
        model: Any = Any if payload_model is None else payload_model
        self.model: Any = model
        """The type of the payload; Any for plain JSON."""
        self._takes_anything = model is Any
        self._tail = _Tail()
        """The last one that was matched."""
        envelope: Any = _Envelope
        try:
            if isinstance(model, str):
                raise TypeError  # noqa: TRY301 - pydantic takes it for a type that comes later
            self._bare: TypeAdapter[PayloadT] = TypeAdapter(model)
            self._envelope: TypeAdapter[_Envelope[PayloadT]] = TypeAdapter(envelope[model])
        except Exception as error:
            # Not only pydantic's own errors: for a mapping it raises a KeyError.
            message = f"payload_model: expected a type that pydantic can read, got {quoted(model)}"
            raise InvalidSettingError(message) from error

    def decode(self, job: Job[PayloadT]) -> None:
        """Fill in the job's payload and identifiers from its body.

        Raises:
            InvalidPayloadError: if the model rejects the payload; the message lists the errors
                without the values. The identifiers are filled in all the same.
        """
        # Those of an encrypted job are beside the encrypted text, and have been read.
        if self._takes_anything and (job.is_encrypted or self._read_identifiers(job)):
            job.read_payload_with(_plain_payload)
            return
        try:
            envelope = self._envelope.validate_json(job.body)
        except ValidationError:
            self._decode_slowly(job)
        else:
            job.run_id = _cut(envelope.run_id)
            job.workflow_id = _cut(envelope.workflow_id)
            job.project_id = _cut(envelope.project_id)
            job.payload = envelope.payload

    def _read_identifiers(self, job: Job[PayloadT]) -> bool:
        """Read the identifiers of a body as `encode_body` writes it, without reading its payload.

        PostgreSQL orders the keys of a jsonb object by length, then by name: `run_id`, `payload`,
        `project_id`, `workflow_id`. The pieces matched here cannot occur inside a string, where a
        quotation mark is escaped, and the last brace closes the outermost object. A match is
        therefore unambiguous.
        """
        body = job.body
        head = _HEAD.match(body)
        if head is None:
            return False
        tail = self._tail
        # Of jobs in a row, most are of one workflow. A tail has its start nowhere but there, so
        # that a body that ends in it is matched by the same tail.
        if not (tail.text and body.endswith(tail.text)):
            match = _TAIL.fullmatch(body, body.rfind(_TAIL_START))
            if match is None:
                return False
            tail = _Tail(match[0], _cut(match[1]), _cut(match[2]))
            if len(tail.text) <= _MAX_TAIL_LENGTH:
                self._tail = tail
        job.run_id = _cut(head[1])
        job.project_id = tail.project_id
        job.workflow_id = tail.workflow_id
        return True

    def decode_early(self, job: Job[PayloadT]) -> None:
        """Do the same, and read a plain payload now if that may fail.

        For a job of a batch: when its handler reads it, a failure would be that of all.

        Raises:
            InvalidPayloadError: as `decode`, or if the payload cannot be read.
        """
        self.decode(job)
        if self._takes_anything and len(job.body) > MAX_READABLE_LENGTH:
            _ = job.payload

    def check(self, job: object, text: str) -> None:
        """Check that the model can decode the JSON of a job that is to be enqueued.

        Raises:
            InvalidJobError: naming the fields, and their values unless these may be secret.
        """
        payload = job.payload if type(job) is WorkflowJob else job
        if self._takes_anything or type(payload) is self.model:
            return  # a model has read its own JSON already
        try:
            self._envelope.validate_json(text)
        except ValidationError:
            body = json.loads(text)
            payload = body["payload"] if is_envelope(body) else body
            try:
                self._bare.validate_json(json.dumps(payload))
            except ValidationError as error:
                faults = describe_faults(error, self._bare)
                message = f"the payload does not fit the model of this queue's jobs: {faults}"
                raise InvalidJobError(message) from None

    def _decode_slowly(self, job: Job[PayloadT]) -> None:
        payload = body = _read_json(job.body)
        if isinstance(body, dict):
            job.run_id = _scalar_text(body.get("run_id"))
            job.workflow_id = _scalar_text(body.get("workflow_id"))
            job.project_id = _scalar_text(body.get("project_id"))
            payload = body["payload"] if is_envelope(body) else body
        if self._takes_anything:
            job.payload = payload
            return
        try:
            # Through JSON text, since pydantic reads JSON more leniently than Python objects.
            job.payload = self._bare.validate_json(json.dumps(payload))
        except ValidationError as error:
            raise InvalidPayloadError(_describe(error)) from None


def _plain_payload(text: str) -> Any:
    body = _read_json(text)
    # The text in between may hold more than a payload.
    return body["payload"] if is_envelope(body) else body


def _read_json(body: str) -> Any:
    try:
        return from_json(body)
    except ValueError:
        pass
    try:
        # JSON may be nested more deeply than pydantic reads it.
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        message = f"the body cannot be read as JSON: {error}"
        raise InvalidPayloadError(message) from None


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= MAX_ID_LENGTH else text[:MAX_ID_LENGTH]


def _scalar_text(value: object) -> str | None:
    is_scalar = isinstance(value, str | int | float) and not isinstance(value, bool)
    return _cut(str(value)) if is_scalar else None


def _describe(error: ValidationError) -> str:
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'payload'}: {fault['msg']}"
        for fault in error.errors(include_url=False, include_input=False)
    ]
    shown = "; ".join(faults[:5])
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""  # noqa: PLR2004
    return f"the payload does not fit the handler's model: {shown}{more}"
