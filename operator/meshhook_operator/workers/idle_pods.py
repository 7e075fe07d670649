"""Marking the pods that do the least, so that Kubernetes deletes them first when it scales down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.cluster.pods import PodView
    from meshhook_operator.workers.pod_work import PodWork

_log = get_logger("meshhook_operator.workers")

FIRST_TO_GO = -100
PARALLEL_PATCHES = 8


async def mark_idle_pods(
    cluster: Cluster, view: DeploymentView, replicas: int, pods: Mapping[str, PodWork] | None
) -> None:
    """Let the pods that do the least go first. A failure is logged: it must not stop the scaling.

    Args:
        cluster: the Kubernetes API.
        view: the Deployment before it is scaled down.
        replicas: how many pods are to be left.
        pods: what each pod does, by its name; None if that is not known.
    """
    if not pods or replicas == 0:
        return
    limit = asyncio.Semaphore(PARALLEL_PATCHES)
    try:
        views = await cluster.list_pods(view.key.namespace, view.selector)
        changes = changed_costs(views, pods, surplus=len(views) - replicas)
        async with asyncio.TaskGroup() as tasks:
            for pod, cost in changes.items():
                tasks.create_task(_mark(cluster, limit, pod.key, cost), name=f"mark {pod.key}")
    except MeshHookError as error:
        _log.warning("idle pods not marked", deployment=str(view.key), error=str(error))


def changed_costs(
    views: Sequence[PodView], pods: Mapping[str, PodWork], *, surplus: int
) -> dict[PodView, int | None]:
    """Return the pods whose deletion cost must change before `surplus` pods go. Pure.

    Idle pods go first, and of these cordoned ones: nothing starts there. Then come pods whose
    oldest job has run for the shortest time: its end is nearest, or the least is lost.

    Only those that are to go are marked, so that hundreds of pods cost a few requests. A mark that
    is no longer right is removed: its cost is None.

    Args:
        views: the pods of the Deployment.
        pods: what each does, by its name; a pod that is missing here has not reported and counts
            as idle.
        surplus: how many pods are to go.
    """
    in_order = sorted(views, key=lambda view: (*_loss(pods.get(view.key.name)), view.key.name))
    victims = set(in_order[: max(0, surplus)])
    changed: dict[PodView, int | None] = {}
    for pod in in_order:
        if pod in victims and pod.deletion_cost != FIRST_TO_GO:
            changed[pod] = FIRST_TO_GO
        elif pod not in victims and pod.deletion_cost == FIRST_TO_GO:
            changed[pod] = None
    return changed


def _loss(work: PodWork | None) -> tuple[bool, float, bool, int]:
    if work is None:
        return False, 0.0, True, 0
    return bool(work.running), work.oldest_running_seconds, not work.is_cordoned, work.running


async def _mark(
    cluster: Cluster, limit: asyncio.Semaphore, pod: ObjectKey, cost: int | None
) -> None:
    async with limit:
        try:
            await cluster.set_deletion_cost(pod, cost)
        except MeshHookError as error:  # the pod may be gone already
            _log.debug("idle pod not marked", pod=str(pod), error=str(error))
