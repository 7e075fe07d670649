"""Worker processes that do to each job what its payload says: `python -m support.scripted_worker`.

The process forks a worker for each line `start QUEUE` that it reads, which is quicker than starting
Python for each, and answers with the worker's process id. `poll` answers with the exit codes of the
workers that have ended, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import asyncpg

from meshhook import Cancel, DeadLetter, Job, RetryAfter, Snooze, Worker
from meshhook.worker import run_worker_process

DELAY_SECONDS = 0.02
LONG_SECONDS = 4.0
CONCURRENCY = 5
GRACE_SECONDS = 8


def note_run(folder: Path, key: str) -> int:
    """Note one more run of a job, and return how many there were before."""
    file = os.open(folder / key, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        # Where the file ends after this write, other processes' writes counted.
        os.write(file, b".")
        return os.lseek(file, 0, os.SEEK_CUR) - 1
    finally:
        os.close(file)


async def follow_script(job: Job[Any]) -> None:
    """Do what stands at the place of this run in the job's script; after its end, nothing."""
    script = job.payload["script"]
    runs = note_run(Path(os.environ["LEDGER"]), job.payload["key"])
    match script[runs] if runs < len(script) else "done":
        case "fail":
            raise ValueError("as the script says")
        case "retry":
            raise RetryAfter(DELAY_SECONDS)
        case "snooze":
            raise Snooze(DELAY_SECONDS)
        case "bury":
            raise DeadLetter("as the script says")
        case "cancel":
            raise Cancel("as the script says")
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "long":
            await asyncio.sleep(LONG_SECONDS)
        case "complete":
            connection = await asyncpg.connect(os.environ["MESHHOOK_DATABASE_URL"])
            try:
                async with connection.transaction():
                    await job.complete(connection=connection)
            finally:
                await connection.close()


def run_worker(queue_name: str) -> NoReturn:
    """Be a worker until a signal."""
    code = 1
    try:
        worker = Worker(
            os.environ["MESHHOOK_DATABASE_URL"],
            queue_name,
            follow_script,
            concurrency=CONCURRENCY,
            grace_seconds=GRACE_SECONDS,
        )
        asyncio.run(run_worker_process(worker))
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def answer(line: str) -> None:
    """Answer a command."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Read commands until standard input ends; then end every worker."""
    running: set[int] = set()
    ended: dict[int, int] = {}
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "start":
            pid = os.fork()
            if pid == 0:
                run_worker(*arguments)
            running.add(pid)
            answer(str(pid))
        else:
            for pid in list(running):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    running.discard(pid)
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer(json.dumps(ended))
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
