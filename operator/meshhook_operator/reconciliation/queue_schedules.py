"""The schedules of one JobQueue's queue that JobSchedules declare."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from meshhook.actors import Source, acting_as
from meshhook.errors import DatabaseUnavailableError, MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import Finding
from meshhook_operator.api.schedule_spec import NOT_FOUND, NOT_READY
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.api.jobschedule import JobSchedule
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.databases.declared_schedules import DeclaredSchedule
    from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
    from meshhook_operator.reconciliation.schedule_reporter import ScheduleReporter

_log = get_logger("meshhook_operator.schedules")

LOOK_SECONDS = 30.0
"""How often the schedules are compared with what is declared."""
MAX_MESSAGE = 600

SCHEDULED = Finding(
    holds=True, reason="Scheduled", message="The schedule is in the database as declared."
)
PAUSED = Finding(
    holds=True, reason="Paused", message="The schedule is paused: its due times get no jobs."
)


class Judged(NamedTuple):
    """A JobSchedule, and why it may not be stored; None if it may."""

    jobschedule: JobSchedule
    finding: Finding | None


class QueueSchedules:
    """Stores what JobSchedules declare for one queue, and deletes what they no longer declare.

    A schedule in the database names the JobSchedule that declares it. Those without one were made
    by hand or by an application, and are left alone.
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

        Raises:
            DatabaseUnavailableError: if the database cannot be reached.
            ClusterError: if this process may change nothing.
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
        try:
            stored = await database.declared_schedules(queue_name)
            await self._delete_undeclared(queue_name, declared, stored, database)
        except DatabaseUnavailableError:
            raise
        except MeshHookError as error:
            _log.warning("schedules not read", queue=queue_name, error=str(error))
            self._looked_at = now
            return
        rows = {(row.resource, row.name): row for row in stored}
        rows_of_any_name = {row.resource: row for row in stored}
        self._declared = {
            version: content
            for version, content in self._declared.items()
            if version in {_version_of(each.jobschedule) for each in declared}
        }
        for each in declared:
            row = rows.get((str(each.jobschedule.key), each.jobschedule.schedule_name))
            if each.jobschedule.spec is None:  # nor is the name of its schedule known
                row = rows_of_any_name.get(str(each.jobschedule.key))
            await self._ensure_one(each, row, queue_name, database)
        self._looked_at = now
        self._has_had_any = bool(declared)

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

    async def _delete_undeclared(
        self,
        queue_name: str,
        declared: Sequence[Judged],
        stored: Sequence[DeclaredSchedule],
        database: QueueDatabase,
    ) -> None:
        # One with an invalid spec keeps what is stored: a typing error must not delete its history.
        # A younger one must not keep what an older one declares: neither would have it.
        kept = {
            (str(each.jobschedule.key), each.jobschedule.schedule_name)
            for each in declared
            if each.finding is None
        }
        unclear = {str(each.jobschedule.key) for each in declared if each.jobschedule.spec is None}
        for row in stored:
            is_of_namespace = row.resource.startswith(f"{self._key.namespace}/")
            if not is_of_namespace or row.resource in unclear:
                continue
            if (row.resource, row.name) not in kept:
                self._check_may_write(self._key.namespace)
                with acting_as(f"operator {row.resource}", source=Source.OPERATOR):
                    await database.delete_declared_schedule(queue_name, row.name, row.resource)
                _log.info("schedule deleted", queue=queue_name, schedule=row.name)

    async def _ensure_one(
        self,
        each: Judged,
        row: DeclaredSchedule | None,
        queue_name: str,
        database: QueueDatabase,
    ) -> None:
        jobschedule, finding = each
        if finding is None:
            try:
                owner: str | None = str(jobschedule.key)
                if row is None or not self._is_as_declared(jobschedule, row):
                    owner, row = await self._declare(jobschedule, queue_name, database)
                finding = _finding_of(owner, row, queue_name, jobschedule.schedule_name)
            except DatabaseUnavailableError:
                raise
            except MeshHookError as error:
                message = f"the schedule is not stored: {capped(str(error), limit=MAX_MESSAGE)}"
                finding = Finding(holds=False, reason="NotStored", message=message)
        await self._reporter.report(jobschedule, finding, queue_name=queue_name, row=row)

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


def judged(jobschedules: Sequence[JobSchedule]) -> list[Judged]:
    """Return what is wrong with each before the database is asked. Pure.

    Args:
        jobschedules: of one JobQueue, the oldest first. Of two that declare the same schedule, the
            older one keeps it.
    """
    holders: dict[str, JobSchedule] = {}
    found = []
    for jobschedule in jobschedules:
        finding = None
        if jobschedule.spec is None:
            finding = Finding(holds=False, reason="InvalidSpec", message=jobschedule.problem)
        else:
            holder = holders.setdefault(jobschedule.schedule_name, jobschedule)
            if holder is not jobschedule:
                message = (
                    f"JobSchedule {holder.key} is older and already declares schedule "
                    f"{jobschedule.schedule_name!r} of the same queue"
                )
                finding = Finding(holds=False, reason="Conflict", message=message)
        found.append(Judged(jobschedule, finding))
    return found


def _finding_of(
    owner: str | None, row: DeclaredSchedule | None, queue_name: str, name: str
) -> Finding:
    if row is None:
        who = f"JobSchedule {owner}" if owner else "an application, or somebody by hand,"
        message = (
            f"{who} already made schedule {name!r} of queue {queue_name!r}. Give another "
            f"spec.scheduleName, or run: meshhook schedule delete {queue_name} {name}"
        )
        return Finding(holds=False, reason="Conflict", message=message)
    if row.error is not None:
        message = f"it could not be fired: {capped(row.error, limit=MAX_MESSAGE)}"
        return Finding(holds=False, reason="NotFired", message=message)
    return PAUSED if row.paused else SCHEDULED
