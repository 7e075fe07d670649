"""The chart on a real node: it installs without values, tests itself, and runs as anybody."""

from __future__ import annotations

import json

import pytest

from support.e2e import RELEASE, pod
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)


def test_helm_test_sees_a_job_done(installed):
    """`helm test` gets a job done by a worker pod that is started for it."""
    said = installed.helm("test", RELEASE, "--logs", "--timeout", "4m")
    assert "Phase:          Succeeded" in said
    assert "done by meshhook-test-worker-" in said


async def test_everything_runs_restricted(installed):
    """The namespace enforces the restricted standard, and every pod of the chart is Ready in it."""
    component = "app.kubernetes.io/component"
    await eventually(lambda: installed.ready_pods(f"{component}=operator"))
    await eventually(lambda: installed.ready_pods(f"{component}=database"))


def test_the_image_runs_as_any_user_on_a_read_only_root(installed, receiver):
    """The pod `client` runs as a user id without an account, on a root it cannot write to."""
    assert installed.kubectl("exec", "client", "--", "id", "-u").strip() == "1234567"
    with pytest.raises(Exception, match="Read-only file system"):
        installed.kubectl("exec", "client", "--", "touch", "/app/x")
    assert "Usage: meshhook" in installed.meshhook("--help")
    assert "up to date" in installed.meshhook("migrate")


def test_a_wrong_handler_is_said_in_the_log(installed, receiver, runtime_image):
    """A worker in a pod that cannot start says why, and exits with 2."""
    broken = pod(
        "broken", runtime_image, ["meshhook", "worker", "none", "--handler", "nowhere:handle"]
    )
    installed.apply(broken)
    installed.kubectl("wait", "--for=jsonpath={.status.phase}=Failed", "pod/broken", "--timeout=5m")
    assert "nowhere" in installed.kubectl("logs", "broken")
    (status,) = installed.get("pod", "broken")["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 2


async def test_jobqueues_explain_themselves(installed, deliveries):
    """`kubectl get jobqueues` and `kubectl explain` work, and the condition Ready comes true."""

    def is_ready() -> bool:
        status = installed.get("jobqueue", deliveries).get("status", {})
        conditions = status.get("conditions", ())
        return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)

    await eventually(is_ready, timeout=180)
    assert deliveries in installed.kubectl("get", "jobqueues")
    assert "targetAgeSeconds" in installed.kubectl("explain", "jobqueue.spec.scaling")


def test_a_bad_jobqueue_is_refused_by_the_api_server(installed, deliveries):
    """A misplaced field is an error, not a surprise."""
    queue = installed.get("jobqueue", deliveries)
    queue["spec"]["replicas"] = 2
    with pytest.raises(Exception, match="replicas"):
        installed.kubectl(
            "create",
            "--validate=strict",
            "--dry-run=server",
            "--filename",
            "-",
            stdin=json.dumps(queue | {"metadata": {"name": "bad"}}),
        )
