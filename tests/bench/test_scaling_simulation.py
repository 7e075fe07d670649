"""A small part of the simulation: the figures that are promised, and that they repeat."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BEGIN, END = "<!-- begin: written by bench/scaling/run.py -->", "<!-- end -->"
TIMEOUT_SECONDS = 240
LATE_SHARE = 0.001
COST = 1.1

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS)


def simulate(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the program and return what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "bench.scaling.run", *map(str, arguments)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS - 10,
    )


def options(**several: tuple[object, ...]) -> list[object]:
    """Return the options of a run: each name with each of its values."""
    return [part for name, values in several.items() for v in values for part in (f"--{name}", v)]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What came of the traces that are hardest to keep, beside KEDA tuned."""
    file = tmp_path_factory.mktemp("simulation") / "rows.json"
    chosen = options(
        seeds=(1,),
        trace=("step", "spike"),
        age=(60,),
        drift=("constant", "halves"),
        policy=("meshhook", "keda tuned"),
        json=(file,),
    )
    done = simulate(*chosen)
    assert done.returncode == 0, done.stderr
    loaded: list[dict[str, Any]] = json.loads(file.read_text())
    return loaded


def test_jobs_start_within_the_target_age(rows: list[dict[str, Any]]) -> None:
    """At most one job in a thousand waits longer, on each trace, age and drift."""
    ours = [row for row in rows if row["policy"] == "meshhook"]
    assert len(ours) == 4
    assert [row for row in ours if row["late_share"] > LATE_SHARE] == []


def test_it_costs_no_more_than_a_tuned_rival(rows: list[dict[str, Any]]) -> None:
    """Where KEDA, tuned by an expert, keeps the age of a steady trace, the cost is alike."""

    def key(row: dict[str, Any]) -> tuple[str, int, str]:
        return row["trace"], row["target_age_seconds"], row["drift"]

    steady = [row for row in rows if row["is_steady"]]
    rivals = {
        key(row): row["replica_seconds"]
        for row in steady
        if row["policy"] == "keda tuned" and row["late_share"] <= LATE_SHARE
    }
    ours = {key(row): row["replica_seconds"] for row in steady if row["policy"] == "meshhook"}
    assert rivals
    assert [k for k in rivals if ours[k] > COST * rivals[k]] == []


def test_a_run_repeats(tmp_path: Path) -> None:
    """The same seeds give the same figures, and they stand between the markers of the document."""
    texts = []
    for number in range(2):
        document = tmp_path / f"{number}.md"
        document.write_text(f"Before.\n{BEGIN}\nold\n{END}\nAfter.\n")
        chosen = options(
            trace=("sawtooth",),
            age=(60,),
            drift=("constant",),
            policy=("meshhook", "oracle"),
            document=(document,),
        )
        done = simulate(*chosen)
        assert done.returncode == 0, done.stderr
        texts.append(document.read_text())
    assert texts[0] == texts[1]
    assert texts[0].startswith(f"Before.\n{BEGIN}")
    assert texts[0].endswith(f"{END}\nAfter.\n")
    assert "| sawtooth | MeshHook | 0.00% |" in texts[0]


def test_a_document_without_markers_is_left_alone(tmp_path: Path) -> None:
    """The program says which lines are missing."""
    document = tmp_path / "plain.md"
    document.write_text("Nothing.\n")
    chosen = options(trace=("sparse",), document=(document,))
    done = simulate(*chosen)
    assert done.returncode != 0
    assert BEGIN in done.stderr
    assert document.read_text() == "Nothing.\n"
