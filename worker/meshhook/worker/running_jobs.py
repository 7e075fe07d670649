"""The jobs of one queue that have a slot."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from meshhook.jobs import JobKey
    from meshhook.worker.held_job import HeldJob


class RunningJobs:
    """The running jobs of one queue, and the slots that are taken."""

    def __init__(self) -> None:
        self.jobs: dict[JobKey, HeldJob] = {}
        """Jobs that have a slot."""
        self.companions: set[JobKey] = set()
        """Those that run in the slot of another job of their batch."""
        self.given_up: set[JobKey] = set()
        """Jobs whose attempt has ended but whose thread still runs."""
        self.given_up_threads = 0
        """How many threads that are. Each still takes a slot."""
        self.cut_off: list[HeldJob] = []
        """Running jobs that lost their slot. They must be ended or released."""
        self.finished = 0
        """How many attempts have ended."""
        self.finished_seconds = 0.0
        """The total time of these attempts."""

    def __len__(self) -> int:
        """Return how many jobs run."""
        return len(self.jobs)

    @property
    def slots(self) -> int:
        """How many slots the running jobs have."""
        return len(self.jobs) - len(self.companions)

    @property
    def taken_slots(self) -> int:
        """How many slots are taken, by running jobs and by threads that were given up."""
        return len(self.jobs) - len(self.companions) + self.given_up_threads

    @property
    def busy_seconds(self) -> float:
        """The total running time of all jobs since the start, including those that still run."""
        return self.finished_seconds + sum(self._run_seconds())

    @property
    def longest_run_seconds(self) -> float:
        """How long the longest-running job has run so far; 0 if none runs."""
        return max(self._run_seconds(), default=0.0)

    def leave(self, held: HeldJob) -> None:
        """Free the slot of a job."""
        left = self.jobs.pop(held.key, None)
        # After a job was cut off, another claim of it may already run.
        if left is not held and left is not None:
            self.jobs[held.key] = left
        elif self.companions:
            self.companions.discard(held.key)

    def leave_all(self, batch: Iterable[HeldJob]) -> None:
        """Free the slot of a batch."""
        jobs, companions = self.jobs, self.companions
        for held in batch:
            key = held.key
            left = jobs.pop(key, None)
            if left is not held and left is not None:
                jobs[key] = left  # as in `leave`
            else:
                companions.discard(key)

    def keep_slot(self, held: HeldJob) -> None:
        """Let the slot of a batch be that of this job, since its first one has not run."""
        self.companions.discard(held.key)

    def give_up(self, keys: Collection[JobKey]) -> None:
        """Note that a thread still runs, whose attempt of these jobs ends."""
        self.given_up.update(keys)
        self.given_up_threads += 1

    def thread_ended(self, keys: Collection[JobKey]) -> None:
        """Note that a thread has ended that was given up."""
        self.given_up.difference_update(keys)
        self.given_up_threads -= 1

    def take_cut_off(self) -> list[HeldJob]:
        """Take the jobs that were cut off."""
        cut_off, self.cut_off = self.cut_off, []
        return cut_off

    def _run_seconds(self) -> list[float]:
        now = time.monotonic()
        return [now - held.attempt.began_at for held in self.jobs.values() if held.attempt]
