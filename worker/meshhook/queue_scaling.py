"""How operators scale the workers of queues, as they write it in `meshhook.queue_scaling`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import asyncpg

from meshhook.errors import DatabaseError
from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.store import queries

STALE_SECONDS = 180.0
"""How long after it was written it counts as stale; an operator writes it every minute."""


@dataclass(frozen=True, slots=True)
class QueueScaling:
    """How one JobQueue scales the workers of a queue, as its operator wrote it last."""

    queue: str
    jobqueue: str
    """The JobQueue, as `namespace/name`."""
    jobqueue_uid: str
    """Tells it from one of the same name in another cluster, or made again."""
    deployment: str | None
    """The name of the Deployment that is scaled; None if there is none."""
    target_age_seconds: float
    """How long a job may wait: `spec.scaling.targetAgeSeconds`. In a queue with priorities, nothing
    is planned by it."""
    min_replicas: int
    max_replicas: int
    replicas: int
    """How many replicas the Deployment has."""
    ready_replicas: int
    """How many of them are ready."""
    desired_replicas: int | None
    """How many the last decision asked for; None before the first."""
    state: str | None
    """The state of the JobQueue in a word: `Operating`, or what matters most."""
    reason: str | None
    """What was measured, how many replicas that calls for, and what limits them, in sentences."""
    decided_at: datetime | None
    """Since when the decision has been to have `desired_replicas`."""
    scaled_at: datetime | None
    """When the operator last changed the number of replicas; None if it never did."""
    written_at: datetime
    """When it was written, by the database's clock."""
    is_stale: bool
    """Whether that was more than 3 minutes ago: no operator looks after the JobQueue."""
    priority_target_seconds: tuple[float, ...] = ()
    """In a queue with priorities, how long urgent, high, normal and low jobs may wait: what is
    planned for. Empty in other queues."""

    @property
    def longest_target_seconds(self) -> float:
        """How long any job may wait: one of low priority, where there are priorities."""
        return max(self.priority_target_seconds, default=self.target_age_seconds)


@takes_url
async def list_queue_scaling(
    database: DatabaseSource, queue: str | None = None
) -> list[QueueScaling]:
    """Return how operators scale the workers of queues: one for each JobQueue, by queue.

    There is none for a queue without a JobQueue, or whose operator is of a version that does not
    write it or lacks the right to. What has been stale for a week is left out.

    Args:
        database: where the queues are.
        queue: one queue. Default: all.

    Raises:
        InvalidQueueNameError: if the name is not a valid queue name.
        DatabaseError: if they cannot be read.
    """
    name = None if queue is None else validate_queue_name(queue)
    rows = await Database.of(database).fetch(
        queries.load("list_queue_scaling"), name, STALE_SECONDS
    )
    return [
        QueueScaling(
            **dict(row) | {"priority_target_seconds": tuple(row["priority_target_seconds"] or ())}
        )
        for row in rows
    ]


async def known_queue_scaling(database: Database, queue: str | None = None) -> list[QueueScaling]:
    """Return the same; nothing where the role may not read it, or the schema does not have it yet.

    Raises:
        InvalidQueueNameError: if the name is not a valid queue name.
        DatabaseError: if they cannot be read for another reason.
    """
    try:
        return await list_queue_scaling(database, queue)
    except DatabaseError as error:
        if isinstance(
            error.__cause__, asyncpg.InsufficientPrivilegeError | asyncpg.UndefinedTableError
        ):
            return []
        raise
