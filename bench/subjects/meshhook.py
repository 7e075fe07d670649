"""MeshHook Queue with its defaults. History and metrics are always on; nothing is turned off."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from subject import BenchSubject

from meshhook import (
    Database,
    Job,
    QueueService,
    Worker,
    WorkflowJob,
    create_job_handler,
    create_queue,
)
from meshhook.schema import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

CONCURRENCY = 50
LOOK_SECONDS = 0.002


class Subject(BenchSubject):
    """A `QueueService` to enqueue and a `Worker` to run."""

    _pool: asyncpg.Pool
    _queue: QueueService[Any]

    @classmethod
    async def install(cls, url: str) -> dict[str, str]:
        """Migrate, and create the queue."""
        database = await Database.connect(url)
        async with database.acquire() as connection:
            await migrate(connection)
        await create_queue(database, "bench")
        await database.close()
        return {}

    async def open(self, connections: int) -> None:
        """Open a pool and a queue service on it."""
        self._pool = await asyncpg.create_pool(self.url, min_size=connections, max_size=connections)
        self._queue = QueueService(self._pool, "bench")

    async def close(self) -> None:
        """Close both."""
        await self._queue.close()
        await self._pool.close()

    def job(self, message: dict[str, Any]) -> WorkflowJob:
        """Return a job."""
        return WorkflowJob(**message)

    async def enqueue(self, job: WorkflowJob) -> None:
        """Store one job."""
        await self._queue.enqueue(job)

    async def enqueue_many(self, jobs: Sequence[WorkflowJob], delay_seconds: int = 0) -> None:
        """Store a batch."""
        await self._queue.enqueue_many(jobs, delay_seconds)

    async def drain(self, jobs: int, on_done: Callable[[], None]) -> None:
        """Run a worker until the outcomes of all jobs are recorded."""

        @create_job_handler
        async def do_nothing(_: Job[Any]) -> None:
            pass

        async with Worker(self.url, "bench", do_nothing, concurrency=CONCURRENCY) as worker:
            # No event says that it is done; looking every 2 ms is exact enough.
            while worker.get_stats().processed < jobs:
                await asyncio.sleep(LOOK_SECONDS)
            on_done()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[], None]) -> AsyncIterator[None]:
        """Keep a worker running."""

        @create_job_handler
        async def tell(_: Job[Any]) -> None:
            on_job()

        async with Worker(self.url, "bench", tell, concurrency=CONCURRENCY):
            yield

    async def check(self, finished: int, left: int) -> None:
        """Count the messages that are left, and the finished jobs in the history."""
        found = await self._pool.fetchval("select count(*) from pgmq.q_bench")
        recorded = await self._pool.fetchval(
            "select count(distinct msg_id) from meshhook.job_attempts where outcome = 'succeeded'"
        )
        if (recorded, found) != (finished, left):
            raise RuntimeError(
                f"MeshHook Queue recorded {recorded} jobs, not {finished}; "
                f"{found} messages are left, not {left}"
            )


logging.getLogger("meshhook").setLevel(logging.WARNING)
