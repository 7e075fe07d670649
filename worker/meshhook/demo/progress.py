"""What the demo tells while it runs, and who listens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from meshhook.administration import QueueSnapshot
    from meshhook.demo.results import Counts


class WorkerState(StrEnum):
    """What a worker process of the demo is doing."""

    RUNNING = "running"
    KILLED = "killed"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class WorkerView:
    """A worker process."""

    name: str
    pid: int
    state: WorkerState


@dataclass(frozen=True, slots=True)
class Progress:
    """The demo at one moment."""

    jobs: int
    """How many jobs there are in all."""
    enqueued: int
    """How many of them are enqueued so far."""
    queue: QueueSnapshot
    """The messages by state."""
    counts: Counts
    """The outcomes so far."""
    workers: tuple[WorkerView, ...]
    """The worker processes, those that have ended included."""

    @property
    def is_over(self) -> bool:
        """Whether every job has ended and nothing is left in the queue."""
        return self.counts.done >= self.jobs and self.queue.queue_length == 0


class Reporter(Protocol):
    """Whoever wants to know how the demo goes."""

    def event(self, text: str) -> None:
        """Take a sentence about what just happened."""

    def progress(self, progress: Progress) -> None:
        """Take the state of things, about ten times a second."""
