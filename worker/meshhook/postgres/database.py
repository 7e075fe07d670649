"""`Database`: a pool, or a connection of the caller, with time limits and translated errors.

Each statement has a time limit, and a session that is no longer usable is closed. Deadlocks and
serialization failures are retried; whether anything else may be repeated is the caller's decision.
"""

from __future__ import annotations

import asyncio
import functools
import random
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from meshhook import errors
from meshhook.arguments import checked_seconds, kind_of, way_out
from meshhook.postgres._lazy_pool import LazyPool
from meshhook.postgres.connecting import CONNECT_TIMEOUT_SECONDS, lazy_pool, open_pool
from meshhook.postgres.driver_errors import (
    translated_connect_errors,
    translated_driver_errors,
    translated_errors,
    translated_statement_errors,
    was_undone,
)
from meshhook.postgres.lent_connection import LentConnection, Savepoint
from meshhook.postgres.url import parse_database_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence

ANSWER_TIMEOUT_SECONDS = 30.0
"""How long a statement may take by default."""
LONG_ANSWER_TIMEOUT_SECONDS = 900.0
"""How long a statement may take that has more to do: a chunk of a purge, statistics, new tables."""
MIGRATION_TIMEOUT_SECONDS = 86_400.0
"""How long a step of a migration may take: it may build an index of a large history."""


_CANCEL_TIMEOUT_SECONDS = 2.0
_EXPIRE_SECONDS = 1.0
_CONFLICT_TRIES = 6
_MAX_CONFLICT_PAUSE_SECONDS = 0.02

_OTHER_LOOP = "the {} belongs to another event loop than this one; make it in the loop that uses it"

_Value = TypeVar("_Value")


