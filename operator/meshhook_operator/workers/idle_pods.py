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

_log = get_logger("meshhook_operator.workers")

FIRST_TO_GO = -100
PARALLEL_PATCHES = 8


async def mark_idle_pods(
    cluster: Cluster, view: DeploymentView, replicas: int, running_by_host: Mapping[str, int] | None
) -> None:
    """Let the pods that do the least go first. A failure is logged: it must not stop the scaling.

    Args:
        cluster: the Kubernetes API.
        view: the Deployment before it is scaled down.
        replicas: how many pods are to be left.
        running_by_host: how many jobs each pod runs, by its name; None if that is not known.
    """
    if not running_by_host or replicas == 0:
        return
    limit = asyncio.Semaphore(PARALLEL_PATCHES)
    try:
        pods = await cluster.list_pods(view.key.namespace, view.selector)
        changes = changed_costs(pods, running_by_host, surplus=len(pods) - replicas)
        async with asyncio.TaskGroup() as tasks:
            for pod, cost in changes.items():
                tasks.create_task(_mark(cluster, limit, pod.key, cost), name=f"mark {pod.key}")
    except MeshHookError as error:
        _log.warning("idle pods not marked", deployment=str(view.key), error=str(error))


def changed_costs(
    pods: Sequence[PodView], running_by_host: Mapping[str, int], *, surplus: int
) -> dict[PodView, int | None]:
    """Return the pods whose deletion cost must change before `surplus` pods go. Pure.

    Only those that are to go are marked, so that hundreds of pods cost a few requests. A mark that
    is no longer right is removed: its cost is None.

    Args:
        pods: of the Deployment.
        running_by_host: how many jobs each pod runs, by its name; a pod that is missing here has
            not reported and counts as idle.
        surplus: how many pods are to go.
    """
    by_work = sorted(pods, key=lambda pod: (running_by_host.get(pod.key.name, 0), pod.key.name))
    victims = set(by_work[: max(0, surplus)])
    changed: dict[PodView, int | None] = {}
    for pod in by_work:
        if pod in victims and pod.deletion_cost != FIRST_TO_GO:
            changed[pod] = FIRST_TO_GO
        elif pod not in victims and pod.deletion_cost == FIRST_TO_GO:
            changed[pod] = None
    return changed


async def _mark(
    cluster: Cluster, limit: asyncio.Semaphore, pod: ObjectKey, cost: int | None
) -> None:
    async with limit:
        try:
            await cluster.set_deletion_cost(pod, cost)
        except MeshHookError as error:  # the pod may be gone already
            _log.debug("idle pod not marked", pod=str(pod), error=str(error))
