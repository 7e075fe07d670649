"""A worker's own connection: opened when needed, and reopened after it has broken."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import asyncpg

from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    UncertainCommitError,
)
from meshhook.postgres.connecting import (
    CONNECT_TIMEOUT_SECONDS,
    SEARCH_PATH,
    connect,
    server_encoding,
)
from meshhook.postgres.driver_errors import translated_errors, translated_statement_errors
from meshhook.postgres.lent_connection import belongs_to_session
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

STATEMENT_TIMEOUT_SECONDS = 30.0
SILENCE_SECONDS = 60.0
LOCK_TIMEOUT_SECONDS = 1.0


class WorkerConnection:
    """One connection for one purpose. Statements run one at a time; a broken one is replaced.

    No statement is repeated automatically: only its caller knows whether that is safe.
    """

    def __init__(
        self,
        url: str,
        *,
        application_name: str,
        pooled: bool = False,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
        statement_timeout_seconds: float | None = None,
        on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[None]] | None = None,
        spare: WorkerConnection | None = None,
    ) -> None:
        """Take where to connect.

        Args:
            url: the database.
            application_name: what `pg_stat_activity` shows.
            pooled: whether the URL leads through a pooler in transaction mode. Default false.
            lock_timeout_seconds: how long a statement waits for a lock; the statements behind it
                wait as long. Default 1.
            statement_timeout_seconds: after how long the server stops a statement. Default: the
                server's own setting.
            on_connect: prepares a new connection. Default: nothing to prepare.
            spare: takes the statements while this connection cannot be opened, for example because
                the server has no room for it. Default: none.
        """
        self._spare = spare
        self._lock_timeout_seconds = lock_timeout_seconds
        self._statement_timeout_seconds = statement_timeout_seconds
        self._url = url
        self._application_name = application_name
        self._pooled = pooled
        self._on_connect = on_connect
        self._connection: asyncpg.Connection[Any] | None = None
        self._line = asyncio.Lock()
        self._was_connected = False
        self._failure: str | None = None
        self._heard_at = time.monotonic()

    @property
    def is_connected(self) -> bool:
        """Whether the connection was open when last used."""
        return self._connection is not None and not self._connection.is_closed()

    @property
    def server_encoding(self) -> str | None:
        """The encoding of the database, by PostgreSQL's name; None while not connected."""
        return server_encoding(self._connection) if self.is_connected else None

    @property
    def socket_number(self) -> int | None:
        """The file descriptor of its socket in this process; None if it has none."""
        if self._connection is None or self._connection.is_closed():
            return None
        # asyncpg has no public attribute for it.
        transport = getattr(self._connection, "_transport", None)
        socket = None if transport is None else transport.get_extra_info("socket")
        number: int = -1 if socket is None else socket.fileno()
        return None if number < 0 else number

    @property
    def failure(self) -> str | None:
        """Why the last statement did not reach a writable database; None if it did."""
        return self._failure

    @property
    def fault(self) -> str | None:
        """Why the database counts as unreachable; None if it does not. Any thread may ask."""
        if self._failure is not None:
            return self._failure
        if not self.is_connected:
            return "not connected"
        silence_seconds = time.monotonic() - self._heard_at
        if silence_seconds > SILENCE_SECONDS:
            return f"not heard from for {silence_seconds:.0f} s"
        return None

    async def fetch(
        self, sql: str, *arguments: object, timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS
    ) -> Sequence[asyncpg.Record]:
        """Run a statement and return its rows.

        Raises:
            UncertainCommitError: the connection broke, or there was no answer within
                `timeout_seconds`. Default 30.
            DatabaseReadOnlyError: the former primary is a replica now; the next statement connects
                again, and may find the new primary.
            DatabaseUnavailableError, DatabaseError: as in `meshhook.postgres.database`.
        """
        async with self._line:
            try:
                try:
                    connection = await self._connected()
                except DatabaseError:
                    if self._spare is None or not self._spare.is_connected:
                        raise
                    return await self._spare.fetch(sql, *arguments, timeout_seconds=timeout_seconds)
                with translated_statement_errors():
                    rows: Sequence[asyncpg.Record] = await (
                        self._fetch_in_transaction(connection, sql, arguments, timeout_seconds)
                        if self._pooled
                        else connection.fetch(sql, *arguments, timeout=timeout_seconds)
                    )
            except (DatabaseUnavailableError, DatabaseReadOnlyError) as error:
                self._failure = str(error)
                self._drop()
                raise
            except MemoryError as error:
                # The driver may have lost its place in the data it was reading.
                self._drop()
                raise UncertainCommitError(
                    "this process has no memory for what a statement returned"
                ) from error
            except DatabaseError as error:
                # For example prepared statements that the session has lost, and would miss again.
                if belongs_to_session(error.__cause__):
                    self._drop()
                raise
            self._failure = None
            self._heard_at = time.monotonic()
            return rows

    async def _fetch_in_transaction(
        self,
        connection: asyncpg.Connection[Any],
        sql: str,
        arguments: tuple[object, ...],
        timeout_seconds: float,
    ) -> Sequence[asyncpg.Record]:
        # Behind a pooler each transaction may run in another session with other settings.
        async with asyncio.timeout(timeout_seconds):
            await connection.execute(
                "begin isolation level read committed; "
                f"set local search_path = {SEARCH_PATH}; "
                f"set local lock_timeout = {self._lock_timeout_seconds * 1000:.0f}"
                + (
                    ""
                    if self._statement_timeout_seconds is None
                    else f"; set local statement_timeout = "
                    f"{self._statement_timeout_seconds * 1000:.0f}"
                )
            )
            try:
                rows: Sequence[asyncpg.Record] = await connection.fetch(sql, *arguments)
                await connection.execute("commit")
            except asyncpg.PostgresError:
                # A closed connection has rolled back or committed; the caller must learn of that.
                if not connection.is_closed():
                    await connection.execute("rollback")
                raise
            except BaseException:
                # No later statement may find this transaction open.
                connection.terminate()
                raise
            return rows

    async def open(self) -> None:
        """Connect now, if not connected.

        Raises:
            DatabaseUnavailableError, DatabaseError: as in `meshhook.postgres.database`.
        """
        async with self._line:
            try:
                await self._connected()
            except DatabaseUnavailableError as error:
                self._failure = str(error)
                raise

    async def fetchval(self, sql: str, *arguments: object) -> Any:
        """Run a statement and return the first column of its first row, or None."""
        rows = await self.fetch(sql, *arguments)
        return rows[0][0] if rows else None

    async def fetchrow(self, sql: str, *arguments: object) -> asyncpg.Record | None:
        """Run a statement and return its first row, or None."""
        rows = await self.fetch(sql, *arguments)
        return rows[0] if rows else None

    async def close(self) -> None:
        """Close the connection, properly if it answers within a second."""
        connection, self._connection = self._connection, None
        if connection is None or connection.is_closed():
            return
        try:
            with translated_errors():
                await connection.close(timeout=1)
        except DatabaseUnavailableError:
            connection.terminate()

    async def _connected(self) -> asyncpg.Connection[Any]:
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await connect(
                    self._url,
                    application_name=self._application_name,
                    pooled=self._pooled,
                    steady_plans=True,
                    lock_timeout_seconds=self._lock_timeout_seconds,
                    statement_timeout_seconds=self._statement_timeout_seconds,
                )
            except InvalidSettingError as error:
                if not self._was_connected:
                    raise
                # The URL was valid before: a file or name that it refers to is not, for now.
                raise DatabaseUnavailableError(str(error)) from error
            self._was_connected = True
            if self._on_connect is not None:
                try:
                    with translated_errors():
                        async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                            await self._on_connect(self._connection)
                except BaseException:
                    self._drop()
                    raise
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


async def check_same_database(direct: WorkerConnection, pooled: WorkerConnection) -> None:
    """Check that the connection to listen on leads to the same database as the other one.

    Raises:
        InvalidSettingError: it does not: jobs claimed in one database could not be settled in
            another.
        DatabaseUnavailableError, DatabaseError: as in `meshhook.postgres.database`.
    """
    sql = queries.load("identify_database")
    if await direct.fetchrow(sql) != await pooled.fetchrow(sql):
        raise InvalidSettingError(
            "the URL to listen on (listen_url, MESHHOOK_LISTEN_URL) leads to another database than "
            "the database URL; it must be the same database of the same server, without the pooler"
        )
