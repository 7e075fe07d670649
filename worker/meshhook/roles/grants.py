"""The rights of each kind of role, as data: the source of grants, scripts and checks."""

from __future__ import annotations

from dataclasses import dataclass

from meshhook.role_kinds import RoleKind


@dataclass(frozen=True, slots=True)
class Grant:
    """One privilege on one object.

    Attributes:
        object: `queue`, `dead_letters`, `archive`, `queue_sequence` or `waiting` of each queue of
            the role; or `schema NAME`, `table SCHEMA.NAME` or `function SCHEMA.NAME()`.
        privilege: PostgreSQL's name of it, in lower case.
        columns: the columns that it covers; empty means all of them.
    """

    object: str
    privilege: str
    columns: tuple[str, ...] = ()


_CONFIG = "table meshhook.queue_config"
_HISTORY = "table meshhook.job_attempts"
_WORKERS = "table meshhook.workers"
_KEYS = "table meshhook.keys"
_STARTS = "table meshhook.starts"
_TOPICS = "table pgmq.topic_bindings"
_UNIQUE = "table meshhook.unique_keys"
_BREAKERS = "table meshhook.breakers"
_GROUPS = "table meshhook.job_groups"
_CANCELLATIONS = "table meshhook.cancellations"
_SCHEDULES = "table meshhook.schedules"
_FIRINGS = "table meshhook.schedule_firings"
_AUDITS = Grant("function meshhook.audit(text,text,jsonb,bigint,jsonb)", "execute")
_FINISHED = "table meshhook.finished_jobs"
_SCALING = "table meshhook.queue_scaling"

_SENT = ("vt", "message", "headers")
_TAKES_KEYS = (
    Grant(_UNIQUE, "insert"),
    Grant(_UNIQUE, "update", ("msg_id", "enqueued_at", "until_started", "expires_at")),
)
_REPORTED = (
    "concurrency",
    "running",
    "processed",
    "busy_seconds",
    "oldest_running_seconds",
    "cordoned",
    "draining",
    "seen_at",
)
_SETTINGS = (
    "visibility_timeout_seconds",
    "max_retry_attempts",
    "retry_backoff_base_ms",
    "retry_backoff_max_ms",
    "retry_jitter",
    "retry_backoff",
    "retry_delays_ms",
    "job_expiry_seconds",
    "on_expiry",
    "dead_letter_follow_up",
    "max_retries_per_second",
    "job_timeout_seconds",
    "dlq_enabled",
    "dlq_retention_days",
    "archive_retention_days",
    "history_retention_days",
    "max_payload_bytes",
    "paused",
    "results",
    "keep_bodies_days",
    "max_running",
    "max_running_per_key",
    "max_starts",
    "max_starts_per_key",
    "starts_period_seconds",
    "breaker_failures",
    "breaker_pause_seconds",
    "breaker_max_pause_seconds",
)
_HOLD = (
    "held_until",
    "held_at",
    "held_by",
    "hold_reason",
    "held_by_dead_letter",
    "held_by_job",
)
_TELLS_OF_ENDS = Grant("function meshhook.ends_are_awaited()", "execute")
_AWAITS_ENDS = Grant("function meshhook.await_ends()", "execute")
_BREAKER_STATE = ("failures", "failed_at", "error_type", "opened_at", "openings", "probe_at")
_NEW_GROUP = (
    "id",
    "queue",
    "name",
    "msg_ids",
    "total",
    "callback_queue",
    "callback_message",
    "callback_headers",
    "callback_delay_seconds",
    "finished_at",
    "callback_id",
)
_GROUP_ENDS = (
    "succeeded",
    "failed",
    "cancelled",
    "lost",
    "finished_at",
    "checked_at",
    "callback_id",
    "callback_error",
)
_SCHEDULE = (
    "cron",
    "every_seconds",
    "time_zone",
    "message",
    "headers",
    "key",
    "missed",
    "overlap",
    "paused",
    "next_at",
    "try_at",
    "error",
    "failed_at",
)
_REQUEST = ("enqueued_at", "requested_at", "requested_by", "reason", "ended_at", "outcome")
_STATE = ("msg_id", "read_ct", "enqueued_at", "vt", "headers")

