"""Several worker processes on one machine: starts, watches and stops them together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from asyncio.subprocess import Process
from typing import TYPE_CHECKING

from meshhook.observability.loggers import get_logger
from meshhook.worker.signal_handlers import stop_signals
from meshhook.worker.supervisor_link import INDEX_VARIABLE, LINK_VARIABLE, READY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_log = get_logger("meshhook.worker.supervisor")

FIRST_DELAY_SECONDS = 0.5
LONGEST_DELAY_SECONDS = 30.0
STEADY_SECONDS = 60.0


def restart_delay_seconds(quick_ends: int) -> float:
    """Return how long to wait before a process is started again.

    Args:
        quick_ends: how many times in a row it ended within a minute of its start, from 0.
    """
    return min(FIRST_DELAY_SECONDS * 2.0 ** min(quick_ends, 30), LONGEST_DELAY_SECONDS)


class Supervisor:
    """Runs a command in several processes, each with its number in a variable.

    The first process starts alone, so that an error common to all is shown once. If a process fails
    before it is ready, everything ends. If it ends later, it is started again: first after half a
    second, then after ever longer pauses of up to 30 seconds. SIGTERM and SIGINT are passed on to
    all processes, SIGHUP as SIGTERM. A process whose supervisor has died stops as at SIGTERM.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        processes: int,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Take what to run.

        Args:
            command: the program and its arguments.
            processes: how many times, from 1.
            environment: the variables of the processes. Default: those of this one.
        """
        self._command = command
        self._count = processes
        self._environment = dict(os.environ if environment is None else environment)
        self._running: dict[int, Process] = {}
        self._were_ready: set[int] = set()
        self._looked_at = [asyncio.Event() for _ in range(processes)]
        self._is_stopping = asyncio.Event()
        self._signal = signal.SIGTERM
        self._code = 0

    async def run(self) -> int:
        """Run the processes until a signal, or until one fails at its start.

        Returns:
            The exit code: 0, or that of the first process that failed.
        """
        loop = asyncio.get_running_loop()
        signals = stop_signals()
        for number in signals:
            # The processes have no terminal that could close.
            passed_on = signal.SIGTERM if number == signal.SIGHUP else number
            loop.add_signal_handler(number, self.stop, passed_on)
        try:
            async with asyncio.TaskGroup() as group:
                for index in range(self._count):
                    group.create_task(self._keep(index), name=f"meshhook-process-{index}")
                    if index == 0:
                        await self._looked_at[0].wait()
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
        return self._code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Pass a signal on to every process, and start none again."""
        self._signal = number
        self._is_stopping.set()
        for process in self._running.values():
            _send(process, number)

    async def _keep(self, index: int) -> None:
        """Keep one process running."""
        quick_ends = 0
        try:
            while not self._is_stopping.is_set():
                began_at = time.monotonic()
                code = await self._run_once(index)
                if self._is_stopping.is_set():
                    self._note_end(index, code)
                    return
                if index not in self._were_ready:
                    _log.error("worker process did not start", process_index=index, code=code)
                    self._code = code if code > 0 else 1
                    self.stop()
                    return
                is_quick = time.monotonic() - began_at < STEADY_SECONDS
                quick_ends = quick_ends + 1 if is_quick else 0
                delay_seconds = restart_delay_seconds(max(0, quick_ends - 1))
                _log.error(
                    "worker process ended; it is started again",
                    process_index=index,
                    code=code,
                    delay_seconds=delay_seconds,
                )
                await self._pause(delay_seconds)
        finally:
            self._looked_at[index].set()

    def _note_end(self, index: int, code: int) -> None:
        # One that could not yet handle signals has nothing to clean up either.
        if index in self._were_ready and code and not self._code:
            _log.error("worker process failed while it stopped", process_index=index, code=code)
            self._code = code if code > 0 else 1

    async def _run_once(self, index: int) -> int:
        """Start a process and return its exit code once it has ended; -n for signal n."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment
                | {INDEX_VARIABLE: str(index), LINK_VARIABLE: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                # The terminal's Ctrl-C reaches only the supervisor, which passes it on once.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._running[index] = process
        try:
            _log.info("worker process started", process_index=index, pid=process.pid)
            if self._is_stopping.is_set():
                _send(process, self._signal)
            await self._wait_until_ready(index, ours)
            return await process.wait()
        finally:
            ours.close()
            del self._running[index]
            if process.returncode is None:
                _send(process, signal.SIGTERM)

    async def _wait_until_ready(self, index: int, link: socket.socket) -> None:
        """Wait until a process reports that it is ready, or ends."""
        link.setblocking(False)  # noqa: FBT003 - the name says what it is
        said = await asyncio.get_running_loop().sock_recv(link, len(READY))
        if said == READY:
            self._were_ready.add(index)
            self._looked_at[index].set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._is_stopping.wait()
        except TimeoutError:
            pass


def _send(process: Process, number: signal.Signals) -> None:
    # It may have ended a moment ago.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
