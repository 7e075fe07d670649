"""`meshhook console`: the browser console."""

from __future__ import annotations

import asyncio
import getpass
import sys
from contextlib import AsyncExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from meshhook.arguments import MAX_PORT
from meshhook.cli.connecting import Target, log_to_stderr, target
from meshhook.cli.demo import check_demo_extras
from meshhook.cli.failures import DatabaseNotOpenedError, UsageError
from meshhook.cli.options import command_app, example
from meshhook.cli.output import note, say
from meshhook.cli.standard_input import interruptible
from meshhook.environment import load_settings
from meshhook.observability.loggers import get_logger
from meshhook.postgres.database import Database

if TYPE_CHECKING:
    import socket

    from meshhook.console.settings import ConsoleSettings

DEFAULT_PORT = 8080
DEFAULT_ADDRESS = "127.0.0.1"
_MAX_CONNECTIONS = 4

app = command_app()


@app.command(
    "console",
    epilog=example("meshhook console", "meshhook --embedded console --port 8081 --read-only"),
)
def console(
    context: typer.Context,
    *,
    port: Annotated[
        int,
        typer.Option(min=0, max=MAX_PORT, help="The port; 0 picks a free one and logs it."),
    ] = DEFAULT_PORT,
    address: Annotated[
        str,
        typer.Option(
            envvar="MESHHOOK_CONSOLE_ADDRESS",
            help="The address to listen on; others than the loopback need authentication.",
        ),
    ] = DEFAULT_ADDRESS,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Let nobody change anything.")
    ] = False,
    allow_unauthenticated: Annotated[
        bool,
        typer.Option(
            "--allow-unauthenticated",
            help="Let everybody who reaches the address change everything.",
        ),
    ] = False,
    with_demo: Annotated[
        bool,
        typer.Option(
            "--demo",
            help="Beside it, run the receivers of the last `meshhook demo`, mended, and a worker: "
            "what is replayed succeeds.",
        ),
    ] = False,
    hash_password: Annotated[
        bool,
        typer.Option(
            "--hash-password",
            help="Read a password, print its hash for MESHHOOK_CONSOLE_USERS, and end.",
        ),
    ] = False,
) -> None:
    """Serve the console, a web page to see what failed and to replay it, until SIGTERM or Ctrl-C.

    Without authentication it answers this machine only. MESHHOOK_CONSOLE_AUTHENTICATION=basic or
    proxy lets others in; docs/console.md lists all of its environment variables.
    """
    _check_extra()
    if with_demo:
        check_demo_extras()
    if hash_password:
        from meshhook.console.passwords import hash_password as hashed  # noqa: PLC0415 - the extra

        say(hashed(_read_password()))
        return
    from meshhook.console.environment import console_settings  # noqa: PLC0415 - the extra
    from meshhook.console.server import listening_socket  # noqa: PLC0415 - the extra

    settings = console_settings(read_only=read_only, allow_unauthenticated=allow_unauthenticated)
    with listening_socket(settings, address, port) as listener, target(context) as found:
        # A server logs; what others log at the first record only is not enough for it.
        log_to_stderr(load_settings())
        asyncio.run(_serve(found, settings, listener, with_demo=with_demo))


async def _serve(
    found: Target, settings: ConsoleSettings, listener: socket.socket, *, with_demo: bool
) -> None:
    from meshhook.console.app import console_app  # noqa: PLC0415 - the extra
    from meshhook.console.server import address_of, serve  # noqa: PLC0415 - the extra

    try:
        await found.check()
    except DatabaseNotOpenedError as error:
        get_logger("meshhook.console").warning("waiting for the database", error=str(error))
    database = await Database.connect(
        found.url, min_size=0, max_size=_MAX_CONNECTIONS, pooled=found.pooled
    )
    try:
        async with AsyncExitStack() as stack:
            if with_demo:
                from meshhook.demo.mended import mended_demo  # noqa: PLC0415 - needs the extra

                await stack.enter_async_context(mended_demo(found.url))
            note(f"The console is open: {address_of(listener)} (Ctrl-C ends it)")
            await serve(console_app(database, settings=settings), listener)
    finally:
        await database.close()


def _read_password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    with interruptible():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise UsageError("the two passwords differ")
    return password


def _check_extra() -> None:
    """Raise UsageError if a package is missing that the console needs in addition."""
    packages = ("argon2", "itsdangerous", "jinja2", "sse_starlette", "starlette", "uvicorn")
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the console needs {', '.join(missing)}: pip install 'meshhook-queue[console]'"
        )
