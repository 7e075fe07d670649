"""A queue whose pods cannot run says so and is not scaled up; it recovers by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import pytest

from support.cluster.api import Api, Object
from support.cluster.objects import job_queue
from support.cluster.operator_process import OperatorProcess
from support.cluster.views import JobQueueView
from support.waiting import eventually

pytestmark = [pytest.mark.usefixtures("operator"), pytest.mark.timeout(600)]

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SOON_SECONDS = 120.0
"""Pods may be missing for fifteen seconds; and then some on a loaded machine."""
WORKERS = "meshhook.io/jobqueue=emails"
CRASH = {
    "name": "worker",
    "image": "none:1",
    "imageID": "",
    "ready": False,
    "started": False,
    "restartCount": 4,
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting"}},
    "lastState": {
        "terminated": {
            "exitCode": 2,
            "reason": "Error",
            "message": "error: handler 'tests:handle': there is no module 'tests'\n",
        }
    },
}
IMAGE = CRASH | {
    "restartCount": 0,
    "state": {"waiting": {"reason": "ImagePullBackOff", "message": "none:1: not found"}},
    "lastState": {},
}
OUT_OF_MEMORY = CRASH | {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}


async def fail(api: Api, status: Object, pods: Iterable[Object]) -> None:
    """Give pods a container status, as their kubelet would."""
    conditions = [{"type": kind, "status": "False"} for kind in ("Ready", "ContainersReady")]
    for pod in pods:
        kept = [
            each
            for each in pod["status"]["conditions"]
            if each["type"] not in {"Ready", "ContainersReady"}
        ]
        change = {"conditions": kept + conditions, "containerStatuses": [status]}
        await api.patch("Pod", pod["metadata"]["name"], {"status": change}, subresource="status")


async def heal(api: Api) -> None:
    """Have the pods replaced, as by a better image; kwok makes the new ones Ready."""
    await api.patch("JobQueue", "emails", {"spec": {"worker": {"image": "none:2"}}})


async def fleet(api: Api, replicas: int, **spec: Any) -> tuple[JobQueueView, list[Object]]:
    """Return a JobQueue with so many ready pods, and the pods."""
    await api.create(job_queue(scaling={"minReplicas": replicas}, **spec))
    view = JobQueueView(api)
    await view.until_ready_replicas(replicas)
    await view.until_condition("Ready", "True")
    return view, await api.list("Pod", labelSelector=WORKERS)


async def send(sql: Connection, count: int) -> None:
    """Send messages to the queue."""
    await sql.execute(
        "select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[$1::int]), 0)", count
    )


async def notes(view: JobQueueView, reason: str) -> list[str]:
    """Return what the events of a reason say."""
    return [event["note"] for event in await view.events() if event["reason"] == reason]


async def has_notes(view: JobQueueView, reason: str, count: int) -> bool:
    """Whether there are so many events of a reason; they follow a condition."""
    return len(await notes(view, reason)) == count


class Case(NamedTuple):
    """What the status of a container says, and what is told of it."""

    status: Object
    reason: str
    words: str


CASES = (
    Case(CRASH, "CrashLoop", "exit code 2: error: handler 'tests:handle': there is no module"),
    Case(IMAGE, "ImagePullFailed", "cannot pull their image: none:1: not found"),
    Case(OUT_OF_MEMORY, "OutOfMemory", "container worker is killed at its memory limit"),
)


@pytest.mark.parametrize("case", CASES, ids=[case.reason for case in CASES])
async def test_pods_that_cannot_run(
    api: Api, database: str, sql: Connection, operator: OperatorProcess, case: Case
):
    """Ready is false for the pods' own reason, as the metric is, with one event; no pod is added.

    It recovers when the pods do.
    """
    status, reason, words = case
    view, pods = await fleet(api, 2)
    await fail(api, status, pods)
    condition = await view.until_condition(
        "Ready", "False", reason=reason, says="2 of 2 pods", timeout=SOON_SECONDS
    )
    assert words in condition["message"]
    labels = {"jobqueue": f"{api.namespace}/emails", "queue": "emails"}
    name = "meshhook_scaler_failing_pods"
    await eventually(lambda: operator.metric(name, reason=reason, **labels) == 2)
    await eventually(lambda: operator.metric("meshhook_scaler_ready", **labels) == 0)
    await send(sql, 80)
    limited = await view.until_condition("ScalingLimited", "True", reason="PodsFailing")
    assert words in limited["message"]
    assert await view.replicas() == 2
    await eventually(lambda: has_notes(view, reason, 1))
    await heal(api)
    await view.until_condition("Ready", "True", reason="Operating", timeout=SOON_SECONDS)
    await view.until_replicas(8)
    await eventually(lambda: operator.metric(name, reason=reason, **labels) == 0)

    await eventually(lambda: has_notes(view, "Recovered", 1))
    assert len(await notes(view, reason)) == 1  # still


async def test_one_pod_of_many_that_crashes(api: Api, database: str, sql: Connection):
    """A pod that crashes among five is told, but the queue is ready, and grows."""
    view, pods = await fleet(api, 5)
    await fail(api, CRASH, pods[:1])
    condition = await view.until_condition(
        "Ready", "True", reason="CrashLoop", timeout=SOON_SECONDS
    )
    assert condition["message"].startswith("1 of 5 pods")
    await eventually(lambda: has_notes(view, "CrashLoop", 1))
    await send(sql, 80)
    await view.until_replicas(8)


async def test_a_quota_on_pods(api: Api, database: str, sql: Connection):
    """Of six pods a quota allows two: its words are told, and no more are asked for until it grows.

    The number that is asked for stays.
    """
    quota = {
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "2"}},
    }
    await api.create(quota)

    async def use_is_known() -> bool:
        # Before that it refuses all pods in other words.
        found = await api.get("ResourceQuota", "few")
        return bool(found.get("status", {}).get("used"))

    await eventually(use_is_known)
    await api.create(job_queue(scaling={"minReplicas": 6}))
    view = JobQueueView(api)
    # The first look may find none of its pods yet.
    condition = await view.until_condition(
        "Ready", "False", reason="PodsRefused", says="4 of 6 pods", timeout=SOON_SECONDS
    )
    assert "exceeded quota: few" in condition["message"]
    await send(sql, 80)
    limited = await view.until_condition("ScalingLimited", "True", reason="PodsFailing")
    assert "exceeded quota: few" in limited["message"]
    assert await view.replicas() == 6
    assert (await view.status())["desiredReplicas"] == 6
    await api.patch("ResourceQuota", "few", {"spec": {"hard": {"pods": "20"}}})
    await view.until_condition("Ready", "True", reason="Operating", timeout=200)
    await view.until_replicas(8)


async def test_pods_that_an_admission_policy_refuses(api: Api, database: str):
    """A namespace that takes no such pods: the policy's words are told."""
    labels = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    await api.patch("Namespace", api.namespace, labels)
    await api.create(job_queue(worker={"securityContext": {"runAsUser": 0}}))
    says = "violates PodSecurity"
    await JobQueueView(api).until_condition(
        "Ready", "False", reason="PodsRefused", says=says, timeout=SOON_SECONDS
    )


async def test_pods_that_no_node_takes(api: Api, database: str):
    """The scheduler's words are told; with a node that takes the pods, the queue recovers."""
    await api.create(job_queue(worker={"nodeSelector": {"no": "node"}}))
    view = JobQueueView(api)
    says = "0/1 nodes are available"
    await view.until_condition(
        "Ready", "False", reason="Unschedulable", says=says, timeout=SOON_SECONDS
    )
    await api.patch("JobQueue", "emails", {"spec": {"worker": {"nodeSelector": {"no": None}}}})
    await view.until_condition("Ready", "True", reason="Operating", timeout=SOON_SECONDS)
    await eventually(lambda: has_notes(view, "Recovered", 1))
