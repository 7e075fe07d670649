"""What the operator needs to know about a worker's pod."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.cluster.pod_troubles import PodTrouble, is_ready, trouble_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class PodView:
    """A worker's pod that is to run, or runs."""

    key: ObjectKey
    deletion_cost: int = 0
    """When there are too many pods, the one with the lowest cost is deleted first, of those that
    are equally far."""
    is_scheduled: bool = True
    """Whether it has a node."""
    is_running: bool = True
    """Whether its containers have started."""
    has_started: bool = True
    """Whether its containers have passed their startup probes, so that it may run jobs."""
    is_ready: bool = True
    trouble: PodTrouble | None = None
    """What keeps it from running; None if nothing does, or nothing is known yet."""

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> PodView | None:
        """Parse an object of the API server; None if the pod has ended, or is being deleted."""
        metadata, status = body["metadata"], body.get("status") or {}
        phase = status.get("phase", "Pending")
        if metadata.get("deletionTimestamp") or phase in ("Succeeded", "Failed"):
            return None
        ready = is_ready(body)
        return cls(
            ObjectKey(metadata.get("namespace", ""), metadata.get("name", "")),
            _deletion_cost(metadata.get("annotations") or {}),
            is_scheduled=bool((body.get("spec") or {}).get("nodeName")),
            is_running=phase == "Running",
            has_started=ready or _has_started(status.get("containerStatuses") or ()),
            is_ready=ready,
            trouble=None if ready else trouble_of(body),
        )


def _has_started(containers: Iterable[Mapping[str, Any]]) -> bool:
    return any(each.get("started") for each in containers)


def _deletion_cost(annotations: Mapping[str, str]) -> int:
    """Return what the annotation says; 0 if there is none, or one that is not a number."""
    try:
        return int(annotations.get(DELETION_COST_ANNOTATION, "0"))
    except ValueError:
        return 0
