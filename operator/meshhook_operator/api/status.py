"""What a `JobQueue` reports: the models of its status, from which the CRD is generated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from meshhook.priorities import PRIORITY_NAMES
from meshhook_operator.api.fields import Part


class StatusPart(Part):
    """A part of a status; unknown fields are left out."""

    # An older operator may read what a newer one wrote.
    model_config = ConfigDict(extra="ignore")


class Condition(StatusPart):
    """One condition, in the form that Kubernetes defines."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Active, OnTime, ScalingLimited or Paused."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    reason: Annotated[str, Field(max_length=1024)]
    """The reason, as one word."""
    message: Annotated[str, Field(max_length=32_768)]
    """The reason, as a sentence."""
    observed_generation: Annotated[int, Field(ge=0)]
    """The generation of the spec that the condition is based on."""
    last_transition_time: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    """When `status` last changed."""


class PriorityStatus(StatusPart):
    """The messages of one priority."""

    ready: int
    """Messages that are ready and wait for a worker."""
    oldest_ready_seconds: int
    """How long the oldest of them has waited, in seconds."""
    target_seconds: float
    """Within how many seconds jobs of this priority should start."""


class QueueStatus(StatusPart):
    """The queue as last read. Written with each new decision, or at most every 30 seconds."""

    ready: int
    """Messages that are ready and wait for a worker. Those kept back do not count."""
    running: int
    """Messages whose job is running."""
    scheduled: int
    """Messages that are scheduled for later."""
    retrying: int
    """Messages that have failed and wait for their next attempt."""
    dead_letters: int
    """Dead letters."""
    oldest_ready_seconds: int
    """How long the oldest ready message has waited, in seconds. While workers report, one that has
    waited for a limit counts as 0."""
    kept_back: int = 0
    """Messages that are due but may not start now, because of limits or holds."""
    kept_back_by_holds: int = 0
    """Those whose key is held."""
    kept_back_by_key_limits: int = 0
    """Those that wait for the limits of their keys."""
    kept_back_by_order: int = 0
    """Those of ordered keys that wait for the jobs before them."""
    kept_back_by_queue_limit: int = 0
    """Those that wait for the limits of the queue."""
    priorities: dict[str, PriorityStatus] | None = None
    """Of urgent, high, normal and low each: ready, oldestReadySeconds and targetSeconds. Absent in
    queues without priorities."""

    @property
    def late_priorities(self) -> list[str]:
        """The priorities of which a job has waited longer than it should, the most urgent first."""
        found = self.priorities or {}
        return [
            name
            for name in PRIORITY_NAMES
            if name in found and found[name].oldest_ready_seconds > found[name].target_seconds
        ]


class ScalingStatus(StatusPart):
    """The last scaling decision, and the reasons for it."""

    signals: Annotated[dict[str, int], Field(default_factory=dict)]
    """The number of replicas that each signal asked for."""
    message: str = ""
    """What was measured, how many replicas that calls for, and what limits them, in a sentence."""
    limited_by: str | None = None
    """Why the replicas differ from what the signals asked for. Absent if they do not."""
    arrivals_per_second: float | None = None
    """Messages that arrive per second."""
    jobs_per_second_per_replica: float | None = None
    """Jobs that a busy replica completes per second. Absent until measured."""
    lead_seconds: float | None = None
    """How long a new pod takes to become Ready, in seconds. Absent until measured."""
    next_scale_down_time: (
        Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})] | None
    ) = None
    """The earliest time of the next scale-down. Absent while none is needed."""


class JobQueueStatus(StatusPart):
    """What the operator has found and done."""

    observed_generation: int | None = None
    """The generation of the spec that was last reconciled."""
    state: str | None = None
    """The reason of the condition that matters most, in a word; Operating if all is well."""
    deployment: str | None = None
    """The name of the Deployment that is scaled."""
    replicas: int | None = None
    """The current number of replicas."""
    ready_replicas: int | None = None
    """The number of replicas that are ready."""
    desired_replicas: int | None = None
    """The number of replicas that the last decision asked for."""
    last_scale_time: (
        Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})] | None
    ) = None
    """When the operator last changed the number of replicas."""
    queue: QueueStatus | None = None
    """The queue as last read. Counting stops at 10,000 messages, or at as few as 1,000 where
    hundreds of queues share a database."""
    scaling: ScalingStatus | None = None
    """The last scaling decision, and the reasons for it."""
    conditions: Annotated[
        list[Condition],
        Field(
            default_factory=list,
            json_schema_extra={
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
        ),
    ]
    """Ready, Active, OnTime, ScalingLimited and Paused."""
