"""Jobs that wait for a slot in a queue with priorities, in the order of their start."""

from __future__ import annotations

import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from meshhook.priorities import Priority
from meshhook.worker.aged_share import AgedShare
from meshhook.worker.urgent_load import UrgentLoad

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from meshhook.worker.held_job import HeldJob


class PriorityPlace(NamedTuple):
    """The place of a job among those of a queue with priorities."""

    band: int
    """From 0, urgent, to 3, low."""
    aged_at: float
    """When it is aged, by the monotonic clock."""


class PriorityTurns:
    """The jobs of a queue with priorities that wait for a slot in this worker.

    The next job is the first of the most urgent band. One start in four goes to an aged job of
    another band, if there is one: what was claimed before the urgent jobs came must not wait for
    ever.

    It has the methods of a deque that `HeldJobs` uses, each in constant time but `remove`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a clock that returns seconds. Default: the monotonic clock."""
        self._clock = clock
        self._bands: tuple[deque[HeldJob], ...] = tuple(deque() for _ in Priority)
        self._share = AgedShare()
        self._running_urgent: set[HeldJob] = set()
        self._urgent_load = UrgentLoad()
        self._were_aged = False

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return sum(map(len, self._bands))

    def __iter__(self) -> Iterator[HeldJob]:
        """Return the jobs that wait, the most urgent band first."""
        return chain.from_iterable(self._bands)

    @property
    def urgent(self) -> int:
        """How many urgent jobs wait."""
        return len(self._bands[Priority.URGENT])

    @property
    def running_urgent(self) -> int:
        """How many urgent jobs run."""
        return len(self._running_urgent)

    @property
    def average_urgent(self) -> float:
        """How many urgent jobs ran at once, on average of the last seconds."""
        return self._urgent_load.average(self._clock())

    @property
    def has_aged(self) -> bool:
        """Whether an aged job waits that is not urgent, here or probably in the queue."""
        return self._were_aged or self._latest_aged(self._bands[Priority.URGENT]) is not None

    @property
    def first(self) -> HeldJob:
        """The first job of the most urgent band.

        Raises:
            IndexError: if none waits.
        """
        return self._most_urgent()[0]

    def note_claim(self, places: Iterable[PriorityPlace]) -> None:
        """Note the places of jobs that were just claimed: if some are aged, more may be."""
        now = self._clock()
        others = [place.aged_at <= now for place in places if place.band != Priority.URGENT]
        if others:
            self._were_aged = any(others)

    def append(self, held: HeldJob) -> None:
        """Let a job wait for its turn."""
        self._bands[_band_of(held)].append(held)

    def popleft(self, *, only_urgent: bool = False) -> HeldJob:
        """Start the next job.

        Args:
            only_urgent: whether the slot is one that is kept for urgent jobs. Default false.

        Raises:
            IndexError: if none waits.
        """
        band = self._bands[Priority.URGENT] if only_urgent else self._most_urgent()
        aged = None if only_urgent or not self._share.most(1) else self._latest_aged(band)
        held = (band if aged is None else aged).popleft()
        self._share.took(1, 0 if aged is None else 1)
        if _band_of(held) == Priority.URGENT:
            self._running_urgent.add(held)
            self._urgent_load.note(len(self._running_urgent), self._clock())
        return held

    def leave(self, held: HeldJob) -> None:
        """Note that a job no longer runs, if it did."""
        if held in self._running_urgent:
            self._running_urgent.remove(held)
            self._urgent_load.note(len(self._running_urgent), self._clock())

    def remove(self, held: HeldJob) -> None:
        """Remove a job that waits.

        Raises:
            ValueError: if it does not.
        """
        self._bands[_band_of(held)].remove(held)

    def clear(self) -> None:
        """Remove all jobs that wait."""
        for band in self._bands:
            band.clear()

    def _most_urgent(self) -> deque[HeldJob]:
        return next((band for band in self._bands if band), self._bands[Priority.URGENT])

    def _latest_aged(self, first: deque[HeldJob]) -> deque[HeldJob] | None:
        """Return the band behind the `first` whose first job has been aged for longest."""
        now = self._clock()
        aged = [
            (band[0].place.aged_at, number)
            for number, band in enumerate(self._bands)
            if band and band is not first and band[0].place and band[0].place.aged_at <= now
        ]
        return self._bands[min(aged)[1]] if aged else None


def _band_of(held: HeldJob) -> int:
    return Priority.NORMAL if held.place is None else held.place.band
