"""The formula: how many replicas the waiting and the arriving messages call for.

It tolerates a backlog worth `STANDING_SHARE` of the target age, so that replicas run at full load
instead of waiting for work. docs/scaling.md explains the terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING

from meshhook_operator.scaling.decision import Signal

if TYPE_CHECKING:
    from meshhook_operator.scaling.spec import ScalingSpec

STANDING_SHARE = 0.6
"""The share of the target age that messages may wait for replicas at full load."""
LOW_SHARE = 0.5
"""A replica is removed if the wait with one fewer would be at most this share of that."""
LATE_SHARE = 0.8
"""The replicas that stay must start everything within this share of the target age."""
SHORTEST_SHARE = 0.25
"""Messages that are about to be late are worked off within this share of the target age."""
LONG_RUNS = 4.0
"""Few jobs run longer than this many times the mean."""
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The work to do, and what is known about the replicas that do it."""

    ready: float
    lost: int
    due_soon: int
    running: int
    waiting: tuple[tuple[float, float], ...]
    """Ages in seconds, and how many of the ready messages are at least that old."""
    arrivals_per_second: float
    ready_replicas: int
    slots_a_replica: int | None
    run_seconds: float | None
    replica_jobs_per_second: float | None
    highest_rate: float
    """An upper bound on the rate of a replica, from replicas with free slots."""
    lead_seconds: float

    @property
    def is_empty(self) -> bool:
        """Whether there is no work now, nor before a new pod could be Ready."""
        return not (self.ready or self.lost or self.due_soon or self.running)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """How many replicas are needed, before any limit."""

    up: dict[Signal, int]
    """With fewer than the largest of these, jobs would be late."""
    down: int
    """With fewer than this, the present load is not met. Between the two nothing changes."""


def targets(spec: ScalingSpec, demand: Demand) -> Targets:
    """Return how many replicas the demand needs."""
    if demand.replica_jobs_per_second is None:
        up, down = _by_length(spec, demand)
    else:
        up, down = _by_deadline(spec, demand, demand.replica_jobs_per_second)
    if demand.is_empty:
        # Arrivals that one replica can handle keep none, or the last would never be removed.
        up[Signal.ARRIVALS] = up[Signal.ARRIVALS] if up[Signal.ARRIVALS] > 1 else 0
        down = down if down > 1 else 0
    up[Signal.RUNNING] = _running(spec, demand)
    up[Signal.FALLBACK] = 0
    if demand.ready:
        up[Signal.BACKLOG] = max(up[Signal.BACKLOG], 1)
    if demand.due_soon:
        up[Signal.SCHEDULED] = max(up[Signal.SCHEDULED], 1)
    at_least = 0 if demand.is_empty else max(1, up[Signal.RUNNING])
    return Targets(up=up, down=max(down, at_least))


def _running(spec: ScalingSpec, demand: Demand) -> int:
    """Return how many replicas must stay so that running jobs are not cut off.

    A replica that is removed finishes its jobs first, within its grace period. Only if that may be
    too short must there be a slot for each running job.
    """
    if not (demand.running or demand.lost):
        return 0
    if demand.slots_a_replica is None:
        return 1
    if demand.run_seconds is not None and demand.run_seconds * LONG_RUNS <= spec.drain_seconds:
        return 1
    return max(1, ceil(demand.running / demand.slots_a_replica))


def _by_length(spec: ScalingSpec, demand: Demand) -> tuple[dict[Signal, int], int]:
    here = demand.ready + demand.running
    backlog = ceil(here / spec.target_length - ROUNDING)
    scheduled = ceil((here + demand.due_soon) / spec.target_length - ROUNDING)
    up = {
        Signal.BACKLOG: backlog,
        Signal.DEADLINE: 0,
        Signal.ARRIVALS: 0,
        Signal.SCHEDULED: scheduled if demand.due_soon else 0,
    }
    return up, max(backlog, scheduled)


def _by_deadline(spec: ScalingSpec, demand: Demand, rate: float) -> tuple[dict[Signal, int], int]:
    age, tick, lead = spec.target_age_seconds, spec.tick_seconds, demand.lead_seconds
    shortest = SHORTEST_SHARE * age
    horizon = lead + 2 * tick
    # The tolerated backlog must not become late before the pods that are missing now are Ready.
    standing = min(STANDING_SHARE * age, max(age - horizon, shortest))
    arriving = demand.arrivals_per_second * horizon
    served = rate * demand.ready_replicas * lead
    growth = demand.arrivals_per_second * lead - served

    def balance(waiting: float, standing_seconds: float) -> int:
        replica_seconds = (max(0.0, waiting) + arriving) / rate
        return _whole(replica_seconds / (standing_seconds + horizon))

    late = (
        (still - served) / max(age - old - lead - tick, shortest) for old, still in demand.waiting
    )
    due = (still / max(LATE_SHARE * age - old, shortest) for old, still in demand.waiting)
    with_due = demand.ready + demand.due_soon
    up = {
        Signal.BACKLOG: _whole(demand.ready / (rate * standing)),
        Signal.DEADLINE: _whole(max(late, default=0.0) / rate),
        Signal.ARRIVALS: balance(demand.ready + growth, standing),
        Signal.SCHEDULED: balance(with_due + growth, standing) if demand.due_soon else 0,
    }
    down = max(
        balance(with_due, LOW_SHARE * standing),
        _whole(max(due, default=0.0) / rate),
        floor(demand.arrivals_per_second / max(rate, demand.highest_rate) + ROUNDING),
    )
    return up, down


def _whole(replicas: float) -> int:
    return max(0, ceil(replicas - ROUNDING))
