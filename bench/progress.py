"""Progress on standard error: a bar for a person, a line a step for a log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from rich.console import Console


class Steps:
    """Shows which of how many steps is under way."""

    def __init__(self, console: Console) -> None:
        """Take where to show it."""
        self._console = console
        self._began = time.monotonic()
        self._started = -1
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("prepare", total=None)

    def __enter__(self) -> Self:
        """Begin to show."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._progress.stop()

    def note(self, text: str) -> None:
        """Say something that is no step."""
        self._progress.console.print(text, highlight=False, markup=False)

    def step(self, name: str, total: int) -> None:
        """Say what begins now."""
        self._started += 1
        self._progress.update(self._task, description=name, total=total, completed=self._started)
        if not self._console.is_terminal:
            elapsed = time.monotonic() - self._began
            self.note(f"{elapsed:6.1f} s  {self._started + 1}/{total}  {name}")
