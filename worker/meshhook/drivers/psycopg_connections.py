"""Connections of psycopg 3."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from meshhook.drivers.driver_connection import DriverConnection, Rows, SyncDriverConnection
from meshhook.postgres.driver_errors import meaning_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.errors import DatabaseError


SYNC_KINDS = (psycopg.Connection,)
ASYNC_KINDS = (psycopg.AsyncConnection,)


class PsycopgConnection(SyncDriverConnection):
    """A `psycopg.Connection`."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def is_in_transaction(self) -> bool:
        """Return false only in autocommit mode, outside of a transaction."""
        return _is_in_transaction(self._connection)

    def _run_now(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        # It takes `$1`, whatever cursors and rows the caller prefers.
        with psycopg.RawCursor(self._connection, row_factory=tuple_row) as cursor:
            cursor.execute(sql.encode(), arguments)
            return [] if arguments is None else cursor.fetchall()

    def _meaning(self, error: Exception) -> DatabaseError | None:
        return _meaning(error)


class AsyncPsycopgConnection(DriverConnection):
    """A `psycopg.AsyncConnection`."""

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    def is_in_transaction(self) -> bool:
        """Return false only in autocommit mode, outside of a transaction."""
        return _is_in_transaction(self._connection)

    async def _run(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        async with psycopg.AsyncRawCursor(self._connection, row_factory=tuple_row) as cursor:
            await cursor.execute(sql.encode(), arguments)
            return [] if arguments is None else await cursor.fetchall()

    def _meaning(self, error: Exception) -> DatabaseError | None:
        return _meaning(error)


def connection_of(given: Any) -> DriverConnection:
    """Return what one of the kinds above is to the library."""
    is_sync = isinstance(given, psycopg.Connection)
    return PsycopgConnection(given) if is_sync else AsyncPsycopgConnection(given)


def _is_in_transaction(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
) -> bool:
    status = connection.info.transaction_status
    return not connection.autocommit or status is not TransactionStatus.IDLE


def _meaning(error: Exception) -> DatabaseError | None:
    if not isinstance(error, psycopg.Error):
        return None
    # psycopg raises OperationalError where the connection breaks, InterfaceError before it sends.
    is_broken = isinstance(error, psycopg.OperationalError)
    return meaning_of(error, error.sqlstate, was_under_way=is_broken)
