"""The one way to the database: a pool or a connection of the caller's, with errors translated.

Nothing here is tried again on its own; what is safe to repeat is decided by the caller.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import asyncpg

from meshhook import errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

CONNECT_TIMEOUT_SECONDS = 10.0
ANSWER_TIMEOUT_SECONDS = 30.0

STEADY_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_indexscan": "on",
    "enable_nestloop": "on",
    "jit": "off",
}
"""Planner settings of a worker's own connections.

A queue's table is empty one second and holds a million rows the next. A plan made and kept for
the empty table would read the whole table at every claim until the next analyze. With these, the
plan is by index at every depth, and is made once.
"""

SESSION_SETTINGS = {
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
}
"""What our own sessions need, whatever a database or a role has been told."""

_UNCERTAIN = (
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.InternalClientError,  # the connection went away between two steps of the protocol
)
_NETWORK = (OSError, TimeoutError)
_UNAVAILABLE = (
    asyncpg.CannotConnectNowError,
    asyncpg.exceptions.TooManyConnectionsError,
    asyncpg.exceptions.PostgresConnectionError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.IdleSessionTimeoutError,
)

_REFUSALS: tuple[tuple[tuple[type[Exception], ...], type[errors.DatabaseError], str], ...] = (
    (
        (asyncpg.ReadOnlySQLTransactionError,),
        errors.DatabaseReadOnlyError,
        (
            "the database takes no writes here: {error}. Use the primary server, not a replica, "
            "and a session without default_transaction_read_only"
        ),
    ),
    (
        (
            asyncpg.UndefinedTableError,
            asyncpg.UndefinedFunctionError,
            asyncpg.UndefinedColumnError,
            asyncpg.InvalidSchemaNameError,
        ),
        errors.SchemaMissingError,
        "the database lacks something that this version needs ({error}); run: meshhook migrate",
    ),
    (
        (asyncpg.LockNotAvailableError,),
        errors.DatabaseLockedError,
        (
            "another session holds a lock for too long: {error} (SQLSTATE 55P03). "
            "Find it in pg_locks and pg_stat_activity"
        ),
    ),
    (
        (asyncpg.SerializationError, asyncpg.DeadlockDetectedError),
        errors.DatabaseConflictError,
        "another transaction got in the way: {error}",
    ),
    (
        (asyncpg.UntranslatableCharacterError, asyncpg.CharacterNotInRepertoireError),
        errors.UnstorableTextError,
        (
            "the database cannot hold a character of what was sent: {error}. Leave it out, or use "
            "a database with the encoding UTF8"
        ),
    ),
    (
        (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
        errors.DatabaseError,
        "the database refused the login: {error}",
    ),
)
"""What a refusal by the server means, by its type: the first that fits."""

_UNSUITABLE_QUEUE = ("MHQ03", "MHQ04")
"""What meshhook.check_adoptable refuses with."""


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the errors of connecting or of a statement into this library's, by their type.

    Raises:
        UncertainCommitError: the connection broke while a statement was under way.
        DatabaseUnavailableError: the database cannot be reached, or is closed for now.
        DatabaseReadOnlyError: the session may only read.
        DatabaseLockedError: a lock was not granted in time.
        DatabaseConflictError: a deadlock, or a transaction that cannot be serialized.
        UnstorableTextError: the database's encoding lacks a character of a text.
        SchemaMissingError: a table or function of the schema is missing.
        UnsuitableQueueError: a queue of PGMQ that MeshHook does not adopt.
        DatabaseError: anything else that the server refused.
    """
    try:
        with translated_driver_errors():
            yield
    except errors.MeshHookError:
        raise  # an unavailable database is an OSError, too
    except _NETWORK as error:
        message = f"the database cannot be reached: {error or type(error).__name__}"
        raise errors.DatabaseUnavailableError(message) from error


@contextmanager
def translated_driver_errors() -> Iterator[None]:
    """Do as `translated_errors`, but leave alone what other code in the block may raise as well."""
    try:
        yield
    except errors.MeshHookError:
        raise
    except _UNCERTAIN as error:
        message = f"the connection broke while a statement was under way: {error}"
        raise errors.UncertainCommitError(message) from error
    except _UNAVAILABLE as error:
        message = f"the database cannot be reached: {error or type(error).__name__}"
        raise errors.DatabaseUnavailableError(message) from error
    except asyncpg.InterfaceError as error:
        message = f"the connection cannot be used: {error}"
        raise errors.DatabaseUnavailableError(message) from error
    except asyncpg.PostgresError as error:
        raise _refusal(error) from error


