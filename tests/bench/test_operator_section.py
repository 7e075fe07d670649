"""The operator's benchmark: its published figures can be shown."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "operator"


@pytest.mark.parametrize(
    "results", sorted((BENCH / "results").glob("*.json")), ids=lambda path: path.stem
)
async def test_results_can_be_shown(results: Path):
    """The section of Markdown holds the figures of a committed run."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(BENCH / "run.py"), "--from-json", str(results)),
        stdout=asyncio.subprocess.PIPE,
    )
    shown = (await process.communicate())[0].decode()
    assert process.returncode == 0
    report = json.loads(results.read_text())
    assert f"{report['queues']} JobQueues on one database" in shown
    assert f"| all pods Ready after | {report['start']['pods_ready_seconds']:.0f} s |" in shown
