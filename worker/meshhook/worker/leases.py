"""Keeping leases: one batched statement extends all that would otherwise run out.

It runs in a thread of its own, with its own event loop and connection, so that a handler that
blocks the worker's event loop does not cost the worker its leases.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from meshhook.errors import DatabaseError, DatabaseUnavailableError
from meshhook.jobs import Job, JobKey
from meshhook.observability.loggers import get_logger
from meshhook.store import queries
from meshhook.worker.connections import STATEMENT_TIMEOUT_SECONDS, WorkerConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from meshhook.observability.loops import WatchedLoop
    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.worker.attempts import RunningAttempt

_log = get_logger("meshhook.worker.leases")

MAX_BATCH_LEASES = 1_000
STOP_SECONDS = 5.0


class Lease:
    """A lease that a worker holds. Times are seconds of the process's monotonic clock."""

    __slots__ = ("extended_at", "key", "read_ct")

    def __init__(self, key: JobKey, read_ct: int, claimed_at: float) -> None:
        self.key = key
        self.read_ct = read_ct
        self.extended_at = claimed_at
        """When the database was asked for it last, and said yes."""


class LeaseTable:
    """The leases that a worker holds, by job.

    Shared by two threads. Times only say when to ask the database, which alone decides whether a
    lease still holds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[JobKey, Lease] = {}
        self.running: Mapping[JobKey, RunningAttempt] = {}
        """The attempts under way. A lease is not extended for ever for a handler that never ends;
        that of a job which waits for its start, or has ended and waits to be recorded, is."""
        self.cannot_be_extended = False
        """Whether the database could not be asked lately: what is claimed now might run twice."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, jobs: Iterable[Job[Any]], claimed_at: float) -> None:
        """Add the leases of jobs that were claimed at `claimed_at`."""
        with self._lock:
            for job in jobs:
                self._held[job.key] = Lease(job.key, job.read_ct, claimed_at)

    def discard(self, leases: Iterable[tuple[JobKey, int]]) -> None:
        """Forget leases, as (job, read_ct); a newer lease of the same job stays."""
        with self._lock:
            for key, read_ct in leases:
                held = self._held.get(key)
                if held is not None and held.read_ct == read_ct:
                    del self._held[key]

    def due(self, now: float, age_seconds: float) -> list[Lease]:
        """Return the leases last extended `age_seconds` ago or earlier."""
        with self._lock:
            return [
                lease
                for lease in self._held.values()
                if now - lease.extended_at >= age_seconds and self._may_be_kept(lease, now)
            ]

    def _may_be_kept(self, lease: Lease, now: float) -> bool:
        attempt = self.running.get(lease.key)
        return attempt is None or attempt.may_keep_lease(now)


