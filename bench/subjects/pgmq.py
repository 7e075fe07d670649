"""Raw PGMQ through asyncpg: its SQL functions and nothing else. The yardstick.

No payload is parsed, no attempt is counted, retried or recorded. Bodies are JSON text already.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
from subject import BenchSubject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

LEASE_SECONDS = 30
BATCH = 100


class Subject(BenchSubject):
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

    async def enqueue_many(self, jobs: Sequence[str], delay_seconds: int = 0) -> None:
        """Run one statement for all."""
        await self._pool.fetch(
            "select pgmq.send_batch('bench', $1::jsonb[], $2::integer)", jobs, delay_seconds
        )

    async def drain(self, jobs: int, on_done: Callable[[], None]) -> None:
        """Read and delete batches on one connection."""
        connection = await asyncpg.connect(self.url)
        left = jobs
        while left:
            rows = await connection.fetch(
                "select * from pgmq.read('bench', $1, $2)", LEASE_SECONDS, BATCH
            )
            if not rows:
                raise RuntimeError(f"the queue is empty, with {left} of {jobs} jobs not read")
            ids = [row["msg_id"] for row in rows]
            await connection.fetch("select pgmq.delete('bench', $1::bigint[])", ids)
            left -= len(rows)
        on_done()
        await connection.close()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[], None]) -> AsyncIterator[None]:
        """Wait with pgmq.read_with_poll, which looks every 100 ms unless told otherwise."""
        connection = await asyncpg.connect(self.url)

        async def consume() -> None:
            while True:
                for row in await connection.fetch(
                    "select * from pgmq.read_with_poll('bench', $1, 1)", LEASE_SECONDS
                ):
                    on_job()
                    await connection.fetchval(
                        "select pgmq.delete('bench', $1::bigint)", row["msg_id"]
                    )

        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(consume())
                yield
                task.cancel()
        finally:
            connection.terminate()

    async def check(self, finished: int, left: int) -> None:
        """Count the messages that are left; PGMQ keeps no record of the others."""
        found = await self._pool.fetchval("select count(*) from pgmq.q_bench")
        if found != left:
            raise RuntimeError(f"raw PGMQ finished {finished} jobs: {found} left, not {left}")
