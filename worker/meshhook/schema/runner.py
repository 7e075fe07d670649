"""Running the migrations in order, safely even if several processes do so at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from meshhook.errors import DatabaseReadOnlyError, InvalidSettingError, MigrationError
from meshhook.postgres.database import (
    MIGRATION_TIMEOUT_SECONDS,
    Database,
    DatabaseSource,
    allow,
    takes_url,
)
from meshhook.postgres.driver_errors import translated_errors
from meshhook.schema.migrations import (
    MIGRATION_LOCK,
    OWN_SEARCH_PATH_SQL,
    RECORDS_SQL,
    Migration,
    Reader,
    applied_checksums,
    available_migrations,
    library_version,
    pending_migrations,
)
from meshhook.schema.pgmq import PgmqPlan, PgmqSource, PgmqVersion, packaged_sql, plan_pgmq

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

_WAIT_FOR_OTHERS = "60s"
_WAIT_FOR_LOCKS = "1s"
"""Later statements queue up behind a waiting lock request; after this time they are let pass."""
_LOCK_TRIES = 10
_LOCK_PAUSE_SECONDS = 2.0
_HAS_MEND_TABLES = "select pg_catalog.to_regprocedure('meshhook.mend_tables()') is not null"


class _TablesInUseError(MigrationError):
    """A migration did not get its locks in time."""


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """What `migrate` would do now.

    Attributes:
        pgmq: what is there of PGMQ, and what would be installed.
        applied: the versions that the database has.
        pending: the migrations that would run, in order.
    """

    pgmq: PgmqPlan
    applied: tuple[int, ...]
    pending: tuple[Migration, ...]


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What `migrate` did.

    Attributes:
        pgmq: the version of PGMQ that the database has now, and where it comes from.
        pgmq_before: what it had before; None if there was none.
        pgmq_newer: a newer version of PGMQ that is at hand and was not installed; None if there is
            none.
        applied_before: the versions that the database had already, or that others ran meanwhile.
        applied: the migrations that ran, in order.
    """

    pgmq: PgmqVersion
    pgmq_before: PgmqVersion | None
    pgmq_newer: str | None
    applied_before: tuple[int, ...]
    applied: tuple[Migration, ...]


async def plan(reader: Reader, *, migrations: Sequence[Migration] | None = None) -> MigrationPlan:
    """Return what `migrate` would do, and change nothing.

    Args:
        reader: an asyncpg connection or pool, or a `Database`; it may be read-only.
        migrations: by default, those of this version of the library.

    Raises:
        MigrationError, SchemaMissingError, UnsupportedPgmqError: as `migrate` would.
    """
    migrations = available_migrations() if migrations is None else migrations
    with translated_errors():
        applied = await applied_checksums(reader)
        pending = pending_migrations(applied, migrations)
        return MigrationPlan(await plan_pgmq(reader), tuple(applied), pending)


@takes_url
async def migrate(
    connection: DatabaseSource, *, migrations: Sequence[Migration] | None = None
) -> MigrationReport:
    """Install PGMQ where it is missing, and run the migrations that the database lacks.

    Any number may run at once: an advisory lock lets one at a time through, and the others find
    the work done. Each migration is a transaction of its own, so that one which fails leaves the
    earlier ones applied. It waits at most a second for a lock, since others wait behind it, and is
    tried ten times within half a minute. Safe through PgBouncer.

    Args:
        connection: an asyncpg connection outside a transaction, or a pool or `Database`, which
            lends one.
        migrations: by default, those of this version of the library.

    Raises:
        MigrationError: if a migration fails, naming its file, the line and what the server said;
            if one that ran has been changed since; or if another migration runs for longer than
            60 seconds.
        SchemaMissingError: if the database is newer than the library.
        UnsupportedPgmqError: if PGMQ is older than 1.5.0, or missing and not to be had.
        DatabaseReadOnlyError: on a replica, or in a session that may only read.
    """
    migrations = available_migrations() if migrations is None else migrations
    async with Database.of(connection).acquire() as own:
        return await _migrate(allow(own, MIGRATION_TIMEOUT_SECONDS), migrations)


async def _migrate(connection: Connection, migrations: Sequence[Migration]) -> MigrationReport:
    with translated_errors():
        await _check_writable(connection)
        async with _locked(connection):
            applied = await applied_checksums(connection)
            pending_migrations(applied, migrations)
            pgmq = await plan_pgmq(connection)
            await _prepare(connection, pgmq)
        done: list[Migration] = []
        while (migration := await _apply_next_patiently(connection, migrations)) is not None:
            done.append(migration)
        await _mend(connection)
        # Again: another process may have run some of them meanwhile.
        own = {migration.version for migration in done}
        applied = await applied_checksums(connection)
    now = pgmq.to_install or pgmq.found
    assert now is not None  # noqa: S101 - a plan keeps or installs one
    before = tuple(version for version in applied if version not in own)
    return MigrationReport(now, pgmq.found, pgmq.newer, before, tuple(done))


