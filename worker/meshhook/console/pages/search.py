"""Searching jobs by run, workflow, project, id, state, priority, error and time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.responses import RedirectResponse

from meshhook.console import parameters
from meshhook.console.context import console_of
from meshhook.console.list_places import place_by_id
from meshhook.console.pages.overview import read_overview
from meshhook.console.pages.priorities import may_set_matching
from meshhook.names import validate_queue_name
from meshhook.store.job_rows import FINAL_STATES, LIVE_STATES
from meshhook.tracking import FoundJobs, find_jobs

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

PAGE_ROWS = 50
SEARCH_SECONDS = 3.0
_NAMES = (
    *("queue", "id", "run_id", "workflow_id", "project_id", "state", "priority", "error_type"),
    "since",
)


async def show(request: Request) -> Response:
    """Show the form, and what was found."""
    console = console_of(request)
    values = request.query_params
    fields = {name: value for name in _NAMES if (value := parameters.sought(values, name))}
    queue = fields.get("queue")
    if (msg_id := fields.get("id")) is not None and queue is not None:
        number = parameters.number(msg_id, "id")
        base = request.scope.get("root_path", "")
        return RedirectResponse(f"{base}/queues/{validate_queue_name(queue)}/jobs/{number}", 303)
    place = place_by_id(values)
    found: FoundJobs | None = None
    hint: str | None = None
    if msg_id is not None:
        hint = "An id is of one queue: choose the queue as well."
    elif set(fields) - {"id"}:
        wanted: dict[str, Any] = {
            name: fields[name] for name in fields if name not in ("id", "since")
        }
        if "since" in fields:
            wanted["since"] = parameters.moment(fields["since"], "since")
        found = await find_jobs(
            console.database,
            before_id=place.id,
            limit=PAGE_ROWS,
            search_seconds=SEARCH_SECONDS,
            **wanted,
        )
    overview = await read_overview(console)
    return console.page(
        request,
        "search.html",
        fields=fields,
        found=found,
        hint=hint,
        queues=[each.queue.queue for each in overview.lines],
        states=LIVE_STATES + FINAL_STATES,
        may_set_priority=bool(found) and may_set_matching(fields),
        links=place.links("/search", fields, _next_before(found, queue)),
    )


def _next_before(found: FoundJobs | None, queue: str | None) -> int | None:
    """Return below which id the search goes on; ids are of one queue, so only there."""
    if found is None or queue is None:
        return None
    if len(found) == PAGE_ROWS:
        return min(each.msg_id for each in found)
    return found.unread_below.get(queue)