_EVERYBODY = (
    Grant("schema meshhook", "usage"),
    Grant("schema pgmq", "usage"),
    Grant("table meshhook.migrations", "select"),
    Grant("table meshhook.roles", "select"),
    Grant(_CONFIG, "select"),
    Grant(_KEYS, "select"),
    Grant(_BREAKERS, "select"),
)
_SETS_KEYS = (
    *(Grant(_KEYS, privilege) for privilege in ("insert", "update", "delete")),
    Grant(_BREAKERS, "update", _BREAKER_STATE),
)

_CANCELS = (
    Grant(_CANCELLATIONS, "insert"),
    Grant(_CANCELLATIONS, "update", _REQUEST),
    Grant(_GROUPS, "update", _GROUP_ENDS),
)

_READER = (
    *_EVERYBODY,
    Grant("queue", "select"),
    Grant("dead_letters", "select"),
    Grant("archive", "select"),
    Grant("queue_sequence", "select"),
    Grant(_HISTORY, "select"),
    Grant(_WORKERS, "select"),
    Grant(_STARTS, "select"),
    Grant(_CANCELLATIONS, "select"),
    Grant(_UNIQUE, "select"),
    Grant("table meshhook.job_tracking", "select"),
    Grant("table meshhook.job_statistics", "select"),
    Grant("table meshhook.queue_monitoring", "select"),
    Grant(_GROUPS, "select"),
    Grant(_SCHEDULES, "select"),
    Grant(_FIRINGS, "select"),
    Grant("table meshhook.audit_log", "select"),
    Grant("table meshhook.audit_settings", "select"),
    Grant(_FINISHED, "select"),
    Grant(_SCALING, "select"),
    _AWAITS_ENDS,
)

