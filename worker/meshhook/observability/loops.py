"""Watching loops: when each last made a turn, and which has stalled."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ResultT = TypeVar("ResultT")

WAIT_SECONDS = 1.0
STALL_SECONDS = 60.0
"""How long a turn of a loop may take. A statement may take 30 seconds, and reconnecting, or a
handler that blocks the event loop, may take as long again."""


class WatchedLoop:
    """A loop that reports each of its turns. Any thread may read it.

    Unlimited waits are split into pieces with turns in between: a turn means that the loop works,
    not that there was something to do.
    """

    def __init__(
        self,
        name: str,
        *,
        stall_seconds: float = STALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a name, and after how many seconds a turn counts as stalled. Default 60."""
        self.name = name
        self.stall_seconds = stall_seconds
        self._clock = clock
        self._turned_at = clock()

    def turn(self) -> None:
        """Report a turn of the loop."""
        self._turned_at = self._clock()

    async def wait_for(self, awaitable: Awaitable[ResultT]) -> ResultT:
        """Wait for an awaitable with turns in between; cancelling the wait cancels it."""
        waited_for = asyncio.ensure_future(awaitable)
        try:
            while not waited_for.done():
                await asyncio.wait([waited_for], timeout=WAIT_SECONDS)
                self.turn()
        finally:
            waited_for.cancel()
        return waited_for.result()

    @property
    def age_seconds(self) -> float:
        """How long ago the last turn was."""
        return self._clock() - self._turned_at

    @property
    def has_stalled(self) -> bool:
        """Whether the current turn takes too long."""
        return self.age_seconds > self.stall_seconds
