"""How many messages to claim, and from where: the claimer's pure decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from meshhook.store.claims import EVERYTHING
from meshhook.worker.claim_plan import (
    HOPELESS_SECONDS,
    LOW_MARGIN,
    MAX_CLAIM_MESSAGES,
    MAX_SWEEP_INTERVAL_SECONDS,
    ClaimWindow,
    FinishRate,
    claim_size,
    claimed_ahead,
)
from meshhook.worker.sweep import VtRange

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(
    free_slots=st.integers(0, 10_000),
    unstarted=st.integers(0, 10_000),
    finished_per_second=st.floats(0, 1e6),
    claim_seconds=st.floats(0, 100),
)
def test_claimed_work_stays_within_a_fraction_of_a_second(
    free_slots: int, unstarted: int, finished_per_second: float, claim_seconds: float
) -> None:
    """After a claim there is no more unstarted work than can start, and half a second's."""
    ahead = claimed_ahead(finished_per_second, claim_seconds)
    size = claim_size(free_slots=free_slots, unstarted=unstarted, ahead=ahead)
    assert 0 <= size <= MAX_CLAIM_MESSAGES
    if size:
        most = min(finished_per_second / 2, MAX_CLAIM_MESSAGES)
        assert unstarted + size <= free_slots + most


@given(finished_per_second=st.floats(0, 5_000), claim_seconds=st.floats(0, 100))
def test_more_is_ahead_where_claims_take_long(
    finished_per_second: float, claim_seconds: float
) -> None:
    """A tenth of a second where they are quick; two claims' time, up to half a second, else."""
    ahead = claimed_ahead(finished_per_second, claim_seconds)
    seconds = min(max(0.1, 2 * claim_seconds), 0.5)
    assert ahead == int(min(finished_per_second * seconds, MAX_CLAIM_MESSAGES))


def test_slow_jobs_are_claimed_one_a_slot() -> None:
    """With jobs of a second nothing is claimed ahead, so that other workers get the rest."""
    ahead = claimed_ahead(5)
    assert claim_size(free_slots=3, unstarted=0, ahead=ahead) == 3
    assert claim_size(free_slots=0, unstarted=0, ahead=ahead) == 0
    assert claim_size(free_slots=3, unstarted=3, ahead=ahead) == 0


def test_fast_jobs_are_claimed_in_large_batches() -> None:
    """At a high rate a claim waits until half of what is ahead is used up."""
    ahead = claimed_ahead(10_000)
    assert claim_size(free_slots=0, unstarted=900, ahead=ahead) == 0
    assert claim_size(free_slots=0, unstarted=500, ahead=ahead) == 500


def test_the_rate_follows_what_finishes() -> None:
    """A steady rate is found within seconds, and forgotten as quickly."""
    rate = FinishRate()
    finished = 0
    for tick in range(50):
        rate.update(finished, tick * 0.1)
        finished += 100
    assert 900 < rate.per_second <= 1000
    for tick in range(50, 100):
        rate.update(finished, tick * 0.1)
    assert rate.per_second < 20


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
