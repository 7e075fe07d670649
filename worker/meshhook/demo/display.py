"""The display of the demo: a live view while it runs, and a summary at the end."""

from __future__ import annotations

import shlex
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from meshhook.demo.progress import Progress, WorkerState
from meshhook.escaping import shown, shown_sentence

if TYPE_CHECKING:
    from types import TracebackType

    from meshhook.demo.results import DemoResult

EVENTS_SHOWN = 8
_BAR_WIDTH = 40
_WORKER_STYLES = {
    WorkerState.RUNNING: "green",
    WorkerState.KILLED: "bold red",
    WorkerState.STOPPED: "dim",
}


class QuietReporter:
    """Reports nothing: for `--json`."""

    def event(self, text: str) -> None:
        """Drop it."""

    def progress(self, progress: Progress) -> None:
        """Drop it."""


class LiveReporter:
    """Shows the demo live while it runs. On a console that is not a terminal, it prints the events.

    It is a context manager: the view is shown inside it, and its last state stays on the screen.
    """

    def __init__(self, console: Console) -> None:
        """Take the console to draw on."""
        self._console = console
        self._events: deque[tuple[float, str]] = deque(maxlen=EVENTS_SHOWN)
        self._progress: Progress | None = None
        self._started = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._picture, refresh_per_second=8, transient=False
        )

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._started = time.monotonic()
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop drawing."""
        self._live.stop()

    def event(self, text: str) -> None:
        """Show a sentence about what just happened."""
        seconds = time.monotonic() - self._started
        text = shown_sentence(text, lines=False)
        self._events.append((seconds, text))
        if not self._console.is_terminal:
            self._console.print(Text(f"{seconds:5.1f} s  {text}"))

    def progress(self, progress: Progress) -> None:
        """Show the state of things from now on."""
        self._progress = progress

    def _picture(self) -> RenderableType:
        happened = Table.grid(padding=(0, 2))
        for seconds, text in self._events:
            style = "bold red" if "SIGKILL" in text else ""
            happened.add_row(Text(f"{seconds:5.1f} s", style="dim"), Text(text, style=style))
        parts: list[RenderableType] = [happened]
        if self._progress is not None:
            parts = [_states(self._progress), Text(), _workers(self._progress), Text(), happened]
        return Panel(Group(*parts), title="meshhook demo", title_align="left", padding=(1, 2))


def _states(progress: Progress) -> RenderableType:
    queue, counts = progress.queue, progress.counts
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(total=progress.jobs, completed=counts.done, width=_BAR_WIDTH),
        Text(f"{counts.done} of {progress.jobs} jobs done, {progress.enqueued} enqueued"),
    )
    states = Table.grid(padding=(0, 3))
    figures = {
        "ready": queue.ready,
        "running": queue.running,
        "retrying": queue.retrying,
        "lost": queue.lost,
        "succeeded": counts.succeeded,
        "retried": counts.retried,
        "dead letters": counts.dead_lettered,
    }
    for name in figures:
        states.add_column(name, justify="right", min_width=len(name))
    states.add_row(*(Text(name, style="dim") for name in figures))
    states.add_row(*(Text(str(number), style="bold") for number in figures.values()))
    return Group(bar, Text(), states)


def _workers(progress: Progress) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    for worker in progress.workers:
        table.add_row(
            Text(shown(worker.name)),
            Text(f"pid {worker.pid}", style="dim"),
            Text(worker.state, style=_WORKER_STYLES[worker.state]),
        )
    return table


def print_summary(console: Console, result: DemoResult, *, program: str = "meshhook") -> None:
    """Print what came of the demo, and what to try next, called as `program`."""
    rows = Table.grid(padding=(0, 2))
    for name, value, meaning in _summary_rows(result):
        style = "bold red" if name == "lost" and result.lost else "bold"
        rows.add_row(Text(name), Text(value, style=style, justify="right"), Text(meaning, "dim"))
    console.print()
    console.print(rows)
    console.print("\nTry next:", style="bold")
    for command, meaning in next_commands(result):
        console.print(Text(f"  # {meaning}", style="dim"))
        # Never folded: a command that is cut in two cannot be copied.
        console.print(
            Text(f"  {program} {command.removeprefix('meshhook ')}"),
            no_wrap=True,
            crop=False,
            overflow="ignore",
        )


def _summary_rows(result: DemoResult) -> list[tuple[str, str, str]]:
    errors = [
        (f"  {shown(error, limit=200)}", str(jobs), "")
        for error, jobs in result.dead_lettered_by_error.items()
    ]
    return [
        ("enqueued", str(result.enqueued), "webhooks"),
        ("succeeded", str(result.succeeded), "the receiver accepted them"),
        ("retried", str(result.retried), "attempts that failed and were tried again"),
        ("dead letters", str(result.dead_lettered), "given up, and kept to look at or replay"),
        *errors,
        ("rescued", str(result.rescued), "held by the killed worker, taken over by another"),
        ("kept back", str(result.kept_back), "for a receiver that was down, with no attempt spent"),
        ("  refused", str(result.refused_in_outage), "it refused meanwhile, probes included"),
        (
            "  wait p50",
            f"{result.outage_wait_p50_seconds:.2f} s",
            f"of its jobs; {result.others_wait_p50_seconds:.2f} s of those of the others",
        ),
        ("lost", str(result.lost), "checked against what the receiver accepted"),
        ("duplicates", str(result.duplicates), "accepted twice: the worker died in between"),
        ("throughput", f"{result.jobs_per_second:.0f}", "jobs a second, for the first 90%"),
        ("wait p50", f"{result.wait_p50_seconds:.2f} s", "from enqueue to the first attempt"),
        ("wait p99", f"{result.wait_p99_seconds:.2f} s", "the killed worker's jobs included"),
        ("duration", f"{result.duration_seconds:.1f} s", ""),
    ]


def next_commands(result: DemoResult) -> list[tuple[str, str]]:
    """Return commands that go on from here, each with what it does."""
    queue = result.queue
    commands = [(f"meshhook dlq errors {queue}", "the dead letters by error type")]
    if result.example_dead_letter is not None:
        job = f"meshhook jobs show {queue} {result.example_dead_letter}"
        error = next(iter(result.dead_lettered_by_error))
        commands += [
            (job, "the whole life of a job that was given up"),
            (
                f"meshhook dlq replay {queue} --error-type {shlex.quote(shown(error))}",
                "make jobs of those again, for the next worker",
            ),
        ]
    commands += [
        (f"meshhook stats {queue} --watch", "the queue, live"),
        (
            "meshhook console --demo",
            "all of that in your browser: replay what failed, and see it succeed",
        ),
    ]
    return commands
