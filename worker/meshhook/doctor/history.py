"""The history: partitions for the coming days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case


async def look(case: Case) -> Sequence[Finding]:
    """Find days without a partition."""
    return list(judge(await case.fetch(queries.load("examine_partitions"))))


def judge(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge today and tomorrow."""
    missing = [row["day"] for row in rows if not row["is_there"]]
    if missing:
        yield Finding(
            "history",
            Severity.WARNING,
            "meshhook.job_attempts",
            f"has no partition for {', '.join(map(str, missing))}: attempts go to the default one, "
            "which retention empties row by row",
            "select meshhook.create_attempt_partitions();  workers do it once an hour: see their "
            "log for `housekeeping put off`",
        )
