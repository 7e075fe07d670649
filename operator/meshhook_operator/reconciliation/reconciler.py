"""One JobQueue: from what a tick found to its queue, its Deployment and its status."""

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
    conditions,
    findings_of,
    rounded_queue,
    scaling_status,
    timestamp,
)
from meshhook_operator.api.status import JobQueueStatus
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, QueueProblem
from meshhook_operator.problems import not_ready, problem_of
from meshhook_operator.reconciliation.conflicts import Conflict
from meshhook_operator.reconciliation.reporting import Reporter
from meshhook_operator.reconciliation.scaling_inputs import (
    fleet_of,
    learned_before,
    scaling_rules,
    tick_seconds,
)
from meshhook_operator.scaling import Failure, Sample, ScalerState, decide, lookahead_seconds
from meshhook_operator.secrets import reference_of, workers_reference_of
from meshhook_operator.workers.fleet import WorkerFleet

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.metrics import OperatorMetrics
    from meshhook_operator.scaling import Decision

_log = get_logger("meshhook_operator.reconciliation.reconciler")

FINALIZER = "meshhook.io/queue"
AT_ONCE = float("-inf")
INVALID_SPEC_SECONDS = 60.0
CREATE_AGAIN_SECONDS = 10.0
"""How long after a queue was made it may be made again."""
MAX_BACKOFF_SECONDS = 60.0

Found: TypeAlias = QueueDemand | QueueProblem | Failure
"""What a tick found of a queue; a Failure if the database could not be read at all."""


class Source(NamedTuple):
    """The way to the queue."""

    database: QueueDatabase | None
    """None if there is no way to it."""
    checksum: str | None
    """Of its URL; None if that is not known."""


