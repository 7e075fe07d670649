"""The keys of a keyed queue: what waits, runs and is held of each; hold and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console import parameters
from meshhook.console.context import console_of, form_of
from meshhook.keys import get_key, hold_key, list_keys, resume_key
from meshhook.names import validate_queue_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MAX_LOOKED_AT = 1_000
"""How many keys are looked at; of a queue with more, one is found by its name."""
MAX_SHOWN = 200


async def show(request: Request) -> Response:
    """Show the keys with the most jobs, or the one that is asked for."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    sought = parameters.text(request.query_params, "key")
    if sought is not None:
        keys = [await get_key(console.database, queue, sought)]
    else:
        keys = await console.snapshots.get(
            ("keys", queue),
            lambda: list_keys(console.database, queue, max_keys=MAX_LOOKED_AT),
            for_seconds=console.settings.refresh_seconds * 0.9,
        )
    return console.page(
        request,
        "keys.html",
        queue=queue,
        keys=keys[:MAX_SHOWN],
        seen=len(keys),
        is_partial=len(keys) >= MAX_LOOKED_AT,
        max_shown=MAX_SHOWN,
        fields={} if sought is None else {"key": sought},
        is_live=True,
    )


async def hold(request: Request) -> Response:
    """Hold a key until it is resumed."""
    console, form = console_of(request), form_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    key = str(form.get("key", ""))
    await hold_key(console.database, queue, key, reason=parameters.text(form, "reason"))
    return console.redirect(
        request,
        f"/queues/{queue}/keys",
        said="The key is held: its running jobs finish, and none starts until it is resumed.",
    )


async def resume(request: Request) -> Response:
    """Hold a key no longer, and close its breaker."""
    console, form = console_of(request), form_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    await resume_key(console.database, queue, str(form.get("key", "")))
    return console.redirect(request, f"/queues/{queue}/keys", said="The key goes on.")
