"""A process that enqueues jobs at a steady rate and runs them, until its standard input ends.

    MESHHOOK_DATABASE_URL=... python -m bench.console_load QUEUE JOBS_PER_SECOND JOB_MILLISECONDS

For each line that it is sent it prints how many jobs it has enqueued and run so far.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from meshhook.jobs import Job
from meshhook.queues import QueueService
from meshhook.worker import Worker

PAYLOAD = {"run_id": "run-1", "payload": {"text": "x" * 211}}
"""256 bytes, as most benchmarks here enqueue."""


class Load:
    """Jobs that fall due one after the other, whether or not those before are done."""

    def __init__(self, jobs_per_second: float, job_seconds: float) -> None:
        self._jobs_per_second = jobs_per_second
        self._job_seconds = job_seconds
        self.enqueued = 0
        self.done = 0

    async def handle(self, _: Job[Any]) -> None:
        """Run a job: wait, as one does that calls somebody."""
        if self._job_seconds:
            await asyncio.sleep(self._job_seconds)
        self.done += 1

    async def offer(self, queue: QueueService[Any]) -> None:
        """Enqueue until cancelled, one call a job."""
        began, offered = time.monotonic(), 0
        async with asyncio.TaskGroup() as calls:
            while True:
                due = int((time.monotonic() - began) * self._jobs_per_second)
                for _ in range(due - offered):
                    calls.create_task(self._enqueue(queue))
                offered = max(due, offered)
                await asyncio.sleep(
                    max(0.0, began + (offered + 1) / self._jobs_per_second - time.monotonic())
                )

    async def _enqueue(self, queue: QueueService[Any]) -> None:
        await queue.enqueue(PAYLOAD)
        self.enqueued += 1


async def run(url: str, queue: str, load: Load) -> None:
    """Offer jobs and run them, and answer what is asked, until nobody asks any more."""
    async with QueueService[Any](url, queue) as service, Worker(url, queue, load.handle):
        offering = asyncio.create_task(load.offer(service))
        answering = asyncio.create_task(_answer(load))
        # Whichever ends first: it is an error only if it is the offering.
        await asyncio.wait({offering, answering}, return_when=asyncio.FIRST_COMPLETED)
        offering.cancel()
        answering.cancel()
        for ended in await asyncio.gather(offering, answering, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


async def _answer(load: Load) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(json.dumps({"enqueued": load.enqueued, "done": load.done}), flush=True)


if __name__ == "__main__":
    _queue, _rate, _milliseconds = sys.argv[1:]
    asyncio.run(
        run(
            os.environ["MESHHOOK_DATABASE_URL"],
            _queue,
            Load(float(_rate), float(_milliseconds) / 1000),
        )
    )
