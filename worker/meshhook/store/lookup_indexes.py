"""The indexes of a queue's table by which messages are found: built and dropped in use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.queue_config import LOOKUP_IDS
from meshhook.store import queries
from meshhook.store.index_builds import match_indexes

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from meshhook.postgres.database import Database


async def match_lookup_indexes(
    database: Database, queue_name: str, lookup_by: Collection[str]
) -> None:
    """Build the indexes of these ids, and drop the others.

    See `match_indexes`.

    Args:
        database: where the queue is.
        queue_name: the queue.
        lookup_by: of `run_id`, `workflow_id` and `project_id` those that are looked up.

    Raises:
        DatabaseError: if the role does not own the table, or the server refuses it.
    """
    await match_indexes(
        database,
        queries.load("lookup_index_statements"),
        queue_name,
        list(lookup_by),
        not database.is_in_transaction,
    )


async def lookup_of(
    database: Database, queue_name: str | None, wanted: Mapping[str, str | None]
) -> dict[str, str]:
    """Return by which id messages that are wanted are found through an index, for each queue.

    Queues that have none of these indexes are left out.

    Args:
        database: where the queues are.
        queue_name: the queue. None means all.
        wanted: the ids, by their names; those that are None are not wanted.

    Raises:
        DatabaseError: if it cannot be read.
    """
    names = [name for name in LOOKUP_IDS if wanted.get(name) is not None]
    if not names:
        return {}
    rows = await database.fetch(queries.load("indexed_ids"), queue_name)
    first = {
        row["queue"]: next((name for name in names if name in row["indexed_ids"]), None)
        for row in rows
    }
    return {queue: name for queue, name in first.items() if name is not None}
