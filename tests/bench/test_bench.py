"""The benchmark from end to end, with next to no load: its numbers mean nothing here."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 600
THROUGHPUT = {"per_second", "client_cpu_us_per_job", "wal_bytes_per_job"}
DRAIN_BEHIND = {"per_second", "memory_start_mib", "memory_peak_mib"}
FIGURES = {
    "drain_small": THROUGHPUT,
    "drain_small_1ms": THROUGHPUT,
    "keys_0": THROUGHPUT,
    "keys_1000": THROUGHPUT,
    "keys_1000_limited": THROUGHPUT,
    "keys_claimers_4_0": {"per_second"},
    "keys_claimers_4": {"per_second"},
    "keys_flood": {"p50_ms", "p99_ms", "alone_p99_ms", "p99_to_alone"},
    "keys_shares": {"jain"},
    "keys_limit": {"used_share", "most_running"},
    "keys_held": {"per_second", "lowest_share"},
    "enqueue_many_webhooks": THROUGHPUT,
    "enqueue_16": {"per_second", "p50_ms", "p99_ms"},
    "enqueue_many_unique": THROUGHPUT,
    "enqueue_unique_1": {"per_second", "p50_ms", "p99_ms"},
    "pick_up": {"p50_ms", "p99_ms"},
    "end_to_end_small": {"p50_ms", "p99_ms", "per_second"},
    "delayed_0": DRAIN_BEHIND,
    "delayed_500": DRAIN_BEHIND,
    "backlog_1000": DRAIN_BEHIND,
    "finished_300": DRAIN_BEHIND,
    "metrics_cost": {"per_second"},
    "held_full_speed": {"per_second", "lowest_share"},
    "connections_3": {"per_second"},
}
"""The modes that are measured here, one at least for each measure, and their figures."""
PEERS = ("pgqueuer", "awa", "oban", "procrastinate")
BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end -->"
KEYS_BEGIN = "<!-- begin: written by make bench-keys -->"

pytestmark = pytest.mark.timeout(TIMEOUT_SECONDS)


def run_bench(
    *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program, with more environment, and return what became of it."""
    return subprocess.run(
        [sys.executable, "-m", "bench.run", *map(str, arguments)],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200"} | (environment or {}),
        timeout=TIMEOUT_SECONDS - 10,
    )


