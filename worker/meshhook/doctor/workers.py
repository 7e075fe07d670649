"""Workers whose version of the library is not that of the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook.doctor.case import Case


async def look(case: Case) -> Sequence[Finding]:
    """Look at the migrations that live workers know."""
    rows = await case.fetch(queries.load("examine_workers"), case.wanted)
    return [judge(row) for row in rows]


def judge(row: Mapping[str, Any]) -> Finding:
    """Judge the workers of one queue that know another schema."""
    count, known = row["workers"], row["schema_version"]
    workers = f"{count:,} worker" + ("" if count == 1 else "s")
    does = "is" if count == 1 else "are"
    of = "a version that does not say its schema" if known is None else f"schema {known:04}"
    return Finding(
        "workers",
        Severity.WARNING,
        f"queue {row['queue']}",
        f"{workers} {does} of {of}, and the database has schema {row['newest']:04}: what is new "
        "does not work there",
        f"replace the workers by ones of this version: meshhook workers {row['queue']}",
    )
