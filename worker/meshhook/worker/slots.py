"""The slots of a worker of several queues: how many of them each queue may take now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from meshhook.worker.shares import Demand, share_out

if TYPE_CHECKING:
    from collections.abc import Mapping


class SlotUser(Protocol):
    """What takes slots: the runner of one queue."""

    @property
    def taken_slots(self) -> int:
        """How many it has taken."""

    @property
    def unstarted(self) -> int:
        """How many jobs wait for a slot."""

    @property
    def waits_for_slots(self) -> bool:
        """Whether it could do something with a slot that has come free."""

    def look_again(self) -> None:
        """Start what may start now, and let the claimer know if there is room for more."""


class SharedSlots:
    """A fixed number of slots, shared by weight among the queues that have work.

    A queue has work while jobs of it wait here, or while its claimer looks for more. Alone it may
    take every slot. Jobs that run are never stopped for another queue's sake: the next slots that
    come free are the other's, until it has its part.
    """

    def __init__(self, count: int, weights: Mapping[str, int]) -> None:
        """Take how many slots there are, and the weight of each queue, by its name."""
        self.count = count
        self.shares = {name: Share(self, weight) for name, weight in weights.items()}
        demands = [Demand(weight, count) for weight in weights.values()]
        for share, part in zip(self.shares.values(), share_out(count, demands), strict=True):
            share.part = part

    @property
    def free(self) -> int:
        """How many slots nobody has taken."""
        # A loop, since every start of a job asks.
        free = self.count
        for share in self.shares.values():
            if share.user is not None:
                free -= share.user.taken_slots
        return free

    def look_again(self, besides: Share | None = None) -> None:
        """Let the queues, all but one, start what may start now."""
        for share in self.shares.values():
            if share is not besides and share.user is not None:
                share.user.look_again()


class Share:
    """One queue's share of the slots."""

    def __init__(self, slots: SharedSlots, weight: int) -> None:
        self.weight = weight
        self.part = 0
        """How many slots it has for sure, whatever the others want."""
        self.user: SlotUser | None = None
        self._slots = slots
        self._wants_more = True

    @property
    def wants_more(self) -> bool:
        """Whether the queue may have more work than is known here; at first it may."""
        return self._wants_more

    @wants_more.setter
    def wants_more(self, value: bool) -> None:
        if value != self._wants_more:
            self._wants_more = value
            if not value:
                self._slots.look_again(besides=self)

    @property
    def taken(self) -> int:
        """How many slots the queue has taken."""
        return 0 if self.user is None else self.user.taken_slots

    @property
    def demand(self) -> Demand:
        """What the queue asks for."""
        if self._wants_more:
            return Demand(self.weight, self._slots.count)
        known = 0 if self.user is None else self.user.unstarted
        return Demand(self.weight, self.taken + known)

    @property
    def free(self) -> int:
        """How many more slots the queue may take now."""
        free = self._slots.free
        return max(0, min(free, max(self._limit(), self.part) - self.taken)) if free > 0 else 0

    @property
    def unused(self) -> int:
        """How many slots no queue has taken, whosever they are."""
        return self._slots.free

    @property
    def may_start(self) -> bool:
        """Whether the queue may take one more slot now."""
        if self._slots.free <= 0:
            return False
        taken = self.taken
        return taken < self.part or taken < self._limit()

    def _limit(self) -> int:
        # Asked for at every start of a job: the two usual cases need no sharing out.
        shares = self._slots.shares.values()
        if all(share.wants_more for share in shares):
            return self.part
        if not any(share.wants_more for share in shares if share is not self):
            others = sum(share.demand.wanted for share in shares if share is not self)
            if others + self.part <= self._slots.count:
                return min(self._slots.count - others, self.demand.wanted)
        limits = share_out(self._slots.count, [share.demand for share in shares])
        return limits[list(shares).index(self)]

    def freed(self) -> None:
        """Let the others know that a slot has come free."""
        for share in self._slots.shares.values():
            if share is not self and share.user is not None and share.user.waits_for_slots:
                share.user.look_again()
