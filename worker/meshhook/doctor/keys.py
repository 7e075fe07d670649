"""Keys that have been held or broken for long, and unique keys of jobs that are gone."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity, spelled
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case

OLD_HOLD_SECONDS = 86_400.0
OLD_BREAKER_SECONDS = 3_600.0
LOOKED_AT = 1_000
"""At how many unique keys of a queue to look."""
MANY_ORPHANS = 500


async def look_at_holds(case: Case) -> Sequence[Finding]:
    """Find old holds and breakers that have been open for long."""
    rows = await case.fetch(
        queries.load("examine_holds"), case.wanted, OLD_HOLD_SECONDS, OLD_BREAKER_SECONDS
    )
    return list(judge_holds(rows))


def judge_holds(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge the oldest of each queue."""
    for row in rows:
        queue, key = row["queue"], row["key"]
        what = "is held" if row["is_hold"] else "has had an open breaker"
        more = f", as are {row['keys'] - 1:,} others" if row["keys"] > 1 else ""
        # Whoever enqueues has chosen the key; the commands are copied into a shell.
        named = f"{queue} {'-- ' if key.startswith('-') else ''}{shlex.quote(key)}"
        yield Finding(
            "keys",
            Severity.WARNING,
            f"queue {queue}",
            f"key {key!r} {what} for {spelled(row['seconds'])}{more}: its jobs wait",
            f"meshhook keys show {named}; meshhook keys resume {named}",
        )


async def look_at_unique_keys(case: Case) -> Sequence[Finding]:
    """Look at the first unique keys of each queue."""
    found: list[Finding] = []
    for config in await case.configs():
        sql = queries.load("examine_unique_keys", config.queue)
        rows = await case.fetch(sql, config.queue, LOOKED_AT)
        found += judge_unique_keys(config.queue, rows[0])
    return found


def judge_unique_keys(queue: str, row: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge how many of them hold nothing."""
    if row["orphans"] >= MANY_ORPHANS:
        yield Finding(
            "unique_keys",
            Severity.WARNING,
            f"queue {queue}",
            f"{row['orphans']:,} of {row['looked']:,} unique keys are of jobs that are gone",
            "workers delete them once an hour: see their log for `housekeeping put off`, or start "
            f"one: meshhook worker {queue} --handler MODULE:FUNCTION",
        )
