"""The index of a queue's table that knows the priorities of messages: built and dropped in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.store import queries
from meshhook.store.index_builds import match_indexes

if TYPE_CHECKING:
    from meshhook.postgres.database import Database


async def match_priority_index(database: Database, queue_name: str, *, prioritized: bool) -> None:
    """Build the index that a queue with priorities needs, or drop it: see `match_indexes`.

    Args:
        database: where the queue is.
        queue_name: the queue.
        prioritized: whether the queue has priorities.

    Raises:
        DatabaseError: if the role does not own the table, or the server refuses it.
    """
    is_in_use = not database.is_in_transaction
    await match_indexes(
        database, queries.load("priority_index_statements"), queue_name, prioritized, is_in_use
    )
