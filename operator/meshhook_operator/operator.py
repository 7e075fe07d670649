"""The operator: takes what the watches report, and reconciles each JobQueue when it is due."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.health import Check, check_loops
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import WatchedLoop
from meshhook_operator.databases.hosts import DatabaseHosts
from meshhook_operator.databases.registry import DatabaseRegistry
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.reconciliation.jobqueues import JobQueueTable
from meshhook_operator.reconciliation.reconciler import JobQueueReconciler
from meshhook_operator.reconciliation.ticks import Ticks
from meshhook_operator.secrets import DatabaseSecrets, SecretReference, address_in

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.databases.database import DatabaseAddress

_log = get_logger("meshhook_operator.operator")

RESYNC_SECONDS = 120.0
"""How often everything that is watched is listed."""
LONGEST_WAIT_SECONDS = 10.0
TURN_SECONDS = 0.05
"""Changes within this time are handled in one turn of the loop."""


class Operator:
    """Reconciles every JobQueue that the watches report. `run` works until cancelled."""

    def __init__(
        self,
        *,
        cluster: Cluster,
        registry: CollectorRegistry,
        namespaces: Sequence[str],
        clock: Callable[[], float] | None = None,
        hosts: DatabaseHosts | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            cluster: the Kubernetes API.
            registry: where its metrics go, and those of the queues.
            namespaces: where its JobQueues are; `*` means everywhere.
            clock: seconds since 1970. Default: `steady_clock()`.
            hosts: where its databases may be. Default: everywhere.
        """
        self._cluster = cluster
        self._namespaces = namespaces
        self._hosts = hosts or DatabaseHosts()
        self._clock = clock or steady_clock()
        self._metrics = OperatorMetrics(registry)
        self._secrets: DatabaseSecrets | None = None
        self._changed_secrets: set[SecretReference] = set()
        self._databases = DatabaseRegistry(
            registry=registry,
            hosts=self._hosts,
            on_wake=self._on_message,
            on_identity=self._on_identity,
        )
        self._jobqueues = JobQueueTable(self._database_name)
        self._changed = asyncio.Event()
        self._ticks = Ticks(
            jobqueues=self._jobqueues,
            databases=self._databases,
            metrics=self._metrics,
            clock=self._clock,
            on_login_problem=self._on_login_problem,
            on_progress=self._changed.set,
        )
        self._loop = WatchedLoop("operator")
        self._is_watching = False

    # --- Health ----------------------------------------------------------------------------------

    def liveness(self) -> list[Check]:
        """Return whether the loop still turns, whatever the databases and the API server do."""
        return check_loops([self._loop])

    def readiness(self) -> list[Check]:
        """Return whether the watches have started."""
        return [Check("watches", None if self._is_watching else "have not started")]

    # --- What the watches report -----------------------------------------------------------------

    def on_watches_started(self) -> None:
        """Note that the watches have started."""
        self._is_watching = True

    def on_jobqueue_changed(self, jobqueue: JobQueue) -> None:
        """Take a new JobQueue, or a newer version of one."""
        reconciler = self._jobqueues.get(jobqueue.key)
        if reconciler is not None and reconciler.jobqueue.uid != jobqueue.uid:
            self.on_jobqueue_deleted(jobqueue.key)
            reconciler = None
        if reconciler is None:
            self._jobqueues.add(
                JobQueueReconciler(
                    jobqueue,
                    cluster=self._cluster,
                    metrics=self._metrics,
                    find_conflict=self._jobqueues.conflict_of,
                    clock=self._clock,
                )
            )
        else:
            self._jobqueues.update(reconciler, jobqueue)
        self._changed.set()

    def on_jobqueue_deleted(self, key: ObjectKey) -> None:
        """Forget a JobQueue that is gone; Kubernetes deletes what it owns."""
        self._ticks.forget(key)
        reconciler = self._jobqueues.remove(key)
        if reconciler is not None:
            reconciler.on_deleted()
            self._changed.set()

    def on_deployment_changed(self, key: ObjectKey, view: DeploymentView | None) -> None:
        """Take a newer version of any Deployment; None means that it was deleted."""
        for reconciler in self._jobqueues.of_deployment(key):
            reconciler.on_deployment_changed(view)
            self._changed.set()

    def use_hpas(self, hpas: Mapping[ObjectKey, Iterable[str]]) -> None:
        """Take the live index of HorizontalPodAutoscalers, by the Deployment that they scale."""
        self._jobqueues.use_hpas(hpas)

    # --- What databases and Secrets report -------------------------------------------------------

    def _on_message(self, address: DatabaseAddress, queue_name: str) -> None:
        for reconciler in self._jobqueues.of_queue(address, queue_name):
            if reconciler.wants_wake_up:
                reconciler.requeue()
                self._changed.set()

    def _on_identity(self) -> None:
        self._databases.refresh_names()
        self._jobqueues.refresh_claims()

    def _on_login_problem(self, reference: SecretReference) -> None:
        if self._secrets is not None:
            self._secrets.expire(reference)

    def _on_secret_changed(self, reference: SecretReference) -> None:
        # Thousands may change at once: the JobQueues that they concern are looked for once a turn.
        self._changed_secrets.add(reference)
        self._jobqueues.is_stale = True
        self._changed.set()

    def _database_name(self, reconciler: JobQueueReconciler) -> Hashable | None:
        """Return what its database is known by, whichever URL leads there."""
        if self._secrets is None:
            return None
        entry = self._secrets.look_up_both(
            reconciler.operator_reference, reconciler.workers_reference
        )
        return self._databases.name_of(address_in(entry))

    # --- The loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile each JobQueue when it is due, until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._secrets = DatabaseSecrets(
                    self._cluster,
                    tasks,
                    on_change=self._on_secret_changed,
                    clock=self._clock,
                    hosts=self._hosts,
                )
                tasks.create_task(self._resync(), name="resync")
                while True:
                    self._changed.clear()
                    self._loop.turn()
                    self._start_ticks(tasks, self._secrets)
                    await asyncio.sleep(TURN_SECONDS)
                    await self._wait()
        finally:
            await self._databases.close()

    def _start_ticks(self, tasks: asyncio.TaskGroup, secrets: DatabaseSecrets) -> None:
        """Start a tick for each database with due queues, and drop what is no longer used."""
        self._requeue_for_changed_secrets()
        entries = {
            each.jobqueue.key: secrets.look_up_both(each.operator_reference, each.workers_reference)
            for each in self._jobqueues
        }
        addresses = {key: address_in(entry) for key, entry in entries.items()}
        if self._jobqueues.is_stale:
            self._databases.refresh_names()
            self._jobqueues.refresh(addresses)
        self._ticks.start_due(tasks, entries)
        secrets.forget_all_but(
            {
                reference
                for each in self._jobqueues
                for reference in (each.operator_reference, each.workers_reference)
                if reference is not None
            }
        )
        in_use = {address for address in addresses.values() if address is not None}
        for database in self._databases.pop_unused(in_use):
            self._jobqueues.is_stale = True
            tasks.create_task(database.close(), name="close database")

    def _requeue_for_changed_secrets(self) -> None:
        changed, self._changed_secrets = self._changed_secrets, set()
        if not changed:
            return
        for each in self._jobqueues:
            if each.operator_reference in changed or each.workers_reference in changed:
                each.requeue()

    async def _wait(self) -> None:
        """Wait until something changes or falls due."""
        now = self._clock()
        # What is due already could not start yet, and starts when what it waits for is done.
        later = [each.due_at for each in self._jobqueues if each.due_at > now]
        due_in = min(later, default=now + LONGEST_WAIT_SECONDS) - now
        try:
            async with asyncio.timeout(min(due_in, LONGEST_WAIT_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            pass

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

    async def _resync_once(self) -> None:
        hpas = self._jobqueues.hpas
        known = {each.jobqueue.key: each.jobqueue.uid for each in self._jobqueues}
        found = [
            jobqueue
            for namespace in self._namespaces
            for jobqueue in await self._cluster.list_jobqueues(namespace)
        ]
        for namespace in self._namespaces:
            hpas.difference_update(await self._cluster.list_hpas(namespace))
        self._jobqueues.set_deleted_hpas(frozenset(hpas))
        for jobqueue in found:
            if known.pop(jobqueue.key, None) != jobqueue.uid:
                self.on_jobqueue_changed(jobqueue)
        for key, uid in known.items():
            reconciler = self._jobqueues.get(key)
            if reconciler is not None and reconciler.jobqueue.uid == uid:
                self.on_jobqueue_deleted(key)


def steady_clock() -> Callable[[], float]:
    """Return a clock that tells seconds since 1970 and is never set back.

    Otherwise a large correction of the node's clock would stall every queue for that long.
    """
    offset = time.time() - time.monotonic()
    return lambda: offset + time.monotonic()
