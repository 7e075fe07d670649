"""The migrations of this version, and the record of those applied to a database."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any, NamedTuple, Protocol

from meshhook.errors import MigrationError, SchemaMissingError

MIGRATION_LOCK = int.from_bytes(b"meshhook", "big")
"""The key of the advisory lock held during a migration; per database."""

OWN_SEARCH_PATH_SQL = "set local search_path = pg_catalog, pg_temp"
"""The first statement of transactions that create objects: unqualified names then resolve to the
system's objects, never to those of someone who may create in a schema of the caller's path."""

RECORDS_SQL = """\
create table if not exists meshhook.migrations (
    version integer primary key,
    name text not null,
    checksum text not null,
    applied_at timestamptz not null default clock_timestamp(),
    duration_ms bigint,
    applied_by text not null default current_user,
    library_version text not null
);
comment on table meshhook.migrations is 'The migrations that ran; kept by meshhook migrate.';
comment on column meshhook.migrations.duration_ms is
    'Null after the script of meshhook migrate sql.';

create table if not exists meshhook.pgmq_installation (
    installed_at timestamptz not null default clock_timestamp(),
    version text not null,
    source text not null check (source in ('extension', 'sql')),
    installed_by text not null default current_user,
    library_version text not null
);
comment on table meshhook.pgmq_installation is
    'The PGMQ that meshhook migrate installed; empty if it was there before.';
"""
"""The runner's own tables. They are not a migration, since they record the migrations."""

_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class Reader(Protocol):
    """A source of rows: a connection, a pool or a `Database`."""

    async def fetch(self, query: str, /, *args: Any) -> Any:
        """Return the rows of a query."""

    async def fetchrow(self, query: str, /, *args: Any) -> Any:
        """Return the first row of a query."""

    async def fetchval(self, query: str, /, *args: Any) -> Any:
        """Return the first value of a query."""


class MigrationName(NamedTuple):
    """What the name of a file of `migrations/` says."""

    version: int
    """The number that it starts with, 1 or more."""
    name: str
    """The rest, for example `queue_config`."""

    @classmethod
    def from_file_name(cls, file_name: str) -> MigrationName:
        """Read the name of a file.

        Raises:
            MigrationError: if it is not named NNNN_noun.sql.
        """
        found = _FILE_NAME.fullmatch(file_name)
        if found is None:
            raise MigrationError(
                f"migration file {file_name!r}: the name must be four digits, _, a noun and .sql"
            )
        return cls(int(found[1]), found[2])


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/`.

    Attributes:
        version: the number that its file name starts with, 1 or more.
        name: the rest of the file name, for example `queue_config`.
        sql: its text.
        checksum: SHA-256 of the text, in which line ends and blanks before them do not count.
    """

    version: int
    name: str
    sql: str
    checksum: str

    @classmethod
    def from_text(cls, file_name: str, text: str) -> Migration:
        """Create one from the name and the text of a file.

        Raises:
            MigrationError: if the file is not named NNNN_noun.sql.
        """
        name = MigrationName.from_file_name(file_name)
        normalised = "\n".join(line.rstrip() for line in text.strip().splitlines())
        checksum = hashlib.sha256(normalised.encode()).hexdigest()
        return cls(name.version, name.name, text, checksum)

    @property
    def file_name(self) -> str:
        """The name of its file, for example `0001_queue_config.sql`."""
        return f"{self.version:04}_{self.name}.sql"


def available_migrations(folder: Traversable | None = None) -> list[Migration]:
    """Return the migrations of this version of the library, in order.

    Args:
        folder: where the files are; by default those that the package brings.

    Raises:
        MigrationError: if two files have one number, or a name is wrong, or there is none.
    """
    migrations: dict[int, Migration] = {}
    for file in _files(folder or _packaged_folder()):
        migration = Migration.from_text(file.name, file.read_text(encoding="utf-8"))
        other = migrations.setdefault(migration.version, migration)
        if other is not migration:
            raise MigrationError(
                f"migration files {other.file_name} and {migration.file_name} have one number"
            )
    return list(migrations.values())


@functools.cache
def available_names() -> tuple[MigrationName, ...]:
    """Return the names of the migrations of this version of the library, in order.

    The files are not read, and the folder is listed once in a process: the operator compares them
    with every database that it tries to connect to.

    Raises:
        MigrationError: if a name is wrong, or there is none.
    """
    return tuple(MigrationName.from_file_name(file.name) for file in _files(_packaged_folder()))


def _packaged_folder() -> Traversable:
    return importlib.resources.files("meshhook") / "migrations"


def _files(folder: Traversable) -> list[Traversable]:
    files = [file for file in folder.iterdir() if file.name.endswith(".sql")]
    if not files:
        raise MigrationError(f"no migration was found in {folder}: the installation is damaged")
    return sorted(files, key=lambda file: file.name)


def schema_version() -> int:
    """Return the number of the newest migration of this version of the library."""
    return available_names()[-1].version


def library_version() -> str:
    """Return the version of the installed library, or `unknown` where it runs uninstalled."""
    try:
        return importlib.metadata.version("meshhook-queue")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


async def applied_checksums(reader: Reader) -> dict[int, str]:
    """Return the checksum of each migration that the database has, by version."""
    # From the catalog: a query of the table itself fails without the right to use the schema.
    exists = await reader.fetchval(
        "select exists (select from pg_catalog.pg_class c "
        "join pg_catalog.pg_namespace n on n.oid = c.relnamespace "
        "where n.nspname = 'meshhook' and c.relname = 'migrations')"
    )
    if not exists:
        return {}
    rows = await reader.fetch("select version, checksum from meshhook.migrations order by version")
    return {row["version"]: row["checksum"] for row in rows}


def check_not_newer(applied: dict[int, str], migrations: Sequence[Migration]) -> None:
    """Refuse a database with migrations that this version of the library does not know.

    Raises:
        SchemaMissingError: naming them.
    """
    unknown = sorted(applied.keys() - {migration.version for migration in migrations})
    if unknown:
        numbers = ", ".join(f"{version:04}" for version in unknown)
        raise SchemaMissingError(
            f"the database is newer than this library: it has migration {numbers}, and "
            f"meshhook-queue {library_version()} ends with {migrations[-1].version:04}; "
            "run: pip install --upgrade meshhook-queue"
        )


def pending_migrations(
    applied: dict[int, str], migrations: Sequence[Migration]
) -> tuple[Migration, ...]:
    """Return the migrations that a database lacks, after checking those that it has.

    Raises:
        MigrationError: if one of them had another text when it ran.
        SchemaMissingError: if the database is newer than the library.
    """
    check_not_newer(applied, migrations)
    for migration in migrations:
        recorded = applied.get(migration.version, migration.checksum)
        if recorded != migration.checksum:
            raise MigrationError(
                f"migration {migration.file_name} has changed since it ran on this database "
                f"(checksum {migration.checksum[:12]}, then {recorded[:12]}): put its old text "
                "back, and make the change in a new file"
            )
    return tuple(migration for migration in migrations if migration.version not in applied)
