"""Queues: creating and dropping them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.arguments import checked_flag
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import Database, takes_url
from meshhook.store import queries
from meshhook.store.table_locks import WAIT_SECONDS, change_tables

if TYPE_CHECKING:
    from meshhook.postgres.database import DatabaseSource


@takes_url
async def create_queue(
    database: DatabaseSource,
    queue: str = DEFAULT_QUEUE_NAME,
    *,
    ignore_fifo_groups: bool = False,
    wait_seconds: float = WAIT_SECONDS,
) -> bool:
    """Create a queue with its dead letter queue and settings, or adopt a PGMQ queue.

    Args:
        database: where the queue is to be.
        queue: the queue. Default `workflow_jobs`.
        ignore_fifo_groups: whether to adopt a queue with PGMQ's FIFO groups although workers keep
            the order within a group only where keys are ordered. Default false: it is refused.
        wait_seconds: for how long it is tried, in pieces of a second, to lock the tables of a
            queue in use, 0 to 86400. Default 20.

    Returns:
        Whether anything was created. Calling it again is safe.

    Raises:
        InvalidQueueNameError: if the name is not a valid queue name.
        UnsuitableQueueError: if PGMQ's queue of that name is unlogged, partitioned, has FIFO
            groups, or lacks something; the message says what to do.
        InvalidSettingError: naming the argument that is wrong.
        QueueBusyError: if others held its tables for so long, naming them.
        DatabaseError: if the database cannot be used.
    """
    name = validate_queue_name(queue)
    created = await change_tables(
        Database.of(database),
        name,
        queries.load("create_queue"),
        name,
        checked_flag("ignore_fifo_groups", ignore_fifo_groups),
        wait_seconds=wait_seconds,
    )
    return bool(created)


@takes_url
async def drop_queue(
    database: DatabaseSource, queue: str, *, wait_seconds: float = WAIT_SECONDS
) -> bool:
    """Drop a queue with all its messages, dead letters and settings; its history stays.

    Args:
        database: where the queue is.
        queue: the queue.
        wait_seconds: for how long it is tried, in pieces of a second, to lock the tables of a
            queue in use, 0 to 86400. Default 20.

    Returns:
        Whether there was one.

    Raises:
        InvalidQueueNameError: if the name is not a valid queue name.
        InvalidSettingError: naming the argument that is wrong.
        QueueBusyError: if others held its tables for that long, naming them.
        DatabaseError: if the database cannot be used.
    """
    name = validate_queue_name(queue)
    sql = queries.load("drop_queue")
    return bool(
        await change_tables(Database.of(database), name, sql, name, wait_seconds=wait_seconds)
    )
