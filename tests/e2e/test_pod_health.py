"""Pods that cannot run on a real node: the JobQueue says why, and recovers when it is mended."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.e2e import job_queue, worker_selector
from support.kube import Kube, Object
from support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

NAME = "failing"
PRIORITY_CLASS = "meshhook-e2e-few"
"""That of the pods which the quota is about: those of other tests come and go meanwhile."""


@pytest.fixture
def no_queue(installed: Kube) -> Iterator[None]:
    """Remove the JobQueue and the quota of a test."""
    yield
    installed.kubectl("delete", "resourcequota", "few", "--ignore-not-found")
    installed.kubectl("delete", "jobqueue", NAME, "--ignore-not-found")
    installed.kubectl("delete", "priorityclass", PRIORITY_CLASS, "--ignore-not-found")


def queue(image: str, *, replicas: int = 1, **worker: Any) -> Object:
    """Return a JobQueue that wants so many workers, with these fields of its workers."""
    found = job_queue(NAME, image, minReplicas=replicas)
    found["spec"]["worker"] |= worker
    return found


async def until_ready(kube: Kube, status: str, reason: str, says: str = "") -> str:
    """Wait until the condition Ready says so, with these words, and return its message."""

    def holds() -> Object:
        conditions = kube.get("jobqueue", NAME).get("status", {}).get("conditions", [])
        found: Object = next((each for each in conditions if each["type"] == "Ready"), {})
        assert (found.get("status"), found.get("reason")) == (status, reason), found
        assert says in found["message"], found
        return found

    found = await eventually(holds, timeout=240)
    return str(found["message"])


def reasons(kube: Kube) -> list[str]:
    """Return the reasons of the JobQueue's events."""
    found = json.loads(
        kube.kubectl("get", "events", "--field-selector", f"involvedObject.name={NAME}", "-ojson")
    )
    return [event["reason"] for event in found["items"]]


@pytest.mark.usefixtures("no_queue")
async def test_a_handler_that_cannot_be_imported(installed: Kube, image: str):
    """The worker's own words are in the condition; with a right handler the queue recovers."""
    installed.apply(queue(image, handler="nowhere:handle"))
    message = await until_ready(installed, "False", "CrashLoop")
    assert "1 of 1 pods cannot run" in message
    assert "exit code 2: error: handler 'nowhere:handle': there is no module" in message
    assert len(installed.pods(worker_selector(NAME))) == 1
    installed.apply(queue(image))
    await until_ready(installed, "True", "Operating")
    await eventually(lambda: "Recovered" in reasons(installed))
    assert reasons(installed).count("CrashLoop") == 1


@pytest.mark.usefixtures("no_queue")
async def test_an_image_that_is_not_there(installed: Kube):
    """An image that the node does not have, and cannot pull, is named."""
    installed.apply(queue("localhost/nowhere:1", imagePullPolicy="Never"))
    message = await until_ready(installed, "False", "ImagePullFailed")
    assert "localhost/nowhere:1" in message


@pytest.mark.usefixtures("no_queue")
async def test_a_quota(installed: Kube, image: str):
    """A quota that leaves room for one of three pods is quoted; without it the queue recovers."""
    await eventually(lambda: not installed.get("pods", "--selector", worker_selector(NAME)))
    scope = {"scopeName": "PriorityClass", "operator": "In", "values": [PRIORITY_CLASS]}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "few"},
        "spec": {"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [scope]}},
    }
    installed.apply(
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": PRIORITY_CLASS},
            "value": 0,
        },
        quota,
    )
    # Before its use is known, it refuses all pods in other words.
    await eventually(lambda: installed.get("resourcequota", "few").get("status", {}).get("used"))
    installed.apply(queue(image, replicas=3, priorityClassName=PRIORITY_CLASS))
    # The first look may find none of its pods yet.
    says = "2 of 3 pods cannot be created"
    message = await until_ready(installed, "False", "PodsRefused", says)
    assert "exceeded quota: few" in message
    installed.kubectl("delete", "resourcequota", "few")
    changes = itertools.count()

    def all_are_made() -> bool:
        # Kubernetes waits longer after each refusal, up to a quarter of an hour; a change ends
        # that. What refuses pods may hear late that the quota is gone.
        selector = worker_selector(NAME)
        change = f"example.com/change={next(changes)}"
        installed.kubectl("annotate", "replicasets", "--selector", selector, change, "--overwrite")
        return len(installed.pods(selector)) == 3

    await eventually(all_are_made, timeout=150)
    await until_ready(installed, "True", "Operating")
