"""What became of jobs that were to be changed or replayed: of each, and of all together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

CHUNK_JOBS = 1_000
"""How many jobs one statement changes."""
MAX_LISTED_JOBS = 1_000
"""How many changes are listed one by one."""
CHANGE_SECONDS = 300
"""The default time limit of a change of all jobs that fit."""


class ChangeResult(StrEnum):
    """What became of one job."""

    CANCELLED = "cancelled"
    REQUESTED = "requested"
    """It runs, and its worker is asked to stop it."""
    RESCHEDULED = "rescheduled"
    REPRIORITIZED = "reprioritized"
    DELETED = "deleted"
    REPLAYED = "replayed"
    UNCHANGED = "unchanged"
    """Its state, or that it has ended, does not allow the change."""
    NOT_KEPT = "not_kept"
    """It has ended, and its body was not kept, so it cannot be replayed."""
    KEY_TAKEN = "key_taken"
    """It is not replayed, because another job has its unique key."""
    NOT_FOUND = "not_found"


@dataclass(frozen=True, slots=True)
class JobChange:
    """What became of one job."""

    msg_id: int
    result: ChangeResult
    was: str | None
    """The state that it was in, or how it had ended; None if nothing is known of it."""
    at: datetime | None
    """When it is ready, if it was rescheduled; when it had ended, if it had. Else None."""
    replayed_as: int | None = None
    """The msg_id of the job that it was replayed as, now or before; None if it was not."""


@dataclass(slots=True)
class JobChanges:
    """What became of the jobs that were to be changed."""

    counts: Counter[ChangeResult] = field(default_factory=Counter)
    """How many jobs had each result."""
    jobs: list[JobChange] = field(default_factory=list)
    """The jobs one by one, up to 1,000 of them."""
    is_complete: bool = True
    """Whether the search for jobs that fit covered the whole queue before its time was up."""
    seen: int = 0
    """How many messages that search read."""
    lookup: str | None = None
    """Which of `run_id`, `workflow_id` and `project_id` has an index that served it; None if the
    queue was read from the newest message down, or jobs were named by id."""
    is_dry_run: bool = False
    """Whether nothing was changed: this is what would have been."""

    @property
    def matched(self) -> int:
        """How many jobs were named or found."""
        return self.counts.total()

    @property
    def changed(self) -> int:
        """How many jobs were cancelled, rescheduled, given a priority, deleted or replayed."""
        return sum(self.counts[each] for each in _CHANGED)

    @property
    def requested(self) -> int:
        """How many jobs run, and are to be cancelled by their workers."""
        return self.counts[ChangeResult.REQUESTED]

    @property
    def unchanged(self) -> int:
        """How many jobs were left as they are, because of their state or because they had ended."""
        return self.counts[ChangeResult.UNCHANGED]

    @property
    def not_kept(self) -> int:
        """How many jobs have ended and were not replayed, because their bodies were not kept."""
        return self.counts[ChangeResult.NOT_KEPT]

    @property
    def key_taken(self) -> int:
        """How many jobs were not replayed, because another job has their unique key."""
        return self.counts[ChangeResult.KEY_TAKEN]

    @property
    def not_found(self) -> int:
        """How many of the named jobs are unknown."""
        return self.counts[ChangeResult.NOT_FOUND]

    def add(self, change: JobChange) -> None:
        """Count a change, and list it if there is room."""
        self.counts[change.result] += 1
        if len(self.jobs) < MAX_LISTED_JOBS:
            self.jobs.append(change)


_CHANGED = (
    ChangeResult.CANCELLED,
    ChangeResult.RESCHEDULED,
    ChangeResult.REPRIORITIZED,
    ChangeResult.DELETED,
    ChangeResult.REPLAYED,
)
