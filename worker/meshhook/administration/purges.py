"""Deleting many rows, in chunks."""

from __future__ import annotations

from meshhook.actors import one_operation
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS, Database
from meshhook.store.changes import change_rows

PURGE_CHUNK_MESSAGES = 10_000


async def purge_in_chunks(database: Database, queue: str, sql: str, newest: int) -> int:
    """Delete rows with an id up to `newest` in chunks, and return how many were deleted.

    Rows that arrive in the meantime stay: with busy producers it would never end otherwise.
    """
    purged, last = 0, -1
    with one_operation():
        while True:
            (row,) = await change_rows(
                database,
                sql,
                PURGE_CHUNK_MESSAGES,
                last,
                newest,
                queue,
                answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS,
            )
            if not row["gone"]:
                return purged
            purged += row["gone"]
            last = row["last"]
