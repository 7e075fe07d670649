"""PGMQ in a database: which version is installed, and how to install it if it is missing."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from meshhook.errors import UnsupportedPgmqError
from meshhook.schema.migrations import Reader

MINIMUM_PGMQ_VERSION = "1.5.0"

# A PGMQ that was installed as plain SQL does not record its version. The presence of a column or of
# a function with a number of arguments gives the lowest version that it can be.
_FEATURES = {
    "message_record.headers": "1.5.0",
    "acquire_queue_lock(1)": "1.5.2",
    "pop(2)": "1.7.0",
    "read_grouped(3)": "1.9.0",
    "message_record.last_read_at": "1.10.0",
    "send_topic(2)": "1.11.0",
    "read_grouped_head(3)": "1.11.1",
    "read_grouped_head_with_poll(5)": "1.12.0",
    "metrics_result.default_partition_length": "1.13.0",
}

_FIND_SQL = """
with pgmq as (select oid from pg_catalog.pg_namespace where nspname = 'pgmq'),
relation as (
    select c.oid, c.relname from pg_catalog.pg_class c join pgmq on pgmq.oid = c.relnamespace
    where c.relname in ('meta', 'message_record', 'metrics_result')
)
select
    (select extversion from pg_catalog.pg_extension where extname = 'pgmq') as extension,
    (select default_version from pg_catalog.pg_available_extensions where name = 'pgmq')
        as extension_offered,
    exists (select from relation) as exists,
    array(
        select pg_catalog.format('%s.%s', relation.relname, a.attname)
        from relation join pg_catalog.pg_attribute a on a.attrelid = relation.oid
        where a.attnum > 0 and not a.attisdropped
        union
        select pg_catalog.format('%s(%s)', p.proname, p.pronargs)
        from pg_catalog.pg_proc p join pgmq on pgmq.oid = p.pronamespace
    ) as features
