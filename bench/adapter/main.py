"""MeshHook Queue as a system of hardbyte/postgresql-job-queue-benchmarking.

One process that produces and consumes until SIGTERM. Standard output is JSON, a record a line;
standard error is for people. `README.md` beside it says how to hook it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import logging
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import uvloop
from controls import ControlError, Controls, read_controls, read_orders
from latencies import Latencies

from meshhook import (
    Database,
    Job,
    QueueService,
    Worker,
    WorkflowJob,
    create_job_handler,
    create_queue,
    migrate,
)
from meshhook.errors import DatabaseError
from meshhook.schema import available_migrations

MANIFEST: dict[str, Any] = json.loads((Path(__file__).parent / "adapter.json").read_text())
SYSTEM: str = MANIFEST["system"]
QUEUE = "long_horizon_bench"
ENVELOPE_BYTES = 120
"""What a message has beside its padding."""
GRACE_SECONDS = 3.0
"""For the worker to stop, of the 5 that the harness allows; it keeps two for itself."""
RETRY_SECONDS = 0.2
"""Between tries while the database is away: the harness restarts it on purpose."""
DEPTH_SECONDS = 0.25
DEPTH_LIMIT = 1_000_000
"""Beyond it, jobs are not counted: a sample must not become the load."""
SHARES = (0.5, 0.95, 0.99)
_PARTITIONS = """
select relid::text from pg_partition_tree('meshhook.job_attempts') where isleaf order by 1
"""


_log = logging.getLogger(__name__)


class Adapter:
    """The run of one instance."""

    def __init__(self, controls: Controls, queue: QueueService[Any], worker: Worker) -> None:
        """Take what it runs with."""
        self._controls, self._queue, self._worker = controls, queue, worker
        self._orders: asyncio.Queue[int] = asyncio.Queue()
        self._ordered = controls.pacing == "harness"
        self._enqueued = 0
        self._depth = 0
        self.picked_up = Latencies(controls.window_seconds)
        self.finished = Latencies(controls.window_seconds)
        self._stored = Latencies(controls.window_seconds)

    async def run(self, stop: asyncio.Event) -> None:
        """Produce, and tell samples, until the event; the last sample is that of its moment."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._sample(stop), name="samples")]
            if self._controls.observes:
                tasks.append(group.create_task(self._look(), name="depth"))
            if self._controls.produces:
                if self._controls.pacing != "adapter":
                    read_orders(self._order, asyncio.get_running_loop())
                    tasks.append(group.create_task(self._obey(), name="orders"))
                tasks.append(group.create_task(self._produce(), name="producer"))
            await stop.wait()
            for task in tasks[1:]:
                task.cancel()

    def _order(self, count: int) -> None:
        self._ordered = True
        self._orders.put_nowait(count)

    async def _obey(self) -> None:
        """Insert what the harness orders; each order is one insert, unless it is too large."""
        while True:
            left = await self._orders.get()
            while left > 0:
                await self._insert(min(left, self._controls.producer_batch_max))
                left -= self._controls.producer_batch_max

    async def _produce(self) -> None:
        """Insert by the rate or by the depth, while nobody orders."""
        controls = self._controls
        if controls.producer_mode == "depth-target":
            while True:
                try:
                    missing = controls.target_depth - await self._ready()
                except DatabaseError:
                    missing = 0
                if missing > 0:
                    await self._insert(min(missing, controls.producer_batch_max))
                else:
                    await asyncio.sleep(controls.producer_batch_seconds)
        credit, last = 0.0, time.monotonic()
        while not self._ordered:
            now = time.monotonic()
            credit += (now - last) * controls.producer_rate
            last = now
            if credit >= 1:
                count = min(int(credit), controls.producer_batch_max)
                credit -= count
                await self._insert(count)
            if credit < 1:
                await asyncio.sleep(controls.producer_batch_seconds)

    async def _insert(self, count: int) -> None:
        padding = "x" * max(0, self._controls.payload_bytes - ENVELOPE_BYTES)
        now_ms = time.time() * 1e3
        jobs = [
            WorkflowJob(
                run_id=f"{self._controls.instance_id}-{self._enqueued + number}",
                workflow_id=SYSTEM,
                project_id=SYSTEM,
                payload={"enqueued_at_ms": now_ms, "padding": padding},
            )
            for number in range(count)
        ]
        began = time.monotonic()
        try:
            await self._queue.enqueue_many(jobs)
        except DatabaseError as error:
            _log.warning("an insert of %d jobs failed: %s", count, error)
            await asyncio.sleep(RETRY_SECONDS)
            return
        ended = time.monotonic()
        self._enqueued += count
        # As the other adapters do: an insert's time, shared by its jobs.
        self._stored.add((ended - began) * 1e3 / count, ended)

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(DatabaseError):
                self._depth = await self._ready()
            await asyncio.sleep(DEPTH_SECONDS)

    async def _ready(self) -> int:
        return (await self._queue.get_queue_metrics(count_limit=DEPTH_LIMIT)).ready

    async def _sample(self, stop: asyncio.Event) -> None:
        """Tell a sample at each boundary of the wall clock, where those of other systems are."""
        period = self._controls.sample_seconds
        enqueued, completed, last = 0, 0, time.monotonic()
        while not stop.is_set():
            try:
                async with asyncio.timeout(period - time.time() % period):
                    await stop.wait()
            except TimeoutError:
                pass
            now = time.monotonic()
            succeeded = self._worker.get_stats().succeeded
            elapsed = max(now - last, 0.001)
            self._tell(
                enqueue_rate=(self._enqueued - enqueued) / elapsed,
                completion_rate=(succeeded - completed) / elapsed,
            )
            enqueued, completed, last = self._enqueued, succeeded, now

    def _tell(self, *, enqueue_rate: float, completion_rate: float) -> None:
        controls, now = self._controls, time.monotonic()
        values: list[tuple[str, float, float]] = []
        for names, latencies in (
            (("claim", "subscriber"), self.picked_up),
            (("end_to_end",), self.finished),
            (("producer",), self._stored),
        ):
            found = latencies.percentiles(SHARES, now)
            values += [
                (f"{name}_p{share * 100:.0f}_ms", value, controls.window_seconds)
                for name in names
                for share, value in zip(SHARES, found, strict=True)
            ]
        values += [
            ("enqueue_rate", enqueue_rate, controls.sample_seconds),
            ("completion_rate", completion_rate, controls.sample_seconds),
        ]
        if controls.observes:
            values += [
                ("queue_depth", self._depth, 0),
                ("producer_target_rate", controls.producer_rate, 0),
            ]
        moment = _iso_now()
        for metric, value, window_s in values:
            emit(
                {
                    "t": moment,
                    "system": SYSTEM,
                    "kind": "adapter",
                    "subject_kind": "adapter",
                    "subject": "",
                    "metric": metric,
                    "value": round(value, 4),
                    "window_s": window_s,
                    "instance_id": controls.instance_id,
                }
            )


