"""From a JobQueue and its Deployment to what the scaler takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook_operator import scaling
from meshhook_operator.api import spec as resources
from meshhook_operator.workers.manifests import grace_seconds

if TYPE_CHECKING:
    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.api.status import JobQueueStatus
    from meshhook_operator.cluster.deployments import DeploymentView


def scaling_rules(spec: JobQueueSpec) -> scaling.ScalingSpec:
    """Return what a spec asks of the scaler."""
    asked = spec.scaling
    fallback = asked.fallback
    return scaling.ScalingSpec(
        min_replicas=asked.min_replicas,
        max_replicas=asked.max_replicas,
        target_age_seconds=asked.target_age_seconds,
        target_length=asked.target_length,
        concurrency=spec.worker.concurrency if spec.worker else None,
        **_drain(spec.worker),
        tick_seconds=tick_seconds(spec),
        scale_up=_step_limit(asked.scale_up),
        scale_down=_step_limit(asked.scale_down),
        scale_down_window_seconds=asked.scale_down.window_seconds,
        cooldown_seconds=asked.cooldown_seconds,
        fallback_replicas=fallback.replicas if fallback else None,
        **({"fallback_after_failures": fallback.after_failures} if fallback else {}),
    )


def tick_seconds(spec: JobQueueSpec) -> float:
    """Return how often to look at the queue, in seconds."""
    return spec.scaling.tick_seconds or scaling.default_tick_seconds(
        spec.scaling.target_age_seconds
    )


def learned_before(status: JobQueueStatus) -> scaling.Learned | None:
    """Return what an earlier operator had measured, from the status that it left."""
    if status.scaling is None:
        return None
    return scaling.Learned(
        replica_jobs_per_second=status.scaling.jobs_per_second_per_replica,
        lead_seconds=status.scaling.lead_seconds,
    )


def fleet_of(
    jobqueue: JobQueue, view: DeploymentView | None, *, paused: bool, conflict: str | None
) -> scaling.Fleet:
    """Return the Deployment as the scaler sees it; one that is still to be made has no replicas."""
    return scaling.Fleet(
        replicas=view.replicas if view else 0,
        ready_replicas=view.ready_replicas if view else 0,
        created_at=jobqueue.created_at,
        rolling_out=view.rolling_out if view else False,
        paused=paused,
        conflict=conflict,
    )


def _drain(worker: resources.WorkerSpec | None) -> dict[str, Any]:
    return {"drain_seconds": float(grace_seconds(worker))} if worker else {}


def _step_limit(limit: resources.StepLimit) -> scaling.StepLimit | None:
    if limit.replicas is None and limit.percent is None:
        return None
    period = {} if limit.period_seconds is None else {"period_seconds": float(limit.period_seconds)}
    return scaling.StepLimit(replicas=limit.replicas or 0, percent=limit.percent or 0, **period)
