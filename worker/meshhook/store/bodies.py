"""Bodies of messages: the JSON of what a producer enqueues."""

from __future__ import annotations

import json

from pydantic import BaseModel

from meshhook.errors import InvalidJobError, JobTooLargeError
from meshhook.escaping import quoted
from meshhook.jobs import WorkflowJob
from meshhook.store._json_encoding import encode, encode_with_care

_IDENTIFIERS = ("run_id", "workflow_id", "project_id")
_ENVELOPE = frozenset((*_IDENTIFIERS, "payload"))


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
    text, size_bytes = encode(job, "job")
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
    encode_with_care(plain, "body")
    size_bytes = len(text.encode())
    if size_bytes > max_bytes:
        raise JobTooLargeError(size_bytes, max_bytes)
    # Not as Python would write it: a number may have more digits than a float.
    return text


def is_envelope(body: object) -> bool:
    """Return whether a body is an envelope: a payload and nothing else but identifiers."""
    return isinstance(body, dict) and "payload" in body and body.keys() <= _ENVELOPE


def _put_into_envelope(text: str, size_bytes: int, *, is_payload: bool) -> tuple[str, int]:
    """Return a model's JSON such that all of it is the payload, whatever its fields are called."""
    body = json.loads(text)
    if not is_envelope(body) or (body.keys() == _ENVELOPE and not is_payload):
        return text, size_bytes
    known = {name: body[name] for name in _IDENTIFIERS if isinstance(body.get(name), str)}
    return encode({**known, "payload": body}, "job")
