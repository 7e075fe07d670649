"""What people see of the demo."""

import io
from datetime import UTC, datetime

import pytest
from rich.console import Console

from meshhook.administration import QueueSnapshot
from meshhook.demo.display import LiveReporter, next_commands, print_summary
from meshhook.demo.progress import Progress, WorkerState, WorkerView
from meshhook.demo.results import Counts, DemoResult

RESULT = DemoResult(
    queue="workflow_jobs",
    enqueued=2000,
    succeeded=1971,
    retried=270,
    dead_lettered=29,
    dead_lettered_by_error={"HTTP 410": 17, "ReceiverError": 12},
    lost=0,
    duplicates=3,
    rescued=21,
    workers_killed=1,
    refused_in_outage=14,
    kept_back=171,
    outage_wait_p50_seconds=3.125,
    others_wait_p50_seconds=0.75,
    jobs_per_second=612.4,
    wait_p50_seconds=1.25,
    wait_p99_seconds=5.5,
    duration_seconds=9.75,
    example_dead_letter=42,
)
PROGRESS = Progress(
    jobs=2000,
    enqueued=1500,
    queue=QueueSnapshot(
        queue="workflow_jobs",
        ready=611,
        scheduled=0,
        running=32,
        retrying=57,
        lost=0,
        capped=False,
        oldest_ready_seconds=1,
        oldest_message_seconds=1,
        newest_message_seconds=1,
        enqueued_total=1500,
        dead_letters=9,
        dead_letters_capped=False,
        oldest_dead_letter_seconds=1,
        paused=False,
        sampled_at=datetime.now(UTC),
    ),
    counts=Counts(succeeded=791, retried=101, dead_lettered=9),
    workers=(
        WorkerView("worker 1", 4711, WorkerState.RUNNING),
        WorkerView("worker 2", 4712, WorkerState.KILLED),
    ),
)


def shown(console: Console) -> str:
    """Return what was written to a console."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def terminal():
    """A terminal of 100 columns."""
    return Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)


@pytest.fixture
def pipe():
    """An output that is no terminal."""
    return Console(file=io.StringIO(), force_terminal=False, width=100)


def test_the_live_picture_shows_states_workers_and_events(terminal):
    """Everything that moves is on one screen."""
    with LiveReporter(terminal) as reporter:
        reporter.progress(PROGRESS)
        reporter.event("killed worker 2 (pid 4712) with SIGKILL")

    text = shown(terminal)
    for expected in ("800 of 2000 jobs done, 1500 enqueued", "611", "57", "pid 4711", "running"):
        assert expected in text
    assert "killed worker 2 (pid 4712) with SIGKILL" in text


def test_without_a_terminal_only_the_events_are_printed(pipe):
    """A log keeps readable lines, one an event."""
    with LiveReporter(pipe) as reporter:
        reporter.progress(PROGRESS)
        reporter.event("started worker 1 (pid 4711)")

    [line] = shown(pipe).splitlines()
    assert line.endswith("s  started worker 1 (pid 4711)")


def test_the_summary_tells_each_number_and_each_error_type(pipe):
    """Dead letters are broken down by error type."""
    print_summary(pipe, RESULT)

    text = shown(pipe)
    figures = ("2000", "1971", "270", "29", "612", "1.25 s", "5.50 s", "171", "14", "3.12 s")
    for expected in (*figures, "HTTP 410", "17"):
        assert expected in text


def test_the_summary_names_commands_to_try_next(pipe):
    """Real ids and names are filled in, so that they can be copied."""
    print_summary(pipe, RESULT)

    assert "meshhook jobs show workflow_jobs 42" in shown(pipe)
    assert "meshhook console --demo" in shown(pipe).splitlines()[-1]
    assert "meshhook dlq replay workflow_jobs --error-type 'HTTP 410'" in shown(pipe)


def test_without_dead_letters_there_is_none_to_look_at():
    """A very small demo may have none."""
    result = RESULT.model_copy(update={"example_dead_letter": None, "dead_lettered_by_error": {}})

    assert not any("replay" in command for command, _ in next_commands(result))
