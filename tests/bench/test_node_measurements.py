"""The benchmark on a real node: figures from what was noted, and the section made of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.node.manifests import job_queue, queue_name
from bench.node.measurements import covered, figures, quantile
from bench.node.observations import Attempt, Interruption, Load, Observations, PodLife
from bench.node.prediction import Prediction
from bench.node.report import add_trace, new_report, write_report
from bench.node.section import section
from bench.scaling.jobs import Job, JobTrace, Lead
from bench.scaling.node_traces import node_traces
from meshhook_operator.api.jobqueue import JobQueue

ROOT = Path(__file__).parents[2]
LOAD = Load(cpu_percent=50.0, others_percent=2.0, waiting_percent=10.0, load_average=2.0)


def trace(*jobs: Job, **changes: Any) -> JobTrace:
    """A trace of 100 seconds with two slots a replica."""
    whole = JobTrace(
        name="a trace",
        about="some jobs",
        jobs=jobs,
        concurrency=2,
        target_age_seconds=10,
        seconds=100,
        min_replicas=0,
        max_replicas=4,
        is_steady=True,
    )
    return replace(whole, **changes)


def attempt(job: int, started: float | None, finished: float, **changes: Any) -> Attempt:
    """A succeeded first attempt in pod p of a job that was enqueued at 0."""
    whole = Attempt(job, 1, "succeeded", "p", 0.0, started, finished, None)
    return replace(whole, **changes)


def seen(**changes: Any) -> Observations:
    """Observations of 120 seconds with nothing left."""
    whole = Observations(seconds=120.0, sent=1, left=0, dead_letters=0, load=LOAD)
    return replace(whole, **changes)


def test_a_job_is_late_when_it_starts_after_the_target_age():
    """The wait ends with the first recorded start; a job that never starts is late."""
    jobs = [Job(0, 1), Job(0, 1), Job(0, 1)]
    attempts = [attempt(0, 10.0, 11.0), attempt(1, 10.5, 11.0)]
    found = figures(trace(*jobs), seen(sent=3, left=1, attempts=attempts))
    assert found.late_share == pytest.approx(2 / 3)
    assert found.longest_wait_seconds == 120.0
    assert (found.lost, found.unfinished) == (0, 1)


def test_a_job_that_nothing_knows_any_more_is_lost():
    """It has not succeeded, and is neither in the queue nor a dead letter."""
    attempts = [attempt(0, 1.0, 2.0), attempt(1, 1.0, 2.0, outcome="dead_lettered")]
    found = figures(
        trace(Job(0, 1), Job(0, 1), Job(0, 1)), seen(sent=3, dead_letters=1, attempts=attempts)
    )
    assert (found.lost, found.unfinished) == (1, 1)


def test_a_scheduled_job_waits_from_its_due_time():
    """What was sent 40 seconds ahead is not late for having waited these."""
    attempts = [attempt(0, 45.0, 46.0, enqueued=10.0)]
    found = figures(trace(Job(50, 1, ahead_seconds=40)), seen(attempts=attempts))
    assert found.p99_wait_seconds == 0.0
    attempts = [attempt(0, 55.0, 56.0, enqueued=10.0)]
    found = figures(trace(Job(50, 1, ahead_seconds=40)), seen(attempts=attempts))
    assert found.p99_wait_seconds == 5.0


def test_retries_wait_from_their_due_time():
    """The first attempts and those after a failure are counted apart."""
    attempts = [
        attempt(0, 1.0, 2.0, outcome="retried", retry_at=30.0),
        attempt(0, 45.0, 46.0, attempt=2),
    ]
    found = figures(trace(Job(0, 1, failures=1)), seen(attempts=attempts))
    assert (found.retries, found.late_retry_share) == (1, 1.0)
    assert found.longest_retry_wait_seconds == 15.0
    assert found.late_share == 0.0


def test_a_pod_is_idle_while_it_runs_no_job():
    """Ready time counts while jobs arrive, until the pod is stopped; runs may overlap."""
    pods = [PodLife("p", -5.0, 0.0, 80.0, 82.0), PodLife("q", 50.0, 60.0)]
    attempts = [attempt(0, 10.0, 30.0), attempt(1, 20.0, 40.0), attempt(2, 70.0, 110.0, pod="q")]
    found = figures(
        trace(*[Job(0, 1)] * 3), seen(sent=3, pods=pods, attempts=attempts, seconds=120.0)
    )
    assert found.ready_seconds == 80 + 40
    assert found.idle_share == pytest.approx((50 + 10) / 120)
    assert found.busy_slot_share == pytest.approx((20 + 20 + 30) / 240)


def test_a_busy_pod_is_stopped_wrongly_only_beside_an_idle_one():
    """Pods that are stopped at the same moment, or came later, were not left."""
    busy = attempt(0, 10.0, 60.0)
    stopped = PodLife("p", 0.0, 1.0, 50.0, 61.0)
    others = {
        "idle": PodLife("q", 0.0, 1.0),
        "starting": PodLife("q", 48.0),
        "stopped at once": PodLife("q", 0.0, 1.0, 50.4),
        "later": PodLife("q", 51.0, 55.0),
        "gone": PodLife("q", 0.0, 1.0, 20.0, 22.0),
    }
    found = {
        name: figures(trace(Job(0, 1)), seen(pods=[stopped, other], attempts=[busy]))
        for name, other in others.items()
    }
    assert {name for name, each in found.items() if each.busy_stops_beside_idle} == {
        "idle",
        "starting",
    }
    assert {name for name, each in found.items() if each.wrong_stops} == {"idle", "starting"}
    assert all(each.busy_stops == 1 for each in found.values())


def test_what_the_operator_cannot_know_yet_is_not_wrong():
    """The idle pod has just become so, or the busy one has; at that moment it looks wrong."""
    pods = [PodLife("p", 0.0, 1.0, 50.0, 61.0), PodLife("q", 0.0, 1.0)]
    just_idle = [attempt(0, 10.0, 60.0), attempt(1, 30.0, 48.0, pod="q")]
    just_busy = [attempt(0, 49.0, 60.0)]
    for attempts in (just_idle, just_busy):
        found = figures(
            trace(*[Job(0, 1)] * 2), seen(sent=len(attempts), pods=pods, attempts=attempts)
        )
        assert (found.busy_stops_beside_idle, found.wrong_stops) == (1, 0)


def test_an_interrupted_run_makes_its_pod_busy():
    """It is in no history of attempts; the handler has noted it."""
    pods = [PodLife("p", 0.0, 1.0, 50.0, 80.0), PodLife("q", 0.0, 1.0)]
    found = figures(
        trace(Job(0, 60)), seen(pods=pods, interruptions=[Interruption(0, "p", 20.0, 75.0)])
    )
    assert (found.wrong_stops, found.interrupted) == (1, 1)


def test_the_lead_is_that_of_pods_that_started_meanwhile():
    """From creation to Ready; those that were there at the beginning do not count."""
    pods = [PodLife("p", -30.0, -5.0), PodLife("q", 10.0, 14.0), PodLife("r", 10.0, 16.0)]
    found = figures(trace(Job(0, 1)), seen(pods=pods))
    assert (found.lead_median_seconds, found.lead_p90_seconds) == (4.0, 6.0)


def test_replicas_count_while_jobs_arrive():
    """Changes before the beginning are none, and replica-seconds end with the arrivals."""
    replicas = [(-20.0, 0), (-19.0, 1), (40.0, 3), (90.0, 2), (115.0, 0)]
    found = figures(trace(Job(0, 1)), seen(replicas=replicas))
    assert (found.most_replicas, found.scale_events) == (3, 3)
    assert found.replica_seconds == 40 * 1 + 50 * 3 + 10 * 2


def test_overlapping_spans_are_covered_once():
    """Neither order nor a span within another matters."""
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 3.0), (0.5, 1.0)]) == 4.0
    assert covered([]) == 0.0


def test_a_quantile_is_one_of_the_values():
    """That which so many do not exceed."""
    values = [float(each) for each in range(1, 101)]
    assert (quantile(values, 0.99), quantile(values, 0.5), quantile([], 0.5)) == (99.0, 50.0, None)


@pytest.mark.parametrize("each", node_traces(), ids=lambda each: each.name)
def test_the_job_queue_of_a_trace_is_valid(each):
    """The operator takes it as it is, and its name may name an object."""
    body = job_queue(each, "localhost/image:1")
    body["metadata"] |= {
        "namespace": "bench",
        "uid": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    parsed = JobQueue.from_body(body)
    assert parsed.spec is not None, parsed
    assert parsed.spec.scaling.target_age_seconds == each.target_age_seconds
    assert queue_name(each).replace("-", "").isalnum()


def report_of(*played: tuple[JobTrace, Observations]) -> dict[str, Any]:
    """A report of traces."""
    report = new_report(revision="abc", lanes=2)
    for one, noted in played:
        add_trace(report, one, figures(one, noted), noted)
    return report


def test_the_section_says_what_holds_and_what_does_not():
    """A trace that misses its target is named."""
    slow = trace(Job(0, 1), name="slow", lead=Lead(27, 48))
    late = trace(Job(0, 1), name="late", lead=Lead(3, 5))
    report = report_of(
        (slow, seen(attempts=[attempt(0, 30.0, 31.0)])),
        (late, seen(attempts=[attempt(0, 30.0, 31.0)], pods=[PodLife("p", -1.0, 0.0)])),
    )
    text = section(report, (slow, late), lambda _: None)
    assert (
        "0 of the 1 traces whose pods are ready within half of the target age (not: late)" in text
    )
    assert "1 of the 2 steady traces (not: late)" in text
    assert "simulated" not in text
    assert "| slow | 100.00% | 30 s |" in text


def test_the_section_puts_the_simulator_beside_the_node():
    """Where it can tell; a trace that it does not know has empty cells."""
    known, unknown = trace(Job(0, 1), name="known"), trace(Job(0, 1), name="unknown")
    noted = seen(attempts=[attempt(0, 3.0, 4.0)])
    said = Prediction(late_share=0.5, p99_wait_seconds=7.0, idle_share=0.25, most_replicas=3)
    text = section(
        report_of((known, noted), (unknown, noted)),
        (known, unknown),
        lambda one: said if one == known else None,
    )
    assert "| known | 0.00% | 50.00% | 3 s | 7 s | 0 | 3 | 0% | 25% |" in text
    assert "| unknown | 0.00% |  | 3 s |  | 0 |  | 0% |  |" in text


def test_results_of_a_file_can_be_shown_and_written(tmp_path):
    """Without a node; a document without markers, and a file of another format, are refused."""
    one = node_traces()[0]
    file, document = tmp_path / "report.json", tmp_path / "page.md"
    write_report(report_of((one, seen(sent=0))), file)
    begin, end = "<!-- begin: written by bench/node/run.py -->", "<!-- end -->"
    document.write_text(f"Before.\n{begin}\nold\n{end}\nAfter.\n")

    def show(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "bench.node.run", "--from-json", *map(str, arguments)]
        return subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": "tests"},
            check=False,
            capture_output=True,
            text=True,
        )

    assert show(file, "--only", one.name, "--document", document).returncode == 0
    text = document.read_text()
    assert text.startswith(f"Before.\n{begin}\n\nMeasured at abc")
    assert text.endswith(f"\n\n{end}\nAfter.\n")

    document.write_text("No markers.\n")
    refused = show(file, "--document", document)
    assert (refused.returncode, begin in refused.stderr) == (2, True)
    assert "no trace is called 'stedy'" in show(file, "--only", "stedy").stderr
    file.write_text(json.dumps({"format": 99}))
    assert "has the format 99" in show(file).stderr
