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
    """From which `vt` to which a claim looks."""

    from_vt: datetime
    to_vt: datetime | None = None
    """None means now."""


@dataclass(slots=True)
class Sweep:
    """Which part of the past to look at next.

    As a rule the whole of it costs nothing, and is one with a claim. But dead index entries pile
    up there while any transaction in the database is old, and to walk over millions of them takes
    seconds in which nothing is claimed. Then the past is looked at in slices, each about as wide
    as 20 ms allow. What is committed late is new as a rule: so the newest slice comes by turns
    with those that go back, one after the other, to the oldest.
    """

    _newest_width: timedelta | None = None
    """How wide the newest slice is; None: it is the whole."""
    _older_width: timedelta = FIRST_WIDTH
    _older_edge: datetime | None = None
    """Where the next older slice ends; None: all was looked at."""
    _is_turn_of_older: bool = False

    def next_range(self, low: datetime | None) -> VtRange:
        """Return where to look, beside claims that start at `low`; None: none was made yet."""
        if low is None or self._newest_width is None:
            return VtRange(EVERYTHING)
        if self._is_turn_of_older and self._older_edge is not None:
            return _slice(self._older_edge, self._older_width)
        return _slice(low, self._newest_width)

    def go_in_slices(self) -> None:
        """Look at the past in slices from the next look on."""
        self._newest_width, self._older_edge = FIRST_WIDTH, None

    def looked(self, looked_at: VtRange, seconds: float, *, took_all: bool) -> None:
        """Note what a look cost, and whether it took all that is ready there."""
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

    Dead index entries of settled messages lie below those that are ready, and pile up while any
    transaction in the database is old. A claim therefore starts just below the smallest `vt` seen
    lately, and a sweep of what lies below finds what was committed late. Sweeps take at most 5
    percent of the time, or one look in 30 seconds.
    """

    low: datetime | None = None
    """Where a claim starts; None until the first message was seen."""
    _sweep: Sweep = field(default_factory=Sweep)
    _next_sweep_at: float = field(default=float("-inf"))

    def sweep_is_due(self, now: float) -> bool:
        """Say whether the next claim should look below."""
        return self.low is None or now >= self._next_sweep_at

    def sweep_range(self) -> VtRange:
        """Return where a sweep looks now. Where it ends before now it finds nothing, as a rule."""
        return self._sweep.next_range(self.low)

    def claim_range(self) -> VtRange:
        """Return where a claim looks that is no sweep."""
        return VtRange(EVERYTHING if self.low is None else self.low)

    def swept(self, swept: VtRange, began_at: float, ended_at: float, *, took_all: bool) -> None:
        """Note a sweep, and whether it took all that was ready there."""
        seconds = ended_at - began_at
        self._sweep.looked(swept, seconds, took_all=took_all)
        pause = min(seconds / SWEEP_SHARE, MAX_SWEEP_INTERVAL_SECONDS)
        self._next_sweep_at = ended_at + pause

    def gave_up(self, swept: VtRange, seconds: float, now: datetime) -> None:
        """Note a sweep that was not answered in time, and that it is `now` by some clock.

        The first look of a worker has no lower end. Where it takes too long, tens of millions of
        dead entries lie there, and so it would the next time: claims then start a minute ago, and
        what lies below is looked at in slices. A clock that is wrong costs only time: what it
        leaves out is found by the slices.
        """
        if self.low is None and swept.to_vt is None and seconds >= HOPELESS_SECONDS:
            self.low = now - FIRST_PAST
            self._sweep.go_in_slices()

    def found(self, oldest_ready_at: datetime) -> None:
        """Note the smallest `vt` of the messages just claimed."""
        self.low = max(oldest_ready_at, EVERYTHING + LOW_MARGIN) - LOW_MARGIN


def _slice(to_vt: datetime, width: timedelta) -> VtRange:
    from_vt = EVERYTHING if width >= to_vt - EVERYTHING else to_vt - width
    return VtRange(from_vt, to_vt)
