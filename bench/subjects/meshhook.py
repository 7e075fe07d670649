"""MeshHook Queue with its defaults. History and metrics are always on; nothing is turned off."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg

from bench.subject import KeyedSubject, Work, compare_counts
from meshhook import (
    Database,
    Job,
    MonitoringServer,
    QueueService,
    Worker,
    WorkflowJob,
    create_job_handler,
    create_queue,
    get_queue_config,
    set_queue_config,
)
from meshhook.names import KEY_HEADER
from meshhook.postgres.connecting import connect
from meshhook.schema import migrate
from meshhook.store import queries
from meshhook.worker.process import leave_program_alone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

CONCURRENCY = 50
LOOK_SECONDS = 0.002
# As in messages.py: about 256 bytes of payload.
_FILL_KEYED = """
insert into pgmq.q_bench (vt, message, headers)
select clock_timestamp(), jsonb_build_object(
        'run_id', 'run-' || i, 'workflow_id', 'bench', 'project_id', 'bench',
        'payload', jsonb_build_object('i', i, 'text', left(repeat(md5(i::text), 8), 240))),
    jsonb_build_object('x-pgmq-group', 'tenant-' || i % $2::int)
from generate_series(1, $1::int) i
"""
_DELETE = "delete from pgmq.q_bench where msg_id = any ($1::bigint[])"
_LEASED = """
select count(*) from pgmq.q_bench
where vt > clock_timestamp() and meshhook.has_open_attempt(read_ct, headers)
"""


class Subject(KeyedSubject):
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
        """Open a pool and a queue service on it, in a process set up like `meshhook worker`."""
        leave_program_alone()
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

    async def enqueue_many(self, jobs: Sequence[WorkflowJob]) -> None:
        """Store a batch."""
        await self._queue.enqueue_many(jobs)

    async def enqueue_group(self, jobs: Sequence[WorkflowJob]) -> None:
        """Store a batch as a group with a name of its own."""
        await self._queue.enqueue_many(jobs, group=uuid4())

    async def enqueue_unique(self, job: WorkflowJob, key: str) -> None:
        """Store one job with a unique key."""
        await self._queue.enqueue(job, unique_key=key)

    async def enqueue_many_unique(self, jobs: Sequence[WorkflowJob], keys: Sequence[str]) -> None:
        """Store a batch with unique keys."""
        await self._queue.enqueue_many(jobs, unique_keys=keys)

    async def set_keys(
        self,
        *,
        is_keyed: bool,
        is_ordered: bool = False,
        max_running: int | None = None,
        max_running_per_key: int | None = None,
    ) -> None:
        """Set the queue."""
        await set_queue_config(
            self._pool,
            "bench",
            keyed=is_keyed,
            ordered=is_ordered,
            max_running=max_running,
            max_running_per_key=max_running_per_key,
        )

    async def fill_keyed(self, jobs: int, keys: int) -> None:
        """Let the server make the jobs: headers are the same in a queue that is not keyed."""
        await self._pool.execute(_FILL_KEYED, jobs, keys)
        await self._pool.execute("vacuum analyze pgmq.q_bench")

    async def enqueue_keyed(self, run_id: str, key: str) -> None:
        """Store one job."""
        job = WorkflowJob(run_id=run_id, workflow_id="bench", project_id="bench", payload={})
        await self._queue.enqueue(job, key=key)

    @asynccontextmanager
    async def claiming(self, claimers: int) -> AsyncIterator[Callable[[int, int], Awaitable[int]]]:
        """Connect as the producer of a worker does, and run its statement; nothing is decoded."""
        keys = (await get_queue_config(self._pool, "bench")).keys
        sql = queries.load("claim_keyed" if keys else "claim", "bench")
        from_keys: list[str | None] = [None] * claimers
        async with AsyncExitStack() as stack:
            connections = []
            for _ in range(claimers):
                connection = await connect(self.url, steady_plans=True)
                stack.push_async_callback(connection.close)
                connections.append(connection)

            async def claim_and_delete(number: int, limit: int) -> int:
                connection = connections[number]
                more = (from_keys[number], None, False) if keys else ()
                rows = await connection.fetch(sql, 30.0, None, limit, 5, None, "bench", *more)
                if keys:
                    from_keys[number] = rows.pop()["next_key"]
                if rows:
                    await connection.execute(_DELETE, [row["msg_id"] for row in rows])
                return len(rows)

            yield claim_and_delete

    @asynccontextmanager
    async def running(
        self, workers: int, slots: int | None, run: Callable[[str, str], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Keep workers running."""

        @create_job_handler
        async def pass_on(job: Job[Any]) -> None:
            await run(job.run_id or "", job.headers[KEY_HEADER])

        async with AsyncExitStack() as stack:
            for _ in range(workers):
                worker = Worker(self.url, "bench", pass_on, concurrency=slots or CONCURRENCY)
                await stack.enter_async_context(worker)
            yield

    async def leased(self) -> int:
        """Count as limits do."""
        return int(await self._pool.fetchval(_LEASED))

    async def drain(self, jobs: int, work: Work, on_done: Callable[[], None]) -> None:
        """Run a worker until the outcomes of all jobs are recorded."""

        @create_job_handler
        async def run(_: Job[Any]) -> None:
            await work.run()

        await self._drain(jobs, run, on_done)

    async def drain_batches(
        self, jobs: int, batch: int, work: Work, on_done: Callable[[], None]
    ) -> None:
        """Run a worker whose handler takes batches, until all outcomes are recorded."""

        @create_job_handler(batch=batch)
        async def run(batch: list[Job[Any]]) -> None:
            await work.run(len(batch))

        await self._drain(jobs, run, on_done)

    async def _drain(self, jobs: int, handler: Any, on_done: Callable[[], None]) -> None:
        async with self._worker(handler) as worker:
            # No event says that it is done; looking every 2 ms is exact enough.
            while worker.get_stats().processed < jobs:
                await asyncio.sleep(LOOK_SECONDS)
            on_done()

    @asynccontextmanager
    async def consuming(self, on_job: Callable[[str], None]) -> AsyncIterator[None]:
        """Keep a worker running."""

        @create_job_handler
        async def tell(job: Job[Any]) -> None:
            on_job(job.run_id or "")

        async with self._worker(tell):
            yield

    @asynccontextmanager
    async def working(self, consumers: int) -> AsyncIterator[Callable[[], int]]:
        """Keep so many workers running: each has one connection that claims."""
        workers = [self._worker(_do_nothing) for _ in range(consumers)]
        async with AsyncExitStack() as stack:
            for worker in workers:
                await stack.enter_async_context(worker)
            yield lambda: sum(worker.get_stats().processed for worker in workers)

    async def finish(self, jobs: int) -> None:
        """Run a worker: the history is the record that it keeps."""
        await self.drain(jobs, Work(), on_done=lambda: None)

    async def serve_metrics(self) -> str:
        """Serve the metrics as `meshhook worker --metrics-port` does."""
        server = MonitoringServer(0, address="127.0.0.1")
        server.start()
        return f"http://127.0.0.1:{server.port}/metrics"

    def _worker(self, handler: Any) -> Worker:
        return Worker(self.url, "bench", handler, concurrency=CONCURRENCY)

    async def check(self, finished: int, left: int) -> None:
        """Count the messages that are left, and the finished jobs in the history."""
        row = await self._pool.fetchrow(
            "select (select count(*) from pgmq.q_bench) as left, (select count(distinct msg_id)"
            " from meshhook.job_attempts where outcome = 'succeeded') as finished"
        )
        compare_counts("MeshHook Queue", {"finished": finished, "left": left}, dict(row or {}))


@create_job_handler
async def _do_nothing(_: Job[Any]) -> None:
    pass


logging.getLogger("meshhook").setLevel(logging.WARNING)
