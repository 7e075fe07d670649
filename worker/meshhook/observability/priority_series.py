"""The series of queues with priorities, by priority: of the exporter, and of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.errors import DatabaseError
from meshhook.observability.metrics.label_values import PRIORITIES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg
    from prometheus_client import Counter

    from meshhook.observability.families import Families
    from meshhook.observability.histograms import Series

MAX_PRIORITY_ROWS = 40_000
"""How many rows of bands are exported: four a queue, for as many queues as there may be."""
MAX_NAME_CHARACTERS = 63

_NUMBERS = {
    "waiting_messages": "waiting",
    "oldest_ready_seconds": "oldest_ready_seconds",
    "target_seconds": "target_seconds",
}
"""Families with a series a band: the name without `meshhook_queue_priority_`, and the column."""
PRIORITY_FAMILIES = frozenset(f"meshhook_queue_priority_{name}" for name in _NUMBERS)
"""The families that only queues with priorities have."""


def check_priority_rows(rows: Sequence[asyncpg.Record]) -> None:
    """Check that the rows about priorities can be exported.

    Raises:
        DatabaseError: if one cannot, or there are too many.
    """
    if len(rows) > MAX_PRIORITY_ROWS or not all(map(_is_about_a_priority, rows)):
        raise DatabaseError("the answer of the database makes no sense: figures of priorities")


def _is_about_a_priority(row: asyncpg.Record) -> bool:
    try:
        numbers = [row[column] for column in _NUMBERS.values()]
        queue, problem, priority = row["queue"], row["problem"], row["priority"]
    except KeyError:
        return False
    return (
        isinstance(queue, str)
        and len(queue) <= MAX_NAME_CHARACTERS
        and isinstance(problem, str | None)
        and (
            problem is not None
            or (priority in PRIORITIES and all(isinstance(each, int | float) for each in numbers))
        )
    )


def add_priority(families: Mapping[str, Any], row: asyncpg.Record) -> None:
    """Add the figures of one band of a queue to the families, by their full names."""
    for name, column in _NUMBERS.items():
        family = families[f"meshhook_queue_priority_{name}"]
        family.add_metric([row["queue"], row["priority"]], float(row[column]))


class PriorityWaits:
    """How long jobs of one queue waited in a worker, by priority.

    The series exist from the first job on that has a band: other queues have none.
    """

    def __init__(self, queue_name: str, families: Families) -> None:
        """Take the queue, and the families of the registry."""
        self._queue_name = queue_name
        self._waits = families.histogram("meshhook_worker_priority_wait_seconds")
        self._late = families.counter("meshhook_worker_priority_late_total")
        self._series: tuple[tuple[Series, Counter], ...] = ()

    def waited(self, band: int, wait_seconds: float, target_seconds: Sequence[float]) -> None:
        """Note a wait, and whether it was longer than the target of its band."""
        if not self._series:
            self._series = tuple(
                (
                    self._waits.labels(self._queue_name, name),
                    self._late.labels(self._queue_name, name),
                )
                for name in PRIORITIES
            )
        wait, late = self._series[band]
        wait.observe(wait_seconds)
        if wait_seconds > target_seconds[band]:
            late.inc()

    def count(self) -> None:
        """Count what was noted; call it after each batch of attempts."""
        for wait, _ in self._series:
            wait.count()
