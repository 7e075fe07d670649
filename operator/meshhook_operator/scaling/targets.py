"""The formula: how many replicas the waiting and the arriving messages call for.

It tolerates a backlog worth `STANDING_SHARE` of the target age, so that replicas run at full load
instead of waiting for work. docs/scaling.md explains the terms.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, floor
from typing import TYPE_CHECKING

from meshhook_operator.scaling.band_demand import BandDemand, demand_by_band
from meshhook_operator.scaling.decision import Signal
from meshhook_operator.scaling.rates import SLOWEST_JOBS_PER_SECOND
from meshhook_operator.scaling.supply import Supply

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.scaling.spec import ScalingSpec

STANDING_SHARE = 0.6
"""The share of the target age that messages may wait for replicas at full load."""
LOW_SHARE = 0.5
"""A replica is removed if the wait with one fewer would be at most this share of that."""
LATE_SHARE = 0.8
"""The replicas that stay must start everything within this share of the target age."""
WAITED_SHARE = 1 / 3
"""Of the target age: what waits longer is started at the rate of the last seconds."""
SHORTEST_SHARE = 0.25
"""Messages that are about to be late are worked off within this share of the target age."""
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The work to do, and what is known about the replicas that do it."""

    ready: float
    behind_limits: int = 0
    """Messages that may start only when another one ends, since limits keep them back."""
    lost: int
    due_soon: int
    running: int
    waiting: tuple[tuple[float, float], ...]
    """Ages in seconds, and how many of the ready messages are at least that old."""
    arrivals_per_second: float
    expected_per_second: float
    """What is expected to arrive next, if the last seconds are no accident."""
    ahead_per_second: float = 0.0
    """Those of the arriving messages that go ahead of what waits: the more urgent ones."""
    ready_replicas: int
    slots_a_replica: int | None
    workers_report: bool
    runs_are_long: bool
    """Whether jobs may run longer than a replica that stops would let them."""
    replica_jobs_per_second: float | None
    latest_rate: float
    """The most that a replica at full load has completed lately; 0 if none was at full load."""
    started_within: Callable[[float], float | None]
    """How many jobs were started within the last so many seconds; None if unknown."""
    highest_rate: float
    """An upper bound on the rate of a replica, from replicas with free slots."""
    lead_seconds: float
    bands: tuple[BandDemand, ...] = ()
    """The same of each band, the most urgent first, if the queue has priorities."""

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
    band: int | None = None
    """The number of the band that needs the most; None without priorities."""


def targets(spec: ScalingSpec, demand: Demand) -> Targets:
    """Return how many replicas the demand needs.

    With priorities it is the largest need of any band, each with its own target: all that is served
    before its jobs, and these, have to start in time.
    """
    if not demand.bands:
        return _targets(spec, demand)
    found = [
        (each, _targets(replace(spec, target_age_seconds=target_seconds), of_band))
        for each, target_seconds, of_band in demand_by_band(demand)
    ]
    # Of those that need as many, the most urgent one.
    band, _ = max(found, key=lambda each: max(each[1].up.values()))
    return Targets(
        up={signal: max(each.up[signal] for _, each in found) for signal in found[0][1].up},
        down=max(each.down for _, each in found),
        band=band,
    )


def _targets(spec: ScalingSpec, demand: Demand) -> Targets:
    if demand.replica_jobs_per_second is None:
        up, down = _by_length(spec, demand)
    else:
        up, down = _by_deadline(spec, demand, demand.replica_jobs_per_second)
    if demand.is_empty:
        # Arrivals that one replica can handle keep none, or the last would never be removed.
        up[Signal.ARRIVALS] = up[Signal.ARRIVALS] if up[Signal.ARRIVALS] > 1 else 0
        down = down if down > 1 else 0
    up[Signal.RUNNING] = _running(demand)
    up[Signal.FALLBACK] = 0
    if demand.ready:
        up[Signal.BACKLOG] = max(up[Signal.BACKLOG], 1)
    if demand.due_soon:
        up[Signal.SCHEDULED] = max(up[Signal.SCHEDULED], 1)
    at_least = 0 if demand.is_empty else max(1, up[Signal.RUNNING])
    return Targets(up=up, down=max(down, at_least))


def _running(demand: Demand) -> int:
    """Return how many replicas must stay so that running jobs are not cut off.

    Workers that report are only stopped when they have finished their long jobs; see `held_pods`.
    Of workers that do not, there must be a slot for each running job if jobs run long.
    """
    if not (demand.running or demand.lost):
        return 0
    if demand.slots_a_replica is None or demand.workers_report or not demand.runs_are_long:
        return 1
    return max(1, ceil(demand.running / demand.slots_a_replica))


