"""How fast jobs arrive in each queue, from what the snapshots say."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshhook.administration import QueueSnapshot

_RATE_SECONDS = 60.0
"""Over how long rates are averaged, if pages have been open for so long."""
_MAX_RATE_SECONDS = 600.0
"""Over how long at the most, where many queues are read less often."""


class Arrivals:
    """How fast jobs arrive, from the numbers of the snapshots of the last minute."""

    def __init__(self) -> None:
        """Begin without any."""
        self._seen: dict[str, list[tuple[float, int]]] = {}

    def note(self, queue: QueueSnapshot) -> float | None:
        """Take a snapshot, and return the arrivals a second; None if it is the first."""
        at = queue.sampled_at.timestamp()
        before = [
            each
            for each in self._seen.get(queue.queue, ())
            if at - _MAX_RATE_SECONDS <= each[0] < at and each[1] <= queue.enqueued_total
        ]
        seen = [each for each in before if each[0] >= at - _RATE_SECONDS] or before[-1:]
        self._seen[queue.queue] = [*seen, (at, queue.enqueued_total)]
        if not seen:
            return None
        first_at, first_total = seen[0]
        return (queue.enqueued_total - first_total) / (at - first_at)

    def keep_only(self, queues: set[str]) -> None:
        """Forget queues that are gone."""
        for name in self._seen.keys() - queues:
            del self._seen[name]
