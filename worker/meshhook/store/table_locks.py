"""Changes of a queue's tables that wait for locks: briefly at a time, and not for ever."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

from meshhook.arguments import checked_seconds
from meshhook.errors import DatabaseLockedError, QueueBusyError
from meshhook.postgres.database import LONG_ANSWER_TIMEOUT_SECONDS
from meshhook.store import queries
from meshhook.store.changes import change_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

    from meshhook.postgres.database import Database

WAIT_SECONDS = 20.0
"""How long a change of a queue's tables is attempted in total, in seconds."""
_FIRST_PAUSE_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 2.0


async def change_tables(
    database: Database,
    queue_name: str,
    sql: str,
    *arguments: object,
    wait_seconds: float = WAIT_SECONDS,
) -> Any:
    """Run a statement that locks tables of a queue, and return its first value.

    Later statements queue up behind a lock request that waits. The statement therefore gives up
    after a second, lets them pass, and is tried again after increasing pauses. In a transaction of
    the caller it is tried once.

    Args:
        database: where the queue is.
        queue_name: the queue.
        sql: a statement that waits at most a second for locks and changes nothing if it fails.
        *arguments: its arguments.
        wait_seconds: how long it is tried in total, 0 to 86400. Default 20.

    Raises:
        InvalidSettingError: if that is out of range.
        QueueBusyError: naming who held the tables.
        DatabaseError: if it fails for another reason.
    """
    give_up_at = time.monotonic() + checked_seconds("wait_seconds", wait_seconds, 0, 86_400)
    pause_seconds = _FIRST_PAUSE_SECONDS
    while True:
        try:
            return await change_value(
                database, sql, *arguments, answer_timeout_seconds=LONG_ANSWER_TIMEOUT_SECONDS
            )
        except DatabaseLockedError as error:
            if database.is_in_transaction:
                raise QueueBusyError(queue_name, ()) from error
            holders = await database.fetch(queries.load("find_lock_holders"), queue_name)
            if time.monotonic() + pause_seconds > give_up_at:
                raise QueueBusyError(queue_name, _described(holders)) from error
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, keeps no secret
        await asyncio.sleep(pause_seconds * spread)
        pause_seconds = min(2 * pause_seconds, _MAX_PAUSE_SECONDS)


def _described(holders: Sequence[asyncpg.Record]) -> list[str]:
    return [_holder(row) for row in holders]


def _holder(row: asyncpg.Record) -> str:
    if row["pid"] is None:
        return "a prepared transaction (see pg_prepared_xacts)"
    name = f" ({row['application_name']})" if row["application_name"] else ""
    parts = [row["state"]] if row["state"] else []
    if row["query_seconds"] is not None:
        parts.append(f"its statement began {row['query_seconds']:.0f} s ago")
    if row["transaction_seconds"] is not None:
        parts.append(f"its transaction {row['transaction_seconds']:.0f} s ago")
    return f"process {row['pid']}{name}" + (f": {', '.join(parts)}" if parts else "")
