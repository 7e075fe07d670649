"""What a worker reports in `meshhook.workers`, for people, metrics and the operator."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NamedTuple

from meshhook.errors import DatabaseError
from meshhook.observability.loggers import get_logger
from meshhook.schema.migrations import schema_version
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshhook.worker.connections import WorkerConnection

_log = get_logger("meshhook.worker.reporting")

REPORT_SECONDS = 5.0
CORDONED_REPORT_SECONDS = 1.0
"""How often a cordoned worker reports, so that it soon learns that it is to claim again."""
FORGET_EVERY_SECONDS = 60.0
FORGET_AFTER_SECONDS = 300.0
WITHDRAW_SECONDS = 1.0


class QueueReport(NamedTuple):
    """What a worker does for one queue. The fields are in the order of `sql/report_workers.sql`."""

    queue_name: str
    concurrency: int
    """How many jobs of the queue it may run at once."""
    running: int
    processed: int
    """Attempts whose outcome it has recorded."""
    busy_seconds: float
    """The total running time of its jobs, including those that still run."""
    oldest_running_seconds: float
    """How long the oldest running job of the queue has run; 0 if none runs."""
    cordoned: bool
    """Whether it claims no jobs of the queue, because it is cordoned."""


class Reporter:
    """Writes one row per queue every five seconds, in one statement, and deletes them at the end.

    The answer says for which queues the worker is cordoned; then it reports every second.

    Nothing depends on it: a failed report is logged, and the next one follows in time.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        worker_name: str,
        host: str,
        read: Callable[[], Sequence[QueueReport]],
        on_counted: Callable[[dict[str, int]], None],
        on_cordons: Callable[[dict[str, float], float], None],
    ) -> None:
        """Take what it needs.

        Args:
            connection: the worker's connection; reports take their turn on it.
            worker_name: the worker's name in the history.
            host: the name of this machine.
            read: returns what the worker does now, one report a queue.
            on_counted: is told after each report how many workers each queue has.
            on_cordons: is told after each report for how many seconds the worker is cordoned for
                each queue, 0 if it is not, and when the database was asked, by the monotonic clock.
        """
        self._connection = connection
        self._worker_name = worker_name
        self._host = host
        self._read = read
        self._on_counted = on_counted
        self._on_cordons = on_cordons
        self._is_cordoned = False
        self._is_draining = False
        self._is_due = asyncio.Event()
        self._began_at = time.monotonic()
        self._forget_at = self._began_at
        self._has_failed = False

    def drain(self) -> None:
        """Report at once that the worker has stopped claiming."""
        self._is_draining = True
        self._is_due.set()

    async def run(self) -> None:
        """Report now, and every five seconds until cancelled; every second while cordoned."""
        while True:
            self._is_due.clear()
            await self._try_to_report()
            try:
                async with asyncio.timeout(self._pause_seconds):
                    await self._is_due.wait()
            except TimeoutError:
                pass

    @property
    def _pause_seconds(self) -> float:
        return min(CORDONED_REPORT_SECONDS, REPORT_SECONDS) if self._is_cordoned else REPORT_SECONDS

    async def withdraw(self) -> None:
        """Delete the worker's rows, within a second at most. Rows that stay are deleted later."""
        names = [report.queue_name for report in self._read()]
        try:
            async with asyncio.timeout(WITHDRAW_SECONDS):
                await self._connection.fetch(
                    queries.load("withdraw_worker"), self._worker_name, names
                )
        except (DatabaseError, TimeoutError) as error:
            _log.info("last report not deleted", error=str(error) or "no answer in time")

    async def _try_to_report(self) -> None:
        try:
            await self._report()
        except DatabaseError as error:
            # Logged once: the producer complains of a database that is unavailable.
            log = _log.debug if self._has_failed else _log.warning
            log("worker not reported", worker=self._worker_name, error=str(error))
            self._has_failed = True
        else:
            self._has_failed = False

    async def _report(self) -> None:
        now = time.monotonic()
        reports = self._read()
        columns = zip(*reports, strict=True)
        answers = await self._connection.fetch(
            queries.load("report_workers"),
            self._worker_name,
            self._host,
            self._is_draining,
            now - self._began_at,
            *map(list, columns),
            schema_version(),
        )
        cordons = {row["queue"]: float(row["cordoned_seconds"]) for row in answers}
        self._is_cordoned = any(cordons.values())
        self._on_cordons(cordons, now)
        names = [report.queue_name for report in reports]
        rows = await self._connection.fetch(queries.load("count_workers"), names)
        self._on_counted({row["queue"]: row["workers"] for row in rows})
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_SECONDS
            await self._connection.fetch(queries.load("forget_workers"), FORGET_AFTER_SECONDS)
