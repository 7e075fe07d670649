"""When messages became visible that were committed long after they were written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.jobs import Job


class Visibility:
    """Knows what earlier claims could see, and corrects `ready_at` of messages that they could not.

    If an earlier claim took all that it saw from some `vt` on, then what is found there later was
    not visible at that time: its producer's transaction was still open.
    """

    def __init__(self) -> None:
        self._clock_offset: float | None = None
        """The database's clock minus the monotonic clock of this process."""
        self._drained: tuple[float, float] | None = None
        """From which `vt` on nothing ready was left, and when that was."""

    def correct(self, jobs: Sequence[Job[Any]], now: float) -> None:
        """Correct `ready_at` of jobs whose claim was answered at `now`."""
        self._clock_offset = jobs[0].claimed_timestamp - now
        if self._drained is None:
            return
        from_vt, drained_at = self._drained
        for job in jobs:
            if from_vt <= job.ready_timestamp < drained_at:
                job.ready_timestamp = min(drained_at, job.claimed_timestamp)

    def drained(self, from_vt: float, jobs: Sequence[Job[Any]], asked_at: float) -> None:
        """Note that a claim took everything that was ready from some `vt` on."""
        if self._clock_offset is not None:
            drained_at = jobs[0].claimed_timestamp if jobs else asked_at + self._clock_offset
            self._drained = from_vt, drained_at
