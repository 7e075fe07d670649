"""Claimed jobs whose message is still to be read, and how much memory messages take."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.jobs import JobKey
    from meshhook.worker.held_job import HeldJob

MAX_UNREAD_AHEAD = 100
"""How many unread jobs may wait without counting as work claimed ahead."""


class UnreadJobs:
    """The jobs of one queue whose messages are read separately, because they are large."""

    def __init__(self) -> None:
        self.jobs: deque[HeldJob] = deque()
        """Unread jobs; the first is read next."""
        self.sizes: dict[JobKey, int] = {}
        """The lengths of the messages that were read separately, until their jobs have ended."""
        self._has_jobs = asyncio.Event()
        self._has_memory = asyncio.Event()

    @property
    def claimed_ahead(self) -> int:
        """How many of them count as work that is claimed ahead."""
        return max(0, len(self.jobs) - MAX_UNREAD_AHEAD)

    def put(self, held: HeldJob) -> None:
        """Add a job."""
        self.jobs.append(held)
        self._has_jobs.set()

    async def wait(self) -> None:
        """Wait until there is an unread job."""
        while not self.jobs:
            self._has_jobs.clear()
            await self._has_jobs.wait()

    def takes_more_than(self, most: float) -> bool:
        """Return whether the messages read so far take more characters than `most`."""
        return bool(self.sizes) and sum(self.sizes.values()) > most

    async def wait_for_memory(self, most: Callable[[], float]) -> None:
        """Wait until the messages read so far take no more than `most()`."""
        while self.takes_more_than(most()):
            self._has_memory.clear()
            await self._has_memory.wait()

    def free_memory(self, key: JobKey) -> None:
        """Note that the message of a job no longer takes memory."""
        if self.sizes.pop(key, None) is not None:
            self._has_memory.set()
