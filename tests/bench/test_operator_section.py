"""The operator's benchmark: its published figures can be shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "bench" / "operator" / "results"


def show(results: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Show results that were measured before, and return what became of it."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "bench.operator.run"),
            *("--from-json", str(results), *map(str, arguments)),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "tests"},
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("results", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_can_be_shown(results: Path):
    """The section of Markdown holds the figures of a committed run."""
    shown = show(results).stdout
    report = json.loads(results.read_text())
    assert f"{report['queues']} JobQueues on one database" in shown
    assert f"| all pods Ready after | {report['start']['pods_ready_seconds']:.0f} s |" in shown


def test_a_document_gets_the_figures(tmp_path: Path):
    """They go between the markers; a document without any is refused first."""
    begin, end = "<!-- begin: written by bench/operator/run.py -->", "<!-- end -->"
    document = tmp_path / "figures.md"
    document.write_text(f"Before.\n{begin}\nold\n{end}\nAfter.\n")
    results = RESULTS / "500-queues.json"
    assert show(results, "--document", document).returncode == 0
    text = document.read_text()
    assert text.startswith(f"Before.\n{begin}\n\n500 JobQueues")
    assert text.endswith(f"\n\n{end}\nAfter.\n")
    assert "old" not in text

    document.write_text("No markers.\n")
    done = show(results, "--document", document)
    assert done.returncode == 2
    assert begin in done.stderr
    assert document.read_text() == "No markers.\n"
