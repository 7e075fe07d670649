"""The formula: how many replicas what is waiting and what arrives call for.

A backlog of `STANDING_SHARE` of the target age is let stand, so that replicas run full instead of
waiting for work. Why these terms: docs/scaling.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from meshhook_operator.scaling.decision import Signal

if TYPE_CHECKING:
    from meshhook_operator.scaling.spec import ScalingSpec

STANDING_SHARE = 0.6
LATE_SHARE = 0.8
SHORTEST_SHARE = 0.25
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What there is to do, and what is known of the means to do it."""

    ready: float
    lost: int
    due_soon: int
    running: int
    oldest_ready_seconds: float
    arrivals_per_second: float
    ready_replicas: int
    slots_a_replica: int | None
    replica_jobs_per_second: float | None
    lead_seconds: float

    @property
    def is_empty(self) -> bool:
        """There is nothing to do now, nor before a pod could be Ready."""
        return not (self.ready or self.lost or self.due_soon or self.running)


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """How many replicas are called for, before any limit."""

    up: dict[Signal, int]
    """Fewer than the largest of these would make jobs late."""
    down: int
    """With fewer than this the present load would not be met; between the two nothing changes."""


def targets(spec: ScalingSpec, demand: Demand) -> Targets:
    """Return how many replicas the demand calls for."""
    if demand.replica_jobs_per_second is None:
        up, down = _by_length(spec, demand)
    else:
        up, down = _by_deadline(spec, demand, demand.replica_jobs_per_second)
    up[Signal.RUNNING] = _running(demand)
    up[Signal.FALLBACK] = 0
    if demand.ready:
        up[Signal.BACKLOG] = max(up[Signal.BACKLOG], 1)
    if demand.due_soon:
        up[Signal.SCHEDULED] = max(up[Signal.SCHEDULED], 1)
    at_least = 0 if demand.is_empty else max(1, up[Signal.RUNNING])
    return Targets(up=up, down=max(down, at_least))


def _running(demand: Demand) -> int:
    if not (demand.running or demand.lost):
        return 0
    if demand.slots_a_replica is None:
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
    horizon = lead + 2 * tick
    standing = STANDING_SHARE * age
    arriving = demand.arrivals_per_second * horizon
    left = max(age - lead - tick, SHORTEST_SHARE * age)
    growth = (demand.arrivals_per_second - rate * demand.ready_replicas) * lead

    def balance(waiting: float) -> float:
        return (waiting + arriving) / (rate * (standing + horizon))

    def in_time(waiting: float) -> float:
        return waiting / (rate * left)

    waiting = max(0.0, demand.ready + growth)
    with_due = max(0.0, demand.ready + demand.due_soon + growth)
    late = 0.0
    if demand.oldest_ready_seconds > LATE_SHARE * age:
        late = demand.ready / (rate * max(SHORTEST_SHARE * age, tick))
    up = {
        Signal.BACKLOG: ceil(in_time(waiting) - ROUNDING),
        Signal.DEADLINE: ceil(late - ROUNDING),
        Signal.ARRIVALS: ceil(balance(waiting) - ROUNDING),
        Signal.SCHEDULED: ceil(max(balance(with_due), in_time(with_due)) - ROUNDING)
        if demand.due_soon
        else 0,
    }
    down = max(balance(demand.ready + demand.due_soon), demand.ready / (rate * standing))
    return up, ceil(down - ROUNDING)
