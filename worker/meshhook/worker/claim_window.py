"""From which `vt` on to look for ready messages: pure decisions of the producer.

Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from meshhook.store.claims import EVERYTHING

WHOLE_SECONDS = 0.2
SLICE_SECONDS = 0.02
FIRST_WIDTH = timedelta(seconds=1)
MOST_NARROWING = 0.1
MOST_WIDENING = 2.0
LOW_MARGIN = timedelta(milliseconds=100)
SWEEP_SHARE = 0.05
MAX_SWEEP_INTERVAL_SECONDS = 30.0
HOPELESS_SECONDS = 10.0
FIRST_PAST = timedelta(minutes=1)


class VtRange(NamedTuple):
    """The range of `vt` in which a claim looks."""

    from_vt: datetime
    to_vt: datetime | None = None
    """None means until now."""


@dataclass(slots=True)
class Sweep:
    """Which part of the past to look at next.

    Usually a sweep covers the whole past, costs nothing, and is combined with a claim. But while
    any transaction in the database is old, dead index entries pile up there, and walking over
    millions of them takes seconds during which nothing is claimed. Then the past is swept in slices
    that take about 20 ms each. Messages that are committed late are usually new, so the newest
    slice alternates with slices that go back to the oldest one after the other.
    """

    _newest_width: timedelta | None = None
    """The width of the newest slice; None: the whole past."""
    _older_width: timedelta = FIRST_WIDTH
    _older_edge: datetime | None = None
    """Where the next older slice ends; None: everything was looked at."""
    _is_turn_of_older: bool = False

    @property
    def is_in_slices(self) -> bool:
        """Whether looks at the past end before all of it is seen."""
        return self._newest_width is not None

    def next_range(self, low: datetime | None) -> VtRange:
        """Return where to look next. Claims start at `low`; None: none was made yet."""
        if low is None or self._newest_width is None:
            return VtRange(EVERYTHING)
        if self._is_turn_of_older and self._older_edge is not None:
            return _slice(self._older_edge, self._older_width)
        return _slice(low, self._newest_width)

    def go_in_slices(self) -> None:
        """Look at the past in slices from now on."""
        self._newest_width, self._older_edge = FIRST_WIDTH, None

    def looked(self, looked_at: VtRange, seconds: float, *, took_all: bool) -> None:
        """Note how long a look took, and whether it took everything that was ready there."""
        from_vt, to_vt = looked_at
        if to_vt is None:
            if seconds > WHOLE_SECONDS:
                self.go_in_slices()
            return
        factor = min(max(SLICE_SECONDS / max(seconds, 1e-6), MOST_NARROWING), MOST_WIDENING)
        width = (to_vt - from_vt) * factor
        if self._is_turn_of_older:
            self._older_width = width
            if took_all:
                self._older_edge = from_vt
        else:
            is_whole = from_vt <= EVERYTHING and seconds <= WHOLE_SECONDS
            self._newest_width = None if is_whole else width
            if self._older_edge is None:
                self._older_edge, self._older_width = from_vt, width
        if self._older_edge is not None and self._older_edge <= EVERYTHING:
            self._older_edge = None
        self._is_turn_of_older = self._older_edge is not None and not self._is_turn_of_older


@dataclass(slots=True)
class ClaimWindow:
    """From which `vt` on to look for ready messages.

    Dead index entries of settled messages lie below the ready ones and pile up while any
    transaction in the database is old. A claim therefore starts just below the smallest `vt` seen
    recently, and sweeps below that find messages that were committed late. Sweeps take at most 5
    percent of the time, with at most 30 seconds between them.
    """

    low: datetime | None = None
    """Where a claim starts; None until a message was seen."""
    later_from: datetime = EVERYTHING
    """A bound between what is due and what falls due later, for claims of keyed queues."""
    _sweep: Sweep = field(default_factory=Sweep)
    _next_sweep_at: float = field(default=float("-inf"))
    _fastest_claim_seconds: float = field(default=float("inf"))

    def sweep_is_due(self, now: float) -> bool:
        """Return whether the next claim should sweep below the window."""
        return self.low is None or now >= self._next_sweep_at

    def seconds_to_sweep(self, now: float) -> float | None:
        """Return when an idle producer should sweep next. None: its next claim is soon enough.

        A whole sweep is part of a claim. Slices are many, and one at each poll would take minutes
        to reach what waits at the end of the past.
        """
        return max(self._next_sweep_at - now, 0.0) if self._sweep.is_in_slices else None

    def sweep_range(self) -> VtRange:
        """Return where a sweep looks now. A sweep that ends before now usually finds nothing."""
        return self._sweep.next_range(self.low)

    def claim_range(self) -> VtRange:
        """Return where an ordinary claim looks."""
        return VtRange(EVERYTHING if self.low is None else self.low)

    def swept(self, swept: VtRange, began_at: float, ended_at: float, *, took_all: bool) -> None:
        """Note a sweep, and whether it took everything that was ready there.

        What any claim takes is not what the walk took: behind a slow network slices would otherwise
        narrow to nothing.
        """
        seconds = ended_at - began_at
        has_claimed = self._fastest_claim_seconds < float("inf")
        walk_seconds = seconds - self._fastest_claim_seconds if has_claimed else seconds
        self._sweep.looked(swept, max(walk_seconds, 0.0), took_all=took_all)
        pause = min(seconds / SWEEP_SHARE, MAX_SWEEP_INTERVAL_SECONDS)
        self._next_sweep_at = ended_at + pause

    def claimed(self, seconds: float) -> None:
        """Note how long a claim took that started at the window's lower end."""
        self._fastest_claim_seconds = min(self._fastest_claim_seconds, seconds)

    def gave_up(self, swept: VtRange, seconds: float, now: datetime) -> None:
        """Note a sweep that was not answered in time; `now` is by any clock.

        A worker's first look has no lower bound. If it takes too long, there are tens of millions
        of dead entries, and the next one would take as long. Claims then start one minute ago, and
        what lies below is swept in slices. A wrong clock only costs time: the slices find what it
        leaves out.
        """
        if self.low is None and swept.to_vt is None and seconds >= HOPELESS_SECONDS:
            self.low = now - FIRST_PAST
            self._sweep.go_in_slices()

    def found(self, oldest_ready_at: datetime) -> None:
        """Note the smallest `vt` of the messages just claimed."""
        self.low = max(oldest_ready_at, EVERYTHING + LOW_MARGIN) - LOW_MARGIN

    def found_later(self, first_later: datetime) -> None:
        """Note the `vt` of the first message that was not due."""
        self.later_from = max(first_later, EVERYTHING + LOW_MARGIN) - LOW_MARGIN


def _slice(to_vt: datetime, width: timedelta) -> VtRange:
    from_vt = EVERYTHING if width >= to_vt - EVERYTHING else to_vt - width
    return VtRange(from_vt, to_vt)
