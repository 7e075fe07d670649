"""What is wrong with the database and its queues, and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console.context import console_of
from meshhook.doctor import Severity, examine

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

KEPT_SECONDS = 60.0
"""For how long all viewers are shown the same examination."""


async def show(request: Request) -> Response:
    """Show what the doctor found, the worst first."""
    console = console_of(request)
    findings = await console.snapshots.get(
        "doctor", lambda: examine(console.database), for_seconds=KEPT_SECONDS
    )
    return console.page(
        request,
        "doctor.html",
        findings=[each for each in findings if each.severity is not Severity.OK],
        passed=[each for each in findings if each.severity is Severity.OK],
    )