class Database:
    """Runs statements on a pool, or one after the other on a single connection."""

    def __init__(
        self,
        source: Any,
        *,
        owns_source: bool = False,
        answer_timeout_seconds: float | None = None,
    ) -> None:
        """Take an asyncpg Pool or Connection, a URL, or another Database to share.

        Args:
            source: the pool or connection; or postgresql://user:password@host:port/database, to
                which a pool of at most 4 connections is opened when it is needed, and closed by
                `close`.
            owns_source: whether `close` closes it. Default false: the caller still owns it.
            answer_timeout_seconds: how long a statement may take before the connection counts as
                broken, 0.001 to 86,400 seconds. Long operations have limits of their own, and a
                connection's `command_timeout` takes precedence. Default 30.

        Raises:
            InvalidSettingError: if `source` is none of these, or a limit is out of range.
        """
        line = asyncio.Lock()
        if isinstance(source, Database):
            if answer_timeout_seconds is None:
                answer_timeout_seconds = source._answer_timeout_seconds  # noqa: SLF001 - of the same class
            # One lock per connection, or a statement could slip into the transaction of another.
            source, line = source.source, source._line  # noqa: SLF001 - of the same class
        if isinstance(source, str):
            source, owns_source = lazy_pool(source), True
        elif not isinstance(source, LazyPool) and (
            not hasattr(source, "fetch") or isinstance(source, type)
        ):
            raise errors.InvalidSettingError(
                f"expected an asyncpg pool or connection, got {kind_of(source)}{way_out(source)}"
            )
        if answer_timeout_seconds is not None:
            answer_timeout_seconds = checked_seconds(
                "answer_timeout_seconds", answer_timeout_seconds, 0.001, 86_400
            )
        self.source: Any = source
        """The pool or connection."""
        self._owns_source = owns_source
        self._is_pool = hasattr(source, "acquire")
        self._line = line
        self._answer_timeout_seconds: float | None = answer_timeout_seconds
        self._loop = getattr(source, "_loop", None)
        self._expired_at = float("-inf")

    @classmethod
    def of(cls, source: DatabaseSource) -> Database:
        """Return `source` if it is a Database, otherwise a new Database over it.

        Raises:
            InvalidSettingError: if it is no pool, connection, URL or Database.
        """
        return source if isinstance(source, Database) else cls(source)

    @classmethod
    def of_caller(
        cls, connection: object, *, answer_timeout_seconds: float | None = None
    ) -> Database:
        """Return a Database over the connection on which the caller has a transaction.

        Raises:
            InvalidSettingError: if it is not an asyncpg connection: on a pool, each statement
                would be outside the caller's transaction.
        """
        check_callers(connection)
        return cls(connection, answer_timeout_seconds=answer_timeout_seconds)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        min_size: int = 1,
        max_size: int = 4,
        pooled: bool = False,
        answer_timeout_seconds: float | None = None,
        lock_timeout_seconds: float | None = None,
        driver_loop: Any = None,
    ) -> Database:
        """Open a pool of `min_size` to `max_size` connections; `close` closes it.

        Args:
            url: postgresql://user:password@host:port/database, with the parameters of libpq.
            min_size: how many connections to open immediately and keep. Default 1.
            max_size: the most connections. Default 4.
            pooled: whether a pooler in transaction mode is in between. Default false.
            answer_timeout_seconds: how long a statement may take before the connection counts as
                broken. Default 30.
            lock_timeout_seconds: how long a statement waits for a lock; the URL may override it,
                and it has no effect behind a pooler. Default: the server's setting.
            driver_loop: what the driver opens connections through. Default: the running event
                loop.

        Raises:
            InvalidSettingError: the URL is not valid, or names a parameter that is not supported.
            DatabaseUnavailableError, DatabaseError: as `translated_errors` says.
        """
        try:
            target = parse_database_url(url)
        finally:
            del url  # as in `connect`
        pool = await open_pool(
            target,
            min_size=min_size,
            max_size=max_size,
            pooled=pooled,
            lock_timeout_seconds=lock_timeout_seconds,
            driver_loop=driver_loop,
        )
        return cls(pool, owns_source=True, answer_timeout_seconds=answer_timeout_seconds)

    @property
    def is_pool(self) -> bool:
        """Whether a statement may get a connection of its own."""
        return self._is_pool

    async def close(self) -> None:
        """Close the pool or connection if we own it, by force if it does not respond."""
        if not self._owns_source:
            return
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
                await self.source.close()
        except TimeoutError:
            self.source.terminate()

    @property
    def is_in_transaction(self) -> bool:
        """Whether statements run inside a transaction that the caller has opened."""
        if self._is_pool or not hasattr(self.source, "is_in_transaction"):
            return False
        with translated_driver_errors():
            return bool(self.source.is_in_transaction())

    @property
    def can_spare_a_connection(self) -> bool:
        """Whether it is a pool of which one connection may be kept for as long as needed."""
        return self._is_pool and self.source.get_max_size() > 1

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Yield one connection; the driver's errors are translated."""
        self._check_loop()
        limit_seconds = self._answer_timeout_seconds or ANSWER_TIMEOUT_SECONDS
        if not self._is_pool:
            async with self._line:
                with translated_driver_errors():
                    yield _lent(self.source, limit_seconds)
            return
        connection = await self._acquire_from_pool()
        lent = LentConnection(connection, limit_seconds)
        try:
            with translated_driver_errors():
                yield lent
        except errors.DatabaseReadOnlyError:
            lent.is_spoiled = lent.is_read_only = True
            raise
        except errors.MeshHookError as error:
            if error.__cause__ is not None:
                lent.note(error.__cause__)
            raise
        finally:
            await self._give_back(connection, lent)

    @asynccontextmanager
    async def transaction(
        self, *, answer_timeout_seconds: float | None = None
    ) -> AsyncIterator[Any]:
        """Yield one connection inside a transaction; a nested one is a savepoint.

        Args:
            answer_timeout_seconds: how long each statement may take. Default: the Database's own.
        """
        async with self.acquire() as connection:
            allow(connection, answer_timeout_seconds)
            limit_seconds = getattr(connection, "limit_seconds", None)
            is_callers = self.is_in_transaction
            transaction = Savepoint(connection) if is_callers else connection.transaction()
            with translated_statement_errors():
                async with asyncio.timeout(limit_seconds):
                    await transaction.start()
            try:
                yield connection
            except BaseException:
                if self._is_pool and getattr(connection, "is_unanswered", False):
                    raise  # its pool sees whether it still answers, and rolls back
                # A connection that is gone rolls back by itself.
                with suppress(errors.DatabaseUnavailableError), translated_statement_errors():
                    async with asyncio.timeout(limit_seconds):
                        await transaction.rollback()
                raise
            with translated_statement_errors():
                async with asyncio.timeout(limit_seconds):
                    await transaction.commit()

    async def run_in_transaction(
        self,
        work: Callable[[Any], Awaitable[_Value]],
        *,
        answer_timeout_seconds: float | None = None,
    ) -> _Value:
        """Run `work` with a connection inside a transaction, and return its result.

        After a deadlock or serialization failure it is run again, up to five times; not inside the
        caller's own transaction, which the failure has rolled back as well.

        Args:
            work: what to run; it may be run more than once.
            answer_timeout_seconds: how long each statement may take. Default: the Database's own.
        """
        is_callers = self.is_in_transaction
        for tries_left in reversed(range(_CONFLICT_TRIES)):
            try:
                async with self.transaction(
                    answer_timeout_seconds=answer_timeout_seconds
                ) as connection:
                    return await work(connection)
            except errors.DatabaseError as error:
                await self._pause_if_undone(error, 0 if is_callers else tries_left)
        raise AssertionError  # the last try returns or raises

    async def fetch(
        self, sql: str, *arguments: object, answer_timeout_seconds: float | None = None
    ) -> Sequence[asyncpg.Record]:
        """Run a statement and return its rows."""
        rows: Sequence[asyncpg.Record]
        rows = await self._run("fetch", sql, arguments, answer_timeout_seconds)
        return rows

    async def fetchrow(
        self, sql: str, *arguments: object, answer_timeout_seconds: float | None = None
    ) -> asyncpg.Record | None:
        """Run a statement and return its first row, or None."""
        row: asyncpg.Record | None
        row = await self._run("fetchrow", sql, arguments, answer_timeout_seconds)
        return row

    async def fetchval(
        self, sql: str, *arguments: object, answer_timeout_seconds: float | None = None
    ) -> Any:
        """Run a statement and return the first column of its first row, or None."""
        return await self._run("fetchval", sql, arguments, answer_timeout_seconds)

    async def _run(
        self,
        method: str,
        sql: str,
        arguments: tuple[object, ...],
        answer_timeout_seconds: float | None,
    ) -> Any:
        for tries_left in reversed(range(_CONFLICT_TRIES)):
            try:
                async with self.acquire() as connection:
                    if answer_timeout_seconds is not None:
                        allow(connection, answer_timeout_seconds)
                    with translated_statement_errors():
                        return await getattr(connection, method)(sql, *arguments)
            except errors.DatabaseError as error:
                await self._pause_if_undone(error, tries_left)
        raise AssertionError  # the last try returns or raises

    async def _pause_if_undone(self, error: errors.DatabaseError, tries_left: int) -> None:
        """Wait a moment before a transaction that hit a conflict is run again.

        Raises:
            DatabaseError: the error is not a conflict, was retried often enough, or happened inside
                the caller's own transaction, which was rolled back as well.
        """
        if not tries_left or not was_undone(error) or self.is_in_transaction:
            raise error
        # A random time, so that the competitors do not meet again.
        await asyncio.sleep(random.uniform(0, _MAX_CONFLICT_PAUSE_SECONDS))  # noqa: S311 - keeps no secret

    def _check_loop(self) -> None:
        if isinstance(self.source, LazyPool):
            self.source.check_loop()
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise errors.InvalidSettingError(_OTHER_LOOP.format(kind_of(self.source)))

    async def _acquire_from_pool(self) -> Any:
        # A free connection comes at once; setting a timer for it would take longer.
        timeout = None if self.source.get_idle_size() else CONNECT_TIMEOUT_SECONDS
        try:
            with translated_connect_errors():
                return await self.source.acquire(timeout=timeout)
        except errors.DatabaseUnavailableError as error:
            size = self.source.get_size()
            if isinstance(error.__cause__, TimeoutError) and size >= self.source.get_max_size():
                raise errors.DatabaseUnavailableError(
                    f"none of the {size} connections of the pool became free within "
                    f"{CONNECT_TIMEOUT_SECONDS:g} seconds; make it larger (max_size), or hold them "
                    "for less time"
                ) from error
            raise

    async def _give_back(self, connection: Any, lent: LentConnection) -> None:
        """Return a connection to its pool, or close it if its session is no longer usable.

        Its statements have taken effect already, so errors here are not raised: they would suggest
        that nothing was done.
        """
        now = time.monotonic()
        with suppress(errors.DatabaseError), translated_errors():
            if lent.is_read_only and now - self._expired_at >= _EXPIRE_SECONDS:
                # The others lead to the same server. At most once a second, since the pool
                # may be shared, and new connections may have the same problem.
                self._expired_at = now
                await self.source.expire_connections()
            if lent.is_spoiled:
                connection.terminate()
            # After a timeout, the pool waits for the statement to be cancelled.
            timeout = _CANCEL_TIMEOUT_SECONDS if lent.is_unanswered else CONNECT_TIMEOUT_SECONDS
            await self.source.release(connection, timeout=timeout)


