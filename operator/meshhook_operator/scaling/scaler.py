"""The decision of one tick: what was observed, what it calls for, what the guard rails allow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING

from meshhook_operator.scaling.band_memory import (
    band_demands,
    remember_arrivals,
    remember_sent,
)
from meshhook_operator.scaling.decision import Decision, Estimates, Limit, Signal
from meshhook_operator.scaling.holding import by_pod, held_pods, runs_are_long
from meshhook_operator.scaling.observations import Failure
from meshhook_operator.scaling.rates import ARRIVAL_HALF_LIFE_SECONDS, busy_rate, throughput
from meshhook_operator.scaling.targets import Demand, Targets, targets

if TYPE_CHECKING:
    from meshhook_operator.scaling.observations import Band, Fleet, Sample
    from meshhook_operator.scaling.spec import ScalingSpec
    from meshhook_operator.scaling.state import ScalerState


LONGEST_HALF_LIFE_SECONDS = 60.0


def lookahead_seconds(spec: ScalingSpec, state: ScalerState) -> float:
    """Return how far ahead `Sample.due_soon` should count: until a new pod would be Ready."""
    return state.lead.seconds + spec.tick_seconds


def decide(
    spec: ScalingSpec, sample: Sample | Failure, fleet: Fleet, state: ScalerState, now: float
) -> tuple[Decision, ScalerState]:
    """Return how many replicas a queue should have, and what to remember for the next tick.

    It may be called at any time, also between ticks, as when a message wakes an idle queue. The
    last decision counts as the present number of replicas, not what the Deployment says: if
    somebody else changes it, the next decision changes it back.

    Args:
        spec: what the user asks for.
        sample: the queue, read just now; a `Failure` if it could not be read. A sample that is not
            newer than the last one counts as a failure.
        fleet: the worker Deployment.
        state: what `decide` returned last, or `ScalerState.begin`.
        now: seconds of the operator's clock.
    """
    current = fleet.replicas if state.active is None else state.active
    current = _within_limits(spec, current)
    before = _within_limits(spec, fleet.replicas if state.desired is None else state.desired)
    if isinstance(sample, Failure) or _is_stale(sample, state):
        state = replace(state, seeing_since=None, failures=state.failures + 1)
        choice = _blind(spec, state, current)
    else:
        state = _observe(spec, sample, fleet, state, now)
        if fleet.pods_failing:
            # How long failing pods take says nothing about pods that start.
            state = replace(state, lead=replace(state.lead, asks=()))
        demand = _demand(spec, sample, fleet, state)
        wanted = targets(spec, demand)
        state = replace(state, band=wanted.band)
        tick = _Tick(spec, fleet, demand, wanted, current, now)
        state, choice = tick.choose(state)
    if fleet.paused or fleet.conflict:
        return _untouched(spec, fleet, choice, state)
    if choice.replicas != current:
        state = replace(state, steps=state.steps.note(current, now, spec))
    desired = _with_held(
        choice.replicas, before, spec=spec, sample=sample, fleet=fleet, state=state
    )
    if desired != before:
        lead = state.lead.ask(desired, fleet.ready_replicas, now)
        state = replace(state, lead=lead)
    state = replace(state, active=choice.replicas, desired=desired)
    return replace(_explain(spec, choice, state), pods_failing=fleet.pods_failing), state


@dataclass(frozen=True, slots=True)
class _Choice:
    replicas: int
    recommended: dict[Signal, int]
    limit: Limit | None = None
    next_scale_down_at: float | None = None


def _within_limits(spec: ScalingSpec, replicas: int) -> int:
    return max(spec.min_replicas, min(spec.max_replicas, replicas))


def _with_held(
    active: int,
    before: int,
    *,
    spec: ScalingSpec,
    sample: Sample | Failure,
    fleet: Fleet,
    state: ScalerState,
) -> int:
    """Return how many replicas there must be, so that none is stopped that runs a long job."""
    if isinstance(sample, Failure):
        return max(active, before)
    if active >= before or not (sample.leased and sample.workers):
        return active
    pods = by_pod(sample.workers, fleet.pod_prefix)
    held = held_pods(pods, fleet.ready_replicas, state.run_time.seconds, spec.drain_seconds)
    return max(active, min(before, held))


def _is_stale(sample: Sample, state: ScalerState) -> bool:
    return state.previous is not None and sample.sampled_at == state.previous.sampled_at


def _blind(spec: ScalingSpec, state: ScalerState, current: int) -> _Choice:
    """Keep the replicas, and at least as many as the last known arrival rate needs."""
    recommended = dict.fromkeys(Signal, 0)
    rate = state.replica_jobs_per_second
    if rate is not None:
        recommended[Signal.ARRIVALS] = ceil(state.arrivals.per_second / rate)
    if spec.fallback_replicas is not None and state.failures >= spec.fallback_after_failures:
        recommended[Signal.FALLBACK] = spec.fallback_replicas
    wanted = _within_limits(spec, max(recommended.values()))
    return _Choice(max(current, wanted), recommended, Limit.SOURCE_UNAVAILABLE)


def _observe(
    spec: ScalingSpec, sample: Sample, fleet: Fleet, state: ScalerState, now: float
) -> ScalerState:
    before, ready_before = state.previous, state.ready_replicas
    # The surge pods of a rollout are not lasting capacity.
    ready = min(fleet.ready_replicas, fleet.replicas)
    seen_state = replace(
        state,
        seeing_since=now if state.seeing_since is None else state.seeing_since,
        failures=0,
        previous=sample,
        ready_replicas=ready,
        backlog=float(sample.ready),
        due_until=_due_until(sample, state, now),
        sent=state.sent.observe(sample, spec.target_age_seconds),
        bands=remember_sent(state.bands, sample, arrivals=state.arrivals, sent=state.sent),
        lead=state.lead.observe(ready, now),
    )
    if before is None or sample.sampled_at < before.sampled_at:
        return seen_state
    elapsed_seconds = sample.sampled_at - before.sampled_at
    # A queue that was created again counts from the start.
    arrived = max(sample.enqueued_total - before.enqueued_total, 0)
    is_steady = ready == ready_before and not fleet.rolling_out
    seen = throughput(before, sample, ready if is_steady else None)
    if sample.ready_is_capped:
        finished = seen.jobs_per_second * elapsed_seconds if seen else 0.0
        estimate = state.backlog + arrived - finished
        seen_state = replace(seen_state, backlog=max(float(sample.ready), estimate))
    rate = state.rate.observe(seen, elapsed_seconds) if seen else state.rate
    run_time = state.run_time.observe(before, sample)
    return replace(
        seen_state,
        last_arrival_at=now if arrived else state.last_arrival_at,
        arrivals=state.arrivals.observe(
            arrived, elapsed_seconds, _arrival_half_life_seconds(spec.target_age_seconds, state)
        ),
        bands=remember_arrivals(
            seen_state.bands,
            before,
            sample,
            arrived=arrived,
            run_seconds=run_time.seconds or 0.0,
            half_life_seconds=lambda target: _arrival_half_life_seconds(target, state),
        ),
        rate=rate,
        replica_jobs_per_second=busy_rate(rate, run_time, _slots(spec, sample)),
        run_time=run_time,
        starts=state.starts.observe(before, sample, _kept_starts_seconds(state)),
        gain=(
            state.gain
            if fleet.rolling_out
            else state.gain.observe(ready, seen, run_time.seconds or 0.0, now)
        ),
    )


def _due_until(sample: Sample, state: ScalerState, now: float) -> float | None:
    """Return until when to keep a replica that was started ahead of time.

    How long a pod takes is measured again with each one. If the next one were quick, what it was
    started for would be far ahead again, and it would stop before it has done anything.
    """
    if not sample.due_soon or sample.next_due_seconds is None:
        return state.due_until
    return now + sample.next_due_seconds


def _arrival_half_life_seconds(target_age_seconds: float, state: ScalerState) -> float:
    """Return how long to average arrivals over.

    Jobs that run long average over their running time themselves: the slots that they take follow
    the arrivals no faster. Within the target age, a backlog tells of a change in time.
    """
    long_seconds = min(state.run_time.seconds or 0.0, target_age_seconds)
    return min(max(ARRIVAL_HALF_LIFE_SECONDS, long_seconds), LONGEST_HALF_LIFE_SECONDS)


def _kept_starts_seconds(state: ScalerState) -> float:
    return 1.5 * (state.run_time.seconds or 60.0) + 10.0


def _slots(spec: ScalingSpec, sample: Sample) -> int | None:
    """Return how many jobs a replica runs at once; None if nobody says."""
    if spec.concurrency is not None:
        return spec.concurrency
    return max((report.concurrency for report in sample.workers), default=None)


def _demand(spec: ScalingSpec, sample: Sample, fleet: Fleet, state: ScalerState) -> Demand:
    slots = _slots(spec, sample)
    cordoned = [report for report in sample.workers if report.cordoned and not report.draining]
    running = max(0, sample.leased - sum(report.running for report in cordoned))
    if slots is not None:
        # Others may hold leases that none of our workers will ever finish.
        running = min(running, slots * max(fleet.replicas, 1))
    ready = min(fleet.ready_replicas, fleet.replicas)
    return Demand(
        ready=state.backlog,
        lost=sample.lost,
        behind_limits=sample.behind_limits,
        due_soon=sample.due_soon,
        running=running,
        waiting=tuple(state.sent.waiting(state.backlog, sample.oldest_ready_seconds)),
        arrivals_per_second=state.arrivals.per_second,
        expected_per_second=state.sent.expected_per_second(state.arrivals.per_second),
        ready_replicas=max(0, ready - len(by_pod(cordoned, ""))),
        slots_a_replica=slots,
        workers_report=bool(sample.workers),
        runs_are_long=runs_are_long(state.run_time.seconds, spec.drain_seconds),
        replica_jobs_per_second=state.replica_jobs_per_second,
        latest_rate=state.rate.latest or 0.0,
        started_within=state.starts.within,
        highest_rate=state.rate.bound,
        lead_seconds=state.lead.seconds,
        bands=band_demands(state.bands, sample, state.backlog),
    )


@dataclass(frozen=True, slots=True)
class _Tick:
    """The guard rails of one tick."""

    spec: ScalingSpec
    fleet: Fleet
    demand: Demand
    wanted: Targets
    current: int
    now: float

    def choose(self, state: ScalerState) -> tuple[ScalerState, _Choice]:
        spec, current = self.spec, self.current
        up = max(self.wanted.up.values())
        need = max(self.wanted.down, min(up, current))
        need = _within_limits(spec, need)
        needs = state.needs.add(need, self.now, spec.scale_down_window_seconds)
        state = replace(state, needs=needs)
        if up > current:
            return state, self._up(state, up)
        return state, self._down(state, need)

    def _up(self, state: ScalerState, wanted: int) -> _Choice:
        spec, current = self.spec, self.current
        replicas, limit = wanted, None
        if wanted > spec.max_replicas:
            replicas, limit = spec.max_replicas, Limit.MAX_REPLICAS
        if spec.scale_up is not None:
            highest = state.steps.highest(spec.scale_up, current, self.now)
            if replicas > highest:
                replicas, limit = highest, Limit.SCALE_UP_LIMIT
        if state.gain.held_until is not None and replicas > current > 0:
            replicas, limit = current, Limit.NO_THROUGHPUT_GAIN
        if self.fleet.pods_failing and replicas > current > 0:
            replicas, limit = current, Limit.PODS_FAILING
        return _Choice(replicas, self.wanted.up, limit)

    def _down(self, state: ScalerState, need: int) -> _Choice:
        spec, current = self.spec, self.current
        if need >= current:
            floor = max(self.wanted.down, *self.wanted.up.values())
            limit = Limit.MIN_REPLICAS if floor < current == spec.min_replicas else None
            return _Choice(current, self.wanted.up, limit)
        free_at, limit = self._free_at(state, current)
        if self.now < free_at:
            return _Choice(current, self.wanted.up, limit, next_scale_down_at=free_at)
        if self.fleet.rolling_out:
            return _Choice(current, self.wanted.up, Limit.ROLLOUT)
        replicas, limit = max(state.needs.most, current // 2), None
        if spec.scale_down is not None:
            lowest = state.steps.lowest(spec.scale_down, current, self.now)
            if replicas < lowest:
                replicas, limit = lowest, Limit.SCALE_DOWN_LIMIT
        zero_at = self._zero_at(state)
        if replicas == 0 and self.now < zero_at:
            return _Choice(1, self.wanted.up, Limit.COOLDOWN, next_scale_down_at=zero_at)
        following = self.now + spec.tick_seconds if replicas > need else None
        return _Choice(replicas, self.wanted.up, limit, next_scale_down_at=following)

    def _free_at(self, state: ScalerState, current: int) -> tuple[float, Limit]:
        window = self.spec.scale_down_window_seconds
        since = self.now if state.seeing_since is None else state.seeing_since
        falls_at = state.needs.falls_at(current, window)
        return max((since + window, Limit.STARTING), (falls_at, Limit.SCALE_DOWN_WINDOW))

    def _zero_at(self, state: ScalerState) -> float:
        last = max(
            self.fleet.created_at, state.started_at, state.last_arrival_at or state.started_at
        )
        zero_at = last + self.spec.cooldown_seconds
        if state.due_until is None:
            return zero_at
        # The tick after the due time sees its message, or what is still due.
        return max(zero_at, state.due_until + self.spec.tick_seconds)


def _untouched(
    spec: ScalingSpec, fleet: Fleet, choice: _Choice, state: ScalerState
) -> tuple[Decision, ScalerState]:
    limit = Limit.CONFLICT if fleet.conflict else Limit.PAUSED
    state = replace(
        state,
        active=None,
        desired=fleet.replicas,
        lead=replace(state.lead, asks=()),
    )
    choice = _Choice(fleet.replicas, choice.recommended, limit)
    decision = _explain(spec, choice, state)
    return replace(decision, may_write=False, conflict=fleet.conflict), state


ASKS_FOR_MORE = frozenset(
    {
        Limit.MAX_REPLICAS,
        Limit.SCALE_UP_LIMIT,
        Limit.NO_THROUGHPUT_GAIN,
        Limit.PODS_FAILING,
        Limit.SLOW_PODS,
    }
)


def _waits_for_slow_pods(spec: ScalingSpec, state: ScalerState) -> bool:
    """Return whether messages wait for pods that become Ready too late for them."""
    band = _leading_band(state)
    target_seconds = band.target_seconds if band else spec.target_age_seconds
    if not state.lead.measured or state.lead.seconds < target_seconds:
        return False
    is_growing = (state.desired or 0) > (state.ready_replicas or 0)
    return is_growing and state.backlog > 0


def _leading_band(state: ScalerState) -> Band | None:
    if state.band is None or state.previous is None or not state.previous.bands:
        return None
    return state.previous.bands[state.band]


def _explain(spec: ScalingSpec, choice: _Choice, state: ScalerState) -> Decision:
    signal = max(choice.recommended, key=choice.recommended.__getitem__)
    leading = signal if choice.recommended[signal] else None
    desired = choice.replicas if state.desired is None else state.desired
    band = _leading_band(state)
    limit = choice.limit
    if limit is None and desired > choice.replicas:
        limit = Limit.FINISHING_JOBS
    if limit is None and _waits_for_slow_pods(spec, state):
        limit = Limit.SLOW_PODS
    return Decision(
        desired_replicas=desired,
        active_replicas=choice.replicas,
        recommended=choice.recommended,
        signal=leading,
        band=state.band if band else None,
        band_target_seconds=band.target_seconds if band else None,
        limit=limit,
        scaling_limited=limit in ASKS_FOR_MORE,
        next_scale_down_at=choice.next_scale_down_at,
        estimates=Estimates(
            arrivals_per_second=state.arrivals.per_second,
            replica_jobs_per_second=state.replica_jobs_per_second,
            lead_seconds=state.lead.seconds,
            run_seconds=state.run_time.seconds,
            backlog=round(state.backlog),
            due_soon=state.previous.due_soon if state.previous else 0,
        ),
        learned=state.learned,
    )
