"""Workers of another version than the schema, and more replicas than there are connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case


CONNECTIONS = 3
"""How many a worker process has: for claims and notifications, settlements, and leases."""


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


async def look_at_replicas(case: Case) -> Sequence[Finding]:
    """Find out whether all replicas that JobQueues allow would get their connections."""
    if case.pooled:
        return []  # the pooler shares what there is
    (row,) = await case.fetch(queries.load("examine_replicas"), case.wanted)
    return list(judge_replicas(row))


def judge_replicas(row: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge the most replicas by the connections of the server."""
    others = max(0, row["used"] - CONNECTIONS * row["replicas"])
    wanted = CONNECTIONS * row["most"]
    if row["most"] and wanted + others > row["connections"]:
        yield Finding(
            "replicas",
            Severity.WARNING,
            "",
            f"JobQueues allow {row['most']} replicas, which take {wanted} connections without a "
            f"pooler. The server has {row['connections']}, and others use {others}",
            f"lower spec.scaling.maxReplicas, the highest is that of {row['largest']}; or use a "
            "pooler (spec.database.pooled), or raise max_connections",
        )
