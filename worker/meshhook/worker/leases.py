"""Keeping leases: one batched statement extends all that would otherwise run out.

It runs in a thread of its own, with its own event loop and connection, so that a handler that
blocks the worker's event loop does not cost the worker its leases.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from meshhook import queries
from meshhook.errors import DatabaseError, DatabaseUnavailableError
from meshhook.observability.loggers import get_logger
from meshhook.worker.connections import STATEMENT_TIMEOUT_SECONDS, WorkerConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from meshhook.observability.loops import WatchedLoop
    from meshhook.observability.worker_metrics import WorkerMetrics

_log = get_logger("meshhook.worker.leases")

MAX_BATCH_LEASES = 1_000
STOP_SECONDS = 5.0


class LeaseTable:
    """The leases that a worker holds: msg_id → (attempt, last extended, held until at most).

    Shared by two threads. Times are seconds of the process's monotonic clock; they only say when
    to ask the database, which alone decides whether a lease still holds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[int, tuple[int, float, float]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, leases: Iterable[tuple[int, int]], claimed_at: float) -> None:
        """Add leases, as (msg_id, attempt), that were claimed at `claimed_at`."""
        with self._lock:
            for msg_id, attempt in leases:
                self._held[msg_id] = (attempt, claimed_at, float("inf"))

    def limit(self, msg_id: int, until: float) -> None:
        """Extend a lease no further than `until`: its job has a time limit."""
        with self._lock:
            if msg_id in self._held:
                attempt, extended_at, _ = self._held[msg_id]
                self._held[msg_id] = (attempt, extended_at, until)

    def discard(self, leases: Iterable[tuple[int, int]]) -> None:
        """Forget leases, as (msg_id, attempt); those of another attempt stay."""
        with self._lock:
            for msg_id, attempt in leases:
                held = self._held.get(msg_id)
                if held is not None and held[0] == attempt:
                    del self._held[msg_id]

    def due(self, now: float, age_seconds: float) -> dict[int, int]:
        """Return the leases last extended `age_seconds` ago or earlier: msg_id → attempt."""
        with self._lock:
            return {
                msg_id: attempt
                for msg_id, (attempt, extended_at, until) in self._held.items()
                if now - extended_at >= age_seconds and now < until
            }

    def extended(self, leases: Mapping[int, int], extended_at: float) -> None:
        """Note that leases, msg_id → attempt, were extended at `extended_at`."""
        with self._lock:
            for msg_id, attempt in leases.items():
                held = self._held.get(msg_id)
                if held is not None and held[0] == attempt:
                    self._held[msg_id] = (attempt, extended_at, held[2])


@dataclass(frozen=True, slots=True)
class KeptQueue:
    """The leases of one queue, and what their keeper needs to know."""

    tables: queries.QueueTables
    leases: LeaseTable
    lease_seconds: Callable[[], float]
    """Returns how long a lease lasts now."""
    on_lost: Callable[[dict[int, int]], None]
    """Is called in the worker's event loop with leases that were lost, as msg_id → attempt."""
    metrics: WorkerMetrics
    """Counts extensions."""


class LeaseKeeper:
    """Extends the leases of a worker's queues until stopped. `start` and `stop` are idempotent."""

    def __init__(
        self,
        *,
        url: str,
        pooled: bool,
        application_name: str,
        queues: Sequence[KeptQueue],
        loop: WatchedLoop,
    ) -> None:
        """Take what it needs.

        Args:
            url: the database.
            pooled: whether a pooler in transaction mode stands between.
            application_name: what `pg_stat_activity` shows.
            queues: the queues whose leases it keeps.
            loop: is told at every turn.
        """
        self._new_connection = partial(
            WorkerConnection, url, pooled=pooled, application_name=application_name
        )
        self._queues = queues
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._keeper_loop: asyncio.AbstractEventLoop | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._worker_loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    def start(self) -> None:
        """Start the thread, from within the worker's event loop."""
        if self._thread is not None:
            return
        self._worker_loop = asyncio.get_running_loop()
        self._ended.clear()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._run_loop, args=(ready,), name="meshhook-leases", daemon=True
        )
        self._thread.start()
        ready.wait()

    async def stop(self) -> None:
        """Stop the thread, also in the middle of an extension, and wait up to 5 seconds for it."""
        thread, self._thread = self._thread, None
        if thread is None or self._keeper_loop is None or self._keeping is None:
            return
        if thread.is_alive():
            self._keeper_loop.call_soon_threadsafe(self._keeping.cancel)
        # Not a join in a thread: handlers may have blocked all of those. One that hangs, as in
        # looking up a name, is a daemon and holds up nothing.
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._ended.wait()

    def _run_loop(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._run(ready))
        finally:
            # A loop that is closed has nobody who waits.
            with suppress(RuntimeError):
                if self._worker_loop is not None:
                    self._worker_loop.call_soon_threadsafe(self._ended.set)

    async def _run(self, ready: threading.Event) -> None:
        self._keeper_loop = asyncio.get_running_loop()
        self._keeping = asyncio.create_task(self._keep(), name="meshhook-leases")
        ready.set()
        await asyncio.wait([self._keeping])
        if not self._keeping.cancelled() and (error := self._keeping.exception()) is not None:
            _log.error("leases are no longer extended", exc_info=error)

    async def _keep(self) -> None:
        connection = self._new_connection()
        try:
            while True:
                self._loop.turn()
                shortest_seconds = min(queue.lease_seconds() for queue in self._queues)
                try:
                    for queue in self._queues:
                        await self._extend_due(connection, queue)
                except DatabaseUnavailableError:
                    pass  # said already; the other queues' turn is no better
                await asyncio.sleep(min(1.0, shortest_seconds / 8))
        finally:
            await connection.close()

    async def _extend_due(self, connection: WorkerConnection, queue: KeptQueue) -> None:
        lease_seconds = queue.lease_seconds()
        due = list(queue.leases.due(time.monotonic(), lease_seconds / 3).items())
        sql = queries.load("extend", queue.tables) if due else ""
        for start in range(0, len(due), MAX_BATCH_LEASES):
            batch = dict(due[start : start + MAX_BATCH_LEASES])
            asked_at = time.monotonic()
            self._loop.turn()
            try:
                with queue.metrics.operation("extend"):
                    rows = await connection.fetch(
                        sql,
                        list(batch),
                        list(batch.values()),
                        lease_seconds,
                        # So that there is time to try again before a lease ends.
                        timeout_seconds=min(STATEMENT_TIMEOUT_SECONDS, max(0.5, lease_seconds / 4)),
                    )
            except DatabaseError as error:
                queue.metrics.lease_extensions("error", len(batch))
                _log.warning(
                    "leases not extended",
                    queue=queue.tables.queue_name,
                    leases=len(batch),
                    error=str(error),
                )
                if isinstance(error, DatabaseUnavailableError):
                    raise
                return
            extended = {row["msg_id"]: batch[row["msg_id"]] for row in rows if row["is_extended"]}
            queue.leases.extended(extended, asked_at)
            held = {row["msg_id"] for row in rows}
            lost = {i: a for i, a in batch.items() if i not in held}
            queue.metrics.lease_extensions("extended", len(extended))
            if lost and self._worker_loop is not None:
                self._worker_loop.call_soon_threadsafe(queue.on_lost, lost)
