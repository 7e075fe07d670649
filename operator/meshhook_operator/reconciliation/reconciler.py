"""Reconciling one JobQueue: its queue, the number of its workers, its Deployment and its status."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import (
    NOT_PAUSED,
    OPERATING,
    QUEUE_PAUSED,
    SPEC_PAUSED,
    Finding,
    timestamp,
)
from meshhook_operator.api.sentences import Situation, scaling_sentence
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, QueueProblem
from meshhook_operator.pauses import doubled_seconds
from meshhook_operator.problems import not_ready, problem_of
from meshhook_operator.reconciliation.autoscaler import Autoscaler
from meshhook_operator.reconciliation.conflicts import Conflict
from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
from meshhook_operator.reconciliation.queue_in_database import QueueInDatabase
from meshhook_operator.reconciliation.queue_schedules import QueueSchedules
from meshhook_operator.reconciliation.reporter import Reporter
from meshhook_operator.reconciliation.scaling_rows import ScalingRows
from meshhook_operator.reconciliation.schedule_reporter import ScheduleReporter
from meshhook_operator.reconciliation.worker_cordons import WorkerCordons
from meshhook_operator.scaling import Failure
from meshhook_operator.secrets import operator_reference_of, workers_reference_of
from meshhook_operator.workers.fleet import WorkerFleet
from meshhook_operator.workers.pod_work import work_by_pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.metrics import OperatorMetrics
    from meshhook_operator.scaling import Decision
    from meshhook_operator.url_checksums import UrlChecksum
    from meshhook_operator.workers.pod_health import PodHealth

_log = get_logger("meshhook_operator.reconciler")

FINALIZER = "meshhook.io/queue"
AT_ONCE = float("-inf")
INVALID_SPEC_SECONDS = 60.0
FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 2.0, 60.0

Found: TypeAlias = QueueDemand | QueueProblem | Failure
"""What a tick found of a queue; a Failure if the database could not be read at all."""


class Source(NamedTuple):
    """The way to the queue."""

    database: QueueDatabase | None
    """None if it cannot be reached at all, as without a Secret."""
    checksum: UrlChecksum | None
    """Of the workers' database URL; None if that is not known."""


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
        self._cluster = cluster
        self._all_metrics = metrics
        self._metrics = metrics.of_jobqueue(self.queue_name, str(jobqueue.key))
        self._find_conflict = find_conflict
        self._clock = clock
        self._fleet = WorkerFleet(jobqueue, cluster=cluster, clock=clock)
        self._reporter = Reporter(jobqueue, cluster=cluster, clock=clock)
        self._queue = QueueInDatabase(
            jobqueue.key,
            reporter=self._reporter,
            clock=clock,
            check_may_write=cluster.check_may_write,
        )
        table = jobschedules or JobScheduleTable(on_change=lambda _: None)
        self._schedules = QueueSchedules(
            jobqueue.key,
            table=table,
            reporter=ScheduleReporter(cluster=cluster, table=table, clock=clock),
            check_may_write=cluster.check_may_write,
        )
        self._cordons = WorkerCordons(jobqueue.key, cluster=cluster, clock=clock)
        self._autoscaler = Autoscaler(clock=clock)
        self._scaling_rows = ScalingRows(clock=clock, check_may_write=cluster.check_may_write)
        self._last_scale_time = jobqueue.status.last_scale_time
        self._failures = 0
        self._was_read = False
        self._pod_health: PodHealth | None = None

    @property
    def queue_name(self) -> str:
        """The queue; the JobQueue's own name while its spec is not valid."""
        return self.jobqueue.spec.queue_name if self.jobqueue.spec else self.jobqueue.key.name

    @property
    def tick_seconds(self) -> float:
        """How often it is reconciled, in seconds."""
        spec = self.jobqueue.spec
        return self._autoscaler.tick_seconds(spec) if spec else INVALID_SPEC_SECONDS

    @property
    def wants_wake_up(self) -> bool:
        """Whether a message should wake the queue: no worker claims, and some may."""
        spec, view = self.jobqueue.spec, self._fleet.view
        if spec is None or spec.paused or spec.scaling.min_replicas > 0:
            return False
        if self._failures or self._autoscaler.is_held:
            return False  # no message could start a worker; the ticks go on
        if view is None and spec.deployment_ref is not None:
            return False
        if view is None or view.replicas == 0:
            return self._fleet.is_known
        decision = self._autoscaler.decision
        return decision is not None and decision.active_replicas == 0

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
            self._autoscaler.lookahead_seconds(spec),
            is_waiting=self.wants_wake_up,
        )

    # --- What the watches tell it ----------------------------------------------------------------

    def on_jobqueue_changed(self, jobqueue: JobQueue) -> None:
        """Take a newer version of the JobQueue."""
        old, old_name = self.jobqueue, self.queue_name
        self.jobqueue = jobqueue
        self.operator_reference = operator_reference_of(jobqueue)
        self.workers_reference = workers_reference_of(jobqueue)
        if self._fleet.on_jobqueue_changed(jobqueue):
            self._autoscaler.forget()
        if self.queue_name != old_name:
            self._metrics.remove()
            self._metrics = self._all_metrics.of_jobqueue(self.queue_name, str(jobqueue.key))
        if (old.generation, old.is_deleting) != (jobqueue.generation, jobqueue.is_deleting):
            self._failures = 0
            self.requeue()

    def on_deployment_changed(self, view: DeploymentView | None) -> None:
        """Take a newer version of the Deployment; None means that it was deleted."""
        if self._fleet.on_deployment_changed(view):
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
            _log.warning("not reconciled", error=str(error), **self._log_fields())
        except Exception:  # noqa: BLE001 - a bug here must not end the ticks of other queues
            self._requeue_after_failure()
            _log.exception("not reconciled", **self._log_fields())
        return False

    async def _reconcile(self, found: Found, source: Source) -> bool:
        spec = self.jobqueue.spec
        if self.jobqueue.is_deleting:
            await self._finalize(found, source)
            return True
        if spec is None:
            invalid = Finding(holds=False, reason="InvalidSpec", message=self.jobqueue.problem)
            await self._update_status(invalid, NOT_PAUSED, found)
            await self._schedules.hold(invalid.message)
            return False
        paused = _pause(spec, found)
        ready: Finding | None
        try:
            ready = await self._reconcile_spec(spec, found, source, paused)
        except MeshHookError as error:
            self._requeue_after_failure()
            ready = not_ready(problem_of(error))
        else:
            self._failures = 0
        if ready is not None and not self._is_first_failure(found):
            await self._update_status(ready, paused, found)
            if source.database is not None and isinstance(found, QueueDemand):
                await self._scaling_rows.ensure(
                    self.jobqueue, spec, self._reporter.status, source.database
                )
        return ready is None or ready.holds

    async def _reconcile_spec(
        self, spec: JobQueueSpec, found: Found, source: Source, paused: Finding
    ) -> Finding | None:
        """Do everything but report; return what Ready says, None if it is too early to say."""
        await self._fleet.look_up()
        conflict = self._conflict()
        may_change_queue = not spec.paused and not (conflict and conflict.is_about_queue)
        if may_change_queue:
            await self._ensure_finalizer(spec)
            if await self._ensure_queue(spec, found, source.database):
                self.requeue()  # it exists now, and can be read
                return None
        await self._ensure_schedules(spec, found, source, conflict)
        if conflict is None:
            await self._look_at_pods()
        self._decide(found, source, paused, conflict)
        if conflict is not None:
            return Finding(holds=False, reason="Conflict", message=conflict.message)
        if not spec.paused:
            await self._ensure_cordons(spec, found, source)
            await self._ensure_deployment(spec, found, source)
        return self._ready(spec, found)

    async def _ensure_schedules(
        self, spec: JobQueueSpec, found: Found, source: Source, conflict: Conflict | None
    ) -> None:
        if conflict is not None and conflict.is_about_queue:
            await self._schedules.hold(conflict.message)
        elif spec.paused:
            await self._schedules.hold("its spec.paused is true")
        elif source.database is None or not isinstance(found, QueueDemand):
            failure = None if isinstance(found, QueueDemand) else _failure(found)
            await self._schedules.hold(failure.message if failure else "its database is not known")
        else:
            await self._schedules.ensure(self.queue_name, source.database)

    async def _ensure_queue(
        self, spec: JobQueueSpec, found: Found, database: QueueDatabase | None
    ) -> bool:
        if database is None or isinstance(found, Failure):
            return False
        return await self._queue.ensure(spec, found, database)

    def _conflict(self) -> Conflict | None:
        found = self._find_conflict(self)
        if found is None and self._fleet.is_foreign and self._fleet.view is not None:
            name = self._fleet.view.key.name
            message = (
                f"Deployment {name!r} exists and does not belong to this JobQueue: rename the "
                "JobQueue, delete the Deployment, or name it under spec.deploymentRef"
            )
            return Conflict(message, is_about_queue=False)
        return found

    async def _look_at_pods(self) -> None:
        lead_seconds = self._autoscaler.lead_seconds
        self._pod_health = health = await self._fleet.look_at_pods(lead_seconds=lead_seconds)
        failing = health.failing if health else {}
        self._metrics.pods_failed({problem.value: count for problem, count in failing.items()})

    def _decide(
        self, found: Found, source: Source, paused: Finding, conflict: Conflict | None
    ) -> None:
        if source.database is not None:
            self._autoscaler.on_database(source.database.generation)
        if isinstance(found, QueueDemand):
            self._metrics.succeeded()
            self._metrics.kept_back(
                by_holds=found.status.kept_back_by_holds,
                by_key_limits=found.status.kept_back_by_key_limits,
                by_order=found.status.kept_back_by_order,
                by_queue_limit=found.status.kept_back_by_queue_limit,
            )
        health = self._pod_health
        decision = self._autoscaler.decide(
            self.jobqueue,
            found.sample if isinstance(found, QueueDemand) else _failure(found),
            self._fleet.view,
            paused=paused.holds,
            conflict=conflict.message if conflict else None,
            pods_failing=health.sentence if health and health.holds_growth else None,
        )
        self._metrics.decided(decision)

    async def _ensure_cordons(self, spec: JobQueueSpec, found: Found, source: Source) -> None:
        decision, view, database = self._autoscaler.decision, self._fleet.view, source.database
        if decision is None or not decision.may_write or view is None or database is None:
            return
        if isinstance(found, QueueDemand):
            # Where jobs are short, surplus pods are deleted at once, and finish them meanwhile.
            is_long = self._autoscaler.runs_are_long(spec)
            replicas = max(decision.desired_replicas, view.replicas if is_long else 0)
            await self._cordons.ensure(
                self.queue_name,
                active_replicas=decision.active_replicas,
                may_add=decision.active_replicas < replicas,
                reports=found.sample.workers,
                view=view,
                database=database,
                tick_seconds=self.tick_seconds,
            )

    async def _ensure_deployment(self, spec: JobQueueSpec, found: Found, source: Source) -> None:
        decision, view = self._autoscaler.decision, self._fleet.view
        if decision is None or (view is None and not isinstance(found, QueueDemand)):
            return  # new pods would have nothing to work on
        replicas = decision.desired_replicas
        if not decision.may_write:  # the queue is paused: its pod template is still kept up to date
            replicas = view.replicas if view else spec.scaling.min_replicas
        change = await self._fleet.ensure(
            replicas,
            checksum=source.checksum,
            pods=work_by_pod(found.sample.workers) if isinstance(found, QueueDemand) else None,
            runs_are_long=self._autoscaler.runs_are_long(spec),
            max_replicas=spec.scaling.max_replicas,
        )
        if change is None:
            return
        self._last_scale_time = timestamp(self._clock())
        self._metrics.scaled(change.direction)
        situation = self._situation(spec, decision, found)
        _log.info(
            "scaled",
            queue=self.queue_name,
            replicas_before=change.before,
            replicas=change.after,
            decision=scaling_sentence(situation),
            **self._log_fields(),
        )
        await self._reporter.scaled(change, situation)

    def _ready(self, spec: JobQueueSpec, found: Found) -> Finding:
        ready = OPERATING
        if not isinstance(found, QueueDemand):
            ready = not_ready(_failure(found))
        if spec.paused and isinstance(found, QueueProblem) and found.is_missing:
            message = f"queue {spec.queue_name!r} is not created while spec.paused is true"
            ready = Finding(holds=False, reason="QueueMissing", message=message)
        if self._fleet.view is None and spec.deployment_ref is not None:
            message = f"spec.deploymentRef: Deployment {spec.deployment_ref.name!r} does not exist"
            ready = Finding(holds=False, reason="DeploymentNotFound", message=message)
        if ready.holds and self._pod_health is not None and self._pod_health.is_severe:
            ready = self._pod_health.finding
        declared = None if spec.paused else self._queue.finding
        if ready.holds and declared is not None and not declared.holds:
            ready = declared
        if ready.holds and (contester := self._fleet.contested_by):
            message = (
                f"Somebody else ({contester}) also sets spec.replicas of the Deployment, and the "
                "operator keeps setting it back: leave replicas out of the manifest that is "
                "applied there"
            )
            ready = Finding(holds=True, reason="ReplicasContested", message=message)
        if ready is OPERATING and declared is not None:
            ready = declared
        if ready is OPERATING and self._pod_health is not None:
            ready = self._pod_health.finding
        return ready

    # --- Status ----------------------------------------------------------------------------------

    async def _update_status(self, ready: Finding, paused: Finding, found: Found) -> None:
        view, spec = self._fleet.view, self.jobqueue.spec
        decision = self._autoscaler.decision
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
            generation=self.jobqueue.generation,
            spec=spec,
            ready=ready,
            paused=paused,
            view=view,
            situation=self._situation(spec, decision, found) if spec and decision else None,
            queue=found.status if isinstance(found, QueueDemand) else None,
            last_scale_time=self._last_scale_time,
        )

    def _situation(self, spec: JobQueueSpec, decision: Decision, found: Found) -> Situation:
        return Situation(
            scaling=spec.scaling,
            decision=decision,
            queue=found.status if isinstance(found, QueueDemand) else None,
            problem="" if isinstance(found, QueueDemand) else _failure(found).message,
            has_deployment=self._fleet.view is not None,
            queue_name=self.queue_name,
        )

    def _is_first_failure(self, found: Found) -> bool:
        """Whether the database has just become unreadable; a single failed read is not reported.

        Hundreds of queues may share a database, and each would be written to twice.
        """
        was_read, self._was_read = self._was_read, not isinstance(found, Failure)
        return was_read and not self._was_read

    # --- Deletion --------------------------------------------------------------------------------

    async def _ensure_finalizer(self, spec: JobQueueSpec) -> None:
        wanted = spec.deletion_policy == "DeleteIfEmpty"
        if wanted != (FINALIZER in self.jobqueue.finalizers):
            await self._cluster.apply_finalizers(self.jobqueue.key, [FINALIZER] if wanted else [])

    async def _finalize(self, found: Found, source: Source) -> None:
        """Drop the queue if the spec asks for it and it is empty; then remove the finalizer."""
        jobqueue, spec = self.jobqueue, self.jobqueue.spec
        if FINALIZER not in jobqueue.finalizers:
            return
        conflict = self._find_conflict(self)
        is_theirs = conflict is not None and conflict.is_about_queue
        # The spec counts as it is now: it may have changed since the finalizer was added.
        drops = spec is not None and spec.deletion_policy == "DeleteIfEmpty" and not spec.paused
        if spec is not None and drops and not is_theirs:
            if source.database is not None:
                try:
                    await self._queue.drop_if_empty(spec.queue_name, source.database)
                except MeshHookError as error:
                    await self._update_status(not_ready(problem_of(error)), NOT_PAUSED, found)
                    raise
            elif isinstance(found, Failure) and found.reason not in _GONE_SECRET:
                await self._update_status(not_ready(found), NOT_PAUSED, found)
                return
        await self._cluster.apply_finalizers(jobqueue.key, [])

    def _log_fields(self) -> dict[str, str]:
        return {"jobqueue": str(self.jobqueue.key)}


_GONE_SECRET = ("SecretNotFound", "SecretKeyMissing")
"""Without its Secret, as when the namespace is deleted, the queue is out of reach, and is kept."""


def _pause(spec: JobQueueSpec, found: Found) -> Finding:
    if spec.paused:
        return SPEC_PAUSED
    if isinstance(found, QueueDemand) and found.settings.get("paused"):
        return QUEUE_PAUSED
    return NOT_PAUSED


def _failure(found: QueueProblem | Failure) -> Failure:
    if isinstance(found, Failure):
        return found
    return Failure(reason="QueueUnreadable", message=found.message)
