"""Worker processes that are killed, stopped for longer than their leases, and cut off."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg

from support.waiting import eventually
from support.workers import ledger_lines, worker_process

CUT_OFF = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where application_name like 'meshhook worker%' and datname = current_database()
        and pid % 3 = $1
"""


class FaultyFleet:
    """Processes of one handler on queue `jobs`, which have leases of so many seconds."""

    def __init__(
        self, stack: AsyncExitStack, url: str, handler: str, ledger: Path, lease_seconds: float
    ) -> None:
        self._stack = stack
        self._url = url
        self._handler = handler
        self._ledger = ledger
        self._lease_seconds = lease_seconds
        self._chances = random.Random(17)
        self._processes: list[asyncio.subprocess.Process] = []

    async def start(self, processes: int) -> None:
        """Start so many processes, and wait until they work."""
        self._processes = [await self._start_one() for _ in range(processes)]
        await self._work_on(20)

    async def suffer(self, connection: asyncpg.Connection[Any]) -> None:
        """Let one of the processes, or connections of several, suffer a fault; others work on."""
        place = self._chances.randrange(len(self._processes))
        fault = self._chances.choice(["kill", "stop", "disconnect"])
        if fault == "kill":
            os.killpg(self._processes[place].pid, signal.SIGKILL)
            self._processes[place] = await self._start_one()
        elif fault == "stop":
            os.killpg(self._processes[place].pid, signal.SIGSTOP)
            # Longer than its leases: this is the fault itself, not a wait for something.
            await asyncio.sleep(2.5 * self._lease_seconds)
            os.killpg(self._processes[place].pid, signal.SIGCONT)
        else:
            await connection.execute(CUT_OFF, place % 3)
        await self._work_on(1)

    async def _start_one(self) -> asyncio.subprocess.Process:
        return await self._stack.enter_async_context(
            worker_process(self._url, self._handler, ledger=self._ledger, concurrency=5)
        )

    async def _work_on(self, lines: int) -> None:
        before = len(ledger_lines(self._ledger))
        await eventually(lambda: len(ledger_lines(self._ledger)) >= before + lines)


@asynccontextmanager
async def faulty_fleet(
    url: str, handler: str, *, ledger: Path, lease_seconds: float, processes: int = 8
) -> AsyncIterator[FaultyFleet]:
    """Run such processes; all are killed at the end.

    Args:
        url: the database.
        handler: the name of a handler in `support.worker_process`.
        ledger: the file to which the handler writes a line for each job that it ends.
        lease_seconds: the queue's `visibility_timeout_seconds`: a stop takes longer.
        processes: how many. Default 8.
    """
    async with AsyncExitStack() as stack:
        fleet = FaultyFleet(stack, url, handler, ledger, lease_seconds)
        await fleet.start(processes)
        yield fleet
