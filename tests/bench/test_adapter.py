"""The adapter for the public benchmark, against that benchmark's contract."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

import asyncpg
import pytest

from support.waiting import eventually

ADAPTER = Path(__file__).parents[2] / "bench" / "adapter"
REQUIRED = {
    "claim_p50_ms",
    "claim_p95_ms",
    "claim_p99_ms",
    "enqueue_rate",
    "completion_rate",
    "queue_depth",
}
WAIT_SECONDS = 90
DONE = "select count(*) from meshhook.job_attempts where outcome = 'succeeded'"
READY = "select count(*) from pgmq.q_long_horizon_bench where vt <= now()"

pytestmark = pytest.mark.timeout(240)


class RunningAdapter:
    """The program, its records as they come, and its standard input."""

    def __init__(self, database_url: str, **environment: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ADAPTER / "main.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"DATABASE_URL": database_url, "SAMPLE_EVERY_S": "1", "PRODUCER_RATE": "0"}
            | {name: str(value) for name, value in environment.items()},
        )
        self._lines: Queue[str | None] = Queue()
        self.records: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def order(self, *lines: str) -> None:
        """Write lines to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(f"{line}\n" for line in lines))
        self._process.stdin.flush()

    def record(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Read on until a record is wanted, and return it."""
        while True:
            try:
                line = self._lines.get(timeout=WAIT_SECONDS)
            except Empty:
                pytest.fail(f"no such record came; the last were {self.records[-5:]}")
            if line is None:
                assert self._process.stderr is not None
                pytest.fail(f"it ended: {self._process.stderr.read()}")
            self.records.append(json.loads(line))
            if wanted(self.records[-1]):
                return self.records[-1]

    def terminate(self) -> int:
        """Send SIGTERM, read the rest, and return the exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(timeout=WAIT_SECONDS)
        while (line := self._lines.get(timeout=WAIT_SECONDS)) is not None:
            self.records.append(json.loads(line))
        return code


@pytest.fixture
def running(database_url: str) -> Iterator[Callable[..., RunningAdapter]]:
    """Start the adapter on a database, with more environment."""
    started: list[RunningAdapter] = []

    def start(**environment: object) -> RunningAdapter:
        started.append(RunningAdapter(database_url, **environment))
        return started[-1]

    yield start
    for adapter in started:
        adapter.__exit__()


def is_sample(metric: str) -> Callable[[dict[str, Any]], bool]:
    """Return a test for a sample of a metric that is not zero."""
    return lambda record: record.get("metric") == metric and record["value"] > 0


def test_first_comes_the_descriptor(running):
    """It names at least the tables and extensions of the static manifest."""
    manifest = json.loads((ADAPTER / "adapter.json").read_text())
    descriptor = running().record(lambda _: True)
    assert {
        "kind",
        "system",
        "event_tables",
        "extensions",
        "version",
        "schema_version",
        "db_name",
        "started_at",
    } <= set(descriptor)
    assert (descriptor["kind"], descriptor["system"]) == ("descriptor", manifest["system"])
    assert set(descriptor["event_tables"]) > set(manifest["event_tables"])
    assert set(descriptor["extensions"]) >= set(manifest["extensions"])
    assert descriptor["started_at"].endswith("Z")


async def test_the_tables_and_indexes_of_the_manifest_exist(running, connection):
    """A misspelt one would be a gap in the plots, without an error."""
    manifest = json.loads((ADAPTER / "adapter.json").read_text())
    descriptor = running().record(lambda _: True)
    named = [*descriptor["event_tables"], *manifest["event_indexes"]]
    found = await connection.fetchval(
        "select bool_and(to_regclass(n) is not null) from unnest($1::text[]) n", named
    )
    assert found


def test_each_sample_has_the_required_metrics_at_a_whole_second(running):
    """All of one tick carry one time, at a boundary of the period."""
    adapter = running(PRODUCER_RATE=200)
    adapter.record(is_sample("completion_rate"))
    adapter.record(is_sample("enqueue_rate"))
    assert adapter.terminate() == 0
    samples = [record for record in adapter.records if record["kind"] == "adapter"]
    ticks: dict[str, set[str]] = {}
    for sample in samples:
        ticks.setdefault(sample["t"], set()).add(sample["metric"])
        assert (sample["system"], sample["subject_kind"]) == ("meshhook", "adapter")
        assert (sample["subject"], sample["instance_id"]) == ("", 0)
        assert sample["value"] >= 0
    assert all(metrics >= REQUIRED for metrics in ticks.values())
    windows = {sample["metric"]: sample["window_s"] for sample in samples}
    assert (windows["claim_p99_ms"], windows["enqueue_rate"], windows["queue_depth"]) == (30, 1, 0)


async def test_orders_on_standard_input_are_obeyed(
    running, connection: asyncpg.Connection[asyncpg.Record]
):
    """`ENQUEUE n` inserts n jobs, which run; lines of other kinds are left alone."""
    adapter = running(PRODUCER_PACING="harness", PRODUCER_RATE=1000, PRODUCER_BATCH_MAX=64)
    adapter.order("ENQUEUE 30", "HELLO", "ENQUEUE 170")

    async def all_done() -> bool:
        return bool(await connection.fetchval(DONE) >= 200)

    await eventually(all_done, WAIT_SECONDS)
    assert adapter.terminate() == 0
    assert await connection.fetchval(DONE) == 200
    assert await connection.fetchval("select count(*) from pgmq.q_long_horizon_bench") == 0


def test_depth_target_keeps_jobs_waiting(running):
    """It inserts until so many wait, and no more."""
    adapter = running(PRODUCER_MODE="depth-target", TARGET_DEPTH=40, WORKER_COUNT=1, JOB_WORK_MS=20)
    assert adapter.record(is_sample("queue_depth"))["value"] <= 40
    assert adapter.terminate() == 0


def test_only_the_first_instance_tells_the_depth(running):
    """It is the same for all; the others would only repeat it."""
    adapter = running(BENCH_INSTANCE_ID=3, PRODUCER_RATE=100)
    assert adapter.record(is_sample("completion_rate"))["instance_id"] == 3
    assert adapter.terminate() == 0
    assert "queue_depth" not in {record.get("metric") for record in adapter.records}


async def test_sigterm_leaves_nothing_leased(
    running, connection: asyncpg.Connection[asyncpg.Record]
):
    """What was claimed and not run is ready for others at once, and the exit code is 0."""
    # Work for more than a minute: some is left however late the signal comes.
    adapter = running(WORKER_COUNT=2, JOB_WORK_MS=100, PRODUCER_PACING="harness")
    adapter.order("ENQUEUE 2000")
    adapter.record(is_sample("completion_rate"))
    assert adapter.terminate() == 0
    left = await connection.fetchval("select count(*) from pgmq.q_long_horizon_bench")
    ready = await connection.fetchval(READY)
    assert ready == left > 0


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PRODUCER_MODE": "often"}, "PRODUCER_MODE is one of fixed, depth-target, got 'often'"),
        ({"WORKER_COUNT": "none"}, "WORKER_COUNT is a number of at least 1, got 'none'"),
        ({"SCENARIO": "short"}, "SCENARIO is one of long_horizon, got 'short'"),
        ({"DATABASE_URL": ""}, "DATABASE_URL is not set"),
    ],
)
def test_a_wrong_control_is_named(environment, message):
    """It ends at once with code 2, and says which variable is wrong."""
    done = subprocess.run(
        [sys.executable, str(ADAPTER / "main.py")],
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"DATABASE_URL": "postgresql://nobody"} | environment,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 2
    assert message in done.stderr
