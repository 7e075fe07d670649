"""The history and the finished jobs: partitions for the coming days, and none of long ago."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case

_LOG = "workers do it once an hour: see their log for `housekeeping put off`"
_MAKE = {
    "job_attempts": "create_attempt_partitions",
    "finished_jobs": "create_finished_partitions",
}
_DROP = {
    "job_attempts": "drop_expired_attempt_partitions",
    "finished_jobs": "drop_expired_finished_partitions",
}


async def look(case: Case) -> Sequence[Finding]:
    """Find days without a partition, and partitions that should be gone."""
    rows = await case.fetch(queries.load("examine_partitions"))
    return [finding for row in rows for finding in judge(row)]


def judge(row: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the partitions of one table."""
    parent, subject = row["parent"], f"meshhook.{row['parent']}"
    if row["missing"]:
        yield Finding(
            "history",
            Severity.WARNING,
            subject,
            f"has no partition for {', '.join(row['missing'])}: its rows go to the default one, "
            "which retention empties row by row",
            f"select meshhook.{_MAKE[parent]}();  {_LOG}. A day that has rows in the default one "
            "gets none any more: it is over when that day is",
        )
    if row["old"]:
        yield Finding(
            "history",
            Severity.WARNING,
            subject,
            f"has {row['old']} partitions that no queue keeps any more, from {row['oldest']} on: "
            "they take space",
            f"select meshhook.{_DROP[parent]}();  {_LOG}",
        )
