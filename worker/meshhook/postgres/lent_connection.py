"""A driver's connection on loan: each statement has a time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from meshhook.errors import UncertainCommitError
from meshhook.escaping import shown_sentence
from meshhook.postgres._driver_types import tell_array_types

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_SESSION_ERRORS = (
    # The server became a replica, or this is not the server that it was.
    asyncpg.ReadOnlySQLTransactionError,
    # Prepared statements that the session has lost, or that no longer fit the tables.
    asyncpg.exceptions.InvalidCachedStatementError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
    # The server closes the session, or has closed it.
    asyncpg.exceptions.PostgresConnectionError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.DatabaseDroppedError,
    asyncpg.CannotConnectNowError,
    asyncpg.exceptions.IdleSessionTimeoutError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,
    # The driver is out of step with the protocol.
    asyncpg.InternalClientError,
    asyncpg.InterfaceError,
    OSError,
)
"""Errors that would recur on the same session, but perhaps not on another."""


def belongs_to_session(error: BaseException | None) -> bool:
    """Return whether an error of the driver is about the session it came from."""
    # TimeoutError is an OSError: whether the session still answers, its pool finds out.
    return isinstance(error, _SESSION_ERRORS) and not isinstance(error, TimeoutError)


def broken(error: BaseException) -> str:
    """Return the message for a statement that the network or the time limit cut off."""
    reason = shown_sentence(str(error), limit=1_000) or "no answer in time"
    return f"the connection broke while a statement was under way: {reason}"


class LentConnection:
    """Runs statements with a time limit, and notes when its session is no longer usable.

    Everything else is passed to the driver's connection. Errors are the driver's, except those of
    the network.
    """

    __slots__ = ("_connection", "_limit_seconds", "is_read_only", "is_spoiled", "is_unanswered")

    def __init__(self, connection: Any, limit_seconds: float) -> None:
        """Take an asyncpg connection, and how long it may take to answer, in seconds.

        A `command_timeout` of the connection takes precedence over that limit.
        """
        self._connection = connection
        tell_array_types(connection)
        config = getattr(connection, "_config", None)
        own = None if config is None else config.command_timeout
        self._limit_seconds = limit_seconds if own is None else None
        self.is_spoiled = False
        """Whether a session error has occurred."""
        self.is_read_only = False
        """Whether the session refused to write."""
        self.is_unanswered = False
        """Whether a statement was not answered in time."""

    @property
    def limit_seconds(self) -> float | None:
        """How long a statement may take; None means that the connection has a limit of its own."""
        return self._limit_seconds

    def allow(self, limit_seconds: float) -> None:
        """Change the time limit of statements, unless the connection has its own."""
        if self._limit_seconds is not None:
            self._limit_seconds = limit_seconds

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the driver's connection."""
        return getattr(self._connection, name)

    def note(self, error: BaseException) -> None:
        """Remember what an error means for the session."""
        if isinstance(error, TimeoutError):
            self.is_unanswered = True
        elif belongs_to_session(error):
            self.is_spoiled = True
            if isinstance(error, asyncpg.ReadOnlySQLTransactionError):
                self.is_read_only = True

    async def fetch(self, sql: str, *arguments: object, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as the driver has it
        """Run a statement and return its rows.

        Raises:
            UncertainCommitError: the network failed, or there was no answer in time.
        """
        return await self._run(self._connection.fetch, sql, arguments, timeout)

    async def fetchrow(self, sql: str, *arguments: object, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as the driver has it
        """Run a statement and return its first row, or None."""
        return await self._run(self._connection.fetchrow, sql, arguments, timeout)

    async def fetchval(self, sql: str, *arguments: object, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as the driver has it
        """Run a statement and return the first column of its first row, or None."""
        return await self._run(self._connection.fetchval, sql, arguments, timeout)

    async def execute(self, sql: str, *arguments: object, timeout: float | None = None) -> Any:  # noqa: ASYNC109 - as the driver has it
        """Run statements, and return the status of the last."""
        return await self._run(self._connection.execute, sql, arguments, timeout)

    async def _run(
        self,
        method: Callable[..., Awaitable[Any]],
        sql: str,
        arguments: tuple[object, ...],
        timeout_seconds: float | None,
    ) -> Any:
        try:
            return await method(sql, *arguments, timeout=timeout_seconds or self._limit_seconds)
        except (OSError, TimeoutError) as error:
            self.note(error)
            raise UncertainCommitError(broken(error)) from error
        except Exception as error:
            self.note(error)
            raise


class Savepoint:
    """A savepoint in a caller's transaction; the driver's own does not support a plain `begin`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def start(self) -> None:
        """Begin it."""
        await self._connection.execute("savepoint meshhook")

    async def commit(self) -> None:
        """Keep what it did, as far as the transaction does."""
        await self._connection.execute("release savepoint meshhook")

    async def rollback(self) -> None:
        """Undo what it did."""
        sql = "rollback to savepoint meshhook; release savepoint meshhook"
        await self._connection.execute(sql)
