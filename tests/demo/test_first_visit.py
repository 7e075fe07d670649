"""Somebody who has never seen the console replays what the demo left, from the demo's last line."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect
from rich.console import Console

from meshhook.demo.display import QuietReporter, print_summary
from meshhook.demo.mended import mended_demo
from meshhook.demo.processes import DemoError
from meshhook.demo.run import run_demo
from support.console import browsing

MOST_CLICKS = 3
_URL = re.compile(r"http://\S+")


@asynccontextmanager
async def started(command: list[str], database_url: str) -> AsyncIterator[str]:
    """Run a command, and yield the first address that it prints; SIGTERM ends it, with 0."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "meshhook"),
        *command[1:],
        env=os.environ | {"MESHHOOK_DATABASE_URL": database_url},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = ""
    try:
        async with asyncio.timeout(60):
            while not (found := _URL.search(said)):
                line = await process.stderr.readline()
                assert line, said
                said += line.decode()
        rest = asyncio.create_task(process.stderr.read())
        yield found[0]
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await process.wait() == 0, await rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.timeout(240)
async def test_from_the_last_line_of_the_demo_to_jobs_that_succeed(
    database_url: str, pool: Any, tmp_path: Path
):
    """By what can be read only, in three clicks; the page then shows them succeed by itself."""
    result = await run_demo(database_url, reporter=QuietReporter(), jobs=200)
    assert result.dead_lettered > 0
    printed = io.StringIO()
    print_summary(Console(file=printed, width=100), result)
    command = shlex.split(printed.getvalue().splitlines()[-1])
    assert command[0] == "meshhook"

    async with (
        started([*command, "--port", "0"], database_url) as url,
        browsing(viewport={"width": 1280, "height": 800}) as open_page,
    ):
        page: Page = await open_page()
        await page.goto(url)
        clicks = 0

        async def click(role: Any, name: str) -> None:
            nonlocal clicks
            # Without scrolling: what comes next is on the screen.
            target = page.get_by_role(role, name=name, exact=True)
            await expect(target).to_be_in_viewport()
            await target.click()
            clicks += 1

        await click("link", "Dead letters")
        await click("link", "Replay all…")
        heading = page.get_by_role("heading", level=1)
        await expect(heading).to_have_text(f"Replay {result.dead_lettered} dead letters?")
        await click("button", f"Replay {result.dead_lettered}")
        await expect(heading).to_have_text(
            f"{result.dead_lettered} dead letters replayed", timeout=60_000
        )
        await expect(page.get_by_text(f"{result.dead_lettered} succeeded")).to_be_visible(
            timeout=60_000
        )
        assert clicks <= MOST_CLICKS
    assert await pool.fetchval("select count(*) from pgmq.q_workflow_jobs_dlq") == 0


async def test_without_a_demo_there_is_nothing_to_mend(database_url: str, queue_name: str):
    """A queue of somebody else gets no worker of the demo."""
    with pytest.raises(DemoError, match="no queue jobs of a demo"):
        async with mended_demo(database_url, queue_name):
            pass
