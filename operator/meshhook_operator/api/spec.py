"""What a `JobQueue` asks for: the models of its spec, from which the CRD is generated.

The names in YAML are these in camel case. The docstring under a field is its description in the
CRD, in `kubectl explain jobqueue.spec`, and in the reference.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from meshhook.queue_config import QueueSettings

GROUP = "meshhook.io"
VERSION = "v1alpha1"
KIND = "JobQueue"
PLURAL = "jobqueues"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_REPLICAS = 10_000
MAX_NAME_LENGTH = 52
"""So that the Deployment's name, which ends in `-worker`, still fits into a label."""

DATABASE_URL_KEY = "uri"
DEFAULTS = QueueSettings()


def _rules(*rules: tuple[str, str]) -> dict[str, Any]:
    """Return CEL rules as the API server takes them: pairs of an expression and its message."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": text} for rule, text in rules]}


_Quantity = Annotated[
    int | str,
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "pattern": (
                r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
                r"(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
            ),
            "x-kubernetes-int-or-string": True,
        }
    ),
]
# What Kubernetes itself checks when the Deployment is applied; it refuses unknown fields then.
_Untyped = Annotated[
    dict[str, Any],
    WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
]
_ByName = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
_Atomic = {"x-kubernetes-list-type": "atomic"}
_ObjectName = Annotated[
    str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]
_Key = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]


class Part(BaseModel):
    """A part of the spec: what it does not know it refuses, and says so."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


# --- The queue ---------------------------------------------------------------------------------


class SecretKey(Part):
    """A key of a Secret in the namespace of the JobQueue."""

    name: _ObjectName
    """The name of the Secret."""
    key: _Key = DATABASE_URL_KEY
    """The key whose value is the URL, as postgresql://user:password@host:port/database. Default
    uri, as CloudNativePG writes it."""


class DatabaseSpec(Part):
    """The database that holds the queue."""

    secret_ref: SecretKey
    """Where the URL of the database is; workers get it. A Secret that changes is read again, and
    the workers are rolled out anew."""
    operator_secret_ref: SecretKey | None = None
    """Where the operator's URL of the same database is, if it has a role of its own. Default: as
    secretRef."""
    pooled: bool = False
    """Whether the URL leads through a pooler in transaction mode, such as PgBouncer. The operator
    and the workers then poll instead of listening: a queue at zero wakes at the next tick. Default
    false."""


class RetrySpec(Part):
    """When a job that failed is tried again."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            ("self.backoffBaseMs <= self.backoffMaxMs", "backoffBaseMs is more than backoffMaxMs")
        )
    )

    max_attempts: Annotated[int, Field(ge=1, le=1000)] = DEFAULTS.max_retry_attempts
    """How many attempts a job has in all, the first one included. Default 5."""
    backoff_base_ms: Annotated[int, Field(ge=0, le=604_800_000)] = DEFAULTS.retry_backoff_base_ms
    """The delay after the first failure, in milliseconds; it doubles each time. Default 1000."""
    backoff_max_ms: Annotated[int, Field(ge=0, le=604_800_000)] = DEFAULTS.retry_backoff_max_ms
    """The longest delay, in milliseconds. Default 300000."""
    jitter: Annotated[float, Field(ge=0, le=1)] = DEFAULTS.retry_jitter
    """The share of each delay that is random, 0 to 1. Default 0.5."""


class DeadLetterSpec(Part):
    """What becomes of jobs that failed for good."""

    enabled: bool = DEFAULTS.dlq_enabled
    """Whether they become dead letters; otherwise they are archived. Default true."""
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """How long dead letters are kept, in days. Default: for ever."""


class ArchiveSpec(Part):
    """What was archived: jobs that failed for good where dead letters are off, and by programs."""

    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None
    """How long archived messages are kept, in days. Default: for ever."""


class HistorySpec(Part):
    """The record of attempts."""

    retention_days: Annotated[int, Field(ge=1, le=36_500)] = DEFAULTS.history_retention_days
    """How long attempts are kept, in days. Default 7."""


# --- The workers -------------------------------------------------------------------------------


class EnvVar(Part):
    """An environment variable of the worker."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Its name. Those that the operator sets itself are refused: MESHHOOK_DATABASE_URL,
    MESHHOOK_POOLED and MESHHOOK_METRICS_PORT."""
    value: str | None = None
    """Its value."""
    value_from: _Untyped | None = None
    """Where its value comes from, as in a pod."""


class EnvFromSource(Part):
    """Environment variables from all keys of a ConfigMap or Secret, as in a pod."""

    prefix: str | None = None
    """What is put before the name of each key."""
    config_map_ref: _Untyped | None = None
    """The ConfigMap."""
    secret_ref: _Untyped | None = None
    """The Secret."""


class LocalObject(Part):
    """An object in the namespace of the JobQueue."""

    name: _ObjectName
    """Its name."""


class ResourceRequirements(Part):
    """What the worker's container asks for and may use, as in a pod."""

    requests: dict[str, _Quantity] | None = None
    """What is set aside for it, by resource."""
    limits: dict[str, _Quantity] | None = None
    """What it may use at most, by resource."""
    claims: Annotated[list[_Untyped], Field(json_schema_extra=_Atomic)] | None = None
    """Dynamic resources, as in a pod."""


