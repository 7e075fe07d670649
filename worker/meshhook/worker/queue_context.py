"""What all parts of a lane know about their queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.jobs import Job
    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.queue_config import QueueConfig
    from meshhook.store import queries
    from meshhook.worker.handlers import JobHandler
    from meshhook.worker.stats import Tally


@dataclass(slots=True)
class QueueContext:
    """One queue of a worker."""

    tables: queries.QueueTables
    config: QueueConfig
    """The queue's current settings; replaced when they change."""
    handler: JobHandler[Any]
    worker_name: str
    metrics: WorkerMetrics
    tally: Tally
    """Counts what the worker does for the queue."""
    tracer: Tracer | None
    """Makes spans; None without tracing."""
    has_warned_of_policy: bool = False
    """Whether the log has said that the own retry policy of a job makes no sense."""
    encryption: KeyRing | None = None
    """The keys that decrypt messages and encrypt what follows; None if there are none."""

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.tables.queue_name

    def withholds(self, job: Job[Any]) -> bool:
        """Return whether nothing is to be told of what a job's handler says of an error."""
        ring = self.encryption
        return job.is_encrypted and not (ring is not None and ring.keeps_error_messages)
