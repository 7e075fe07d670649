"""Reads requests to cancel jobs, and passes them to the handlers that run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from meshhook.cancellation import Cancellation
from meshhook.errors import DatabaseError
from meshhook.observability.loggers import get_logger
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.jobs import JobKey
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.lane import Lane

_log = get_logger("meshhook.worker.cancellations")

POLL_SECONDS = 1.0
LOOKS_A_SECOND = 50.0
"""How often all workers of a queue together read requests, if they are more than that."""
MAX_REQUESTS = 10_000


class CancellationWatcher:
    """Reads open requests every second, and at once when told of one.

    A job that is held here is stopped. One that came back to wait is cancelled in the database, by
    whichever worker is first; so a request outlives a retry, a lost lease and the worker itself.
    """

    def __init__(self, *, connection: WorkerConnection, lanes: Sequence[Lane]) -> None:
        """Take the connection, and the lanes of the queues to watch."""
        self._connection = connection
        self._lanes = lanes
        self._told = asyncio.Event()
        self._has_failed = False

    def note_request(self) -> None:
        """Read requests again, soon."""
        self._told.set()

    async def run(self) -> None:
        """Follow the requests until cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._pause_seconds):
                    await self._told.wait()
            except TimeoutError:
                pass
            await self.look()

    async def look(self) -> None:
        """Read the open requests once, and do what they ask for. A failure is logged."""
        self._told.clear()
        try:
            await self._look()
        except DatabaseError as error:
            # Logged once: the producer complains of a database that is unavailable.
            log = _log.debug if self._has_failed else _log.warning
            log("requests to cancel jobs not read", error=str(error))
            self._has_failed = True
        else:
            self._has_failed = False

    @property
    def _pause_seconds(self) -> float:
        workers = max((lane.workers for lane in self._lanes), default=1)
        return max(POLL_SECONDS, workers / LOOKS_A_SECOND)

    async def _look(self) -> None:
        names = [lane.queue_name for lane in self._lanes]
        rows = await self._connection.fetch(queries.load("find_cancellations"), names, MAX_REQUESTS)
        found: defaultdict[str, dict[JobKey, Cancellation]] = defaultdict(dict)
        for row in rows:
            found[row["queue"]][row["msg_id"], row["enqueued"]] = Cancellation(
                row["reason"], row["requested_by"], row["requested_at"]
            )
        for lane in self._lanes:
            requests = found.get(lane.queue_name, {})
            if lane.held_jobs.cancel(requests) < len(requests):
                await self._connection.fetch(
                    queries.load("carry_out_cancellations"), lane.queue_name
                )
