"""Why a pod does not run, as Kubernetes says it in the pod's own status. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OUT_OF_MEMORY = "OOMKilled"


class PodProblem(StrEnum):
    """What keeps pods from running. The values are reasons of Ready and labels of a metric."""

    IMAGE_PULL_FAILED = "ImagePullFailed"
    """The image cannot be pulled, or its name is no name of an image."""
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    """A container cannot be created: a Secret is missing, or its user is not allowed."""
    OUT_OF_MEMORY = "OutOfMemory"
    """A container is killed at its memory limit, again and again."""
    CRASH_LOOP = "CrashLoop"
    """A container ends again and again."""
    UNSCHEDULABLE = "Unschedulable"
    """No node has room for the pod, or may take it."""
    PODS_REFUSED = "PodsRefused"
    """The API server refuses new pods: a quota, an admission policy."""
    NOT_READY = "WorkersNotReady"
    """No pod becomes ready, and Kubernetes gives no reason."""


@dataclass(frozen=True, slots=True)
class PodTrouble:
    """What keeps one pod from running."""

    problem: PodProblem
    text: str
    """What Kubernetes or the container said, without what differs from pod to pod."""


_WAITING = {
    "ErrImagePull": PodProblem.IMAGE_PULL_FAILED,
    "ImagePullBackOff": PodProblem.IMAGE_PULL_FAILED,
    "InvalidImageName": PodProblem.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": PodProblem.IMAGE_PULL_FAILED,
    "ImageInspectError": PodProblem.IMAGE_PULL_FAILED,
    "RegistryUnavailable": PodProblem.IMAGE_PULL_FAILED,
    "SignatureValidationFailed": PodProblem.IMAGE_PULL_FAILED,
    "CreateContainerConfigError": PodProblem.CONTAINER_NOT_CREATED,
    "CreateContainerError": PodProblem.CONTAINER_NOT_CREATED,
    "PreCreateHookError": PodProblem.CONTAINER_NOT_CREATED,
    "PreStartHookError": PodProblem.CONTAINER_NOT_CREATED,
    "PostStartHookError": PodProblem.CONTAINER_NOT_CREATED,
    "RunContainerError": PodProblem.CONTAINER_NOT_CREATED,
}
"""By the reason for which a container waits."""


def trouble_of(pod: Mapping[str, Any]) -> PodTrouble | None:
    """Return what keeps a pod from running; None if nothing does, or nothing is known yet.

    Args:
        pod: an object of the API server.
    """
    status = pod.get("status") or {}
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason"):
        return PodTrouble(PodProblem.UNSCHEDULABLE, _first_sentence(scheduled.get("message", "")))
    lost_readiness_at = _condition(status, "Ready").get("lastTransitionTime") or ""
    return next(_container_troubles(status, lost_readiness_at), None)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod is Ready."""
    return _condition(pod.get("status") or {}, "Ready").get("status") == "True"


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found = status.get("conditions") or ()
    return next((each for each in found if each.get("type") == kind), {})


def _container_troubles(status: Mapping[str, Any], lost_readiness_at: str) -> Iterator[PodTrouble]:
    for name in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(name) or ():
            if (found := _container_trouble(container, lost_readiness_at)) is not None:
                yield found


def _container_trouble(container: Mapping[str, Any], lost_readiness_at: str) -> PodTrouble | None:
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    problem = _WAITING.get(waiting.get("reason", ""))
    if problem is not None:
        return PodTrouble(problem, _waiting_text(waiting))
    if container.get("ready") or _has_finished(state):
        return None
    started_at = (state.get("running") or {}).get("startedAt") or ""
    if started_at and started_at < lost_readiness_at:
        return None  # it has been Ready since its last crash
    # Between two crashes a container runs for a moment, or has ended and does not wait yet.
    ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    if not ended:
        return None
    if ended.get("reason") == OUT_OF_MEMORY:
        return PodTrouble(PodProblem.OUT_OF_MEMORY, f"container {container.get('name')}")
    return PodTrouble(PodProblem.CRASH_LOOP, _crash_text(container, ended))


def _has_finished(state: Mapping[str, Any]) -> bool:
    """Whether it is an init container that has done its work."""
    return (state.get("terminated") or {}).get("reason") == "Completed"


def _waiting_text(waiting: Mapping[str, Any]) -> str:
    """Return the cause, whether the kubelet is trying now or waits for the next try."""
    message = str(waiting.get("message") or waiting.get("reason"))
    return message.rpartition("ErrImagePull: ")[2]


def _crash_text(container: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    text = f"container {container.get('name')} ended with exit code {ended.get('exitCode')}"
    said = last_words(str(ended.get("message") or ""))
    return f"{text}: {said}" if said else text


def last_words(output: str) -> str:
    """Return the last line that a container printed; of a line in JSON, what it says.

    After its error, our command line may print where to find help: the error counts.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    if not lines:
        return ""
    if errors := [line for line in lines if line.startswith("error: ")]:
        return errors[-1]
    try:
        found = json.loads(lines[-1])
    except (ValueError, RecursionError):
        return lines[-1]
    if not isinstance(found, dict):
        return lines[-1]
    said = [found.get(name) for name in ("event", "error") if found.get(name)]
    return ": ".join(map(str, said)) or lines[-1]


def _first_sentence(message: str) -> str:
    """Return what the scheduler says of the nodes, without what it says of preemption."""
    return message.partition(" preemption:")[0] or "it waits to be scheduled"
