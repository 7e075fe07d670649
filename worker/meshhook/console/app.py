"""The console as one ASGI application, to be served or mounted."""

from __future__ import annotations

from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

import asyncpg
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from meshhook.console.arrivals import Arrivals
from meshhook.console.authentication import RefusedError, authentication_of
from meshhook.console.context import Console, console_of
from meshhook.console.guard import Guard
from meshhook.console.headers import PAGE_CACHE, STATIC_CACHE
from meshhook.console.live import Streams
from meshhook.console.minute_counts import MinuteCounts
from meshhook.console.operations import Operations, TooManyOperationsError
from meshhook.console.pages import (
    audit,
    dead_letters,
    doctor,
    jobs,
    keys,
    operations,
    overview,
    priorities,
    queues,
    schedules,
    search,
    workers,
)
from meshhook.console.redactions import Redactions
from meshhook.console.rendering import STATIC_FILES, make_environment
from meshhook.console.settings import ConsoleSettings
from meshhook.console.snapshots import Snapshots
from meshhook.console.tokens import Tokens
from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DeadLetterNotFoundError,
    DuplicateJobError,
    InvalidJobError,
    InvalidQueueNameError,
    InvalidSettingError,
    JobNotFoundError,
    MeshHookError,
    QueueNotFoundError,
    ScheduleNotFoundError,
)
from meshhook.postgres.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

    from meshhook.postgres.database import DatabaseSource

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

PAGES = (
    Route("/", overview.show, name="overview"),
    Route("/queues/{queue}", queues.show),
    Route("/dead-letters", dead_letters.show_errors),
    Route("/queues/{queue}/dead-letters", dead_letters.show_list),
    Route("/queues/{queue}/dead-letters/confirm", dead_letters.confirm),
    Route("/queues/{queue}/dead-letters/{id}", jobs.show_dead_letter),
    Route("/queues/{queue}/jobs/{id}", jobs.show_job),
    Route("/operations/{id}", operations.show),
    Route("/queues/{queue}/keys", keys.show),
    Route("/search", search.show),
    Route("/workers", workers.show),
    Route("/schedules", schedules.show),
    Route("/doctor", doctor.show),
    Route("/audit", audit.show),
    Route("/audit.csv", audit.export),
)
"""What may be looked at."""

CHANGES = (
    Route("/queues/{queue}/pause", queues.pause, methods=["POST"]),
    Route("/queues/{queue}/resume", queues.resume, methods=["POST"]),
    Route("/queues/{queue}/dead-letters/chosen", dead_letters.change_chosen, methods=["POST"]),
    Route("/queues/{queue}/dead-letters/matching", dead_letters.change_matching, methods=["POST"]),
    Route("/queues/{queue}/dead-letters/{id}/replay", jobs.replay, methods=["POST"]),
    Route("/queues/{queue}/dead-letters/{id}/delete", jobs.delete, methods=["POST"]),
    Route("/queues/{queue}/jobs/{id}/cancel", jobs.cancel, methods=["POST"]),
    Route("/queues/{queue}/jobs/{id}/run-now", jobs.run_now, methods=["POST"]),
    Route("/queues/{queue}/jobs/{id}/priority", priorities.set_one, methods=["POST"]),
    Route("/queues/{queue}/jobs/matching", priorities.set_matching, methods=["POST"]),
    Route("/queues/{queue}/keys/hold", keys.hold, methods=["POST"]),
    Route("/queues/{queue}/keys/resume", keys.resume, methods=["POST"]),
    Route("/schedules/{queue}/{name}/run", schedules.run, methods=["POST"]),
    Route("/schedules/{queue}/{name}/pause", schedules.pause, methods=["POST"]),
    Route("/schedules/{queue}/{name}/resume", schedules.resume, methods=["POST"]),
)
"""What changes something: for operators only, as the guard sees to."""

_MISSING_RIGHT = (
    "\n\nThe database role of the console lacks this right. To show things it needs a role of kind "
    "reader, to change them one of kind oncall: meshhook roles grant oncall --name ROLE"
)

