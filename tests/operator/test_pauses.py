"""Pauses that double, whatever they are made from."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from meshhook_operator.pauses import SPREAD, doubled_seconds
from support.fuzzing import examples

doublings = st.integers(-10, 10**9)
seconds = st.floats(0.001, 1e6)
chance = st.floats(0, 1)


def test_a_pause_doubles_up_to_the_longest():
    """From the first one on; what is below no doubling is none."""
    pauses = [doubled_seconds(each, first_seconds=5, longest_seconds=60) for each in range(-1, 6)]
    assert pauses == [5, 5, 10, 20, 40, 60, 60]


def test_a_quarter_is_left_to_chance():
    """None comes later for that."""
    pauses = [
        doubled_seconds(0, first_seconds=8, longest_seconds=60, spread=each) for each in (0, 0.5, 1)
    ]
    assert pauses == [8, 7, 6]


@examples(200)
@given(doublings, seconds, seconds, chance)
def test_a_pause_keeps_its_limits(doublings, first, longest, spread):
    """However often something failed, and whichever of the two is the shorter one."""
    pause = doubled_seconds(doublings, first_seconds=first, longest_seconds=longest, spread=spread)
    assert (1 - SPREAD) * min(first, longest) <= pause <= longest
    unspread = doubled_seconds(doublings, first_seconds=first, longest_seconds=longest)
    assert (1 - SPREAD) * unspread <= pause <= unspread


@examples(200)
@given(seconds, seconds)
def test_each_pause_is_twice_the_one_before_it(first, longest):
    """Until it is the longest, which it reaches from any first one, and keeps."""
    pauses = [
        doubled_seconds(each, first_seconds=first, longest_seconds=longest) for each in range(64)
    ]
    assert all(after == min(longest, 2 * before) for before, after in pairwise(pauses))
    assert pauses[-1] == longest
    assert doubled_seconds(10**9, first_seconds=first, longest_seconds=longest) == longest
