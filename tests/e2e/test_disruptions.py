"""Under load, with something taken away: a ledger of ids says that nothing is lost."""

from __future__ import annotations

import asyncio
import json

import pytest

from support.e2e import (
    RELEASE,
    all_accepted,
    job_queue,
    next_image,
    produced,
    producer,
    worker_selector,
)
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)

RATE = 40
COUNT = 800
SELECTOR = worker_selector("deliveries")


class Load:
    """A producer at work: what it enqueues is counted at the receiver."""

    def __init__(self, kube, receiver, image, queue, prefix) -> None:
        self._kube, self._receiver, self._prefix = kube, receiver, prefix
        kube.apply(producer(image, queue, prefix, COUNT, RATE))

    async def is_flowing(self) -> None:
        """Wait until the first deliveries have arrived."""
        await eventually(self._some_arrived, timeout=240)

    def _some_arrived(self) -> bool:
        return any(each.startswith(f"{self._prefix}-") for each in self._receiver.ledger())

    async def nothing_is_lost(self) -> None:
        """Wait until all has arrived, and say how many arrived more than once, and why."""
        await produced(self._kube, f"producer-{self._prefix}", 400)
        accepted = await all_accepted(self._receiver, self._prefix, COUNT, 300)
        doubled = [each for each, times in accepted.items() if times > 1]
        print(f"{self._prefix}: {COUNT} accepted, 0 lost, {len(doubled)} more than once")
        for each in doubled[:3]:
            jobs = json.loads(self._kube.meshhook("jobs", "list", "--run-id", each, "--json"))
            for job in jobs:
                shown = self._kube.meshhook("jobs", "show", job["queue"], str(job["msg_id"]))
                print(shown)


@pytest.fixture
async def load(installed, receiver, image, deliveries, request) -> Load:
    """A load on two workers, under way."""
    prefix = request.node.name.removeprefix("test_").replace("_", "-")[:30].strip("-")
    load = Load(installed, receiver, image, deliveries, prefix)
    await load.is_flowing()
    return load


async def test_worker_image_rolled_out(installed, image, load, is_local):
    """A new image comes in by a rolling update, and no job is lost."""
    old = set(installed.ready_pods(SELECTOR))
    queue = job_queue("deliveries", image, minReplicas=2)
    if is_local:
        queue["spec"]["worker"]["image"] = next_image(image)
    queue["spec"]["worker"]["podAnnotations"] = {"rollout": "2"}
    installed.apply(queue)
    await eventually(
        lambda: (
            len(set(installed.ready_pods(SELECTOR)) - old) >= 2
            and not old & set(installed.ready_pods(SELECTOR))
        ),
        timeout=180,
    )
    await load.nothing_is_lost()


async def test_worker_pods_evicted(installed, load):
    """Evictions end pods in an orderly way: their jobs go on elsewhere."""
    for name in installed.ready_pods(SELECTOR):
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": installed.namespace},
        }
        path = f"/api/v1/namespaces/{installed.namespace}/pods/{name}/eviction"
        await asyncio.to_thread(post, installed, path, eviction)
    await load.nothing_is_lost()


async def test_worker_pod_killed(installed, load):
    """A pod that is killed leaves its leases to run out; its jobs are done again."""
    name = installed.ready_pods(SELECTOR)[0]
    installed.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    await load.nothing_is_lost()


async def test_node_drained(installed, load, is_local):
    """With the workers drained off the node, jobs wait, and go on when it takes pods again."""
    if not is_local:
        pytest.skip("drains only the node of the local cluster")
    node = installed.get("nodes")[0]["metadata"]["name"]
    drain = ["drain", node, "--pod-selector", SELECTOR, "--force", "--delete-emptydir-data"]
    try:
        installed.kubectl(*drain, "--timeout=120s")
        await eventually(lambda: not installed.ready_pods(SELECTOR), timeout=180)
    finally:
        installed.kubectl("uncordon", node)
    await load.nothing_is_lost()


async def test_operator_pod_deleted(installed, load):
    """Without the operator workers work on; it comes back and touches nothing that runs."""
    before = set(installed.ready_pods(SELECTOR))
    selector = "app.kubernetes.io/component=operator"
    (old,) = installed.ready_pods(selector)
    installed.kubectl("delete", "pod", old)
    await eventually(lambda: set(installed.ready_pods(selector)) - {old}, timeout=240)
    await load.nothing_is_lost()
    assert before <= set(installed.ready_pods(SELECTOR))


async def test_database_pod_restarted(installed, load):
    """The database goes away and comes back with its volume: workers and producer resume."""
    name = f"{RELEASE}-database-0"
    installed.kubectl("delete", "pod", name)
    await eventually(
        lambda: name in installed.ready_pods("app.kubernetes.io/component=database"), timeout=180
    )
    await load.nothing_is_lost()


def post(kube, path: str, body) -> None:
    """Send an object to the API server."""
    kube.kubectl("create", "--raw", path, "--filename", "-", stdin=json.dumps(body))
