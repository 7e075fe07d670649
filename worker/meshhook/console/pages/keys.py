"""The keys of a keyed queue: what waits, runs and is held of each; hold and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console import parameters
from meshhook.console.context import console_of, form_of
from meshhook.console.list_places import place_by_key
from meshhook.keys import hold_key, list_keys, list_keys_by_name, resume_key
from meshhook.names import validate_queue_name

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MAX_LOOKED_AT = 1_000
"""How many keys are looked at for those with the most jobs; all of them are listed by name."""
MAX_SHOWN = 200


async def show(request: Request) -> Response:
    """Show the keys with the most jobs, or a page of all by name, or of those that begin so."""
    console = console_of(request)
    queue = validate_queue_name(request.path_params["queue"])
    sought = parameters.text(request.query_params, "key")
    place = place_by_key(request.query_params)
    after = place.begin
    by_name = sought is not None or after is not None or "by_name" in request.query_params
    if by_name:
        # One more tells whether there are further ones.
        found = await list_keys_by_name(
            console.database, queue, after=after, prefix=sought or "", max_keys=MAX_SHOWN + 1
        )
    else:
        found = await console.snapshots.get(
            ("keys", queue),
            lambda: list_keys(console.database, queue, max_keys=MAX_LOOKED_AT),
            for_seconds=console.kept_seconds(),
        )
    keys = found[:MAX_SHOWN]
    fields = {} if sought is None else {"key": sought}
    here = f"/queues/{queue}/keys"
    next_after = keys[-1].key if by_name and len(found) > MAX_SHOWN else None
    return console.page(
        request,
        "keys.html",
        queue=queue,
        keys=keys,
        seen=len(found),
        is_partial=not by_name and len(found) >= MAX_LOOKED_AT,
        by_name=by_name,
        by_name_url=here + parameters.query({"by_name": 1}),
        links=place.links(here, {"by_name": "1"} | fields, next_after),
        max_shown=MAX_SHOWN,
        fields=fields,
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
