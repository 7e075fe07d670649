"""The slots of one queue that wait for a job."""

from __future__ import annotations

import asyncio
from collections import deque


class ParkedSlots:
    """Slots that wait for a job. They wake in the order in which they began to wait."""

    def __init__(self, most: int) -> None:
        """Take the maximum number of slots."""
        self.open = 0
        """How many slots the executor has opened, waiting or not."""
        self.are_wanted = asyncio.Event()
        """Set when a job can start but no slot waits. The executor then opens another slot."""
        self.most = most
        """The maximum number of slots."""
        self._parked: deque[asyncio.Future[None]] = deque()

    async def park(self) -> None:
        """Wait until woken."""
        parked = asyncio.get_running_loop().create_future()
        self._parked.append(parked)
        await parked

    def wake(self, count: int) -> None:
        """Wake so many slots. If too few wait, ask the executor to open more."""
        parked = self._parked
        while count > 0:
            if not parked:
                if self.open < self.most:
                    self.are_wanted.set()
                return
            slot = parked.popleft()
            # A cancelled slot takes no job.
            if not slot.done():
                slot.set_result(None)
                count -= 1