class QueueController:
    """Keeps one JobQueue. What the API server or the database refuse becomes a condition."""

    def __init__(
        self,
        jobqueue: JobQueue,
        *,
        cluster: Cluster,
        metrics: OperatorMetrics,
        find_conflict: Callable[[QueueController], Conflict | None],
        clock: Callable[[], float],
    ) -> None:
        self.jobqueue = jobqueue
        self.reference = reference_of(jobqueue)
        """Where the operator's URL of its database stands; None if its spec is not valid."""
        self.workers_reference = workers_reference_of(jobqueue)
        """Where that of its workers stands, often the same; None if its spec is not valid."""
        self.due_at = AT_ONCE
        """When it is to be looked at again, on the operator's clock."""
        self._cluster = cluster
        self._all_metrics = metrics
        self._metrics = metrics.of_queue(self.queue_name, str(jobqueue.key))
        self._find_conflict = find_conflict
        self._clock = clock
        self._fleet = WorkerFleet(jobqueue, cluster=cluster, clock=clock)
        self._reporter = Reporter(jobqueue, cluster=cluster, clock=clock)
        self._scaler: ScalerState | None = None
        self._sampled_from: Hashable | None = None
        self._decision: Decision | None = None
        self._last_scale_time = jobqueue.status.last_scale_time
        self._failures = 0
        self._may_create_at = AT_ONCE
        self._was_read = False

    @property
    def queue_name(self) -> str:
        """The queue; the JobQueue's own name while its spec is not valid."""
        return self.jobqueue.spec.queue_name if self.jobqueue.spec else self.jobqueue.key.name

    @property
    def tick_seconds(self) -> float:
        """How often it is looked at, in seconds."""
        return tick_seconds(self.jobqueue.spec) if self.jobqueue.spec else INVALID_SPEC_SECONDS

    @property
    def wants_wake_up(self) -> bool:
        """Whether a message should wake the queue: it has no workers, and may have some."""
        spec, view = self.jobqueue.spec, self._fleet.view
        if spec is None or spec.paused or spec.scaling.min_replicas > 0:
            return False
        if self._failures or (self._decision is not None and not self._decision.may_write):
            return False  # no message could start a worker; the ticks go on
        if view is None and spec.deployment_ref is not None:
            return False
        return self._fleet.is_known and (view is None or view.replicas == 0)

    def update(self, jobqueue: JobQueue) -> None:
        """Take a newer version of the JobQueue."""
        old, old_name = self.jobqueue, self.queue_name
        self.jobqueue = jobqueue
        self.reference = reference_of(jobqueue)
        self.workers_reference = workers_reference_of(jobqueue)
        if self._fleet.follow(jobqueue):
            self._scaler = None
        if self.queue_name != old_name:
            self._metrics.remove()
            self._metrics = self._all_metrics.of_queue(self.queue_name, str(jobqueue.key))
        if (old.generation, old.is_deleting) != (jobqueue.generation, jobqueue.is_deleting):
            self._failures = 0
            self.due_at = AT_ONCE

    def see_deployment(self, view: DeploymentView | None) -> None:
        """Take a newer version of the Deployment; None means that it is gone."""
        if self._fleet.see(view):
            self.due_at = AT_ONCE

    def request(self) -> DemandRequest:
        """Return what the next tick should read of the queue; its spec must be valid."""
        spec = self._spec()
        ahead = self.tick_seconds
        if self._scaler is not None:
            ahead = max(ahead, lookahead_seconds(scaling_rules(spec), self._scaler))
        return DemandRequest(self.queue_name, ahead, is_waiting=self.wants_wake_up)

    def close(self) -> None:
        """Take its metrics away: the JobQueue is gone."""
        self._metrics.remove()

    def take_up(self) -> None:
        """Note that a tick begins to look at it: what happens from now on is for the next one."""
        self.due_at = self._next_beat()

    async def step(self, found: Found, source: Source) -> bool:
        """Act on what a tick found, and return whether all is well."""
        now = self._clock()
        spec = self.jobqueue.spec
        if self.due_at != AT_ONCE:  # a message may have woken it since
            self.due_at = self._next_beat()
        try:
            if self.jobqueue.is_deleting:
                await self._let_go(found, source)
                return True
            if spec is None:
                invalid = Finding(holds=False, reason="InvalidSpec", message=self.jobqueue.problem)
                await self._report(invalid, NOT_PAUSED, found)
                return False
            paused = _pause(spec, found)
            ready: Finding | None
            try:
                ready = await self._keep(spec, found, source, paused)
            except MeshHookError as error:
                self._back_off(now)
                ready = not_ready(problem_of(error))
            else:
                self._failures = 0
            if ready is not None and not self._is_first_failure(found):
                await self._report(ready, paused, found)
        except MeshHookError as error:
            self._back_off(now)
            _log.warning("step failed", jobqueue=str(self.jobqueue.key), error=str(error))
            return False
        except Exception:  # noqa: BLE001 - a fault of ours must not end other queues' ticks
            self._back_off(now)
            _log.exception("step failed", jobqueue=str(self.jobqueue.key))
            return False
        return ready is None or ready.holds

    # --- The steps of a step -------------------------------------------------------------------

    async def _keep(
        self, spec: JobQueueSpec, found: Found, source: Source, paused: Finding
    ) -> Finding | None:
        """Do everything but report; return what Ready is to say, None if it is too early to say."""
        await self._fleet.look_up()
        conflict = self._conflict()
        may_change_queue = not spec.paused and not (conflict and conflict.is_about_queue)
        if may_change_queue:
            await self._keep_finalizer(spec)
            if await self._keep_queue(spec, found, source.database):
                self.due_at = AT_ONCE  # it is there now, and can be read
                return None
        self._note_database(source.database)
        self._decide(spec, found, paused, conflict)
        if conflict is not None:
            return Finding(holds=False, reason="Conflict", message=conflict.message)
        if not spec.paused:
            await self._keep_fleet(spec, found, source)
        return self._ready(spec, found)

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

    async def _keep_finalizer(self, spec: JobQueueSpec) -> None:
        wanted = spec.deletion_policy == "DeleteIfEmpty"
        if wanted != (FINALIZER in self.jobqueue.finalizers):
            await self._cluster.apply_finalizers(self.jobqueue.key, [FINALIZER] if wanted else [])

    async def _keep_queue(
        self, spec: JobQueueSpec, found: Found, database: QueueDatabase | None
    ) -> bool:
        """Create the queue or mend its settings where needed; return whether it was created."""
        if database is None or isinstance(found, Failure):
            return False
        wanted = spec.queue_settings
        if isinstance(found, QueueProblem):
            now = self._clock()
            if not found.is_missing or now < self._may_create_at:
                return False
            # One that is missing again at once would be made again and again, with no pause.
            self._may_create_at = now + CREATE_AGAIN_SECONDS
            await database.ensure_queue(spec.queue_name, wanted)
            await self._reporter.event("QueueCreated", f"queue {spec.queue_name!r} was created")
            return True
        differing = sorted(name for name in wanted if found.settings.get(name) != wanted[name])
        if differing:
            await database.ensure_queue(spec.queue_name, wanted)
            _log.info(
                "settings written", queue=spec.queue_name, settings=differing, **self._log_fields()
            )
        return False

    def _note_database(self, database: QueueDatabase | None) -> None:
        """Compare no sample with one of another database, whose numbers begin elsewhere."""
        if database is None or database.generation == self._sampled_from:
            return
        if self._scaler is not None and self._sampled_from is not None:
            self._scaler = self._scaler.elsewhere()
        self._sampled_from = database.generation

    def _decide(
        self, spec: JobQueueSpec, found: Found, paused: Finding, conflict: Conflict | None
    ) -> None:
        now = self._clock()
        if self._scaler is None:
            self._scaler = ScalerState.begin(now, learned_before(self.jobqueue.status))
        if isinstance(found, QueueDemand):
            self._metrics.succeeded()
        fleet = fleet_of(
            self.jobqueue,
            self._fleet.view,
            paused=paused.holds,
            conflict=conflict.message if conflict else None,
        )
        self._decision, self._scaler = decide(
            scaling_rules(spec), _sample(found), fleet, self._scaler, now
        )
        self._metrics.decided(self._decision)

    async def _keep_fleet(self, spec: JobQueueSpec, found: Found, source: Source) -> None:
        decision, view = self._decision, self._fleet.view
        if decision is None or (view is None and not isinstance(found, QueueDemand)):
            return  # new pods would have nothing to work on
        replicas = decision.desired_replicas
        if not decision.may_write:  # the queue is paused: the template is kept all the same
            replicas = view.replicas if view else spec.scaling.min_replicas
        change = await self._fleet.keep(
            replicas,
            checksum=source.checksum,
            running_by_host=found.running_by_host if isinstance(found, QueueDemand) else None,
        )
        if change is None:
            return
        self._last_scale_time = timestamp(self._clock())
        self._metrics.scaled(change.direction)
        _log.info(
            "scaled",
            queue=self.queue_name,
            replicas_before=change.before,
            replicas=change.after,
            decision=decision.message,
            **self._log_fields(),
        )
        await self._reporter.scaled(change, decision.message)

    def _ready(self, spec: JobQueueSpec, found: Found) -> Finding:
        ready = OPERATING
        if not isinstance(found, QueueDemand):
            ready = not_ready(_failure(found))
        if self._fleet.view is None and spec.deployment_ref is not None:
            message = f"spec.deploymentRef: Deployment {spec.deployment_ref.name!r} does not exist"
            ready = Finding(holds=False, reason="DeploymentNotFound", message=message)
        if ready.holds and (contester := self._fleet.contested_by):
            message = (
                f"{contester} sets spec.replicas of the Deployment as well, and the operator sets "
                "it back: leave replicas out of what is applied there"
            )
            ready = Finding(holds=True, reason="ReplicasContested", message=message)
        return ready

    # --- Reporting -----------------------------------------------------------------------------

    async def _report(self, ready: Finding, paused: Finding, found: Found) -> None:
        view, decision, last = self._fleet.view, self._decision, self._reporter.status
        replicas = view.replicas if view else 0
        ready_replicas = view.ready_replicas if view else 0
        self._metrics.set(
            ready=ready.holds,
            paused=paused.holds,
            replicas=replicas,
            ready_replicas=ready_replicas,
        )
        if spec := self.jobqueue.spec:
            self._metrics.set(
                min_replicas=spec.scaling.min_replicas, max_replicas=spec.scaling.max_replicas
            )
        findings = findings_of(
            ready,
            decision=decision,
            replicas=replicas,
            ready_replicas=ready_replicas,
            paused=paused,
        )
        generation = self.jobqueue.generation
        await self._reporter.write(
            JobQueueStatus(
                observed_generation=generation,
                deployment=view.key.name if view else None,
                replicas=replicas,
                ready_replicas=ready_replicas,
                desired_replicas=decision.desired_replicas if decision else None,
                last_scale_time=self._last_scale_time,
                queue=rounded_queue(found.status) if isinstance(found, QueueDemand) else last.queue,
                scaling=scaling_status(decision) if decision else last.scaling,
                conditions=conditions(last, findings, generation=generation, now=self._clock()),
            )
        )

    def _is_first_failure(self, found: Found) -> bool:
        """Whether this is the first look in a row that failed: one alone is worth no word.

        Hundreds of queues share a database, and would each be written to twice.
        """
        was_read, self._was_read = self._was_read, not isinstance(found, Failure)
        return was_read and not self._was_read

    # --- Deletion ------------------------------------------------------------------------------

    async def _let_go(self, found: Found, source: Source) -> None:
        """Drop the queue if it is empty and the spec says so, and take the finalizer away."""
        jobqueue, spec = self.jobqueue, self.jobqueue.spec
        if FINALIZER not in jobqueue.finalizers:
            return
        conflict = self._find_conflict(self)
        is_theirs = conflict is not None and conflict.is_about_queue
        # What the spec says now: it may have been changed while there was a finalizer already.
        drops = spec is not None and spec.deletion_policy == "DeleteIfEmpty" and not spec.paused
        if spec is not None and drops and not is_theirs:
            if source.database is not None:
                try:
                    gone = await source.database.drop_queue_if_empty(spec.queue_name)
                except MeshHookError as error:
                    await self._report(not_ready(problem_of(error)), NOT_PAUSED, found)
                    raise
                reason = "QueueDropped" if gone else "QueueKept"
                message = "was empty and is dropped" if gone else "is not empty and stays"
                await self._reporter.event(reason, f"queue {spec.queue_name!r} {message}")
            elif isinstance(found, Failure) and found.reason not in _GONE_SECRET:
                await self._report(not_ready(found), NOT_PAUSED, found)
                return
        await self._cluster.apply_finalizers(jobqueue.key, [])

    # --- The rest ------------------------------------------------------------------------------

    def _next_beat(self) -> float:
        # A common one, so that the queues of a database are read in one statement.
        return (self._clock() // self.tick_seconds + 1) * self.tick_seconds

    def _back_off(self, now: float) -> None:
        self._failures += 1
        pause_seconds = min(MAX_BACKOFF_SECONDS, 2.0 ** min(self._failures, 10))
        self.due_at = max(self.due_at, now + pause_seconds)

    def _spec(self) -> JobQueueSpec:
        spec = self.jobqueue.spec
        assert spec is not None, "asked of a JobQueue whose spec is not valid"  # noqa: S101
        return spec

    def _log_fields(self) -> dict[str, str]:
        return {"jobqueue": str(self.jobqueue.key)}


_GONE_SECRET = ("SecretNotFound", "SecretKeyMissing")
"""With the Secret gone, as when its namespace goes, there is no way to the queue: it stays."""


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


def _sample(found: Found) -> Sample | Failure:
    return found.sample if isinstance(found, QueueDemand) else _failure(found)
