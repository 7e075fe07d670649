"""The operator's benchmark: its published figures can be shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "operator"


@pytest.mark.parametrize(
    "results", sorted((BENCH / "results").glob("*.json")), ids=lambda path: path.stem
)
def test_results_can_be_shown(results: Path):
    """The section of Markdown holds the figures of a committed run."""
    command = [sys.executable, str(BENCH / "run.py"), "--from-json", str(results)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report = json.loads(results.read_text())
    assert f"{report['queues']} JobQueues on one database" in shown
    assert f"| all pods Ready after | {report['start']['pods_ready_seconds']:.0f} s |" in shown
