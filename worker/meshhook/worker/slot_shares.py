"""The slots of a worker, and how many of them each of its queues may use now."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class SlotUser(Protocol):
    """What uses slots: the held jobs of one queue."""

    @property
    def taken_slots(self) -> int:
        """How many slots it uses."""

    @property
    def wanted_slots(self) -> int:
        """How many more slots the jobs that wait here could use."""

    @property
    def waits_for_slots(self) -> bool:
        """Whether it could use a slot that has become free."""

    def look_again(self) -> None:
        """Start what can start now, and tell the producer if there is room for more."""


class SharedSlots:
    """A fixed number of slots, shared by weight among the queues that have work.

    A queue has work while jobs wait here or its producer looks for more. If only one queue has
    work, it may use every slot. Running jobs are never stopped for another queue: that queue gets
    the next slots that become free until it has its part. In a worker with one queue, the only
    share has all slots.
    """

    def __init__(self, count: int, weights: Mapping[str, int]) -> None:
        """Take the number of slots, and the weight of each queue by name."""
        self.count = count
        self.shares = {name: Share(self, weight) for name, weight in weights.items()}
        demands = [Demand(weight, count) for weight in weights.values()]
        for share, part in zip(self.shares.values(), share_out(count, demands), strict=True):
            share.part = part
            share.others = [each for each in self.shares.values() if each is not share]

    @property
    def free(self) -> int:
        """How many slots are free."""
        # A plain loop, because this runs at every start of a job.
        free = self.count
        for share in self.shares.values():
            if share.user is not None:
                free -= share.user.taken_slots
        return free


class Share:
    """One queue's share of the slots."""

    def __init__(self, slots: SharedSlots, weight: int) -> None:
        self.weight = weight
        self.part = 0
        """How many slots it gets in any case, whatever the other queues want."""
        self.user: SlotUser | None = None
        self.others: Sequence[Share] = ()
        """The shares of the other queues."""
        self._slots = slots
        self._wants_more = True

    @property
    def wants_more(self) -> bool:
        """Whether the queue may have more work than is known here. True at first."""
        return self._wants_more

    @wants_more.setter
    def wants_more(self, value: bool) -> None:
        if value != self._wants_more:
            self._wants_more = value
            if not value:
                for share in self.others:
                    if share.user is not None:
                        share.user.look_again()

    @property
    def taken(self) -> int:
        """How many slots the queue uses."""
        return 0 if self.user is None else self.user.taken_slots

    @property
    def demand(self) -> Demand:
        """What the queue wants."""
        if self._wants_more:
            return Demand(self.weight, self._slots.count)
        known = 0 if self.user is None else self.user.wanted_slots
        return Demand(self.weight, self.taken + known)

    @property
    def free(self) -> int:
        """How many more slots the queue may use now."""
        if not self.others:
            return max(0, self.part - self.taken)  # all slots are its own
        free = self._slots.free
        return max(0, min(free, max(self._limit(), self.part) - self.taken)) if free > 0 else 0

    @property
    def concurrency(self) -> int:
        """How many slots there are for all queues together."""
        return self._slots.count

    @property
    def utilisation(self) -> float:
        """The share of all slots that are in use by any queue, 0 to 1."""
        return 1 - max(0, self._slots.free) / self._slots.count

    @property
    def may_start(self) -> bool:
        """Whether the queue may use one more slot now."""
        taken = self.taken
        if not self.others:
            return taken < self.part  # all slots are its own
        return self._slots.free > 0 and (taken < self.part or taken < self._limit())

    def _limit(self) -> int:
        # This runs at every start of a job. The two usual cases need no full calculation.
        shares = self._slots.shares.values()
        if all(share.wants_more for share in shares):
            return self.part
        wanted = [share.demand.wanted for share in self.others]
        if all(want <= share.part for want, share in zip(wanted, self.others, strict=True)):
            return min(self._slots.count - sum(wanted), self.demand.wanted)
        limits = share_out(self._slots.count, [share.demand for share in shares])
        return limits[list(shares).index(self)]

    def freed(self) -> None:
        """Tell the other queues that a slot is free."""
        for share in self.others:
            if share.user is not None and share.user.waits_for_slots:
                share.user.look_again()


class Demand(NamedTuple):
    """What one queue wants."""

    weight: int
    """Its part of the slots relative to the other queues; at least 1."""
    wanted: int
    """How many slots it could use."""


def share_out(slots: int, demands: Sequence[Demand]) -> list[int]:
    """Return how many of the slots each queue gets.

    No queue gets more than it wants, and no slot stays free that some queue wants. Slots that
    several queues want are shared by weight: if a queue wants less than its part, the others get
    the rest. If there are at least as many slots as queues, every queue that wants any gets at
    least one.
    """
    shares = [0] * len(demands)
    waiting = [i for i, demand in enumerate(demands) if demand.wanted > 0]
    while waiting and slots > 0:
        weights = sum(demands[i].weight for i in waiting)
        # A part of less than one slot becomes one; a part larger than what is wanted becomes that.
        # Either changes the parts of the other queues, which are then calculated again.
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
    """Share the remaining slots among queues that were given one slot and want more."""
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
    """Share slots by weight among queues that all want more than their part."""
    weights = sum(demands[i].weight for i in waiting)
    for i in waiting:
        shares[i] = slots * demands[i].weight // weights
    # What was lost by rounding down goes to the queues whose parts were cut most.
    left = slots - sum(shares[i] for i in waiting)
    by_cut = sorted(waiting, key=lambda i: slots * demands[i].weight % weights, reverse=True)
    for i in by_cut[:left]:
        shares[i] += 1
    return shares
