"""Conditions and the rest of a JobQueue's status: what is written, and when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from meshhook_operator.api.sentences import kept_back_sentence, scaling_sentence, waiting_clause
from meshhook_operator.api.status import (
    Condition,
    JobQueueStatus,
    PriorityStatus,
    QueueStatus,
    ScalingStatus,
)
from meshhook_operator.api.wording import as_sentence, duration
from meshhook_operator.texts import MESSAGE_LIMIT, capped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from meshhook_operator.api.sentences import Situation
    from meshhook_operator.scaling import Decision

NUMBERS_SECONDS = 30.0
"""How often a change of numbers alone is written."""

READY = "Ready"
ACTIVE = "Active"
ON_TIME = "OnTime"
SCALING_LIMITED = "ScalingLimited"
PAUSED = "Paused"

KEYS_CHANGING = "KeysChanging"
"""The reason of Ready while indexes for keys are built or dropped."""
PRIORITIES_CHANGING = "PrioritiesChanging"
"""The reason of Ready while the index of priorities is built or dropped."""

_NUMBERS = ("queue", "scaling")
_SUBSTANCE_OF_SCALING = ("limitedBy",)
_TOLD_IN_NUMBERS = frozenset({ON_TIME, SCALING_LIMITED})
"""The conditions whose messages have numbers that change all the time."""


_BY_URGENCY = (
    (READY, "False"),
    (PAUSED, "True"),
    (ON_TIME, "False"),
    (SCALING_LIMITED, "True"),
)
"""The conditions and the statuses that are worth a word in a list of queues, the worst first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something holds, and why."""

    holds: bool
    reason: str
    """A word in CamelCase."""
    message: str
    """A sentence for people."""
    is_known: bool = True
    """Otherwise the status is Unknown."""


OPERATING = Finding(
    holds=True,
    reason="Operating",
    message="The queue can be read, and its settings and its Deployment are as declared.",
)
NOT_PAUSED = Finding(holds=False, reason="NotPaused", message="The operator scales this queue.")
SPEC_PAUSED = Finding(
    holds=True,
    reason="SpecPaused",
    message=(
        "spec.paused is true, so the operator changes neither the queue nor its Deployment. "
        "Workers that exist keep running. Set spec.paused to false to resume."
    ),
)
QUEUE_PAUSED = Finding(
    holds=True,
    reason="QueuePaused",
    message=(
        "The queue is paused in the database: workers start no job, and nothing is scaled. "
        "To resume: meshhook queue resume <queue>."
    ),
)
WAYS_OUT = {
    "InvalidSpec": "Correct the field; until then the operator changes nothing.",
    "SecretNotFound": "Create it in the namespace of the JobQueue, or correct spec.database.",
    "SecretKeyMissing": "Add the key, or correct spec.database.",
    "InvalidDatabaseUrl": "Correct the URL in the Secret; the operator reads it again by itself.",
    "LoginRefused": (
        "Correct the user or the password in the Secret; the operator reads it again by itself."
    ),
    "SourceUnavailable": (
        "The replicas stay, and the operator tries again by itself, at least once a minute."
    ),
    "DeploymentNotFound": "Create it, or correct spec.deploymentRef.name.",
    "Conflict": "Until then, nothing is scaled.",
    "SettingsNotSet": "Scaling goes on; they are tried again, at least once a minute.",
    "KeysNotSet": "Scaling goes on; the keys are tried again once a minute.",
    "PrioritiesNotSet": "Scaling goes on; the priorities are tried again once a minute.",
    "TopicsNotBound": "Scaling goes on; the topics are tried again every 30 seconds.",
    "ImagePullFailed": "Correct spec.worker.image or spec.worker.imagePullSecrets.",
    "ContainerNotCreated": "Correct spec.worker, or create what it refers to.",
    "CrashLoop": "kubectl logs --previous shows more of what the container printed.",
    "OutOfMemory": "Raise the limit, or lower spec.worker.concurrency.",
    "Unschedulable": "Add nodes, or change what spec.worker asks of a node.",
    "PodsRefused": "Raise the quota or change the policy, or change spec.worker.",
    "WorkersNotReady": (
        "See kubectl describe pods and kubectl logs; /readyz of a running pod says what it waits "
        "for."
    ),
}
"""What to do about a reason of Ready. Other messages say it themselves."""


def timestamp(moment: float) -> str:
    """Return seconds since 1970 as Kubernetes writes a time."""
    text = datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")
    return text.replace("+00:00", "Z")


def conditions(
    last: JobQueueStatus, findings: Mapping[str, Finding], *, generation: int, now: float
) -> list[Condition]:
    """Return a condition for each finding; its transition time changes only with its status."""
    before = {condition.type: condition for condition in last.conditions}
    found = []
    for kind, finding in findings.items():
        status = _status(finding)
        same = kind in before and before[kind].status == status
        found.append(
            Condition(
                type=kind,
                status=status,
                reason=finding.reason,
                message=finding.message,
                observed_generation=generation,
                last_transition_time=(
                    before[kind].last_transition_time if same else timestamp(now)
                ),
            )
        )
    return found


def scaling_status(decision: Decision, message: str) -> ScalingStatus:
    """Return what `kubectl describe` shows of a decision, with the sentence about it."""
    estimates, learned = decision.estimates, decision.learned
    down_at = decision.next_scale_down_at
    return ScalingStatus(
        signals={
            signal.value: replicas for signal, replicas in decision.recommended.items() if replicas
        },
        message=capped(message),
        limited_by=decision.limit.value if decision.limit else None,
        arrivals_per_second=_rounded(estimates.arrivals_per_second),
        jobs_per_second_per_replica=learned.replica_jobs_per_second,
        lead_seconds=learned.lead_seconds,
        next_scale_down_time=None if down_at is None else timestamp(down_at),
    )


def ready_message(ready: Finding) -> str:
    """Return the message of the condition Ready, with what to do about it."""
    way_out = WAYS_OUT.get(ready.reason, "")
    limit = MESSAGE_LIMIT - len(way_out) - 1
    return f"{as_sentence(capped(ready.message, limit=limit))} {way_out}".strip()


def active(*, has_deployment: bool, replicas: int, ready_replicas: int) -> Finding:
    """Return the finding for the condition Active: whether there are workers."""
    if not has_deployment:
        message = "There are no workers: no Deployment exists yet."
        return Finding(holds=False, reason="NoDeployment", message=message)
    if replicas == 0:
        message = "The Deployment has no replica, so no worker is running."
        return Finding(holds=False, reason="ScaledToZero", message=message)
    are = "worker is" if ready_replicas == 1 else "workers are"
    message = f"{ready_replicas:,} of {replicas:,} {are} ready."
    reason = "WorkersReady" if ready_replicas else "WorkersNotReady"
    return Finding(holds=ready_replicas > 0, reason=reason, message=message)


def on_time(
    queue: QueueStatus | None,
    *,
    target_age_seconds: float,
    is_missed: bool,
    paused: Finding,
    queue_name: str = "",
) -> Finding:
    """Return the finding for the condition OnTime: whether jobs start within the target age.

    Args:
        queue: the queue as read just now; None if it could not be read.
        target_age_seconds: how long a job may wait, in a queue without priorities.
        is_missed: whether jobs have waited longer for a while.
        paused: the finding for the condition Paused.
        queue_name: the queue, for commands about it.
    """
    target = f"{duration(target_age_seconds)} (targetAgeSeconds)"
    if queue is not None and queue.priorities:
        target = f"{_targets_text(queue.priorities)}, by priority"
    if queue is None:
        message = "The queue cannot be read, so nobody knows how long its messages wait."
        return Finding(holds=False, reason="QueueNotRead", message=message, is_known=False)
    if paused.reason == QUEUE_PAUSED.reason:
        message = "The queue is paused, so its messages wait."
        return Finding(holds=False, reason="QueuePaused", message=message, is_known=False)
    waiting, kept_back = waiting_clause(queue), kept_back_sentence(queue, queue_name)
    if is_missed:
        if queue.late_priorities and queue.priorities:
            late = [_lateness_text(name, queue.priorities[name]) for name in queue.late_priorities]
            message = f"{waiting}; {' and '.join(late)}."
        elif not queue.priorities and queue.oldest_ready_seconds > target_age_seconds:
            message = f"{waiting}; a job should start within {target}."
        else:
            message = f"Jobs started later than {target} until a moment ago. {waiting}."
        message = f"{message} {kept_back}".rstrip()
        return Finding(holds=False, reason="TargetAgeMissed", message=message)
    message = f"{waiting}; the target is {target}. {kept_back}".rstrip()
    return Finding(holds=True, reason="TargetAgeKept", message=message)


def _targets_text(priorities: Mapping[str, PriorityStatus]) -> str:
    return ", ".join(duration(each.target_seconds) for each in priorities.values())


def _lateness_text(name: str, status: PriorityStatus) -> str:
    waited, target = duration(status.oldest_ready_seconds), duration(status.target_seconds)
    return f"{name} jobs wait {waited} of {target}"


def scaling_limited(situation: Situation | None) -> Finding:
    """Return the finding for the condition ScalingLimited: whether jobs wait because of a limit."""
    limit = situation.decision.limit if situation else None
    if situation is None or limit is None or not situation.decision.scaling_limited:
        message = "No limit makes jobs wait longer than the target age."
        return Finding(holds=False, reason="NotLimited", message=message)
    message = capped(scaling_sentence(situation))
    return Finding(holds=True, reason=limit.value, message=message)


def state_of(found: Iterable[Condition]) -> str:
    """Return the reason of the condition that matters most; `Operating` if all is well."""
    by_type = {condition.type: condition for condition in found}
    for kind, bad in _BY_URGENCY:
        condition = by_type.get(kind)
        if condition is not None and condition.status == bad:
            return condition.reason
    ready = by_type.get(READY)
    return ready.reason if ready else "Unknown"


def pending_patch(
    last: JobQueueStatus, new: JobQueueStatus, *, seconds_since_write: float
) -> dict[str, Any] | None:
    """Return the merge patch that turns one status into another; None if it can wait.

    Changes of substance are written at once, changes of numbers alone at most every 30 seconds.
    """
    before, after = _dumped(last), _dumped(new)
    if before == after:
        return None
    is_due = seconds_since_write >= NUMBERS_SECONDS
    if not is_due and _substance(before) == _substance(after):
        return None
    return _merge_patch(before, after)


def rounded_queue(status: QueueStatus) -> QueueStatus:
    """Return the numbers of a queue with two digits: smaller changes are not worth a write."""
    return QueueStatus(
        **{
            name: int(_rounded(getattr(status, name)) or 0)
            for name in QueueStatus.model_fields
            if name not in ("dead_letters", "priorities")
        },
        dead_letters=status.dead_letters,
        priorities=status.priorities
        and {
            name: PriorityStatus(
                ready=int(_rounded(each.ready)),
                oldest_ready_seconds=int(_rounded(each.oldest_ready_seconds)),
                target_seconds=each.target_seconds,
            )
            for name, each in status.priorities.items()
        },
    )


def _status(finding: Finding) -> Literal["True", "False", "Unknown"]:
    if not finding.is_known:
        return "Unknown"
    return "True" if finding.holds else "False"


def _dumped(status: JobQueueStatus) -> dict[str, Any]:
    return status.model_dump(by_alias=True, exclude_none=True)


def _substance(status: Mapping[str, Any]) -> dict[str, Any]:
    scaling = status.get("scaling", {})
    return (
        {key: value for key, value in status.items() if key not in _NUMBERS}
        | {key: scaling.get(key) for key in _SUBSTANCE_OF_SCALING}
        | {"conditions": [_without_numbers(each) for each in status.get("conditions", ())]}
    )


def _without_numbers(condition: Mapping[str, Any]) -> Mapping[str, Any]:
    if condition["type"] not in _TOLD_IN_NUMBERS:
        return condition
    return {key: value for key, value in condition.items() if key != "message"}


def _merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if before.get(key) == value:
            continue
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            patch[key] = _merge_patch(before[key], value)
        else:
            patch[key] = value
    return patch


def _rounded(value: float) -> float:
    """Return a number with two significant digits; below 0.01 it is zero."""
    return float(f"{value:.2g}") if value >= 0.01 else 0.0  # noqa: PLR2004
