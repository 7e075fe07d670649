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


def test_a_document_gets_the_figures(tmp_path: Path):
    """They go between the markers; a document without any is refused first."""
    begin, end = "<!-- begin: written by bench/operator/run.py -->", "<!-- end -->"
    document = tmp_path / "figures.md"
    document.write_text(f"Before.\n{begin}\nold\n{end}\nAfter.\n")
    results = BENCH / "results" / "500-queues.json"
    command = [sys.executable, str(BENCH / "run.py"), "--from-json", str(results)]
    subprocess.run([*command, "--document", str(document)], check=True)
    text = document.read_text()
    assert text.startswith(f"Before.\n{begin}\n\n500 JobQueues")
    assert text.endswith(f"\n\n{end}\nAfter.\n")
    assert "old" not in text

    document.write_text("No markers.\n")
    done = subprocess.run(
        [*command, "--document", str(document)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert begin in done.stderr
    assert document.read_text() == "No markers.\n"
