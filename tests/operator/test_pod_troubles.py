"""What a pod's own status says about why it does not run."""

from __future__ import annotations

from typing import Any

import pytest

from meshhook_operator.cluster.pod_troubles import PodProblem, PodTrouble, trouble_of
from meshhook_operator.cluster.pods import PodView

NOT_READY_SINCE = "2026-01-01T10:00:00Z"


def pod(*containers: dict[str, Any], phase: str = "Running", **status: Any) -> dict[str, Any]:
    """Return a pod that is not Ready, with these statuses of its containers."""
    not_ready = {"type": "Ready", "status": "False", "lastTransitionTime": NOT_READY_SINCE}
    found = {"phase": phase, "conditions": [not_ready], "containerStatuses": list(containers)}
    return {
        "metadata": {"namespace": "shop", "name": "emails-worker-1"},
        "spec": {"nodeName": "node-1"},
        "status": found | status,
    }


def container(
    state: dict[str, Any], ended: dict[str, Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """Return the status of a container that is not ready, and how its last run ended."""
    last = {"terminated": ended} if ended else {}
    return {"name": "worker", "ready": False, "state": state, "lastState": last} | fields


def waiting(reason: str, message: str | None = None) -> dict[str, Any]:
    """Return the state of a container that waits."""
    return {"waiting": {"reason": reason} | ({"message": message} if message else {})}


def test_an_image_that_cannot_be_pulled():
    """While the kubelet tries and while it waits for the next try, the cause is the same."""
    cause = 'rpc error: code = NotFound desc = failed to resolve "none:1": not found'
    tries = container(waiting("ErrImagePull", cause))
    pauses = container(
        waiting("ImagePullBackOff", f'Back-off pulling image "none:1": ErrImagePull: {cause}')
    )
    expected = PodTrouble(PodProblem.IMAGE_PULL_FAILED, cause)
    assert [trouble_of(pod(each)) for each in (tries, pauses)] == [expected, expected]


@pytest.mark.parametrize("reason", ["InvalidImageName", "ErrImageNeverPull", "ImageInspectError"])
def test_an_image_that_is_none(reason: str):
    """A reason without a message is told by itself."""
    found = trouble_of(pod(container(waiting(reason))))
    assert found == PodTrouble(PodProblem.IMAGE_PULL_FAILED, reason)


def test_a_container_that_cannot_be_created():
    """A Secret that is missing is named."""
    message = 'secret "orders-db" not found'
    found = trouble_of(pod(container(waiting("CreateContainerConfigError", message))))
    assert found == PodTrouble(PodProblem.CONTAINER_NOT_CREATED, message)


CRASHED = {"exitCode": 2, "reason": "Error", "message": "starts\nerror: no module 'emails'\n"}
CRASHES = PodTrouble(
    PodProblem.CRASH_LOOP, "container worker ended with exit code 2: error: no module 'emails'"
)


@pytest.mark.parametrize(
    "state",
    [
        waiting("CrashLoopBackOff", "back-off 10s restarting failed container=worker"),
        {"terminated": CRASHED},
        {"running": {"startedAt": "2026-01-01T10:00:07Z"}},
    ],
    ids=["waits", "ended", "runs again"],
)
def test_a_container_that_crashes(state: dict[str, Any]):
    """Its exit code and its last line are told, at each moment between two crashes."""
    assert trouble_of(pod(container(state, CRASHED, restartCount=3))) == CRASHES


def test_an_error_before_a_hint():
    """What our command line prints after its error is not the error."""
    said = "error: No such option: --nope\nsee: meshhook worker --help\n"
    found = trouble_of(pod(container(waiting("CrashLoopBackOff"), CRASHED | {"message": said})))
    assert found is not None
    assert found.text.endswith("exit code 2: error: No such option: --nope")


def test_the_last_line_in_json():
    """Of a line of a structured log, what happened and the error are told."""
    ended = {"exitCode": 1, "message": '{"event": "worker failed", "error": "no disk", "n": 1}'}
    found = trouble_of(pod(container(waiting("CrashLoopBackOff"), ended)))
    assert found is not None
    assert found.text == "container worker ended with exit code 1: worker failed: no disk"


@pytest.mark.parametrize(
    ("message", "last"), [(None, ""), ("\n \n", ""), ("[1]", ": [1]"), ("{}", ": {}")]
)
def test_last_words_that_are_none(message: str | None, last: str):
    """Whatever a container printed, its exit code is told."""
    ended = {"exitCode": 1, "message": message}
    found = trouble_of(pod(container(waiting("CrashLoopBackOff"), ended)))
    assert found is not None
    assert found.text == f"container worker ended with exit code 1{last}"


def test_a_container_that_is_killed_at_its_memory_limit():
    """Running out of memory is told apart from other ends."""
    ended = {"exitCode": 137, "reason": "OOMKilled"}
    found = trouble_of(pod(container(waiting("CrashLoopBackOff"), ended)))
    assert found == PodTrouble(PodProblem.OUT_OF_MEMORY, "container worker")


def test_a_container_that_has_recovered_since_its_last_crash():
    """A pod that was Ready after its last crash, and is not now, does not crash."""
    earlier = {"running": {"startedAt": "2026-01-01T09:00:00Z"}}
    assert trouble_of(pod(container(earlier, CRASHED, restartCount=3))) is None


def test_an_init_container():
    """An init container that fails keeps the pod from running; one that is done does not."""
    done = container({"terminated": {"exitCode": 0, "reason": "Completed"}}, name="first")
    starts = container(waiting("PodInitializing"))
    assert trouble_of(pod(starts, initContainerStatuses=[done])) is None
    fails = container(waiting("CrashLoopBackOff"), CRASHED, name="second")
    found = trouble_of(pod(starts, initContainerStatuses=[done, fails]))
    assert found is not None
    assert "container second" in found.text


@pytest.mark.parametrize("state", [waiting("ContainerCreating"), {"running": {}}, {}])
def test_a_pod_that_starts(state: dict[str, Any]):
    """A pod that is on its way has no trouble."""
    assert trouble_of(pod(container(state), phase="Pending")) is None


def test_a_pod_without_a_node():
    """The scheduler's reason is told, without its remarks on preemption."""
    message = (
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No "
        "preemption victims found for incoming pod."
    )
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    found = trouble_of(pod(phase="Pending", conditions=[condition | {"message": message}]))
    text = "0/1 nodes are available: 1 Insufficient cpu."
    assert found == PodTrouble(PodProblem.UNSCHEDULABLE, text)


def test_a_pod_that_is_ready_has_no_trouble():
    """However often it crashed before."""
    ready = [{"type": "Ready", "status": "True"}]
    view = PodView.from_body(pod(container({"running": {}}, CRASHED), conditions=ready))
    assert view is not None
    assert view.is_ready
    assert view.trouble is None


def test_pods_that_are_over_are_left_out():
    """Pods that have ended, as evicted ones, or are being deleted are not the fleet's."""
    assert PodView.from_body(pod(phase="Failed")) is None
    assert PodView.from_body(pod(phase="Succeeded")) is None
    going = pod()
    going["metadata"]["deletionTimestamp"] = NOT_READY_SINCE
    assert PodView.from_body(going) is None
