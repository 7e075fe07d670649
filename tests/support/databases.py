"""Throw-away servers and databases for tests, as `meshhook.testing` makes them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from meshhook.testing.databases import Databases as DatabasesByUrl
from meshhook.testing.databases import name_of
from meshhook.testing.places import server_directory
from meshhook.testing.servers import SERVER_SETTINGS

if TYPE_CHECKING:
    from meshhook.embedded import EmbeddedPostgres

__all__ = ["TEST_SETTINGS", "Databases", "quicken_logins", "server_directory"]

# No vacuum and no analysis but those of the tests: plans would depend on when one comes.
TEST_SETTINGS = SERVER_SETTINGS | {"autovacuum_naptime": "1d"}

_ATTEMPTS = 3
_CONNECTION_LOST = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)


class Databases(DatabasesByUrl):
    """The databases of one embedded server.

    While a test runs, the database for the next one is cloned and that of the last one dropped.
    """

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._spares: dict[str, asyncio.Task[str]] = {}
        self._drops: list[asyncio.Task[None]] = []
        self._turn = asyncio.Lock()
        super().__init__(server.start(), prefix="test_", copies_files=True)

    def create(self, *, template: str = "template0", encoding: str | None = None) -> str:
        """Create a database, or take the spare one, and return its URL."""
        if template == "template0":
            return super().create(template=template, encoding=encoding)
        return self.url(self.run(self._take(template)))

    def drop(self, url: str) -> None:
        """Have a database dropped, even if somebody is connected to it; `close` waits for that."""
        self.run(self._begin_drop(name_of(url)))

    def close(self) -> None:
        """Wait for what has been begun, and close the connection to the server.

        Raises:
            ExceptionGroup: if databases could not be dropped.
        """
        errors = self.run(self._end())
        super().close()
        if errors:
            raise ExceptionGroup("databases could not be dropped", errors)

    async def _take(self, template: str) -> str:
        spare = self._spares.pop(template, None)
        name = await (spare or self._clone(template))
        self._spares[template] = asyncio.create_task(self._clone(template))
        return name

    async def _clone(self, template: str) -> str:
        name = f"{self._prefix}{secrets.token_hex(8)}"
        await self._execute(f"create database {name} template {template}{self._strategy}")
        return name

    async def _begin_drop(self, name: str) -> None:
        self._drops = [task for task in self._drops if not task.done() or task.exception()]
        self._drops.append(asyncio.create_task(self._finish_drop(name)))

    async def _finish_drop(self, name: str) -> None:
        await self._execute(f"drop database if exists {name} with (force)")

    async def _end(self) -> list[Exception]:
        ended = await asyncio.gather(*self._drops, return_exceptions=True)
        await asyncio.gather(*self._spares.values(), return_exceptions=True)
        return [each for each in ended if isinstance(each, Exception)]

    def _fetch(self, sql: str) -> Sequence[asyncpg.Record]:
        return self.run(self._execute(sql))

    async def _execute(self, sql: str) -> Sequence[asyncpg.Record]:
        """Run a statement when those before it are done; anew if a test ends all sessions."""
        async with self._turn:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    if self._connection.is_closed():
                        self._connection = await self._connect()
                    return await self._connection.fetch(sql)
                except _CONNECTION_LOST:
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError


def quicken_logins(url: str) -> None:
    """Store the password of a URL's role anew, so that a login with it takes little time.

    The proof of a login takes as many rounds as the stored password says. asyncpg works each of the
    usual 4,096 out in Python, which would be the larger part of many tests.
    """

    async def store() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("set scram_iterations = 1")
            password = urlsplit(url).password  # of characters that need no quotes
            await connection.execute(f"alter role current_user password '{password}'")
        finally:
            await connection.close()

    # In a thread of its own: an async test may be the first to ask for the server.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, store()).result()
