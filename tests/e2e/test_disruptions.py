"""Under load, with something taken away: a ledger of ids says that nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json

import pytest

from support.e2e import (
    RELEASE,
    accepted,
    all_accepted,
    enqueued,
    job_queue,
    next_image,
    produced,
    producer,
    steady_workers,
    worker_selector,
)
from support.kube import KubeError
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)

RATE = 25
"""Jobs a second. Each takes a quarter of one, so that some run whenever something is taken away."""
QUEUE = "deliveries"
SELECTOR = worker_selector(QUEUE)


class Load:
    """A producer at work, before and while something is taken away, and after it is back."""

    def __init__(self, kube, receiver, image, prefix, *, rate=RATE) -> None:
        self._kube, self._receiver, self._prefix, self._rate = kube, receiver, prefix, rate
        kube.apply(producer(image, QUEUE, prefix, rate=rate))

    async def has_arrived(self, number: int) -> None:
        """Wait until the receiver has accepted the job of that number."""
        await accepted(self._receiver, {f"{self._prefix}-{number}"})

    async def nothing_is_lost(self) -> None:
        """Wait until jobs of two more seconds have arrived, end the load, and miss none of it.

        The queue is empty then: what a worker held that died is done too, for the second time if
        the receiver had accepted it.
        """
        await self.has_arrived(enqueued(self._kube, self._prefix) + 2 * self._rate)
        # The container may end before the command in it that ends it.
        with contextlib.suppress(KubeError):
            self._kube.kubectl("exec", f"producer-{self._prefix}", "--", "sh", "-c", "kill 1")
        count = await produced(self._kube, self._prefix)
        await eventually(lambda: not unsettled(self._kube), timeout=240)
        arrived = await all_accepted(self._receiver, self._prefix, count, 300)
        doubled = [each for each, times in arrived.items() if times > 1]
        print(f"{self._prefix}: {count} accepted, 0 lost, {len(doubled)} more than once")
        for each in doubled[:1]:
            jobs = json.loads(self._kube.meshhook("jobs", "list", "--run-id", each, "--json"))
            for job in jobs:
                shown = self._kube.meshhook("jobs", "show", job["queue"], str(job["msg_id"]))
                print(shown)


def two_workers(image):
    """Return the JobQueue with two workers, whatever there is to do."""
    return job_queue(QUEUE, image, minReplicas=2, maxReplicas=2)


@pytest.fixture
async def workers(installed, image, deliveries) -> set[str]:
    """Two workers that stay: tests before this one may have needed more, or another image."""
    installed.apply(two_workers(image))
    return await steady_workers(installed, QUEUE, 2)


@pytest.fixture
async def load(installed, receiver, image, workers, request) -> Load:
    """A load on two workers, under way."""
    name = request.node.name.removeprefix("test_").replace("_", "-")[:30].strip("-")
    load = Load(installed, receiver, image, f"slow-{name}")
    await load.has_arrived(RATE)
    return load


async def replaced(kube, old: set[str]) -> None:
    """Wait until two workers are Ready, and none of the old ones is."""

    def is_replaced() -> bool:
        ready = set(kube.ready_pods(SELECTOR))
        return len(ready) >= 2 and not old & ready

    await eventually(is_replaced, timeout=180)


async def test_worker_image_rolled_out(installed, image, load, workers, is_local):
    """A new image comes in by a rolling update, and no job is lost."""
    queue = two_workers(image)
    if is_local:
        queue["spec"]["worker"]["image"] = next_image(image)
    queue["spec"]["worker"]["podAnnotations"] = {"rollout": "2"}
    installed.apply(queue)
    await replaced(installed, workers)
    await load.nothing_is_lost()


async def test_worker_pods_evicted(installed, load, workers):
    """Evictions end pods in an orderly way: their jobs go on elsewhere."""
    for name in workers:
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name, "namespace": installed.namespace},
        }
        path = f"/api/v1/namespaces/{installed.namespace}/pods/{name}/eviction"
        await asyncio.to_thread(post, installed, path, eviction)
    await replaced(installed, workers)
    await load.nothing_is_lost()


async def test_worker_pod_deleted_by_force(installed, load, workers):
    """A pod whose grace period is taken away is replaced, and its jobs go on elsewhere."""
    name = min(workers)
    installed.kubectl("delete", "pod", name, "--grace-period=0", "--force")
    await replaced(installed, {name})
    await load.nothing_is_lost()


async def test_workers_killed(installed, receiver, image, workers, kill):
    """Workers that are killed at work leave their leases to run out; their jobs are done again."""
    # Six of them run at any time, also where everything else stands still for a second.
    load = Load(installed, receiver, image, "slower-workers-killed", rate=2)
    await load.has_arrived(4)
    before = lost_attempts(installed)
    for name in workers:
        kill(installed.get("pod", name))
    await load.nothing_is_lost()
    assert lost_attempts(installed) > before


def unsettled(kube) -> int:
    """Return how many jobs are in the queue or are dead letters."""
    (queue,) = json.loads(kube.meshhook("stats", "deliveries", "--json"))["queues"]
    states = ("ready", "scheduled", "running", "retrying", "lost", "dead_letters")
    return sum(queue[state] for state in states)


def lost_attempts(kube) -> int:
    """Return how many attempts at jobs of the queue ended because their lease ran out."""
    hours = json.loads(kube.meshhook("stats", "deliveries", "--json"))["hours"]
    return sum(hour["lost"] for hour in hours if hour["queue"] == "deliveries")


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


async def test_operator_pod_deleted(installed, load, workers):
    """Without the operator workers work on; it comes back and touches nothing that runs."""
    selector = "app.kubernetes.io/component=operator"
    (old,) = installed.ready_pods(selector)
    installed.kubectl("delete", "pod", old)
    await eventually(lambda: set(installed.ready_pods(selector)) - {old}, timeout=240)
    await load.nothing_is_lost()
    await eventually(lambda: workers <= set(installed.ready_pods(SELECTOR)))


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
