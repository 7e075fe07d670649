"""What the programs of all subjects share: arguments, the ledger, a paced producer.

A subject is run as `SUBJECT.py install URL`, `SUBJECT.py produce URL COUNT PER_SECOND` and
`SUBJECT.py work URL`, by the Python of its own environment; LEDGER names the folder of the ledger.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.chaos.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

JOB_SECONDS = 0.02
CALLERS = 8


def ledger(name: str) -> Ledger:
    """Return a ledger of this process."""
    return Ledger(Path(os.environ["LEDGER"]), name)


class Work:
    """What each job does: it takes a moment, and is noted."""

    def __init__(self) -> None:
        self._ledger = ledger("handler")

    async def run(self, run_id: str) -> None:
        """Do a job."""
        self._ledger.note("started", run_id)
        await asyncio.sleep(JOB_SECONDS)
        self._ledger.note("ended", run_id)


async def produce(
    enqueue: Callable[[str], Awaitable[object]], count: int, per_second: float
) -> None:
    """Enqueue jobs at an even pace, and note which of them were confirmed."""
    noted = ledger("producer")
    loop = asyncio.get_running_loop()
    began_at = loop.time()
    places = asyncio.Semaphore(CALLERS)

    async def one(run_id: str) -> None:
        async with places:
            try:
                await asyncio.wait_for(enqueue(run_id), 30)
            except Exception as error:  # noqa: BLE001 - whatever a subject raises
                noted.note("refused", run_id, type(error).__name__)
            else:
                noted.note("confirmed", run_id)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began_at + number / per_second - loop.time()))
            group.create_task(one(f"job{number}"))


def main(
    *,
    install: Callable[[str], Awaitable[None]],
    make_producer: Callable[[str], Awaitable[Callable[[str], Awaitable[object]]]],
    work: Callable[[str, Work], Awaitable[Any]],
) -> None:
    """Do what the arguments say."""
    command, url, *rest = sys.argv[1:]

    async def go() -> None:
        if command == "install":
            await install(url)
        elif command == "produce":
            count, per_second = rest
            await produce(await make_producer(url), int(count), float(per_second))
            # Pools have nothing left to say.
            os._exit(0)
        else:
            await work(url, Work())

    asyncio.run(go())
