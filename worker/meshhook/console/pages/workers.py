"""The workers that are alive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console.context import console_of
from meshhook.console.pages.overview import read_schema_version, read_workers

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

MAX_SHOWN = 500


async def show(request: Request) -> Response:
    """Show the workers of all queues."""
    console = console_of(request)
    workers = await read_workers(console)
    newest = await read_schema_version(console)
    return console.page(
        request,
        "workers.html",
        workers=workers[:MAX_SHOWN],
        newest=newest,
        others=len([each for each in workers if each.schema_version != newest]),
        hidden=max(0, len(workers) - MAX_SHOWN),
        is_live=True,
    )
