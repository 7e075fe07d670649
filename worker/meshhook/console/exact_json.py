"""JSON whose numbers stay as they are written: the database keeps more digits than a float has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a document; unlike Python's own, it equals no boolean."""

    text: str
    """As it is written there."""

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        """Return itself: it never changes."""
        return self


def parsed(text: str) -> Any:
    """Return the values of a document, each number as a `Number`.

    Raises:
        ValueError: if it is not JSON.
        RecursionError: if it is nested more deeply than Python reads.
    """
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)


def written(value: Any, *, is_indented: bool = False) -> str:
    """Return the document of values, of which numbers may be Python's own, too.

    Args:
        value: what `parsed` returns, or a part of it.
        is_indented: whether it is for people. Default: as short as it may be.

    Raises:
        RecursionError: if it is nested more deeply than Python writes.
    """
    parts: list[str] = []
    _write(value, parts, "\n" if is_indented else "")
    return "".join(parts)


def _write(value: Any, parts: list[str], line: str) -> None:
    """Write a value; `line` begins a line of its depth, and is empty if there are no lines."""
    if isinstance(value, Number):
        parts.append(value.text)
        return
    if not isinstance(value, dict | list) or not value:
        parts.append(json.dumps(value, ensure_ascii=False))
        return
    inner = line and f"{line}  "
    before = inner
    parts.append("{" if isinstance(value, dict) else "[")
    for key in value:
        parts.append(before)
        before = f",{inner}"
        if isinstance(value, dict):
            parts.append(f"{json.dumps(key, ensure_ascii=False)}:{' ' if line else ''}")
            _write(value[key], parts, inner)
        else:
            _write(key, parts, inner)
    parts.append(line + ("}" if isinstance(value, dict) else "]"))
