"""The series of queues: made from the rows that an exporter has read. A key never has its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.errors import DatabaseError
from meshhook.observability.metrics.label_values import KEPT_BACK_REASONS, STATES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

MAX_QUEUES = 10_000
"""How many queues of a database are exported; each has some twenty series."""
MAX_NAME_CHARACTERS = 63

_NUMBERS = {
    "oldest_ready_seconds": "oldest_ready_seconds",
    "enqueued_total": "enqueued_total",
    "dlq_messages": "dead_letters",
    "dlq_oldest_seconds": "oldest_dead_letter_seconds",
    "messages_capped": "capped",
    "paused": "paused",
    "workers": "workers",
    "worker_slots": "worker_slots",
}
"""Families with a series a queue: the name without `meshhook_queue_`, and the column."""


_FIGURES = (
    *STATES,
    *_NUMBERS.values(),
    *("queue_bytes", "dlq_bytes", "archive_bytes", "history_bytes", "finished_bytes"),
    *("queue_dead_tuples", "dlq_dead_tuples"),
)


def check_rows(rows: Sequence[asyncpg.Record]) -> None:
    """Check that rows can be exported: a single bad one would make every scrape fail.

    Raises:
        DatabaseError: if a row is not, or there are too many.
    """
    if len(rows) > MAX_QUEUES:
        raise DatabaseError(
            f"the database has {len(rows):,} queues; at most {MAX_QUEUES:,} are exported"
        )
    if not all(map(_makes_sense, rows)):
        raise DatabaseError("the answer of the database makes no sense: a queue's figures")


def _makes_sense(row: asyncpg.Record) -> bool:
    try:
        queue, problem = row["queue"], row["problem"]
        numbers = [row[name] for name in _FIGURES]
        states = [row[state] for state in STATES]
    except KeyError:
        return False
    return (
        isinstance(queue, str | None)
        and len(queue or "") <= MAX_NAME_CHARACTERS
        and isinstance(problem, str | None)
        and all(isinstance(number, int | float | None) for number in numbers)
        and (queue is None or problem is not None or None not in states)
    )


def add_queue(families: Mapping[str, Any], row: asyncpg.Record) -> None:
    """Add the figures of one queue to the families, by their full names."""
    queue = row["queue"]
    for state in STATES:
        families["meshhook_queue_messages"].add_metric([queue, state], row[state])
    for name, column in _NUMBERS.items():
        families[f"meshhook_queue_{name}"].add_metric([queue], float(row[column] or 0))
    for table in ("queue", "dlq"):
        sizes = families["meshhook_queue_table_bytes"]
        sizes.add_metric([queue, table], row[f"{table}_bytes"] or 0)
        dead = families["meshhook_queue_dead_tuples"]
        dead.add_metric([queue, table], row[f"{table}_dead_tuples"] or 0)
    families["meshhook_queue_table_bytes"].add_metric([queue, "archive"], row["archive_bytes"] or 0)


_KEY_NUMBERS = {
    "keys": "keys",
    "keys_held": "held",
    "keys_blocked": "blocked",
    "breakers_open": "open_breakers",
    "oldest_open_breaker_seconds": "oldest_open_breaker_seconds",
    "longest_key_wait_seconds": "longest_wait_seconds",
    "oldest_held_seconds": "oldest_held_seconds",
    "oldest_blocked_seconds": "oldest_blocked_seconds",
}
"""Families with a series a keyed queue: the name without `meshhook_queue_`, and the column."""
_KEPT_BACK = dict(
    zip(
        KEPT_BACK_REASONS,
        ("kept_by_hold", "kept_by_key", "kept_by_order", "kept_by_queue"),
        strict=True,
    )
)
KEY_FAMILIES = frozenset(f"meshhook_queue_{name}" for name in (*_KEY_NUMBERS, "kept_back"))
"""The families that only keyed queues have."""


def check_key_rows(rows: Sequence[asyncpg.Record]) -> None:
    """Check that the rows about keys can be exported.

    Raises:
        DatabaseError: if one cannot, or there are too many.
    """
    if len(rows) > MAX_QUEUES or not all(map(_is_about_keys, rows)):
        raise DatabaseError("the answer of the database makes no sense: figures of keys")


def _is_about_keys(row: asyncpg.Record) -> bool:
    try:
        numbers = [row[name] for name in (*_KEY_NUMBERS.values(), *_KEPT_BACK.values())]
        queue, problem = row["queue"], row["problem"]
    except KeyError:
        return False
    return (
        isinstance(queue, str)
        and len(queue) <= MAX_NAME_CHARACTERS
        and isinstance(problem, str | None)
        and (problem is not None or all(isinstance(each, int | float) for each in numbers))
    )


def add_keys(families: Mapping[str, Any], row: asyncpg.Record) -> None:
    """Add the figures about the keys of one queue to the families, by their full names."""
    queue = row["queue"]
    for name, column in _KEY_NUMBERS.items():
        families[f"meshhook_queue_{name}"].add_metric([queue], float(row[column]))
    for reason, column in _KEPT_BACK.items():
        families["meshhook_queue_kept_back"].add_metric([queue, reason], row[column])
