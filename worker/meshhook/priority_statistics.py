"""What is due in a queue with priorities, by priority."""

from __future__ import annotations

from dataclasses import dataclass

from meshhook.administration import COUNT_LIMIT, MAX_COUNT_LIMIT, get_queue_config
from meshhook.arguments import check_range
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.store import queries


@dataclass(frozen=True, slots=True)
class PriorityStatistics:
    """The jobs of one priority that are due in a queue, at one moment."""

    queue: str
    priority: str
    """urgent, high, normal or low."""
    waiting: int
    """How many jobs can be claimed now, up to the limit of the count."""
    oldest_ready_seconds: float
    """How long the oldest of them has been due; 0 if there is none."""
    target_seconds: float
    """Within how long they are to start."""

    @property
    def is_late(self) -> bool:
        """Whether the oldest job has been due for longer than the target."""
        return self.oldest_ready_seconds > self.target_seconds


@takes_url
async def get_priority_statistics(
    database: DatabaseSource, queue: str = DEFAULT_QUEUE_NAME, *, count_limit: int = COUNT_LIMIT
) -> list[PriorityStatistics]:
    """Return what is due in a queue by priority, urgent first; nothing if it has no priorities.

    Args:
        database: where the queue is.
        queue: the queue. Default `workflow_jobs`.
        count_limit: where counting stops in each priority, 1 to 10 million. Default 10,000.

    Raises:
        InvalidQueueNameError, InvalidSettingError: naming the argument that is wrong.
        QueueNotFoundError: if the queue does not exist.
        DatabaseError: if it cannot be read.
    """
    name = validate_queue_name(queue)
    check_range("count_limit", count_limit, MAX_COUNT_LIMIT)
    read_from = Database.of(database)
    rows = await read_from.fetch(queries.load("priority_waits"), name, count_limit)
    if not rows:
        await get_queue_config(read_from, name)
    return [PriorityStatistics(**dict(row)) for row in rows]
