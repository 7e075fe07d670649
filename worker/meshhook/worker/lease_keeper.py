"""The lease keeper: extends all leases that would otherwise expire, in batches.

It runs in its own thread with its own event loop and connection, so that a handler that blocks the
worker's event loop does not cost the worker its leases.
"""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from meshhook.errors import DatabaseError, DatabaseUnavailableError
from meshhook.observability.loggers import get_logger
from meshhook.store import queries
from meshhook.worker.connections import STATEMENT_TIMEOUT_SECONDS, WorkerConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshhook.observability.loops import WatchedLoop
    from meshhook.worker.lane import Lane
    from meshhook.worker.leases import Lease

_log = get_logger("meshhook.worker.lease_keeper")

MAX_BATCH_LEASES = 1_000
EXTEND_AFTER = 1 / 3
"""The part of a lease after which it is extended, so that there is time to try again."""
MAX_PAUSE_SECONDS = 1.0
"""How long it waits at most before it looks for leases to extend again."""
STOP_SECONDS = 5.0


class LeaseKeeper:
    """Extends the leases of a worker's queues until stopped. `start` and `stop` are idempotent."""

    def __init__(
        self,
        *,
        url: str,
        pooled: bool,
        application_name: str,
        lanes: Sequence[Lane],
        loop: WatchedLoop,
        spare: WorkerConnection | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            url: the database.
            pooled: whether the URL leads through a pooler in transaction mode.
            application_name: what `pg_stat_activity` shows.
            lanes: those of the queues whose leases it extends.
            loop: is told at every turn.
            spare: a connection of the worker's event loop, used while its own is broken and the
                server has no room for another. Default: none.
        """
        self._spare = spare
        self._new_connection = partial(
            WorkerConnection, url, pooled=pooled, application_name=application_name
        )
        self.connection: WorkerConnection | None = None
        """Its own connection, used only in its thread."""
        self._lanes = lanes
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
        """Stop the thread, even during an extension, and wait for it for up to 5 seconds."""
        thread, self._thread = self._thread, None
        if thread is None or self._keeper_loop is None or self._keeping is None:
            return
        if thread.is_alive():
            self._keeper_loop.call_soon_threadsafe(self._keeping.cancel)
        # Not joined in a thread, since handlers may have blocked all of those. If this one hangs,
        # as in a name lookup, it is a daemon and blocks nothing.
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._ended.wait()

    def _run_loop(self, connected: Future[None]) -> None:
        try:
            asyncio.run(self._run(connected))
        finally:
            # Nobody waits in a closed loop.
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
                shortest_seconds = min(_lease_seconds(lane) for lane in self._lanes)
                try:
                    for lane in self._lanes:
                        await self._extend_due(connection, lane)
                except DatabaseUnavailableError:
                    # Logged already; the other queues would fare no better.
                    for lane in self._lanes:
                        self._note_failure(lane)
                await asyncio.sleep(min(MAX_PAUSE_SECONDS, shortest_seconds / 8))
        finally:
            await connection.close()

    async def _extend_due(self, connection: WorkerConnection, lane: Lane) -> None:
        lease_seconds = _lease_seconds(lane)
        held_jobs, metrics = lane.held_jobs, lane.queue.metrics
        due = held_jobs.leases.due(time.monotonic(), lease_seconds * EXTEND_AFTER)
        # So that there is time to try again before a lease ends.
        limit_seconds = min(STATEMENT_TIMEOUT_SECONDS, max(0.5, lease_seconds / 4))
        if not due and held_jobs.cannot_be_extended:
            # Nothing is claimed until extending works again.
            await self._fetch(connection, limit_seconds, "select")
            held_jobs.cannot_be_extended = False
        for start in range(0, len(due), MAX_BATCH_LEASES):
            batch = due[start : start + MAX_BATCH_LEASES]
            asked_at = time.monotonic()
            self._loop.turn()
            try:
                with metrics.operation("extend"):
                    rows = await self._extend(connection, limit_seconds, lane, batch)
            except DatabaseError as error:
                metrics.lease_extensions("error", len(batch))
                _log.warning(
                    "leases not extended",
                    queue=lane.queue.name,
                    leases=len(batch),
                    error=str(error),
                )
                if isinstance(error, DatabaseUnavailableError):
                    raise
                self._note_failure(lane)
                return
            held_jobs.cannot_be_extended = False
            self._note_answer(lane, batch, rows, asked_at)

    async def _extend(
        self,
        connection: WorkerConnection,
        limit_seconds: float,
        lane: Lane,
        batch: Sequence[Lease],
    ) -> Sequence[Any]:
        queue = lane.queue
        sql = queries.load("extend", queue.tables)
        leases = (
            [lease.held.key[0] for lease in batch],
            [lease.read_ct for lease in batch],
            [lease.held.key[1] for lease in batch],
            _lease_seconds(lane),
        )
        is_limited = queue.config.is_limited
        if is_limited:
            in_turn = queries.load("extend_in_turn")
            return await self._fetch(connection, limit_seconds, in_turn, queue.name, sql, *leases)
        return await self._fetch(connection, limit_seconds, sql, *leases, is_limited)

    def _note_answer(
        self, lane: Lane, batch: list[Lease], rows: Sequence[Any], asked_at: float
    ) -> None:
        extended = [batch[row["position"] - 1] for row in rows if row["is_extended"]]
        lane.held_jobs.leases.extended(extended, asked_at)
        lane.queue.metrics.lease_extensions("extended", len(extended))
        held = {row["position"] - 1 for row in rows}
        lost = [lease for position, lease in enumerate(batch) if position not in held]
        if lost:
            self._in_worker(_note_lost, lane, lost)

    def _note_failure(self, lane: Lane) -> None:
        held_jobs = lane.held_jobs
        held_jobs.cannot_be_extended = True
        expired = held_jobs.leases.due(time.monotonic(), _lease_seconds(lane))
        if expired:
            self._in_worker(held_jobs.leases_expired, expired)

    def _in_worker(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call something in the worker's event loop, the only place where held jobs move."""
        # Nobody listens in a closed loop.
        with suppress(RuntimeError):
            if self._worker_loop is not None:
                self._worker_loop.call_soon_threadsafe(function, *arguments)

    async def _fetch(
        self, connection: WorkerConnection, limit_seconds: float, sql: str, *arguments: object
    ) -> Sequence[Any]:
        """Run a statement that may be repeated, over the spare connection if its own fails."""
        try:
            return await connection.fetch(sql, *arguments, timeout_seconds=limit_seconds)
        except DatabaseError:
            # Also if the server accepts no more connections, which is a refusal.
            if self._spare is None or self._worker_loop is None:
                raise
            asked = asyncio.run_coroutine_threadsafe(
                self._spare.fetch(sql, *arguments, timeout_seconds=limit_seconds),
                self._worker_loop,
            )
            try:
                # A handler may block the loop of the other connection.
                return await asyncio.wait_for(asyncio.wrap_future(asked), 2 * limit_seconds)
            except TimeoutError:
                raise DatabaseUnavailableError("no other connection was free") from None


def _lease_seconds(lane: Lane) -> float:
    return float(lane.queue.config.visibility_timeout_seconds)


def _note_lost(lane: Lane, lost: list[Lease]) -> None:
    count = lane.held_jobs.leases_lost(lost)
    if count:
        lane.queue.metrics.lease_extensions("lost", count)
        lane.queue.tally.leases_lost += count
