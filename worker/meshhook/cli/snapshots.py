"""Tables of queues at one moment."""

from __future__ import annotations

from collections.abc import Sequence

from meshhook.administration import COUNT_LIMIT, QueueSnapshot
from meshhook.cli.output import Column, count, duration, note, print_fields, print_table
from meshhook.priority_statistics import PriorityStatistics

COLUMNS = (
    Column("QUEUE", shrinks=True),
    Column("READY", is_number=True),
    Column("RUNNING", is_number=True),
    Column("RETRYING", is_number=True),
    Column("SCHEDULED", is_number=True, is_optional=True),
    Column("LOST", is_number=True),
    Column("DEAD", is_number=True),
    Column("OLDEST", is_number=True),
    Column("STATE", is_optional=True),
)


def snapshot_row(snapshot: QueueSnapshot) -> list[str]:
    """Return a queue as a row below `COLUMNS`."""
    counts = _counts(snapshot)
    return [
        snapshot.queue,
        *(counts[name] for name in ("ready", "running", "retrying", "scheduled", "lost", "dead")),
        duration(snapshot.oldest_ready_seconds) if snapshot.oldest_ready_seconds else "-",
        "paused" if snapshot.paused else "",
    ]


def _counts(snapshot: QueueSnapshot) -> dict[str, str]:
    """Return the counts as text, with `+` after those that stopped at the limit."""
    # Messages that are due and those that are not are counted separately, each up to the limit.
    due = snapshot.ready + snapshot.lost >= COUNT_LIMIT
    later = snapshot.scheduled + snapshot.running + snapshot.retrying >= COUNT_LIMIT
    return {
        "ready": count(snapshot.ready, capped=due),
        "lost": count(snapshot.lost, capped=due),
        "running": count(snapshot.running, capped=later),
        "retrying": count(snapshot.retrying, capped=later),
        "scheduled": count(snapshot.scheduled, capped=later),
        "dead": count(snapshot.dead_letters, capped=snapshot.dead_letters_capped),
    }


def print_snapshots(snapshots: Sequence[QueueSnapshot]) -> None:
    """Print one queue per row, or how to create one where there are none."""
    if snapshots:
        print_table(COLUMNS, [snapshot_row(snapshot) for snapshot in snapshots])
    else:
        note("There are no queues yet. Create one: meshhook queue create NAME")


def print_snapshot(snapshot: QueueSnapshot) -> None:
    """Print one queue, one figure per line."""
    counts = _counts(snapshot)
    oldest_ready = snapshot.oldest_ready_seconds or None
    print_fields(
        [
            ("queue", snapshot.queue + ("  (paused)" if snapshot.paused else "")),
            ("ready", counts["ready"] + _oldest(oldest_ready)),
            ("running", counts["running"]),
            ("retrying", counts["retrying"]),
            ("scheduled", counts["scheduled"]),
            ("lost", counts["lost"]),
            ("dead letters", counts["dead"] + _oldest(snapshot.oldest_dead_letter_seconds)),
            ("enqueued in all", count(snapshot.enqueued_total)),
            ("oldest message", duration(snapshot.oldest_message_seconds)),
            ("newest message", duration(snapshot.newest_message_seconds)),
        ]
    )


def print_priorities(bands: Sequence[PriorityStatistics]) -> None:
    """Print what is due in a queue by priority."""
    print_table(
        [
            Column("PRIORITY"),
            Column("DUE", is_number=True),
            Column("OLDEST", is_number=True),
            Column("TARGET", is_number=True),
            Column("STATE", is_optional=True),
        ],
        [
            [
                band.priority,
                count(band.waiting, capped=band.waiting >= COUNT_LIMIT),
                duration(band.oldest_ready_seconds) if band.oldest_ready_seconds else "-",
                duration(band.target_seconds),
                "late" if band.is_late else "",
            ]
            for band in bands
        ],
    )


def _oldest(seconds: float | None) -> str:
    return "" if seconds is None else f"  (the oldest for {duration(seconds)})"
