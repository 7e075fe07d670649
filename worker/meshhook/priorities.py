"""The priorities of jobs: four bands, of which the most urgent goes first."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Literal, TypeAlias, get_args

from meshhook.errors import InvalidJobError
from meshhook.escaping import quoted

PRIORITY_HEADER = "meshhook-priority"
"""The header with the priority of a message."""
AGED_SHARE = 0.25
"""The part of all jobs that may be aged ones while more urgent ones wait."""


class Priority(IntEnum):
    """The priority of a job, in a queue whose setting `prioritized` is on."""

    URGENT = 0
    """Goes first."""
    HIGH = 1
    NORMAL = 2
    """That of a job for which nothing is said."""
    LOW = 3
    """Runs when nothing else waits, or when it has waited for most of its target."""


PriorityName: TypeAlias = Literal["urgent", "high", "normal", "low"]
PRIORITY_NAMES: tuple[PriorityName, ...] = get_args(PriorityName)
"""The names of the priorities, the most urgent first."""
AnyPriority: TypeAlias = Priority | PriorityName | Literal[0, 1, 2, 3]
"""What callers give: a name, or a number from 0 (urgent) to 3 (low)."""

_BY_VALUE: dict[Any, Priority] = {
    value: each for each in Priority for value in (each, PRIORITY_NAMES[each])
}


def is_priority(value: object) -> bool:
    """Return whether a value is a priority: a name, or a number from 0 to 3."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return (is_number or isinstance(value, str)) and value in _BY_VALUE


def checked_priority(value: Any) -> Priority:
    """Return a priority.

    Raises:
        InvalidJobError: if it is none.
    """
    if not is_priority(value):
        raise InvalidJobError(
            f"priority is {', '.join(PRIORITY_NAMES)}, or 0 (urgent) to 3 (low), got "
            f"{quoted(value)}"
        )
    return _BY_VALUE[value]


def priority_of(headers: Mapping[str, Any]) -> Priority:
    """Return the priority of a message with these headers; nonsense is normal.

    As `meshhook.priority_of` in SQL, which decides.
    """
    value = headers.get(PRIORITY_HEADER)
    # PostgreSQL compares numbers: 1.0 is 1.
    if isinstance(value, float) and value in (0.0, 1.0, 2.0, 3.0):
        value = int(value)
    return _BY_VALUE[value] if is_priority(value) else Priority.NORMAL


def headers_with_priority(
    headers: Mapping[str, Any] | None, priority: Any, default: Any = None
) -> Mapping[str, Any] | None:
    """Return a message's headers with its priority among them.

    Args:
        headers: the other headers.
        priority: the priority; None for none.
        default: the priority if neither is said. Default: none.

    Raises:
        InvalidJobError: if the priority is none, or is given twice.
    """
    if not isinstance(headers, Mapping | None):
        return headers  # what is no mapping is refused with the other headers
    is_said = headers is not None and PRIORITY_HEADER in headers
    if priority is not None and is_said:
        raise InvalidJobError(
            f"priority={quoted(priority)} was given beside the header {PRIORITY_HEADER}; leave one "
            "of them out"
        )
    if priority is None:
        if default is None or is_said:
            return headers
        priority = default
    return {**(headers or {}), PRIORITY_HEADER: int(checked_priority(priority))}
