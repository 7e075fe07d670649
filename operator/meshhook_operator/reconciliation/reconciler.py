"""Reconciling one JobQueue: its queue, the number of its workers, its Deployment and its status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import NOT_PAUSED, Finding
from meshhook_operator.databases.demand import DemandRequest, QueueDemand
from meshhook_operator.pauses import doubled_seconds
from meshhook_operator.problems import not_ready, problem_of
from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
from meshhook_operator.reconciliation.queue_deletion import QueueDeletion
from meshhook_operator.reconciliation.queue_in_database import QueueInDatabase
from meshhook_operator.reconciliation.queue_schedules import QueueSchedules
from meshhook_operator.reconciliation.queue_workers import QueueWorkers
from meshhook_operator.reconciliation.readiness import (
    obstacle_to_schedules,
    pause_of,
    readiness_of,
)
from meshhook_operator.reconciliation.reporter import Reporter
from meshhook_operator.reconciliation.scaling_rows import ScalingRows
from meshhook_operator.reconciliation.schedule_reporter import ScheduleReporter
from meshhook_operator.scaling import Failure
from meshhook_operator.secrets import operator_reference_of, workers_reference_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.metrics import OperatorMetrics
    from meshhook_operator.reconciliation.conflicts import Conflict
    from meshhook_operator.reconciliation.sources import Found, Source

_log = get_logger("meshhook_operator.reconciler")

AT_ONCE = float("-inf")
INVALID_SPEC_SECONDS = 60.0
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 2.0, 60.0


class JobQueueReconciler:
    """Reconciles one JobQueue. What the API server or the database refuse becomes a condition."""

    def __init__(
        self,
        jobqueue: JobQueue,
        *,
        cluster: Cluster,
        metrics: OperatorMetrics,
        find_conflict: Callable[[JobQueueReconciler], Conflict | None],
        clock: Callable[[], float],
        jobschedules: JobScheduleTable | None = None,
    ) -> None:
        self.jobqueue = jobqueue
        self.operator_reference = operator_reference_of(jobqueue)
        """Which Secret has the operator's database URL; None if the spec is not valid."""
        self.workers_reference = workers_reference_of(jobqueue)
        """Which Secret has the workers' URL, often the same; None if the spec is not valid."""
        self.due_at = AT_ONCE
        """When it is reconciled next, on the operator's clock."""
        self._all_metrics = metrics
        self._metrics = metrics.of_jobqueue(self.queue_name, str(jobqueue.key))
        self._find_conflict = find_conflict
        self._clock = clock
        self._reporter = Reporter(jobqueue, cluster=cluster, clock=clock)
        self._workers = QueueWorkers(
            jobqueue, cluster=cluster, reporter=self._reporter, clock=clock
        )
        self._queue = QueueInDatabase(
            jobqueue.key,
            reporter=self._reporter,
            clock=clock,
            check_may_write=cluster.check_may_write,
        )
        self._deletion = QueueDeletion(cluster=cluster, queue=self._queue)
        table = jobschedules or JobScheduleTable(on_change=lambda _: None)
        self._schedules = QueueSchedules(
            jobqueue.key,
            table=table,
            reporter=ScheduleReporter(cluster=cluster, table=table, clock=clock),
            check_may_write=cluster.check_may_write,
        )
        self._scaling_rows = ScalingRows(clock=clock, check_may_write=cluster.check_may_write)
        self._failures = 0
        self._was_read = False

    @property
    def queue_name(self) -> str:
        """The queue; the JobQueue's own name while its spec is not valid."""
        return self.jobqueue.spec.queue_name if self.jobqueue.spec else self.jobqueue.key.name

    @property
    def tick_seconds(self) -> float:
        """How often it is reconciled, in seconds."""
        spec = self.jobqueue.spec
        return self._workers.autoscaler.tick_seconds(spec) if spec else INVALID_SPEC_SECONDS

    @property
    def wants_wake_up(self) -> bool:
        """Whether a message should wake the queue: no worker claims, and some may."""
        spec = self.jobqueue.spec
        if spec is None or spec.paused or spec.scaling.min_replicas > 0:
            return False
        # After a failure no message could start a worker; the ticks go on.
        return not self._failures and self._workers.wants_wake_up(spec)

    @property
    def has_scaling_row(self) -> bool:
        """Whether the database has a row that says how it scales its queue."""
        return self._scaling_rows.has_written

    @property
    def demand_request(self) -> DemandRequest:
        """What the next tick should read of the queue; only for a valid spec."""
        spec = self.jobqueue.spec
        assert spec is not None, "asked of a JobQueue whose spec is not valid"  # noqa: S101
        return DemandRequest(
            self.queue_name,
            self._workers.autoscaler.lookahead_seconds(spec),
            is_waiting=self.wants_wake_up,
        )

    # --- What the watches tell it ----------------------------------------------------------------

    def on_jobqueue_changed(self, jobqueue: JobQueue) -> None:
        """Take a newer version of the JobQueue."""
        old, old_name = self.jobqueue, self.queue_name
        self.jobqueue = jobqueue
        self.operator_reference = operator_reference_of(jobqueue)
        self.workers_reference = workers_reference_of(jobqueue)
        self._workers.on_jobqueue_changed(jobqueue)
        if self.queue_name != old_name:
            self._metrics.remove()
            self._metrics = self._all_metrics.of_jobqueue(self.queue_name, str(jobqueue.key))
        if (old.generation, old.is_deleting) != (jobqueue.generation, jobqueue.is_deleting):
            self._failures = 0
            self.requeue()

    def on_deployment_changed(self, view: DeploymentView | None) -> None:
        """Take a newer version of the Deployment; None means that it was deleted."""
        if self._workers.fleet.on_deployment_changed(view):
            self.requeue()

    def on_schedules_changed(self) -> None:
        """Look at its JobSchedules: one of them is new, has changed or is gone."""
        self._schedules.requeue()
        self.requeue()

    def on_deleted(self) -> None:
        """Remove its metrics: the JobQueue is gone."""
        self._metrics.remove()
        self._scaling_rows.end()

    # --- When it is due --------------------------------------------------------------------------

    def requeue(self) -> None:
        """Reconcile it as soon as possible, not only with the next tick."""
        self.due_at = AT_ONCE

    def schedule_next(self) -> None:
        """Make it due at the next tick; a change from now on makes it due earlier.

        Ticks are at multiples of the interval, so that one statement reads many queues.
        """
        self.due_at = (self._clock() // self.tick_seconds + 1) * self.tick_seconds

    def _requeue_after_failure(self) -> None:
        self._failures += 1
        pause_seconds = doubled_seconds(
            self._failures - 1,
            first_seconds=FIRST_BACKOFF_SECONDS,
            longest_seconds=MAX_BACKOFF_SECONDS,
        )
        self.due_at = max(self.due_at, self._clock() + pause_seconds)

    # --- Reconciliation --------------------------------------------------------------------------

    async def reconcile(self, found: Found, source: Source) -> bool:
        """Make everything as the spec says, report it, and return whether all is well.

        Args:
            found: what the tick has read of the queue.
            source: the database that it was read from.
        """
        if self.due_at != AT_ONCE:  # a message may have woken it since
            self.schedule_next()
        try:
            return await self._reconcile(found, source)
        except MeshHookError as error:
            self._requeue_after_failure()
            _log.warning("not reconciled", error=str(error), jobqueue=str(self.jobqueue.key))
        except Exception:  # noqa: BLE001 - a bug here must not end the ticks of other queues
            self._requeue_after_failure()
            _log.exception("not reconciled", jobqueue=str(self.jobqueue.key))
        return False

    async def _reconcile(self, found: Found, source: Source) -> bool:
        jobqueue = self.jobqueue  # which may be another one before this ends
        spec = jobqueue.spec
        if jobqueue.is_deleting:
            await self._schedules.hold("it is being deleted")
            conflict = self._find_conflict(self)
            await self._deletion.finalize(
                jobqueue,
                found,
                source.database,
                is_theirs=conflict is not None and conflict.is_about_queue,
                report=lambda ready: self._update_status(jobqueue, ready, NOT_PAUSED, found),
            )
            return True
        if spec is None:
            invalid = Finding(holds=False, reason="InvalidSpec", message=jobqueue.problem)
            await self._update_status(jobqueue, invalid, NOT_PAUSED, found)
            await self._schedules.hold(invalid.message)
            return False
        paused = pause_of(spec, found)
        ready: Finding | None
        try:
            ready = await self._reconcile_spec(spec, found, source, paused)
        except MeshHookError as error:
            self._requeue_after_failure()
            ready = not_ready(problem_of(error))
        else:
            self._failures = 0
        if ready is not None and not self._is_first_failure(found):
            # After the scaling, which must not wait for somebody who holds a schedule.
            await self._ensure_schedules(spec, found, source)
            await self._update_status(jobqueue, ready, paused, found)
            if source.database is not None and isinstance(found, QueueDemand):
                await self._scaling_rows.ensure(
                    jobqueue, spec, self._reporter.status, source.database
                )
        return ready is None or ready.holds

    async def _reconcile_spec(
        self, spec: JobQueueSpec, found: Found, source: Source, paused: Finding
    ) -> Finding | None:
        """Do everything but report; return what Ready says, None if it is too early to say."""
        await self._workers.fleet.look_up()
        conflict = self._find_conflict(self) or self._workers.conflict()
        may_change_queue = not spec.paused and not (conflict and conflict.is_about_queue)
        if may_change_queue:
            await self._deletion.ensure_finalizer(self.jobqueue)
            if (
                source.database is not None
                and not isinstance(found, Failure)
                and await self._queue.ensure(spec, found, source.database)
            ):
                self.requeue()  # it exists now, and can be read
                return None
        if conflict is None:
            await self._workers.look_at_pods(self._metrics)
        self._workers.decide(
            self.jobqueue, found, source, paused=paused, conflict=conflict, metrics=self._metrics
        )
        if conflict is not None:
            return Finding(holds=False, reason="Conflict", message=conflict.message)
        if not spec.paused:
            await self._workers.ensure_cordons(
                spec, found, source.database, tick_seconds=self.tick_seconds
            )
            await self._workers.ensure_deployment(spec, found, source, self._metrics)
        return readiness_of(
            spec,
            found,
            has_deployment=self._workers.fleet.view is not None,
            declared=None if spec.paused else self._queue.finding,
            pod_health=self._workers.pod_health,
            contested_by=self._workers.fleet.contested_by,
        )

    async def _ensure_schedules(self, spec: JobQueueSpec, found: Found, source: Source) -> None:
        obstacle = obstacle_to_schedules(spec, found, self._find_conflict(self))
        if obstacle is None and source.database is not None:
            await self._schedules.ensure(self.queue_name, source.database)
        else:
            await self._schedules.hold(obstacle or "its database is not known")

    # --- Status ----------------------------------------------------------------------------------

    async def _update_status(
        self, jobqueue: JobQueue, ready: Finding, paused: Finding, found: Found
    ) -> None:
        view, spec = self._workers.fleet.view, jobqueue.spec
        self._metrics.set(
            ready=ready.holds,
            paused=paused.holds,
            replicas=view.replicas if view else 0,
            ready_replicas=view.ready_replicas if view else 0,
        )
        if spec is not None:
            self._metrics.set(
                min_replicas=spec.scaling.min_replicas, max_replicas=spec.scaling.max_replicas
            )
        await self._reporter.report(
            generation=jobqueue.generation,
            spec=spec,
            ready=ready,
            paused=paused,
            view=view,
            situation=self._workers.situation(spec, found) if spec else None,
            queue=found.status if isinstance(found, QueueDemand) else None,
            last_scale_time=self._workers.last_scale_time,
        )

    def _is_first_failure(self, found: Found) -> bool:
        """Whether the database has just become unreadable; a single failed read is not reported.

        Hundreds of queues may share a database, and each would be written to twice.
        """
        was_read, self._was_read = self._was_read, not isinstance(found, Failure)
        return was_read and not self._was_read
