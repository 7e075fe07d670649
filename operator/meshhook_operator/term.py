"""A term: the time from when this process begins to lead until it no longer does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.databases.registry import DatabaseRegistry
from meshhook_operator.reconciliation.jobqueues import JobQueueTable
from meshhook_operator.reconciliation.reconciler import JobQueueReconciler
from meshhook_operator.reconciliation.ticks import Ticks
from meshhook_operator.secrets import DatabaseSecrets, SecretReference, address_in

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from prometheus_client import CollectorRegistry

    from meshhook.observability.loops import WatchedLoop
    from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.databases.database import DatabaseAddress
    from meshhook_operator.databases.hosts import DatabaseHosts
    from meshhook_operator.metrics import OperatorMetrics
    from meshhook_operator.reconciliation.jobschedules import JobScheduleTable

_log = get_logger("meshhook_operator.term")

LONGEST_WAIT_SECONDS = 10.0
TURN_SECONDS = 0.05
"""Changes within this time are handled in one turn of the loop."""


class Term:
    """Reconciles the JobQueues that it is given, each when it is due.

    Nothing of it is kept for another term: what an operator has measured is in the status.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        registry: CollectorRegistry,
        metrics: OperatorMetrics,
        hosts: DatabaseHosts,
        clock: Callable[[], float],
        loop: WatchedLoop,
        jobschedules: JobScheduleTable,
    ) -> None:
        """Take what it works with.

        Args:
            cluster: the Kubernetes API.
            registry: where the metrics of the queues go.
            metrics: those of the operator.
            hosts: where its databases may be.
            clock: seconds since 1970.
            loop: what is told that its loop turns.
            jobschedules: all JobSchedules.
        """
        self._cluster = cluster
        self._metrics = metrics
        self._hosts = hosts
        self._clock = clock
        self._loop = loop
        self._jobschedules = jobschedules
        self._secrets: DatabaseSecrets | None = None
        self._changed_secrets: set[SecretReference] = set()
        self._gone: list[tuple[DatabaseAddress, str]] = []
        """The uids of JobQueues that were deleted, whose rows are still in a database."""
        self._databases = DatabaseRegistry(
            registry=registry,
            hosts=hosts,
            on_wake=self._on_message,
            on_identity=self._on_identity,
        )
        self.jobqueues = JobQueueTable(self._database_name)
        """The reconcilers of its JobQueues."""
        self._changed = asyncio.Event()
        self._ticks = Ticks(
            jobqueues=self.jobqueues,
            databases=self._databases,
            metrics=self._metrics,
            clock=self._clock,
            on_login_problem=self._on_login_problem,
            on_progress=self._changed.set,
        )

    # --- What the watches report -----------------------------------------------------------------

    def on_jobqueue_changed(self, jobqueue: JobQueue) -> None:
        """Take a new JobQueue, or a newer version of one."""
        reconciler = self.jobqueues.get(jobqueue.key)
        if reconciler is not None and reconciler.jobqueue.uid != jobqueue.uid:
            self.on_jobqueue_deleted(jobqueue.key)
            reconciler = None
        if reconciler is None:
            self.jobqueues.add(
                JobQueueReconciler(
                    jobqueue,
                    cluster=self._cluster,
                    metrics=self._metrics,
                    find_conflict=self.jobqueues.conflict_of,
                    clock=self._clock,
                    jobschedules=self._jobschedules,
                )
            )
        else:
            self.jobqueues.update(reconciler, jobqueue)
        self._changed.set()

    def on_jobqueue_deleted(self, key: ObjectKey) -> None:
        """Forget a JobQueue that was deleted, and have its row in the database deleted."""
        reconciler, address = self.jobqueues.get(key), self._ticks.address_of(key)
        if reconciler is not None and address is not None and reconciler.has_scaling_row:
            self._gone.append((address, reconciler.jobqueue.uid))
        self.on_jobqueue_gone(key)

    def on_jobqueue_gone(self, key: ObjectKey) -> None:
        """Forget a JobQueue that was deleted or is left to another operator, and its metrics."""
        self._ticks.forget(key)
        reconciler = self.jobqueues.remove(key)
        if reconciler is not None:
            reconciler.on_deleted()
            self._changed.set()

    def on_schedules_changed(self, key: ObjectKey) -> None:
        """Look at the JobSchedules of a JobQueue."""
        if (reconciler := self.jobqueues.get(key)) is not None:
            reconciler.on_schedules_changed()
            self._changed.set()

    def on_deployment_changed(self, key: ObjectKey, view: DeploymentView | None) -> None:
        """Take a newer version of any Deployment; None means that it was deleted."""
        for reconciler in self.jobqueues.of_deployment(key):
            reconciler.on_deployment_changed(view)
            self._changed.set()

    # --- What databases and Secrets report -------------------------------------------------------

    def _on_message(self, address: DatabaseAddress, queue_name: str) -> None:
        for reconciler in self.jobqueues.of_queue(address, queue_name):
            if reconciler.wants_wake_up:
                reconciler.requeue()
                self._changed.set()

    def _on_identity(self) -> None:
        self._databases.refresh_names()
        self.jobqueues.refresh_claims()

    def _on_login_problem(self, reference: SecretReference) -> None:
        if self._secrets is not None:
            self._secrets.expire(reference)

    def _on_secret_changed(self, reference: SecretReference) -> None:
        # Thousands may change at once: the JobQueues that they concern are looked for once a turn.
        self._changed_secrets.add(reference)
        self.jobqueues.is_stale = True
        self._changed.set()

    def _database_name(self, reconciler: JobQueueReconciler) -> Hashable | None:
        """Return what its database is known by, whichever URL leads there."""
        if self._secrets is None:
            return None
        # Each turn reads what is due; while the term ends, nothing may be begun any more.
        entry = self._secrets.look_up_both(
            reconciler.operator_reference, reconciler.workers_reference, reads=False
        )
        return self._databases.name_of(address_in(entry))

    # --- The loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Reconcile each JobQueue when it is due, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._secrets = DatabaseSecrets(
                self._cluster,
                tasks,
                on_change=self._on_secret_changed,
                clock=self._clock,
                hosts=self._hosts,
            )
            while True:
                self._changed.clear()
                self._loop.turn()
                self._start_ticks(tasks, self._secrets)
                await asyncio.sleep(TURN_SECONDS)
                await self._wait()

    async def close(self) -> None:
        """Forget all JobQueues, and close all databases; their metrics go too."""
        for each in list(self.jobqueues):
            self.on_jobqueue_gone(each.jobqueue.key)
        await self._databases.close()

    def _start_ticks(self, tasks: asyncio.TaskGroup, secrets: DatabaseSecrets) -> None:
        """Start a tick for each database with due queues, and drop what is no longer used."""
        self._requeue_for_changed_secrets()
        entries = {
            each.jobqueue.key: secrets.look_up_both(each.operator_reference, each.workers_reference)
            for each in self.jobqueues
        }
        addresses = {key: address_in(entry) for key, entry in entries.items()}
        if self.jobqueues.is_stale:
            self._databases.refresh_names()
            self.jobqueues.refresh(addresses)
        self._ticks.start_due(tasks, entries)
        gone, self._gone = self._gone, []
        for address, uid in gone:
            tasks.create_task(self._forget_scaling(address, uid), name="forget scaling")
        secrets.forget_all_but(
            {
                reference
                for each in self.jobqueues
                for reference in (each.operator_reference, each.workers_reference)
                if reference is not None
            }
        )
        in_use = {address for address in addresses.values() if address is not None}
        for database in self._databases.pop_unused(in_use):
            self.jobqueues.is_stale = True
            tasks.create_task(database.close(), name="close database")

    async def _forget_scaling(self, address: DatabaseAddress, uid: str) -> None:
        """Delete the row of a JobQueue; one that stays is shown as stale, and goes after a week."""
        try:
            with self._databases.using(address) as database:
                await database.forget_scaling(uid)
        except MeshHookError as error:
            _log.warning("scaling of a deleted JobQueue not deleted", uid=uid, error=str(error))
        except Exception:  # noqa: BLE001 - a bug here must not end the term
            _log.exception("scaling of a deleted JobQueue not deleted")

    def _requeue_for_changed_secrets(self) -> None:
        changed, self._changed_secrets = self._changed_secrets, set()
        if not changed:
            return
        for each in self.jobqueues:
            if each.operator_reference in changed or each.workers_reference in changed:
                each.requeue()

    async def _wait(self) -> None:
        """Wait until something changes or falls due."""
        now = self._clock()
        # What is due already could not start yet, and starts when what it waits for is done.
        later = [each.due_at for each in self.jobqueues if each.due_at > now]
        due_in = min(later, default=now + LONGEST_WAIT_SECONDS) - now
        try:
            async with asyncio.timeout(min(due_in, LONGEST_WAIT_SECONDS)):
                await self._changed.wait()
        except TimeoutError:
            pass
