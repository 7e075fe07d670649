"""Turns of the event loop: how long jobs that never wait may keep everything else from running."""

from __future__ import annotations

import asyncio
import time

TURN_SECONDS = 0.005


class LoopTurns:
    """Gives all slots together a few milliseconds, then the event loop a turn for the rest.

    Jobs that never wait would keep it from claiming, settling and listening to signals.
    """

    def __init__(self) -> None:
        self.ends_at = 0.0
        """When the slots' time is over, by the monotonic clock."""
        self._loop_has_turned = asyncio.Event()
        self._loop_has_turned.set()

    async def begin(self) -> bool:
        """Begin a turn if the event loop has had its own; else wait for that, and return false."""
        if not self._loop_has_turned.is_set():
            await self._loop_has_turned.wait()
            return False
        self._loop_has_turned.clear()
        asyncio.get_running_loop().call_soon(self._loop_has_turned.set)
        self.ends_at = time.monotonic() + TURN_SECONDS
        return True
