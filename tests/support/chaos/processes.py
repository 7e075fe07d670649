"""Processes that are forked from one that has everything imported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]


class Forks:
    """The process that forks the others.

    Args:
        python_path: folders that come before this version of the package.
        environment: variables for the process itself, LD_PRELOAD for example.
    """

    def __init__(
        self, *, python_path: Sequence[Path] = (), environment: Mapping[str, str] | None = None
    ) -> None:
        self._environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, [*python_path, TESTS])),
            **(environment or {}),
        }
        self._line = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.chaos.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )

    def start(
        self, program: str, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
    ) -> ForkedProcess:
        """Start `meshhook`, or a module, and return its process."""
        pid = self._ask(
            {
                "start": {
                    "program": program,
                    "arguments": arguments,
                    "environment": self._environment | dict(environment or {}),
                    "log": str(log),
                }
            }
        )
        return ForkedProcess(self, pid, log)

    def ended(self) -> dict[int, int]:
        """Return the exit codes of the processes that have ended, by process id."""
        return {int(pid): code for pid, code in self._ask({}).items()}

    def close(self) -> None:
        """End it, and all that it has started."""
        self._process.communicate(timeout=30)

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._line:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())


class ForkedProcess:
    """A process that `Forks` started, in a session of its own."""

    def __init__(self, forks: Forks, pid: int, log: Path) -> None:
        self._forks = forks
        self.pid = pid
        self.log = log

    @property
    def code(self) -> int | None:
        """The exit code, -n for signal n; None while it runs."""
        return self._forks.ended().get(self.pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.code is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Wait for its end, and return the exit code.

        Raises:
            TimeoutError: with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while (code := self.code) is None:
            if time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")[-2_000:]
                message = f"process {self.pid} runs after {seconds:g} s; its log ends:\n{said}"
                raise TimeoutError(message)
            time.sleep(0.02)
        return code
