"""What part of the claims and of the slots aged jobs get: pure decisions."""

from __future__ import annotations

from dataclasses import dataclass

from meshhook.priorities import AGED_SHARE


@dataclass(slots=True)
class AgedShare:
    """Lets aged jobs of less urgent bands go before more urgent ones, one in four of all jobs.

    So none starves, even where urgent jobs alone would fill the fleet, and however many have aged,
    urgent ones keep three of four. What aged jobs do not use is not saved up, except for one job.
    """

    _credit: float = 0.0

    def most(self, limit: int) -> int:
        """Return how many of the next `limit` jobs may be aged ones."""
        return int(self._credit + limit * AGED_SHARE)

    def took(self, jobs: int, aged: int) -> None:
        """Note how many jobs were taken, and how many of them before more urgent ones."""
        self._credit = min(max(self._credit + jobs * AGED_SHARE - aged, 0.0), 1.0)
