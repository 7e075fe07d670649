"""What is measured, how large, and on whom."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

BASELINE = "pgmq"


@dataclass(frozen=True, slots=True)
class SubjectPlan:
    """One subject of the benchmark."""

    name: str
    """Its module in `subjects/`."""
    title: str
    tracking: bool
    """Whether it keeps a history of every attempt."""
    metrics: bool
    """Whether it keeps metrics of every job."""
    note: str
    """How it is used, for the reader of the figures."""
    python: str = sys.executable
    """The interpreter that runs it. A peer gets one with its own packages."""


@dataclass(frozen=True, slots=True)
class MeasurePlan:
    """One measurement, taken of each subject in each round."""

    group: str
    title: str
    measure: str
    """The function in `measures.py`."""
    figures: tuple[str, ...]
    """The keys of its result that are published; see `FIGURES`."""
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    name: str
    rounds: int
    small_jobs: int
    webhook_jobs: int
    callers: tuple[int, ...]
    enqueue_seconds: float
    pickups: int
    delayed: int


SUBJECTS = (
    SubjectPlan(
        "pgmq",
        "raw PGMQ",
        tracking=False,
        metrics=False,
        note="PGMQ's SQL functions through asyncpg; no payload is parsed, nothing is recorded",
    ),
    SubjectPlan(
        "meshhook",
        "MeshHook Queue",
        tracking=True,
        metrics=True,
        note="defaults, one worker process of concurrency 50; every attempt is recorded",
    ),
)

FULL = Size("full", 5, 50_000, 10_000, (1, 16, 64, 256), 3.0, 200, 100_000)
QUICK = Size("quick", 1, 20_000, 4_000, (1, 16, 64, 256), 1.0, 100, 100_000)
TINY = Size("tiny", 1, 200, 50, (16,), 0.1, 3, 500)

FIGURES = {
    "per_second": "jobs a second",
    "client_cpu_us_per_job": "client CPU, µs a job",
    "wal_bytes_per_job": "WAL, bytes a job",
    "p50_ms": "p50, ms",
    "p99_ms": "p99, ms",
}
"""What a figure of a result is called. Only of `per_second` is more better."""

_THROUGHPUT = ("per_second", "client_cpu_us_per_job", "wal_bytes_per_job")
_LATENCY = ("p50_ms", "p99_ms")
_KINDS = {"small": "256-byte payload", "webhooks": "real webhooks, median 8 KB"}


def measures(size: Size, *, degradation: bool) -> list[MeasurePlan]:
    """Return what to measure, in order."""
    counts = {"small": size.small_jobs, "webhooks": size.webhook_jobs}
    plans = [
        MeasurePlan(
            group,
            title,
            measure,
            _THROUGHPUT,
            {"payload": kind, "jobs": counts[kind]},
        )
        for group, measure in (("Drain", "drain"), ("Bulk enqueue", "enqueue_many"))
        for kind, title in _KINDS.items()
    ]
    plans += [
        MeasurePlan(
            "Single enqueue",
            f"{callers} callers" if callers > 1 else "1 caller",
            "enqueue",
            ("per_second", *_LATENCY),
            {"callers": callers, "seconds": size.enqueue_seconds},
        )
        for callers in size.callers
    ]
    plans.append(
        MeasurePlan("Idle pickup", "one job at a time", "pick_up", _LATENCY, {"jobs": size.pickups})
    )
    if degradation:
        plans.append(
            MeasurePlan(
                "Degradation",
                f"drain behind {size.delayed:,} delayed messages",
                "drain",
                _THROUGHPUT,
                {"payload": "small", "jobs": size.small_jobs, "delayed": size.delayed},
            )
        )
    return plans
