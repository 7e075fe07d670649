"""The status and the events of one JobQueue, written when there is news."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import (
    READY,
    conditions,
    findings_of,
    pending_patch,
    rounded_queue,
    scaling_status,
)
from meshhook_operator.api.status import JobQueueStatus
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.conditions import Finding
    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.status import Condition, QueueStatus
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.scaling import Decision
    from meshhook_operator.workers.fleet import Rescale

_log = get_logger("meshhook_operator.reporter")

SCALED_EVENT_SECONDS = 60.0
EVENTS_AT_ONCE, EVENT_SECONDS = 25, 60.0
"""The most events at once, and how long until one more is allowed: a database whose answers keep
changing must not flood the cluster with events."""
WRITES_AT_ONCE, WRITE_SECONDS = 30, 5.0
"""The same for the status; what is held back is written later."""


class _Allowance:
    """A budget: a number at once, and one more with each period that passes."""

    def __init__(self, most: int, period_seconds: float) -> None:
        self._most = most
        self._period_seconds = period_seconds
        self._left = float(most)
        self._taken_at = float("-inf")

    def take(self, now: float) -> bool:
        """Take one from the budget, and return whether there was one."""
        passed = max(0.0, now - self._taken_at)
        self._taken_at = now
        self._left = min(self._most, self._left + passed / self._period_seconds)
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Reporter:
    """Writes the status and the events of one JobQueue."""

    def __init__(self, jobqueue: JobQueue, *, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._key = jobqueue.key
        self._uid = jobqueue.uid
        self._cluster = cluster
        self._clock = clock
        self.status: JobQueueStatus = jobqueue.status
        """What was last written."""
        # Count what an earlier operator wrote as written now: a restart alone is no news.
        self._wrote_at = clock() if jobqueue.status.conditions else float("-inf")
        self._scaled_at: dict[str, float] = {}
        self._events = _Allowance(EVENTS_AT_ONCE, EVENT_SECONDS)
        self._writes = _Allowance(WRITES_AT_ONCE, WRITE_SECONDS)

    async def report(
        self,
        *,
        generation: int,
        ready: Finding,
        paused: Finding,
        view: DeploymentView | None,
        decision: Decision | None,
        queue: QueueStatus | None,
        last_scale_time: str | None,
    ) -> None:
        """Write what is new in the status, and an event for each new reason of Ready.

        Args:
            generation: of the spec that was reconciled.
            ready: the finding for the condition Ready.
            paused: the finding for the condition Paused.
            view: the Deployment; None if there is none.
            decision: the last scaling decision; None before the first.
            queue: the numbers of the queue; None if it could not be read: the last ones stay.
            last_scale_time: when the replicas last changed.

        Raises:
            ClusterError: if it cannot be written; the next call tries again.
        """
        replicas = view.replicas if view else 0
        ready_replicas = view.ready_replicas if view else 0
        findings = findings_of(
            ready,
            decision=decision,
            replicas=replicas,
            ready_replicas=ready_replicas,
            paused=paused,
        )
        last, now = self.status, self._clock()
        await self._write(
            JobQueueStatus(
                observed_generation=generation,
                deployment=view.key.name if view else None,
                replicas=replicas,
                ready_replicas=ready_replicas,
                desired_replicas=decision.desired_replicas if decision else None,
                last_scale_time=last_scale_time,
                queue=rounded_queue(queue) if queue else last.queue,
                scaling=scaling_status(decision) if decision else last.scaling,
                conditions=conditions(last, findings, generation=generation, now=now),
            )
        )

    async def _write(self, status: JobQueueStatus) -> None:
        """Write what has changed in a status, at once or when it is due.

        Raises:
            ClusterError: if it cannot be written; the next call tries again.
        """
        now = self._clock()
        patch = pending_patch(self.status, status, seconds_since_write=now - self._wrote_at)
        if patch is None or not self._writes.take(now):
            return
        before, after = _ready(self.status), _ready(status)
        await self._cluster.patch_status(self._key, patch)
        self.status, self._wrote_at = status, now
        if after is None:
            return
        if after.status == "False" and (
            before is None or (before.status, before.reason) != (after.status, after.reason)
        ):
            await self.event(after.reason, after.message, is_warning=True)
        elif before is not None and before.status == "False" and after.status == "True":
            await self.event("Recovered", after.message)
        elif after.reason != "Operating" and (before is None or before.reason != after.reason):
            await self.event(after.reason, after.message, is_warning=True)

    async def scaled(self, change: Rescale, message: str) -> None:
        """Report a change of the replicas: a large one always, others at most once a minute."""
        now = self._clock()
        last = self._scaled_at.get(change.direction, float("-inf"))
        is_great = max(change) >= 2 * min(change)
        if not is_great and now - last < SCALED_EVENT_SECONDS:
            return
        self._scaled_at[change.direction] = now
        await self.event(
            f"Scaled{change.direction.capitalize()}",
            f"{change.before} to {change.after} replicas: {message}",
        )

    async def event(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        """Add an event. If it cannot be written, log that and carry on."""
        if not self._events.take(self._clock()):
            return
        try:
            await self._cluster.create_event(
                self._key, self._uid, is_warning=is_warning, reason=reason, message=capped(message)
            )
        except MeshHookError as error:
            _log.warning(
                "event not written", jobqueue=str(self._key), reason=reason, error=str(error)
            )


def _ready(status: JobQueueStatus) -> Condition | None:
    return next((each for each in status.conditions if each.type == READY), None)
