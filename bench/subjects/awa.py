"""Awa for Python on its queue storage, which it calls the engine of new installations.

The default is 50 jobs at once and a pool of 10 connections. 1,024 jobs at once drained faster than
256, so it has these, a pool of 20, and a poll every 50 ms where notifications are missed. Bulk
enqueue is `enqueue_many_copy`, which its documentation names for many jobs. By default the rows of
completed jobs go when their ring of queue slots turns, seconds later, and only their number is
kept. Its engine is written in Rust and runs on threads of its own; handlers run on the event loop.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import awa

from bench.subject import BenchSubject, Work, compare_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

WORKERS = 1_024
WORKER_CONNECTIONS = 20
POLL_MS = 50
SHUTDOWN_MS = 5_000
LOOK_SECONDS = 0.005
QUEUE = "bench"


@dataclass
class Message:
    """The arguments of a job."""

    run_id: str
    workflow_id: str
    project_id: str
    payload: dict[str, Any]


class Subject(BenchSubject):
    """A client to enqueue, and one to run."""

    _client: awa.AsyncClient
    _connection: asyncpg.Connection

    @classmethod
    async def install(cls, url: str) -> dict[str, str]:
        """Migrate, and choose its queue storage."""
        client = _client(url, 1)
        await client.migrate()
        await client.install_queue_storage()
        await client.close()
        return {"awa-pg": importlib.metadata.version("awa-pg")}

    async def open(self, connections: int) -> None:
        """Make a client with a pool."""
        self._client = _client(self.url, connections)
        self._connection = await asyncpg.connect(self.url)

    async def close(self) -> None:
        """Close it."""
        await self._client.close()
        await self._connection.close()

    def job(self, message: dict[str, Any]) -> Message:
        """Return the arguments."""
        return Message(**message)

    async def enqueue(self, job: Message) -> None:
        """Store one job."""
        await self._client.insert(job, queue=QUEUE)

    async def enqueue_many(self, jobs: Sequence[Message]) -> None:
        """Store a batch with one COPY."""
        await self._client.enqueue_many_copy(list(jobs), queue=QUEUE)

    async def drain(self, jobs: int, work: Work, on_done: Callable[[], None]) -> None:
        """Run a worker until the outcomes of all jobs are stored."""

        async def run(_: awa.Job) -> None:
            await work.run()

        async with self._running(run):
            while work.runs < jobs or await self._completed() < jobs:
                await asyncio.sleep(LOOK_SECONDS)
            on_done()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[str], None]) -> AsyncIterator[None]:
        """Keep a worker running."""

        async def tell(job: awa.Job) -> None:
            on_job(job.args.run_id)

        async with self._running(tell):
            yield

    async def check(self, finished: int, left: int) -> None:
        """Count the completed jobs, and those that are not."""
        # Without statistics its view of all jobs takes minutes.
        await self._connection.execute("analyze")
        found = await self._connection.fetchval(
            "select count(*) from awa.jobs where queue = $1"
            " and state in ('available', 'scheduled', 'running', 'retryable')",
            QUEUE,
        )
        compare_counts(
            "Awa",
            {"finished": finished, "left": left},
            {"finished": await self._completed(), "left": found},
        )

    @asynccontextmanager
    async def _running(self, handler: Callable[[awa.Job], Awaitable[None]]) -> AsyncIterator[None]:
        client = _client(self.url, WORKER_CONNECTIONS)
        client.task(Message, queue=QUEUE)(handler)
        await client.start([{"name": QUEUE, "max_workers": WORKERS}], poll_interval_ms=POLL_MS)
        try:
            yield
        finally:
            await client.shutdown(timeout_ms=SHUTDOWN_MS)
            await client.close()

    async def _completed(self) -> int:
        # Its view of all jobs is too slow to look at often; this is what it counts, and what it
        # counted before it dropped the rows.
        count: int = await self._connection.fetchval(
            "select ((select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches)"
            " + (select coalesce(sum(pruned_completed_count), 0) from awa.queue_terminal_rollups"
            " where queue = $1))::bigint",
            QUEUE,
        )
        return count


def _client(url: str, connections: int) -> awa.AsyncClient:
    return awa.AsyncClient(url, max_connections=connections)
