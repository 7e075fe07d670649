"""A worker as a process of its own, for tests that kill it: `python -m support.worker_process`."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from typing import Any

from meshhook import Job, Worker
from meshhook.worker import run_worker_process


def note(*words: object) -> None:
    """Append one line to the ledger, whole and at once."""
    file = os.open(os.environ["LEDGER"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(file, (" ".join(map(str, words)) + "\n").encode())
    os.close(file)


async def forever(job: Job[Any]) -> None:
    """Never ends."""
    note("start", job.msg_id, job.attempt, os.getpid())
    await asyncio.Event().wait()


async def quick(job: Job[Any]) -> None:
    """Ends at once."""
    note("start", job.msg_id, job.attempt, os.getpid())


async def killer(job: Job[Any]) -> None:
    """Kills its process where the payload says so; else takes a moment."""
    note("start", job.msg_id, job.attempt, os.getpid())
    if job.payload.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.05)
    note("end", job.msg_id, job.attempt, os.getpid())


async def blocking(job: Job[Any]) -> None:
    """Blocks the event loop for as many seconds as the payload says."""
    note("start", job.msg_id, job.attempt, os.getpid())
    time.sleep(job.payload["seconds"])  # noqa: ASYNC251 - that is the point
    note("end", job.msg_id, job.attempt, os.getpid())


async def stubborn(job: Job[Any]) -> None:
    """Takes no notice of being cancelled."""
    note("start", job.msg_id, job.attempt, os.getpid())
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note("cancelled", job.msg_id)


async def threaded(job: Job[Any]) -> None:
    """Blocks a thread of the event loop for a minute."""
    note("start", job.msg_id, job.attempt, os.getpid())
    await asyncio.to_thread(time.sleep, 60)


async def exiting_aside(job: Job[Any]) -> None:
    """Lets a task of its own ask for the end of the process."""
    note("start", job.msg_id, job.attempt, os.getpid())

    async def leave() -> None:
        sys.exit(3)

    await asyncio.create_task(leave(), name="leave")


async def cancelling_all(job: Job[Any]) -> None:
    """Cancels every task of the event loop."""
    note("start", job.msg_id, job.attempt, os.getpid())
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.Event().wait()


async def crashing(job: Job[Any]) -> None:
    """Makes the interpreter itself crash."""
    note("start", job.msg_id, job.attempt, os.getpid())
    ctypes.string_at(0)


def main() -> None:
    """Run the worker that the environment describes."""
    options: dict[str, Any] = {
        name.removeprefix("OPTION_"): float(value) if "." in value else int(value)
        for name, value in os.environ.items()
        if name.startswith("OPTION_")
    }
    worker = Worker(
        os.environ["MESHHOOK_DATABASE_URL"], "jobs", globals()[os.environ["HANDLER"]], **options
    )
    asyncio.run(run_worker_process(worker))


if __name__ == "__main__":
    main()
