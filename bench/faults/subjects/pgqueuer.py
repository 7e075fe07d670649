"""PgQueuer: `PgQueuer.run` with a heartbeat of three seconds, after which jobs are taken again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from bench.faults.program import Work, main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

HEARTBEAT = timedelta(seconds=3)


async def install(url: str) -> None:
    """Install its tables."""
    connection = await asyncpg.connect(url)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def make_producer(url: str) -> Callable[[str], Awaitable[object]]:
    """Return what enqueues a job."""
    pool = await asyncpg.create_pool(url, min_size=1, max_size=8)
    queries = Queries(AsyncpgPoolDriver(pool))

    async def enqueue(run_id: str) -> None:
        await queries.enqueue("faults", run_id.encode())

    return enqueue


async def work(url: str, job: Work) -> None:
    """Run a manager; it ends with an error where its connection does."""
    connection = await asyncpg.connect(url)
    manager = PgQueuer(AsyncpgDriver(connection))

    @manager.entrypoint("faults")
    async def run(found: Job) -> None:
        await job.run((found.payload or b"").decode())

    # So that whoever watches over the process starts another one.
    await manager.run(heartbeat_timeout=HEARTBEAT, shutdown_on_listener_failure=True)


main(install=install, make_producer=make_producer, work=work)
