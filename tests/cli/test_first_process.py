"""The program as the first process of a container, which ignores signals by default."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from support.skipping import skip
from support.waiting import eventually

HANDLER = """
import pathlib, time
pathlib.Path("importing").touch()
time.sleep(60)
"""


def child_of(pid: int) -> int:
    """Return the id of the only child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


@pytest.mark.usefixtures("queue_name")
async def test_it_can_be_stopped_while_it_imports_its_handler(
    database_url: str, tmp_path: Path
) -> None:
    """A pod that is told to stop before its worker has started claims no job."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        skip("only root makes a namespace of processes, with unshare of util-linux")
    (tmp_path / "slow.py").write_text(HANDLER)
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--pid", "--fork", "--kill-child"),
        *(sys.executable, "-m", "meshhook", "worker", "jobs", "--handler=slow:handle"),
        cwd=tmp_path,
        env=os.environ | {"MESHHOOK_DATABASE_URL": database_url, "PYTHONPATH": str(tmp_path)},
    )
    try:
        await eventually((tmp_path / "importing").exists)
        os.kill(child_of(process.pid), signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 128 + signal.SIGTERM
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
