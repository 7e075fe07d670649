"""A handler that lets jobs end when the test says so."""

from __future__ import annotations

import asyncio
from typing import Any

from meshhook import Job


class Gate:
    """Closed at first.

    Attributes:
        waiting: how many jobs wait now.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._opened = asyncio.Event()

    def open(self) -> None:
        """Let all jobs end, and those that come."""
        self._opened.set()

    def close(self) -> None:
        """Keep those that come from now on."""
        self._opened.clear()

    async def __call__(self, _: Job[Any]) -> None:
        """Wait."""
        self.waiting += 1
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1
