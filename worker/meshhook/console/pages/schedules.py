"""Schedules: the next and the last time, why one failed; run now, pause and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console import parameters
from meshhook.console.context import console_of
from meshhook.names import validate_queue_name, validate_schedule_name
from meshhook.schedules import (
    MAX_SCHEDULES,
    list_schedules,
    pause_schedule,
    resume_schedule,
    run_schedule,
)

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


async def show(request: Request) -> Response:
    """Show the schedules of all queues, or of one."""
    console = console_of(request)
    queue = parameters.text(request.query_params, "queue")
    if queue is not None:
        queue = validate_queue_name(queue)
    schedules = await console.snapshots.get(
        ("schedules", queue),
        lambda: list_schedules(console.database, queue),
        for_seconds=console.kept_seconds(),
    )
    return console.page(
        request,
        "schedules.html",
        queue=queue,
        schedules=schedules,
        is_partial=len(schedules) >= MAX_SCHEDULES,
        is_live=True,
    )


async def pause(request: Request) -> Response:
    """Pause a schedule."""
    console, (queue, name) = console_of(request), _named(request)
    await pause_schedule(console.database, queue, name)
    return console.redirect(request, "/schedules", said=f"Schedule {name} of {queue} is paused.")


async def resume(request: Request) -> Response:
    """Let a schedule go on at its next due time."""
    console, (queue, name) = console_of(request), _named(request)
    await resume_schedule(console.database, queue, name)
    return console.redirect(request, "/schedules", said=f"Schedule {name} of {queue} goes on.")


async def run(request: Request) -> Response:
    """Enqueue the job of a schedule now."""
    console, (queue, name) = console_of(request), _named(request)
    msg_id = await run_schedule(console.database, queue, name)
    return console.redirect(
        request,
        "/schedules",
        said=f"Schedule {name} of {queue} was run: its job is {msg_id}.",
        link=f"/queues/{queue}/jobs/{msg_id}",
    )


def _named(request: Request) -> tuple[str, str]:
    return (
        validate_queue_name(request.path_params["queue"]),
        validate_schedule_name(request.path_params["name"]),
    )
