"""`make dashboards-live`: a Prometheus that a Grafana can ask, until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from support.prometheus_tools import tool
from support.scraping import ask_aside
from support.waiting import eventually

ROOT = Path(__file__).parents[2]

# It starts a PostgreSQL and a dozen processes.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


async def test_it_names_a_prometheus_that_has_figures_and_stops_when_told() -> None:
    """Its first line is the address; SIGINT ends it and all that it has started."""
    tool("prometheus")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "grafana.live", "--speed", "20"),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "tests"},
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 120)).decode()
        found = re.fullmatch(r"Prometheus: http://127\.0\.0\.1:(\d+)\n", line)
        assert found is not None, line
        await eventually(
            lambda: has_figures(int(found[1])), 120, message="Prometheus has figures of a worker"
        )
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def has_figures(port: int) -> bool:
    """Whether a Prometheus knows the slots of a worker."""
    answer = await ask_aside(port, "/api/v1/query?query=meshhook_worker_concurrency_limit")
    return b'"result":[{' in answer.body