def only(*modes: str) -> list[str]:
    """Return the arguments for these modes."""
    return [argument for mode in modes for argument in ("--only", mode)]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one tiny run left its results."""
    directory = tmp_path_factory.mktemp("bench")
    document = directory / "benchmarks.md"
    document.write_text(
        f"Before.\n{BEGIN}\nfigures of last year\n{END}\nAfter.\n{KEYS_BEGIN}\nnone\n{END}\nEnd.\n"
    )
    done = run_bench(
        "--tiny",
        "--lines",
        *only(*FIGURES),
        "--subjects",
        "pgmq,meshhook",
        "--json",
        directory / "result.json",
        "--document",
        document,
        "--keys-document",
        document,
        "--directory",
        directory / "database",
    )
    assert done.returncode == 0, done.stderr
    (directory / "lines.txt").write_text(done.stdout)
    (directory / "people.txt").write_text(done.stderr)
    return directory


@pytest.fixture(scope="module")
def report(directory: Path) -> dict[str, Any]:
    """The JSON of that run."""
    report: dict[str, Any] = json.loads((directory / "result.json").read_text())
    return report


@pytest.fixture(scope="module")
def peer_report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a tiny run of the peers; their environments are kept for the next one."""
    path = tmp_path_factory.mktemp("peers") / "result.json"
    done = run_bench(
        "--tiny",
        *only("drain_small", "enqueue_1", "pick_up"),
        "--subjects",
        ",".join(PEERS),
        "--json",
        path,
        "--directory",
        path.parent / "database",
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def test_the_report_names_the_circumstances(report):
    """Whoever reads a figure finds the machine, the versions, the settings and the date."""
    assert report["format"] == 2
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
    assert report["failures"] == report["skipped"] == []


def test_every_mode_is_there_with_its_figures(report):
    """For both subjects, but for the cost of metrics and for keys: raw PGMQ has none."""
    own = ("metrics_cost", "keys_", "enqueue_unique_", "enqueue_many_unique")
    figures = {mode["mode"]: set(mode["summary"]["meshhook"]) for mode in report["modes"]}
    assert figures == FIGURES
    for mode in report["modes"]:
        is_own = mode["mode"].startswith(own)
        assert set(mode["summary"]) == ({"meshhook"} if is_own else {"pgmq", "meshhook"})


def test_summaries_come_from_the_rounds(report):
    """A median and a ratio are those of the numbers that stand beside them."""
    for mode in report["modes"]:
        (results,) = mode["rounds"]
        for subject, cells in mode["summary"].items():
            for figure, cell in cells.items():
                assert cell["median"] == results[subject][figure]
                for other, ratio in cell["ratios"].items():
                    expected = results[subject][figure] / results[other][figure]
                    assert ratio["median"] == ratio["lowest"] == ratio["highest"] == expected


def test_degradation_is_told_against_the_empty_case(report):
    """Each subject is compared with itself."""
    modes = {mode["mode"]: mode for mode in report["modes"]}
    (empty,) = modes["delayed_0"]["rounds"]
    (behind,) = modes["delayed_500"]["rounds"]
    for subject in ("pgmq", "meshhook"):
        ratio = modes["delayed_500"]["summary"][subject]["per_second"]["own_ratio"]
        assert ratio["median"] == behind[subject]["per_second"] / empty[subject]["per_second"]


def test_every_result_says_what_was_on(report):
    """History and metrics are on for MeshHook Queue in each figure, and off for raw PGMQ."""
    for mode in report["modes"]:
        for results in mode["rounds"]:
            on = {name: (r["tracking"], r["metrics"], r["tracing"]) for name, r in results.items()}
            assert on["meshhook"] == (True, True, False)
            assert on.get("pgmq", (False, False, False)) == (False, False, False)


def test_lines_are_one_object_a_mode_and_system(directory, report):
    """Standard output is nothing but JSON; people are told on standard error."""
    lines = [json.loads(line) for line in (directory / "lines.txt").read_text().splitlines()]
    assert sorted((line["mode"], line["system"]) for line in lines) == sorted(
        (mode["mode"], system) for mode in report["modes"] for system in mode["summary"]
    )
    for line in lines:
        assert {"rate", "jain", "used_share"} & set(line) or {"p50", "p99"} <= set(line)
        assert {"ratio", "ratio_to", "tracking", "metrics", "tracing"} <= set(line)
    by_name = {(line["mode"], line["system"]): line for line in lines}
    assert by_name["drain_small", "pgmq"]["ratio"] == 1
    assert by_name["drain_small", "meshhook"]["ratio_to"] == "pgmq"
    assert by_name["delayed_500", "meshhook"]["ratio_to"] == "delayed_0"
    assert by_name["held_full_speed", "meshhook"]["ratio_to"] == "its own rate before"


def test_people_are_told_every_group(directory, report):
    """Steps while it runs, and all tables at the end, on standard error."""
    text = (directory / "people.txt").read_text()
    for mode in report["modes"]:
        assert mode["group"] in text
    assert "round 1: Idle pickup, one job at a time, MeshHook Queue" in text


def test_the_document_gets_the_figures_between_its_markers(directory):
    """What people wrote around the markers stays."""
    text = (directory / "benchmarks.md").read_text()
    before, rest = text.split(BEGIN)
    figures, between, after = rest.split(END)
    assert (before, after) == ("Before.\n", "\nEnd.\n")
    assert between.startswith("\nAfter.\n")
    assert "last year" not in figures
    assert "| measure | figure | raw PGMQ | MeshHook Queue |" in figures
    assert "MeshHook Queue: tracking and metrics on, tracing off" in figures
    assert str(directory) not in text


def test_the_document_gets_the_figures_of_keys_between_theirs(directory):
    """Targets, what was reached, and whether that is enough; no figure is in both parts."""
    text = (directory / "benchmarks.md").read_text()
    figures = text.split(KEYS_BEGIN)[1].split(END)[0]
    assert "| drain, 1,000 keys | at least 0.6x of not keyed |" in figures
    assert "| drain, 10,000 keys | at least 0.5x of not keyed |  | not measured |" in figures
    assert text.count("### Keys: drain") == figures.count("### Keys: drain") == 1
    assert "### Idle pickup" not in figures


def test_the_plots_are_pictures_whose_text_is_text(directory):
    """The document shows them, and both colour schemes have their ink."""
    text = (directory / "benchmarks.md").read_text()
    for name in ("benchmarks-systems.svg", "benchmarks-degradation.svg"):
        assert f"]({name})" in text
        svg = (directory / name).read_text()
        assert ">MeshHook Queue</text>" in svg
        assert "prefers-color-scheme: dark" in svg


def test_the_database_is_gone_afterwards(directory):
    """The run stops its server and removes its files."""
    assert not (directory / "database").exists()


def test_what_is_published_is_what_was_measured(tmp_path):
    """The tables of the documents are those of the report, and nobody has touched them."""
    document, readme = tmp_path / "benchmarks.md", tmp_path / "README.md"
    document.write_text((ROOT / "docs" / "benchmarks.md").read_text())
    readme.write_text((ROOT / "README.md").read_text())
    report = ROOT / "docs" / "benchmarks.json"
    done = run_bench("--from-json", report, "--document", document, "--headline", readme)
    assert done.returncode == 0, done.stderr
    assert document.read_text() == (ROOT / "docs" / "benchmarks.md").read_text()
    assert readme.read_text() == (ROOT / "README.md").read_text()


def document_of(report: dict[str, Any], tmp_path: Path) -> str:
    """Write a document from a report, without measuring, and return its text."""
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report))
    document = tmp_path / "document.md"
    document.write_text(f"{BEGIN}\n{END}\n")
    done = run_bench("--from-json", path, "--document", document)
    assert done.returncode == 0, done.stderr
    return document.read_text()


