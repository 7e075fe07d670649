"""`meshhook serve-postgres`: the embedded PostgreSQL, served to other machines."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from meshhook.cli.failures import ServerEndedError, UsageError
from meshhook.cli.interrupts import clean_up_first
from meshhook.cli.options import command_app, example
from meshhook.cli.output import note
from meshhook.embedded import NetworkPostgres
from meshhook.environment import load_settings
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.roles import Login, create_role, default_role_name
from meshhook.schema import migrate

_PASSWORD_VARIABLE = "MESHHOOK_POSTGRES_PASSWORD"  # noqa: S105 - its name, not the password


app = command_app()


@app.command(
    "serve-postgres",
    epilog=example(
        "meshhook serve-postgres /data",
        "meshhook serve-postgres /data --set shared_buffers=256MB",
    ),
)
def serve_postgres(
    directory: Annotated[Path, typer.Argument(help="Where the data is kept; created if missing.")],
    *,
    port: Annotated[int, typer.Option(help="The port to listen on, 1 to 65535.")] = 5432,
    host: Annotated[str, typer.Option(help="The address to listen on; * for all.")] = "*",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A PostgreSQL setting; may be repeated."),
    ] = None,
) -> None:
    """Serve the embedded PostgreSQL to other machines until SIGTERM or SIGINT.

    It is migrated first, and opens its port when it is ready. Clients connect as the role meshhook
    to the database meshhook, with the password in MESHHOOK_POSTGRES_PASSWORD. With passwords in
    MESHHOOK_POSTGRES_OPERATOR_PASSWORD and MESHHOOK_POSTGRES_WORKER_PASSWORD, the operator and the
    workers get least-privilege roles, meshhook_operator and meshhook_worker;
    MESHHOOK_POSTGRES_ONCALL_PASSWORD and MESHHOOK_POSTGRES_READER_PASSWORD make meshhook_oncall and
    meshhook_reader, for the console.

    It is meant for evaluation: one server, no TLS, no backups.
    """
    passwords = load_settings()
    secret = passwords.postgres_password
    if secret is None:
        raise UsageError(
            f"no password is set: export {_PASSWORD_VARIABLE} (not as an option, which any user of "
            "the machine could read)"
        )
    logins = {
        kind: Login(default_role_name(kind), password.get_secret_value())
        for kind, password in (
            (RoleKind.OPERATOR, passwords.postgres_operator_password),
            (RoleKind.WORKER, passwords.postgres_worker_password),
            (RoleKind.ONCALL, passwords.postgres_oncall_password),
            (RoleKind.READER, passwords.postgres_reader_password),
        )
        if password is not None
    }
    server = NetworkPostgres(
        directory,
        password=secret.get_secret_value(),
        port=port,
        host=host,
        settings=dict(map(_setting, settings or [])),
        others=[login.user for login in logins.values()],
    )
    clean_up_first()
    with _interrupted_by_sigterm():
        _prepare(server, logins)
        note(f"PostgreSQL is ready, and opens port {port}.")
        code = server.run()
    if code:
        raise ServerEndedError(code)


def _prepare(server: NetworkPostgres, logins: Mapping[RoleKind, Login]) -> None:
    """Start, migrate and create roles; a failure or a signal leaves nothing running."""

    async def bring_up_to_date(url: str) -> None:
        database = await Database.connect(url, min_size=1, max_size=2)
        try:
            async with database.acquire() as connection:
                await migrate(connection)
        finally:
            await database.close()

    async def make_roles(url: str) -> None:
        database = await Database.connect(url, min_size=1, max_size=2)
        try:
            for kind, login in logins.items():
                await create_role(database, kind, login=login, reset_password=True)
        finally:
            await database.close()

    try:
        asyncio.run(bring_up_to_date(server.prepare()))
        if logins:
            asyncio.run(make_roles(server.admin_url))
    except BaseException:
        server.stop()
        raise


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    # The first process of a container would otherwise ignore SIGTERM.
    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--set {text!r}: must be NAME=VALUE, for example shared_buffers=256MB")
    return name, value
