"""The jobs that a search found, and whether it could look everywhere."""

from __future__ import annotations

from collections.abc import Iterable

from meshhook.store.job_rows import JobSummary
from meshhook.store.job_search import Walk


class FoundJobs(list[JobSummary]):
    """The jobs found, and whether the search was complete."""

    is_complete: bool = True
    """Whether the search covered everything, or found as many jobs as were asked for."""
    seen: int = 0
    """How many messages and attempts the search read."""
    unread_below: dict[str, int]
    """For each queue whose messages and attempts were not all read: those with lower ids than this
    may have been missed. `before_id` continues there."""

    def __init__(self, jobs: Iterable[JobSummary] = ()) -> None:
        """Take the jobs."""
        super().__init__(jobs)
        self.unread_below = {}

    def note(self, walks: Iterable[Walk]) -> None:
        """Take how much was read, and what was left."""
        for walk in walks:
            self.seen += walk.seen
            if not walk.is_over:
                self.is_complete = False
                lowest = self.unread_below.get(walk.queue_name, 0)
                self.unread_below[walk.queue_name] = max(lowest, walk.unread_below)
