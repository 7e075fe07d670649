"""The workers of one JobQueue: how many there should be, their Deployment, pods and cordons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import timestamp
from meshhook_operator.api.sentences import Situation, scaling_sentence
from meshhook_operator.databases.demand import QueueDemand
from meshhook_operator.reconciliation.autoscaler import Autoscaler
from meshhook_operator.reconciliation.conflicts import Conflict
from meshhook_operator.reconciliation.sources import failure_of
from meshhook_operator.reconciliation.worker_cordons import WorkerCordons
from meshhook_operator.workers.fleet import WorkerFleet
from meshhook_operator.workers.pod_work import work_by_pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.conditions import Finding
    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.metrics import JobQueueMetrics
    from meshhook_operator.reconciliation.reporter import Reporter
    from meshhook_operator.reconciliation.sources import Found, Source
    from meshhook_operator.scaling import Decision
    from meshhook_operator.workers.pod_health import PodHealth

_log = get_logger("meshhook_operator.workers")


class QueueWorkers:
    """Decides how many workers a queue should have, and makes it so."""

    def __init__(
        self,
        jobqueue: JobQueue,
        *,
        cluster: Cluster,
        reporter: Reporter,
        clock: Callable[[], float],
    ) -> None:
        """Take what it works with.

        Args:
            jobqueue: the JobQueue.
            cluster: the Kubernetes API.
            reporter: where events go.
            clock: seconds since 1970.
        """
        self._key = jobqueue.key
        self._clock = clock
        self._reporter = reporter
        self._cordons = WorkerCordons(jobqueue.key, cluster=cluster, clock=clock)
        self.fleet = WorkerFleet(jobqueue, cluster=cluster, clock=clock)
        """The Deployment."""
        self.autoscaler = Autoscaler(clock=clock)
        """What decides."""
        self.pod_health: PodHealth | None = None
        """What keeps pods from running; None before they were looked at."""
        self.last_scale_time = jobqueue.status.last_scale_time
        """When the replicas last changed, as Kubernetes writes a time; None if they never did."""

    @property
    def decision(self) -> Decision | None:
        """The last decision; None before the first."""
        return self.autoscaler.decision

    def on_jobqueue_changed(self, jobqueue: JobQueue) -> None:
        """Take a newer version of the JobQueue."""
        if self.fleet.on_jobqueue_changed(jobqueue):
            self.autoscaler.forget()

    def wants_wake_up(self, spec: JobQueueSpec) -> bool:
        """Whether no worker claims, and a message could have one do so."""
        view = self.fleet.view
        if self.autoscaler.is_held:
            return False  # no message could start a worker; the ticks go on
        if view is None and spec.deployment_ref is not None:
            return False
        if view is None or view.replicas == 0:
            return self.fleet.is_known
        return self.decision is not None and self.decision.active_replicas == 0

    def conflict(self) -> Conflict | None:
        """Return the conflict if the Deployment of this name belongs to somebody else."""
        if not self.fleet.is_foreign or self.fleet.view is None:
            return None
        name = self.fleet.view.key.name
        message = (
            f"Deployment {name!r} exists and does not belong to this JobQueue: rename the "
            "JobQueue, delete the Deployment, or name it under spec.deploymentRef"
        )
        return Conflict(message, is_about_queue=False)

    async def look_at_pods(self, metrics: JobQueueMetrics) -> None:
        """Look at the pods if too few are ready, and show how many of them fail.

        Raises:
            ClusterError: if they cannot be listed.
        """
        lead_seconds = self.autoscaler.lead_seconds
        self.pod_health = await self.fleet.look_at_pods(lead_seconds=lead_seconds)
        failing = self.pod_health.failing if self.pod_health else {}
        metrics.pods_failed({problem.value: count for problem, count in failing.items()})

    def decide(
        self,
        jobqueue: JobQueue,
        found: Found,
        source: Source,
        *,
        paused: Finding,
        conflict: Conflict | None,
        metrics: JobQueueMetrics,
    ) -> None:
        """Decide how many workers there should be.

        Args:
            jobqueue: with a valid spec.
            found: what was read of its queue.
            source: where that was read.
            paused: what the condition Paused says.
            conflict: what it must yield to; None if there is nothing.
            metrics: where the decision is shown.
        """
        if source.database is not None:
            self.autoscaler.on_database(source.database.generation)
        if isinstance(found, QueueDemand):
            metrics.succeeded()
            metrics.kept_back(
                by_holds=found.status.kept_back_by_holds,
                by_key_limits=found.status.kept_back_by_key_limits,
                by_order=found.status.kept_back_by_order,
                by_queue_limit=found.status.kept_back_by_queue_limit,
            )
        health = self.pod_health
        decision = self.autoscaler.decide(
            jobqueue,
            found.sample if isinstance(found, QueueDemand) else failure_of(found),
            self.fleet.view,
            paused=paused.holds,
            conflict=conflict.message if conflict else None,
            pods_failing=health.sentence if health and health.holds_growth else None,
        )
        metrics.decided(decision)

    async def ensure_cordons(
        self,
        spec: JobQueueSpec,
        found: Found,
        database: QueueDatabase | None,
        *,
        tick_seconds: float,
    ) -> None:
        """Have the workers that are not needed claim no more jobs.

        Args:
            spec: of the JobQueue.
            found: what was read of its queue; nothing is changed if it could not be read.
            database: where the queue is.
            tick_seconds: how often this is called.

        Raises:
            MeshHookError: if the API server refuses or cannot be reached.
        """
        decision, view = self.decision, self.fleet.view
        if decision is None or not decision.may_write or view is None or database is None:
            return
        if isinstance(found, QueueDemand):
            # Where jobs are short, surplus pods are deleted at once, and finish them meanwhile.
            is_long = self.autoscaler.runs_are_long(spec)
            replicas = max(decision.desired_replicas, view.replicas if is_long else 0)
            await self._cordons.ensure(
                spec.queue_name,
                active_replicas=decision.active_replicas,
                may_add=decision.active_replicas < replicas,
                reports=found.sample.workers,
                view=view,
                database=database,
                tick_seconds=tick_seconds,
            )

    async def ensure_deployment(
        self, spec: JobQueueSpec, found: Found, source: Source, metrics: JobQueueMetrics
    ) -> None:
        """Create or correct the Deployment, and report the change of its replicas.

        Args:
            spec: of the JobQueue.
            found: what was read of its queue; without that, no Deployment is created.
            source: with the checksum of the workers' database URL.
            metrics: where the change is counted.

        Raises:
            MeshHookError: if the API server refuses or cannot be reached.
        """
        decision, view = self.decision, self.fleet.view
        if decision is None or (view is None and not isinstance(found, QueueDemand)):
            return  # new pods would have nothing to work on
        replicas = decision.desired_replicas
        if not decision.may_write:  # the queue is paused: its pod template is still kept up to date
            replicas = view.replicas if view else spec.scaling.min_replicas
        change = await self.fleet.ensure(
            replicas,
            checksum=source.checksum,
            pods=work_by_pod(found.sample.workers) if isinstance(found, QueueDemand) else None,
            runs_are_long=self.autoscaler.runs_are_long(spec),
            max_replicas=spec.scaling.max_replicas,
        )
        situation = self.situation(spec, found)
        if change is None or situation is None:
            return
        self.last_scale_time = timestamp(self._clock())
        metrics.scaled(change.direction)
        _log.info(
            "scaled",
            queue=spec.queue_name,
            replicas_before=change.before,
            replicas=change.after,
            decision=scaling_sentence(situation),
            jobqueue=str(self._key),
        )
        await self._reporter.scaled(change, situation)

    def situation(self, spec: JobQueueSpec, found: Found) -> Situation | None:
        """Return the last decision and what it is about; None before the first."""
        if self.decision is None:
            return None
        return Situation(
            scaling=spec.scaling,
            decision=self.decision,
            queue=found.status if isinstance(found, QueueDemand) else None,
            problem="" if isinstance(found, QueueDemand) else failure_of(found).message,
            has_deployment=self.fleet.view is not None,
            queue_name=spec.queue_name,
        )
