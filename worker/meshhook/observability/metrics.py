"""The table of metrics: the single definition of each metric, whichever program exports it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


class Kind(StrEnum):
    """The type of a metric, in Prometheus's terms."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(StrEnum):
    """The program that exports a metric."""

    WORKER = "worker"
    PRODUCER = "producer"
    EXPORTER = "exporter"
    OPERATOR = "operator"


JOB_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30),
    *(60, 120, 300, 600, 1800, 3600),
)
"""Buckets for waiting and running times of jobs: a millisecond to an hour."""
PRIORITY_SECONDS: Final = (0.1, 0.5, 1, 5, 15, 60, 300, 600, 3600)
"""Buckets for waiting times by priority: few, since there are four series a queue."""
STATEMENT_SECONDS: Final = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
"""Buckets for statements and decisions: half a millisecond to the longest statement timeout."""
BATCH_MESSAGES: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Buckets for the number of messages in a statement."""

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


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of series."""

    name: str
    """The exported name; for a histogram, without `_bucket`, `_sum` and `_count`."""
    kind: Kind
    help: str
    """One sentence; the unit is part of the name."""
    sources: tuple[Source, ...]
    labels: tuple[str, ...] = ("queue",)
    buckets: tuple[float, ...] = ()
    """A histogram's upper bounds, without infinity."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Labels whose values are known in advance, and these values."""

    def family(self) -> Any:
        """Return an empty `…MetricFamily` of this metric, for a collector to fill."""
        makers: dict[Kind, Any] = {
            Kind.COUNTER: CounterMetricFamily,
            Kind.GAUGE: GaugeMetricFamily,
            Kind.HISTOGRAM: HistogramMetricFamily,
        }
        return makers[self.kind](self.name, self.help, labels=self.labels)


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


def _queue(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), **values: tuple[str, ...]
) -> Metric:
    sources = (Source.EXPORTER, Source.OPERATOR)
    known = MappingProxyType(values)
    return Metric(f"meshhook_queue_{name}", kind, text, sources, ("queue", *labels), values=known)


def _schedule(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), **values: tuple[str, ...]
) -> Metric:
    return Metric(
        f"meshhook_schedule_{name}",
        kind,
        text,
        (Source.EXPORTER, Source.OPERATOR),
        ("queue", "schedule", *labels),
        values=MappingProxyType(values),
    )


def _scaler(
    name: str, kind: Kind, text: str, labels: tuple[str, ...] = (), **values: tuple[str, ...]
) -> Metric:
    return Metric(
        f"meshhook_scaler_{name}",
        kind,
        text,
        (Source.OPERATOR,),
        ("queue", "jobqueue", *labels),
        values=MappingProxyType(values),
    )


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM

METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            _worker("messages_total", _C, "Attempts by outcome.", ("outcome",), outcome=OUTCOMES),
            _worker(
                "message_duration_seconds",
                _H,
                "How long attempts ran; for a message of a batch, how long the batch did.",
                (),
                JOB_SECONDS,
            ),
            _worker(
                "message_wait_seconds",
                _H,
                "How long messages waited, from being ready to the start of the attempt.",
                (),
                JOB_SECONDS,
            ),
            _worker(
                "priority_wait_seconds",
                _H,
                "The same wait by priority; only for queues with priorities.",
                ("priority",),
                PRIORITY_SECONDS,
                priority=PRIORITIES,
            ),
            _worker(
                "priority_late_total",
                _C,
                "Attempts that started later than the target of their priority; only for queues "
                "with priorities.",
                ("priority",),
                priority=PRIORITIES,
            ),
            _worker(
                "message_age_seconds",
                _H,
                "Time from enqueueing a message to its final outcome.",
                (),
                JOB_SECONDS,
            ),
            _worker(
                "errors_total",
                _C,
                "Failed attempts by error type: the first 20 types, then _OTHER.",
                ("error_type",),
            ),
            _worker("inflight_messages", _G, "Messages that the worker has leased."),
            _worker("running_messages", _G, "Messages whose handler is running."),
            _worker(
                "concurrency_limit",
                _G,
                "How many messages can run at once: slots, which the queues of a worker share, "
                "times the size of a batch.",
            ),
            _worker(
                "slots_replaced_total",
                _C,
                "Slots replaced because a handler cancelled their task.",
            ),
            _worker(
                "retries_delayed_total",
                _C,
                "Retries that were put off because the queue's budget for retries was spent.",
            ),
            _worker(
                "breaker_transitions_total",
                _C,
                "Circuit breakers of keys that opened, also after a failed probe, or closed.",
                ("state",),
                state=BREAKER_STATES,
            ),
            _worker(
                "claim_batch_messages",
                _H,
                "Messages per claim, of claims that found any.",
                (),
                BATCH_MESSAGES,
            ),
            _worker(
                "handler_batch_messages",
                _H,
                "Messages per call of a handler of batches; nothing for one of single jobs.",
                (),
                BATCH_MESSAGES,
            ),
            _worker("empty_claims_total", _C, "Claims that found nothing."),
            _worker(
                "limited_claims_total",
                _C,
                "Claims that found messages due and none that limits or holds let start.",
            ),
            _worker("key_holds_total", _C, "Outcomes by which a handler held the key of its job."),
            _worker(
                "operation_duration_seconds",
                _H,
                "Duration of the worker's statements, including the wait for a connection.",
                ("operation", "outcome"),
                STATEMENT_SECONDS,
                operation=OPERATIONS,
                outcome=("ok", "error"),
            ),
            _worker(
                "lease_extensions_total",
                _C,
                "Lease extensions by result.",
                ("outcome",),
                outcome=("extended", "lost", "error"),
            ),
            _worker("unsettled_messages", _G, "Ended attempts whose outcome is not recorded yet."),
            _worker(
                "oldest_unsettled_seconds",
                _G,
                "How long the oldest outcome has been waiting to be recorded; 0 if none is "
                "waiting.",
            ),
            _worker(
                "last_loop_age_seconds",
                _G,
                "How long ago a loop of the worker last made progress, at the scrape.",
                ("loop",),
                loop=LOOPS,
            ),
            _worker("db_connected", _G, "Whether the last statement reached the database: 1 or 0."),
            _worker(
                "draining",
                _G,
                "Whether the worker has stopped claiming and is shutting down: 1 or 0.",
            ),
            _worker(
                "cordoned",
                _G,
                "Whether the operator has asked the worker to claim no jobs for now: 1 or 0.",
            ),
            Metric(
                "meshhook_build_info",
                _G,
                "Always 1; the label is the running version.",
                (Source.WORKER, Source.EXPORTER, Source.OPERATOR),
                ("version",),
            ),
            Metric(
                "meshhook_producer_messages_total",
                _C,
                "Messages enqueued by this process.",
                (Source.PRODUCER, Source.WORKER),
            ),
            _queue(
                "messages",
                _G,
                "Messages by state; see meshhook_queue_messages_capped.",
                ("state",),
                state=STATES,
            ),
            _queue("messages_capped", _G, "Whether a count stopped at its limit: 1 or 0."),
            _queue(
                "oldest_ready_seconds",
                _G,
                "How long the oldest ready message has been ready; 0 if there is none.",
            ),
            _queue("enqueued_total", _C, "Messages ever enqueued, from the queue's sequence."),
            _queue("dlq_messages", _G, "Dead letters; see meshhook_queue_messages_capped."),
            _queue(
                "dlq_oldest_seconds", _G, "The age of the oldest dead letter; 0 if there is none."
            ),
            _queue("paused", _G, "Whether the queue is paused: 1 or 0."),
            _queue("workers", _G, "Workers that have reported in the last 30 seconds."),
            _queue(
                "worker_slots",
                _G,
                "How many messages these workers can run at once; their queues share them.",
            ),
            _queue("keys", _G, "Keys that have messages, of the first 1,000."),
            _queue("keys_held", _G, "Keys that are held, by hand or by a handler."),
            _queue(
                "keys_blocked",
                _G,
                "Ordered keys with messages that are due behind a job that is retried, snoozed or "
                "delayed.",
            ),
            _queue("breakers_open", _G, "Circuit breakers of keys that are not closed."),
            _queue(
                "oldest_open_breaker_seconds",
                _G,
                "How long ago the circuit breaker opened that has been open longest; 0 if none is.",
            ),
            _queue(
                "kept_back",
                _G,
                "Messages that are due but may not start, because of limits, order or holds, up to "
                "1,000 for each reason.",
                ("reason",),
                reason=KEPT_BACK_REASONS,
            ),
            _queue(
                "longest_key_wait_seconds",
                _G,
                "How long the oldest message has been ready of keys of which no job runs although "
                "no hold and no limit is in the way; 0 if there is none.",
            ),
            _queue(
                "oldest_held_seconds",
                _G,
                "How long the oldest message of a held key has been ready; 0 if there is none.",
            ),
            _queue(
                "oldest_blocked_seconds",
                _G,
                "How long the oldest message of an ordered key has been ready behind a job that is "
                "retried, snoozed or delayed; 0 if there is none.",
            ),
            _queue(
                "priority_waiting_messages",
                _G,
                "Messages of a priority that are due, up to 10,000.",
                ("priority",),
                priority=PRIORITIES,
            ),
            _queue(
                "priority_oldest_ready_seconds",
                _G,
                "How long the oldest message of a priority has been due; 0 if there is none.",
                ("priority",),
                priority=PRIORITIES,
            ),
            _queue(
                "priority_target_seconds",
                _G,
                "Within how long jobs of a priority are to start.",
                ("priority",),
                priority=PRIORITIES,
            ),
            _queue(
                "table_bytes",
                _G,
                "The size of a table with its indexes and large values.",
                ("table",),
                table=("queue", "dlq", "archive"),
            ),
            _queue(
                "dead_tuples",
                _G,
                "Deleted rows waiting for a vacuum, as estimated by PostgreSQL's statistics.",
                ("table",),
                table=("queue", "dlq"),
            ),
            _schedule(
                "next_due_timestamp_seconds",
                _G,
                "When the schedule is due next, in seconds since 1970; no series if it is not.",
            ),
            _schedule(
                "late_seconds",
                _G,
                "How long the next due time has passed without its job; 0 if it has not, or the "
                "schedule is paused.",
            ),
            _schedule(
                "interval_seconds",
                _G,
                "The time between the last due time and the next one.",
            ),
            _schedule(
                "last_enqueued_timestamp_seconds",
                _G,
                "When the last job was enqueued, in seconds since 1970; no series without a job.",
            ),
            _schedule(
                "last_success_timestamp_seconds",
                _G,
                "When a job last succeeded, of the newest 40, in seconds since 1970; no series if "
                "none did, or the role may not read the history. With more than 100 schedules, "
                "the newest 5 are looked at.",
            ),
            _schedule(
                "unsucceeded_seconds",
                _G,
                "How long ago the first job was enqueued since which none has succeeded, of the "
                "newest 40; 0 if the last one succeeded.",
            ),
            _schedule("paused", _G, "Whether the schedule is paused: 1 or 0."),
            _schedule(
                "firings_total",
                _C,
                "Due times by what became of them: a job; none since an earlier job was in the "
                "queue; missed while no worker ran; or attempts to fire that failed.",
                ("outcome",),
                outcome=FIRING_OUTCOMES,
            ),
            Metric(
                "meshhook_schedule_left_out",
                _G,
                "Schedules without series: the first 1,000 of a database have them.",
                (Source.EXPORTER, Source.OPERATOR),
                (),
            ),
            Metric(
                "meshhook_history_bytes",
                _G,
                "The size of the history of attempts, all partitions together.",
                (Source.EXPORTER, Source.OPERATOR),
                (),
            ),
            Metric(
                "meshhook_finished_jobs_bytes",
                _G,
                "The size of the kept bodies of finished jobs, all queues together.",
                (Source.EXPORTER, Source.OPERATOR),
                (),
            ),
            Metric(
                "meshhook_exporter_last_collection_age_seconds",
                _G,
                "Time since the queues were last read successfully, or since the exporter "
                "was created.",
                (Source.EXPORTER, Source.OPERATOR),
                (),
            ),
            Metric(
                "meshhook_exporter_collection_duration_seconds",
                _H,
                "How long reading all queues took, including failures.",
                (Source.EXPORTER, Source.OPERATOR),
                (),
                STATEMENT_SECONDS,
            ),
            Metric(
                "meshhook_exporter_collection_errors_total",
                _C,
                "Failed readings of the queues, and queues that were left out, by error type.",
                (Source.EXPORTER, Source.OPERATOR),
                ("error_type",),
                values=MappingProxyType({"error_type": COLLECTION_ERRORS}),
            ),
            _scaler("replicas", _G, "Replicas that the Deployment has."),
            _scaler("desired_replicas", _G, "Replicas that the operator requests."),
            _scaler("ready_replicas", _G, "Replicas that are ready."),
            _scaler("min_replicas", _G, "Minimum number of replicas allowed."),
            _scaler("max_replicas", _G, "Maximum number of replicas allowed."),
            _scaler(
                "recommended_replicas",
                _G,
                "Replicas that each signal calls for on its own.",
                ("signal",),
                signal=SIGNALS,
            ),
            _scaler(
                "limited",
                _G,
                "Whether something keeps the operator from its recommendation: 1 or 0.",
                ("reason",),
            ),
            _scaler(
                "kept_back",
                _G,
                "Messages that are due but may not start, because of limits, order or holds.",
                ("reason",),
                reason=KEPT_BACK_REASONS,
            ),
            _scaler(
                "failing_pods",
                _G,
                "Pods that cannot run, by the reason; series appear when a reason first occurs.",
                ("reason",),
                reason=POD_PROBLEMS,
            ),
            _scaler(
                "events_total",
                _C,
                "Changes in the number of replicas.",
                ("direction",),
                direction=("up", "down"),
            ),
            _scaler("paused", _G, "Whether scaling is paused: 1 or 0."),
            _scaler("ready", _G, "Whether the Ready condition is true: 1 or 0."),
            _scaler(
                "last_success_age_seconds",
                _G,
                "Time since the last decision from fresh data, or since the JobQueue was "
                "first seen.",
            ),
            Metric(
                "meshhook_operator_leading",
                _G,
                "Whether this process works (1), or stands by until the one that works ends (0).",
                (Source.OPERATOR,),
                (),
            ),
            Metric(
                "meshhook_operator_unserved_namespaces",
                _G,
                "Namespaces with JobQueues that this process leaves alone although it leads: "
                "another operator works on them, or their Lease cannot be written.",
                (Source.OPERATOR,),
                (),
            ),
            Metric(
                "meshhook_operator_reconcile_duration_seconds",
                _H,
                "How long reconciling one resource took.",
                (Source.OPERATOR,),
                (),
                STATEMENT_SECONDS,
            ),
            Metric(
                "meshhook_operator_reconciles_total",
                _C,
                "Reconciliations by outcome.",
                (Source.OPERATOR,),
                ("outcome",),
                values=MappingProxyType({"outcome": ("ok", "error")}),
            ),
            Metric(
                "meshhook_operator_tick_duration_seconds",
                _H,
                "How long sampling one database and deciding for all its queues took.",
                (Source.OPERATOR,),
                (),
                STATEMENT_SECONDS,
            ),
        )
    }
)
"""Every metric, by its name."""
