"""The schedules of one JobQueue's queue that JobSchedules declare."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from meshhook.actors import Source, acting_as
from meshhook.errors import DatabaseUnavailableError, MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import Finding
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.api.schedule_spec import NOT_FOUND, NOT_READY
from meshhook_operator.reconciliation.schedule_findings import finding_of, judged, not_stored

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

    from meshhook_operator.api.jobschedule import JobSchedule
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.databases.declared_schedules import DeclaredSchedule
    from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
    from meshhook_operator.reconciliation.schedule_findings import Judged
    from meshhook_operator.reconciliation.schedule_reporter import ScheduleReporter

_log = get_logger("meshhook_operator.schedules")

CONTEST_SECONDS = 600.0
"""How long it is told that somebody else has changed a schedule."""
LOOK_SECONDS = 30.0
"""How often the schedules are compared with what is declared."""


class _Step(NamedTuple):
    """Something to do about one schedule."""

    name: tuple[str, str]
    """The JobSchedule, and the name of the schedule."""
    take: Callable[[], Awaitable[None]]


class QueueSchedules:
    """Stores what JobSchedules declare for one queue, and deletes what they no longer declare.

    A schedule in the database names the JobSchedule that declares it. Those without one were made
    by hand or by an application, and are left alone. What the database refuses, or does not do in
    time, is told to the JobSchedules that it concerns, and raised nowhere.
    """

    def __init__(
        self,
        key: ObjectKey,
        *,
        table: JobScheduleTable,
        reporter: ScheduleReporter,
        check_may_write: Callable[[str], None],
    ) -> None:
        """Take what it works with.

        Args:
            key: of the JobQueue.
            table: all JobSchedules.
            reporter: what writes their status.
            check_may_write: called with the namespace right before each change; raises if this
                process may make none.
        """
        self._key = key
        self._table = table
        self._reporter = reporter
        self._check_may_write = check_may_write
        self._looked_at = self._held_at = float("-inf")
        self._has_had_any = True
        self._generation: Hashable | None = None
        self._contested: dict[tuple[str, int], float] = {}
        """When each version of a JobSchedule was last stored again, since it had been changed."""
        self._stuck: set[tuple[str, str]] = set()
        """The schedules that the database did not change in time, by JobSchedule and name."""
        self._declared: dict[tuple[str, int], int] = {}
        """What the database had of each version of a JobSchedule when it was stored."""

    def requeue(self) -> None:
        """Look with the next tick: a JobSchedule has changed."""
        self._looked_at = float("-inf")
        self._has_had_any = True

    async def ensure(self, queue_name: str, database: QueueDatabase) -> None:
        """Correct what differs, if it is time to look, and report it.

        Args:
            queue_name: the queue.
            database: where it is.
        """
        if database.generation != self._generation:
            # It may have schedules that were declared when the JobQueue was there before.
            self._generation = database.generation
            self._declared.clear()
            self.requeue()
        now = time.monotonic()
        if not self._table.is_listed or now < self._looked_at + LOOK_SECONDS:
            return
        declared = judged(self._table.of_jobqueue(self._key))
        if not declared and not self._has_had_any:
            return
        # First, since a JobSchedule may change meanwhile.
        self._looked_at, self._has_had_any = now, bool(declared)
        try:
            stored = await database.declared_schedules(queue_name)
        except MeshHookError as error:
            self._has_had_any = True
            _log.warning("schedules not read", queue=queue_name, error=str(error))
            await self.hold(f"its schedules cannot be read: {error}")
            return
        versions = {_version_of(each.jobschedule) for each in declared}
        self._declared = {key: each for key, each in self._declared.items() if key in versions}
        self._contested = {key: each for key, each in self._contested.items() if key in versions}
        await self._take(self._steps(declared, stored, queue_name, database), queue_name)

    async def hold(self, reason: str) -> None:
        """Report that their JobQueue is not ready to JobSchedules that were not looked at before.

        Those whose schedule was compared with the database keep their status: it goes on. What is
        wrong with a spec is told in any case.

        Args:
            reason: why, as a sentence.
        """
        now = time.monotonic()
        may_repeat = now >= self._held_at + LOOK_SECONDS
        if may_repeat:
            self._held_at = now
        message = f"JobQueue {self._key.name!r} is not ready: {reason}"
        not_ready = Finding(holds=False, reason=NOT_READY, message=message, is_known=False)
        for jobschedule, finding in judged(self._table.of_jobqueue(self._key)):
            status = jobschedule.status
            is_new = status.observed_generation != jobschedule.generation
            was_not_found = status.state == NOT_FOUND
            # The reason may quote a server, which may say something else each time.
            if is_new or was_not_found or (status.state == NOT_READY and may_repeat):
                await self._reporter.report(jobschedule, finding or not_ready)

    def _steps(
        self,
        declared: Sequence[Judged],
        stored: Sequence[DeclaredSchedule],
        queue_name: str,
        database: QueueDatabase,
    ) -> list[_Step]:
        """Return what is to be done: deletions first, since another one may have the name then."""
        # One with an invalid spec keeps what is stored: a typing error must not delete its history.
        # A younger one must not keep what an older one declares: neither would have it.
        kept = {
            (str(each.jobschedule.key), each.jobschedule.schedule_name)
            for each in declared
            if each.finding is None
        }
        unclear = {str(each.jobschedule.key) for each in declared if each.jobschedule.spec is None}
        rows = {(row.resource, row.name): row for row in stored}
        rows_of_any_name = {row.resource: row for row in stored}
        steps: list[_Step] = []
        for name, row in rows.items():
            key = ObjectKey(*row.resource.partition("/")[::2])
            if key.namespace != self._key.namespace or row.resource in unclear or name in kept:
                continue
            if self._table.refers_to_none(key):
                # Nor must a wrong name of its JobQueue, or one that is not there yet.
                self._has_had_any = True
                continue
            steps.append(_Step(name, partial(self._delete, row, queue_name, database)))
        for each in declared:
            resource = str(each.jobschedule.key)
            name = (resource, each.jobschedule.schedule_name)
            # Of an invalid spec, the name of its schedule is not known either.
            is_unclear = each.jobschedule.spec is None
            found = rows_of_any_name.get(resource) if is_unclear else rows.get(name)
            steps.append(_Step(name, partial(self._ensure_one, each, found, queue_name, database)))
        return steps

    async def _take(self, steps: list[_Step], queue_name: str) -> None:
        """Take the steps, until the database does not answer one in time.

        That one comes last the next time: a row that somebody keeps locked holds up no other.
        """
        self._stuck &= {step.name for step in steps}
        for name, take in sorted(steps, key=lambda step: step.name in self._stuck):
            try:
                await take()
            except DatabaseUnavailableError as error:
                self._stuck.add(name)
                self._has_had_any = True
                _log.warning("schedules not compared", queue=queue_name, error=str(error))
                return
            self._stuck.discard(name)

    async def _delete(
        self, row: DeclaredSchedule, queue_name: str, database: QueueDatabase
    ) -> None:
        try:
            self._check_may_write(self._key.namespace)
            with acting_as(f"operator {row.resource}", source=Source.OPERATOR):
                await database.delete_declared_schedule(queue_name, row.name, row.resource)
        except DatabaseUnavailableError:
            raise
        except MeshHookError as error:
            self._has_had_any = True
            _log.warning(
                "schedule not deleted", queue=queue_name, schedule=row.name, error=str(error)
            )
        else:
            _log.info("schedule deleted", queue=queue_name, schedule=row.name)

    async def _ensure_one(
        self,
        each: Judged,
        row: DeclaredSchedule | None,
        queue_name: str,
        database: QueueDatabase,
    ) -> None:
        jobschedule, finding = each
        failure: MeshHookError | None = None
        if finding is None:
            try:
                owner: str | None = str(jobschedule.key)
                version = _version_of(jobschedule)
                if row is None or not self._is_as_declared(jobschedule, row):
                    was_stored = version in self._declared
                    owner, row = await self._declare(jobschedule, queue_name, database)
                    if was_stored:
                        self._contested[version] = time.monotonic()
                contested_at = self._contested.get(version, float("-inf"))
                finding = finding_of(
                    owner,
                    row,
                    queue_name,
                    jobschedule.schedule_name,
                    is_contested=time.monotonic() < contested_at + CONTEST_SECONDS,
                )
            except MeshHookError as error:
                failure = error
                finding = not_stored(error)
        await self._reporter.report(jobschedule, finding, queue_name=queue_name, row=row)
        if isinstance(failure, DatabaseUnavailableError):
            raise failure

    def _is_as_declared(self, jobschedule: JobSchedule, row: DeclaredSchedule) -> bool:
        paused = jobschedule.spec.paused if jobschedule.spec else None
        is_stored = self._declared.get(_version_of(jobschedule)) == row.content
        return is_stored and paused in {None, row.paused}

    async def _declare(
        self, jobschedule: JobSchedule, queue_name: str, database: QueueDatabase
    ) -> tuple[str | None, DeclaredSchedule | None]:
        self._check_may_write(self._key.namespace)
        with acting_as(f"operator {jobschedule.key}", source=Source.OPERATOR):
            owner, row = await database.declare_schedule(
                jobschedule.schedule_of(queue_name),
                resource=str(jobschedule.key),
                paused=jobschedule.spec.paused if jobschedule.spec else None,
            )
        if row is not None:
            self._declared[_version_of(jobschedule)] = row.content
        return owner, row


def _version_of(jobschedule: JobSchedule) -> tuple[str, int]:
    return jobschedule.uid, jobschedule.generation
