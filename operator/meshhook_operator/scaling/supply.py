"""How many jobs a fleet can start within a time: slots that are free, and slots that come free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Supply:
    """What the present replicas and new ones can start."""

    ready_replicas: int
    replica_jobs_per_second: float
    """What a busy replica completes."""
    slots_a_replica: int | None
    """None if unknown: a replica then starts as many jobs as it completes."""
    running: float
    """Running jobs."""
    started_within: Callable[[float], float | None]
    """How many jobs were started within the last so many seconds; None if unknown."""

    def of_present(self, seconds: float) -> float:
        """Return how many jobs the Ready replicas can start within that time.

        A job that has run for a while ends sooner than one that has just started. Where jobs run
        longer than that time, those end that have run for the rest of their time already: all but
        those started lately. Jobs that end in the meantime are replaced at the rate of a replica.
        """
        steady = self.ready_replicas * self.replica_jobs_per_second * seconds
        if self.slots_a_replica is None:
            return steady
        slots = self.ready_replicas * self.slots_a_replica
        free = max(0.0, slots - self.running)
        run_seconds = self.slots_a_replica / self.replica_jobs_per_second
        if seconds >= run_seconds:
            return steady
        running = min(self.running, slots)
        fresh = self.started_within(run_seconds - seconds)
        if fresh is None:
            return free + running * seconds / run_seconds
        return free + max(0.0, running - fresh)

    def of_new(self, seconds: float) -> float:
        """Return how many jobs a new replica can start in its first so many seconds."""
        steady = self.replica_jobs_per_second * seconds
        return steady if self.slots_a_replica is None else max(steady, self.slots_a_replica)

    def replicas_for(self, jobs: float, *, present_seconds: float, new_seconds: float) -> float:
        """Return how many replicas can start that many jobs.

        Args:
            jobs: how many.
            present_seconds: within this time.
            new_seconds: how much of that time new replicas have.
        """
        present = self.of_present(present_seconds)
        if jobs > present:
            return self.ready_replicas + (jobs - present) / self.of_new(new_seconds)
        return self.ready_replicas * jobs / present if present else 0.0
