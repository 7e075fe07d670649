"""Translation of the driver's errors into this library's, by type or SQLSTATE."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import asyncpg

from meshhook import errors
from meshhook.escaping import shown_sentence
from meshhook.postgres.lent_connection import broken

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_SAID_CHARACTERS = 1_000

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

_LOST_PLANS = (
    asyncpg.exceptions.InvalidCachedStatementError,
    asyncpg.exceptions.OutdatedSchemaCacheError,
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)
"""The statement was not started: its session keeps another plan, or none."""

_REFUSED_PARAMETERS = (
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
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
        (asyncpg.InFailedSQLTransactionError,),
        errors.DatabaseError,
        "this transaction has failed already, and takes no more statements: roll it back ({error})",
    ),
    (
        (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError),
        errors.DatabaseError,
        (
            "the session has lost its prepared statements ({error}). Behind a pooler in "
            "transaction mode say pooled=True (MESHHOOK_POOLED=true), or make your pool with "
            "statement_cache_size=0"
        ),
    ),
    (
        (asyncpg.InvalidCatalogNameError,),
        errors.DatabaseError,
        "the server has no such database: {error}",
    ),
    (
        (asyncpg.QueryCanceledError,),
        errors.DatabaseError,
        "the server stopped a statement: {error} (SQLSTATE 57014)",
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
"""The meaning of a server error by its type: the first entry that matches."""

_UNSUITABLE_QUEUE = ("MHQ03", "MHQ04")
"""The SQLSTATE with which meshhook.check_adoptable refuses a queue."""


def _said(error: BaseException) -> str:
    """Return the text of an error, made safe to show: it may be anything, of any length."""
    return shown_sentence(str(error) or type(error).__name__, limit=_MAX_SAID_CHARACTERS)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the errors of connecting or of a statement into this library's, by their type.

    Raises:
        UncertainCommitError: the connection broke during a statement.
        DatabaseUnavailableError: the database cannot be reached, or accepts no connections now.
        DatabaseReadOnlyError: the session is read-only.
        DatabaseLockedError: a lock was not granted in time.
        DatabaseConflictError: a deadlock, or a transaction that cannot be serialized.
        UnstorableTextError: the database's encoding lacks a character of a text.
        SchemaMissingError: a table or function of the schema is missing.
        UnsuitableQueueError: a PGMQ queue that MeshHook does not adopt.
        DatabaseError: anything else that the server refused.
    """
    try:
        with translated_driver_errors():
            yield
    except errors.MeshHookError:
        raise  # an unavailable database is an OSError, too
    except _NETWORK as error:
        message = f"the database cannot be reached: {_said(error)}"
        raise errors.DatabaseUnavailableError(message) from error


@contextmanager
def translated_driver_errors() -> Iterator[None]:
    """Translate like `translated_errors`, except errors that other code in the block may raise."""
    try:
        yield
    except errors.MeshHookError:
        raise
    except _UNCERTAIN as error:
        message = f"the connection broke while a statement was under way: {_said(error)}"
        raise errors.UncertainCommitError(message) from error
    except _UNAVAILABLE as error:
        message = f"the database cannot be reached: {_said(error)}"
        raise errors.DatabaseUnavailableError(message) from error
    except asyncpg.InterfaceError as error:
        message = f"the connection cannot be used: {_said(error)}"
        raise errors.DatabaseUnavailableError(message) from error
    except asyncpg.PostgresError as error:
        raise _refusal(error) from error


def _refusal(error: asyncpg.PostgresError) -> errors.DatabaseError:
    """Return the meaning of an error of the server, or of the driver before it asked the server."""
    if isinstance(error.__cause__, UnicodeEncodeError):
        return errors.UnstorableTextError(f"a text holds what no database can hold: {_said(error)}")
    return _meaning_of_kind(type(error), error.sqlstate, error)


def _meaning_of_kind(
    kind: type[BaseException], sqlstate: str | None, error: BaseException
) -> errors.DatabaseError:
    if sqlstate in _UNSUITABLE_QUEUE:
        return errors.UnsuitableQueueError(_said(error))
    for kinds, meaning, text in _REFUSALS:
        if issubclass(kind, kinds):
            return meaning(text.format(error=_said(error)))
    return errors.DatabaseError(
        f"the database refused a statement: {_said(error)} (SQLSTATE {sqlstate})"
    )


