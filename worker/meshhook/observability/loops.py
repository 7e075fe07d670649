"""Loops that must keep turning: when each last did, and which has stalled."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ResultT = TypeVar("ResultT")

WAIT_SECONDS = 1.0
STALL_SECONDS = 60.0
"""How long a loop may take for a turn. A statement has 30 seconds, and reaching the database
again, or a handler that blocks the event loop, may take as long once more."""


class WatchedLoop:
    """A loop that says at each turn that it lives. Any thread may look.

    What a loop waits for without end, it waits for in pieces, and turns in between: a turn means
    that the loop is in order, not that there was something to do.
    """

    def __init__(
        self,
        name: str,
        *,
        stall_seconds: float = STALL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a name and what is too long for a turn, in seconds. Default 60."""
        self.name = name
        self.stall_seconds = stall_seconds
        self._clock = clock
        self._turned_at = clock()

    def turn(self) -> None:
        """Say that the loop turns."""
        self._turned_at = self._clock()

    async def wait_for(self, awaitable: Awaitable[ResultT]) -> ResultT:
        """Wait for something, and turn in between; it is cancelled where the waiting is."""
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
        """Whether the turn under way takes too long."""
        return self.age_seconds > self.stall_seconds
