"""Watching pods, Deployments and JobQueues, and noting when what happened was seen."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube.generic_resource import create_namespaced_resource
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Pod

from bench.node.observations import Decision, PodLife

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightkube import AsyncClient

LABEL = "meshhook.io/jobqueue"
AGAIN_SECONDS = 0.2
SERVER_SECONDS = 300
JobQueue = create_namespaced_resource("meshhook.io", "v1alpha1", "JobQueue", "jobqueues")


@dataclass(slots=True)
class Seen:
    """What was seen of one JobQueue. All times are Unix times."""

    pods: dict[str, PodLife] = field(default_factory=dict)
    replicas: list[tuple[float, int]] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    conditions: dict[str, str] = field(default_factory=dict)
    """The status of each condition of the JobQueue."""

    @property
    def pods_there(self) -> list[PodLife]:
        """The pods that are not gone."""
        return [pod for pod in self.pods.values() if pod.gone is None]

    @property
    def ready_pods(self) -> list[PodLife]:
        """The pods that take jobs."""
        return [pod for pod in self.pods_there if pod.ready is not None and pod.stopped is None]


class Watch:
    """Watches everything in a namespace that belongs to a JobQueue."""

    def __init__(self, client: AsyncClient, namespace: str) -> None:
        self._client = client
        self._namespace = namespace
        self._seen: dict[str, Seen] = defaultdict(Seen)

    def of(self, name: str) -> Seen:
        """Return what was seen of a JobQueue; it grows."""
        return self._seen[name]

    def forget(self, name: str) -> None:
        """Begin anew with a JobQueue."""
        self._seen.pop(name, None)

    async def follow(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(Pod, self._on_pod, {LABEL: None}))
            tasks.create_task(self._follow(Deployment, self._on_deployment, {LABEL: None}))
            tasks.create_task(self._follow(JobQueue, self._on_job_queue, None))

    async def _follow(
        self, kind: Any, take: Callable[[str, Any], None], labels: dict[str, Any] | None
    ) -> None:
        known: set[str] = set()
        while True:
            try:
                await self._follow_once(kind, take, labels, known)
            except httpx2.HTTPError as error:  # lightkube's ApiError is one, too
                print(f"watching {kind.__name__}s again: {error}", file=sys.stderr, flush=True)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _follow_once(
        self,
        kind: Any,
        take: Callable[[str, Any], None],
        labels: dict[str, Any] | None,
        known: set[str],
    ) -> None:
        found = self._client.list(kind, namespace=self._namespace, labels=labels)
        there = {each.metadata.name: each async for each in found}
        for name in known - there.keys():  # it went while nobody watched
            take("GONE", name)
        for each in there.values():
            take("ADDED", each)
        known.clear()
        known.update(there)
        watched = self._client.watch(
            kind,
            namespace=self._namespace,
            labels=labels,
            resource_version=found.resourceVersion,
            server_timeout=SERVER_SECONDS,
        )
        async for event, each in watched:
            take(event, each)
            if event == "DELETED":
                known.discard(each.metadata.name)
            else:
                known.add(each.metadata.name)

    def _on_pod(self, event: str, pod: Any) -> None:
        now = time.time()
        if event == "GONE":
            for seen in self._seen.values():
                if pod in seen.pods:
                    seen.pods[pod].gone = now
            return
        pods = self._seen[pod.metadata.labels[LABEL]].pods
        life = pods.setdefault(pod.metadata.name, PodLife(pod.metadata.name, created=now))
        if life.ready is None and _is_ready(pod):
            life.ready = now
        if life.stopped is None and (pod.metadata.deletionTimestamp or event == "DELETED"):
            life.stopped = now
        if event == "DELETED":
            life.gone = now

    def _on_deployment(self, event: str, deployment: Any) -> None:
        if event in {"GONE", "DELETED"}:
            return
        replicas = self._seen[deployment.metadata.labels[LABEL]].replicas
        count = deployment.spec.replicas or 0
        if not replicas or replicas[-1][1] != count:
            replicas.append((time.time(), count))

    def _on_job_queue(self, event: str, job_queue: Any) -> None:
        if event in {"GONE", "DELETED"}:
            return
        seen = self._seen[job_queue.metadata.name]
        status = job_queue.get("status") or {}
        for condition in status.get("conditions", ()):
            seen.conditions[condition["type"]] = condition["status"]
        message = (status.get("scaling") or {}).get("message", "")
        if message and (not seen.decisions or seen.decisions[-1].message != message):
            seen.decisions.append(Decision(time.time(), status.get("desiredReplicas"), message))


def _is_ready(pod: Any) -> bool:
    conditions = (pod.status.conditions if pod.status else None) or []
    return any(each.type == "Ready" and each.status == "True" for each in conditions)