def _refusal(error: asyncpg.PostgresError) -> errors.DatabaseError:
    """Return what a refusal by the server means, by its type, or one by the driver before it."""
    if isinstance(error.__cause__, UnicodeEncodeError):
        return errors.UnstorableTextError(f"a text holds what no database can hold: {error}")
    if error.sqlstate in _UNSUITABLE_QUEUE:
        return errors.UnsuitableQueueError(str(error))
    for kinds, meaning, text in _REFUSALS:
        if isinstance(error, kinds):
            return meaning(text.format(error=error))
    return errors.DatabaseError(
        f"the database refused a statement: {error} (SQLSTATE {error.sqlstate})"
    )


@contextmanager
def translated_statement_errors() -> Iterator[None]:
    """Do as `translated_errors` for a statement on a connection that stands.

    No answer in time is then an UncertainCommitError: the server may have committed.
    """
    try:
        with translated_driver_errors():
            yield
    except errors.MeshHookError:
        raise  # an unavailable database is an OSError, too
    except _NETWORK as error:
        reason = error if str(error) else "no answer in time"
        message = f"the connection broke while a statement was under way: {reason}"
        raise errors.UncertainCommitError(message) from error


def server_encoding(source: Any) -> str | None:
    """Return the encoding of the database that a connection leads to, None if that is not known.

    Args:
        source: a connection of asyncpg's, or of a worker's; of a pool it is not known.
    """
    if not hasattr(source, "get_settings"):
        return getattr(source, "server_encoding", None)
    return getattr(source.get_settings(), "server_encoding", None)


async def connect(
    url: str,
    *,
    application_name: str = "meshhook",
    pooled: bool = False,
    steady_plans: bool = False,
    lock_timeout_seconds: float | None = None,
) -> asyncpg.Connection[asyncpg.Record]:
    """Open one connection.

    Args:
        url: postgresql://user:password@host:port/database.
        application_name: what `pg_stat_activity` shows.
        pooled: whether a pooler in transaction mode stands between.
        steady_plans: whether to plan by index at every depth; see `STEADY_PLANS`.
        lock_timeout_seconds: how long a statement waits for a lock. Default: as the server says.

    Raises:
        DatabaseUnavailableError, DatabaseError: as `translated_errors` says.
    """
    # A pooler refuses settings at connect, and plans afresh each time: no plan grows stale there.
    settings: dict[str, str] = {}
    if not pooled:
        settings = SESSION_SETTINGS | (STEADY_PLANS if steady_plans else {})
        if lock_timeout_seconds is not None:
            settings["lock_timeout"] = f"{lock_timeout_seconds * 1000:.0f}ms"
    with translated_errors(), _checked_url(url):
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_SECONDS,
            statement_cache_size=0 if pooled else 100,
            server_settings={"application_name": application_name, **settings},
        )


async def _leave_as_it_is(_: object) -> None:
    """Do nothing."""


