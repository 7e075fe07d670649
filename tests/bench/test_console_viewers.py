"""Viewers of the console: next to no load from end to end, and what becomes of windows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.console_figures import Window, compared
from bench.targets import CONSOLE_TARGETS, rows

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 300


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program, and return what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "bench.console", "viewers", *map(str, arguments)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS - 10,
    )


def window(kind: str, *, cpu_seconds: float, jobs: int = 1_000) -> Window:
    """Return ten seconds."""
    return Window(
        kind,
        seconds=10,
        jobs=jobs,
        jobs_waiting=0,
        database_cpu_seconds=cpu_seconds,
        console_cpu_seconds=0.0 if kind == "alone" else 0.02,
        console_statements=30,
        pages_loaded=400,
    )


@pytest.mark.timeout(TIMEOUT_SECONDS)
def test_pages_are_loaded_at_ticks_and_without_and_read_from_the_database(tmp_path):
    """Windows take turns; while only another server has viewers, nothing is read."""
    file = tmp_path / "viewers.json"
    sizes = {"--viewers": 4, "--rate": 50, "--queues": 2, "--rounds": 1}
    times = {"--window-seconds": 2, "--refresh-seconds": 1, "--job-ms": 0, "--json": file}
    done = run(*(part for option in (sizes | times).items() for part in option))
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["failures"] == []
    found = report["windows"]
    assert [each["kind"] for each in found] == [
        *("alone", "streams", "alone"),
        *("alone", "polls", "alone"),
    ]
    for each in found:
        assert each["jobs"] > 0
        assert each["database_cpu_seconds"] > each["console_cpu_seconds"]
        has_viewers = each["kind"] != "alone"
        assert each["pages_loaded"] > 0
        assert (each["console_statements"] > 0) == has_viewers, each
    assert any("queue_snapshot" in each["query"] for each in report["console_statements"])
    assert "Targets" in done.stderr


@pytest.mark.parametrize(("cpu_seconds", "verdict"), [(1.04, "met"), (1.06, "missed")])
def test_the_ratio_is_to_the_windows_before_and_after(cpu_seconds, verdict):
    """A machine that becomes slower all the while does not count."""
    report: dict[str, Any] = compared(
        [
            window("alone", cpu_seconds=0.9),
            window("streams", cpu_seconds=cpu_seconds),
            window("alone", cpu_seconds=1.1),
        ]
    )
    assert report["dropped"] == []
    first, share, *others = rows(report, CONSOLE_TARGETS)
    assert first[2:] == [f"{cpu_seconds:.2f}x", verdict]
    assert share[3] == "met"
    assert {each[3] for each in others} == {"not measured"}


def test_windows_with_other_rates_are_dropped_and_said():
    """The work for a job depends on how many there are."""
    report = compared(
        [
            window("alone", cpu_seconds=1.0),
            window("streams", cpu_seconds=1.0),
            window("alone", cpu_seconds=1.0),
            window("polls", cpu_seconds=1.0, jobs=975),
            window("alone", cpu_seconds=1.0),
        ]
    )
    assert [mode["mode"] for mode in report["modes"]] == ["alone", "streams"]
    assert report["dropped"] == [
        "pages that ask by themselves: before it, in it and after it 100.0, 97.5, 100.0 jobs/s"
    ]


def test_a_window_without_its_share_of_reads_is_refused():
    """Pages are read from the database once in a refresh interval."""
    done = run("--window-seconds", 3)
    assert done.returncode == 2
    assert "--window-seconds is at least twice --refresh-seconds" in done.stderr
    assert "got 3 and 5" in done.stderr
