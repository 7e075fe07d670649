"""The migrations as one SQL script, for an administrator who runs it instead of the library."""

from __future__ import annotations

from meshhook.schema.migrations import (
    MIGRATION_LOCK,
    OWN_SEARCH_PATH_SQL,
    RECORDS_SQL,
    Migration,
    available_migrations,
    library_version,
)
from meshhook.schema.pgmq import MINIMUM_PGMQ_VERSION, packaged_sql, packaged_version

_HEAD = """\
-- MeshHook Queue {library_version}: everything that a fresh database needs, in one transaction.
-- Run it with: psql --set ON_ERROR_STOP=1 --file THIS_FILE DATABASE_URL
-- A later version brings more migrations; run them with: meshhook migrate

begin;
{own_search_path};
set local lock_timeout = '5s';

do $check$
begin
    perform pg_advisory_xact_lock({lock});
    if to_regclass('meshhook.migrations') is not null then
        raise exception 'this database has migrations already; run: meshhook migrate';
    end if;
end
$check$;

create schema if not exists meshhook;
"""

_PGMQ_SQL_HEAD = """\
-- PGMQ {version}, as plain SQL.
do $check$
begin
    if to_regclass('pgmq.meta') is not null then
        raise exception 'this database has PGMQ already; use the script without the SQL of PGMQ';
    end if;
end
$check$;
"""

_PGMQ_SQL_RECORD = """\
insert into meshhook.pgmq_installation (version, source, library_version)
values ({version}, 'sql', {library_version});
"""

_PGMQ_EXTENSION = """\
-- PGMQ: what the database has, else the extension.
do $pgmq$
declare
    version text;
begin
    if to_regclass('pgmq.meta') is null then
        if not exists (select from pg_available_extensions where name = 'pgmq') then
            raise exception 'this database has no PGMQ, and the server does not offer the '
                'extension; use the script with the SQL of PGMQ';
        end if;
        create extension pgmq;
        insert into meshhook.pgmq_installation (version, source, library_version)
        select extversion, 'extension', {library_version}
        from pg_extension where extname = 'pgmq';
    end if;
    if not exists (
        select from pg_attribute
        where attrelid = to_regclass('pgmq.message_record') and attname = 'headers')
    then
        raise exception 'this database has a PGMQ older than {minimum}; update it';
    end if;
end
$pgmq$;
"""

_RECORD = """\
insert into meshhook.migrations (version, name, checksum, library_version)
values ({version}, {name}, {checksum}, {library_version});
"""


def script(*, pgmq_sql: bool) -> str:
    """Return one SQL script that does on a fresh database what `migrate` does.

    It is one transaction, records what ran, and refuses a database that has migrations.

    Args:
        pgmq_sql: whether to install PGMQ as plain SQL, from the installed package `pgmq`. If not,
            the PGMQ of the database is used, or else the extension created.

    Raises:
        UnsupportedPgmqError: if the package is asked for and is not installed.
    """
    quoted_version = _literal(library_version())
    head = _HEAD.format(
        library_version=library_version(), own_search_path=OWN_SEARCH_PATH_SQL, lock=MIGRATION_LOCK
    )
    parts = [head, RECORDS_SQL]
    if pgmq_sql:
        sql = packaged_sql()
        version = packaged_version() or ""
        parts += [
            _PGMQ_SQL_HEAD.format(version=version),
            sql,
            _PGMQ_SQL_RECORD.format(version=_literal(version), library_version=quoted_version),
        ]
    else:
        parts.append(
            _PGMQ_EXTENSION.format(library_version=quoted_version, minimum=MINIMUM_PGMQ_VERSION)
        )
    parts += [_with_record(migration, quoted_version) for migration in available_migrations()]
    parts.append("commit;")
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def _with_record(migration: Migration, quoted_version: str) -> str:
    record = _RECORD.format(
        version=migration.version,
        name=_literal(migration.name),
        checksum=_literal(migration.checksum),
        library_version=quoted_version,
    )
    return f"-- {migration.file_name}\n{migration.sql.rstrip()}\n\n{record}"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
