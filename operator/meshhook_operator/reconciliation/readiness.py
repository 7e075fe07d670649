"""What the conditions Ready and Paused of a JobQueue say, and what it means for others. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook_operator.api.conditions import (
    NOT_PAUSED,
    OPERATING,
    QUEUE_PAUSED,
    SPEC_PAUSED,
    Finding,
)
from meshhook_operator.databases.demand import QueueDemand, QueueProblem
from meshhook_operator.problems import not_ready
from meshhook_operator.reconciliation.sources import failure_of

if TYPE_CHECKING:
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.reconciliation.conflicts import Conflict
    from meshhook_operator.reconciliation.sources import Found
    from meshhook_operator.workers.pod_health import PodHealth


def pause_of(spec: JobQueueSpec, found: Found) -> Finding:
    """Return what Paused says: who keeps the operator from scaling, if anybody does."""
    if spec.paused:
        return SPEC_PAUSED
    if isinstance(found, QueueDemand) and found.settings.get("paused"):
        return QUEUE_PAUSED
    return NOT_PAUSED


def readiness_of(
    spec: JobQueueSpec,
    found: Found,
    *,
    has_deployment: bool,
    declared: Finding | None,
    pod_health: PodHealth | None,
    contested_by: str | None,
) -> Finding:
    """Return what Ready says of a JobQueue that was reconciled: the worst that there is to say.

    Args:
        spec: of the JobQueue.
        found: what was read of its queue.
        has_deployment: whether its Deployment exists.
        declared: what is to be said about keys, priorities and topics; None if all is as declared.
        pod_health: what keeps pods from running; None if they were not looked at.
        contested_by: who else sets the replicas; None if nobody does.
    """
    ready = OPERATING
    if not isinstance(found, QueueDemand):
        ready = not_ready(failure_of(found))
    if spec.paused and isinstance(found, QueueProblem) and found.is_missing:
        message = f"queue {spec.queue_name!r} is not created while spec.paused is true"
        ready = Finding(holds=False, reason="QueueMissing", message=message)
    if not has_deployment and spec.deployment_ref is not None:
        message = f"spec.deploymentRef: Deployment {spec.deployment_ref.name!r} does not exist"
        ready = Finding(holds=False, reason="DeploymentNotFound", message=message)
    if ready.holds and pod_health is not None and pod_health.is_severe:
        ready = pod_health.finding
    if ready.holds and declared is not None and not declared.holds:
        ready = declared
    if ready.holds and contested_by:
        message = (
            f"Somebody else ({contested_by}) also sets spec.replicas of the Deployment, and the "
            "operator keeps setting it back: leave replicas out of the manifest that is applied "
            "there"
        )
        ready = Finding(holds=True, reason="ReplicasContested", message=message)
    if ready is OPERATING and declared is not None:
        ready = declared
    if ready is OPERATING and pod_health is not None:
        ready = pod_health.finding
    return ready


def obstacle_to_schedules(
    spec: JobQueueSpec, found: Found, conflict: Conflict | None
) -> str | None:
    """Return why the schedules of its JobSchedules must wait, as a sentence; None if they need not.

    Args:
        spec: of the JobQueue.
        found: what was read of its queue.
        conflict: what it must yield to; None if there is nothing.
    """
    if conflict is not None and conflict.is_about_queue:
        return conflict.message
    if spec.paused:
        return "its spec.paused is true"
    return None if isinstance(found, QueueDemand) else failure_of(found).message