async def run(controls: Controls) -> None:
    """Install, say what this is, and run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    pool = await asyncpg.create_pool(controls.database_url, min_size=1, max_size=3)
    adapter: Adapter | None = None

    @create_job_handler
    async def handle(job: Job[Any]) -> None:
        assert adapter is not None
        enqueued_at_ms = job.payload["enqueued_at_ms"]
        adapter.picked_up.add(time.time() * 1e3 - enqueued_at_ms, time.monotonic())
        if controls.work_seconds:
            await asyncio.sleep(controls.work_seconds)
        adapter.finished.add(time.time() * 1e3 - enqueued_at_ms, time.monotonic())

    async with pool:
        async with pool.acquire() as connection:
            await migrate(connection)
            await create_queue(Database(connection), QUEUE)
            partitions = [row[0] for row in await connection.fetch(_PARTITIONS)]
        emit(_descriptor(controls, partitions))
        worker = Worker(
            controls.database_url,
            QUEUE,
            handle,
            concurrency=controls.worker_count,
            grace_seconds=GRACE_SECONDS,
        )
        queue: QueueService[dict[str, Any]]
        async with QueueService(pool, QUEUE) as queue:
            adapter = Adapter(controls, queue, worker)
            async with worker:
                await adapter.run(stop)


def _descriptor(controls: Controls, partitions: list[str]) -> dict[str, Any]:
    return {
        "kind": "descriptor",
        "system": SYSTEM,
        "event_tables": [*MANIFEST["event_tables"], *partitions],
        "extensions": MANIFEST["extensions"],
        "version": f"meshhook-queue {importlib.metadata.version('meshhook-queue')}",
        "schema_version": str(available_migrations()[-1].version),
        "db_name": urlsplit(controls.database_url).path.removeprefix("/"),
        "started_at": _iso_now(),
        "instance_id": controls.instance_id,
    }


def emit(record: dict[str, Any]) -> None:
    """Write one record."""
    print(json.dumps(record), flush=True)


def _iso_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main() -> int:
    """Run, and return the exit code: 0 after SIGTERM, 2 for controls that make no sense."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    try:
        controls = read_controls()
    except ControlError as error:
        print(error, file=sys.stderr)
        return 2
    uvloop.run(run(controls))
    return 0


if __name__ == "__main__":
    sys.exit(main())
