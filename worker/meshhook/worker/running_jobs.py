"""The jobs of one queue that have a slot, and how long such jobs run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook.jobs import JobKey
    from meshhook.worker.held_job import HeldJob


class RunningJobs:
    """The running jobs of one queue, and the slots that are taken."""

    def __init__(self) -> None:
        self.jobs: dict[JobKey, HeldJob] = {}
        """Those that have a slot."""
        self.given_up: set[JobKey] = set()
        """Jobs whose attempt has ended while their thread runs on. Each keeps its slot's place."""
        self.cut_off: list[HeldJob] = []
        """Running jobs whose slot was stopped under them: they are to be ended, or released."""
        self.finished = 0
        """How many attempts have ended."""
        self.finished_seconds = 0.0
        """How long these ran, added up."""

    def __len__(self) -> int:
        """Return how many jobs run."""
        return len(self.jobs)

    @property
    def taken_slots(self) -> int:
        """How many slots are taken: by running jobs, and by threads that were given up."""
        return len(self.jobs) + len(self.given_up)

    @property
    def busy_seconds(self) -> float:
        """The total time that jobs have run since the start, including those that still run."""
        return self.finished_seconds + sum(self._run_seconds())

    @property
    def longest_run_seconds(self) -> float:
        """How long the job that has run longest has been running; 0 if none runs."""
        return max(self._run_seconds(), default=0.0)

    def leave(self, held: HeldJob) -> None:
        """Take the slot from a job."""
        left = self.jobs.pop(held.key, None)
        # A job that was cut off may have been claimed again, and run.
        if left is not held and left is not None:
            self.jobs[held.key] = left

    def take_cut_off(self) -> list[HeldJob]:
        """Take the jobs that were cut off."""
        cut_off, self.cut_off = self.cut_off, []
        return cut_off

    def _run_seconds(self) -> list[float]:
        now = time.monotonic()
        return [now - held.attempt.began_at for held in self.jobs.values() if held.attempt]