_STATUSES: tuple[tuple[type[MeshHookError], int], ...] = (
    (QueueNotFoundError, 404),
    (DeadLetterNotFoundError, 404),
    (JobNotFoundError, 404),
    (ScheduleNotFoundError, 404),
    (DuplicateJobError, 409),
    (TooManyOperationsError, 409),
    (DatabaseReadOnlyError, 403),
    (DatabaseError, 503),
    (InvalidQueueNameError, 400),
    (InvalidSettingError, 400),
    (InvalidJobError, 400),
)


def console_app(database: DatabaseSource, *, settings: ConsoleSettings | None = None) -> Starlette:
    """Return the console.

    It opens connections when the first page is asked for. An application that it is mounted in may
    close them with `await console.state.close()`; one that is served by itself does so at the end.

    Args:
        database: an asyncpg pool, or postgresql://user:password@host:port/database, to which a pool
            of at most 4 connections is opened. A role of kind oncall suffices; of kind reader with
            `read_only`.
        settings: who may use it, and what it shows. Default: everybody on this machine, everything.

    Raises:
        InvalidSettingError: if the users are wrong, or `database` is none.
    """
    settings = settings or ConsoleSettings()
    source = Database.of(database)
    secret = None if settings.secret is None else settings.secret.get_secret_value()
    console = Console(
        database=source,
        settings=settings,
        templates=make_environment(settings),
        tokens=Tokens(secret),
        snapshots=Snapshots(),
        operations=Operations(source),
        redactions=Redactions(settings.redact),
        arrivals=Arrivals(),
        minute_counts=MinuteCounts(),
    )
    streams = Streams()

    async def close() -> None:
        await console.operations.close()
        await console.snapshots.close()
        await source.close()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await close()

    app = Starlette(
        routes=[
            *PAGES,
            *CHANGES,
            Route("/events", streams.listen),
            Route("/healthz", _healthz),
            Route("/static/{hash}/{name}", _static),
        ],
        middleware=[
            Middleware(
                Guard,
                settings=settings,
                authentication=authentication_of(settings),
                tokens=console.tokens,
                refuse=_refuse,
            )
        ],
        exception_handlers={
            MeshHookError: _show_error,
            RefusedError: _show_refusal,
            404: _show_missing,
            405: _show_missing,
        },
        lifespan=lifespan,
    )
    # A redirect would name whatever `Host` says; every page has one address.
    app.router.redirect_slashes = False
    app.state.console = console
    app.state.streams = streams
    app.state.close = close
    return app


async def _healthz(_: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC_FILES:
        return PlainTextResponse("not found\n", 404)
    content = resources.files("meshhook.console").joinpath("static", name).read_bytes()
    media_type = _MEDIA_TYPES[name[name.rindex(".") :]]
    # Of another version, as in an upgrade of several, it is not kept under that version's address.
    is_this = request.path_params["hash"] == console_of(request).templates.globals["static_hash"]
    cache = STATIC_CACHE if is_this else PAGE_CACHE
    return Response(content, 200, {"cache-control": cache}, media_type)


def _refuse(request: Request, error: RefusedError) -> Response:
    return console_of(request).page(
        request,
        "error.html",
        status=error.status,
        headers=error.headers,
        title="That did not work" if error.status >= 500 else "Not allowed",  # noqa: PLR2004
        message=error.message,
        kept=error.kept,
    )


def _show_error(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 400)
    message = str(error)
    if isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
        status = 403
        message += _MISSING_RIGHT
    title = "Not found" if status == 404 else "That did not work"  # noqa: PLR2004
    return console_of(request).page(
        request, "error.html", status=status, title=title, message=message
    )


def _show_refusal(request: Request, error: Exception) -> Response:
    if not isinstance(error, RefusedError):
        raise TypeError
    return _refuse(request, error)


def _show_missing(request: Request, error: Any) -> Response:
    return console_of(request).page(
        request,
        "error.html",
        status=error.status_code,
        title="Not found",
        message="There is no such page in the console.",
    )
