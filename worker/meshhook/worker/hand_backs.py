"""How often a busy worker hands suspects back, so that another may run them: a pure decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshhook.jobs import Job, JobKey

HAND_BACK_SECONDS = 60.0
"""For how long a worker hands the same suspect back, from the first time on."""
MAX_REMEMBERED = 10_000


class HandBacks:
    """Since when a worker has handed suspects back. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._since: dict[JobKey, float] = {}

    def may_hand_back(self, jobs: Iterable[Job[Any]], now: float) -> bool:
        """Say whether suspects may be handed back now: none of them for a minute already."""
        if len(self._since) > MAX_REMEMBERED:
            # Others have run them; what is forgotten too early is handed back a minute longer.
            self._since.clear()
        since = [self._since.setdefault(job.key, now) for job in jobs]
        return all(now - each < HAND_BACK_SECONDS for each in since)

    def forget(self, jobs: Iterable[Job[Any]]) -> None:
        """Forget suspects that are run here."""
        for job in jobs:
            self._since.pop(job.key, None)