def _by_length(spec: ScalingSpec, demand: Demand) -> tuple[dict[Signal, int], int]:
    here = demand.ready + demand.running
    backlog = ceil(here / spec.target_length - ROUNDING)
    scheduled = ceil((here + demand.due_soon) / spec.target_length - ROUNDING)
    up = {
        Signal.BACKLOG: backlog,
        Signal.DEADLINE: _for_those_that_waited(spec, demand),
        Signal.ARRIVALS: 0,
        Signal.SCHEDULED: scheduled if demand.due_soon else 0,
    }
    return up, max(backlog, scheduled)


def _for_those_that_waited(spec: ScalingSpec, demand: Demand) -> int:
    """Return how many replicas start what has waited for long, at what is completed just now.

    That it waits says that jobs run longer than anybody knows yet.
    """
    long_seconds = WAITED_SHARE * spec.target_age_seconds
    waited = [(old, still) for old, still in demand.waiting if old >= long_seconds]
    if demand.slots_a_replica is None or not waited:
        return 0
    rate = min(demand.latest_rate, demand.replica_jobs_per_second or demand.latest_rate)
    supply = _supply(demand, max(rate, SLOWEST_JOBS_PER_SECOND))
    lead, shortest = demand.lead_seconds, SHORTEST_SHARE * spec.target_age_seconds
    return max(
        _whole(supply.replicas_for(still, present_seconds=lead + left, new_seconds=left))
        for old, still in waited
        for left in (max(spec.target_age_seconds - old - lead - spec.tick_seconds, shortest),)
    )


def _supply(demand: Demand, rate: float) -> Supply:
    return Supply(
        ready_replicas=demand.ready_replicas,
        replica_jobs_per_second=rate,
        slots_a_replica=demand.slots_a_replica,
        running=demand.running,
        started_within=demand.started_within,
    )


def _by_deadline(spec: ScalingSpec, demand: Demand, rate: float) -> tuple[dict[Signal, int], int]:
    age, tick, lead = spec.target_age_seconds, spec.tick_seconds, demand.lead_seconds
    shortest = SHORTEST_SHARE * age
    horizon = lead + 2 * tick
    # The tolerated backlog must not become late before the pods that are missing now are Ready.
    standing = min(STANDING_SHARE * age, max(age - horizon, shortest))
    supply = _supply(demand, rate)

    def needed(jobs: float, seconds: float, *, lead_seconds: float = 0.0) -> int:
        return _whole(
            supply.replicas_for(jobs, present_seconds=lead_seconds + seconds, new_seconds=seconds)
        )

    ahead = demand.ahead_per_second

    def balance(waiting: float) -> int:
        arriving = demand.expected_per_second * (lead + horizon) + ahead * standing
        return needed(waiting + arriving, horizon + standing, lead_seconds=lead)

    def steady(waiting: float, standing_seconds: float) -> int:
        arriving = demand.arrivals_per_second * horizon + ahead * standing_seconds
        return _whole((waiting + arriving) / rate / (standing_seconds + horizon))

    waited = _for_those_that_waited(spec, demand)
    late = (
        needed(still + ahead * (lead + left), left, lead_seconds=lead)
        for old, still in demand.waiting
        for left in (max(age - old - lead - tick, shortest),)
    )
    due = (
        needed(still + ahead * left, left)
        for old, still in demand.waiting
        for left in (max(LATE_SHARE * age - old, shortest),)
    )
    # What limits keep back is worked off in the slots that they leave, and asks for no others.
    behind = demand.behind_limits if demand.slots_a_replica is not None else 0
    with_due = demand.ready + demand.due_soon
    up = {
        Signal.BACKLOG: needed(demand.ready + behind + ahead * standing, standing),
        Signal.DEADLINE: max((*late, waited)),
        Signal.ARRIVALS: balance(demand.ready),
        Signal.SCHEDULED: balance(with_due) if demand.due_soon else 0,
    }
    down = max(
        steady(with_due + behind, LOW_SHARE * standing),
        max(due, default=0),
        floor(demand.arrivals_per_second / max(rate, demand.highest_rate) + ROUNDING),
    )
    if demand.slots_a_replica is not None:
        # With a slot for all that is here, or comes before new pods are Ready, nothing waits. Where
        # limits bind, what comes mostly takes the place of what ends.
        coming = 0.0 if behind else demand.expected_per_second * horizon
        here = with_due + demand.lost + demand.running + coming
        most = _whole(here / demand.slots_a_replica)
        up = {signal: min(replicas, most) for signal, replicas in up.items()}
        down = min(down, most)
    return up, down


def _whole(replicas: float) -> int:
    return max(0, ceil(replicas - ROUNDING))