def meaning_of(
    error: BaseException, sqlstate: str | None, *, was_under_way: bool
) -> errors.DatabaseError:
    """Return the meaning of an error of another driver than asyncpg.

    Args:
        error: the error.
        sqlstate: the SQLSTATE that the server sent; None if it sent none, which means that the
            connection broke, or could not be used.
        was_under_way: whether a statement may have reached the server, if there is no SQLSTATE.
    """
    if isinstance(error, _UNCERTAIN):  # asyncpg's own, below SQLAlchemy
        return errors.UncertainCommitError(broken(error))
    kind = _kinds().get(sqlstate) or _kinds().get(f"{sqlstate[:2]}000") if sqlstate else None
    if sqlstate is None and not was_under_way:
        return errors.DatabaseUnavailableError(f"the connection cannot be used: {_said(error)}")
    if sqlstate is None or (kind is not None and issubclass(kind, _UNCERTAIN)):
        return errors.UncertainCommitError(broken(error))
    if kind is not None and issubclass(kind, _UNAVAILABLE):
        return errors.DatabaseUnavailableError(f"the database cannot be reached: {_said(error)}")
    return _meaning_of_kind(kind or asyncpg.PostgresError, sqlstate, error)


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of a driver's error, or of the one that it wraps; None without one."""
    while error is not None:
        found = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if isinstance(found, str):
            return found
        error = getattr(error, "orig", None) or error.__cause__
    return None


def is_refusal_of_message(error: errors.DatabaseError) -> bool:
    """Return whether a message was refused for what it is, or for the queue that it is for."""
    sqlstate = sqlstate_of(error.__cause__) or ""
    # 22: a value that is no JSON or cannot be stored; 42501: a permission is missing; 42602: the
    # name of a queue; 54000: a program limit.
    return sqlstate.startswith(("MHQ", "22")) or sqlstate in {"42501", "42602", "54000"}


def is_refusal_of_value(error: errors.DatabaseError) -> bool:
    """Return whether a value was refused for what it is: no JSON, or beyond a limit."""
    return (sqlstate_of(error.__cause__) or "").startswith(("22", "54"))


@cache
def _kinds() -> dict[str, type[asyncpg.PostgresError]]:
    """Return asyncpg's class of each SQLSTATE: the tables above name classes."""
    kinds: dict[str, type[asyncpg.PostgresError]] = {}
    for each in vars(asyncpg.exceptions).values():
        if isinstance(each, type) and issubclass(each, asyncpg.PostgresError) and each.sqlstate:
            kinds.setdefault(each.sqlstate, each)
    return kinds


@contextmanager
def translated_statement_errors() -> Iterator[None]:
    """Translate like `translated_errors`, for a statement on an open connection.

    A timeout is then an UncertainCommitError: the server may have committed.
    """
    try:
        with translated_driver_errors():
            yield
    except errors.MeshHookError:
        raise  # an unavailable database is an OSError, too
    except _NETWORK as error:
        raise errors.UncertainCommitError(broken(error)) from error


@contextmanager
def translated_read_errors() -> Iterator[None]:
    """Turn an uncertain commit into DatabaseUnavailableError: reading changes nothing."""
    try:
        yield
    except errors.UncertainCommitError as error:
        raise errors.DatabaseUnavailableError(str(error)) from error


@contextmanager
def translated_connect_errors() -> Iterator[None]:
    """Turn the errors of opening a connection into this library's, by their type.

    Raises:
        DatabaseUnavailableError: the database cannot be reached, or closed the connection; nothing
            was sent.
        InvalidSettingError: the URL asks for something that the driver does not support.
        DatabaseError: the server refused the login, or a parameter of the URL.
    """
    try:
        yield
    except asyncpg.exceptions.TargetServerAttributeNotMatched as error:
        raise errors.DatabaseUnavailableError(
            f"no host of the database URL is what its target_session_attrs asks for: {_said(error)}"
        ) from error
    except asyncpg.exceptions.ClientConfigurationError as error:
        raise errors.InvalidSettingError(
            f"the database URL is not valid: {_said(error)}"
        ) from error
    except (*_UNCERTAIN, *_NETWORK, *_UNAVAILABLE) as error:
        # A failure of TLS is an OSError, and a ValueError as well.
        reason = _said(error) if str(error) else "no answer in time"
        raise errors.DatabaseUnavailableError(
            f"the database cannot be reached: {reason}"
        ) from error
    except _REFUSED_PARAMETERS as error:
        raise errors.DatabaseError(
            "the server refused a parameter of the database URL: "
            f"{_said(error)} (SQLSTATE {error.sqlstate})"
        ) from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        with translated_driver_errors():
            raise error from None
    except UnicodeError:
        raise errors.InvalidSettingError(
            "the database URL is not valid: a host has a name that none can have"
        ) from None
    except (LookupError, TypeError, ValueError):
        # The URL holds a password, and the text may quote a part of it.
        raise errors.InvalidSettingError(
            "the database URL is not valid, or names no user where the system has no name for the "
            "account either (it is not shown, for the password in it)"
        ) from None


def was_undone(error: errors.DatabaseError) -> bool:
    """Return whether a transaction was rolled back that may succeed when it is run again."""
    return isinstance(error, errors.DatabaseConflictError) or isinstance(
        error.__cause__, _LOST_PLANS
    )
