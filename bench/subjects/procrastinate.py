"""Procrastinate with psycopg, as its documentation says: an async app, and an async worker.

The default concurrency is 1; the documentation raises it for async tasks. It fetches and finishes
each job with statements of its own: 30 at once were no faster than 10. Finished jobs are kept, and
the worker listens, as by default.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import procrastinate

from bench.subject import BenchSubject, Work, compare_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

CONCURRENCY = 10
WORKER_CONNECTIONS = 20
"""At least one a running job, and one to listen on."""
QUEUE = "bench"
TASK = "bench"
_COUNTS = """
select count(*) filter (where status = 'succeeded') as finished,
    count(*) filter (where status in ('todo', 'doing')) as left
from procrastinate_jobs
"""


class Subject(BenchSubject):
    """An app to enqueue with, and one to run with."""

    _app: procrastinate.App

    @classmethod
    async def install(cls, url: str) -> dict[str, str]:
        """Apply its schema."""
        async with _app(url, 1).open_async() as app:
            await app.schema_manager.apply_schema_async()
        return {"procrastinate": importlib.metadata.version("procrastinate")}

    async def open(self, connections: int) -> None:
        """Open an app with a pool."""
        self._app = _app(self.url, connections)
        self._task = _task(self._app, _never)
        await self._app.open_async()

    async def close(self) -> None:
        """Close it."""
        await self._app.close_async()

    def job(self, message: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the task."""
        return {"message": message}

    async def enqueue(self, job: dict[str, Any]) -> None:
        """Store one job."""
        await self._task.defer_async(**job)

    async def enqueue_many(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Store a batch, in one statement."""
        await self._task.batch_defer_async(*jobs)

    async def drain(self, jobs: int, work: Work, on_done: Callable[[], None]) -> None:  # noqa: ARG002
        """Run a worker that ends when the queue is empty."""

        async def run(message: dict[str, Any]) -> None:  # noqa: ARG001 - a job's argument
            await work.run()

        async with _app(self.url, WORKER_CONNECTIONS).open_async() as app:
            _task(app, run)
            await _run_worker(app, wait=False)
            on_done()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[str], None]) -> AsyncIterator[None]:
        """Keep a worker running."""

        async def tell(message: dict[str, Any]) -> None:
            on_job(message["run_id"])

        async with _app(self.url, WORKER_CONNECTIONS).open_async() as app:
            _task(app, tell)
            worker = asyncio.create_task(_run_worker(app, wait=True), name="worker")
            try:
                yield
            finally:
                worker.cancel()
                await asyncio.wait([worker])

    async def check(self, finished: int, left: int) -> None:
        """Count the jobs by their status."""
        found = await self._app.connector.execute_query_one_async(_COUNTS)
        compare_counts("Procrastinate", {"finished": finished, "left": left}, found)


def _app(url: str, connections: int) -> procrastinate.App:
    connector = procrastinate.PsycopgConnector(
        conninfo=url, min_size=connections, max_size=connections
    )
    return procrastinate.App(connector=connector)


def _task(app: procrastinate.App, function: Callable[..., Awaitable[None]]) -> Any:
    return app.task(queue=QUEUE, name=TASK)(function)


async def _never(message: dict[str, Any]) -> None:
    """Stand for the task where jobs are only enqueued."""
    raise NotImplementedError(message)


async def _run_worker(app: procrastinate.App, *, wait: bool) -> None:
    await app.run_worker_async(
        queues=[QUEUE], wait=wait, concurrency=CONCURRENCY, install_signal_handlers=False
    )


logging.getLogger("procrastinate").setLevel(logging.WARNING)
