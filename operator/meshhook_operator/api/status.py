"""What a `JobQueue` shows: the models of its status, from which the CRD is generated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, WithJsonSchema

from meshhook_operator.api.fields import Part


class _StatusPart(Part):
    # An older operator may find what a newer one wrote.
    model_config = ConfigDict(extra="ignore")


class Condition(_StatusPart):
    """One condition, as Kubernetes has them."""

    type: Annotated[str, Field(max_length=316)]
    """Ready, Active, ScalingLimited or Paused."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(max_length=1024)]
    """Why, in one word."""
    message: Annotated[str, Field(max_length=32_768)]
    """Why, in a sentence."""
    observed_generation: Annotated[int, Field(ge=0)]
    """The generation of the spec that it is about."""
    last_transition_time: Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
    """When `status` last changed."""


class QueueStatus(_StatusPart):
    """The queue as it was seen lately: at most every 30 seconds, and with each decision."""

    ready: int
    """Messages that wait for a worker."""
    running: int
    """Messages that are leased."""
    scheduled: int
    """Messages that were sent for later."""
    retrying: int
    """Messages that failed and wait for their next attempt."""
    dead_letters: int
    """Dead letters."""
    oldest_ready_seconds: int
    """For how long the oldest ready message waits, in seconds."""


class ScalingStatus(_StatusPart):
    """The last decision, and what led to it."""

    signals: Annotated[dict[str, int], Field(default_factory=dict)]
    """How many replicas each signal asked for."""
    message: str = ""
    """The decision in a sentence."""
    limited_by: str | None = None
    """What kept the replicas from what the signals asked for; absent if nothing did."""
    arrivals_per_second: float | None = None
    """Messages that arrive, a second."""
    jobs_per_second_per_replica: float | None = None
    """Jobs that a busy replica does, a second; absent until it is measured."""
    lead_seconds: float | None = None
    """From asking for a pod to its being Ready, in seconds; absent until it is measured."""
    next_scale_down_time: (
        Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})] | None
    ) = None
    """When the next scale-down may come; absent while none is wanted."""


class JobQueueStatus(_StatusPart):
    """What the operator has found and done."""

    observed_generation: int | None = None
    """The generation of the spec that was last acted on."""
    deployment: str | None = None
    """The Deployment that is scaled."""
    replicas: int | None = None
    """The replicas that there are."""
    ready_replicas: int | None = None
    """Those that are ready."""
    desired_replicas: int | None = None
    """The replicas that the last decision asked for."""
    last_scale_time: (
        Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})] | None
    ) = None
    """When the operator last changed the number of replicas."""
    queue: QueueStatus | None = None
    """The queue as it was seen lately. Counting stops at 10,000 messages, and earlier, down to at
    1,000, where hundreds of queues share a database."""
    scaling: ScalingStatus | None = None
    """The last decision, and what led to it."""
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
    """Ready, Active, ScalingLimited and Paused."""
