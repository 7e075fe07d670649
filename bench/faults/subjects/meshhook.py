"""MeshHook Queue: leases of three seconds, all else by default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from bench.faults.program import Work, main
from meshhook import Database, QueueService, Worker, create_queue, set_queue_config
from meshhook.schema import migrate
from meshhook.worker import run_worker_process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def install(url: str) -> None:
    """Migrate, and make a queue."""
    connection = await asyncpg.connect(url)
    await migrate(connection)
    database = Database(connection)
    await create_queue(database, "faults")
    await set_queue_config(database, "faults", visibility_timeout_seconds=3)
    await connection.close()


async def make_producer(url: str) -> Callable[[str], Awaitable[object]]:
    """Return what enqueues a job."""
    pool = await asyncpg.create_pool(url, min_size=1, max_size=8)
    queue = QueueService[Any](pool, "faults")

    async def enqueue(run_id: str) -> None:
        await queue.enqueue({"run_id": run_id})

    return enqueue


async def work(url: str, job: Work) -> None:
    """Run a worker."""

    async def run(found: Any) -> None:
        await job.run(found.run_id)

    await run_worker_process(Worker(url, "faults", run, concurrency=20))


main(install=install, make_producer=make_producer, work=work)
