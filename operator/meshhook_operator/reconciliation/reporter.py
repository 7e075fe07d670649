"""The status and the events of one JobQueue, written when there is news."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import (
    ACTIVE,
    ON_TIME,
    PAUSED,
    QUEUE_PAUSED,
    READY,
    SCALING_LIMITED,
    active,
    conditions,
    on_time,
    pending_patch,
    ready_message,
    rounded_queue,
    scaling_limited,
    scaling_status,
    state_of,
)
from meshhook_operator.api.sentences import limit_sentence, scaling_sentence
from meshhook_operator.api.status import JobQueueStatus
from meshhook_operator.api.wording import replicas_text
from meshhook_operator.reconciliation.allowances import Allowance
from meshhook_operator.reconciliation.steadiness import Steady
from meshhook_operator.reconciliation.transitions import (
    News,
    condition_of,
    news_of,
    punctuality_news,
)
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from meshhook_operator.api.conditions import Finding
    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.sentences import Situation
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.api.status import QueueStatus
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.workers.fleet import Rescale

_log = get_logger("meshhook_operator.reporter")

SCALED_EVENT_SECONDS = 60.0
"""How long the same change of the replicas, or a small one in the same direction, is not told."""
MISSED_AFTER_SECONDS, KEPT_AFTER_SECONDS = 10.0, 60.0
"""How long jobs must be late before that is told, and how long in time before that is."""
UNLIMITED_AFTER_SECONDS = 120.0
"""How long no limit must have made jobs wait before that is told."""
EVENTS_AT_ONCE, EVENT_SECONDS = 25, 60.0
"""The most events at once, and how long until one more is allowed: a database whose answers keep
changing must not flood the cluster with events."""
WRITES_AT_ONCE, WRITE_SECONDS = 30, 5.0
"""The same for the status; what is held back is written later."""


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
        self._scaled_at: dict[Hashable, float] = {}
        self._missed = Steady(
            holds=_is(self.status, ON_TIME, "False"),
            on_after_seconds=MISSED_AFTER_SECONDS,
            off_after_seconds=KEPT_AFTER_SECONDS,
        )
        self._told_missed = self._missed.holds
        self._limited = Steady(
            holds=_is(self.status, SCALING_LIMITED, "True"),
            on_after_seconds=0.0,
            off_after_seconds=UNLIMITED_AFTER_SECONDS,
        )
        limited = condition_of(self.status, SCALING_LIMITED)
        self._told_limits = {limited.reason} if limited and self._limited.holds else set()
        """Each is told once, until no limit has held for a while."""
        self._events = Allowance(EVENTS_AT_ONCE, EVENT_SECONDS)
        self._writes = Allowance(WRITES_AT_ONCE, WRITE_SECONDS)

    async def report(
        self,
        *,
        generation: int,
        spec: JobQueueSpec | None,
        ready: Finding,
        paused: Finding,
        view: DeploymentView | None,
        situation: Situation | None,
        queue: QueueStatus | None,
        last_scale_time: str | None,
    ) -> None:
        """Write what is new in the status, and an event for each change that matters.

        Args:
            generation: of the spec that was reconciled.
            spec: the spec; None if it is not valid.
            ready: the finding for the condition Ready.
            paused: the finding for the condition Paused.
            view: the Deployment; None if there is none.
            situation: the last scaling decision and what it is about; None before the first.
            queue: the numbers of the queue; None if it could not be read: the last ones stay.
            last_scale_time: when the replicas last changed.

        Raises:
            ClusterError: if it cannot be written; the next call tries again.
        """
        last, now = self.status, self._clock()
        replicas = view.replicas if view else 0
        ready_replicas = view.ready_replicas if view else 0
        if situation is not None:
            # Sentences of the status have its own numbers, so that they change only with these.
            situation = replace(situation, queue=rounded_queue(queue) if queue else None)
        findings = {
            READY: replace(ready, message=ready_message(ready)),
            ACTIVE: active(
                has_deployment=view is not None, replicas=replicas, ready_replicas=ready_replicas
            ),
            SCALING_LIMITED: scaling_limited(situation),
            PAUSED: paused,
        }
        if spec is not None:
            findings[ON_TIME] = self._on_time(spec, queue, paused, now)
        found = conditions(last, findings, generation=generation, now=now)
        status = JobQueueStatus(
            observed_generation=generation,
            state=state_of(found),
            deployment=view.key.name if view else None,
            replicas=replicas,
            ready_replicas=ready_replicas,
            desired_replicas=situation.decision.desired_replicas if situation else None,
            last_scale_time=last_scale_time,
            queue=rounded_queue(queue) if queue else last.queue,
            scaling=(
                scaling_status(situation.decision, scaling_sentence(situation))
                if situation
                else last.scaling
            ),
            conditions=found,
        )
        if await self._write(status):
            is_created = spec is not None and spec.deployment_ref is None
            for news in news_of(last, status, is_created=is_created, now=now):
                await self._tell(news)
        await self._tell_limits(findings[SCALING_LIMITED], situation, now)
        await self._tell_punctuality(status, situation)

    def _on_time(
        self, spec: JobQueueSpec, queue: QueueStatus | None, paused: Finding, now: float
    ) -> Finding:
        target = spec.scaling.target_age_seconds
        if queue is not None and paused.reason != QUEUE_PAUSED.reason:
            is_late = (
                bool(queue.late_priorities)
                if queue.priorities
                else queue.oldest_ready_seconds > target
            )
            self._missed = self._missed.observe(holds=is_late, now=now)
        return on_time(
            rounded_queue(queue) if queue else None,
            target_age_seconds=target,
            is_missed=self._missed.holds,
            paused=paused,
            queue_name=spec.queue_name,
        )

    async def _write(self, status: JobQueueStatus) -> bool:
        """Write what has changed in a status, at once or when it is due; return whether it was.

        Raises:
            ClusterError: if it cannot be written; the next call tries again.
        """
        now = self._clock()
        patch = pending_patch(self.status, status, seconds_since_write=now - self._wrote_at)
        if patch is None or not self._writes.take(now):
            return False
        await self._cluster.patch_status(self._key, patch)
        self.status, self._wrote_at = status, now
        return True

    async def _tell_limits(self, limited: Finding, situation: Situation | None, now: float) -> None:
        before = self._limited
        self._limited = before.observe(holds=limited.holds, now=now)
        if limited.holds and limited.reason not in self._told_limits:
            self._told_limits.add(limited.reason)
            needed = f"{replicas_text(situation.needed)} needed. " if situation else ""
            told = f"{needed}{limit_sentence(situation) if situation else limited.message}"
            await self._tell(News(limited.reason, told, is_warning=True))
        elif before.holds and not self._limited.holds:
            self._told_limits.clear()
            await self._tell(News(limited.reason, limited.message))

    async def _tell_punctuality(self, status: JobQueueStatus, situation: Situation | None) -> None:
        condition = condition_of(status, ON_TIME)
        if condition is None or condition.status == "Unknown":
            return
        is_missed = condition.status == "False"
        if is_missed != self._told_missed:
            self._told_missed = is_missed
            is_limited = situation is not None and situation.decision.scaling_limited
            workers = condition_of(status, ACTIVE)
            hint = limit_sentence(situation) if situation and is_limited else ""
            await self._tell(
                punctuality_news(condition, hint or (workers.message if workers else ""))
            )

    async def scaled(self, change: Rescale, situation: Situation) -> None:
        """Report a change of the replicas: a large one always, others at most once a minute."""
        now = self._clock()
        is_great = max(change) >= 2 * min(change)
        kind: Hashable = change if is_great else change.direction
        if now - self._scaled_at.get(kind, float("-inf")) < SCALED_EVENT_SECONDS:
            return
        self._scaled_at = {
            kind: at for kind, at in self._scaled_at.items() if now - at < SCALED_EVENT_SECONDS
        } | {kind: now, change.direction: now}
        what = f"Scaled from {change.before:,} to {replicas_text(change.after)}"
        was = self.status
        if was.desired_replicas == change.after and was.replicas != change.before:
            message = f"{what}, as decided before: somebody else had changed the number."
        else:
            message = f"{what}. {scaling_sentence(situation)}"
        await self.event(f"Scaled{change.direction.capitalize()}", message)

    async def _tell(self, news: News) -> None:
        await self.event(news.reason, news.message, is_warning=news.is_warning)

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


def _is(status: JobQueueStatus, kind: str, value: str) -> bool:
    condition = condition_of(status, kind)
    return condition is not None and condition.status == value
