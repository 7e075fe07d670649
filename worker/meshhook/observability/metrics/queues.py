"""Metrics of the queues of a database, and of what is kept of their jobs."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from meshhook.observability.metrics.label_values import KEPT_BACK_REASONS, PRIORITIES, STATES
from meshhook.observability.metrics.metric import Kind, Metric, Source


def _queue(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), **values: tuple[str, ...]
) -> Metric:
    sources = (Source.EXPORTER, Source.OPERATOR)
    known = MappingProxyType(values)
    return Metric(f"meshhook_queue_{name}", kind, text, sources, ("queue", *labels), values=known)


QUEUE_METRICS: Final = (
    _queue(
        "messages",
        Kind.GAUGE,
        "Messages by state; see meshhook_queue_messages_capped.",
        ("state",),
        state=STATES,
    ),
    _queue("messages_capped", Kind.GAUGE, "Whether a count stopped at its limit: 1 or 0."),
    _queue(
        "oldest_ready_seconds",
        Kind.GAUGE,
        "How long the oldest ready message has been ready; 0 if there is none.",
    ),
    _queue("enqueued_total", Kind.COUNTER, "Messages ever enqueued, from the queue's sequence."),
    _queue("dlq_messages", Kind.GAUGE, "Dead letters; see meshhook_queue_messages_capped."),
    _queue(
        "dlq_oldest_seconds", Kind.GAUGE, "The age of the oldest dead letter; 0 if there is none."
    ),
    _queue("paused", Kind.GAUGE, "Whether the queue is paused: 1 or 0."),
    _queue("workers", Kind.GAUGE, "Workers that have reported in the last 30 seconds."),
    _queue(
        "worker_slots",
        Kind.GAUGE,
        "How many messages these workers can run at once; their queues share them.",
    ),
    _queue("keys", Kind.GAUGE, "Keys that have messages, of the first 1,000."),
    _queue("keys_held", Kind.GAUGE, "Keys that are held, by hand or by a handler."),
    _queue(
        "keys_blocked",
        Kind.GAUGE,
        "Ordered keys with messages that are due behind a job that is retried, snoozed or delayed.",
    ),
    _queue("breakers_open", Kind.GAUGE, "Circuit breakers of keys that are not closed."),
    _queue(
        "oldest_open_breaker_seconds",
        Kind.GAUGE,
        "How long ago the circuit breaker opened that has been open longest; 0 if none is.",
    ),
    _queue(
        "kept_back",
        Kind.GAUGE,
        "Messages that are due but may not start, because of limits, order or holds, up to "
        "1,000 for each reason.",
        ("reason",),
        reason=KEPT_BACK_REASONS,
    ),
    _queue(
        "longest_key_wait_seconds",
        Kind.GAUGE,
        "How long the oldest message has been ready of keys of which no job runs although "
        "no hold and no limit is in the way; 0 if there is none.",
    ),
    _queue(
        "oldest_held_seconds",
        Kind.GAUGE,
        "How long the oldest message of a held key has been ready; 0 if there is none.",
    ),
    _queue(
        "oldest_blocked_seconds",
        Kind.GAUGE,
        "How long the oldest message of an ordered key has been ready behind a job that is "
        "retried, snoozed or delayed; 0 if there is none.",
    ),
    _queue(
        "priority_waiting_messages",
        Kind.GAUGE,
        "Messages of a priority that are due, up to 10,000.",
        ("priority",),
        priority=PRIORITIES,
    ),
    _queue(
        "priority_oldest_ready_seconds",
        Kind.GAUGE,
        "How long the oldest message of a priority has been due; 0 if there is none.",
        ("priority",),
        priority=PRIORITIES,
    ),
    _queue(
        "priority_target_seconds",
        Kind.GAUGE,
        "Within how long jobs of a priority are to start.",
        ("priority",),
        priority=PRIORITIES,
    ),
    _queue(
        "table_bytes",
        Kind.GAUGE,
        "The size of a table with its indexes and large values.",
        ("table",),
        table=("queue", "dlq", "archive"),
    ),
    _queue(
        "dead_tuples",
        Kind.GAUGE,
        "Deleted rows waiting for a vacuum, as estimated by PostgreSQL's statistics.",
        ("table",),
        table=("queue", "dlq"),
    ),
    Metric(
        "meshhook_history_bytes",
        Kind.GAUGE,
        "The size of the history of attempts, all partitions together.",
        (Source.EXPORTER, Source.OPERATOR),
        (),
    ),
    Metric(
        "meshhook_finished_jobs_bytes",
        Kind.GAUGE,
        "The size of the kept bodies of finished jobs, all queues together.",
        (Source.EXPORTER, Source.OPERATOR),
        (),
    ),
)
