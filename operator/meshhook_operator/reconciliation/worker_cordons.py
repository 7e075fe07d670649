"""Telling the database which workers of one JobQueue are to claim no more jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.errors import DatabaseError
from meshhook.observability.loggers import get_logger
from meshhook_operator.workers.cordons import choose_cordons, cordon_seconds, must_write
from meshhook_operator.workers.pod_work import work_by_pod

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.scaling import WorkerReport

_log = get_logger("meshhook_operator.cordons")

TRY_AGAIN_SECONDS = 30.0
"""How long to wait after the database has refused. Without cordons, scaling goes on as it can."""

LIST_AGAIN_SECONDS = 60.0


class WorkerCordons:
    """Cordons the workers that are not needed, and uncordons them when they are.

    It writes nothing and asks for nothing while all pods are needed, which is nearly always.
    """

    def __init__(self, key: ObjectKey, *, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._key = key
        self._cluster = cluster
        self._clock = clock
        self._try_at = float("-inf")
        self._listed_of: str | None = None
        self._listed_at = float("-inf")
        self._ours: frozenset[str] = frozenset()
        self._others: frozenset[str] = frozenset()
        self._chosen: frozenset[str] = frozenset()

    async def ensure(
        self,
        queue_name: str,
        *,
        active_replicas: int,
        may_add: bool,
        reports: Sequence[WorkerReport],
        view: DeploymentView,
        database: QueueDatabase,
        tick_seconds: float,
    ) -> None:
        """Let so many pods of the Deployment claim, and the others finish what they run.

        Args:
            queue_name: the queue.
            active_replicas: how many pods are to claim.
            may_add: whether there are more pods than that, and they are to stay for now.
            reports: of the queue's workers, which may run elsewhere too.
            view: the Deployment.
            database: where the queue is.
            tick_seconds: how often this is called.

        Raises:
            MeshHookError: if the API server refuses or cannot be reached, or this operator is not
                the leader any more.
        """
        if not may_add and not any(each.cordon_seconds for each in reports):
            self._chosen = frozenset()
            return
        if self._clock() < self._try_at:
            return
        works = work_by_pod(reports)
        ours = await self._ours_of(works, view)
        pods = {name: work for name, work in works.items() if name in ours}
        chosen = choose_cordons(pods, active_replicas, may_add=may_add)
        seconds = cordon_seconds(tick_seconds)
        if not must_write(pods, chosen, seconds):
            return
        self._cluster.check_may_write(self._key.namespace)
        try:
            await database.cordon(queue_name, sorted(chosen), seconds)
        except DatabaseError as error:
            self._try_at = self._clock() + TRY_AGAIN_SECONDS
            _log.warning(
                "workers not cordoned: pods that run long jobs may not become idle",
                queue=queue_name,
                error=str(error),
                jobqueue=str(self._key),
            )
            return
        if chosen != self._chosen:
            _log.info(
                "workers cordoned",
                queue=queue_name,
                cordoned=sorted(chosen - self._chosen)[:20],
                uncordoned=sorted(self._chosen - chosen)[:20],
                all_cordoned=len(chosen),
                jobqueue=str(self._key),
            )
        self._chosen = chosen

    async def _ours_of(self, names: Collection[str], view: DeploymentView) -> frozenset[str]:
        """Return the pods of the Deployment, after listing them if there is a new name.

        Workers of the queue may run elsewhere too: for those, pods are listed once a minute.
        """
        now = self._clock()
        is_old = now - self._listed_at > LIST_AGAIN_SECONDS
        unknown = [name for name in names if name not in self._ours]
        if view.uid != self._listed_of or any(
            is_old or each not in self._others for each in unknown
        ):
            pods = await self._cluster.list_pods(view.key.namespace, view.selector)
            self._ours = frozenset(pod.key.name for pod in pods)
            self._others = frozenset(names) - self._ours
            self._listed_of, self._listed_at = view.uid, now
        return self._ours
