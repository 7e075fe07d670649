"""Bounds on connections: deliveries at once to one destination, and connections kept unused."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class DestinationSlots:
    """Lets a limited number of deliveries to each destination run at once; others wait."""

    def __init__(self, most: int) -> None:
        """Take how many."""
        self._most = most
        self._slots: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @asynccontextmanager
    async def of(self, destination: str) -> AsyncIterator[None]:
        """Hold a slot while the block runs."""
        slots, users = self._slots.get(destination, (None, 0))
        slots = asyncio.Semaphore(self._most) if slots is None else slots
        self._slots[destination] = slots, users + 1
        try:
            async with slots:
                yield
        finally:
            _, users = self._slots[destination]
            if users > 1:
                self._slots[destination] = slots, users - 1
            else:
                del self._slots[destination]

    def __len__(self) -> int:
        """Return to how many destinations deliveries run or wait."""
        return len(self._slots)


class KeptConnections:
    """Decides which deliveries leave their connection open for the next one.

    The HTTP client keeps every connection for a while, however many destinations there are. This
    counts those in use and those unused, from above: one that its destination has closed counts
    until its time is over.
    """

    def __init__(
        self, most: int, idle_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take how many may be kept, and for how long the client keeps an unused one.

        Args:
            most: how many.
            idle_seconds: how long.
            clock: tells the time. Default: the monotonic clock.
        """
        self._most = most
        # The client looks for expired ones once in that time, and rounds up to a second.
        self._seconds = 2 * idle_seconds + 1
        self._clock = clock
        self._unused: dict[str, deque[float]] = {}
        self._count = 0

    def take(self, destination: str) -> bool:
        """Return whether the connection of a delivery that begins now is kept after it."""
        unused = self._unused.get(destination)
        if unused:
            # The client uses it again, or opens another one in its place.
            unused.popleft()
            return True
        if self._count >= self._most:
            self._forget_expired()
        if self._count >= self._most:
            return False
        self._count += 1
        return True

    def give_back(self, destination: str, *, is_open: bool) -> None:
        """Count the connection of a delivery that has ended, and that is kept.

        Args:
            destination: where it leads.
            is_open: whether it was left open; otherwise it was closed after all.
        """
        if is_open:
            self._unused.setdefault(destination, deque()).append(self._clock())
        else:
            self._count -= 1

    def _forget_expired(self) -> None:
        oldest = self._clock() - self._seconds
        for destination, unused in list(self._unused.items()):
            while unused and unused[0] < oldest:
                unused.popleft()
                self._count -= 1
            if not unused:
                del self._unused[destination]
