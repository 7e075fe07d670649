"""The status and the events of JobSchedules, written when there is news."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook.observability.loggers import get_logger
from meshhook_operator.api.conditions import READY, conditions, timestamp
from meshhook_operator.api.kind import SCHEDULE_KIND
from meshhook_operator.api.schedule_spec import NOT_READY, JobScheduleStatus
from meshhook_operator.api.status import JobQueueStatus
from meshhook_operator.api.wording import as_sentence
from meshhook_operator.reconciliation.allowances import Allowance
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.api.conditions import Finding
    from meshhook_operator.api.jobschedule import JobSchedule
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.databases.declared_schedules import DeclaredSchedule
    from meshhook_operator.reconciliation.jobschedules import JobScheduleTable

_log = get_logger("meshhook_operator.schedules")

EVENTS_AT_ONCE, EVENT_SECONDS = 10, 300.0
"""The most events of a JobSchedule at once, and how long until one more is allowed: what a database
says of a schedule may change with every look."""

_WAYS_OUT = {
    "InvalidSpec": "Correct the field; until then the schedule in the database stays as it is.",
    "NotStored": "The operator tries again every 30 seconds.",
    "NotFired": "Workers try again every minute.",
    NOT_READY: "See kubectl describe jobqueue.",
}
"""What to do about a reason of Ready. Other messages say it themselves."""


class ScheduleReporter:
    """Writes what is new in the status of JobSchedules, and an event when Ready changes."""

    def __init__(
        self, *, cluster: Cluster, table: JobScheduleTable, clock: Callable[[], float]
    ) -> None:
        """Take the Kubernetes API, where written statuses are noted, and seconds since 1970."""
        self._cluster = cluster
        self._table = table
        self._clock = clock
        self._events: dict[str, Allowance] = {}

    async def report(
        self,
        jobschedule: JobSchedule,
        finding: Finding,
        *,
        queue_name: str | None = None,
        row: DeclaredSchedule | None = None,
    ) -> None:
        """Write the status if it differs. If it cannot be written, log that and carry on.

        Args:
            jobschedule: the version that was looked at.
            finding: what Ready says.
            queue_name: the queue; None if the schedule is in none.
            row: the schedule in the database; None if it is not there.
        """
        status = status_of(
            jobschedule, finding, queue_name=queue_name if row else None, row=row, now=self._clock()
        )
        patch = _patch(jobschedule.status, status)
        if not patch:
            return
        before = next(iter(jobschedule.status.conditions), None)
        try:
            await self._cluster.patch_schedule_status(jobschedule.key, patch)
            self._table.note_status(jobschedule, status)
            condition = status.conditions[0]
            was = before and (before.status, before.reason)
            is_news = was != (condition.status, condition.reason)
            if is_news and self._events_of(jobschedule).take(self._clock()):
                await self._cluster.create_event(
                    jobschedule.key,
                    jobschedule.uid,
                    is_warning=condition.status == "False",
                    reason=condition.reason,
                    message=capped(condition.message),
                    kind=SCHEDULE_KIND,
                )
        except MeshHookError as error:
            _log.warning("status not written", jobschedule=str(jobschedule.key), error=str(error))

    def _events_of(self, jobschedule: JobSchedule) -> Allowance:
        if jobschedule.uid not in self._events:
            there_are = {each.uid for each in self._table}
            self._events = {uid: each for uid, each in self._events.items() if uid in there_are}
            self._events[jobschedule.uid] = Allowance(EVENTS_AT_ONCE, EVENT_SECONDS)
        return self._events[jobschedule.uid]


def status_of(
    jobschedule: JobSchedule,
    finding: Finding,
    *,
    queue_name: str | None,
    row: DeclaredSchedule | None,
    now: float,
) -> JobScheduleStatus:
    """Return the status that says a finding; what is not known stays as it was. Pure."""
    last = JobQueueStatus(conditions=jobschedule.status.conditions)
    told = f"{as_sentence(capped(finding.message))} {_WAYS_OUT.get(finding.reason, '')}".strip()
    times = {
        "queue": queue_name,
        "last_schedule_time": timestamp(row.last_at) if row and row.last_at else None,
        "next_schedule_time": timestamp(row.next_at) if row and row.next_at else None,
    }
    if not finding.is_known:
        times = jobschedule.status.model_dump(include=set(times))
    (condition,) = conditions(last, {READY: finding}, generation=jobschedule.generation, now=now)
    return JobScheduleStatus(
        observed_generation=jobschedule.generation,
        state=finding.reason,
        **times,
        conditions=[condition.model_copy(update={"message": told})],
    )


def _patch(before: JobScheduleStatus, after: JobScheduleStatus) -> dict[str, object]:
    was = before.model_dump(by_alias=True, exclude_none=True)
    now = after.model_dump(by_alias=True, exclude_none=True)
    gone: dict[str, object] = {name: None for name in was if name not in now}
    return gone | {name: value for name, value in now.items() if was.get(name) != value}
