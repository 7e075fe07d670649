"""What `decide` returns: the number of replicas, and everything that explains it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook_operator.scaling.state import Learned


class Signal(StrEnum):
    """What asks for replicas. The values are those of the metric's label."""

    BACKLOG = "backlog"
    """The messages that wait already, spread over the target age."""
    DEADLINE = "deadline"
    """Messages that wait already and would otherwise be late."""
    ARRIVALS = "arrivals"
    """The messages that arrive, at the measured rate of a replica."""
    RUNNING = "running"
    """Running jobs, which have to finish, and lost ones, which have to run again."""
    SCHEDULED = "scheduled"
    """Messages that fall due before a new pod could be Ready."""
    FALLBACK = "fallback"
    """The queue cannot be read."""


class Limit(StrEnum):
    """Why the number of replicas is not what the signals ask for.

    The values are reasons of conditions and labels of metrics.
    """

    MAX_REPLICAS = "MaxReplicas"
    MIN_REPLICAS = "MinReplicas"
    SCALE_UP_LIMIT = "ScaleUpLimit"
    SCALE_DOWN_LIMIT = "ScaleDownLimit"
    SCALE_DOWN_WINDOW = "ScaleDownWindow"
    """More were needed a moment ago."""
    FINISHING_JOBS = "FinishingJobs"
    """Workers that are no longer needed still run long jobs, and stay until these have ended."""
    COOLDOWN = "Cooldown"
    """The last replica stays for a while after the last arrival."""
    ROLLOUT = "Rollout"
    """Nothing is scaled down during a rollout."""
    STARTING = "Starting"
    """The operator has just started, and has not observed enough to scale down."""
    SOURCE_UNAVAILABLE = "SourceUnavailable"
    """The queue could not be read; the replicas stay."""
    NO_THROUGHPUT_GAIN = "NoThroughputGain"
    """More replicas did not complete more jobs: something else is the bottleneck."""
    SLOW_PODS = "SlowPods"
    """Messages wait for pods that take longer to become Ready than a job may wait."""
    PODS_FAILING = "PodsFailing"
    """Pods do not start: more of them would not either."""
    CONFLICT = "Conflict"
    """Something else scales the Deployment as well."""
    PAUSED = "Paused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimates:
    """The scaler's present estimates, for status and logs."""

    arrivals_per_second: float = 0.0
    replica_jobs_per_second: float | None = None
    """What one busy replica completes; None until measured."""
    lead_seconds: float = 0.0
    """How long a new pod takes to become Ready."""
    run_seconds: float | None = None
    """How long a job runs; None until measured."""
    backlog: int = 0
    """The ready messages; an estimate if the count was capped."""
    due_soon: int = 0
    """The messages that fall due before a new pod could be Ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many replicas the Deployment should have now, and why."""

    desired_replicas: int
    """Always within the limits of the spec, except while nothing may be written."""
    active_replicas: int
    """How many of these should take jobs. The others only finish the long jobs that they run."""
    may_write: bool = True
    """False while paused or in conflict: leave the Deployment alone."""
    recommended: Mapping[Signal, int] = field(default_factory=dict)
    """What each signal asks for before any limit, for every signal."""
    signal: Signal | None = None
    """The signal that asked for the most; None if none asked for any."""
    band: int | None = None
    """The number of the priority that needs the most; None without priorities."""
    band_target_seconds: float | None = None
    """Within how many seconds a job of that priority should start."""
    limit: Limit | None = None
    """Why the replicas are not what the signals ask for; None if they are."""
    conflict: str | None = None
    """What else scales the Deployment, as a sentence; None if nothing does."""
    pods_failing: str | None = None
    """Why further pods would not start, as a sentence; None if that is not known."""
    scaling_limited: bool = False
    """For the condition ScalingLimited: `limit` may let jobs wait longer than the target age."""
    next_scale_down_at: float | None = None
    """The earliest moment of the next scale-down, on the operator's clock; None if none is due."""
    estimates: Estimates
    learned: Learned
    """To be kept in the status and passed to `ScalerState.begin` after a restart. Rounded, so that
    it rarely changes."""
