"""What `decide` answers: the replicas, and everything that explains them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook_operator.scaling.state import Learned


class Signal(StrEnum):
    """Who asked for replicas; the values are those of the metric's label."""

    BACKLOG = "backlog"
    """What waits already, spread over the target age."""
    DEADLINE = "deadline"
    """What waits already would be late otherwise."""
    ARRIVALS = "arrivals"
    """What arrives, at the measured rate of a replica."""
    RUNNING = "running"
    """Somebody must finish what runs, and take what was lost."""
    SCHEDULED = "scheduled"
    """What falls due before a new pod could be Ready."""
    FALLBACK = "fallback"
    """The queue cannot be read."""


class Limit(StrEnum):
    """Why the replicas are not what the signals ask for.

    The values are reasons of conditions and labels of metrics.
    """

    MAX_REPLICAS = "MaxReplicas"
    MIN_REPLICAS = "MinReplicas"
    SCALE_UP_LIMIT = "ScaleUpLimit"
    SCALE_DOWN_LIMIT = "ScaleDownLimit"
    SCALE_DOWN_WINDOW = "ScaleDownWindow"
    """More were needed a moment ago."""
    COOLDOWN = "Cooldown"
    """The last one stays a while after the last arrival."""
    ROLLOUT = "Rollout"
    """Nothing is scaled down during a rollout."""
    STARTING = "Starting"
    """The operator has just started, and has not seen enough to scale down."""
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    """The queue could not be read; what is there stays."""
    NO_THROUGHPUT_GAIN = "NoThroughputGain"
    """More replicas have not finished more jobs: something else is the bottleneck."""
    CONFLICT = "Conflict"
    """Somebody else scales the Deployment."""
    PAUSED = "Paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """What the scaler believes at this moment; for status and logs."""

    arrivals_per_second: float = 0.0
    replica_jobs_per_second: float | None = None
    """What one busy replica finishes; None until it was measured."""
    lead_seconds: float = 0.0
    """From asking for a pod to its being Ready."""
    backlog: int = 0
    """What is ready; an estimate where the count was capped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many replicas the Deployment should have now, and why."""

    desired_replicas: int
    """Always within the limits of the spec, except while nothing may be written."""
    may_write: bool = True
    """False while paused or in conflict: leave the Deployment alone."""
    recommended: Mapping[Signal, int] = field(default_factory=dict)
    """What each signal asks for, before any limit; every signal is there."""
    signal: Signal | None = None
    """The signal that asked for the most; None if none asked for any."""
    limit: Limit | None = None
    """What kept the replicas from what the signals ask for; None if nothing did."""
    message: str = ""
    """The decision in a sentence, the same as long as nothing changes in substance."""
    scaling_limited: bool = False
    """Condition ScalingLimited: work may wait longer than the user asked because of `limit`."""
    next_scale_down_at: float | None = None
    """The earliest moment of the next scale-down, on the operator's clock; None if none is due."""
    estimates: Estimates
    learned: Learned
    """To be kept in the status, and given to `ScalerState.begin` after a restart. Rounded, so that
    it changes rarely."""
