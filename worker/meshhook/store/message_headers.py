"""The headers of a message: a JSON object beside its body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from meshhook.errors import InvalidJobError
from meshhook.escaping import quoted
from meshhook.job_policies import check_policy_header
from meshhook.priorities import PRIORITY_HEADER, checked_priority
from meshhook.store._json_encoding import encode

MAX_HEADERS_BYTES = 65_536


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
    text, size_bytes = encode(dict(headers), "headers")
    if size_bytes > MAX_HEADERS_BYTES:
        message = f"the headers are {size_bytes} bytes of JSON, at most {MAX_HEADERS_BYTES} are "
        raise InvalidJobError(message + "allowed; put data into the payload")
    return text


def with_header(headers: str | None, name: str, value: str) -> str:
    """Return headers as JSON text with one more among them, one of the queue's own."""
    header = f"{json.dumps(name)}:{json.dumps(value)}"
    return f"{{{header}}}" if headers is None else f"{headers[:-1]},{header}}}"


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
