"""One queue: its jobs, its throughput, its workers and its settings; pause and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.administration import get_queue_config, get_queue_snapshot, set_queue_config
from meshhook.audit import AuditEntry, list_audit_entries
from meshhook.console.charts import HEIGHT, WIDTH, bars
from meshhook.console.context import Console, console_of
from meshhook.console.pages.overview import (
    COUNT_LIMIT,
    read_scaling,
    read_schema_version,
    read_workers,
    target_of,
)
from meshhook.console.throughput import read_throughput
from meshhook.dead_letter_search import list_error_groups
from meshhook.names import validate_queue_name
from meshhook.queue_config import QueueSettings

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MAX_CHANGES_READ = 200
"""How many changes of a queue are read to tell who set what."""
_SETTERS_SECONDS = 30.0
_ERRORS = 5


async def show(request: Request) -> Response:
    """Show a queue."""
    console = console_of(request)
    name = validate_queue_name(request.path_params["queue"])
    kept_seconds = console.kept_seconds()
    config = await console.snapshots.get(
        ("config", name),
        lambda: get_queue_config(console.database, name),
        for_seconds=kept_seconds,
    )
    snapshot = await console.snapshots.get(
        ("queue", name),
        lambda: get_queue_snapshot(console.database, name, count_limit=COUNT_LIMIT),
        for_seconds=kept_seconds,
    )
    groups = await console.snapshots.get(
        ("errors", name),
        lambda: list_error_groups(console.database, name, limit=_ERRORS),
        for_seconds=kept_seconds,
    )
    throughput = await read_throughput(console, name)
    scaling = [each for each in await read_scaling(console) if each.queue == name]
    defaults = QueueSettings()
    return console.page(
        request,
        "queue.html",
        queue=snapshot,
        groups=groups,
        workers=[each for each in await read_workers(console) if each.queue == name],
        newest=await read_schema_version(console),
        scaling=scaling,
        own_target_seconds=target_of(console, scaling),
        throughput=throughput,
        bars=bars(throughput.minutes),
        chart_width=WIDTH,
        chart_height=HEIGHT,
        keyed=config.keyed,
        settings=[
            (each, _shown(getattr(config, each)), getattr(config, each) == getattr(defaults, each))
            for each in QueueSettings.model_fields
        ],
        setters=await _setters(console, name),
        is_live=True,
    )


async def pause(request: Request) -> Response:
    """Pause a queue."""
    return await _set_paused(request, is_paused=True)


async def resume(request: Request) -> Response:
    """Resume a queue."""
    return await _set_paused(request, is_paused=False)


async def _set_paused(request: Request, *, is_paused: bool) -> Response:
    console = console_of(request)
    name = validate_queue_name(request.path_params["queue"])
    await set_queue_config(console.database, name, paused=is_paused)
    said = (
        f"Queue {name} is paused: running jobs finish, and none starts."
        if is_paused
        else f"Queue {name} goes on."
    )
    return console.redirect(request, f"/queues/{name}", said=said)


async def _setters(console: Console, queue: str) -> dict[str, AuditEntry]:
    """Return who set a setting last, as far as the newest changes of the queue say."""

    async def read() -> dict[str, AuditEntry]:
        entries = await list_audit_entries(console.database, queue, limit=MAX_CHANGES_READ)
        found: dict[str, AuditEntry] = {}
        for entry in entries:
            if entry.action in ("queue.paused", "queue.resumed"):
                found.setdefault("paused", entry)
            for name, change in (entry.details or {}).items():
                if isinstance(change, dict) and change.keys() == {"old", "new"}:
                    found.setdefault(name, entry)
        return found

    return await console.snapshots.get(("setters", queue), read, for_seconds=_SETTERS_SECONDS)


def _shown(value: object) -> str:
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
