"""Claimed jobs whose message is still to be read, and how much memory messages read so far take."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.jobs import JobKey
    from meshhook.worker.held_job import HeldJob

MAX_UNREAD_AHEAD = 100
"""How many jobs may wait for their message to be read without counting as work claimed ahead."""


class UnreadJobs:
    """The jobs of one queue whose messages are read apart, because they are not short."""

    def __init__(self) -> None:
        self.jobs: deque[HeldJob] = deque()
        """Those to be read, the next one first."""
        self.sizes: dict[JobKey, int] = {}
        """The length of the messages that were read and whose jobs have not ended."""
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
        """Wait until there is one."""
        while not self.jobs:
            self._has_jobs.clear()
            await self._has_jobs.wait()

    async def wait_for_memory(self, most: Callable[[], float]) -> None:
        """Wait until the messages that were read take no more than `most` returns."""
        while self.sizes and sum(self.sizes.values()) > most():
            self._has_memory.clear()
            await self._has_memory.wait()

    def free_memory(self, key: JobKey) -> None:
        """Note that the message of a job takes no memory any more."""
        if self.sizes.pop(key, None) is not None:
            self._has_memory.set()
