"""How many workers one JobQueue should have: its spec as the scaler takes it, and a memory.

The decision itself is `scaling.decide`, which knows neither JobQueues nor Kubernetes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook_operator import scaling
from meshhook_operator.reconciliation.admission import Admission
from meshhook_operator.workers.manifests import grace_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.scaling_spec import StepLimit
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.api.status import JobQueueStatus
    from meshhook_operator.api.worker_spec import WorkerSpec
    from meshhook_operator.cluster.deployments import DeploymentView


class Autoscaler:
    """Decides for one JobQueue, and remembers what it has measured from tick to tick."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._state: scaling.ScalerState | None = None
        self._sampled_from: Hashable | None = None
        self._admission = Admission()
        self._band_targets: tuple[float, ...] = ()
        self.decision: scaling.Decision | None = None
        """The last decision; None before the first."""

    @property
    def is_held(self) -> bool:
        """Whether the last decision was to leave the Deployment alone."""
        return self.decision is not None and not self.decision.may_write

    @property
    def lead_seconds(self) -> float:
        """How long a pod takes to become Ready, as measured so far."""
        return self.decision.estimates.lead_seconds if self.decision else 0.0

    def runs_are_long(self, spec: JobQueueSpec) -> bool:
        """Whether jobs may run longer than a pod that stops would let them, as far as is known."""
        run_seconds = self.decision.estimates.run_seconds if self.decision else None
        return scaling.runs_are_long(run_seconds, self._rules(spec).drain_seconds)

    def forget(self) -> None:
        """Forget all measurements: the JobQueue scales another Deployment now."""
        self._state = None

    def lookahead_seconds(self, spec: JobQueueSpec) -> float:
        """Return how far ahead the next sample should count messages that fall due."""
        seconds = self.tick_seconds(spec)
        if self._state is None:
            return seconds
        return max(seconds, scaling.lookahead_seconds(self._rules(spec), self._state))

    def tick_seconds(self, spec: JobQueueSpec) -> float:
        """Return the interval of ticks, in seconds."""
        return tick_seconds(spec, self._band_targets)

    def _rules(self, spec: JobQueueSpec) -> scaling.ScalingSpec:
        return scaling_rules(spec, self._band_targets)

    def on_database(self, generation: Hashable) -> None:
        """Note which database the next sample is from.

        Samples of two databases are not compared: their counters begin at different numbers.
        """
        if generation == self._sampled_from:
            return
        if self._state is not None and self._sampled_from is not None:
            self._state = self._state.elsewhere()
        self._admission = Admission()
        self._sampled_from = generation

    def decide(
        self,
        jobqueue: JobQueue,
        sample: scaling.Sample | scaling.Failure,
        view: DeploymentView | None,
        *,
        paused: bool,
        conflict: str | None,
        pods_failing: str | None = None,
    ) -> scaling.Decision:
        """Make a new decision, and return it.

        Args:
            jobqueue: with a valid spec.
            sample: of its queue, or why there is none.
            view: its Deployment; None if there is none.
            paused: whether nothing may be scaled now.
            conflict: who else scales the Deployment; None if nobody does.
            pods_failing: why further pods would not run; None if they would.
        """
        spec = jobqueue.spec
        assert spec is not None, "asked of a JobQueue whose spec is not valid"  # noqa: S101
        now = self._clock()
        if self._state is None:
            self._state = scaling.ScalerState.begin(now, learned_before(jobqueue.status))
        fleet = fleet_of(
            jobqueue, view, paused=paused, conflict=conflict, pods_failing=pods_failing
        )
        if isinstance(sample, scaling.Sample):
            self._admission, sample = self._admission.observe(sample)
            self._band_targets = tuple(band.target_seconds for band in sample.bands)
        self.decision, self._state = scaling.decide(
            self._rules(spec), sample, fleet, self._state, now
        )
        return self.decision


def scaling_rules(
    spec: JobQueueSpec, band_targets_seconds: Sequence[float] = ()
) -> scaling.ScalingSpec:
    """Return what a spec asks of the scaler; see `tick_seconds` for the targets."""
    asked = spec.scaling
    fallback = asked.fallback
    return scaling.ScalingSpec(
        min_replicas=asked.min_replicas,
        max_replicas=asked.max_replicas,
        target_age_seconds=asked.target_age_seconds,
        target_length=asked.target_length,
        concurrency=spec.worker.concurrency if spec.worker else None,
        **_drain(spec.worker),
        tick_seconds=tick_seconds(spec, band_targets_seconds),
        scale_up=_step_limit(asked.scale_up),
        scale_down=_step_limit(asked.scale_down),
        scale_down_window_seconds=asked.scale_down.window_seconds,
        cooldown_seconds=asked.cooldown_seconds,
        fallback_replicas=fallback.replicas if fallback else None,
        **({"fallback_after_failures": fallback.after_failures} if fallback else {}),
    )


def tick_seconds(spec: JobQueueSpec, band_targets_seconds: Sequence[float] = ()) -> float:
    """Return the interval of ticks, in seconds: by the shortest target, if none is declared.

    Args:
        spec: what is declared.
        band_targets_seconds: the targets that the queue has for its priorities; none if it has no
            priorities, or has not been read yet.
    """
    if spec.scaling.tick_seconds is not None:
        return spec.scaling.tick_seconds
    shortest = min(band_targets_seconds, default=float(spec.scaling.target_age_seconds))
    return scaling.default_tick_seconds(shortest)


def learned_before(status: JobQueueStatus) -> scaling.Learned | None:
    """Return what an earlier operator process had measured, from the status that it left."""
    if status.scaling is None:
        return None
    return scaling.Learned(
        replica_jobs_per_second=status.scaling.jobs_per_second_per_replica,
        lead_seconds=status.scaling.lead_seconds,
    )


def fleet_of(
    jobqueue: JobQueue,
    view: DeploymentView | None,
    *,
    paused: bool,
    conflict: str | None,
    pods_failing: str | None = None,
) -> scaling.Fleet:
    """Return the Deployment as the scaler sees it; one that does not exist has no replicas."""
    return scaling.Fleet(
        replicas=view.replicas if view else 0,
        ready_replicas=view.ready_replicas if view else 0,
        created_at=jobqueue.created_at,
        rolling_out=view.rolling_out if view else False,
        paused=paused,
        conflict=conflict,
        pod_prefix=f"{view.key.name}-" if view else "",
        pods_failing=pods_failing,
    )


def _drain(worker: WorkerSpec | None) -> dict[str, Any]:
    return {"drain_seconds": float(grace_seconds(worker))} if worker else {}


def _step_limit(limit: StepLimit) -> scaling.StepLimit | None:
    if limit.replicas is None and limit.percent is None:
        return None
    period = {} if limit.period_seconds is None else {"period_seconds": float(limit.period_seconds)}
    return scaling.StepLimit(replicas=limit.replicas or 0, percent=limit.percent or 0, **period)
