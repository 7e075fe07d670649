"""Building and dropping indexes of a queue's table while it is in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.postgres.database import MIGRATION_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from meshhook.postgres.database import Database


async def match_indexes(database: Database, statements: str, *arguments: Any) -> None:
    """Run the statements that bring indexes to what a setting is to be.

    Producers and workers go on meanwhile: the server builds beside them, and waits for all
    transactions that are open. In a transaction of the caller nothing is built beside others, so
    that there only a small queue is accepted. An interrupted call can be repeated.

    Args:
        database: where the queue is.
        statements: the query that returns the statements.
        *arguments: its parameters.

    Raises:
        DatabaseError: if the role does not own the table, or the server refuses it.
    """
    for (statement,) in await database.fetch(statements, *arguments):
        await database.fetch(statement, answer_timeout_seconds=MIGRATION_TIMEOUT_SECONDS)
