"""The schema: pending migrations, migrations of a later version, and PGMQ."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.doctor.finding import Finding, Severity
from meshhook.errors import SchemaMissingError, UnsupportedPgmqError
from meshhook.schema import check_schema
from meshhook.schema.migrations import schema_version
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshhook.doctor.case import Case


async def look(case: Case) -> Sequence[Finding]:
    """Compare the database with this version of the library."""
    try:
        await check_schema(case.database)
    except SchemaMissingError as error:
        return [Finding("schema", Severity.CRITICAL, "", str(error), "meshhook migrate")]
    except UnsupportedPgmqError as error:
        return [Finding("schema", Severity.CRITICAL, "PGMQ", str(error), "upgrade PGMQ")]
    rows = await case.fetch(queries.load("examine_migrations"))
    known = schema_version()
    return list(judge(rows[0]["newest"], known))


def judge(newest: int, known: int) -> Iterator[Finding]:
    """Judge the newest migration of the database by the newest that this version knows."""
    if newest > known:
        yield Finding(
            "schema",
            Severity.WARNING,
            "",
            f"the database has migration {newest:04}, and the newest that this version of the "
            f"library knows is {known:04}",
            "upgrade the library here, and the workers: pip install --upgrade meshhook-queue",
        )
