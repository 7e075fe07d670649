"""What a `JobQueue` asks for: the models of its spec, from which the CRD is generated.

The names in YAML are these in camel case. The docstring under a field is its description in the
CRD, in `kubectl explain jobqueue.spec`, and in docs/operator.md.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from meshhook.queue_config import QueueSettings
from meshhook.retry import MAX_DELAYS, Backoff
from meshhook_operator.api.fields import SET, ObjectName, Part, rules
from meshhook_operator.api.keys_spec import KeysSpec
from meshhook_operator.api.priorities_spec import PrioritiesSpec
from meshhook_operator.api.scaling_spec import ScalingSpec
from meshhook_operator.api.worker_spec import DeploymentReference, WorkerSpec

DATABASE_URL_KEY = "uri"
DEFAULTS = QueueSettings()

KEYS_OR_PRIORITIES = (
    "a queue has either keys or priorities: leave one of them out, or use a queue for each priority"
)
KEYS_OR_PRIORITIES_RULE = (
    "!(has(self.keys) && self.keys.enabled && has(self.priorities) && self.priorities.enabled)"
)

_Key = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]

_NAME = r"([*#]|[*#]?[A-Za-z0-9_-]+([*#][A-Za-z0-9_-]+)*[*#]?)"
_Topic = Annotated[str, Field(max_length=255, pattern=rf"^{_NAME}(\.{_NAME})*$")]


class SecretKey(Part):
    """A key of a Secret in the namespace of the JobQueue."""

    name: ObjectName
    """The name of the Secret."""
    key: _Key = DATABASE_URL_KEY
    """The key that holds the URL, as postgresql://user:password@host:port/database. Default uri, as
    in the Secrets of CloudNativePG."""


class DatabaseSpec(Part):
    """The database that holds the queue."""

    secret_ref: SecretKey
    """The Secret with the database URL for the workers. When it changes, the operator reconnects
    and rolls the workers out again."""
    operator_secret_ref: SecretKey | None = None
    """The Secret with the operator's URL of the same database, if the operator has a role of its
    own. Default: the same as secretRef."""
    pooled: bool = False
    """Whether the URL goes through a pooler in transaction mode, such as PgBouncer. The operator
    and the workers then poll instead of listening, so a queue scaled to zero wakes up at the next
    tick. Default false."""


class RetrySpec(Part):
    """When a failed job is retried."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            ("self.backoffBaseMs <= self.backoffMaxMs", "backoffBaseMs is more than backoffMaxMs"),
            (
                "self.backoff != 'list' || size(self.delaysMs) > 0",
                "the backoff list needs delaysMs",
            ),
        )
    )

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = DEFAULTS.max_retry_attempts
    """The number of attempts that a job has, including the first. Default 5."""
    backoff_base_ms: Annotated[int, Field(ge=0, le=604_800_000)] = DEFAULTS.retry_backoff_base_ms
    """The delay after the first failure, in milliseconds. It doubles with each failure.
    Default 1000."""
    backoff_max_ms: Annotated[int, Field(ge=0, le=604_800_000)] = DEFAULTS.retry_backoff_max_ms
    """The longest delay, in milliseconds. Default 300000."""
    jitter: Annotated[float, Field(ge=0, le=1)] = DEFAULTS.retry_jitter
    """The random share of each delay, 0 to 1. Default 0.5."""
    backoff: Backoff = DEFAULTS.retry_backoff
    """How the delays grow: exponential doubles them with each failure, fixed is always
    backoffBaseMs, and list is as delaysMs says. Default exponential."""
    delays_ms: Annotated[
        list[Annotated[int, Field(ge=0, le=604_800_000)]], Field(max_length=MAX_DELAYS)
    ] = []  # noqa: RUF012 - pydantic copies it
    """The delays of the backoff list, in milliseconds. The last one repeats. Default none."""
    max_per_second: Annotated[float, Field(ge=0, le=1_000_000)] = 0
    """How many retries start in a second, on all workers together; more are put off until there is
    room. 0 means any number. Default 0."""


class ExpirySpec(Part):
    """When jobs expire that were not started."""

    seconds: Annotated[float, Field(ge=0, le=31_622_400)] = 0
    """How long after it was enqueued a job may start, in seconds, unless it has a deadline of its
    own. 0 means for ever. Default 0."""
    action: Literal["archive", "dead_letter"] = DEFAULTS.on_expiry
    """What becomes of the message of an expired job: archive moves it to the archive, dead_letter
    makes it a dead letter. Default archive."""


class DeadLetterSpec(Part):
    """What happens to jobs that have failed permanently."""

    enabled: bool = DEFAULTS.dlq_enabled
    """Whether they become dead letters. Otherwise they are archived. Default true."""
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """How long dead letters are kept, in days. Default: for ever."""
    follow_up: (
        Annotated[str, Field(min_length=1, max_length=43, pattern=r"^[a-z0-9][a-z0-9_-]{0,42}$")]
        | None
    ) = None
    """The queue in which a job is enqueued for each dead letter. It must exist. Default: none."""


class ArchiveSpec(Part):
    """The archive: failed jobs where dead letters are off, and messages that programs archive."""

    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """How long archived messages are kept, in days. Default: for ever."""


class HistorySpec(Part):
    """The history of attempts."""

    retention_days: Annotated[int, Field(ge=1, le=36_500)] = DEFAULTS.history_retention_days
    """How long attempts are kept, in days. Default 7."""
    keep_bodies_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """How long the bodies of jobs that succeeded or were cancelled are kept, in days, so that
    meshhook jobs replay can enqueue them again. Without it, none are kept, and those that were are
    deleted. Default: none."""


