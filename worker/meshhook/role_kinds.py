"""The kinds of roles of least privilege."""

from __future__ import annotations

from enum import StrEnum


class RoleKind(StrEnum):
    """What a role is for."""

    OWNER = "owner"
    """Owns the schemas meshhook and pgmq, and runs migrations."""
    WORKER = "worker"
    """Claims, runs and settles jobs, keeps house."""
    PRODUCER = "producer"
    """Enqueues."""
    READER = "reader"
    """Sees jobs, dead letters, workers, statistics and metrics."""
    ONCALL = "oncall"
    """Reads, cancels and reschedules jobs, replays and deletes dead letters, changes settings,
    pauses."""
    OPERATOR = "operator"
    """Makes queues and drops those, sets all queues, reads what scaling needs."""

    @property
    def is_by_queue(self) -> bool:
        """Whether a role of this kind may be for some queues only."""
        return self not in (RoleKind.OWNER, RoleKind.OPERATOR)
