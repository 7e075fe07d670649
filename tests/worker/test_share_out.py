"""How slots are shared among queues."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshhook.worker.slot_shares import Demand, share_out

DEMANDS = st.lists(
    st.builds(Demand, weight=st.integers(1, 1_000), wanted=st.integers(0, 200)), max_size=12
)
SLOTS = st.integers(0, 300)


@pytest.mark.parametrize(
    ("slots", "demands", "shares"),
    [
        (50, [Demand(1, 50)], [50]),
        (50, [Demand(3, 50), Demand(1, 50)], [38, 12]),
        (50, [Demand(3, 50), Demand(1, 0)], [50, 0]),
        (50, [Demand(3, 10), Demand(1, 50)], [10, 40]),
        (50, [Demand(1000, 50), Demand(1, 50)], [49, 1]),
        (10, [Demand(1, 50), Demand(1, 50), Demand(1, 50)], [4, 3, 3]),
        (3, [Demand(5, 9), Demand(1, 9), Demand(1, 9)], [1, 1, 1]),
        (3, [Demand(1, 2), Demand(3, 1)], [2, 1]),
        (50, [], []),
    ],
)
def test_slots_are_shared_by_weight(slots: int, demands: list[Demand], shares: list[int]) -> None:
    """Of what the queues want, each gets its part; what one leaves, the others get."""
    assert share_out(slots, demands) == shares


@given(SLOTS, DEMANDS)
def test_no_slot_is_wasted_or_given_twice(slots: int, demands: list[Demand]) -> None:
    """All slots that are wanted are given, and to no queue more than it wants."""
    shares = share_out(slots, demands)
    assert sum(shares) == min(slots, sum(demand.wanted for demand in demands))
    for share, demand in zip(shares, demands, strict=True):
        assert 0 <= share <= demand.wanted


@given(SLOTS, DEMANDS)
def test_no_queue_starves(slots: int, demands: list[Demand]) -> None:
    """With as many slots as queues, whoever wants something gets something."""
    shares = share_out(slots, demands)
    if slots >= len(demands):
        for share, demand in zip(shares, demands, strict=True):
            assert share or not demand.wanted


@given(SLOTS, DEMANDS)
def test_each_queue_has_its_part_for_sure(slots: int, demands: list[Demand]) -> None:
    """Whatever the others want, its weight's part is its own, less the slot that each gets."""
    shares = share_out(slots, demands)
    weights = sum(demand.weight for demand in demands)
    for share, demand in zip(shares, demands, strict=True):
        part = max(0, slots - len(demands)) * demand.weight // weights
        assert share >= min(demand.wanted, part)


@given(SLOTS, DEMANDS)
def test_weights_decide_between_those_that_want_more(slots: int, demands: list[Demand]) -> None:
    """Of two queues that got less than they want, shares differ by weight and by rounding only."""
    shares = share_out(slots, demands)
    short = [
        (share, demand.weight)
        for share, demand in zip(shares, demands, strict=True)
        if 1 < share < demand.wanted
    ]
    for one, weight in short:
        for other, other_weight in short:
            assert one * other_weight - other * weight <= weight + other_weight


@given(SLOTS, DEMANDS, st.integers(0, 11))
def test_wanting_more_never_takes_from_oneself(
    slots: int, demands: list[Demand], number: int
) -> None:
    """A queue that wants more gets at least as much as before."""
    if number >= len(demands):
        return
    before = share_out(slots, demands)[number]
    asked = demands[number]
    more = [*demands[:number], Demand(asked.weight, asked.wanted + 1), *demands[number + 1 :]]
    assert share_out(slots, more)[number] >= before
