"""Checking that a database has the schema that this version of the library needs."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from meshhook.errors import DatabaseError, SchemaMissingError
from meshhook.postgres.driver_errors import translated_errors
from meshhook.schema.migrations import Migration, Reader, applied_checksums, available_names
from meshhook.schema.pgmq import check_version, find_pgmq

MOST_SHOWN = 3
"""How many of the missing migrations a message names."""


async def check_schema(reader: Reader, *, migrations: Sequence[Migration] | None = None) -> None:
    """Check that the database has the migrations that this version needs, and PGMQ.

    Reads a few rows, so that a worker can do it at each start. Newer ones are no obstacle, so that
    workers of the version before start and go on until all are replaced. Whether a migration was
    changed after it ran is left to `migrate`.

    Args:
        reader: an asyncpg connection or pool, or a `Database`; it may be read-only.
        migrations: by default, those of this version of the library.

    Raises:
        SchemaMissingError: if migrations are missing, naming them.
        UnsupportedPgmqError: if PGMQ is missing or older than 1.5.0.
        DatabaseError: if the role may not read the record of migrations.
    """
    needed = available_names() if migrations is None else migrations
    with translated_errors():
        try:
            applied = await applied_checksums(reader)
        except asyncpg.InsufficientPrivilegeError as error:
            raise DatabaseError(
                f"the role of this connection may not read the schema meshhook ({error}); "
                "run as its owner: grant usage on schema meshhook to ROLE; "
                "grant select on all tables in schema meshhook to ROLE"
            ) from error
        missing = [each for each in needed if each.version not in applied]
        if missing:
            # A status or a log line has no room for all.
            shown = [f"{each.version:04}_{each.name}" for each in missing[:MOST_SHOWN]]
            if len(missing) > len(shown):
                shown.append(f"and {len(missing) - len(shown)} more")
            raise SchemaMissingError(
                f"the database lacks migration {', '.join(shown)}; run: meshhook migrate"
            )
        check_version(await find_pgmq(reader))
