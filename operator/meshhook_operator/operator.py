"""The operator: takes what the watches report, and hands it to a term while this process leads."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.health import Check, check_loops
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import WatchedLoop
from meshhook_operator.databases.hosts import DatabaseHosts
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
from meshhook_operator.reconciliation.schedule_orphans import ScheduleOrphans
from meshhook_operator.term import Term

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.leadership.leadership import Leadership

_log = get_logger("meshhook_operator.operator")

RESYNC_SECONDS = 120.0
"""How often everything that is watched is listed."""
SCHEDULES_SECONDS = 10.0
"""How often JobSchedules are looked for that refer to no JobQueue."""


class Operator:
    """Reconciles the JobQueues that the watches report. `run` works until cancelled."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        registry: CollectorRegistry,
        namespaces: Sequence[str],
        leadership: Leadership | None = None,
        metrics: OperatorMetrics | None = None,
        clock: Callable[[], float] | None = None,
        hosts: DatabaseHosts | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            cluster: the Kubernetes API.
            registry: where the metrics of the queues go.
            namespaces: where its JobQueues are; `*` means everywhere.
            leadership: which of them it works on. Default: all, always.
            metrics: its own. Default: new ones in the registry.
            clock: seconds since 1970. Default: `steady_clock()`.
            hosts: where its databases may be. Default: everywhere.
        """
        self._cluster = cluster
        self._registry = registry
        self._namespaces = namespaces
        self._leadership = leadership
        self._hosts = hosts or DatabaseHosts()
        self._clock = clock or steady_clock()
        self._metrics = metrics or OperatorMetrics(registry)
        self.jobschedules = JobScheduleTable(
            on_change=self._on_schedules_changed, has_jobqueue=lambda key: key in self._jobqueues
        )
        """All JobSchedules that the watches report."""
        self._jobqueues: dict[ObjectKey, JobQueue] = {}
        """All that the watches report, whoever works on them."""
        self._hpas: Mapping[ObjectKey, Iterable[str]] = {}
        self._deleted_hpas: frozenset[tuple[ObjectKey, str]] = frozenset()
        self._term: Term | None = None
        self._leadership_changed = asyncio.Event()
        self._loop = WatchedLoop("operator")
        self._is_watching = asyncio.Event()

    # --- Health ----------------------------------------------------------------------------------

    def liveness(self) -> list[Check]:
        """Return whether the loop still turns, whatever the databases and the API server do."""
        return check_loops([self._loop])

    def readiness(self) -> list[Check]:
        """Return whether the watches have started; a process that stands by is ready too."""
        return [Check("watches", None if self._is_watching.is_set() else "have not started")]

    # --- What the watches report -----------------------------------------------------------------

    def on_watches_started(self) -> None:
        """Note that the watches have started: this process may lead."""
        self._is_watching.set()

    def on_jobqueue_changed(self, jobqueue: JobQueue) -> None:
        """Take a new JobQueue, or a newer version of one."""
        is_new = jobqueue.key not in self._jobqueues
        self._jobqueues[jobqueue.key] = jobqueue
        if is_new:
            self._want_namespaces()
        if self._term is not None and self._serves(jobqueue.key):
            self._term.on_jobqueue_changed(jobqueue)

    def on_jobqueue_deleted(self, key: ObjectKey, uid: str) -> None:
        """Forget a JobQueue that is gone; Kubernetes deletes what it owns.

        Args:
            key: its name.
            uid: its uid; another one that has the name by now stays.
        """
        known = self._jobqueues.get(key)
        if known is not None and known.uid != uid:
            return
        if self._jobqueues.pop(key, None) is not None:
            self._want_namespaces()
        if self._term is not None:
            self._term.on_jobqueue_deleted(key)

    def _on_schedules_changed(self, key: ObjectKey) -> None:
        self._want_namespaces()
        if self._term is not None:
            self._term.on_schedules_changed(key)

    def on_deployment_changed(self, key: ObjectKey, view: DeploymentView | None) -> None:
        """Take a newer version of any Deployment; None means that it was deleted."""
        if self._term is not None:
            self._term.on_deployment_changed(key, view)

    def use_hpas(self, hpas: Mapping[ObjectKey, Iterable[str]]) -> None:
        """Take the live index of HorizontalPodAutoscalers, by the Deployment that they scale."""
        self._hpas = hpas
        if self._term is not None:
            self._term.jobqueues.use_hpas(hpas)

    # --- Leadership ------------------------------------------------------------------------------

    @property
    def _is_leading(self) -> bool:
        return self._leadership is None or self._leadership.is_leading

    def _serves(self, key: ObjectKey) -> bool:
        return self._leadership is None or self._leadership.serves(key.namespace)

    def _want_namespaces(self) -> None:
        if self._leadership is not None:
            of_schedules = {each.key.namespace for each in self.jobschedules}
            self._leadership.want({key.namespace for key in self._jobqueues} | of_schedules)

    def _on_leadership_changed(self) -> None:
        self._leadership_changed.set()
        term = self._term
        if term is None or not self._is_leading:
            return
        for key, jobqueue in self._jobqueues.items():
            if not self._serves(key):
                term.on_jobqueue_gone(key)
            elif term.jobqueues.get(key) is None:
                term.on_jobqueue_changed(jobqueue)

    async def _run_leadership(self) -> None:
        if self._leadership is not None:
            await self._is_watching.wait()
            await self._leadership.run(self._on_leadership_changed)

    async def _resign(self) -> None:
        if self._leadership is not None:
            await self._leadership.resign()

    # --- The loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work whenever this process leads, until cancelled; then let another one lead."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resync(), name="resync")
                tasks.create_task(self._look_after_schedules(), name="schedules")
                tasks.create_task(self._run_leadership(), name="leadership")
                while True:
                    if self._is_leading:
                        await self._serve_a_term()
                    await self._loop.wait_for(self._until_leading())
        finally:
            await self._resign()

    async def _until_leading(self) -> None:
        while not self._is_leading:
            self._leadership_changed.clear()
            await self._leadership_changed.wait()

    async def _until_the_term_ends(self) -> None:
        leadership = self._leadership
        began = leadership and leadership.term
        while self._is_leading and (leadership and leadership.term) == began:
            self._leadership_changed.clear()
            await self._leadership_changed.wait()

    async def _serve_a_term(self) -> None:
        """Reconcile the JobQueues while this process leads."""
        term = Term(
            cluster=self._cluster,
            registry=self._registry,
            metrics=self._metrics,
            hosts=self._hosts,
            clock=self._clock,
            loop=self._loop,
            jobschedules=self.jobschedules,
        )
        term.jobqueues.use_hpas(self._hpas)
        term.jobqueues.set_deleted_hpas(self._deleted_hpas)
        for key, jobqueue in self._jobqueues.items():
            if self._serves(key):
                term.on_jobqueue_changed(jobqueue)
        self._term = term
        parts = [
            asyncio.create_task(term.run(), name="term"),
            asyncio.create_task(self._until_the_term_ends(), name="end of the term"),
        ]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _end(parts)
            # A successor need not wait until the databases are closed.
            await self._resign()
            raise
        finally:
            self._term = None
            await _end(parts)
            await term.close()
        for part in parts:
            if not part.cancelled():
                part.result()

    # --- Resync ----------------------------------------------------------------------------------

    async def _resync(self) -> None:
        """List what is watched every two minutes.

        A watch that was interrupted does not report what was deleted meanwhile.
        """
        while True:
            await asyncio.sleep(RESYNC_SECONDS)
            try:
                await self._resync_once()
            except MeshHookError as error:
                _log.warning("resync failed", error=str(error))
            except Exception:  # noqa: BLE001 - a malformed answer must not end the operator
                _log.exception("resync failed")

    async def _look_after_schedules(self) -> None:
        """List the JobSchedules, and tell those without a JobQueue, every ten seconds at first."""
        await self._is_watching.wait()
        orphans = ScheduleOrphans(cluster=self._cluster, table=self.jobschedules, clock=self._clock)
        while True:
            try:
                if not self.jobschedules.is_listed:
                    await self._list_jobschedules()
                if self._is_leading:
                    await orphans.tell(self._jobqueues, self._serves)
            except MeshHookError as error:
                _log.warning("schedules not looked at", error=str(error))
            except Exception:  # noqa: BLE001 - a malformed answer must not end the operator
                _log.exception("schedules not looked at")
            await asyncio.sleep(SCHEDULES_SECONDS)

    async def _list_jobschedules(self) -> None:
        known = self.jobschedules.uids()
        found = []
        for namespace in self._namespaces:
            listed = await self._cluster.list_jobschedules(namespace)
            if listed is None:
                return
            found += listed
        self.jobschedules.list_all(found, known)

    async def _resync_once(self) -> None:
        hpas = {(target, name) for target, names in self._hpas.items() for name in names}
        known = {key: jobqueue.uid for key, jobqueue in self._jobqueues.items()}
        found = [
            jobqueue
            for namespace in self._namespaces
            for jobqueue in await self._cluster.list_jobqueues(namespace)
        ]
        for namespace in self._namespaces:
            hpas.difference_update(await self._cluster.list_hpas(namespace))
        self._deleted_hpas = frozenset(hpas)
        if self._term is not None:
            self._term.jobqueues.set_deleted_hpas(self._deleted_hpas)
        for jobqueue in found:
            was, now = known.pop(jobqueue.key, None), self._jobqueues.get(jobqueue.key)
            # What the watch has reported since the listing began is newer.
            if was != jobqueue.uid and was == (now and now.uid):
                self.on_jobqueue_changed(jobqueue)
        for key, uid in known.items():
            self.on_jobqueue_deleted(key, uid)
        await self._list_jobschedules()


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def steady_clock() -> Callable[[], float]:
    """Return a clock that tells seconds since 1970 and is never set back.

    Otherwise a large correction of the node's clock would stall every queue for that long.
    """
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()