"""


class PgmqSource(StrEnum):
    """Where the PGMQ of a database comes from."""

    EXTENSION = "extension"
    """CREATE EXTENSION."""
    SQL = "sql"
    """Plain SQL, by `meshhook migrate`, which recorded the version."""
    OTHER = "other"
    """Plain SQL, installed by other means; its functions show the version."""


@dataclass(frozen=True, slots=True)
class PgmqVersion:
    """A version of PGMQ and where it comes from.

    With the source `OTHER`, the version found is the lowest that it can be.
    """

    version: str
    source: PgmqSource

    def __str__(self) -> str:
        """For example `1.13.0 (sql)`."""
        at_least = " or newer" if self.source is PgmqSource.OTHER else ""
        return f"{self.version}{at_least} ({self.source})"


@dataclass(frozen=True, slots=True)
class PgmqPlan:
    """The installed PGMQ, and the one that a migration would install.

    Attributes:
        found: the installed one; None if there is none.
        to_install: the one that the migration installs; None if the installed one is kept.
        newer: a newer available version, which is never installed unasked; None if there is none.
    """

    found: PgmqVersion | None
    to_install: PgmqVersion | None
    newer: str | None


async def plan_pgmq(reader: Reader) -> PgmqPlan:
    """Decide what to do about PGMQ: keep it, create the extension, or run its SQL.

    Raises:
        UnsupportedPgmqError: if what is there is older than 1.5.0, or nothing is there and there is
            no way to get it.
    """
    row = await reader.fetchrow(_FIND_SQL)
    found = await _found(reader, row)
    if found is not None:
        check_version(found)
        at_hand = {
            PgmqSource.EXTENSION: row["extension_offered"],
            PgmqSource.SQL: packaged_version(),
        }.get(found.source)
        is_newer = at_hand is not None and _parts(at_hand) > _parts(found.version)
        return PgmqPlan(found, None, at_hand if is_newer else None)
    offered = row["extension_offered"]
    if offered is not None and _parts(offered) >= _parts(MINIMUM_PGMQ_VERSION):
        return PgmqPlan(None, PgmqVersion(offered, PgmqSource.EXTENSION), None)
    packaged = packaged_version()
    if packaged is not None:
        return PgmqPlan(None, PgmqVersion(packaged, PgmqSource.SQL), None)
    instead = f"offers the extension only in version {offered}" if offered else "does not offer it"
    raise UnsupportedPgmqError(
        f"this database has no PGMQ, and the server {instead}; PGMQ {MINIMUM_PGMQ_VERSION} or "
        "newer is needed. Install the extension on the server, or the Python package that brings "
        "its SQL: pip install pgmq"
    )


async def find_pgmq(reader: Reader) -> PgmqVersion | None:
    """Return the PGMQ that the database has, whatever its version; None if there is none."""
    return await _found(reader, await reader.fetchrow(_FIND_SQL))


def check_version(found: PgmqVersion | None) -> None:
    """Refuse a PGMQ that is missing or older than 1.5.0.

    Raises:
        UnsupportedPgmqError: naming the version found and the one needed.
    """
    if found is None:
        raise UnsupportedPgmqError(
            f"this database has no PGMQ; {MINIMUM_PGMQ_VERSION} or newer is needed; "
            "run: meshhook migrate"
        )
    if _parts(found.version) < _parts(MINIMUM_PGMQ_VERSION):
        remedy = "update it"
        if found.source is PgmqSource.EXTENSION:
            remedy = "update it (ALTER EXTENSION pgmq UPDATE)"
        version = found.version if found.version != "0" else f"older than {MINIMUM_PGMQ_VERSION}"
        raise UnsupportedPgmqError(
            f"this database has PGMQ {version}; {MINIMUM_PGMQ_VERSION} or newer is needed: {remedy}"
        )


def packaged_version() -> str | None:
    """Return the version of the PGMQ whose SQL the installed package `pgmq` brings, or None."""
    folder = _package_folder()
    if folder is None or not (folder / "pgmq.sql").is_file():
        return None
    lines = (folder / "VERSION").read_text(encoding="utf-8").split()
    return lines[0] if lines else None


def packaged_sql() -> str:
    """Return the SQL that the installed package `pgmq` brings.

    Raises:
        UnsupportedPgmqError: if the package is not installed.
    """
    folder = _package_folder()
    if folder is None or packaged_version() is None:
        raise UnsupportedPgmqError(
            "the SQL of PGMQ is not at hand; install the Python package that brings it: "
            "pip install pgmq"
        )
    return (folder / "pgmq.sql").read_text(encoding="utf-8")


async def _found(reader: Reader, row: dict[str, str]) -> PgmqVersion | None:
    if row["extension"] is not None:
        return PgmqVersion(row["extension"], PgmqSource.EXTENSION)
    if not row["exists"]:
        return None
    shown = max(
        (version for feature, version in _FEATURES.items() if feature in row["features"]),
        key=_parts,
        default="0",
    )
    recorded = await _recorded_version(reader)
    if recorded is not None and shown == _shown_by(recorded):
        return PgmqVersion(recorded, PgmqSource.SQL)
    return PgmqVersion(shown, PgmqSource.OTHER)


async def _recorded_version(reader: Reader) -> str | None:
    may_read = await reader.fetchval(
        "select pg_catalog.bool_and(pg_catalog.has_table_privilege(c.oid, 'select') "
        "and pg_catalog.has_schema_privilege(n.oid, 'usage')) "
        "from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace "
        "where n.nspname = 'meshhook' and c.relname = 'pgmq_installation'"
    )
    if not may_read:
        return None
    version: str | None = await reader.fetchval(
        "select version from meshhook.pgmq_installation where source = 'sql' "
        "order by installed_at desc limit 1"
    )
    return version


def _shown_by(version: str) -> str:
    """Return which version the features of `version` show."""
    older = [known for known in _FEATURES.values() if _parts(known) <= _parts(version)]
    return max(older, key=_parts, default="0")


def _package_folder() -> Path | None:
    # Importing the package would need psycopg, and a libpq with it.
    spec = importlib.util.find_spec("pgmq")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "sql"


def _parts(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in numbers[0].split(".")) if numbers else (0,)
