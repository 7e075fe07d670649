"""The indexes of a queue's table that know the keys of messages: built and dropped in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.store import queries
from meshhook.store.index_builds import match_indexes

if TYPE_CHECKING:
    from meshhook.postgres.database import Database
    from meshhook.queue_config import KeyPlace


async def match_key_indexes(
    database: Database, queue_name: str, keys: KeyPlace | None, *, ordered: bool
) -> None:
    """Build the indexes that a queue with such keys needs, or drop those that it does not need.

    See `match_indexes`.

    Args:
        database: where the queue is.
        queue_name: the queue.
        keys: where its keys are; None if it has none.
        ordered: whether they are ordered.

    Raises:
        DatabaseError: if the role does not own the table, or the server refuses it.
    """
    await match_indexes(
        database,
        queries.load("key_index_statements"),
        queue_name,
        keys is not None,
        None if keys is None else keys.path,
        not database.is_in_transaction,
        ordered,
    )
