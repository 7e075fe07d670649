"""Forks processes that have everything imported: `python -m support.chaos.forking`.

A start takes milliseconds, also on a busy machine. Each line of standard input is a request as
JSON: `{"start": {"program", "arguments", "environment", "log"}}` is answered with a process id, and
`{}` with the exit codes of the processes that have ended. `program` is `meshhook`, or a module.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import sys
import traceback
from typing import Any, NoReturn

# What the programs import when they run is imported here, once.
import asyncpg  # noqa: F401
import prometheus_client  # noqa: F401
import uvloop  # noqa: F401

import meshhook.cli.app
import meshhook.cli.tracing
import meshhook.cli.worker
import meshhook.observability.monitoring_server
import meshhook.schema
import meshhook.worker.process
import meshhook.worker.supervisor  # noqa: F401
from meshhook.cli import main as meshhook_main


def run(program: str, arguments: list[str]) -> int:
    """Run a program in this process, and return its exit code."""
    sys.argv = [program, *arguments]
    try:
        if program == "meshhook":
            meshhook_main()
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:  # noqa: BLE001 - this is the outermost frame of the process
        traceback.print_exc()
        return 1
    return 0


def be_child(request: dict[str, Any]) -> NoReturn:
    """Become the process that a request describes."""
    code = 1
    try:
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.clear()
        os.environ.update(request["environment"])
        code = run(request["program"], request["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    """Answer requests until standard input ends; then end every process."""
    gc.freeze()
    running: set[int] = set()
    ended: dict[int, int] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                be_child(request["start"])
            running.add(pid)
            answer: object = pid
        else:
            for pid in list(running):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    running.discard(pid)
                    ended[pid] = os.waitstatus_to_exitcode(status)
            answer = ended
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
