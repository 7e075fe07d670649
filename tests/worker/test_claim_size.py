"""How many messages to claim."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshhook.worker.claim_size import (
    MAX_BATCHED_AHEAD,
    MAX_CLAIM_MESSAGES,
    FinishRate,
    claim_size,
    claimed_ahead,
)


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


@given(finished_per_second=st.floats(0, 5_000), claim_seconds=st.floats(0, 100))
def test_less_is_ahead_in_keyed_queues_where_claims_are_quick(
    finished_per_second: float, claim_seconds: float
) -> None:
    """Ten claims' time, if that is less than is usual; so the next claim comes sooner."""
    usual = claimed_ahead(finished_per_second, claim_seconds)
    ahead = claimed_ahead(finished_per_second, claim_seconds, has_turns=True)
    assert ahead <= usual
    if claim_seconds >= 0.01:
        assert ahead == usual
    else:
        assert ahead == int(finished_per_second * (10 * claim_seconds))


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


def test_of_fast_batches_two_claims_are_ahead() -> None:
    """So the next claim is under way while the batches of the last one run."""
    ahead = claimed_ahead(20_000, batch_jobs=100)
    assert ahead == MAX_BATCHED_AHEAD
    assert claim_size(free_slots=100, unstarted=1_000, ahead=ahead) == MAX_CLAIM_MESSAGES
    assert claim_size(free_slots=100, unstarted=1_900, ahead=ahead) == 0
    assert claimed_ahead(1e6, batch_jobs=100) == MAX_BATCHED_AHEAD
    assert claimed_ahead(1e6) == MAX_CLAIM_MESSAGES


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
