"""The progress and the result of a change of many dead letters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from meshhook.audit import MAX_ENTRIES, list_audit_entries
from meshhook.console import parameters
from meshhook.console.context import Console, console_of
from meshhook.console.operations import MATCHED, Action
from meshhook.console.pages.overview import read_workers
from meshhook.errors import JobNotFoundError
from meshhook.names import validate_queue_name
from meshhook.store import queries

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from meshhook.console.operations import Operation

FOLLOWED = timedelta(minutes=10)
"""For how long the page of a replay follows the jobs that it made."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What has come of the jobs that a replay made."""

    jobs: int
    """How many are followed."""
    succeeded: int
    failed: int
    """How many are dead letters again."""
    cancelled: int
    workers: int
    """How many workers of the queue are alive."""

    @property
    def unfinished(self) -> int:
        """How many wait, run, or are tried again."""
        return max(0, self.jobs - self.succeeded - self.failed - self.cancelled)


class OperationNotFoundError(JobNotFoundError):
    """An operation that this process does not know, by an address that says nothing of it."""

    def __init__(self) -> None:
        """Say where else to look."""
        super().__init__(
            "this operation is not known here any more: the console was started again, or a "
            "hundred others came after it. What it did is in the audit log"
        )


async def show(request: Request) -> Response:
    """Show an operation; one that this process does not know by what the audit log says of it."""
    console = console_of(request)
    operation = console.operations.get(request.path_params["id"])
    if operation is None:
        return await _show_ended(console, request)
    outcomes = await _outcomes(console, operation)
    rest = {"action": operation.action, "up_to_id": operation.up_to_id, **operation.wanted.fields()}
    return console.page(
        request,
        "operation.html",
        operation=operation,
        outcomes=outcomes,
        # What was not come to, with the same filter.
        rest_url=f"/queues/{operation.queue}/dead-letters/confirm" + parameters.query(rest)
        if operation.error or not (operation.is_running or operation.is_complete)
        else None,
        is_live=operation.is_running
        or (outcomes is not None and outcomes.unfinished > 0 and _is_followed(operation)),
        # Without JavaScript, the page loads itself.
        reload_seconds=2 if operation.is_running else None,
    )


def _is_followed(operation: Operation) -> bool:
    return datetime.now(UTC) - operation.started_at < FOLLOWED


async def _outcomes(console: Console, operation: Operation) -> Outcomes | None:
    """Return what has come of the jobs of a replay, which all viewers share."""
    if not operation.new_jobs:
        return None

    async def read() -> Outcomes:
        rows = await console.database.fetch(
            queries.load("count_outcomes"),
            operation.queue,
            operation.new_jobs,
            # The clocks of this host and of the database may differ.
            operation.started_at - timedelta(hours=1),
        )
        jobs = {row["outcome"]: row["jobs"] for row in rows}
        workers = await read_workers(console)
        return Outcomes(
            jobs=len(operation.new_jobs),
            succeeded=jobs.get("succeeded", 0) + jobs.get("archived", 0),
            failed=jobs.get("dead_lettered", 0),
            cancelled=jobs.get("cancelled", 0),
            workers=sum(each.queue == operation.queue for each in workers),
        )

    return await console.snapshots.get(
        ("outcomes", operation.id), read, for_seconds=console.kept_seconds()
    )


async def _show_ended(console: Console, request: Request) -> Response:
    query = request.query_params
    name, said = parameters.text(query, "queue"), parameters.text(query, "action")
    if name is None or said not in list(Action):
        raise OperationNotFoundError
    queue, action = validate_queue_name(name), Action(said)
    up_to_id = parameters.optional_number(query, "up_to_id")
    rest: dict[str, object] = {"action": action, "up_to_id": up_to_id}
    rest |= parameters.filter_fields(query)
    # One row for each chunk of at most 1,000 dead letters; those of an operation stand together.
    entries = [
        each
        for each in await list_audit_entries(
            console.database, queue, action=f"dead_letters.{action.done}", limit=MAX_ENTRIES
        )
        if each.operation == request.path_params["id"]
    ]
    changed = sum(each.count or 0 for each in entries)
    matched = next((_number((each.filter or {}).get(MATCHED)) for each in entries), None)
    return console.page(
        request,
        "ended.html",
        queue=queue,
        action=action,
        changed=changed,
        matched=matched,
        is_whole=matched is not None and changed >= matched,
        rest_url=f"/queues/{queue}/dead-letters/confirm" + parameters.query(rest),
    )


def _number(value: object) -> int | None:
    # Whoever may write to the log may have written anything.
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else None