@pytest.mark.parametrize(
    ("ratio", "row"),
    [
        (0.76, "| drain, no-op, one process | at least 0.75x raw PGMQ | 0.76x | met |"),
        (0.74, "| drain, no-op, one process | at least 0.75x raw PGMQ | 0.74x | missed |"),
    ],
)
def test_a_target_is_met_or_missed_by_what_was_measured(report, tmp_path, ratio, row):
    """The table of targets is made from the report alone."""
    report = copy.deepcopy(report)
    (drain,) = (mode for mode in report["modes"] if mode["mode"] == "drain_small")
    drain["summary"]["meshhook"]["per_second"]["ratios"]["pgmq"]["median"] = ratio
    assert row in document_of(report, tmp_path)


def test_a_target_that_was_not_measured_is_not_met(report, tmp_path):
    """Neither a peer that is left out nor a smaller backlog counts."""
    text = document_of(report, tmp_path)
    assert "| drain, no-op, one process | at least 3.5x PgQueuer |  | not measured |" in text
    assert "| backlog of 1M | at least 0.85x of the empty case |  | not measured |" in text
    assert "| idle pickup, p50 and p99 | under those of every peer |  | not measured |" in text


def test_what_is_left_out_is_said(report, tmp_path):
    """A peer without an environment, a mode without time, a measurement that failed."""
    report = copy.deepcopy(report)
    report["left_out"] = {"oban": "it needs Python 3.12 or newer; none was found"}
    report["skipped"] = ["connections_128"]
    report["failures"] = ["raw PGMQ, drain {'jobs': 600}: RuntimeError: lost or repeated jobs"]
    text = document_of(report, tmp_path)
    assert f"- FAILED, and left out: {report['failures'][0]}" in text
    assert "- oban is left out: it needs Python 3.12 or newer; none was found" in text
    assert "- Left out, since the time was up: connections_128." in text


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_runs_in_an_environment_of_its_own(peer_report, peer):
    """Its probe fails if jobs are lost or run twice, or if MeshHook Queue is in its process."""
    if peer in peer_report["left_out"]:
        pytest.skip(peer_report["left_out"][peer])
    assert {mode["mode"] for mode in peer_report["modes"]} == {
        "drain_small",
        "enqueue_1",
        "pick_up",
    }
    for mode in peer_report["modes"]:
        assert mode["summary"][peer]
    assert peer_report["versions"].get(peer) or peer_report["versions"]["awa-pg"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python is new enough for Oban")
def test_a_peer_without_a_python_is_left_out_with_a_note(tmp_path):
    """The others are measured, and the report says why it is missing."""
    path = tmp_path / "result.json"
    done = run_bench(
        "--tiny",
        *only("drain_small"),
        "--subjects",
        "pgmq,oban",
        "--json",
        path,
        "--directory",
        tmp_path / "database",
        environment={"PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    reason = "it needs Python 3.12 or newer; none was found"
    assert f"oban is left out: {reason}" in done.stderr
    report = json.loads(path.read_text())
    assert report["left_out"] == {"oban": reason}
    assert [list(mode["summary"]) for mode in report["modes"]] == [["pgmq"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "0"], "--rounds is 1 or more, got 0"),
        (["--minutes", "0"], "--minutes is more than 0, got 0"),
        (["--subjects", "pgmq,redis"], "--subjects: redis not found"),
        (["--only", "swim"], "--only: no such mode; there are drain_small"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    """Before anything is started."""
    done = run_bench("--tiny", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_document_without_markers_is_refused_at_once(tmp_path):
    """Not after minutes of measuring."""
    document = tmp_path / "document.md"
    document.write_text("no markers\n")
    done = run_bench("--tiny", "--document", document)
    assert done.returncode == 2
    assert BEGIN in done.stderr


def test_a_report_of_another_format_is_refused(tmp_path):
    """It would be shown wrongly."""
    path = tmp_path / "report.json"
    path.write_text('{"format": 1}')
    done = run_bench("--from-json", path)
    assert done.returncode == 1
    assert "has format 1; 2 is needed" in done.stderr
