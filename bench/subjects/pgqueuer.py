"""PgQueuer, as its performance guide says: asyncpg, a connection a manager, `pgq autovac`.

The guide raises `batch_size` for short jobs, and its own benchmark runs several managers. In a
drain two managers of 250 in one process used the least CPU a job, of 1 to 5 managers and batches of
10 to 1,000. For pickup there is one manager with the default batch of 10. Tables are `durable`, as
by default. The producer has a pool, as the guide says. A handler is given bytes, and the no-op
handler leaves them alone, which spares PgQueuer what the others pay for decoding.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from bench.subject import BenchSubject, Work, compare_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

MANAGERS = 2
DRAIN_BATCH = 250


class Subject(BenchSubject):
    """`Queries` to enqueue and `PgQueuer` managers to run."""

    _pool: asyncpg.Pool
    _queries: Queries

    @classmethod
    async def install(cls, url: str) -> dict[str, str]:
        """Install the tables, and set autovacuum as `pgq autovac` does."""
        connection = await asyncpg.connect(url)
        queries = Queries(AsyncpgDriver(connection))
        await queries.install()
        await queries.optimize_autovacuum()
        await connection.close()
        return {"pgqueuer": importlib.metadata.version("pgqueuer")}

    async def open(self, connections: int) -> None:
        """Open a pool."""
        self._pool = await asyncpg.create_pool(self.url, min_size=connections, max_size=connections)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))

    async def close(self) -> None:
        """Close it."""
        await self._pool.close()

    def job(self, message: dict[str, Any]) -> bytes:
        """Return JSON as bytes: a payload of PgQueuer is bytes."""
        return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()

    async def enqueue(self, job: bytes) -> None:
        """Store one job."""
        await self._queries.enqueue("bench", job)

    async def enqueue_many(self, jobs: Sequence[bytes]) -> None:
        """Store a batch, in the one statement of its list form."""
        count = len(jobs)
        await self._queries.enqueue(["bench"] * count, list(jobs), [0] * count)

    async def drain(self, jobs: int, work: Work, on_done: Callable[[], None]) -> None:  # noqa: ARG002
        """Run two managers in its mode `drain`: it returns when all is run and logged."""

        async def run(_: Job) -> None:
            await work.run()

        connections = [await asyncpg.connect(self.url) for _ in range(MANAGERS)]
        managers = [PgQueuer(AsyncpgDriver(connection)) for connection in connections]
        for manager in managers:
            manager.entrypoint("bench")(run)
        await asyncio.gather(
            *(m.run(batch_size=DRAIN_BATCH, mode=QueueExecutionMode.drain) for m in managers)
        )
        on_done()
        for connection in connections:
            await connection.close()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[str], None]) -> AsyncIterator[None]:
        """Keep one manager running, as in its documentation."""

        async def tell(job: Job) -> None:
            on_job(json.loads(job.payload)["run_id"])

        connection = await asyncpg.connect(self.url)
        manager = PgQueuer(AsyncpgDriver(connection))
        manager.entrypoint("bench")(tell)
        async with asyncio.TaskGroup() as group:
            group.create_task(manager.run())
            try:
                yield
            finally:
                manager.shutdown.set()
        await connection.close()

    async def check(self, finished: int, left: int) -> None:
        """Count the jobs in the queue, and those that the log calls successful."""
        row = await self._pool.fetchrow(
            "select (select count(*) from pgqueuer) as left,"
            " (select count(distinct job_id) from pgqueuer_log where status = 'successful')"
            " as finished"
        )
        compare_counts("PgQueuer", {"finished": finished, "left": left}, dict(row or {}))


logging.getLogger("pgqueuer").setLevel(logging.WARNING)
