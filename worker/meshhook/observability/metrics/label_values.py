"""The values of labels that are known in advance."""

from __future__ import annotations

from typing import Final

OUTCOMES: Final = (
    "succeeded",
    "retried",
    "snoozed",
    "dead_lettered",
    "cancelled",
    "archived",
    "expired",
    "lost",
    "released",
)
BREAKER_STATES: Final = ("open", "closed")
PRIORITIES: Final = ("urgent", "high", "normal", "low")
OPERATIONS: Final = ("claim", "settle", "extend", "release")
LOOPS: Final = ("claimer", "settler", "slots", "leases")
COLLECTION_ERRORS: Final = (
    "DatabaseUnavailableError",
    "UncertainCommitError",
    "StatementTimeout",
    "SchemaMissingError",
    "DatabaseError",
    "QueueUnreadable",
)
STATES: Final = ("ready", "scheduled", "running", "retrying", "lost")
SIGNALS: Final = ("backlog", "deadline", "arrivals", "running", "scheduled", "fallback")
KEPT_BACK_REASONS: Final = ("hold", "key_limit", "order", "queue_limit")
FIRING_OUTCOMES: Final = ("enqueued", "overlapped", "missed", "failed")
POD_PROBLEMS: Final = (
    "ImagePullFailed",
    "ContainerNotCreated",
    "OutOfMemory",
    "CrashLoop",
    "Unschedulable",
    "PodsRefused",
    "WorkersNotReady",
)
OTHER: Final = "_OTHER"
"""The value that replaces further values of a label whose number of values is capped."""