DatabaseSource: TypeAlias = (
    "Database | asyncpg.Pool[Any] | asyncpg.Connection[Any] | PoolConnectionProxy[Any] | str"
)
"""Anything that leads to a database: an asyncpg pool or connection, a Database, or a URL."""

_Arguments = ParamSpec("_Arguments")


def takes_url(
    function: Callable[_Arguments, Coroutine[Any, Any, _Value]],
) -> Callable[_Arguments, Coroutine[Any, Any, _Value]]:
    """Let a function's first argument, a Database, be a URL: opened and closed around the call."""
    first = function.__code__.co_varnames[0]

    @functools.wraps(function)
    async def call(*arguments: Any, **keywords: Any) -> _Value:
        source: Any = arguments[0] if arguments else keywords.get(first)
        if not isinstance(source, str):
            return await function(*arguments, **keywords)
        database: Any = Database(source)
        if arguments:
            arguments = (database, *arguments[1:])
        else:
            keywords[first] = database
        try:
            return await function(*arguments, **keywords)
        finally:
            await database.close()

    return call


def check_callers(connection: object) -> None:
    """Check that `connection=` is an asyncpg connection.

    Raises:
        InvalidSettingError: if it is not; on a pool, each statement would be outside the caller's
            transaction.
    """
    if isinstance(connection, asyncpg.Pool):
        raise errors.InvalidSettingError(
            "connection: got a pool, each of whose statements is outside of your transaction. "
            "Pass the connection that the transaction is on: "
            "async with pool.acquire() as connection, connection.transaction()"
        )
    if isinstance(connection, Database) or not hasattr(connection, "fetch"):
        raise errors.InvalidSettingError(
            f"connection: expected an asyncpg connection, got {kind_of(connection)}"
            f"{way_out(connection)}"
        )


def lent_by_caller(connection: object, answer_timeout_seconds: float | None) -> Any:
    """Return the caller's connection, with a time limit for each statement.

    Raises:
        InvalidSettingError: if it is not one, or belongs to another event loop.
    """
    check_callers(connection)
    loop = getattr(connection, "_loop", None)
    if loop is not None and loop is not asyncio.get_running_loop():
        raise errors.InvalidSettingError(_OTHER_LOOP.format(kind_of(connection)))
    return _lent(connection, answer_timeout_seconds or ANSWER_TIMEOUT_SECONDS)


def _lent(connection: Any, limit_seconds: float) -> Any:
    """Return a connection with time limits; one that is not asyncpg's has its own."""
    if isinstance(connection, asyncpg.Connection | PoolConnectionProxy):
        return LentConnection(connection, limit_seconds)
    return connection


def allow(connection: Any, limit_seconds: float | None) -> Any:
    """Return a connection with this time limit for each statement, unless it has its own."""
    lent = _lent(connection, limit_seconds or ANSWER_TIMEOUT_SECONDS)
    if limit_seconds is not None and isinstance(lent, LentConnection):
        lent.allow(limit_seconds)
    return lent
