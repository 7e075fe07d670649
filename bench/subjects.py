"""What is measured: raw PGMQ and MeshHook Queue behind one interface."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any, Protocol

import asyncpg
from prometheus_client import CollectorRegistry

from meshhook import Database, Job, QueueService, Worker, create_queue, drop_queue

QUEUE = "bench"
CALLERS_POOL = 16


class Subject(Protocol):
    """A queue that can be measured."""

    name: str

    async def open(self) -> None:
        """Make an empty queue."""

    async def close(self) -> None:
        """Let go of the database."""

    def prepared(self, body: str) -> Any:
        """Return a message as its senders take it; not measured."""

    async def send_many(self, bodies: Sequence[Any]) -> None:
        """Store up to 1,000 messages in one durable statement."""

    async def send(self, body: Any) -> None:
        """Store one message, durably; called from many tasks at once."""

    async def drain(self, count: int) -> float:
        """Take and settle `count` messages that are there, in this process; return the seconds."""

    async def pickups(self, count: int) -> list[float]:
        """Return the seconds from before a send to the message's arrival, for an idle receiver."""


class RawPgmq:
    """PGMQ's own functions through asyncpg: no retries, no history, no dead letters."""

    name = "raw PGMQ"

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: Any = None

    async def open(self) -> None:
        self._pool = await asyncpg.create_pool(self._url, min_size=2, max_size=CALLERS_POOL)
        await self._pool.execute(
            "select pgmq.drop_queue($1) from pgmq.meta where queue_name = $1", QUEUE
        )
        await self._pool.execute("select pgmq.create($1)", QUEUE)

    async def close(self) -> None:
        await self._pool.execute("select pgmq.drop_queue($1)", QUEUE)
        await self._pool.close()

    def prepared(self, body: str) -> str:
        return body

    async def send_many(self, bodies: Sequence[Any]) -> None:
        await self._pool.execute("select pgmq.send_batch($1, $2::jsonb[])", QUEUE, bodies)

    async def send(self, body: Any) -> None:
        await self._pool.execute("select pgmq.send($1, $2::jsonb)", QUEUE, body)

    async def drain(self, count: int) -> float:
        left = count
        async with self._pool.acquire() as connection:
            began_at = time.perf_counter()
            while left:
                rows = await connection.fetch("select * from pgmq.read($1, 30, 100)", QUEUE)
                ids = [row["msg_id"] for row in rows]
                await connection.execute("select pgmq.delete($1, $2::bigint[])", QUEUE, ids)
                left -= len(rows)
            return time.perf_counter() - began_at

    async def pickups(self, count: int) -> list[float]:
        sent_at = 0.0
        found: list[float] = []
        async with self._pool.acquire() as reader:
            for _ in range(count):
                reading = asyncio.create_task(
                    reader.fetch("select * from pgmq.read_with_poll($1, 30, 1)", QUEUE)
                )
                await asyncio.sleep(0.05)
                sent_at = time.perf_counter()
                await self.send(self.prepared("{}"))
                rows = await reading
                found.append(time.perf_counter() - sent_at)
                await reader.execute("select pgmq.delete($1, $2::bigint)", QUEUE, rows[0]["msg_id"])
        return found


class MeshHook:
    """A worker of this library with concurrency 50; history and metrics are on, as always."""

    name = "MeshHook Queue"

    def __init__(self, url: str) -> None:
        self._url = url
        self._database: Any = None
        self._queue: Any = None

    async def open(self) -> None:
        self._database = await Database.connect(self._url, max_size=CALLERS_POOL)
        await drop_queue(self._database, QUEUE)
        await create_queue(self._database, QUEUE)
        self._queue = QueueService[Any](self._database, QUEUE)

    async def close(self) -> None:
        await self._queue.close()
        await drop_queue(self._database, QUEUE)
        await self._database.close()

    def prepared(self, body: str) -> Any:
        return json.loads(body)

    async def send_many(self, bodies: Sequence[Any]) -> None:
        await self._queue.enqueue_many(bodies)

    async def send(self, body: Any) -> None:
        await self._queue.enqueue(body)

    async def drain(self, count: int) -> float:
        async def nothing(_: Job[Any]) -> None:
            """Do nothing."""

        worker = self._worker(nothing)
        began_at = time.perf_counter()
        await worker.start()
        while worker.get_stats().processed < count:
            await asyncio.sleep(0.002)
        seconds = time.perf_counter() - began_at
        await worker.stop()
        return seconds

    async def pickups(self, count: int) -> list[float]:
        arrived = asyncio.Event()
        arrived_at = 0.0

        async def arrive(_: Job[Any]) -> None:
            nonlocal arrived_at
            arrived_at = time.perf_counter()
            arrived.set()

        found: list[float] = []
        async with self._worker(arrive):
            for _ in range(count):
                await asyncio.sleep(0.05)
                arrived.clear()
                sent_at = time.perf_counter()
                await self.send(self.prepared("{}"))
                await arrived.wait()
                found.append(arrived_at - sent_at)
        return found

    def _worker(self, handler: Any) -> Worker:
        return Worker(self._url, QUEUE, handler, concurrency=50, registry=CollectorRegistry())
