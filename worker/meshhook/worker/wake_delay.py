"""How a fleet answers a wake-up: one worker at once, the others a little later, if at all."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_A_WORKER = 0.001
LEAST_SPAN_SECONDS = 0.0005
MAX_BUSY_SECONDS = 0.01


@dataclass(slots=True)
class WakeDelay:
    """How long a worker waits between a wake-up and its claim.

    A notification reaches every waiting worker of a queue, and one of them gets the message. If
    all claimed at once, 128 idle workers would make 128 claims of each message. So each waits a
    random part of a span that doubles when it comes too late and is halved when it finds
    something: the fleet sorts itself into a few that answer at once and many that stand by. A
    worker alone never waits. Busy workers wait longer, so that idle ones get the work.
    """

    workers: int = 1
    """How many workers the queue has now, this one included."""
    _span_seconds: float = 0.0

    def seconds(self, fraction: float, utilisation: float) -> float:
        """Return how long to wait now.

        Args:
            fraction: a random number from 0 up to 1.
            utilisation: the share of this worker's slots that are taken, 0 to 1.
        """
        limit = self._limit_seconds
        busy = min(limit, MAX_BUSY_SECONDS) * utilisation
        return fraction * min(self._span_seconds, limit) + busy

    def found(self, messages: int) -> None:
        """Note what the claim after a wake-up found."""
        if messages:
            self._span_seconds /= 2
            if self._span_seconds < LEAST_SPAN_SECONDS:
                self._span_seconds = 0.0
        else:
            doubled = max(self._span_seconds * 2, SECONDS_A_WORKER)
            self._span_seconds = min(doubled, self._limit_seconds)

    @property
    def _limit_seconds(self) -> float:
        # Of n spans of n milliseconds the shortest wait is about a millisecond.
        return (self.workers - 1) * SECONDS_A_WORKER
