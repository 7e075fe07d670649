"""The workers that are running now, as they report themselves in `meshhook.workers`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from meshhook.names import validate_queue_name
from meshhook.postgres.database import Database, DatabaseSource, takes_url
from meshhook.store import queries

LIVE_SECONDS = 30.0
"""How long after its last report a worker counts as alive; it reports every few seconds."""


@dataclass(frozen=True, slots=True)
class LiveWorker:
    """What one worker does for one queue, as it reported last."""

    queue: str
    worker: str
    """The name that the history records; a restarted process has a new one."""
    host: str
    """The host name: in Kubernetes the name of the pod."""
    concurrency: int
    """How many jobs of the queue it may run at once."""
    running: int
    """How many jobs of the queue it ran."""
    processed: int
    """Attempts whose outcome it has recorded since it was created."""
    busy_seconds: float
    """The total time its jobs have run since it was created, including jobs that still run."""
    oldest_running_seconds: float
    """How long the oldest running job of the queue has run; 0 if none runs."""
    draining: bool
    """Whether it has stopped claiming and waits for its running jobs."""
    cordoned: bool
    """Whether the operator has asked it to claim no jobs of the queue for now."""
    started_at: datetime
    seen_at: datetime
    """When it reported, by the database's clock."""
    schema_version: int | None
    """The newest migration that its version of the library has; None if it does not say."""


@takes_url
async def list_workers(database: DatabaseSource, queue: str | None = None) -> list[LiveWorker]:
    """Return the workers that reported in the last 30 seconds, by queue and host.

    A worker of several queues is listed once for each.

    Args:
        database: where the queues are.
        queue: one queue. Default: all.

    Raises:
        InvalidQueueNameError: if the name is not a valid queue name.
        DatabaseError: if they cannot be read.
    """
    name = None if queue is None else validate_queue_name(queue)
    rows = await Database.of(database).fetch(queries.load("list_workers"), LIVE_SECONDS, name)
    return [LiveWorker(**dict(row)) for row in rows]
