"""From which `vt` on claims and sweeps look."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshhook.store.claims import EVERYTHING
from meshhook.worker.claim_window import (
    HOPELESS_SECONDS,
    LOW_MARGIN,
    MAX_SWEEP_INTERVAL_SECONDS,
    SLICE_SECONDS,
    WHOLE_SECONDS,
    ClaimWindow,
    Sweep,
    VtRange,
)

LOW = datetime(2026, 1, 1, tzinfo=UTC)
NOW = LOW


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


@given(st.lists(st.floats(1e-6, 100), min_size=1, max_size=50))
def test_sweeps_take_a_twentieth_of_the_time(durations: list[float]) -> None:
    """Whatever sweeps cost, they take 5 percent of the time, or come once in 30 seconds."""
    window = ClaimWindow(low=NOW)
    now = 0.0
    for seconds in durations:
        assert window.sweep_is_due(now)
        window.swept(window.sweep_range(), now, now + seconds, took_all=True)
        now += seconds
        pause = min(seconds * 20, MAX_SWEEP_INTERVAL_SECONDS)
        assert not window.sweep_is_due(now + pause * 0.99)
        now += pause * 1.01


def test_a_bounded_claim_starts_just_below_the_smallest_seen() -> None:
    """The first claim looks at everything; later ones start below the last one's oldest."""
    window = ClaimWindow()
    assert window.sweep_range() == window.claim_range() == VtRange(EVERYTHING)
    window.swept(window.sweep_range(), 0, 1, took_all=True)
    assert window.sweep_is_due(1.5)
    window.found(NOW)
    assert window.claim_range() == VtRange(NOW - LOW_MARGIN)
    assert not window.sweep_is_due(1.5)
    window.found(NOW - timedelta(hours=1))
    assert window.claim_range() == VtRange(NOW - timedelta(hours=1) - LOW_MARGIN)


def test_a_first_look_that_is_hopeless_is_not_repeated() -> None:
    """Claims start a minute ago then, and the past is looked at in slices, to its beginning."""
    window = ClaimWindow()
    whole = window.sweep_range()
    window.gave_up(whole, HOPELESS_SECONDS / 2, NOW)
    assert window.low is None
    window.gave_up(whole, HOPELESS_SECONDS, NOW)
    assert window.claim_range() == VtRange(NOW - timedelta(minutes=1))
    seen = []
    for second in range(100):
        swept = window.sweep_range()
        assert swept.to_vt is not None
        assert swept.to_vt <= NOW
        seen.append(swept)
        if swept.from_vt == EVERYTHING:
            break
        window.swept(swept, second, second + 0.01, took_all=True)
    assert seen[-1].from_vt == EVERYTHING
    covered_from = window.low
    for swept in sorted(seen, key=lambda each: each.to_vt or NOW, reverse=True):
        assert covered_from is not None
        assert swept.to_vt is not None
        assert swept.to_vt >= covered_from
        covered_from = min(covered_from, swept.from_vt)
    assert covered_from == EVERYTHING
    window.gave_up(whole, HOPELESS_SECONDS, NOW + timedelta(hours=1))
    assert window.low == NOW - timedelta(minutes=1)


@settings(max_examples=20)
@given(round_trip_seconds=st.floats(0.02, 2.0), per_second=st.floats(0, 3e4))
def test_slices_reach_the_oldest_behind_a_slow_network(
    round_trip_seconds: float, per_second: float
) -> None:
    """What every claim takes does not narrow them: they come to the end all the same."""
    window = ClaimWindow()
    window.gave_up(VtRange(EVERYTHING), HOPELESS_SECONDS, NOW)
    past = Past(per_second, 600)
    now = 0.0
    for _ in range(5_000):
        window.claimed(round_trip_seconds)
        swept = window.sweep_range()
        if swept.from_vt == EVERYTHING:
            break
        seconds = round_trip_seconds + past.seconds_to_walk(swept)
        window.swept(swept, now, now + seconds, took_all=True)
        now += seconds
    assert swept.from_vt == EVERYTHING


def test_a_whole_look_behind_a_slow_network_is_not_a_long_walk() -> None:
    """The past is looked at as a whole if a claim takes as long as that."""
    window = ClaimWindow(low=LOW)
    window.claimed(2 * WHOLE_SECONDS)
    window.swept(window.sweep_range(), 0.0, 2.1 * WHOLE_SECONDS, took_all=True)
    assert window.sweep_range() == VtRange(EVERYTHING)
    assert window.seconds_to_sweep(0.0) is None


def test_an_idle_producer_sweeps_on_while_the_past_is_in_slices() -> None:
    """Its next slice is due when the share of sweeps allows it, not at its next poll."""
    window = ClaimWindow()
    assert window.seconds_to_sweep(0.0) is None
    window.gave_up(VtRange(EVERYTHING), HOPELESS_SECONDS, NOW)
    assert window.seconds_to_sweep(0.0) == 0.0
    window.swept(window.sweep_range(), 0.0, 0.01, took_all=True)
    assert window.seconds_to_sweep(0.01) == pytest.approx(0.2)
    assert window.seconds_to_sweep(5.0) == 0.0
