"""The queue of one JobQueue in its database: creating it, keeping its settings, dropping it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.actors import Source, acting_as
from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import Finding
from meshhook_operator.databases.demand import QueueDemand, QueueProblem
from meshhook_operator.errors import ClusterError
from meshhook_operator.pauses import doubled_seconds
from meshhook_operator.reconciliation.queue_keys import QueueKeys
from meshhook_operator.reconciliation.queue_priorities import QueuePriorities
from meshhook_operator.reconciliation.queue_topics import QueueTopics
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.api.spec import JobQueueSpec
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.reconciliation.reporter import Reporter

_log = get_logger("meshhook_operator.queue")

CREATE_AGAIN_SECONDS = 10.0
"""The shortest time between two creations of a queue. Without it, a queue that somebody drops again
and again would be created in a tight loop."""

FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 5.0, 60.0
"""How long after the database has refused a change it is tried again, and the longest pause."""


class QueueInDatabase:
    """Makes the queue what the spec says."""

    def __init__(
        self,
        key: ObjectKey,
        *,
        reporter: Reporter,
        clock: Callable[[], float],
        check_may_write: Callable[[str], None],
    ) -> None:
        """Take what it works with.

        Args:
            key: of the JobQueue.
            reporter: where events go.
            clock: seconds since 1970.
            check_may_write: called with the namespace right before each change; raises if this
                process may make none.
        """
        self._key = key
        self._actor = f"operator {key}"
        self._reporter = reporter
        self._clock = clock
        self._check_may_write = check_may_write
        self._may_create_at = float("-inf")
        self._refused: Finding | None = None
        self._failures = 0
        self._tried: JobQueueSpec | None = None
        self._try_at = float("-inf")
        self._keys = QueueKeys(key, check_may_write=check_may_write)
        self._priorities = QueuePriorities(key, check_may_write=check_may_write)
        self._topics = QueueTopics(key, check_may_write=check_may_write)

    @property
    def finding(self) -> Finding | None:
        """What Ready should say about what is declared of the queue; None if all is as declared."""
        findings = (
            self._refused,
            self._keys.finding,
            self._priorities.finding,
            self._topics.finding,
        )
        found = [each for each in findings if each is not None]
        return min(found, key=lambda each: each.holds, default=None)

    async def ensure(
        self, spec: JobQueueSpec, found: QueueDemand | QueueProblem, database: QueueDatabase
    ) -> bool:
        """Create the queue or correct its settings if needed; return whether it was created.

        What the database does not let it correct is in `finding`, and tried again after pauses that
        double: the queue can be scaled meanwhile.

        Raises:
            MeshHookError: if the queue cannot be created.
            ClusterError: if this process may change nothing.
        """
        if isinstance(found, QueueDemand) and spec == self._tried and self._clock() < self._try_at:
            return False
        try:
            with acting_as(self._actor, source=Source.OPERATOR):
                was_created = await self._ensure(spec, found, database)
        except ClusterError:
            raise
        except MeshHookError as error:
            if isinstance(found, QueueProblem):
                raise
            self._note_failure(spec, error)
            return False
        self._refused = self._tried = None
        return was_created

    def _note_failure(self, spec: JobQueueSpec, error: MeshHookError) -> None:
        message = f"the settings of the queue are not as declared: {capped(str(error))}"
        self._refused = Finding(holds=False, reason="SettingsNotSet", message=message)
        self._failures = self._failures + 1 if spec == self._tried else 1
        self._tried = spec
        self._try_at = self._clock() + doubled_seconds(
            self._failures - 1,
            first_seconds=FIRST_RETRY_SECONDS,
            longest_seconds=MAX_RETRY_SECONDS,
        )
        _log.warning(
            "queue not as declared",
            queue=spec.queue_name,
            error=str(error),
            jobqueue=str(self._key),
        )

    async def _ensure(
        self, spec: JobQueueSpec, found: QueueDemand | QueueProblem, database: QueueDatabase
    ) -> bool:
        wanted = spec.queue_settings
        if isinstance(found, QueueProblem):
            now = self._clock()
            if not found.is_missing or now < self._may_create_at:
                return False
            self._may_create_at = now + CREATE_AGAIN_SECONDS
            self._check_may_write(self._key.namespace)
            is_adopted = await database.ensure_queue(spec.queue_name, wanted)
            secret = (spec.database.operator_secret_ref or spec.database.secret_ref).name
            where = f"in the database of Secret {secret!r}"
            if is_adopted:
                message = (
                    f"PGMQ's queue {spec.queue_name!r} {where} was adopted, with its messages."
                )
                await self._reporter.event("QueueAdopted", message)
            else:
                message = f"Queue {spec.queue_name!r} was created {where}."
                await self._reporter.event("QueueCreated", message)
            return True
        differing = sorted(name for name in wanted if found.settings.get(name) != wanted[name])
        if differing:
            self._check_may_write(self._key.namespace)
            await database.ensure_queue(spec.queue_name, wanted)
            _log.info(
                "queue settings written",
                queue=spec.queue_name,
                settings=differing,
                jobqueue=str(self._key),
            )
        await self._ensure_order(spec, found, database)
        await self._topics.ensure(spec.topics, spec.queue_name, database)
        return False

    async def _ensure_order(
        self, spec: JobQueueSpec, found: QueueDemand, database: QueueDatabase
    ) -> None:
        """Set keys and priorities; what replaces the other waits until that is turned off."""

        async def ensure_priorities() -> None:
            await self._priorities.ensure(
                spec.priorities, spec.queue_name, found.settings, database
            )

        has_keys = spec.keys is not None and spec.keys.enabled
        if has_keys:
            await ensure_priorities()
        await self._keys.ensure(spec.keys, spec.queue_name, found.settings, database)
        if not has_keys:
            await ensure_priorities()

    async def drop_if_empty(self, queue_name: str, database: QueueDatabase) -> None:
        """Drop the queue unless it holds messages or dead letters, and say in an event which.

        Raises:
            MeshHookError: if the database refuses, or cannot be reached.
        """
        self._check_may_write(self._key.namespace)
        with acting_as(self._actor, source=Source.OPERATOR):
            is_gone = await database.drop_queue_if_empty(queue_name)
        reason = "QueueDropped" if is_gone else "QueueKept"
        message = (
            "was empty and has been dropped."
            if is_gone
            else "has been kept, because it holds messages or dead letters, or the callback of one "
            "of its groups is not enqueued yet. To drop it with all of them: "
            f"meshhook queue drop {queue_name}"
        )
        await self._reporter.event(reason, f"Queue {queue_name!r} {message}")
