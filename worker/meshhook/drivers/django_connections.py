"""Connections of Django, whose transactions are its `atomic` blocks."""

from __future__ import annotations

import re
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import Error, OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.utils.connection import ConnectionProxy

from meshhook.drivers.driver_connection import Rows, SyncDriverConnection
from meshhook.errors import InvalidSettingError
from meshhook.escaping import quoted, shown_sentence
from meshhook.postgres.driver_errors import meaning_of, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshhook.errors import MeshHookError

SYNC_KINDS = (BaseDatabaseWrapper, ConnectionProxy)
ASYNC_KINDS: tuple[type, ...] = ()

_ARGUMENT = re.compile(r"\$(\d+)")
_FAILED_TRANSACTION = "25P02"


class DjangoConnection(SyncDriverConnection):
    """A connection of `django.db.connections`."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def is_in_transaction(self) -> bool:
        """Return whether it is in an `atomic` block, or not in autocommit mode."""
        with self._translated():
            return self._connection.in_atomic_block or not self._connection.get_autocommit()

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Let several statements count as one, as Django does."""
        with self._translated(), transaction.atomic(using=self._connection.alias):
            yield

    def _run_now(self, sql: str, arguments: Sequence[object] | None) -> Rows:
        with self._connection.cursor() as cursor:
            if arguments is None:
                cursor.execute(sql)
                return []
            named = {f"p{number}": each for number, each in enumerate(arguments, 1)}
            cursor.execute(_statement(sql), named)
            rows: Rows = cursor.fetchall()
            return rows

    def _meaning(self, error: Exception) -> MeshHookError | None:
        if isinstance(error, SynchronousOnlyOperation):
            return InvalidSettingError(f"connection: {shown_sentence(str(error))}")
        if isinstance(error, TransactionManagementError):
            return meaning_of(error, _FAILED_TRANSACTION, was_under_way=False)
        if not isinstance(error, Error):
            return None
        # Where the connection breaks, an OperationalError of the driver without a SQLSTATE.
        is_broken = isinstance(error, OperationalError)
        return meaning_of(error.__cause__ or error, sqlstate_of(error), was_under_way=is_broken)


def connection_of(given: Any) -> DjangoConnection:
    """Return what one of the kinds above is to the library.

    Raises:
        InvalidSettingError: if its database is no PostgreSQL.
    """
    # `django.db.connection` stands for the calling thread's own.
    own = connections[given.alias] if isinstance(given, ConnectionProxy) else given
    if own.vendor != "postgresql":
        raise InvalidSettingError(
            f"connection: Django's database {quoted(own.alias)} is of {quoted(own.vendor)}, and "
            "jobs are kept in PostgreSQL; pass django.db.connections[...] of one that is"
        )
    return DjangoConnection(own)


@lru_cache(maxsize=64)
def _statement(sql: str) -> str:
    return _ARGUMENT.sub(r"%(p\1)s", sql.replace("%", "%%"))
