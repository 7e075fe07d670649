"""Autovacuum that is off or far behind, and tables and indexes that are mostly empty space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case

BEHIND_FACTOR = 5
"""By how much dead rows exceed what starts autovacuum before it counts as behind."""
LEAST_DEAD_ROWS = 50_000
LEAST_BYTES = 128 * 1024 * 1024
"""Below that size bloat costs nothing."""
BLOATED_ROW_BYTES = 16_384
"""What a row takes at the most in a table: larger values are stored apart."""
BLOATED_ENTRY_BYTES = 1_024
"""What an entry of one of the indexes takes at the most, by far."""


async def look_at_vacuum(case: Case) -> Sequence[Finding]:
    """Find out whether autovacuum is on, and whether it keeps up."""
    return list(judge_vacuum(await case.fetch(queries.load("examine_vacuum"), case.wanted)))


def judge_vacuum(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge each table."""
    for row in rows:
        if not row["is_server_on"]:
            yield Finding(
                "vacuum",
                Severity.CRITICAL,
                "",
                "autovacuum or track_counts is off for the server: dead rows are never removed",
                "alter system set autovacuum = on; alter system set track_counts = on; "
                "select pg_reload_conf();",
            )
            return
        if not row["is_on"]:
            yield Finding(
                "vacuum",
                Severity.CRITICAL,
                row["name"],
                "autovacuum is off for this table: its dead rows are never removed",
                f"alter table {row['name']} reset (autovacuum_enabled); vacuum {row['name']};",
            )
        elif row["dead"] > max(LEAST_DEAD_ROWS, BEHIND_FACTOR * row["starts_at"]):
            yield Finding(
                "vacuum",
                Severity.WARNING,
                row["name"],
                f"has {row['dead']:,} dead rows, while autovacuum starts at "
                f"{row['starts_at']:,.0f}; last vacuumed: {row['last_vacuum'] or 'never'}",
                f"end old transactions (check transactions), then: vacuum (verbose) {row['name']}; "
                "if it recurs, raise autovacuum_max_workers and autovacuum_vacuum_cost_limit",
            )


async def look_at_bloat(case: Case) -> Sequence[Finding]:
    """Find tables and indexes that are mostly empty space."""
    return list(judge_bloat(await case.fetch(queries.load("examine_bloat"), case.wanted)))


def judge_bloat(rows: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Judge each table and index by its bytes for each row; an estimate."""
    for row in rows:
        most = BLOATED_ENTRY_BYTES if row["is_index"] else BLOATED_ROW_BYTES
        if row["bytes"] < LEAST_BYTES or row["bytes"] < most * (row["rows"] + 1):
            continue
        command = "reindex index concurrently" if row["is_index"] else "vacuum (full, verbose)"
        wait = "" if row["is_index"] else "  (locks the table while it runs; pg_repack does not)"
        yield Finding(
            "bloat",
            Severity.WARNING,
            row["name"],
            f"takes {row['bytes'] / 1024 / 1024:,.0f} MiB for about {row['rows']:,} rows",
            f"{command} {row['name']};{wait}",
        )
