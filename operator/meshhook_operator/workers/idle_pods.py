"""Marking the pods that do the least, so that Kubernetes deletes them first when it scales down."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.scaling import LONG_SECONDS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.cluster.pods import PodView
    from meshhook_operator.workers.pod_work import PodWork

_log = get_logger("meshhook_operator.workers")

FIRST_TO_GO = -100
PARALLEL_PATCHES = 8


async def mark_idle_pods(
    cluster: Cluster,
    view: DeploymentView,
    replicas: int,
    pods: Mapping[str, PodWork] | None,
    *,
    runs_are_long: bool,
) -> int:
    """Let the pods that do the least go first, and return how many may be removed.

    No pod may be that would be deleted although it runs a job that may be cut off. A failure to
    mark pods is logged, and counts: where such jobs run, pods are not removed blindly.

    Args:
        cluster: the Kubernetes API.
        view: the Deployment before it is scaled down.
        replicas: how many pods are to be left.
        pods: what each pod does, by its name; None if that is not known.
        runs_are_long: whether jobs may run longer than a pod that stops would let them.
    """
    if pods is None:
        return 0
    if not pods:
        return view.replicas  # these workers do not report
    busy = sum(_runs_long_job(work, runs_are_long=runs_are_long) for work in pods.values())
    if busy >= view.replicas:
        return 0
    if replicas == 0 and not busy and not runs_are_long:
        return view.replicas
    try:
        views = await cluster.list_pods(view.key.namespace, view.selector)
    except MeshHookError as error:
        _log.warning("idle pods not marked", deployment=str(view.key), error=str(error))
        return 0 if busy or runs_are_long else view.replicas
    kept = {each for each in views if is_kept(each, pods, runs_are_long=runs_are_long)}
    surplus = min(len(views) - replicas, len(views) - len(kept))
    changes = changed_costs(views, pods, surplus=surplus)
    limit = asyncio.Semaphore(PARALLEL_PATCHES)
    async with asyncio.TaskGroup() as tasks:
        marking = {
            pod: tasks.create_task(_mark(cluster, limit, pod.key, cost), name=f"mark {pod.key}")
            for pod, cost in changes.items()
        }
    costs = {pod: cost or 0 for pod, cost in changes.items() if marking[pod].result()}
    if failed := len(changes) - len(costs):
        _log.warning("idle pods not marked", deployment=str(view.key), pods=failed)
    missing = max(0, view.replicas - len(views))
    return missing + deleted_before(kept, views, costs)


def is_kept(view: PodView, pods: Mapping[str, PodWork], *, runs_are_long: bool) -> bool:
    """Return whether a pod runs a job that may be cut off, or might: it has started but is silent.

    Pure.
    """
    work = pods.get(view.key.name)
    if work is None:
        return runs_are_long and _might_work(view)
    return _runs_long_job(work, runs_are_long=runs_are_long)


def deleted_before(
    kept: Collection[PodView], views: Sequence[PodView], costs: Mapping[PodView, int]
) -> int:
    """Return how many pods Kubernetes certainly deletes before any of those that are kept. Pure.

    It deletes pods without a node first, then those that do not run, then those that are not ready,
    whatever they cost; after that, those of the lowest cost.

    Args:
        kept: the pods that must stay.
        views: all pods of the Deployment.
        costs: those that differ from what `views` say.
    """

    def rank(view: PodView) -> tuple[bool, bool, bool, int]:
        cost = costs.get(view, view.deletion_cost)
        return view.is_scheduled, view.is_running, view.is_ready, cost

    if not kept:
        return len(views)
    first_kept = min(map(rank, kept))
    return sum(rank(view) < first_kept for view in views)


def changed_costs(
    views: Sequence[PodView], pods: Mapping[str, PodWork], *, surplus: int
) -> dict[PodView, int | None]:
    """Return the pods whose deletion cost must change before `surplus` pods go. Pure.

    Idle pods go first: those that have not started, and then those that are cordoned, since nothing
    starts there. Then come pods whose oldest job has run for the shortest time: its end is nearest,
    or the least is lost.

    Only those that are to go are marked, so that hundreds of pods cost a few requests. A mark that
    is no longer right is removed: its cost is None.

    Args:
        views: the pods of the Deployment.
        pods: what each does, by its name. A pod that is missing here has not reported: it is idle
            unless it has started, and then goes before those that run jobs.
        surplus: how many pods are to go.
    """
    in_order = sorted(views, key=lambda view: (*_loss(view, pods), view.key.name))
    victims = set(in_order[: max(0, surplus)])
    changed: dict[PodView, int | None] = {}
    for pod in in_order:
        if pod in victims and pod.deletion_cost != FIRST_TO_GO:
            changed[pod] = FIRST_TO_GO
        elif pod not in victims and pod.deletion_cost == FIRST_TO_GO:
            changed[pod] = None
    return changed


def _loss(view: PodView, pods: Mapping[str, PodWork]) -> tuple[int, tuple[float, ...]]:
    work = pods.get(view.key.name)
    if work is not None and work.running:
        return 2, (work.oldest_running_seconds, work.running)
    if work is None and _might_work(view):
        return 1, ()
    cordoned = work is not None and work.is_cordoned
    return 0, (view.is_scheduled, view.is_running, view.is_ready, not cordoned)


def _runs_long_job(work: PodWork, *, runs_are_long: bool) -> bool:
    return work.running > 0 and (runs_are_long or work.oldest_running_seconds >= LONG_SECONDS)


def _might_work(view: PodView) -> bool:
    """Whether a pod that does not report may run jobs: one that blocks its worker, for example."""
    return view.has_started and view.trouble is None


async def _mark(
    cluster: Cluster, limit: asyncio.Semaphore, pod: ObjectKey, cost: int | None
) -> bool:
    async with limit:
        try:
            await cluster.set_deletion_cost(pod, cost)
        except MeshHookError as error:  # the pod may be gone already
            _log.debug("idle pod not marked", pod=str(pod), error=str(error))
            return False
    return True
