"""The benchmark from end to end, with next to no load: its numbers mean nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "run.py"
TIMEOUT_SECONDS = 240
THROUGHPUT = {"per_second", "client_cpu_us_per_job", "wal_bytes_per_job"}
BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end -->"

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS)


def run_bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program and return what became of it."""
    return subprocess.run(
        [sys.executable, str(BENCH), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"},
        timeout=TIMEOUT_SECONDS - 10,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one tiny run left its results."""
    directory = tmp_path_factory.mktemp("bench")
    document = directory / "benchmarks.md"
    document.write_text(f"Before.\n{BEGIN}\nfigures of last year\n{END}\nAfter.\n")
    done = run_bench(
        "--tiny",
        "--degradation",
        "--json",
        directory / "result.json",
        "--document",
        document,
        "--directory",
        directory / "database",
    )
    assert done.returncode == 0, done.stderr
    (directory / "output.txt").write_text(done.stdout)
    return directory


@pytest.fixture(scope="module")
def report(directory: Path) -> dict[str, Any]:
    """The JSON of that run."""
    report: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return report


def test_the_report_names_the_circumstances(report):
    """Whoever reads a figure finds the machine, the versions, the settings and the date."""
    assert report["format"] == 1
    assert report["date"].endswith("+00:00")
    assert (report["size"], report["rounds"]) == ("tiny", 1)
    assert report["machine"]["cpu_model"]
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["memory_bytes"] > 0
    assert {"postgresql", "pgmq", "python", "meshhook"} <= set(report["versions"])
    assert report["postgresql_settings"]["fsync"] == "on"
    assert report["postgresql_settings"]["synchronous_commit"] == "on"
    assert len(report["other_cpu_percent"]) == report["rounds"]
    assert report["quiet"] == (report["other_cpu_percent"][0] <= 10)


def test_every_measure_is_there_with_its_figures(report):
    """Drain, bulk and single enqueue, idle pickup and degradation, for both subjects."""
    figures = {
        (measure["group"], *measure["parameters"].values()): set(measure["summary"]["meshhook"])
        for measure in report["measures"]
    }
    assert figures == {
        ("Drain", "small", 200): THROUGHPUT,
        ("Drain", "webhooks", 50): THROUGHPUT,
        ("Bulk enqueue", "small", 200): THROUGHPUT,
        ("Bulk enqueue", "webhooks", 50): THROUGHPUT,
        ("Single enqueue", 16, 0.1): {"per_second", "p50_ms", "p99_ms"},
        ("Idle pickup", 3): {"p50_ms", "p99_ms"},
        ("Degradation", "small", 200, 500): THROUGHPUT,
    }
    for measure in report["measures"]:
        assert set(measure["summary"]) == {"pgmq", "meshhook"}


def test_summaries_come_from_the_rounds(report):
    """A median and a ratio are those of the numbers that stand beside them."""
    for measure in report["measures"]:
        (results,) = measure["rounds"]
        for subject, cells in measure["summary"].items():
            for figure, cell in cells.items():
                assert results[subject][figure] > 0
                assert cell["median"] == results[subject][figure]
                ratio = results[subject][figure] / results["pgmq"][figure]
                assert cell["ratio"] == cell["lowest_ratio"] == cell["highest_ratio"] == ratio


def test_every_result_says_what_was_on(report):
    """History and metrics are on for MeshHook Queue in each figure, and off for raw PGMQ."""
    for measure in report["measures"]:
        for results in measure["rounds"]:
            assert results["meshhook"]["tracking"] is results["meshhook"]["metrics"] is True
            assert results["pgmq"]["tracking"] is results["pgmq"]["metrics"] is False


def test_the_document_gets_the_tables_between_its_markers(directory):
    """What people wrote around the markers stays."""
    text = (directory / "benchmarks.md").read_text()
    before, rest = text.split(BEGIN)
    figures, after = rest.split(END)
    assert (before, after) == ("Before.\n", "\nAfter.\n")
    assert "last year" not in figures
    assert "| measure | figure | raw PGMQ | MeshHook Queue | ratio |" in figures
    assert "MeshHook Queue: tracking and metrics on" in figures
    assert str(directory) not in text


def test_people_get_a_table(directory):
    """The output ends with all figures."""
    output = (directory / "output.txt").read_text()
    for group in ("Drain", "Bulk enqueue", "Single enqueue", "Idle pickup", "Degradation"):
        assert group in output


def test_the_database_is_gone_afterwards(directory):
    """The run stops its server and removes its files."""
    assert not (directory / "database").exists()


def test_a_document_without_markers_is_refused_at_once(tmp_path):
    """Not after minutes of measuring."""
    document = tmp_path / "benchmarks.md"
    document.write_text("no markers\n")
    done = run_bench("--tiny", "--document", document)
    assert done.returncode == 2
    assert BEGIN in done.stderr
