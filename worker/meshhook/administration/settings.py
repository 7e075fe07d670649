"""The settings of a queue, as they are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.errors import QueueNotFoundError
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import Database, takes_url
from meshhook.queue_config import QueueConfig
from meshhook.store import queries

if TYPE_CHECKING:
    from meshhook.postgres.database import DatabaseSource


@takes_url
async def get_queue_config(
    database: DatabaseSource, queue: str = DEFAULT_QUEUE_NAME
) -> QueueConfig:
    """Return the settings of a queue, by default of `workflow_jobs`.

    Raises:
        InvalidQueueNameError, QueueNotFoundError: if there is no such queue.
        InvalidSettingError: if its row breaks a constraint that was removed from the table.
    """
    name = validate_queue_name(queue)
    row = await Database.of(database).fetchrow(queries.load("get_queue_config"), name)
    if row is None:
        raise QueueNotFoundError(name)
    return QueueConfig.from_row(name, row[0])
