"""What a worker has done, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshhook.outcomes import AttemptOutcome


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What a worker has done since it was made, however often it was started."""

    processed: int
    """Attempts whose outcome this worker recorded."""
    succeeded: int
    """Of these, done."""
    failed: int
    """Of these, failed: retried, dead-lettered or archived."""
    retried: int
    """Of these, to be tried again."""
    moved_to_dlq: int
    """Of these, dead letters now."""
    snoozed: int
    """Of these, put off by their handler."""
    cancelled: int
    """Of these, removed at their handler's word."""
    leases_lost: int
    """Attempts whose lease was lost: nothing was recorded."""
    released: int
    """Leases given back unused."""
    running: int
    """Jobs that run now."""


@dataclass(slots=True)
class Tally:
    """Counts what a worker does."""

    outcomes: dict[AttemptOutcome, int] = field(
        default_factory=lambda: dict.fromkeys(AttemptOutcome, 0)
    )
    leases_lost: int = 0
    released: int = 0

    @classmethod
    def sum(cls, tallies: Iterable[Tally]) -> Tally:
        """Return the counts of several queues added up."""
        total = cls()
        for tally in tallies:
            for outcome, count in tally.outcomes.items():
                total.outcomes[outcome] += count
            total.leases_lost += tally.leases_lost
            total.released += tally.released
        return total

    @property
    def processed(self) -> int:
        """How many attempts had their outcome recorded."""
        return sum(self.outcomes.values())

    def stats(self, *, running: int) -> WorkerStats:
        """Return the counts, with how many jobs run now."""
        retried = self.outcomes[AttemptOutcome.RETRIED]
        dead = self.outcomes[AttemptOutcome.DEAD_LETTERED]
        return WorkerStats(
            processed=self.processed,
            succeeded=self.outcomes[AttemptOutcome.SUCCEEDED],
            failed=retried + dead + self.outcomes[AttemptOutcome.ARCHIVED],
            retried=retried,
            moved_to_dlq=dead,
            snoozed=self.outcomes[AttemptOutcome.SNOOZED],
            cancelled=self.outcomes[AttemptOutcome.CANCELLED],
            leases_lost=self.leases_lost,
            released=self.released,
            running=running,
        )
