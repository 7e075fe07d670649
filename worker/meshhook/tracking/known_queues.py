"""Which queues there are, and whether their tables are there."""

from __future__ import annotations

from meshhook.postgres.database import Database
from meshhook.store import queries


async def known_queues(database: Database) -> dict[str, bool]:
    """Return for each queue whether its tables are there."""
    rows = await database.fetch(queries.load("list_queue_names"))
    return {row["queue"]: row["is_complete"] for row in rows}
