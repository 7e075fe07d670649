"""Throw-away databases on one server, cloned from a template: quick, and never shared.

The work is done in a separate thread, so it can be requested with or without an event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote, unquote, urlsplit

from meshhook.postgres.connecting import connect
from meshhook.postgres.driver_errors import translated_errors

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    import asyncpg

NAME_PREFIX = "meshhook_test_"
"""How the names of the databases begin."""
APPLICATION_NAME = "databases for tests"
"""What PostgreSQL shows of the connections that create and drop databases. It does not begin with
`meshhook`, since a test may end all sessions of that name."""

Prepare = Callable[["asyncpg.Connection[asyncpg.Record]"], Awaitable[object]]
"""Prepares a template, over a connection to it."""

_Value = TypeVar("_Value")


class Databases:
    """The databases that tests have on one server."""

    def __init__(self, url: str, *, prefix: str = NAME_PREFIX, copies_files: bool = False) -> None:
        """Connect to the server.

        Args:
            url: a database of the server, with a role that may create and drop databases.
            prefix: how the names of new databases begin.
            copies_files: whether to clone a database by copying its files, which takes less than
                half of the time, but makes the server write out all else first. Default false.

        Raises:
            InvalidSettingError, DatabaseError: if it cannot be connected to.
        """
        self._admin_url = url
        self._prefix = prefix
        self._strategy = " strategy file_copy" if copies_files else ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="meshhook-databases", daemon=True
        )
        self._thread.start()
        try:
            self._connection = self.run(self._connect())
        except BaseException:
            self._end_thread()
            raise

    def close(self) -> None:
        """Close the connection to the server."""
        self.run(self._connection.close())
        self._end_thread()

    def url(self, name: str) -> str:
        """Return the URL of a database of the server."""
        return url_of(self._admin_url, name)

    def create(self, *, template: str = "template0", encoding: str | None = None) -> str:
        """Create a database and return its URL.

        Args:
            template: the database to clone. Default: an empty one.
            encoding: the encoding. Default: that of the template.
        """
        name = f"{self._prefix}{secrets.token_hex(8)}"
        self._create(name, template, encoding)
        return self.url(name)

    def drop(self, url: str) -> None:
        """Drop a database, even if somebody is connected to it."""
        self._drop(name_of(url))

    def drop_all(self) -> None:
        """Drop every database whose name begins with the prefix, whoever created it."""
        for row in self._fetch("select d.datname from pg_catalog.pg_database d"):
            if row["datname"].startswith(self._prefix):
                self._drop(row["datname"])

    def create_template(self, prepare: Prepare, *, name: str | None = None) -> str:
        """Create a database to clone, prepare it, and return its name.

        Args:
            prepare: prepares it, over a connection.
            name: its name. Default: a new name.
        """
        name = f"{self._prefix}{secrets.token_hex(8)}" if name is None else name
        self._create(name, "template0", None)
        try:
            self.run(self._prepare(name, prepare))
        except BaseException:
            self._drop(name)
            raise
        return name

    def run(self, work: Coroutine[Any, Any, _Value]) -> _Value:
        """Run a coroutine in the thread of this object, and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _connect(self) -> asyncpg.Connection[asyncpg.Record]:
        return await connect(self._admin_url, application_name=APPLICATION_NAME)

    async def _prepare(self, name: str, prepare: Prepare) -> None:
        connection = await connect(self.url(name), application_name=APPLICATION_NAME)
        try:
            # Applications expect their tables in the schema public, where our sessions do not look.
            await connection.execute('set search_path to "$user", public')
            await prepare(connection)
        finally:
            await connection.close()

    def _create(self, name: str, template: str, encoding: str | None) -> None:
        other = "" if encoding is None else f" encoding '{encoding}' locale 'C'"
        self._fetch(f"create database {name} template {template}{self._strategy}{other}")

    def _drop(self, name: str) -> None:
        self._fetch(f"drop database if exists {name} with (force)")

    def _fetch(self, sql: str) -> Sequence[asyncpg.Record]:
        if self._connection.is_closed():
            # A test has ended all sessions or restarted the server.
            self._connection = self.run(self._connect())
        with translated_errors():
            return self.run(self._connection.fetch(sql))

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def url_of(url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    parts = urlsplit(url.strip())
    # Put together by hand: geturl() forgets the // where no host follows. A database that the
    # query names counts only where the path names none.
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{quote(name, safe='')}{query}"


def name_of(url: str) -> str:
    """Return the name of the database that a URL of `url_of` leads to."""
    return unquote(urlsplit(url).path.removeprefix("/"))
