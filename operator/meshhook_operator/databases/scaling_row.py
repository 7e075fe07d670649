"""How a JobQueue scales the workers of its queue, as it is written into the database."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingRow:
    """A row of `meshhook.queue_scaling`. The fields are in the order of `report_scaling.sql`."""

    queue: str
    jobqueue_uid: str
    jobqueue: str
    deployment: str | None
    target_age_seconds: float
    min_replicas: int
    max_replicas: int
    replicas: int
    ready_replicas: int
    desired_replicas: int | None
    state: str | None
    reason: str | None
    scaled_at: datetime | None
