"""How JobQueues scale queues, beside what is in the queues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from meshhook.administration import QueueSnapshot
from meshhook.cli.output import Column, age, duration, print_fields, print_table
from meshhook.cli.snapshots import COLUMNS, print_snapshots, snapshot_row
from meshhook.priorities import PRIORITY_NAMES
from meshhook.queue_scaling import QueueScaling


def print_queues(snapshots: Sequence[QueueSnapshot], scaling: Sequence[QueueScaling]) -> None:
    """Print one queue per row, with its replicas if a JobQueue scales any of them."""
    if not snapshots or not scaling:
        print_snapshots(snapshots)
        return
    rows = []
    for snapshot in snapshots:
        of_queue = [each for each in scaling if each.queue == snapshot.queue]
        rows.append([*snapshot_row(snapshot), ", ".join(_replicas(each) for each in of_queue)])
    print_table([*COLUMNS, Column("REPLICAS", is_optional=True)], rows)


def print_scaling(scaling: QueueScaling) -> None:
    """Print how one JobQueue scales a queue, one figure per line."""
    limits = f"; {scaling.min_replicas:,} to {scaling.max_replicas:,}"
    written = f"  (written {age(scaling.written_at)} ago: no operator looks after it)"
    print_fields(
        [
            ("JobQueue", scaling.jobqueue + (written if scaling.is_stale else "")),
            ("target age", _targets(scaling)),
            ("replicas", f"{scaling.replicas:,}, {scaling.ready_replicas:,} ready{limits}"),
            ("wanted", _wanted(scaling)),
            ("state", scaling.state or "unknown"),
            ("reason", scaling.reason or "nothing was decided yet"),
        ]
    )


def snapshot_with(snapshot: QueueSnapshot, scaling: Sequence[QueueScaling]) -> dict[str, Any]:
    """Return a queue as an object of JSON, with how JobQueues scale it."""
    return asdict(snapshot) | {
        "scaling": [asdict(each) for each in scaling if each.queue == snapshot.queue]
    }


def _targets(scaling: QueueScaling) -> str:
    if not scaling.priority_target_seconds:
        return duration(scaling.target_age_seconds)
    targets = zip(PRIORITY_NAMES, scaling.priority_target_seconds, strict=False)
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in targets)


def _replicas(scaling: QueueScaling) -> str:
    if scaling.is_stale:
        return "stale"
    wanted = scaling.desired_replicas
    more = "" if wanted in (None, scaling.replicas) else f" -> {wanted:,}"
    return f"{scaling.replicas:,}{more}"


def _wanted(scaling: QueueScaling) -> str:
    if scaling.desired_replicas is None:
        return "unknown"
    since = "" if scaling.decided_at is None else f", since {age(scaling.decided_at)} ago"
    return f"{scaling.desired_replicas:,}{since}"
