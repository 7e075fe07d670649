"""Raw PGMQ through asyncpg: its SQL functions and nothing else. The yardstick.

No payload is parsed, no attempt is counted, retried or recorded. Bodies are JSON text already.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

from bench.subject import DegradationSubject, Work, compare_counts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

LEASE_SECONDS = 30
BATCH = 100
FINISH_BATCH = 1_000
LOOK_SECONDS = 0.002
_READ = "select * from pgmq.read('bench', $1, $2)"
_NOTIFY = "select pgmq.enable_notify_insert('bench', 0)"
_CHANNEL = "pgmq.q_bench.INSERT"
_DELETE = "select pgmq.delete('bench', $1::bigint[])"
_ARCHIVE = "select pgmq.archive('bench', $1::bigint[])"


class Subject(DegradationSubject):
    """The functions of PGMQ on a queue that `pgmq.create` made."""

    _pool: asyncpg.Pool

    @classmethod
    async def install(cls, url: str) -> dict[str, str]:
        """Run the same SQL of PGMQ that MeshHook Queue installs."""
        # Here, since only the installation needs the package.
        from meshhook.schema.pgmq import packaged_sql, packaged_version  # noqa: PLC0415

        connection = await asyncpg.connect(url)
        await connection.execute(packaged_sql())
        await connection.execute("select pgmq.create('bench')")
        await connection.close()
        return {"pgmq": packaged_version() or "unknown"}

    async def open(self, connections: int) -> None:
        """Open a pool."""
        self._pool = await asyncpg.create_pool(self.url, min_size=connections, max_size=connections)

    async def close(self) -> None:
        """Close the pool."""
        await self._pool.close()

    def job(self, message: dict[str, Any]) -> str:
        """Return JSON text."""
        return json.dumps(message, ensure_ascii=False, separators=(",", ":"))

    async def enqueue(self, job: str) -> None:
        """Run one statement."""
        await self._pool.fetchval("select pgmq.send('bench', $1::jsonb)", job)

    async def enqueue_many(self, jobs: Sequence[str]) -> None:
        """Run one statement for all."""
        await self._pool.fetch("select pgmq.send_batch('bench', $1::jsonb[])", jobs)

    async def drain(self, jobs: int, work: Work, on_done: Callable[[], None]) -> None:
        """Read and delete batches on one connection; jobs that wait do so a batch at a time."""
        connection = await asyncpg.connect(self.url)
        while work.runs < jobs:
            rows = await connection.fetch(_READ, LEASE_SECONDS, BATCH)
            if not rows:
                raise RuntimeError(f"the queue is empty, with {work.runs} of {jobs} jobs read")
            if work.seconds:
                await asyncio.gather(*(work.run() for _ in rows))
            else:
                work.runs += len(rows)
            await connection.fetch(_DELETE, [row["msg_id"] for row in rows])
        on_done()
        await connection.close()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[str], None]) -> AsyncIterator[None]:
        """Read when PGMQ's own notification says that there is something, until all is read."""
        connection = await asyncpg.connect(self.url)
        await connection.execute(_NOTIFY)
        notified = asyncio.Event()
        await connection.add_listener(_CHANNEL, lambda *_: notified.set())

        async def consume() -> None:
            while True:
                notified.clear()
                rows = await connection.fetch(_READ, LEASE_SECONDS, BATCH)
                for row in rows:
                    on_job(json.loads(row["message"])["run_id"])
                if rows:
                    await connection.fetch(_DELETE, [row["msg_id"] for row in rows])
                else:
                    await notified.wait()

        task = asyncio.create_task(consume(), name="consume")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            connection.terminate()
            if not task.cancelled():
                task.result()

    @asynccontextmanager
    async def working(self, consumers: int) -> AsyncIterator[Callable[[], int]]:
        """Read and delete on each connection; the idle ones look every 2 ms, all taken together."""
        connections = [await asyncpg.connect(self.url) for _ in range(consumers)]
        deleted = 0
        stopping = False

        async def consume(connection: asyncpg.Connection) -> None:
            nonlocal deleted
            while not stopping:
                rows = await connection.fetch(_READ, LEASE_SECONDS, BATCH)
                if not rows:
                    await asyncio.sleep(LOOK_SECONDS * consumers)
                    continue
                gone = await connection.fetch(_DELETE, [row["msg_id"] for row in rows])
                # Fewer than were read, if the read took so long that another consumer had them too.
                deleted += len(gone)

        async with asyncio.TaskGroup() as group:
            for connection in connections:
                group.create_task(consume(connection))
            try:
                yield lambda: deleted
            finally:
                stopping = True
        for connection in connections:
            await connection.close()

    async def finish(self, jobs: int) -> None:
        """Read and archive: the archive is the record that PGMQ keeps."""
        while jobs > 0:
            rows = await self._pool.fetch(_READ, LEASE_SECONDS, FINISH_BATCH)
            await self._pool.fetch(_ARCHIVE, [row["msg_id"] for row in rows])
            jobs -= len(rows)

    async def check(self, finished: int, left: int) -> None:
        """Count the messages that are left; PGMQ keeps no record of those that were deleted."""
        found = await self._pool.fetchval("select count(*) from pgmq.q_bench")
        compare_counts(f"Raw PGMQ, {finished:,} finished,", {"left": left}, {"left": found})
