"""What a worker has done, in numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from meshhook.outcomes import AttemptOutcome


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """What a worker has done since it was created, across all its starts."""

    processed: int
    """Attempts whose outcome this worker recorded."""
    succeeded: int
    """Of these, succeeded."""
    failed: int
    """Of these, failed: retried, dead-lettered or archived."""
    retried: int
    """Of these, to be retried."""
    moved_to_dlq: int
    """Of these, dead-lettered."""
    snoozed: int
    """Of these, snoozed by their handler."""
    cancelled: int
    """Of these, cancelled by their handler."""
    leases_lost: int
    """Attempts whose lease was lost, so that nothing was recorded."""
    released: int
    """Leases given back unused."""
    running: int
    """Jobs running now."""


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
        """Return the sum of the counts of several queues."""
        total = cls()
        for tally in tallies:
            for outcome, count in tally.outcomes.items():
                total.outcomes[outcome] += count
            total.leases_lost += tally.leases_lost
            total.released += tally.released
        return total

    @property
    def processed(self) -> int:
        """How many outcomes were recorded."""
        return sum(self.outcomes.values())

    def stats(self, *, running: int) -> WorkerStats:
        """Return the counts, together with how many jobs run now."""
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
