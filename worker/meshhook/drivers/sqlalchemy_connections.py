"""Connections and sessions of SQLAlchemy 2, whatever driver is below them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import asyncpg
from sqlalchemy import Connection, TextClause, exc, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from meshhook.drivers.driver_connection import DriverConnection, Rows, SyncDriverConnection
from meshhook.errors import DatabaseUnavailableError, UnstorableTextError
from meshhook.escaping import shown_sentence
from meshhook.postgres.driver_errors import meaning_of, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from meshhook.errors import DatabaseError

SYNC_KINDS = (Connection, Session, scoped_session)
ASYNC_KINDS = (AsyncConnection, AsyncSession, async_scoped_session)

_ARGUMENT = re.compile(r"\$(\d+)")


class SQLAlchemyConnection(SyncDriverConnection):
    """A `sqlalchemy.Connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def is_in_transaction(self) -> bool:
        """Return false only with the isolation level AUTOCOMMIT."""
        return _is_in_transaction(self._connection)

    def _run_now(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        result = self._connection.execute(_statement(sql), _named(arguments))
        return [] if arguments is None else [tuple(row) for row in result]

    def _meaning(self, error: Exception) -> DatabaseError | None:
        return _meaning(error)


class AsyncSQLAlchemyConnection(DriverConnection):
    """An `AsyncConnection` of SQLAlchemy."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    def is_in_transaction(self) -> bool:
        """Return false only with the isolation level AUTOCOMMIT."""
        return _is_in_transaction(self._connection.sync_connection)

    async def _run(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        result = await self._connection.execute(_statement(sql), _named(arguments))
        return [] if arguments is None else [tuple(row) for row in result]

    def _meaning(self, error: Exception) -> DatabaseError | None:
        return _meaning(error)


def connection_of(given: Any) -> DriverConnection | Awaitable[DriverConnection]:
    """Return what one of the kinds above is to the library; a session begins its transaction."""
    if isinstance(given, scoped_session | async_scoped_session):
        given = given()
    if isinstance(given, Session):
        return _of_session(given)
    if isinstance(given, AsyncSession):
        return _of_async_session(given)
    is_sync = isinstance(given, Connection)
    return SQLAlchemyConnection(given) if is_sync else AsyncSQLAlchemyConnection(given)


def _of_session(session: Session) -> DriverConnection:
    try:
        return SQLAlchemyConnection(session.connection())
    except exc.SQLAlchemyError as error:
        raise _no_connection(error) from error


async def _of_async_session(session: AsyncSession) -> DriverConnection:
    try:
        return AsyncSQLAlchemyConnection(await session.connection())
    except exc.SQLAlchemyError as error:
        raise _no_connection(error) from error


def _no_connection(error: exc.SQLAlchemyError) -> DatabaseError:
    if isinstance(error, exc.DBAPIError):
        return meaning_of(error.orig or error, sqlstate_of(error), was_under_way=False)
    return DatabaseUnavailableError(f"the connection cannot be used: {shown_sentence(str(error))}")


def _is_in_transaction(connection: Connection | None) -> bool:
    if connection is None or connection.closed or connection.invalidated:
        # It has no DB-API connection to ask; the statement that follows says what is wrong.
        return True
    # Each driver's DB-API connection has it, as SQLAlchemy sets it.
    return not getattr(connection.connection.dbapi_connection, "autocommit", False)


@lru_cache(maxsize=64)
def _statement(sql: str) -> TextClause:
    # In parentheses, since a colon after a name is none to SQLAlchemy.
    return text(_ARGUMENT.sub(r"(:p\1)", sql))


def _named(arguments: Sequence[object] | None) -> dict[str, object]:
    return {f"p{number}": each for number, each in enumerate(arguments or (), 1)}


def _meaning(error: Exception) -> DatabaseError | None:
    if isinstance(error, exc.DBAPIError):
        # Where the connection breaks, an OperationalError without a SQLSTATE.
        is_broken = isinstance(error, exc.OperationalError)
        own: BaseException = error if error.orig is None else error.orig
        if isinstance(own.__cause__, asyncpg.InternalClientError):
            own = own.__cause__
        return meaning_of(own, sqlstate_of(error), was_under_way=is_broken)
    if isinstance(error, exc.StatementError) and isinstance(error.orig, UnicodeError):
        said = shown_sentence(str(error.orig))
        return UnstorableTextError(f"a text holds what the connection cannot send: {said}")
    if isinstance(error, exc.SQLAlchemyError):
        said = shown_sentence(str(error))
        return DatabaseUnavailableError(f"the connection cannot be used: {said}")
    return None
