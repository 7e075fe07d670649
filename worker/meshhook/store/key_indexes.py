"""The indexes of a queue's table that know the keys of messages: built and dropped in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.postgres.database import MIGRATION_TIMEOUT_SECONDS
from meshhook.store import queries

if TYPE_CHECKING:
    from meshhook.postgres.database import Database
    from meshhook.queue_config import KeyPlace


async def match_key_indexes(
    database: Database, queue_name: str, keys: KeyPlace | None, *, ordered: bool
) -> None:
    """Build the indexes that a queue with such keys needs, or drop those that it does not need.

    Producers and workers go on meanwhile: the server builds beside them, and waits for all
    transactions that are open. In a transaction of the caller nothing is built beside others, so
    that there only a small queue is accepted. An interrupted call can be repeated.

    Args:
        database: where the queue is.
        queue_name: the queue.
        keys: where its keys are; None if it has none.
        ordered: whether they are ordered.

    Raises:
        DatabaseError: if the role does not own the table, or the server refuses it.
    """
    statements = await database.fetch(
        queries.load("key_index_statements"),
        queue_name,
        keys is not None,
        None if keys is None else keys.path,
        not database.is_in_transaction,
        ordered,
    )
    for (statement,) in statements:
        await database.fetch(statement, answer_timeout_seconds=MIGRATION_TIMEOUT_SECONDS)