async def _check_writable(connection: Connection) -> None:
    if connection.is_in_transaction():
        raise InvalidSettingError(
            "connection: each migration is a transaction of its own, and this connection is in "
            "one already; pass one that is not"
        )
    row = await connection.fetchrow(
        "select pg_catalog.pg_is_in_recovery() as standby, "
        "pg_catalog.current_setting('transaction_read_only')::boolean as read_only"
    )
    if row and row["standby"]:
        raise DatabaseReadOnlyError(
            "this database is a replica that takes no writes; migrate on the primary server"
        )
    if row and row["read_only"]:
        raise DatabaseReadOnlyError(
            "this session may only read (default_transaction_read_only is on); "
            "migrate with a role and a database that may write"
        )


@asynccontextmanager
async def _locked(connection: Connection) -> AsyncIterator[None]:
    """Open a transaction that excludes other migrations.

    The lock belongs to the transaction and not to the session, since a pooler may give each
    transaction another session. And in read committed mode, what others did while this one waited
    can be seen.
    """
    async with connection.transaction(isolation="read_committed"):
        await connection.execute(
            f"{OWN_SEARCH_PATH_SQL}; set local statement_timeout = 0; "
            f"set local lock_timeout = '{_WAIT_FOR_OTHERS}'"
        )
        try:
            await connection.execute("select pg_catalog.pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        except asyncpg.LockNotAvailableError as error:
            raise MigrationError(
                f"another migration of this database has been running for {_WAIT_FOR_OTHERS}; "
                "try again when it has ended (see pg_stat_activity)"
            ) from error
        await connection.execute(f"set local lock_timeout = '{_WAIT_FOR_LOCKS}'")
        yield


async def _prepare(connection: Connection, pgmq: PgmqPlan) -> None:
    """Create the schema, the runner's own tables, and PGMQ if it is missing."""
    # `create schema if not exists` asks for the right to create one even if it exists.
    if not await connection.fetchval(
        "select exists (select from pg_catalog.pg_namespace where nspname = 'meshhook')"
    ):
        await _execute(connection, "the schema meshhook", "create schema meshhook")
    await _execute(connection, "the record of migrations", RECORDS_SQL)
    if pgmq.to_install is None:
        return
    if pgmq.to_install.source is PgmqSource.EXTENSION:
        await _execute(connection, "the extension pgmq", "create extension pgmq")
    else:
        await _execute(connection, f"pgmq.sql {pgmq.to_install.version}", packaged_sql())
    await connection.execute(
        "insert into meshhook.pgmq_installation (version, source, library_version) "
        "values ($1, $2, $3)",
        pgmq.to_install.version,
        pgmq.to_install.source,
        library_version(),
    )


async def _apply_next_patiently(
    connection: Connection, migrations: Sequence[Migration]
) -> Migration | None:
    """Call `_apply_next`, repeatedly while tables that it changes are in use."""
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            return await _apply_next(connection, migrations)
        except _TablesInUseError:
            if not tries_left:
                raise
        await asyncio.sleep(_LOCK_PAUSE_SECONDS)
    return None


async def _apply_next(connection: Connection, migrations: Sequence[Migration]) -> Migration | None:
    """Run the first missing migration and return it; None if none is missing."""
    async with _locked(connection):
        pending = pending_migrations(await applied_checksums(connection), migrations)
        if not pending:
            return None
        migration = pending[0]
        started = time.perf_counter()
        await _execute(connection, f"migration {migration.file_name}", migration.sql)
        await connection.execute(
            "insert into meshhook.migrations "
            "(version, name, checksum, duration_ms, library_version) values ($1, $2, $3, $4, $5)",
            migration.version,
            migration.name,
            migration.checksum,
            round((time.perf_counter() - started) * 1000),
            library_version(),
        )
        return migration


async def _mend(connection: Connection) -> None:
    """Finish what a migration left undone because a table was in use: `meshhook.mend_tables`."""
    if await connection.fetchval(_HAS_MEND_TABLES):
        async with connection.transaction(isolation="read_committed"):
            await connection.execute(OWN_SEARCH_PATH_SQL)
            await _execute(connection, "mending tables", "select meshhook.mend_tables()")


async def _execute(connection: Connection, what: str, sql: str) -> None:
    """Run a script, whatever number of statements it has."""
    try:
        await connection.execute(sql)
    except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if connection.is_closed() or not isinstance(error, asyncpg.PostgresError):
            raise
        is_locked = isinstance(error, asyncpg.LockNotAvailableError)
        kind = _TablesInUseError if is_locked else MigrationError
        raise kind(_explain(what, sql, error)) from error


def _explain(what: str, sql: str, error: Any) -> str:
    line = ""
    if error.position is not None:
        line = f", line {sql.count(chr(10), 0, int(error.position) - 1) + 1}"
    parts = [f"{what} failed{line}: {error.message} (SQLSTATE {error.sqlstate})."]
    parts += [f"{text.rstrip('.')}." for text in (error.detail, error.hint) if text]
    parts.append("Nothing of it was kept; what ran before it stays.")
    if isinstance(error, asyncpg.LockNotAvailableError):
        parts.append(
            f"It waits at most {_WAIT_FOR_LOCKS} for a lock, {_LOCK_TRIES} times; run it again."
        )
    if isinstance(error, asyncpg.InsufficientPrivilegeError):
        parts.append(
            "Run it as a role that may, or give an administrator the script: meshhook migrate sql"
        )
    return " ".join(parts)
