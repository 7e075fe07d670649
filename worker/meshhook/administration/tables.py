"""The tables of a queue: what they look like, and whether they can be written to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.errors import DatabaseReadOnlyError, HiddenRowsError, QueueNotFoundError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database
from meshhook.postgres.driver_errors import translated_statement_errors
from meshhook.store import queries

if TYPE_CHECKING:
    from meshhook.postgres.database import DatabaseSource


async def describe_tables(database: DatabaseSource, queue: str) -> queries.QueueTables:
    """Return what a queue's tables look like, and check that the queue can be written to.

    Raises:
        InvalidQueueNameError, QueueNotFoundError: if there is no such queue.
        DatabaseReadOnlyError: if this is a replica, or the session may only read.
        HiddenRowsError: if row level security hides rows from this role, naming the tables.
        SchemaMissingError: if the migrations have not run.
    """
    name = validate_queue_name(queue)
    # Inside, so that a session that only reads is not kept.
    async with Database.of(database).acquire() as connection:
        with translated_statement_errors():
            row = await connection.fetchrow(queries.load("describe_queue"), name)
        hidden = () if row is None else row["hidden_tables"]
        # A queue whose settings are hidden looks as if there were none.
        if "meshhook.queue_config" in hidden:
            raise HiddenRowsError(row["role"], hidden)
        if row is None or not row["is_complete"]:
            raise QueueNotFoundError(name)
        if row["is_read_only"]:
            message = (
                "the database takes no writes here: it is a replica, or the session is read-only. "
                "Use the URL of the primary server"
            )
            raise DatabaseReadOnlyError(message)
        if hidden:
            raise HiddenRowsError(row["role"], hidden)
    return queries.QueueTables(
        name, has_last_read_at=row["has_last_read_at"], holds_any_bytes=row["holds_any_bytes"]
    )