class Toleration(Part):
    """A taint that the worker's pods tolerate, as in a pod."""

    key: str | None = None
    """The taint's key; empty means every taint."""
    operator: Literal["Exists", "Equal", "Lt", "Gt"] | None = None
    """How key and value compare. Default Equal."""
    value: str | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; empty means every effect."""
    toleration_seconds: int | None = None
    """For how long NoExecute is tolerated, in seconds; empty means for ever."""


WORKER_ENVIRONMENT = ("MESHHOOK_DATABASE_URL", "MESHHOOK_POOLED", "MESHHOOK_METRICS_PORT")
"""What the operator sets itself."""


class WorkerSpec(Part):
    """The Deployment that the operator makes: `meshhook worker` in an image of yours."""

    image: Annotated[str, Field(min_length=1, max_length=1024)]
    """The image: your code and `meshhook-queue` in it."""
    handler: Annotated[str, Field(max_length=512, pattern=r"^[^\s:]+:[^\s:]+$")]
    """The function that does a job, as module:function."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 50
    """How many jobs a pod runs at once. Default 50."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Default: as Kubernetes decides from the tag."""
    image_pull_secrets: Annotated[list[LocalObject], Field(json_schema_extra=_ByName)] = []
    """Secrets for pulling the image."""
    resources: ResourceRequirements | None = None
    """What the container asks for and may use. Default: requests of 50m CPU and 128Mi of memory,
    a limit of 1Gi of memory; {} means none of these."""
    env: Annotated[
        list[EnvVar],
        Field(
            max_length=500,
            json_schema_extra=_ByName
            | _rules(
                (
                    f"self.all(each, !(each.name in {list(WORKER_ENVIRONMENT)}))",
                    f"the operator sets {', '.join(WORKER_ENVIRONMENT)} itself",
                )
            ),
        ),
    ] = []
    """More environment variables."""
    env_from: Annotated[list[EnvFromSource], Field(json_schema_extra=_Atomic)] = []
    """More environment variables, from ConfigMaps and Secrets."""
    volumes: Annotated[list[_Untyped], Field(json_schema_extra=_Atomic)] = []
    """More volumes, as in a pod. `tmp` is the operator's, and holds 1Gi."""
    volume_mounts: Annotated[list[_Untyped], Field(json_schema_extra=_Atomic)] = []
    """Where they are mounted, as in a container. The root file system is read-only; /tmp is not."""
    service_account_name: _ObjectName | None = None
    """The service account of the pods. Default: the namespace's default one. Its token is mounted
    only if you name one here."""
    node_selector: dict[str, str] = {}
    """The labels that a node must have."""
    tolerations: Annotated[list[Toleration], Field(json_schema_extra=_Atomic)] = []
    """The taints that the pods tolerate."""
    affinity: _Untyped | None = None
    """Affinity, as in a pod."""
    topology_spread_constraints: Annotated[list[_Untyped], Field(json_schema_extra=_Atomic)] = []
    """How the pods spread over nodes and zones, as in a pod. One without a labelSelector gets that
    of the Deployment."""
    priority_class_name: str | None = None
    """The priority class of the pods."""
    pod_labels: dict[str, str] = {}
    """More labels of the pods. Those of the operator win."""
    pod_annotations: dict[str, str] = {}
    """More annotations of the pods. Those of the operator win."""
    pod_security_context: _Untyped | None = None
    """Merged over the pod's security context, which meets the restricted Pod Security standard."""
    security_context: _Untyped | None = None
    """Merged over the container's security context, which meets the same."""
    termination_grace_period_seconds: Annotated[int, Field(ge=10, le=3_600)] = 30
    """How long a pod that goes may take, in seconds. Jobs that run get five seconds less to finish;
    what is left is given back, ready at once and with its attempt unspent. Default 30."""


