"""Where a claim looks in each band of a queue with priorities: pure decisions of the producer.

Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.jobs import moment_from
from meshhook.priorities import Priority
from meshhook.store.claims import ClaimClass
from meshhook.worker.aged_share import AgedShare
from meshhook.worker.claim_window import ClaimWindow, VtRange
from meshhook.worker.priority_turns import PriorityPlace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.jobs import Job, JobKey
    from meshhook.store.claims import Claim


NOWHERE = VtRange(datetime(9999, 12, 30, tzinfo=UTC), datetime(1, 1, 2, tzinfo=UTC))
"""A range in which nothing is."""


class PriorityLook(NamedTuple):
    """What one claim of a queue with priorities asks for."""

    ranges: tuple[VtRange, ...]
    """Where it looks in each band."""
    limit: int
    """How many messages it takes."""
    most_aged: int
    """How many of them may be aged ones that go before more urgent ones."""
    last: int
    """The least urgent band that it looks at."""
    swept: tuple[int, ...] = ()
    """The bands below whose window it looks."""

    @property
    def is_slice(self) -> bool:
        """Whether it looks at a part of the past only."""
        return any(self.ranges[band].to_vt is not None for band in self.swept)


@dataclass(slots=True)
class PriorityWindows:
    """From which `vt` on to look in each band, and what part aged messages get.

    Each band has a window of its own: the backlog of a band that waits does not make claims walk
    over the dead entries of another.
    """

    _windows: tuple[ClaimWindow, ...] = field(
        default_factory=lambda: tuple(ClaimWindow() for _ in Priority)
    )
    _share: AgedShare = field(default_factory=AgedShare)
    _last_slice: int = Priority.LOW

    def next_look(self, limit: int, last: int, now: float, *, sweeps: bool = True) -> PriorityLook:
        """Return where to look next.

        Args:
            limit: how many messages to take.
            last: the least urgent band to look at.
            now: the time.
            sweeps: whether to look below the windows where it is time. Default true.
        """
        windows = self._windows[: last + 1]
        due = [band for band, each in enumerate(windows) if sweeps and each.sweep_is_due(now)]
        ranges = [each.claim_range() for each in self._windows]
        past = {band: windows[band].sweep_range() for band in due}
        slices = [band for band in due if past[band].to_vt is not None]
        if slices:
            band = next((each for each in slices if each > self._last_slice), slices[0])
            self._last_slice = band
            ranges = [NOWHERE] * len(ranges)
            ranges[band] = past[band]
            return PriorityLook(tuple(ranges), limit, 0, last, (band,))
        for band in due:
            ranges[band] = past[band]
        return PriorityLook(tuple(ranges), limit, self._share.most(limit), last, tuple(due))

    def looked(self, look: PriorityLook, claimed: Claim, began_at: float, ended_at: float) -> None:
        """Note what a claim found."""
        took_all = self.took_all(look, claimed)
        bands = claimed.bands or {}
        oldest: dict[int, Job[Any]] = {}
        for job in claimed.jobs:  # the oldest come first
            oldest.setdefault(bands[job.key], job)
        for band in look.swept:
            self._windows[band].swept(look.ranges[band], began_at, ended_at, took_all=took_all)
        for band, window in enumerate(self._windows[: look.last + 1]):
            if not look.swept:
                window.claimed(ended_at - began_at)
            if look.is_slice and band not in look.swept:
                continue
            if band in oldest:
                window.found(oldest[band].ready_at)
            elif window.low is None and took_all:
                # Nothing is ready there: the next claim need not walk over its dead entries again.
                window.found(moment_from(claimed.asked_timestamp))
        if not look.is_slice:
            self._share.took(len(claimed.jobs), len(claimed.aged))

    @staticmethod
    def took_all(look: PriorityLook, claimed: Claim) -> bool:
        """Return whether a claim took all that was ready where it looked."""
        # A claim of suspects leaves healthy messages behind.
        is_healthy = claimed.claim_class is ClaimClass.HEALTHY
        return len(claimed.jobs) < look.limit and is_healthy

    def drained_from(self, look: PriorityLook) -> datetime:
        """Return from which `vt` on such a claim looks in each band."""
        return max(each.from_vt for each in look.ranges)

    def gave_up(self, look: PriorityLook, seconds: float, now: datetime) -> None:
        """Note a claim that was not answered in time; `now` is by any clock."""
        for band in look.swept:
            self._windows[band].gave_up(look.ranges[band], seconds, now)

    def seconds_to_sweep(self, now: float) -> float | None:
        """Return when an idle producer should sweep next; None: its next claim is soon enough."""
        times = [each.seconds_to_sweep(now) for each in self._windows]
        return min((each for each in times if each is not None), default=None)


def places_of(
    claimed: Claim, aged_seconds: Sequence[float], now: float
) -> dict[JobKey, PriorityPlace]:
    """Return the places of claimed jobs, by the clock that says `now`."""
    bands = claimed.bands or {}
    return {
        job.key: PriorityPlace(
            band := bands[job.key],
            now
            if job.key in claimed.aged
            else now + aged_seconds[band] - (job.claimed_timestamp - job.ready_timestamp),
        )
        for job in claimed.jobs
    }
