"""What the benchmark asks of a subject: one queue, as its own documentation says to use it.

A subject is a module in `subjects/` with a class `Subject` made from this one. It runs in a process
of its own, under the interpreter that `plan.py` names, and imports nothing of MeshHook Queue unless
it is MeshHook Queue: a peer may live in a virtual environment of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager


class BenchSubject(ABC):
    """One queue in one database. Only one process uses it at a time."""

    def __init__(self, url: str) -> None:
        """Take the URL of a database in which `install` ran."""
        self.url = url

    @classmethod
    @abstractmethod
    async def install(cls, url: str) -> dict[str, str]:
        """Make tables and an empty queue in an empty database; return versions by name."""

    @abstractmethod
    async def open(self, connections: int) -> None:
        """Connect the producer, with a pool of that many connections."""

    @abstractmethod
    async def close(self) -> None:
        """Disconnect the producer."""

    @abstractmethod
    def job(self, message: dict[str, Any]) -> Any:
        """Turn a message into what `enqueue` takes. Not timed."""

    @abstractmethod
    async def enqueue(self, job: Any) -> None:
        """Store one job; return when it is durable. Called by many tasks at once."""

    @abstractmethod
    async def enqueue_many(self, jobs: Sequence[Any], delay_seconds: int = 0) -> None:
        """Store one batch; return when it is durable."""

    @abstractmethod
    async def drain(self, jobs: int, on_done: Callable[[], None]) -> None:
        """Connect a consumer, run that many jobs that do nothing, record how they ended.

        `on_done` is called when the last outcome is stored, before the consumer disconnects.
        """

    @abstractmethod
    def consuming(self, on_job: Callable[[], None]) -> AbstractAsyncContextManager[None]:
        """Keep a consumer at work; it calls `on_job` first thing in each job."""

    @abstractmethod
    async def check(self, finished: int, left: int) -> None:
        """Check that so many jobs were finished and so many messages are left.

        Raises:
            RuntimeError: if not: the figure would be worth nothing.
        """
