"""The programs that the demo starts beside itself: worker processes and the receiver."""

from __future__ import annotations

import asyncio
import base64
import ctypes
import json
import os
import secrets
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook.demo import scenario
from meshhook.errors import MeshHookError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HANDLER = "meshhook.demo.webhook_delivery:deliver"
START_SECONDS = 20.0
STOP_SECONDS = 20.0
_LOG_TAIL_BYTES = 2_000
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)  # before the fork: a child must not load anything


class DemoError(MeshHookError):
    """The demo cannot run here, or one of its programs failed."""


@dataclass(slots=True)
class Program:
    """A program of the demo, what to call it, and where its output goes."""

    name: str
    process: Process
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self.process.returncode is None

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            DemoError: if it has ended, with the end of its output.
        """
        if not self.is_running:
            raise DemoError(
                f"{self.name} (pid {self.pid}) ended with exit code {self.process.returncode} "
                f"before the demo did; the end of its output:\n{self.log_tail()}"
            )

    def log_tail(self) -> str:
        """Return the end of its output."""
        text = self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        return text.strip() or "(none)"

    async def kill(self) -> None:
        """End it with SIGKILL, and wait until it has gone."""
        if self.is_running:
            self.process.kill()
        await self.process.wait()

    async def stop(self) -> int:
        """Ask it to stop with SIGTERM, and return its exit code; SIGKILL after 20 seconds."""
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                return await self.process.wait()
        except TimeoutError:
            await self.kill()
            raise DemoError(
                f"{self.name} (pid {self.pid}) did not stop within {STOP_SECONDS:.0f} seconds of "
                f"SIGTERM and was killed; the end of its output:\n{self.log_tail()}"
            ) from None


def _end_with_parent() -> None:
    """Have the kernel send SIGTERM when the demo dies: also a killed demo leaves no worker."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def program_environment(database_url: str) -> dict[str, str]:
    """Return the variables of the receivers and of the workers, with a new secret for both."""
    secret = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    # Not arguments: those are there for every user of the machine to read.
    return {
        "MESHHOOK_DATABASE_URL": database_url,
        "WEBHOOK_SECRET": secret,
        "MESHHOOK_LOG_FORMAT": "json",
        "MESHHOOK_WEBHOOK_SECRET": secret,
        "MESHHOOK_WEBHOOK_TOTAL_TIMEOUT_SECONDS": str(scenario.HTTP_TIMEOUT_SECONDS),
        # The receivers listen on the loopback, where no delivery would go otherwise.
        "MESHHOOK_WEBHOOK_ALLOW_HTTP": "true",
        "MESHHOOK_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.1",
    }


def worker_arguments(queue_name: str) -> list[str]:
    """Return the module and the arguments of a worker of the demo."""
    return [
        *("meshhook", "worker", queue_name, "--handler", HANDLER),
        *("--concurrency", str(scenario.CONCURRENCY)),
    ]


async def start_program(
    name: str,
    arguments: list[str],
    *,
    environment: Mapping[str, str],
    directory: Path,
    has_pipes: bool = False,
) -> Program:
    """Start `python -m ARGUMENTS`.

    Args:
        name: what to call it.
        arguments: the module and its arguments; nothing secret, since any user can read them.
        environment: variables to set beside those of this process.
        directory: where its output is kept.
        has_pipes: whether standard input and output are pipes. Default false: no input, and
            output goes to the log.
    """
    log = directory / f"{name.replace(' ', '-')}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            *arguments,
            stdin=PIPE if has_pipes else DEVNULL,
            stdout=PIPE if has_pipes else output,
            stderr=output,
            env={**os.environ, **environment},
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    return Program(name, process, log)


async def start_receivers(
    *arguments: str, environment: Mapping[str, str], directory: Path
) -> tuple[Program, int]:
    """Start the program that plays the receivers, and return it with its port.

    Args:
        arguments: how they behave, as `meshhook.demo.receiver` takes it.
        environment: variables to set beside those of this process.
        directory: where its output is kept.

    Raises:
        DemoError: if it does not come up.
    """
    program = await start_program(
        "receivers",
        ["meshhook.demo.receiver", *arguments, "--until-stdin-closes"],
        environment=environment,
        directory=directory,
        has_pipes=True,
    )
    if program.process.stdout is None:
        raise DemoError("the receivers have no standard output")
    try:
        async with asyncio.timeout(START_SECONDS):
            line = await program.process.stdout.readline()
        ready: dict[str, Any] = json.loads(line)
    except (TimeoutError, ValueError):
        await program.kill()
        raise DemoError(
            f"the receivers did not start; the end of its output:\n{program.log_tail()}"
        ) from None
    except BaseException:
        await program.kill()
        raise
    return program, int(ready["port"])
