"""What the benchmark asks of a subject: one queue, as its own documentation says to use it.

A subject is a module in `subjects/` with a class `Subject` made from one of these. It runs in a
process of its own, under the interpreter of its environment, and imports nothing of MeshHook Queue
unless it is MeshHook Queue or raw PGMQ.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager


class Work:
    """What a job does: nothing, or wait as a handler waits for somebody else."""

    def __init__(self, seconds: float = 0.0) -> None:
        """Take how long each job waits, in seconds; 0 means not at all."""
        self.seconds = seconds
        self.runs = 0
        """How many handlers ran to their end."""

    async def run(self, jobs: int = 1) -> None:
        """Do one job, or several at once."""
        if self.seconds:
            await asyncio.sleep(self.seconds)
        self.runs += jobs


class BenchSubject(ABC):
    """One queue in one database. Only one process uses it at a time."""

    uvloop: ClassVar[bool] = True
    """Whether it runs on uvloop; false for what does not work there."""

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
    async def enqueue_many(self, jobs: Sequence[Any]) -> None:
        """Store one batch; return when it is durable."""

    async def enqueue_group(self, jobs: Sequence[Any]) -> None:
        """Store one batch whose ends are counted together. Only some subjects can."""
        raise NotImplementedError

    async def enqueue_unique(self, job: Any, key: str) -> None:
        """Store one job with a unique key, as `enqueue`. Only some subjects can."""
        raise NotImplementedError

    async def enqueue_many_unique(self, jobs: Sequence[Any], keys: Sequence[str]) -> None:
        """Store one batch with unique keys, as `enqueue_many`. Only some subjects can."""
        raise NotImplementedError

    @abstractmethod
    async def drain(self, jobs: int, work: Work, on_done: Callable[[], None]) -> None:
        """Connect a consumer, run that many jobs, record how they ended.

        Each job is `work.run()`. `on_done` is called when the last outcome is stored, before the
        consumer disconnects.
        """

    async def drain_batches(
        self, jobs: int, batch: int, work: Work, on_done: Callable[[], None]
    ) -> None:
        """Do as `drain`, with a handler of so many jobs at once. Only some subjects can."""
        raise NotImplementedError

    @abstractmethod
    def consuming(self, on_job: Callable[[str], None]) -> AbstractAsyncContextManager[None]:
        """Keep a consumer at work; first thing in each job it calls `on_job` with its `run_id`."""

    @abstractmethod
    async def check(self, finished: int, left: int) -> None:
        """Check that so many jobs were finished and so many are left.

        Raises:
            RuntimeError: if not: the figure would be worth nothing.
        """


class DegradationSubject(BenchSubject):
    """A subject on the tables of PGMQ, which is also measured with much in the way.

    Its queue is `bench`; the measures fill it with SQL.
    """

    @abstractmethod
    async def finish(self, jobs: int) -> None:
        """Run that many jobs that are there, and keep the record of them."""

    @abstractmethod
    def working(self, consumers: int) -> AbstractAsyncContextManager[Callable[[], int]]:
        """Keep so many consumers at work on jobs that do nothing, each with its own connections.

        They are connected once it is entered. It gives a function that says how many outcomes are
        stored by now; it may be called afterwards, too.
        """

    async def serve_metrics(self) -> str:
        """Serve the metrics of this process over HTTP, and return the URL.

        Raises:
            NotImplementedError: it has none.
        """
        raise NotImplementedError(f"{type(self).__module__} has no metrics to serve")


def compare_counts(title: str, expected: dict[str, int], found: dict[str, int]) -> None:
    """Compare what `check` found with what it should have found.

    Raises:
        RuntimeError: naming every count that differs.
    """
    wrong = [
        f"{name}: {found[name]:,} found, {count:,} expected"
        for name, count in expected.items()
        if found[name] != count
    ]
    if wrong:
        raise RuntimeError(f"{title} lost or repeated jobs. {'; '.join(wrong)}")


class KeyedSubject(DegradationSubject):
    """A subject whose jobs have keys that are served in fair shares."""

    @abstractmethod
    async def set_keys(
        self,
        *,
        is_keyed: bool,
        is_ordered: bool = False,
        max_running: int | None = None,
        max_running_per_key: int | None = None,
    ) -> None:
        """Say whether the queue has keys, whether they are ordered, and how many jobs may run."""

    @abstractmethod
    async def fill_keyed(self, jobs: int, keys: int) -> None:
        """Store so many jobs of the keys `tenant-0`, `tenant-1` and so on, in turn."""

    @abstractmethod
    async def enqueue_keyed(self, run_id: str, key: str) -> None:
        """Store one job of a key; return when it is durable."""

    @abstractmethod
    def claiming(
        self, claimers: int
    ) -> AbstractAsyncContextManager[Callable[[int, int], Awaitable[int]]]:
        """Connect so many claimers, without workers.

        It gives a function that claims up to so many messages as one of them, deletes what it
        claimed, and returns how many that were.
        """

    @abstractmethod
    def running(
        self, workers: int, slots: int | None, run: Callable[[str, str], Awaitable[None]]
    ) -> AbstractAsyncContextManager[None]:
        """Keep so many workers running, each with so many slots; None is the default.

        Each job is `run(run_id, key)`.
        """

    @abstractmethod
    async def leased(self) -> int:
        """Return how many messages have a live lease."""
