"""How many slots urgent jobs use of late, and how many to keep for them: pure decisions.

Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, sqrt

MEMORY_SECONDS = 2.0
"""Over how long to average. After a pause of five times that, nothing is left of it."""
ROOTS = 2.5
"""How many roots of the average to keep beside it."""


@dataclass(slots=True)
class UrgentLoad:
    """The average number of urgent jobs that run at once, weighted by time.

    Jobs that come independently of each other and find slots at once run in numbers that spread
    around the average by its root. With 2.5 roots more than the average, one or two of a hundred
    urgent jobs find no slot.
    """

    _average: float = 0.0
    _running: int = 0
    _since: float = 0.0

    def note(self, running: int, now: float) -> None:
        """Note how many run from now on."""
        self._average = self.average(now)
        self._running, self._since = running, now

    def average(self, now: float) -> float:
        """Return how many ran at once, on average of the last seconds."""
        weight = 1.0 - exp(min(self._since - now, 0.0) / MEMORY_SECONDS)
        return self._average + (self._running - self._average) * weight


def slots_to_keep(average: float, *, least: int, slots: int, is_late: bool) -> int:
    """Return how many slots to keep for urgent jobs, those among them that these use now.

    Args:
        average: how many slots urgent jobs used at once of late.
        least: the queue's setting `urgent_slots`. With 0, none is kept.
        slots: how many the worker has. At most half of them are kept by the setting, and at most a
            quarter because many urgent jobs run.
        is_late: whether an aged job waits. Then no more are kept than the setting says.
    """
    kept = min(least, slots // 2)
    if not kept or is_late:
        return kept
    return max(kept, min(ceil(average + ROOTS * sqrt(average)), slots // 4))
