"""The JSON of what a handler returned."""

from __future__ import annotations

from meshhook.errors import InvalidJobError
from meshhook.store._json_encoding import encode

MAX_RESULT_BYTES = 65_536


def encode_result(result: object) -> str:
    """Return the JSON text of what a handler returned.

    Raises:
        InvalidJobError: if it is not JSON, or longer than 65,536 bytes.
    """
    text, size_bytes = encode(result, "result")
    if size_bytes > MAX_RESULT_BYTES:
        raise InvalidJobError(
            f"the result is {size_bytes} bytes of JSON, at most {MAX_RESULT_BYTES} are kept; "
            "store the data elsewhere and return a reference"
        )
    return text
