"""Metrics of a worker: one process with its queues."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from meshhook.observability.metrics.buckets import (
    BATCH_MESSAGES,
    JOB_SECONDS,
    PRIORITY_SECONDS,
    STATEMENT_SECONDS,
)
from meshhook.observability.metrics.label_values import (
    BREAKER_STATES,
    LOOPS,
    OPERATIONS,
    OUTCOMES,
    PRIORITIES,
)
from meshhook.observability.metrics.metric import Kind, Metric, Source


def _worker(
    name: str,
    kind: Kind,
    text: str,
    labels: tuple[str, ...] = (),
    buckets: tuple[float, ...] = (),
    **values: tuple[str, ...],
) -> Metric:
    known = MappingProxyType(values)
    full_name = f"meshhook_worker_{name}"
    return Metric(full_name, kind, text, (Source.WORKER,), ("queue", *labels), buckets, known)


WORKER_METRICS: Final = (
    _worker("messages_total", Kind.COUNTER, "Attempts by outcome.", ("outcome",), outcome=OUTCOMES),
    _worker(
        "message_duration_seconds",
        Kind.HISTOGRAM,
        "How long attempts ran; for a message of a batch, how long the batch did.",
        (),
        JOB_SECONDS,
    ),
    _worker(
        "message_wait_seconds",
        Kind.HISTOGRAM,
        "How long messages waited, from being ready to the start of the attempt.",
        (),
        JOB_SECONDS,
    ),
    _worker(
        "priority_wait_seconds",
        Kind.HISTOGRAM,
        "The same wait by priority; only for queues with priorities.",
        ("priority",),
        PRIORITY_SECONDS,
        priority=PRIORITIES,
    ),
    _worker(
        "priority_late_total",
        Kind.COUNTER,
        "Attempts that started later than the target of their priority; only for queues "
        "with priorities.",
        ("priority",),
        priority=PRIORITIES,
    ),
    _worker(
        "message_age_seconds",
        Kind.HISTOGRAM,
        "Time from enqueueing a message to its final outcome.",
        (),
        JOB_SECONDS,
    ),
    _worker(
        "errors_total",
        Kind.COUNTER,
        "Failed attempts by error type: the first 20 types, then _OTHER.",
        ("error_type",),
    ),
    _worker("inflight_messages", Kind.GAUGE, "Messages that the worker has leased."),
    _worker("running_messages", Kind.GAUGE, "Messages whose handler is running."),
    _worker(
        "concurrency_limit",
        Kind.GAUGE,
        "How many messages can run at once: slots, which the queues of a worker share, "
        "times the size of a batch.",
    ),
    _worker(
        "slots_replaced_total",
        Kind.COUNTER,
        "Slots replaced because a handler cancelled their task.",
    ),
    _worker(
        "retries_delayed_total",
        Kind.COUNTER,
        "Retries that were put off because the queue's budget for retries was spent.",
    ),
    _worker(
        "breaker_transitions_total",
        Kind.COUNTER,
        "Circuit breakers of keys that opened, also after a failed probe, or closed.",
        ("state",),
        state=BREAKER_STATES,
    ),
    _worker(
        "claim_batch_messages",
        Kind.HISTOGRAM,
        "Messages per claim, of claims that found any.",
        (),
        BATCH_MESSAGES,
    ),
    _worker(
        "handler_batch_messages",
        Kind.HISTOGRAM,
        "Messages per call of a handler of batches; nothing for one of single jobs.",
        (),
        BATCH_MESSAGES,
    ),
    _worker("empty_claims_total", Kind.COUNTER, "Claims that found nothing."),
    _worker(
        "limited_claims_total",
        Kind.COUNTER,
        "Claims that found messages due and none that limits or holds let start.",
    ),
    _worker(
        "key_holds_total", Kind.COUNTER, "Outcomes by which a handler held the key of its job."
    ),
    _worker(
        "operation_duration_seconds",
        Kind.HISTOGRAM,
        "Duration of the worker's statements, including the wait for a connection.",
        ("operation", "outcome"),
        STATEMENT_SECONDS,
        operation=OPERATIONS,
        outcome=("ok", "error"),
    ),
    _worker(
        "lease_extensions_total",
        Kind.COUNTER,
        "Lease extensions by result.",
        ("outcome",),
        outcome=("extended", "lost", "error"),
    ),
    _worker("unsettled_messages", Kind.GAUGE, "Ended attempts whose outcome is not recorded yet."),
    _worker(
        "oldest_unsettled_seconds",
        Kind.GAUGE,
        "How long the oldest outcome has been waiting to be recorded; 0 if none is waiting.",
    ),
    _worker(
        "last_loop_age_seconds",
        Kind.GAUGE,
        "How long ago a loop of the worker last made progress, at the scrape.",
        ("loop",),
        loop=LOOPS,
    ),
    _worker("db_connected", Kind.GAUGE, "Whether the last statement reached the database: 1 or 0."),
    _worker(
        "draining",
        Kind.GAUGE,
        "Whether the worker has stopped claiming and is shutting down: 1 or 0.",
    ),
    _worker(
        "cordoned",
        Kind.GAUGE,
        "Whether the operator has asked the worker to claim no jobs for now: 1 or 0.",
    ),
)
