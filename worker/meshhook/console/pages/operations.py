"""The progress and the result of a change of many dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.console.context import console_of
from meshhook.errors import JobNotFoundError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


class OperationNotFoundError(JobNotFoundError):
    """An operation that this process does not know."""

    def __init__(self) -> None:
        """Say where else to look."""
        super().__init__(
            "this operation is not known here any more: the console was started again, or a "
            "hundred others came after it. What it did is in the audit log"
        )


async def show(request: Request) -> Response:
    """Show an operation."""
    console = console_of(request)
    operation = console.operations.get(request.path_params["id"])
    if operation is None:
        raise OperationNotFoundError
    return console.page(
        request,
        "operation.html",
        operation=operation,
        is_live=operation.is_running,
        # Without JavaScript, the page loads itself.
        reload_seconds=2 if operation.is_running else None,
    )
