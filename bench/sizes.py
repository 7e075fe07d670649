"""How much of everything is measured: in full, in five minutes, or only to see that it works."""

from __future__ import annotations

from dataclasses import dataclass


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
    offered: tuple[str, ...]
    """The payloads of end to end."""
    offered_seconds: float
    degradation_jobs: int
    degradation_seconds: float
    """The longest that such a drain is watched."""
    degradation_rounds: int
    delayed: tuple[int, ...]
    backlog: int
    finished: int
    held_seconds: float
    held_window_seconds: float
    held_rounds: int
    consumers: tuple[int, ...]
    flood_jobs: int
    """How many jobs the flooding tenant has."""
    keys_seconds: float
    """How long a queue with keys is watched, and its transaction id held for four times as long."""
    limited_job_seconds: float
    """How long each job takes where a limit binds."""
    budget_seconds: float | None = None
    """When it is used up, what is not measured yet is left out."""


FULL = Size(
    name="full",
    rounds=3,
    small_jobs=60_000,
    webhook_jobs=10_000,
    callers=(1, 16, 64, 256),
    enqueue_seconds=1.5,
    pickups=100,
    offered=("small", "webhooks"),
    offered_seconds=8.0,
    degradation_jobs=60_000,
    degradation_seconds=10.0,
    degradation_rounds=3,
    delayed=(0, 10_000, 100_000, 1_000_000),
    backlog=1_000_000,
    finished=350_000,
    held_seconds=240.0,
    held_window_seconds=10.0,
    held_rounds=1,
    consumers=(1, 4, 16, 64, 128),
    flood_jobs=100_000,
    keys_seconds=15.0,
    limited_job_seconds=5.0,
)
QUICK = Size(
    name="quick",
    rounds=1,
    small_jobs=15_000,
    webhook_jobs=2_500,
    callers=(1, 16, 64, 256),
    enqueue_seconds=0.5,
    pickups=30,
    offered=("small",),
    offered_seconds=2.0,
    degradation_jobs=10_000,
    degradation_seconds=4.0,
    degradation_rounds=1,
    delayed=(0, 10_000, 100_000),
    backlog=100_000,
    finished=30_000,
    held_seconds=5.0,
    held_window_seconds=1.0,
    held_rounds=1,
    consumers=(1, 16, 64),
    flood_jobs=20_000,
    keys_seconds=3.0,
    limited_job_seconds=1.0,
    budget_seconds=240.0,
)
SHORT = Size(
    name="short",
    rounds=3,
    small_jobs=40_000,
    webhook_jobs=6_000,
    callers=(1, 16, 64, 256),
    enqueue_seconds=1.0,
    pickups=100,
    offered=("small",),
    offered_seconds=5.0,
    degradation_jobs=50_000,
    degradation_seconds=8.0,
    degradation_rounds=1,
    delayed=(0, 10_000, 100_000, 1_000_000),
    backlog=1_000_000,
    finished=350_000,
    held_seconds=60.0,
    held_window_seconds=5.0,
    held_rounds=1,
    consumers=(1, 4, 16, 64, 128),
    flood_jobs=100_000,
    keys_seconds=10.0,
    limited_job_seconds=5.0,
    budget_seconds=1_200.0,
)
TINY = Size(
    name="tiny",
    rounds=1,
    small_jobs=200,
    webhook_jobs=50,
    callers=(1, 16),
    enqueue_seconds=0.1,
    pickups=3,
    offered=("small",),
    offered_seconds=0.1,
    degradation_jobs=200,
    degradation_seconds=10.0,
    degradation_rounds=1,
    delayed=(0, 500),
    backlog=1_000,
    finished=300,
    held_seconds=1.0,
    held_window_seconds=0.25,
    held_rounds=1,
    consumers=(1, 3),
    flood_jobs=4_000,
    keys_seconds=0.5,
    limited_job_seconds=0.1,
)