class DeploymentReference(Part):
    """A Deployment of yours whose replicas the operator sets, and of which it touches nothing else.

    Its containers run `meshhook worker` on the queue.
    """

    name: _ObjectName
    """The name of the Deployment, in the namespace of the JobQueue."""


# --- Scaling -----------------------------------------------------------------------------------


class StepLimit(Part):
    """How far the replicas may move within a period. The larger of replicas and percent counts."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            (
                "!has(self.periodSeconds) || has(self.replicas) || has(self.percent)",
                "give replicas, percent or both",
            )
        )
    )

    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] | None = None
    """So many replicas within a period."""
    percent: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """So many percent of the replicas at the beginning of the period."""
    period_seconds: Annotated[int, Field(ge=1, le=3_600)] | None = None
    """The period, in seconds. Default 15."""


class ScaleUpSpec(StepLimit):
    """A bound on scaling up. Default: none."""


class ScaleDownSpec(StepLimit):
    """Bounds on scaling down."""

    window_seconds: Annotated[int, Field(ge=0, le=3_600)] = 30
    """Down to the most that was needed within this time, in seconds. Default 30."""


class FallbackSpec(Part):
    """What to do while the database cannot be read."""

    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
    """Raised to this many; never lowered."""
    after_failures: Annotated[int, Field(ge=1, le=1_000)] = 3
    """After how many ticks in a row that failed. Default 3."""


class ScalingSpec(Part):
    """How many workers there are."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            ("self.minReplicas <= self.maxReplicas", "minReplicas is more than maxReplicas"),
            (
                "!has(self.fallback) || self.fallback.replicas <= self.maxReplicas",
                "fallback.replicas is more than maxReplicas",
            ),
            (
                "!has(self.tickSeconds) || self.tickSeconds <= self.targetAgeSeconds",
                "tickSeconds is more than targetAgeSeconds",
            ),
        )
    )

    min_replicas: Annotated[int, Field(ge=0, le=MAX_REPLICAS)] = 1
    """The least number of replicas; 0 lets the last one go while there is nothing to do.
    Default 1."""
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
    """The greatest number of replicas."""
    target_age_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60
    """The deadline that the scaler plans for: a job should start within this many seconds after it
    became ready. Default 60."""
    target_length: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Messages a replica, used only until it is measured how many jobs a replica does.
    Default 10."""
    tick_seconds: Annotated[int, Field(ge=1, le=300)] | None = None
    """How often to look and decide, in seconds. Default: a twelfth of targetAgeSeconds, at least 1
    and at most 5."""
    cooldown_seconds: Annotated[int, Field(ge=0, le=86_400)] = 60
    """How long nothing must arrive before the last replica goes, in seconds; only where
    minReplicas is 0. Default 60."""
    scale_up: ScaleUpSpec = ScaleUpSpec()
    """A bound on scaling up. Default: none."""
    scale_down: ScaleDownSpec = ScaleDownSpec()
    """Bounds on scaling down."""
    fallback: FallbackSpec | None = None
    """What to do while the database cannot be read. Default: keep what there is."""


class JobQueueSpec(Part):
    """A queue, its settings and its workers."""

    model_config = ConfigDict(
        json_schema_extra=_rules(
            (
                "has(self.worker) != has(self.deploymentRef)",
                "give exactly one of worker and deploymentRef",
            ),
            (
                "has(self.worker) == has(oldSelf.worker)",
                "worker and deploymentRef cannot take each other's place: make another JobQueue",
            ),
        )
    )

    queue_name: Annotated[
        str,
        Field(
            min_length=1,
            max_length=43,
            pattern=r"^[a-z0-9][a-z0-9_-]{0,42}$",
            json_schema_extra=_rules(
                ("self == oldSelf", "queueName cannot be changed: make another JobQueue"),
                ("!self.endsWith('_dlq')", "names that end in _dlq belong to dead letter queues"),
            ),
        ),
    ]
    """The queue, as PGMQ knows it: 1 to 43 characters of a-z, 0-9, _ and -, the first a letter or a
    digit. It is created if it does not exist, and adopted if it does. It cannot be changed."""
    database: DatabaseSpec
    """The database that holds the queue."""
    visibility_timeout_seconds: Annotated[int, Field(ge=1, le=43_200)] = (
        DEFAULTS.visibility_timeout_seconds
    )
    """How long a lease lasts, in seconds; it is extended while the job runs. Default 30."""
    job_timeout_seconds: Annotated[float, Field(ge=0, le=604_800)] = 300
    """How long one attempt may run, in seconds; 0 means for ever. Default 300."""
    max_payload_bytes: Annotated[int, Field(ge=1_024, le=104_857_600)] = DEFAULTS.max_payload_bytes
    """The longest message, in bytes of JSON, that the library enqueues. Default 1 MiB."""
    retry: RetrySpec = RetrySpec()
    """When a job that failed is tried again."""
    dead_letter: DeadLetterSpec = DeadLetterSpec()
    """What becomes of jobs that failed for good."""
    archive: ArchiveSpec = ArchiveSpec()
    """How long archived messages are kept."""
    history: HistorySpec = HistorySpec()
    """The record of attempts."""
    worker: WorkerSpec | None = None
    """The Deployment that the operator makes. This or deploymentRef; which of the two cannot be
    changed."""
    deployment_ref: DeploymentReference | None = None
    """A Deployment of yours that the operator only scales. This or worker."""
    scaling: ScalingSpec
    """How many workers there are."""
    paused: bool = False
    """While true the operator changes nothing for this queue: not the Deployment, not its replicas,
    not the database. The workers go on; to stop them from claiming: meshhook queue pause.
    Default false."""
    deletion_policy: Literal["Retain", "DeleteIfEmpty"] = "Retain"
    """What becomes of the queue in the database when the JobQueue is deleted. Retain: it stays as
    it is. DeleteIfEmpty: it is dropped if it holds neither messages nor dead letters, and else
    stays; this needs a finalizer, so that the JobQueue goes only while the operator runs.
    Default Retain."""

    @property
    def queue_settings(self) -> dict[str, Any]:
        """The settings that this resource decides, by their names in `queue_config`."""
        return {
            "visibility_timeout_seconds": self.visibility_timeout_seconds,
            "max_retry_attempts": self.retry.max_attempts,
            "retry_backoff_base_ms": self.retry.backoff_base_ms,
            "retry_backoff_max_ms": self.retry.backoff_max_ms,
            "retry_jitter": self.retry.jitter,
            "job_timeout_seconds": self.job_timeout_seconds or None,
            "dlq_enabled": self.dead_letter.enabled,
            "dlq_retention_days": self.dead_letter.retention_days,
            "archive_retention_days": self.archive.retention_days,
            "history_retention_days": self.history.retention_days,
            "max_payload_bytes": self.max_payload_bytes,
        }