_SCHEME = re.compile(r"((?:jdbc:)?[a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_SCHEMES = {"postgresql", "postgres"}


@contextmanager
def _checked_url(url: str) -> Iterator[None]:
    found = _SCHEME.match(url.strip())
    if found is not None and found[1].lower() not in _SCHEMES:
        raise errors.WrongSchemeError(found[1])
    try:
        yield
    except ValueError as error:
        # The URL holds a password, and what urllib says may quote a part of it.
        is_quiet = isinstance(error, asyncpg.exceptions.ClientConfigurationError)
        reason = f": {error}" if is_quiet else ""
        message = (
            f"the database URL is not valid{reason}. Expected "
            "postgresql://user:password@host:port/database; write special characters of the "
            "password as in %23 for #"
        )
        raise errors.InvalidSettingError(message) from None


class Database:
    """Statements on a pool, or on one connection whose statements are put in line."""

    def __init__(self, source: Any, *, owns_source: bool = False) -> None:
        """Take an asyncpg Pool or Connection, or another Database to share.

        Args:
            source: the pool or connection.
            owns_source: whether `close` closes it. Default false: it stays the caller's.

        Raises:
            InvalidSettingError: if it is none of these.
        """
        line = asyncio.Lock()
        if isinstance(source, Database):
            # One line for one connection, or a statement could slip into another's transaction.
            source, line = source.source, source._line  # noqa: SLF001 - of the same class
        if not hasattr(source, "fetch"):
            message = f"expected an asyncpg pool or connection, got {type(source).__name__}"
            raise errors.InvalidSettingError(message)
        self.source: Any = source
        """The pool or connection."""
        self._owns_source = owns_source
        self._is_pool = hasattr(source, "acquire")
        self._line = line

    @classmethod
    async def connect(
        cls, url: str, *, min_size: int = 1, max_size: int = 4, pooled: bool = False
    ) -> Database:
        """Open a pool of `min_size` to `max_size` connections; `close` closes it.

        Raises:
            DatabaseUnavailableError, DatabaseError: as `translated_errors` says.
        """
        with translated_errors(), _checked_url(url):
            pool = await asyncpg.create_pool(
                url,
                min_size=min_size,
                max_size=max_size,
                timeout=CONNECT_TIMEOUT_SECONDS,
                statement_cache_size=0 if pooled else 100,
                server_settings={"application_name": "meshhook"},
                # Behind a pooler there is no session to put back into order.
                reset=_leave_as_it_is if pooled else None,
            )
        return cls(pool, owns_source=True)

    async def close(self) -> None:
        """Close the pool or connection if it is ours."""
        if self._owns_source:
            await self.source.close()

    @property
    def is_in_transaction(self) -> bool:
        """Whether statements run inside a transaction that the caller has opened."""
        return not self._is_pool and bool(self.source.is_in_transaction())

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        """Lend one connection, with the driver's errors translated around its use."""
        if not self._is_pool:
            async with self._line:
                with translated_driver_errors():
                    yield self.source
            return
        # One that is there comes at once: a timer for it would take longer than it does.
        timeout = None if self.source.get_idle_size() else CONNECT_TIMEOUT_SECONDS
        with translated_errors():
            connection = await self.source.acquire(timeout=timeout)
        try:
            with translated_driver_errors():
                yield connection
        finally:
            # A connection that cannot be given back is closed by its pool. What its statements did
            # holds all the same: an error from here would say that nothing was done.
            with suppress(errors.DatabaseError), translated_errors():
                await self.source.release(connection, timeout=CONNECT_TIMEOUT_SECONDS)

    @asynccontextmanager
    async def answer_limit(self) -> AsyncIterator[None]:
        """Limit what is inside to 30 seconds, if the connection is a pool's.

        For what others wait for as well: a connection whose network is silently gone would hold
        them all up until the kernel gives up. A connection of the caller's is the caller's to time.

        Raises:
            TimeoutError: no answer in time.
        """
        async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS if self._is_pool else None):
            yield

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Lend one connection inside a transaction."""
        async with self.acquire() as connection:
            transaction = connection.transaction()
            with translated_statement_errors():
                await transaction.start()
            try:
                yield connection
            except BaseException:
                # A connection that is gone rolls back by itself.
                with suppress(errors.DatabaseUnavailableError), translated_statement_errors():
                    await transaction.rollback()
                raise
            with translated_statement_errors():
                await transaction.commit()

    async def fetch(self, sql: str, *arguments: object) -> Sequence[asyncpg.Record]:
        """Run a statement and return its rows."""
        async with self._statement() as connection:
            rows: Sequence[asyncpg.Record] = await connection.fetch(sql, *arguments)
            return rows

    async def fetchrow(self, sql: str, *arguments: object) -> asyncpg.Record | None:
        """Run a statement and return its first row, or None."""
        async with self._statement() as connection:
            row: asyncpg.Record | None = await connection.fetchrow(sql, *arguments)
            return row

    async def fetchval(self, sql: str, *arguments: object) -> Any:
        """Run a statement and return the first column of its first row, or None."""
        async with self._statement() as connection:
            return await connection.fetchval(sql, *arguments)

    @asynccontextmanager
    async def _statement(self) -> AsyncIterator[Any]:
        async with self.acquire() as connection:
            with translated_statement_errors():
                yield connection
