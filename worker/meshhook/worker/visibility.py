"""When messages became visible that were committed later than they were written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.jobs import Job


class Visibility:
    """Which messages were visible before the claim that took them: it corrects `ready_at`.

    An earlier claim took all that it saw from some `vt` on. What lies there and is claimed only now
    was not visible then: its producer's transaction was still open.
    """

    def __init__(self) -> None:
        self._clock_offset: float | None = None
        """What the database's clock shows, less the monotonic clock here."""
        self._drained: tuple[float, float] | None = None
        """From which `vt` on nothing ready was left, and when that was."""

    def correct(self, jobs: Sequence[Job[Any]], now: float) -> None:
        """Correct `ready_at` of jobs just claimed, whose claim was answered now."""
        self._clock_offset = jobs[0].claimed_timestamp - now
        if self._drained is None:
            return
        from_vt, drained_at = self._drained
        for job in jobs:
            if from_vt <= job.ready_timestamp < drained_at:
                job.ready_timestamp = min(drained_at, job.claimed_timestamp)

    def drained(self, from_vt: float, jobs: Sequence[Job[Any]], asked_at: float) -> None:
        """Note a claim that took all that was ready from some `vt` on, and what it took."""
        if self._clock_offset is not None:
            drained_at = jobs[0].claimed_timestamp if jobs else asked_at + self._clock_offset
            self._drained = from_vt, drained_at
