"""Schedules that fail or are late."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.doctor.finding import Finding, Severity, spelled
from meshhook.schedules import Schedule
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshhook.doctor.case import Case

LATE_SECONDS = 300.0
MAX_SCHEDULES = 1_000


async def look(case: Case) -> Sequence[Finding]:
    """Judge each schedule of the queues."""
    rows = await case.fetch(queries.load("list_schedules"), None, None, MAX_SCHEDULES)
    return [
        finding
        for row in rows
        if case.queues is None or row["queue"] in case.queues
        for finding in judge(Schedule(**dict(row)))
    ]


def judge(schedule: Schedule) -> Iterator[Finding]:
    """Judge one schedule."""
    subject = f"schedule {schedule.queue}/{schedule.name}"
    if schedule.error is not None and not schedule.paused:
        yield Finding(
            "schedules",
            Severity.CRITICAL,
            subject,
            f"cannot be fired: {schedule.error}",
            f"meshhook schedule list --queue {schedule.queue}; mend it: meshhook schedule add "
            f"{schedule.queue} {schedule.name} ...",
        )
    elif schedule.late_seconds >= LATE_SECONDS:
        yield Finding(
            "schedules",
            Severity.CRITICAL,
            subject,
            f"has been due for {spelled(schedule.late_seconds)}: no worker that may enqueue looks",
            f"start a worker, or let its role enqueue: meshhook roles grant producer --queue "
            f"{schedule.queue} --name ROLE",
        )
