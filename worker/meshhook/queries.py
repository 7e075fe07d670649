"""The statements in `sql/`, one a file, with the names of a queue's tables filled in.

This is the only place where SQL is put together from text. The names are checked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from meshhook.names import dead_letter_queue_name, validate_queue_name


@dataclass(frozen=True, slots=True)
class QueueTables:
    """What of a queue's tables differs from one PGMQ installation to another."""

    queue_name: str
    """The queue."""
    has_last_read_at: bool = True
    """Whether it has the column `last_read_at`: queues made by PGMQ before 1.10.1 may lack it."""


def load(name: str, tables: QueueTables | str | None = None, *, target: str | None = None) -> str:
    """Return the statement `sql/<name>.sql`.

    Args:
        name: the file's name without its ending.
        tables: the queue whose tables the statement is for; None for one that names no queue.
        target: the queue that the statement moves messages to, if it moves any.

    Raises:
        InvalidQueueNameError: if a queue's name is not a safe one.
    """
    text = _read(name)
    if tables is None:
        return text
    if isinstance(tables, str):
        tables = QueueTables(tables)
    queue = validate_queue_name(tables.queue_name)
    if target is not None:
        text = text.replace("{target_table}", f'pgmq."q_{validate_queue_name(target)}"')
    last_read = "last_read_at = now()," if tables.has_last_read_at else ""
    return (
        text.replace("{queue_table}", f'pgmq."q_{queue}"')
        .replace("{archive_table}", f'pgmq."a_{queue}"')
        .replace("{dlq_table}", f'pgmq."q_{dead_letter_queue_name(queue)}"')
        .replace("{set_last_read_at}", last_read)
    )


@cache
def _read(name: str) -> str:
    return resources.files("meshhook").joinpath("sql", f"{name}.sql").read_text("utf-8")
