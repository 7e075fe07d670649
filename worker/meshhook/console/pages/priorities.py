"""Priorities of jobs that are stored: set for one job, or for all that a search finds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console import parameters
from meshhook.console.confirmations import is_confirmed, question_page
from meshhook.console.context import console_of, form_of
from meshhook.console.pages.jobs import CHANGE_SECONDS, changer_of
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted
from meshhook.job_changer import JobChanger
from meshhook.job_changes import ChangeResult, JobChanges
from meshhook.job_choice import JobChoice
from meshhook.names import validate_queue_name
from meshhook.priorities import PRIORITY_NAMES, Priority, checked_priority
from meshhook.store.job_rows import LIVE_STATES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.datastructures import FormData
    from starlette.requests import Request
    from starlette.responses import Response

_FILTERS = ("run_id", "workflow_id", "project_id", "state")


def may_set_matching(fields: Mapping[str, str]) -> bool:
    """Return whether a search finds jobs whose priority can be set by the same filters."""
    filters = fields.keys() - {"queue"}
    return (
        "queue" in fields
        and bool(filters)
        and filters <= set(_FILTERS)
        and fields.get("state") in (None, *LIVE_STATES)
    )


async def set_one(request: Request) -> Response:
    """Set the priority of a job that waits, or is a dead letter."""
    console, queue, msg_id, changer = changer_of(request)
    priority = _priority(form_of(request))
    changes = await changer.set_priority(priority)
    name = PRIORITY_NAMES[priority]
    said = (
        f"Job {msg_id} has the priority {name} now."
        if changes.jobs[0].result is ChangeResult.REPRIORITIZED
        else f"Job {msg_id} was left as it is: it runs, has ended, or has this priority."
    )
    return console.redirect(request, f"/queues/{queue}/jobs/{msg_id}", said=said)


async def set_matching(request: Request) -> Response:
    """Set the priority of all jobs that fit and wait, after a question that says how many."""
    console = console_of(request)
    form = form_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    priority = _priority(form)
    filters = {name: parameters.sought(form, name) for name in _FILTERS}
    choice = JobChoice.of(None, **filters)
    changer = JobChanger(console.database, queue, choice, CHANGE_SECONDS)
    given = {name: value for name, value in filters.items() if value is not None}
    back = "/search" + parameters.query({"queue": queue} | given)
    name = PRIORITY_NAMES[priority]
    if not is_confirmed(request):
        found = await changer.set_priority(priority, dry_run=True)
        return question_page(
            request,
            question=f"Set the priority of {_counted(found)} of {queue} to {name}?",
            consequence="Jobs that are ready count as waiting from now on. Those that run, or have "
            "it already, are left alone; those that come to fit until then are changed, too.",
            button=f"Set to {name}",
            back=back,
        )
    done = await changer.set_priority(priority)
    said = f"{_counted(done)} of {queue}: the priority is {name} now."
    if not done.is_complete:
        said += (
            " There may be more: the search ended after its time limit. Go on with meshhook jobs "
            f"set-priority {queue} --priority {name}, or again here."
        )
    return console.redirect(request, back, said=said)


def _priority(form: FormData) -> Priority:
    """Return the priority that a form names.

    Raises:
        InvalidSettingError: if it is none.
    """
    name = parameters.text(form, "priority")
    if name not in PRIORITY_NAMES:
        raise InvalidSettingError(
            f"priority is one of {', '.join(PRIORITY_NAMES)}, got {quoted(name)}"
        )
    return checked_priority(name)


def _counted(changes: JobChanges) -> str:
    more = "" if changes.is_complete else "at least "
    return f"{more}1 job" if changes.changed == 1 else f"{more}{changes.changed:,} jobs"
