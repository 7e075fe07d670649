"""Jobs that wait for a slot while the keys of their messages take turns."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from itertools import chain
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshhook.worker.held_job import HeldJob

MAX_OUTDATED = 64
"""How many outdated turns are kept, beside two for each key."""


class FairTurns:
    """The jobs of a keyed queue that wait for a slot in this worker, in the order of their start.

    The next job is one of the key of which the fewest run here for its weight. Keys with equally
    many go round: each starts one job and then comes last. Within a key, jobs start in the order in
    which they came. So a job of a quiet key waits for one job of each other key at most, however
    many of them were claimed before it.

    It has the methods of a deque that `HeldJobs` uses. Those that every job passes take a time that
    grows with the logarithm of the number of keys. While there is only one key, no turns are kept.
    """

    def __init__(self) -> None:
        self._keys: dict[str | None, _Key] = {}
        """The keys of the jobs that wait or run."""
        self._turns: list[_Turn] = []
        """A heap: the turn of each key that has waiting jobs, and outdated turns. If there is only
        one key, its turn may be missing."""
        self._running: dict[HeldJob, _Key] = {}
        self._waiting = 0
        self._last_place = 0

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return self._waiting

    def __iter__(self) -> Iterator[HeldJob]:
        """Return the jobs that wait, key by key."""
        return chain.from_iterable([key.waiting for key in self._keys.values()])

    @property
    def first(self) -> HeldJob:
        """The job that starts next.

        Raises:
            IndexError: if none waits.
        """
        keys, turns = self._keys, self._turns
        if len(keys) == 1:
            (key,) = keys.values()
            return key.waiting[0]
        while True:
            load, place, key = turns[0]
            if key.waiting and key.place == place and key.load == load:
                return key.waiting[0]
            heappop(turns)  # outdated

    def append(self, held: HeldJob) -> None:
        """Let a job wait for its turn."""
        name, weight = held.share or (None, 1.0)
        key = self._keys.get(name)
        if key is None:
            key = self._add(name)
        self._waiting += 1
        key.waiting.append(held)
        if len(key.waiting) == 1:
            self._last_place = key.place = self._last_place + 1
        elif weight == key.weight:
            return
        key.weight = weight
        key.load = load = key.running / weight
        heappush(self._turns, (load, key.place, key))

    def popleft(self) -> HeldJob:
        """Start the next job.

        Raises:
            IndexError: if none waits.
        """
        keys, turns = self._keys, self._turns
        if len(keys) == 1:
            (key,) = keys.values()
            held = key.waiting.popleft()
        else:
            while True:
                load, place, key = heappop(turns)
                if key.waiting and key.place == place and key.load == load:
                    break
            held = key.waiting.popleft()
            if key.waiting:
                key.load = load = (key.running + 1) / key.weight
                self._last_place = key.place = place = self._last_place + 1
                heappush(turns, (load, place, key))
        self._waiting -= 1
        self._running[held] = key
        key.running += 1
        return held

    def leave(self, held: HeldJob) -> None:
        """Note that a job no longer runs, if it did."""
        key = self._running.pop(held, None)
        if key is None:
            return
        key.running -= 1
        if not key.waiting:
            if not key.running:
                del self._keys[key.name]
        elif len(self._keys) > 1:
            self._take_turn(key)

    def remove(self, held: HeldJob) -> None:
        """Remove a job that waits.

        Raises:
            KeyError, ValueError: if it does not.
        """
        key = self._keys[None if held.share is None else held.share.key]
        key.waiting.remove(held)
        self._waiting -= 1
        self._take_turn(key)

    def clear(self) -> None:
        """Remove all jobs that wait."""
        for key in list(self._keys.values()):
            key.waiting.clear()
            self._take_turn(key)
        self._turns.clear()
        self._waiting = 0

    def _add(self, name: str | None) -> _Key:
        keys = self._keys
        if len(keys) == 1:
            (only,) = keys.values()
            self._take_turn(only)
        key = keys[name] = _Key(name)
        return key

    def _take_turn(self, key: _Key) -> None:
        """Give a key its turn anew, after what waits or runs of it has changed."""
        if not key.waiting:
            if not key.running:
                del self._keys[key.name]
            return
        key.load = load = key.running / key.weight
        heappush(self._turns, (load, key.place, key))
        if len(self._turns) > 2 * len(self._keys) + MAX_OUTDATED:
            self._turns = [
                (each.load, each.place, each) for each in self._keys.values() if each.waiting
            ]
            heapify(self._turns)


class _Key:
    """What waits and runs of one key."""

    __slots__ = ("load", "name", "place", "running", "waiting", "weight")

    def __init__(self, name: str | None) -> None:
        self.name = name
        self.weight = 1.0
        self.running = 0
        self.load = 0.0
        """What runs for its weight: the key with the smallest comes first."""
        self.place = 0
        """Its place among keys of the same load; no two have the same."""
        self.waiting: deque[HeldJob] = deque()


_Turn: TypeAlias = tuple[float, int, _Key]
"""The load and the place of a key, and the key. If either has changed since, it is outdated."""
