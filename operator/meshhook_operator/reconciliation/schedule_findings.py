"""What the condition Ready of a JobSchedule says of its schedule. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from meshhook_operator.api.conditions import Finding
from meshhook_operator.texts import capped

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.errors import MeshHookError
    from meshhook_operator.api.jobschedule import JobSchedule
    from meshhook_operator.databases.declared_schedules import DeclaredSchedule

MAX_MESSAGE = 600
MAX_DECLARED = 1_000
"""How many schedules of one queue JobSchedules may declare."""

SCHEDULED = Finding(
    holds=True, reason="Scheduled", message="The schedule is in the database as declared."
)
PAUSED = Finding(
    holds=True, reason="Paused", message="The schedule is paused: its due times get no jobs."
)

CONTESTED = Finding(
    holds=True,
    reason="Contested",
    message=(
        "Somebody else changed or deleted the schedule in the database, and the operator stored it "
        "again. Declare it in one place only: here, or in an app, in SQL or by hand. "
        "meshhook audit list shows who made the change."
    ),
)


class Judged(NamedTuple):
    """A JobSchedule, and why it may not be stored; None if it may."""

    jobschedule: JobSchedule
    finding: Finding | None


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
            if len(holders) > MAX_DECLARED:
                del holders[jobschedule.schedule_name]
                message = (
                    f"the queue has {MAX_DECLARED:,} older JobSchedules, and more are not stored: "
                    "delete some, or use another queue"
                )
                finding = Finding(holds=False, reason="TooMany", message=message)
            elif holder is not jobschedule:
                message = (
                    f"JobSchedule {holder.key} is older and already declares schedule "
                    f"{jobschedule.schedule_name!r} of the same queue"
                )
                finding = Finding(holds=False, reason="Conflict", message=message)
        found.append(Judged(jobschedule, finding))
    return found


def finding_of(
    owner: str | None,
    row: DeclaredSchedule | None,
    queue_name: str,
    name: str,
    *,
    is_contested: bool,
) -> Finding:
    """Return what Ready says of a JobSchedule that the database was asked about. Pure.

    Args:
        owner: the JobSchedule that has the schedule; None if it was made by hand.
        row: the schedule; None if it is that of another one.
        queue_name: the queue.
        name: of the schedule.
        is_contested: whether somebody else has changed it recently.
    """
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
    if row.paused:
        return PAUSED
    return CONTESTED if is_contested else SCHEDULED


def not_stored(error: MeshHookError) -> Finding:
    """Return what Ready says of a JobSchedule that the database did not take. Pure."""
    message = f"the schedule is not stored: {capped(str(error), limit=MAX_MESSAGE)}"
    return Finding(holds=False, reason="NotStored", message=message)
