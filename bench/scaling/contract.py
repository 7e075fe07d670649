"""What the simulated queues and the scalers know of each other, and what comes of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

Seen_contra = TypeVar("Seen_contra", contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a pod says of itself in `meshhook.workers`."""

    worker: str
    concurrency: int
    running: int
    processed: int
    busy_seconds: float
    oldest_running_seconds: float
    seen_at: float
    cordoned: bool = False


class Queue(Protocol):
    """What a policy looks at."""

    now: int
    target_age_seconds: int
    min_replicas: int
    max_replicas: int

    @property
    def replicas(self) -> int:
        """How many pods were asked for."""

    @property
    def ready_pods(self) -> int:
        """How many of them are Ready."""

    @property
    def refused_pods(self) -> int:
        """How many of them a quota leaves out."""

    @property
    def ready_jobs(self) -> int:
        """How many jobs wait and may start."""

    @property
    def kept_back_jobs(self) -> int:
        """How many jobs wait because as many of their key run as may."""

    @property
    def lost_jobs(self) -> int:
        """How many jobs were left by a pod that died, and wait."""

    @property
    def leased_jobs(self) -> int:
        """How many jobs run, or were left by a pod that died and still have a lease."""

    @property
    def oldest_ready_seconds(self) -> float:
        """How long the oldest waiting job has waited."""

    @property
    def enqueued(self) -> int:
        """How many jobs have arrived."""

    @property
    def is_readable(self) -> bool:
        """Whether the database answers."""

    def due_within(self, seconds: float) -> int:
        """How many jobs fall due within that time."""

    def reports(self) -> Iterator[Report]:
        """Return what each pod reported last."""

    def cordon(self, pods: int) -> None:
        """Let so many pods take no more jobs, those that run the least."""


class Policy(Protocol[Seen_contra]):
    """Something that decides how many replicas there should be."""

    def act(self, world: Seen_contra) -> int | None:
        """Return the replicas wanted now; None changes nothing. Called every second."""


@dataclass(slots=True)
class Result:
    """What came of one run."""

    late_share: float
    p99_wait_seconds: int
    replica_seconds: int
    scale_events: int
    most_replicas: int
    jobs: int
    history: list[tuple[int, int, int]] = field(default_factory=list)
    """Once in 10 seconds: second, replicas, ready jobs."""
    idle_share: float = 0.0
    """Of the time of all Ready pods while jobs arrive, the share in which they ran nothing."""
    cut: int = 0
    """Jobs that a stopping pod gave back before they had ended."""
    busy_stops: int = 0
    """Pods stopped while they ran something though an idle one was left."""


def best_of(results: list[Result], late_share: float) -> Result:
    """Return the cheapest of those with at most that share of late jobs, or the least late."""
    kept = [result for result in results if result.late_share <= late_share]
    if kept:
        return min(kept, key=lambda result: result.replica_seconds)
    return min(results, key=lambda result: result.late_share)


def quantile(waits: dict[int, int], share: float) -> int:
    """Return the wait in seconds that this share of the jobs did not exceed."""
    left = share * sum(waits.values())
    for wait in sorted(waits):
        left -= waits[wait]
        if left <= 0:
            return wait
    raise ValueError("no job was ever started")