@dataclass(frozen=True, slots=True)
class KeptQueue:
    """The leases of one queue, and what their keeper needs to know."""

    tables: queries.QueueTables
    leases: LeaseTable
    lease_seconds: Callable[[], float]
    """Returns how long a lease lasts now."""
    on_lost: Callable[[list[Lease]], None]
    """Is called in the worker's event loop with leases that were lost."""
    on_expired: Callable[[list[Lease]], None]
    """Is called there with leases that ended while the database could not be asked for more."""
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
        spare: WorkerConnection | None = None,
    ) -> None:
        """Take what it needs.

        Args:
            url: the database.
            pooled: whether a pooler in transaction mode stands between.
            application_name: what `pg_stat_activity` shows.
            queues: the queues whose leases it keeps.
            loop: is told at every turn.
            spare: a connection of the worker's event loop, for when this one's own is broken and
                the server has no place for another. Default: none.
        """
        self._spare = spare
        self._new_connection = partial(
            WorkerConnection, url, pooled=pooled, application_name=application_name
        )
        self.connection: WorkerConnection | None = None
        """Its own, used in its thread alone."""
        self._queues = queues
        self._loop = loop
        self._thread: threading.Thread | None = None
        self._keeper_loop: asyncio.AbstractEventLoop | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._worker_loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    async def start(self) -> None:
        """Start the thread, and connect.

        Raises:
            DatabaseUnavailableError, DatabaseError: it did not start.
        """
        if self._thread is not None:
            return
        self._worker_loop = asyncio.get_running_loop()
        self._ended.clear()
        connected: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run_loop, args=(connected,), name="meshhook-leases", daemon=True
        )
        self._thread.start()
        try:
            await asyncio.wrap_future(connected)
        except BaseException:
            await self.stop()
            raise

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

    def _run_loop(self, connected: Future[None]) -> None:
        try:
            asyncio.run(self._run(connected))
        finally:
            # A loop that is closed has nobody who waits.
            with suppress(RuntimeError):
                if self._worker_loop is not None:
                    self._worker_loop.call_soon_threadsafe(self._ended.set)

    async def _run(self, connected: Future[None]) -> None:
        self._keeper_loop = asyncio.get_running_loop()
        self.connection = connection = self._new_connection()
        try:
            await connection.open()
        except BaseException as error:  # noqa: BLE001 - whoever starts the keeper is told
            connected.set_exception(error)
            return
        self._keeping = asyncio.create_task(self._keep(connection), name="meshhook-leases")
        connected.set_result(None)
        await asyncio.wait([self._keeping])
        if not self._keeping.cancelled() and (failure := self._keeping.exception()) is not None:
            _log.error("leases are no longer extended", exc_info=failure)

    async def _keep(self, connection: WorkerConnection) -> None:
        try:
            while True:
                self._loop.turn()
                shortest_seconds = min(queue.lease_seconds() for queue in self._queues)
                try:
                    for queue in self._queues:
                        await self._extend_due(connection, queue)
                except DatabaseUnavailableError:
                    # Said already; the other queues' turn is no better.
                    for queue in self._queues:
                        queue.leases.cannot_be_extended = True
                        self._note_expired(queue)
                await asyncio.sleep(min(1.0, shortest_seconds / 8))
        finally:
            await connection.close()

    async def _extend_due(self, connection: WorkerConnection, queue: KeptQueue) -> None:
        lease_seconds = queue.lease_seconds()
        due = queue.leases.due(time.monotonic(), lease_seconds / 3)
        # So that there is time to try again before a lease ends.
        limit_seconds = min(STATEMENT_TIMEOUT_SECONDS, max(0.5, lease_seconds / 4))
        if not due and queue.leases.cannot_be_extended:
            # Nothing is claimed until this works again.
            await self._fetch(connection, limit_seconds, "select")
            queue.leases.cannot_be_extended = False
        for start in range(0, len(due), MAX_BATCH_LEASES):
            batch = due[start : start + MAX_BATCH_LEASES]
            asked_at = time.monotonic()
            self._loop.turn()
            try:
                with queue.metrics.operation("extend"):
                    rows = await self._fetch(
                        connection,
                        limit_seconds,
                        queries.load("extend", queue.tables),
                        [lease.key[0] for lease in batch],
                        [lease.read_ct for lease in batch],
                        [lease.key[1] for lease in batch],
                        lease_seconds,
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
                queue.leases.cannot_be_extended = True
                self._note_expired(queue)
                return
            queue.leases.cannot_be_extended = False
            self._note_answer(queue, batch, rows, asked_at)

    def _note_answer(
        self, queue: KeptQueue, batch: list[Lease], rows: Sequence[Any], asked_at: float
    ) -> None:
        extended = [batch[row["position"] - 1] for row in rows if row["is_extended"]]
        for lease in extended:
            lease.extended_at = asked_at
        queue.metrics.lease_extensions("extended", len(extended))
        held = {row["position"] - 1 for row in rows}
        lost = [lease for position, lease in enumerate(batch) if position not in held]
        if lost:
            self._tell(queue.on_lost, lost)

    def _note_expired(self, queue: KeptQueue) -> None:
        expired = queue.leases.due(time.monotonic(), queue.lease_seconds())
        if expired:
            self._tell(queue.on_expired, expired)

    def _tell(self, callback: Callable[[list[Lease]], None], leases: list[Lease]) -> None:
        # A loop that is closed has nobody who listens.
        with suppress(RuntimeError):
            if self._worker_loop is not None:
                self._worker_loop.call_soon_threadsafe(callback, leases)

    async def _fetch(
        self, connection: WorkerConnection, limit_seconds: float, sql: str, *arguments: object
    ) -> Sequence[Any]:
        """Run a statement that may be repeated, over another connection where its own fails."""
        try:
            return await connection.fetch(sql, *arguments, timeout_seconds=limit_seconds)
        except DatabaseError:
            # Also where the server lets nobody in: that is a refusal.
            if self._spare is None or self._worker_loop is None:
                raise
            asked = asyncio.run_coroutine_threadsafe(
                self._spare.fetch(sql, *arguments, timeout_seconds=limit_seconds),
                self._worker_loop,
            )
            try:
                # A handler may block the loop that has the other connection.
                return await asyncio.wait_for(asyncio.wrap_future(asked), 2 * limit_seconds)
            except TimeoutError:
                raise DatabaseUnavailableError("no other connection was free") from None
