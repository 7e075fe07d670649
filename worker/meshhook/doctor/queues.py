"""Queues in which jobs wait for nobody: no worker, paused, cordoned; and dead letters that grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.doctor.finding import Finding, Severity, spelled
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from meshhook.doctor.case import Case

COUNT_LIMIT = 1_000
UNSERVED_SECONDS = 60.0
"""How long a job may be ready in a queue without a worker."""
PAUSED_SECONDS = 86_400.0
MANY_DEAD_LETTERS = 100
"""How many jobs may become dead letters in an hour."""


async def look(case: Case) -> Sequence[Finding]:
    """Look at each queue, its workers and its dead letters."""
    rows = await case.fetch(queries.load("examine_queues"), case.wanted, COUNT_LIMIT)
    return [finding for row in rows for finding in judge(row)]


def judge(row: Mapping[str, Any]) -> Iterator[Finding]:
    """Judge one queue."""
    queue = row["queue"]
    subject = f"queue {queue}"
    waiting = f"{row['ready']:,}{'+' if row['capped'] else ''} jobs are ready"
    waited = row["oldest_ready_seconds"]
    if row["paused"]:
        if row["paused_seconds"] >= PAUSED_SECONDS and row["ready"]:
            yield Finding(
                "queues",
                Severity.WARNING,
                subject,
                f"{waiting}, and it has been paused for {spelled(row['paused_seconds'])} or longer",
                f"meshhook queue resume {queue}",
            )
    elif row["ready"] and waited >= UNSERVED_SECONDS:
        if not row["workers"]:
            yield Finding(
                "queues",
                Severity.CRITICAL,
                subject,
                f"{waiting}, the oldest for {spelled(waited)}, and no worker of it is alive",
                f"meshhook worker {queue} --handler MODULE:FUNCTION, or look at its JobQueue: "
                "kubectl get jobqueues -A",
            )
        elif row["workers"] == row["idle_workers"]:
            yield Finding(
                "queues",
                Severity.WARNING,
                subject,
                f"{waiting}, the oldest for {spelled(waited)}, and each of its {row['workers']} "
                "workers is cordoned or stopping",
                f"meshhook workers {queue}; a cordon ends by itself within an hour of the last "
                "renewal: look at the operator's log",
            )
    if row["workers"] and row["urgent_slots"] > (kept := row["fewest_slots"] // 2):
        yield Finding(
            "queues",
            Severity.WARNING,
            subject,
            f"urgent_slots is {row['urgent_slots']}, and of a worker with {row['fewest_slots']} "
            f"slots {kept} are kept free for urgent jobs: half at the most",
            f"meshhook queue set {queue} urgent_slots={kept}, or start workers with "
            f"--concurrency {2 * row['urgent_slots']}",
        )
    if row["recent_dead"] >= MANY_DEAD_LETTERS:
        yield Finding(
            "queues",
            Severity.WARNING,
            subject,
            f"{row['recent_dead']:,} or more jobs became dead letters within the last hour",
            f"meshhook dlq errors {queue}",
        )
