"""Ctrl-C ends any command at once, with code 130 and one line."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import meshhook
from support.terminal import OnTerminal, environment
from support.waiting import eventually

# In the place of a module that the program imports: the import is interrupted, and goes on.
INTERRUPTED_IMPORT = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(30)
"""


@pytest.mark.parametrize("module", ["typer", "pydantic_settings", "asyncpg"])
def test_ctrl_c_during_the_imports_leaves_no_trace(module: str, tmp_path: Path) -> None:
    """Whether it hits the imports of the program or those of a command."""
    (tmp_path / f"{module}.py").write_text(INTERRUPTED_IMPORT)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "meshhook", "queue", "list"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment("postgresql://127.0.0.1:1/none", PYTHONPATH=path),
    )
    assert done.returncode == 130
    assert done.stderr.strip() == "error: interrupted"
    assert done.stdout == ""


def test_little_is_imported_before_ctrl_c_is_taken_care_of() -> None:
    """Only our own first modules: until they have run, Ctrl-C prints a traceback."""
    code = """
import os, signal, sys
before = set(sys.modules)
import meshhook.cli
print(sorted(set(sys.modules) - before))
"""
    # Without site, which may import anything, as for an editable installation.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=environment(None, PYTHONPATH=str(Path(meshhook.__file__).parents[1])),
    )
    assert done.stdout.strip() == str(
        ["__future__", "meshhook", "meshhook.cli", "meshhook.cli.interrupts"]
    )


@pytest.mark.parametrize("command", [["queue", "purge", "jobs"], ["dlq", "delete", "jobs", "1"]])
def test_ctrl_c_at_a_question_ends_the_command(database_url: str, command: list[str]) -> None:
    """One Ctrl-C is enough, with an event loop running or without; nothing is changed."""
    with OnTerminal(database_url, "queue", "create", "jobs") as created:
        assert created.end() == 0
    with OnTerminal(database_url, *command) as asked:
        asked.read_until("[y/N] ")
        asked.process.send_signal(signal.SIGINT)
        assert asked.end() == 130
        said = asked.shown.partition("[y/N] ")[2]
    assert said.split() == ["error:", "interrupted"]


async def test_ctrl_c_ends_an_enqueue_that_waits_for_its_input(
    database_url: str, pool: Any, queue_name: str
) -> None:
    """The pipe stays open and silent; lines of the unfinished batch are not stored."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook", "enqueue", queue_name),
        env=environment(database_url),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(b"1\n" * 1_500)
        await eventually(lambda: pool.fetchval("select count(*) = 1000 from pgmq.q_jobs"))
        await eventually(lambda: _waits_for_input(process.pid))
        process.send_signal(signal.SIGINT)
        _, said = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 130
    assert said.decode() == (
        "error: interrupted\n1,000 jobs stored, up to line 1000; continue with line 1001\n"
    )
    assert await pool.fetchval("select count(*) from pgmq.q_jobs") == 1_000


def _waits_for_input(pid: int) -> bool:
    """Whether a process is in a system call whose first argument is standard input."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[1:2] == ["0x0"]