# The right to delete, or to update every column, allows locking a table against everyone. On the
# tables that queues share only an operator has it.
GRANTS: dict[RoleKind, tuple[Grant, ...]] = {
    RoleKind.OWNER: (),
    RoleKind.PRODUCER: (
        *_EVERYBODY,
        Grant("queue", "insert", ("msg_id", *_SENT)),
        Grant("queue", "select", ("msg_id", "enqueued_at", "read_ct")),
        # A job that waits is replaced, and locked where it holds a key until it starts.
        Grant("queue", "update", _SENT),
        Grant("queue_sequence", "usage"),
        Grant(_UNIQUE, "select"),
        *_TAKES_KEYS,
        Grant(_GROUPS, "select", ("queue", "name")),
        Grant(_GROUPS, "insert", _NEW_GROUP),
        Grant(_SCHEDULES, "select"),
        Grant(_SCHEDULES, "insert"),
        Grant(_SCHEDULES, "update", _SCHEDULE),
        # Inserting a row sends the job of a schedule.
        Grant(_FIRINGS, "select"),
        Grant(_FIRINGS, "insert"),
    ),
    RoleKind.WORKER: (
        *_EVERYBODY,
        Grant("queue", "select"),
        Grant("queue", "update", ("vt", "read_ct", "headers", "last_read_at")),
        Grant("queue", "delete"),
        Grant("dead_letters", "select"),
        Grant("dead_letters", "insert", _SENT),
        Grant("dead_letters", "update", ("vt",)),
        Grant("dead_letters", "delete"),
        Grant("archive", "select"),
        Grant("archive", "insert", ("msg_id", "read_ct", "enqueued_at", *_SENT)),
        Grant("archive", "update", ("vt",)),
        Grant("archive", "delete"),
        Grant("waiting", "update"),
        Grant(_HISTORY, "select"),
        Grant(_HISTORY, "insert"),
        Grant(_WORKERS, "select"),
        Grant(_WORKERS, "insert"),
        Grant(_WORKERS, "update", _REPORTED),
        Grant(_KEYS, "insert", ("queue", "key", *_HOLD)),
        Grant(_KEYS, "update", _HOLD),
        Grant(_BREAKERS, "insert"),
        Grant(_BREAKERS, "update", _BREAKER_STATE),
        Grant(_STARTS, "select"),
        Grant(_STARTS, "insert"),
        Grant(_STARTS, "update", ("full_at",)),
        Grant(_CANCELLATIONS, "select"),
        Grant(_GROUPS, "select"),
        Grant(_UNIQUE, "select"),
        Grant(_UNIQUE, "update", ("expires_at",)),
        *_CANCELS,
        Grant(_SCHEDULES, "select"),
        Grant(_SCHEDULES, "update", ("next_at", "try_at", "error", "failed_at")),
        Grant(_FIRINGS, "select"),
        Grant(_FIRINGS, "insert"),
        Grant(_FINISHED, "insert"),
        Grant("function meshhook.delete_past_firings()", "execute"),
        Grant("function meshhook.make_coming_partitions()", "execute"),
        Grant("function meshhook.drop_past_partitions()", "execute"),
        Grant("function meshhook.delete_past_attempts()", "execute"),
        Grant("function meshhook.delete_past_groups()", "execute"),
        Grant("function meshhook.delete_idle_breakers()", "execute"),
        Grant("function meshhook.delete_past_audit_entries()", "execute"),
        _AUDITS,
        _TELLS_OF_ENDS,
        _AWAITS_ENDS,
    ),
    RoleKind.READER: _READER,
    RoleKind.ONCALL: (
        *_READER,
        Grant("queue", "insert", ("enqueued_at", *_SENT)),
        Grant("queue", "update", ("vt", "headers")),
        Grant("queue", "delete"),
        *_TAKES_KEYS,
        Grant("dead_letters", "update", ("vt", "headers")),
        Grant("dead_letters", "delete"),
        Grant(_HISTORY, "insert"),
        Grant(_CONFIG, "update", _SETTINGS),
        *_CANCELS,
        *_SETS_KEYS,
        Grant(_SCHEDULES, "update", ("paused", "next_at", "try_at")),
        Grant(_FIRINGS, "insert"),
        _AUDITS,
        Grant(_FINISHED, "insert"),
        Grant(_FINISHED, "update", ("replayed_as", "replayed_at")),
        _TELLS_OF_ENDS,
    ),
    RoleKind.OPERATOR: (
        *_EVERYBODY,
        Grant("schema meshhook", "create"),
        Grant("schema pgmq", "create"),
        Grant("table meshhook.role_grants", "select"),
        Grant(_CONFIG, "insert"),
        Grant(_CONFIG, "update"),
        Grant(_CONFIG, "delete"),
        *_SETS_KEYS,
        Grant(_SCHEDULES, "select"),
        Grant(_SCHEDULES, "insert"),
        Grant(_SCHEDULES, "update"),
        Grant(_SCHEDULES, "delete"),
        Grant(_FIRINGS, "select"),
        Grant(_STARTS, "select"),
        # Of an empty queue that owes callbacks.
        Grant(_GROUPS, "select", ("queue", "callback_queue", "callback_id")),
        Grant(_WORKERS, "select"),
        Grant(_WORKERS, "update", ("cordoned_until",)),
        *(Grant(_SCALING, each) for each in ("select", "insert", "update", "delete")),
        Grant("table pgmq.meta", "select"),
        Grant("table pgmq.meta", "insert"),
        Grant("table pgmq.meta", "delete"),
        # Left out where PGMQ has no topics.
        Grant(_TOPICS, "select"),
        Grant(_TOPICS, "insert"),
        Grant(_TOPICS, "delete"),
        Grant("function meshhook.wake_waiting_workers()", "execute"),
        _AUDITS,
        Grant("queue", "select", _STATE),
        Grant("dead_letters", "select", ("msg_id", "enqueued_at")),
        Grant("queue_sequence", "select"),
        Grant("waiting", "update"),
    ),
}
"""The rights of each kind, in addition to those of PUBLIC. An owner has its rights by ownership."""
