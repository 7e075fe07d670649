"""What the operator needs to know about a worker's pod."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshhook_operator.api.jobqueue import ObjectKey

if TYPE_CHECKING:
    from lightkube.resources.core_v1 import Pod

DELETION_COST_ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"


@dataclass(frozen=True, slots=True)
class PodView:
    """A worker's pod."""

    key: ObjectKey
    deletion_cost: int
    """When there are too many pods, the one with the lowest cost is deleted first."""


def deletion_cost(pod: Pod) -> int:
    """Return what its annotation says; 0 if there is none, or one that is not a number."""
    annotations = (pod.metadata.annotations if pod.metadata else None) or {}
    try:
        return int(annotations.get(DELETION_COST_ANNOTATION, "0"))
    except ValueError:
        return 0
