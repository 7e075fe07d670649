"""A worker as a process of its own, for tests that kill it: `python -m support.worker_process`."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from meshhook import Cancel, DeadLetter, Done, FollowUp, Job, RetryAfter, Snooze, Worker
from meshhook.worker import run_worker_process
from support.waiting import eventually


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


async def scheduled(job: Job[Any]) -> None:
    """Notes the due time for which it was enqueued."""
    assert job.due_time is not None
    note("due", job.msg_id, job.due_time.due_at.isoformat())


async def of_key(job: Job[Any]) -> None:
    """Takes as long as the payload says, and notes the key."""
    await asyncio.sleep(job.payload["seconds"])
    note("end", job.payload["key"], job.msg_id, job.attempt, os.getpid())


async def of_ordered_key(job: Job[Any]) -> None:
    """Ends well in the end, after what the payload says; notes the job's name then."""
    await asyncio.sleep(job.payload["seconds"])
    if job.payload["end"] == "retried" and job.attempt == 1:
        raise RetryAfter(0.05)
    if job.payload["end"] == "snoozed" and random.random() < 0.5:
        raise Snooze(0.05)
    if job.payload["end"] == "dead_lettered" and "meshhook-replayed-from" not in job.headers:
        raise DeadLetter("once more")
    note("end", job.payload["name"], job.msg_id, job.attempt, os.getpid())


async def followed(job: Job[Any]) -> Done:
    """Ends in the way that the payload names, with a job that follows and a result."""
    await asyncio.sleep(0.002)
    note("end", job.msg_id, job.attempt, os.getpid())
    if job.payload["end"] == "dead_lettered":
        raise DeadLetter("no")
    if job.payload["end"] == "cancelled":
        raise Cancel
    if job.payload["end"] == "retried" and job.attempt == 1:
        raise RetryAfter(0)
    return Done(then=FollowUp("next", {"after": job.msg_id}), result=job.msg_id)


async def mixed(job: Job[Any]) -> Done:
    """Does what the payload names; if it succeeds, a job follows."""
    act = job.payload["act"]
    if act == "kill" and job.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        await asyncio.sleep(job.payload["seconds"] * (20 if act == "long" else 1))
    except asyncio.CancelledError:
        if act != "swallow":
            raise
    if act == "fail" or (act == "fail_once" and job.attempt == 1):
        raise ValueError("no")
    if act == "retry" and job.attempt == 1:
        raise RetryAfter(0.05)
    if act == "snooze" and random.random() < 0.5:
        raise Snooze(0.02)
    return Done(then=FollowUp("next", {"after": job.msg_id}), result=job.msg_id)


async def patient(job: Job[Any]) -> None:
    """Ends once the file that the payload names exists."""
    note("start", job.msg_id, job.attempt, os.getpid())
    await eventually(Path(job.payload["until"]).exists)
    note("end", job.msg_id, job.attempt, os.getpid())


async def killer(job: Job[Any]) -> None:
    """Kills its process where the payload says so; else takes a moment."""
    note("start", job.msg_id, job.attempt, os.getpid())
    if job.payload.get("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.05)
    note("end", job.msg_id, job.attempt, os.getpid())


async def batch_killer(jobs: list[Job[Any]]) -> None:
    """Kills its process in the middle of a batch where the payload of a job says so."""
    for job in jobs:
        note("start", job.msg_id, job.attempt, os.getpid(), len(jobs))
    if any(job.payload.get("kill") for job in jobs):
        await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


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


def process_in_thread(job: Job[Any]) -> None:
    """Starts a process of its own that would run for a minute, and terminates it."""
    note("start", job.msg_id, job.attempt, os.getpid())
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join()
    note("end", job.msg_id, process.exitcode)


def process_that_stays(job: Job[Any]) -> None:
    """Leaves a process of its own behind that runs for a minute."""
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    note("end", job.msg_id, process.pid)


async def process_in_loop(job: Job[Any]) -> None:
    """Does the same in the event loop's thread."""
    process_in_thread(job)


def forked(job: Job[Any]) -> bool:
    """Fork a process, and say whether this is it; the other one notes how it ended."""
    child = os.fork()
    if child:
        note("end", job.msg_id, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        return False
    note("child", job.msg_id)
    return True


def fork_returns(job: Job[Any]) -> None:
    """Lets a forked process return from the handler."""
    forked(job)


def fork_raises(job: Job[Any]) -> None:
    """Lets a forked process leave the handler by an error."""
    if forked(job):
        raise ValueError


async def fork_returns_in_loop(job: Job[Any]) -> None:
    """Lets a forked process return from the handler in the event loop."""
    forked(job)


async def fork_returns_after_wait(job: Job[Any]) -> None:
    """Lets a forked process return from the handler in a later step of it."""
    await asyncio.sleep(0.01)
    forked(job)


async def fork_raises_in_loop(job: Job[Any]) -> None:
    """Lets a forked process leave the handler in the event loop by an error."""
    if forked(job):
        raise ValueError


async def fork_waits_in_loop(job: Job[Any]) -> None:
    """Lets a forked process wait in the event loop."""
    loop = asyncio.get_running_loop()
    if forked(job):
        waiting = loop.create_future()
        loop.call_later(0.01, waiting.set_result, None)
        await waiting
        note("went on", job.msg_id)


async def fork_in_loop_thread(job: Job[Any]) -> None:
    """Lets a forked process return in a thread of the event loop."""
    await asyncio.to_thread(forked, job)


async def fork_in_task(job: Job[Any]) -> None:
    """Lets a forked process return from a task of the handler's own."""

    async def work() -> None:
        if forked(job):
            await asyncio.sleep(0)

    await asyncio.create_task(work(), name="work")


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
    memory_bytes = int(options.pop("memory_bytes", 0))
    if memory_bytes:
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    worker = Worker(
        os.environ["MESHHOOK_DATABASE_URL"], "jobs", globals()[os.environ["HANDLER"]], **options
    )
    factory = uvloop.new_event_loop if os.environ["LOOP"] == "uvloop" else None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run_worker_process(worker))


if __name__ == "__main__":
    main()
