"""The tutorial works as it is written: its files, its commands, and what they print."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.waiting import eventually

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"
NOT_RUN = ("python3 -m venv", ". .venv", "pip install", "export MESHHOOK_EMBEDDED")
"""Commands that set up an environment as the tests have one already."""
CHANGES = ("enqueue", "replay")
"""Words of commands that must not be repeated."""


@dataclass
class Block:
    """A block of code in the tutorial."""

    language: str
    text: str


def blocks(until: str) -> list[Block]:
    """Return the blocks of code above a heading."""
    text = TUTORIAL.read_text().partition(until)[0]
    return [Block(*found) for found in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)]


def shape(output: str) -> list[str]:
    """Return the words of an output; times and names that differ from run to run become a star."""
    return [
        "*" if re.search(r"\d", word) and not word.isdecimal() else word for word in output.split()
    ]


class Shell:
    """Runs what the tutorial says, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "MESHHOOK_EMBEDDED": "1",
            "MESHHOOK_LOG_FORMAT": "json",
            "PYTHONUNBUFFERED": "1",
            "COLUMNS": "120",
        }
        self.environment.pop("MESHHOOK_DATABASE_URL", None)
        self.worker: asyncio.subprocess.Process | None = None

    def write(self, block: Block) -> None:
        """Write a file, whose first line names it."""
        name = block.text.splitlines()[0].removeprefix("# ")
        (self.folder / name).write_text(block.text)

    async def run(self, command: str, **environment: str) -> str:
        """Run a command to its end, and return what it prints; fail if it fails."""
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            command,
            cwd=self.folder,
            env=self.environment | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, f"{command}: {output.decode()}{errors.decode()}"
        return output.decode()

    async def start_worker(self, command: str) -> None:
        """Start the worker, and wait until it works."""
        with (
            (self.folder / "worker.out").open("wb") as output,
            (self.folder / "worker.log").open("wb") as errors,
        ):
            self.worker = await asyncio.create_subprocess_exec(
                *shlex.split(command),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=errors,
            )

        log = self.folder / "worker.log"
        await eventually(lambda: "worker started" in log.read_text(), timeout=60)

    async def stop_worker(self) -> int:
        """Stop the worker as Ctrl-C does, and return its exit code."""
        assert self.worker is not None
        if self.worker.returncode is None:
            self.worker.send_signal(signal.SIGINT)
        return await self.worker.wait()

    async def shows(self, command: str, expected: str) -> None:
        """See that a command prints what the tutorial shows, at last if it only looks."""
        if any(word in command for word in CHANGES):
            assert shape(await self.run(command)) == shape(expected)
            return

        async def is_shown() -> bool:
            found = await self.run(command)
            assert shape(found) == shape(expected), found
            return True

        await eventually(is_shown, timeout=60)


@pytest.fixture
async def shell(tmp_path):
    """The shell of the reader."""
    shell = Shell(tmp_path)
    yield shell
    if shell.worker is not None:
        await shell.stop_worker()


async def test_the_tutorial_works(shell):
    """Each command of it, up to Kubernetes, does and prints what the page says."""
    waiting = ""  # a command that is run when it is known whether its output is shown
    for block in blocks("## Enqueue from your application"):
        if block.language == "text":
            await shell.shows(waiting, block.text)
            waiting = ""
        elif block.language == "python":
            shell.write(block)
        else:
            for command in block.text.splitlines():
                if command.startswith(NOT_RUN):
                    continue
                if waiting:
                    await shell.run(waiting)
                    waiting = ""
                if command.startswith("meshhook worker"):
                    await shell.start_worker(command)
                else:
                    waiting = command

    assert await shell.stop_worker() == 0
    output = (shell.folder / "worker.out").read_text()
    assert output == "job 1: 2 x lamp for 40\njob 3: 1 x chair for 75\n"


async def test_its_programs_run(shell, database_url):
    """Handler, producer and test of the page, with a server that both programs reach."""
    for block in blocks("## Run it on Kubernetes"):
        if block.language == "python":
            shell.write(block)
    (shell.folder / "prices.json").write_text('{"lamp": 20}')
    shell.environment.pop("MESHHOOK_EMBEDDED")

    sent = await shell.run("python send.py", MESHHOOK_DATABASE_URL=database_url)
    tested = await shell.run("python -m pytest -q -p no:cacheprovider test_shop.py")

    assert sent == "job 1\n"
    assert "1 passed" in tested
