"""Conditions and the rest of a JobQueue's status: what is written, and when. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from meshhook_operator.api.sentences import scaling_sentence
from meshhook_operator.api.status import Condition, JobQueueStatus, QueueStatus, ScalingStatus
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook_operator.scaling import Decision

NUMBERS_SECONDS = 30.0
"""How often a change of numbers alone is written."""

READY = "Ready"
ACTIVE = "Active"
SCALING_LIMITED = "ScalingLimited"
PAUSED = "Paused"

_NUMBERS = ("queue", "scaling")
_SUBSTANCE_OF_SCALING = ("message", "limitedBy")


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether something holds, and why."""

    holds: bool
    reason: str
    """A word in CamelCase."""
    message: str
    """A sentence for people."""


OPERATING = Finding(
    holds=True, reason="Operating", message="the queue and its workers are as declared"
)
NOT_PAUSED = Finding(holds=False, reason="NotPaused", message="the operator is managing this queue")
SPEC_PAUSED = Finding(
    holds=True, reason="SpecPaused", message="spec.paused is true: the operator changes nothing"
)
QUEUE_PAUSED = Finding(
    holds=True,
    reason="QueuePaused",
    message=(
        "the queue is paused in the database and is not scaled; to resume it: meshhook queue resume"
    ),
)


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
        status: Literal["True", "False"] = "True" if finding.holds else "False"
        same = kind in before and before[kind].status == status
        found.append(
            Condition(
                type=kind,
                status=status,
                reason=finding.reason,
                message=capped(finding.message),
                observed_generation=generation,
                last_transition_time=(
                    before[kind].last_transition_time if same else timestamp(now)
                ),
            )
        )
    return found


def scaling_status(decision: Decision) -> ScalingStatus:
    """Return what `kubectl describe` shows of a decision."""
    estimates, learned = decision.estimates, decision.learned
    down_at = decision.next_scale_down_at
    return ScalingStatus(
        signals={
            signal.value: replicas for signal, replicas in decision.recommended.items() if replicas
        },
        message=capped(scaling_sentence(decision)),
        limited_by=decision.limit.value if decision.limit else None,
        arrivals_per_second=_rounded(estimates.arrivals_per_second),
        jobs_per_second_per_replica=learned.replica_jobs_per_second,
        lead_seconds=learned.lead_seconds,
        next_scale_down_time=None if down_at is None else timestamp(down_at),
    )


def findings_of(
    ready: Finding,
    *,
    decision: Decision | None,
    replicas: int,
    ready_replicas: int,
    paused: Finding,
) -> dict[str, Finding]:
    """Return the finding behind each condition."""
    if replicas == 0:
        active = Finding(holds=False, reason="ScaledToZero", message="the queue is scaled to zero")
    else:
        message = f"{ready_replicas} of {replicas} workers are ready"
        reason = "WorkersReady" if ready_replicas else "WorkersNotReady"
        active = Finding(holds=ready_replicas > 0, reason=reason, message=message)
    limited = Finding(holds=False, reason="NotLimited", message="nothing limits scaling")
    if decision is not None and decision.scaling_limited and decision.limit is not None:
        limited = Finding(
            holds=True, reason=decision.limit.value, message=scaling_sentence(decision)
        )
    return {READY: ready, ACTIVE: active, SCALING_LIMITED: limited, PAUSED: paused}


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
            if name != "dead_letters"
        },
        dead_letters=status.dead_letters,
    )


def _dumped(status: JobQueueStatus) -> dict[str, Any]:
    return status.model_dump(by_alias=True, exclude_none=True)


def _substance(status: Mapping[str, Any]) -> dict[str, Any]:
    scaling = status.get("scaling", {})
    return {key: value for key, value in status.items() if key not in _NUMBERS} | {
        key: scaling.get(key) for key in _SUBSTANCE_OF_SCALING
    }


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