class JobQueueSpec(Part):
    """A queue, its settings and its workers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "has(self.worker) != has(self.deploymentRef)",
                "give exactly one of worker and deploymentRef",
            ),
            (
                "has(self.worker) == has(oldSelf.worker)",
                "worker and deploymentRef cannot replace each other: create another JobQueue",
            ),
            (
                KEYS_OR_PRIORITIES_RULE,
                KEYS_OR_PRIORITIES,
            ),
        )
    )

    queue_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=43,
            pattern=r"^[a-z0-9][a-z0-9_-]{0,42}$",
            json_schema_extra=rules(
                ("self == oldSelf", "queueName cannot be changed: create another JobQueue"),
                ("!self.endsWith('_dlq')", "names that end in _dlq belong to dead letter queues"),
            ),
        ),
    ]
    """The name of the queue in PGMQ: 1 to 43 characters of a-z, 0-9, _ and -, starting with a
    letter or a digit. The queue is created if it does not exist, and adopted if it does. This field
    cannot be changed."""
    database: DatabaseSpec
    """The database that holds the queue."""
    visibility_timeout_seconds: Annotated[int, Field(ge=1, le=43_200)] = (
        DEFAULTS.visibility_timeout_seconds
    )
    """How long a lease lasts, in seconds. It is extended while the job runs. Default 30."""
    job_timeout_seconds: Annotated[float, Field(ge=0, le=604_800)] = 300
    """The time limit of one attempt, in seconds. 0 means no limit. Default 300."""
    max_payload_bytes: Annotated[int, Field(ge=1_024, le=104_857_600)] = DEFAULTS.max_payload_bytes
    """The largest message that the library enqueues, in bytes of JSON. Default 1 MiB."""
    retry: RetrySpec = RetrySpec()
    """When a failed job is retried."""
    expiry: ExpirySpec = ExpirySpec()
    """When jobs expire that were not started."""
    dead_letter: DeadLetterSpec = DeadLetterSpec()
    """What happens to jobs that have failed permanently."""
    archive: ArchiveSpec = ArchiveSpec()
    """The archive: failed jobs where dead letters are off, and messages that programs archive."""
    history: HistorySpec = HistorySpec()
    """The history of attempts."""
    results: bool = DEFAULTS.results
    """Whether what handlers return is kept with the history, up to 64 KiB of JSON a job, so that
    programs can wait for it. Default false."""
    keys: KeysSpec | None = None
    """Keys, which share the queue among tenants or destinations. What is declared here is set, and
    what is absent is left to whoever runs meshhook queue set. Default: all of it is left."""
    priorities: PrioritiesSpec | None = None
    """Priorities: urgent jobs go first, and low ones do not starve. With them the scaler plans for
    the target of each priority instead of scaling.targetAgeSeconds. What is declared here is set,
    and what is absent is left to whoever runs meshhook queue set. Not beside keys. Default: all of
    it is left."""
    topics: Annotated[list[_Topic], Field(max_length=100, json_schema_extra=SET)] | None = None
    """The topics whose messages PGMQ routes to the queue, as patterns: * stands for one name, # for
    any text. Exactly these are bound. Default: bindings are left as they are. Needs PGMQ 1.11."""
    worker: WorkerSpec | None = None
    """The Deployment that the operator creates. Give either this or deploymentRef; you cannot
    switch between the two later."""
    deployment_ref: DeploymentReference | None = None
    """A Deployment of yours, which the operator only scales. Give either this or worker."""
    scaling: ScalingSpec
    """How many workers there are."""
    paused: bool = False
    """While true, the operator changes nothing: not the Deployment, not its replicas, not the
    database. The workers keep running; to stop them from claiming jobs, run meshhook queue pause.
    Default false."""
    deletion_policy: Literal["Retain", "DeleteIfEmpty"] = "Retain"
    """What happens to the queue in the database when the JobQueue is deleted. Retain keeps it.
    DeleteIfEmpty drops it unless it holds messages or dead letters; this adds a finalizer, so the
    JobQueue can only be deleted while the operator is running. Default Retain."""

    @property
    def queue_settings(self) -> dict[str, Any]:
        """The settings that this resource determines, by their names in `queue_config`."""
        return {
            "visibility_timeout_seconds": self.visibility_timeout_seconds,
            "max_retry_attempts": self.retry.max_attempts,
            "retry_backoff_base_ms": self.retry.backoff_base_ms,
            "retry_backoff_max_ms": self.retry.backoff_max_ms,
            "retry_jitter": self.retry.jitter,
            "retry_backoff": self.retry.backoff,
            "retry_delays_ms": self.retry.delays_ms,
            "max_retries_per_second": self.retry.max_per_second or None,
            "job_expiry_seconds": self.expiry.seconds or None,
            "on_expiry": self.expiry.action,
            "job_timeout_seconds": self.job_timeout_seconds or None,
            "dlq_enabled": self.dead_letter.enabled,
            "dead_letter_follow_up": self.dead_letter.follow_up,
            "dlq_retention_days": self.dead_letter.retention_days,
            "archive_retention_days": self.archive.retention_days,
            "history_retention_days": self.history.retention_days,
            "keep_bodies_days": self.history.keep_bodies_days,
            "max_payload_bytes": self.max_payload_bytes,
            "results": self.results,
        }
