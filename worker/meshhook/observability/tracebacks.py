"""Exceptions as text, in bounded time whatever led to them."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

MAX_ERRORS = 100
"""How many errors a trace shows: causes, contexts and members of groups. Python reads all of
100,000, for a second and a half in which nothing else runs."""


def is_short(error: BaseException) -> bool:
    """Return whether all that led to an error, and all of a group, is little enough to show."""
    seen: set[int] = set()
    left: list[BaseException] = [error]
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if len(seen) > MAX_ERRORS:
            return False
        left += [found for found in (each.__cause__, each.__context__) if found is not None]
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions[: MAX_ERRORS + 1]
    return True


def trace_of(error: BaseException, tail: TracebackType | None) -> str:
    """Return the trace of an error, with all that led to it if that is short.

    Args:
        error: the error.
        tail: where to begin, such as at its `__traceback__`; None shows no frames.

    Raises:
        Exception: whatever the error raises when it is shown.
    """
    if is_short(error):
        return "".join(traceback.format_exception(type(error), error, tail))
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    lines = traceback.format_tb(tail)
    if lines:
        lines.insert(0, "Traceback (most recent call last):\n")
    return "".join(
        [*lines, f"{name}: {error}\n", f"(more than {MAX_ERRORS} errors led to it: not shown)\n"]
    )
