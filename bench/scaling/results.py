"""The results for people: on a console, and in a document."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import TYPE_CHECKING

from bench.marked import MarkedPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PART = MarkedPart("bench/scaling/run.py")
KEPT_SHARE = 0.001
NAMES = {
    "meshhook": "MeshHook",
    "keda": "KEDA at its defaults",
    "keda tuned": "tuned KEDA",
    "keda hindsight": "KEDA tuned in hindsight",
    "oracle": "oracle",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One scaler on one trace: the worst of the seeds where it is about waiting, else the mean."""

    trace: str
    is_steady: bool
    target_age_seconds: int
    drift: str
    policy: str
    late_share: float
    p99_wait_seconds: int
    replica_seconds: int
    scale_events: int
    most_replicas: int


def show(rows: list[Row]) -> None:
    """Print every row."""
    for row in rows:
        print(
            f"{row.target_age_seconds:4d} s  {row.drift:8s}  {row.trace:14s}  {row.policy:15s}"
            f"  late {100 * row.late_share:6.2f}%  p99 {row.p99_wait_seconds:5d} s"
            f"  {row.replica_seconds:7d} replica-s  {row.scale_events:4d} events"
        )


def write(rows: list[Row], document: Path, *, seeds: int) -> None:
    """Replace what stands between the markers of a document.

    Raises:
        ValueError: if the markers are not there.
    """
    PART.replace(document, "\n".join(_document(rows, seeds)) + "\n")


def _document(rows: list[Row], seeds: int) -> Iterator[str]:
    if seeds > 1:
        yield f"Of {seeds} runs with different seeds: the worst share and wait, the mean cost."
    for peer in ("keda tuned", "keda hindsight"):
        ratio, row = worst_ratio(rows, peer)
        if row is None:
            continue
        yield (
            f"On steady traces where {NAMES[peer]} keeps the target age, MeshHook costs at most "
            f"{ratio:.2f} times as much ({row.trace}, {row.target_age_seconds} s, {row.drift})."
        )
    yield ""
    yield "### Late jobs and cost, all traces"
    yield ""
    yield from _summary(rows)
    yield ""
    yield "### Each trace, while the rate of a replica is constant"
    for age in sorted({row.target_age_seconds for row in rows}):
        yield ""
        yield f"Target age {age} s:"
        yield ""
        yield from _traces([row for row in rows if row.target_age_seconds == age])


def _summary(rows: list[Row]) -> Iterator[str]:
    yield "| target age | rate of a replica | scaler | late, worst trace | traces kept | cost |"
    yield "|---|---|---|---:|---:|---:|"
    costs = _oracle_costs(rows)
    for age, drift in dict.fromkeys((row.target_age_seconds, row.drift) for row in rows):
        group = [r for r in rows if (r.target_age_seconds, r.drift) == (age, drift)]
        for policy in dict.fromkeys(row.policy for row in group):
            mine = [row for row in group if row.policy == policy]
            worst = max(mine, key=lambda row: row.late_share)
            kept = sum(row.late_share <= KEPT_SHARE for row in mine)
            cost = _geometric_mean(
                row.replica_seconds / costs[_key(row)] for row in mine if row.is_steady
            )
            trace = f" ({worst.trace})" if worst.late_share > KEPT_SHARE else ""
            yield (
                f"| {age} s | {drift} | {NAMES[policy]} | {100 * worst.late_share:.2f}%{trace} "
                f"| {kept} of {len(mine)} | {cost:.2f} |"
            )


def _traces(rows: list[Row]) -> Iterator[str]:
    yield "| trace | scaler | late | p99 wait | cost | changes | most replicas |"
    yield "|---|---|---:|---:|---:|---:|---:|"
    costs = _oracle_costs(rows)
    for row in rows:
        if row.drift == "constant":
            yield (
                f"| {row.trace} | {NAMES[row.policy]} | {100 * row.late_share:.2f}% "
                f"| {row.p99_wait_seconds} s | {row.replica_seconds / costs[_key(row)]:.2f} "
                f"| {row.scale_events} | {row.most_replicas} |"
            )


def worst_ratio(rows: list[Row], peer: str) -> tuple[float, Row | None]:
    """Return our highest cost over a peer's, of the steady traces where that peer keeps the age."""
    peers = {_key(row): row for row in rows if row.policy == peer}
    ratios = [
        (row.replica_seconds / peers[_key(row)].replica_seconds, row)
        for row in rows
        if row.policy == "meshhook" and row.is_steady
        if _key(row) in peers and peers[_key(row)].late_share <= KEPT_SHARE
    ]
    return max(ratios, key=lambda pair: pair[0], default=(0.0, None))


def _oracle_costs(rows: list[Row]) -> dict[tuple[str, int, str], int]:
    return {_key(row): row.replica_seconds for row in rows if row.policy == "oracle"}


def _key(row: Row) -> tuple[str, int, str]:
    return row.trace, row.target_age_seconds, row.drift


def _geometric_mean(values: Iterable[float]) -> float:
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))
