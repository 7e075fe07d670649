"""The whole demo, with real worker processes."""

import pytest

from meshhook.demo import scenario
from meshhook.demo.processes import DemoError
from meshhook.demo.progress import Progress, WorkerState
from meshhook.demo.run import run_demo
from meshhook.errors import InvalidSettingError, SchemaMissingError

JOBS = 200


class Recorder:
    """Keeps what the demo tells."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.latest: Progress | None = None

    def event(self, text: str) -> None:
        """Keep a sentence."""
        self.events.append(text)

    def progress(self, progress: Progress) -> None:
        """Keep the last one."""
        self.latest = progress


@pytest.mark.timeout(300)
async def test_the_demo_loses_nothing_though_a_worker_is_killed(database_url, pool, monkeypatch):
    """Every delivery was accepted by the receiver, or is a dead letter that is there."""
    # So long that a breaker opens on a slow machine, too, and is seen by this process, which looks
    # ten times a second.
    monkeypatch.setattr(scenario, "DOWN_SECONDS", 12.0)
    for name in ("breaker_pause_seconds", "breaker_max_pause_seconds"):
        monkeypatch.setitem(scenario.QUEUE_SETTINGS, name, 5.0)
    recorder = Recorder()
    result = await run_demo(database_url, reporter=recorder, jobs=JOBS)

    assert result.lost == 0
    assert result.enqueued == JOBS
    assert result.succeeded + result.dead_lettered == JOBS
    assert result.dead_lettered == sum(result.dead_lettered_by_error.values()) > 0
    assert result.retried > 0
    assert result.workers_killed == 1
    assert result.jobs_per_second > 0
    assert 0 <= result.wait_p50_seconds <= result.wait_p99_seconds
    assert await pool.fetchval("select count(*) from pgmq.q_workflow_jobs") == 0
    assert any("SIGKILL" in event for event in recorder.events)
    assert result.refused_in_outage > 0
    assert any("receiver-3 is down" in event for event in recorder.events)
    assert any("receiver-3 is back" in event for event in recorder.events)
    assert recorder.latest is not None
    assert [worker.state for worker in recorder.latest.workers] == [
        WorkerState.STOPPED,
        WorkerState.KILLED,
        WorkerState.STOPPED,
    ]


async def test_a_demo_without_jobs_or_workers_is_refused(database_url):
    """The message says what was asked for."""
    with pytest.raises(InvalidSettingError, match="got 0 and 2"):
        await run_demo(database_url, reporter=Recorder(), jobs=0)
    with pytest.raises(InvalidSettingError, match="got 5 and 0"):
        await run_demo(database_url, reporter=Recorder(), jobs=5, workers=0)


async def test_a_database_without_migrations_is_a_clear_error(empty_database_url):
    """It names the command to run."""
    with pytest.raises(SchemaMissingError, match="meshhook migrate"):
        await run_demo(empty_database_url, reporter=Recorder(), jobs=5)


async def test_a_worker_that_cannot_start_ends_the_demo(database_url, monkeypatch):
    """The error holds the output of the worker."""
    monkeypatch.setattr("meshhook.demo.processes.HANDLER", "no_such_module:deliver")
    with pytest.raises(DemoError, match="no_such_module"):
        await run_demo(database_url, reporter=Recorder(), jobs=5)
