"""The slots of one queue that wait for a job."""

from __future__ import annotations

import asyncio
from collections import deque


class ParkedSlots:
    """Slots that wait for a job, to be woken one by one; the first to wait is the first to wake."""

    def __init__(self, most: int) -> None:
        """Take how many slots may be opened at most."""
        self.open = 0
        """How many slots the executor has opened, parked or not."""
        self.are_wanted = asyncio.Event()
        """Set when a job could start and no slot is parked: the executor is to open another one."""
        self.most = most
        """How many slots may be opened at most."""
        self._parked: deque[asyncio.Future[None]] = deque()

    async def park(self) -> None:
        """Wait until woken."""
        parked = asyncio.get_running_loop().create_future()
        self._parked.append(parked)
        await parked

    def wake(self, count: int) -> None:
        """Wake so many slots. Where too few are parked, ask the executor to open others."""
        parked = self._parked
        while count > 0:
            if not parked:
                if self.open < self.most:
                    self.are_wanted.set()
                return
            slot = parked.popleft()
            # One that was cancelled wakes nobody.
            if not slot.done():
                slot.set_result(None)
                count -= 1
