"""`spec.scaling`: how many workers there are."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from meshhook_operator.api.fields import MAX_REPLICAS, Part, rules


class StepLimit(Part):
    """How far the replicas may change in a period. The larger of replicas and percent counts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "!has(self.periodSeconds) || has(self.replicas) || has(self.percent)",
                "give replicas, percent or both",
            )
        )
    )

    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)] | None = None
    """The largest change within a period, as a number of replicas."""
    percent: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """The largest change within a period, as a percentage of the replicas at its start."""
    period_seconds: Annotated[int, Field(ge=1, le=3_600)] | None = None
    """The length of the period, in seconds. Default 15."""


class ScaleUpSpec(StepLimit):
    """Limits on scaling up. Default: none."""


class ScaleDownSpec(StepLimit):
    """Limits on scaling down."""

    window_seconds: Annotated[int, Field(ge=0, le=3_600)] = 30
    """How far back to look when scaling down, in seconds: the replicas never go below the highest
    number needed within this time. Default 30."""


class FallbackSpec(Part):
    """What to do while the database cannot be read."""

    replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
    """Scale up to this number of replicas. Never scales down."""
    after_failures: Annotated[int, Field(ge=1, le=1_000)] = 3
    """How many reads in a row must fail first. Default 3."""


class ScalingSpec(Part):
    """How many workers there are."""

    model_config = ConfigDict(
        json_schema_extra=rules(
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
    """The minimum number of replicas. With 0 an idle queue has no workers. Default 1."""
    max_replicas: Annotated[int, Field(ge=1, le=MAX_REPLICAS)]
    """The maximum number of replicas."""
    target_age_seconds: Annotated[int, Field(ge=1, le=86_400)] = 60
    """How long a job may wait: the scaler plans for each job to start within this many seconds
    after it became ready. Default 60."""
    target_length: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Messages per replica. Used only until the throughput of a replica has been measured.
    Default 10."""
    tick_seconds: Annotated[int, Field(ge=1, le=300)] | None = None
    """How often the queue is read and the replicas are decided, in seconds. Default: a twelfth of
    targetAgeSeconds, at least 1 and at most 5."""
    cooldown_seconds: Annotated[int, Field(ge=0, le=86_400)] = 60
    """How long no message must arrive before the last replica is removed, in seconds. Used only if
    minReplicas is 0. Default 60."""
    scale_up: ScaleUpSpec = ScaleUpSpec()
    """Limits on scaling up. Default: none."""
    scale_down: ScaleDownSpec = ScaleDownSpec()
    """Limits on scaling down."""
    fallback: FallbackSpec | None = None
    """What to do while the database cannot be read. Default: keep the present replicas."""
