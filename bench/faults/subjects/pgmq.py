"""Raw PGMQ: a loop that reads, works and deletes, and connects again when that fails."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import asyncpg

from bench.faults.program import Work, main
from meshhook.schema.pgmq import packaged_sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LEASE_SECONDS = 3
BATCH = 20
_READ = "select msg_id, message->>'run_id' as run_id from pgmq.read('faults', $1, $2)"


async def install(url: str) -> None:
    """Make a queue."""
    connection = await asyncpg.connect(url)
    await connection.execute(packaged_sql())
    await connection.execute("select pgmq.create('faults')")
    await connection.close()


async def make_producer(url: str) -> Callable[[str], Awaitable[object]]:
    """Return what sends a message."""
    pool = await asyncpg.create_pool(url, min_size=1, max_size=8)

    async def enqueue(run_id: str) -> None:
        body = json.dumps({"run_id": run_id})
        await pool.fetchval("select pgmq.send('faults', $1::jsonb)", body)

    return enqueue


async def work(url: str, job: Work) -> None:
    """Read for three seconds, work, delete; begin anew with a new connection after an error."""
    while True:
        try:
            connection = await asyncpg.connect(url, timeout=5)
            try:
                while True:
                    rows = await connection.fetch(_READ, LEASE_SECONDS, BATCH, timeout=30)
                    await asyncio.gather(*(job.run(row["run_id"]) for row in rows))
                    ids = [row["msg_id"] for row in rows]
                    await connection.execute(
                        "select pgmq.delete('faults', $1::bigint[])", ids, timeout=30
                    )
                    if not rows:
                        await asyncio.sleep(0.1)
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await asyncio.sleep(0.5)


main(install=install, make_producer=make_producer, work=work)
