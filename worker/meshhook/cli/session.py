"""The database of a command: the one in the environment, or the embedded one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import typer

from meshhook.errors import InvalidSettingError, MeshHookError
from meshhook.settings import Settings

Value = TypeVar("Value")

NO_DATABASE = (
    "no database is named. Set MESHHOOK_DATABASE_URL=postgresql://user:password@host/name, or use "
    "the embedded PostgreSQL: meshhook --embedded COMMAND. (No option takes the URL: it holds a "
    "password, and arguments can be seen by every user of a machine.)"
)


@dataclass(frozen=True)
class Session:
    """What the options before the command say."""

    settings: Settings
    embedded: bool

    @contextmanager
    def database_url(self, *, prefer_embedded: bool = False) -> Iterator[str]:
        """Yield the database's URL; the embedded one is started, and stopped again if it was.

        Args:
            prefer_embedded: whether to use the embedded one where no database is named.

        Raises:
            InvalidSettingError: if no database is named.
            MeshHookError: if the embedded one does not start.
        """
        named = self.settings.database_url
        if not self.embedded and named is not None:
            yield named.get_secret_value()
            return
        if not self.embedded and not prefer_embedded:
            raise InvalidSettingError(NO_DATABASE)
        from meshhook.embedded import EmbeddedPostgres

        server = EmbeddedPostgres(self.settings.embedded_directory)
        was_running = server.pid is not None
        url = server.start()
        try:
            asyncio.run(_migrate(url))
            yield url
        finally:
            if not was_running:
                server.stop()

    @asynccontextmanager
    async def opened(self, url: str) -> AsyncIterator[Any]:
        """Yield a `Database` whose schema is current; closed at the end.

        Raises:
            SchemaMissingError, DatabaseError: if it cannot be used.
        """
        from meshhook.database import Database
        from meshhook.schema import check_schema

        database = await Database.connect(url, pooled=self.settings.pooled)
        try:
            await check_schema(database)
            yield database
        finally:
            await database.close()

    def run(self, command: Callable[[Any], Coroutine[Any, Any, Value]]) -> Value:
        """Run an async command on a `Database`, and return what it returns."""

        async def with_database(url: str) -> Value:
            async with self.opened(url) as database:
                return await command(database)

        with self.database_url() as url:
            return asyncio.run(with_database(url))


def session_of(context: typer.Context) -> Session:
    """Return the session of a command."""
    session = context.find_object(Session)
    if session is None:
        raise MeshHookError("the command was called without its session")
    return session


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is destroyed; without a terminal, `--yes` is needed.

    Raises:
        InvalidSettingError: if there is neither a terminal nor `--yes`.
        typer.Abort: if the answer is no.
    """
    if yes:
        return
    if not os.isatty(0):
        raise InvalidSettingError(f"{question} Add --yes to say so where nobody can be asked.")
    typer.confirm(question, abort=True)


async def _migrate(url: str) -> None:
    from meshhook.database import connect
    from meshhook.schema import migrate

    connection = await connect(url)
    try:
        await migrate(connection)
    finally:
        await connection.close()
