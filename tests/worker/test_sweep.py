"""Which part of the past a sweep looks at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from meshhook.store.claims import EVERYTHING
from meshhook.worker.sweep import SLICE_SECONDS, WHOLE_SECONDS, Sweep, VtRange

LOW = datetime(2026, 1, 1, tzinfo=UTC)


class Past:
    """Dead index entries: so many a second, over so many seconds below `LOW`."""

    def __init__(self, per_second: float, seconds: float) -> None:
        self._per_second = per_second
        self._begins = LOW - timedelta(seconds=seconds)

    def seconds_to_walk(self, vt_range: VtRange) -> float:
        """Return how long a look takes, at a microsecond an entry and a millisecond at least."""
        walked = (vt_range.to_vt or LOW) - max(vt_range.from_vt, self._begins)
        return 0.001 + max(walked.total_seconds(), 0) * self._per_second * 1e-6


def looks(sweep: Sweep, past: Past, count: int) -> list[tuple[VtRange, float]]:
    """Look so many times."""
    looked = []
    for _ in range(count):
        vt_range = sweep.next_range(LOW)
        seconds = past.seconds_to_walk(vt_range)
        sweep.looked(vt_range, seconds, took_all=True)
        looked.append((vt_range, seconds))
    return looked


def test_it_looks_at_the_whole_as_long_as_that_costs_nothing() -> None:
    """A sweep is one with a claim then."""
    for vt_range, _ in looks(Sweep(), Past(100, 60), 10):
        assert vt_range == VtRange(EVERYTHING)


def test_nothing_was_seen_yet() -> None:
    """Without a claim there is nothing to begin at."""
    assert Sweep().next_range(None) == VtRange(EVERYTHING)


@given(per_second=st.floats(1e3, 1e6), seconds=st.floats(600, 1e5))
def test_where_the_whole_costs_much_it_looks_at_slices(per_second: float, seconds: float) -> None:
    """After the first look none takes seconds, however many dead entries there are."""
    past = Past(per_second, seconds)
    (_, whole_seconds), *slices = looks(Sweep(), past, 200)
    assert whole_seconds > WHOLE_SECONDS
    # The first slice is a guess.
    for _, slice_seconds in slices[5:]:
        assert slice_seconds <= 3 * SLICE_SECONDS


def test_slices_cover_the_whole_and_the_newest_comes_by_turns() -> None:
    """Each old slice begins where the one before ended, until the oldest; between are new ones."""
    sweep = Sweep()
    past = Past(40_000, 300)
    looks(sweep, past, 1)
    edge = None
    newest = 0
    for vt_range, _ in looks(sweep, past, 10_000):
        if vt_range.to_vt == LOW:
            newest += 1
            edge = edge or vt_range.from_vt
            continue
        assert vt_range.to_vt == edge
        edge = vt_range.from_vt
        if edge == EVERYTHING:
            break
    assert edge == EVERYTHING
    assert newest > 10


def test_what_is_not_taken_is_looked_at_again() -> None:
    """A slice with more than one claim can take ends where it ended before."""
    sweep = Sweep()
    past = Past(40_000, 300)
    looks(sweep, past, 2)
    vt_range = sweep.next_range(LOW)
    assert vt_range.to_vt != LOW
    sweep.looked(vt_range, 0.02, took_all=False)
    sweep.looked(sweep.next_range(LOW), 0.02, took_all=True)
    assert sweep.next_range(LOW).to_vt == vt_range.to_vt


def test_once_the_dead_entries_are_gone_it_looks_at_the_whole_again() -> None:
    """Slices widen until one is the whole."""
    sweep = Sweep()
    looks(sweep, Past(40_000, 300), 100)
    assert sweep.next_range(LOW) != VtRange(EVERYTHING)
    looks(sweep, Past(0, 0), 200)
    assert sweep.next_range(LOW) == VtRange(EVERYTHING)
