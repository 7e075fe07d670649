"""The processes beside which viewers are measured: the console, and one that has jobs run."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

START_SECONDS = 60.0
"""How long a process may take to start or to end."""


@asynccontextmanager
async def console_process(
    url: str, log: Path, *, refresh_seconds: float
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Start a console, and yield its process and address."""
    environment = {"MESHHOOK_CONSOLE_REFRESH_SECONDS": f"{refresh_seconds:g}"}
    with _opened(log) as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshhook", "console", "--port", "0"),
            env=os.environ | {"MESHHOOK_DATABASE_URL": url} | environment,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=output,
        )
    try:
        yield process, await _address(process, log)
    finally:
        await _ended(process)


async def _address(process: asyncio.subprocess.Process, log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(r"The console is open: (http://\S+)", _text(log))):
        if process.returncode is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the console did not start: {_text(log)}")
        await asyncio.sleep(0.1)
    return found[1]


def _opened(file: Path) -> TextIO:
    return file.open("w", encoding="utf-8")


def _text(file: Path) -> str:
    return file.read_text("utf-8")


@asynccontextmanager
async def load_process(
    url: str, queue: str, *, rate: float, job_ms: float
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the process that enqueues and runs jobs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.console_load"),
        *(queue, f"{rate:g}", f"{job_ms:g}"),
        env=os.environ | {"MESHHOOK_DATABASE_URL": url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await _ended(process)


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Let a process end by itself, or kill it."""
    if process.returncode is None:
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), START_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
