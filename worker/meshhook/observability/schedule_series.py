"""The series of schedules: made from the rows that an exporter has read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.errors import DatabaseError
from meshhook.observability.metrics.label_values import FIRING_OUTCOMES
from meshhook.observability.queue_series import MAX_NAME_CHARACTERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

MAX_SCHEDULES = 1_000
"""How many schedules of a database have series, a dozen each: the first by queue and name."""
MAX_SCHEDULE_CHARACTERS = 100

_NUMBERS = {
    "next_due_timestamp_seconds": "next_due_at",
    "late_seconds": "late_seconds",
    "interval_seconds": "interval_seconds",
    "last_enqueued_timestamp_seconds": "last_enqueued_at",
    "last_success_timestamp_seconds": "last_success_at",
    "unsucceeded_seconds": "unsucceeded_seconds",
}
"""Families with a series a schedule, if there is a figure: the name without `meshhook_schedule_`,
and the column."""


def check_schedule_rows(rows: Sequence[asyncpg.Record]) -> None:
    """Check that the rows about schedules can be exported.

    Raises:
        DatabaseError: if one cannot, or there are too many.
    """
    if len(rows) > MAX_SCHEDULES or not all(map(_is_about_a_schedule, rows)):
        raise DatabaseError("the answer of the database makes no sense: figures of schedules")


def _is_about_a_schedule(row: asyncpg.Record) -> bool:
    try:
        queue, name, paused = row["queue"], row["name"], row["paused"]
        numbers = [row[column] for column in _NUMBERS.values()]
        counts = [row[column] for column in (*FIRING_OUTCOMES, "known")]
    except KeyError:
        return False
    return (
        isinstance(queue, str)
        and len(queue) <= MAX_NAME_CHARACTERS
        and isinstance(name, str)
        and len(name) <= MAX_SCHEDULE_CHARACTERS
        and isinstance(paused, bool)
        and all(isinstance(each, int | float | None) for each in numbers)
        and all(isinstance(each, int) for each in counts)
    )


def add_schedule_series(families: Mapping[str, Any], row: asyncpg.Record) -> None:
    """Add the figures of one schedule to the families, by their full names."""
    labels = [row["queue"], row["name"]]
    for name, column in _NUMBERS.items():
        if row[column] is not None:
            families[f"meshhook_schedule_{name}"].add_metric(labels, float(row[column]))
    families["meshhook_schedule_paused"].add_metric(labels, float(row["paused"]))
    for outcome in FIRING_OUTCOMES:
        families["meshhook_schedule_firings_total"].add_metric([*labels, outcome], row[outcome])
