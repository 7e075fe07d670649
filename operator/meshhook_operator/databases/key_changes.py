"""The indexes that a change of the keys or the priorities of a queue needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.store.key_indexes import match_key_indexes
from meshhook.store.priority_indexes import match_priority_index

if TYPE_CHECKING:
    from meshhook.postgres.database import Database
    from meshhook.queue_config import QueueConfig, QueueSettings


async def build_key_indexes(database: Database, config: QueueConfig, wanted: QueueSettings) -> bool:
    """Build the indexes for keys that a queue is to have, and return whether it is to have others.

    Args:
        database: where the queue is.
        config: its settings.
        wanted: what they are to be.

    Raises:
        DatabaseError: if the role does not own the table, or the server refuses it.
    """
    if not wanted.keyed or (wanted.keyed, wanted.ordered) == (config.keyed, config.ordered):
        return False
    ordered = wanted.ordered or config.ordered
    await match_key_indexes(database, config.queue, wanted.keys, ordered=ordered)
    return True


async def build_priority_index(
    database: Database, config: QueueConfig, wanted: QueueSettings
) -> bool:
    """Build the index of priorities if a queue is to have them and has none; return whether so.

    Arguments and errors are those of `build_key_indexes`.
    """
    if not wanted.prioritized or config.prioritized:
        return False
    await match_priority_index(database, config.queue, prioritized=True)
    return True
