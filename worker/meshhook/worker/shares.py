"""How the slots of a worker are shared among its queues: a pure decision."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Demand(NamedTuple):
    """What one queue asks for."""

    weight: int
    """Its part of the slots, beside those of the others; at least 1."""
    wanted: int
    """How many slots it could use."""


def share_out(slots: int, demands: Sequence[Demand]) -> list[int]:
    """Return how many of the slots each queue gets.

    No queue gets more than it wants, and no slot stays free that one of them wants. What they want
    beyond that is shared by weight: a queue that wants less than its part leaves the rest to the
    others. Where there are as many slots as queues, each one that wants any gets at least one.
    """
    shares = [0] * len(demands)
    waiting = [i for i, demand in enumerate(demands) if demand.wanted > 0]
    while waiting and slots > 0:
        weights = sum(demands[i].weight for i in waiting)
        # A part that is less than one slot becomes one; a part that is more than is wanted, that.
        # Either changes the parts of the others, so these are worked out again.
        small = [i for i in waiting if slots * demands[i].weight < weights]
        if small:
            settled = dict.fromkeys(small[:slots], 1)
        else:
            settled = {
                i: demands[i].wanted
                for i in waiting
                if demands[i].wanted * weights <= slots * demands[i].weight
            }
        if not settled:
            return _by_weight(slots, demands, waiting, shares)
        for i, share in settled.items():
            shares[i] = share
            slots -= share
        waiting = [i for i in waiting if i not in settled]
    return _with_rest(slots, demands, shares)


def _with_rest(slots: int, demands: Sequence[Demand], shares: list[int]) -> list[int]:
    """Share what is left among queues that were given one slot and want more."""
    wanted = [
        Demand(demand.weight, demand.wanted - share)
        for demand, share in zip(demands, shares, strict=True)
    ]
    if slots == 0 or not any(demand.wanted for demand in wanted):
        return shares
    rest = share_out(slots, wanted)
    return [share + more for share, more in zip(shares, rest, strict=True)]


def _by_weight(
    slots: int, demands: Sequence[Demand], waiting: list[int], shares: list[int]
) -> list[int]:
    """Share slots by weight among queues of which each wants more than its part."""
    weights = sum(demands[i].weight for i in waiting)
    for i in waiting:
        shares[i] = slots * demands[i].weight // weights
    # What rounding down left goes to those whose part was cut the most.
    left = slots - sum(shares[i] for i in waiting)
    by_cut = sorted(waiting, key=lambda i: slots * demands[i].weight % weights, reverse=True)
    for i in by_cut[:left]:
        shares[i] += 1
    return shares
