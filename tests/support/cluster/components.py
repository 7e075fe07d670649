"""Programs that run beside the tests, and end with them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOP_SECONDS = 5
_LOG_TAIL_LINES = 15
_PAUSE_SECONDS = 0.03


class ComponentError(RuntimeError):
    """A program ended, or did not become ready in time. The message ends with what it logged."""


class Component:
    """A program that runs in the background and writes a log.

    On Linux the kernel kills it when the process that started it ends, however that comes about:
    an interrupted or killed run of the tests leaves nothing behind. There it must be started from
    a thread that lives as long as it should, best the main thread.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], *, log: Path, directory: Path
    ) -> None:
        """Describe a program; nothing runs yet.

        Args:
            name: for messages.
            command: the program and its arguments.
            log: the file that what it prints is added to.
            directory: where it runs.
        """
        self.name = name
        self.log = log
        self._command = [str(word) for word in command]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The id of the process that runs."""
        if self._process is None:
            raise ComponentError(f"{self.name} has not been started.")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_status(self) -> int | None:
        """The status with which it ended last; negative: the signal that ended it."""
        return None if self._process is None else self._process.poll()

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start it; nothing happens if it runs.

        Args:
            environment: added to the environment of this process.
        """
        if self.running:
            return
        command = self._command
        if sys.platform == "linux" and (setpriv := shutil.which("setpriv")):
            command = [setpriv, "--pdeathsig", "KILL", "--", *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                env=os.environ | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the tests alone, so that they end first and in their own order.
                process_group=0,
            )

    def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """Ask it to end, and kill it if it has not after `seconds`."""
        if not self.running:
            return
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill it at once, as a crash would, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait_until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `ready()` is true.

        Raises:
            ComponentError: the program ended, or the time did.
        """
        deadline = time.monotonic() + seconds
        while not self._is_ready(ready, deadline, seconds):
            time.sleep(_PAUSE_SECONDS)

    async def until(self, ready: Callable[[], bool], *, seconds: float) -> None:
        """Do what `wait_until` does, and let the event loop go on meanwhile."""
        deadline = time.monotonic() + seconds
        while not self._is_ready(ready, deadline, seconds):  # noqa: ASYNC110 - another process
            await asyncio.sleep(_PAUSE_SECONDS)

    def _is_ready(self, ready: Callable[[], bool], deadline: float, seconds: float) -> bool:
        if ready():
            return True
        if not self.running:
            message = f"{self.name} ended with status {self.exit_status}"
            raise ComponentError(f"{message}:\n{self.log_tail()}")
        if time.monotonic() > deadline:
            message = f"{self.name} was not ready after {seconds:g} s"
            raise ComponentError(f"{message}:\n{self.log_tail()}")
        return False

    def log_tail(self) -> str:
        """Return the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-_LOG_TAIL_LINES:])
