"""The progress of an enqueue, on standard error if that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from meshhook.cli.output import error_console

if TYPE_CHECKING:
    from meshhook.cli.json_lines import JsonLines


@contextmanager
def enqueue_progress(lines: JsonLines) -> Iterator[Callable[[int], None]]:
    """Yield a function that takes the number of jobs stored so far; the bar goes at the end."""
    console = error_console()
    if not console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.fields[jobs]:,} jobs"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        task = progress.add_task("enqueue", total=lines.size_bytes, jobs=0)

        def advance(jobs: int) -> None:
            completed = lines.position() if lines.size_bytes is not None else 0
            progress.update(task, completed=completed, jobs=jobs)

        yield advance
