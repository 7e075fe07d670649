"""Giving back the leases of jobs that will not run here, so that other workers can run them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseError
from meshhook.observability.loggers import get_logger
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.queue_context import QueueContext

_log = get_logger("meshhook.worker.releaser")


class Releaser:
    """Gives back leases of one queue, each batch in its own task. If that fails, they expire."""

    def __init__(
        self, *, connection: WorkerConnection, queue: QueueContext, held_jobs: HeldJobs
    ) -> None:
        self._connection = connection
        self._queue = queue
        self._held_jobs = held_jobs
        self._sql = queries.load("release", queue.tables)
        self._under_way: set[asyncio.Task[None]] = set()

    def release(self, jobs: Sequence[HeldJob], delay_seconds: float = 0.0) -> None:
        """Give back jobs that will not run here. They are ready after the delay; default 0."""
        self._held_jobs.release(jobs)
        self._give_back(jobs, delay_seconds)

    def release_unstarted(self) -> None:
        """Give back every job that waits to start."""
        self.release(self._held_jobs.take_unstarted())

    def release_leases(self, jobs: Sequence[HeldJob]) -> None:
        """Give back the leases of running jobs that ignore being stopped."""
        self._held_jobs.release_leases(jobs)
        self._give_back(jobs, 0.0)

    def release_all(self) -> None:
        """Give back every job that has not ended, after the slots were stopped."""
        held_jobs = self._held_jobs
        self.release([*held_jobs.take_unstarted(), *held_jobs.running.take_cut_off()])
        self.release_leases(list(held_jobs.running.jobs.values()))

    async def wait(self) -> None:
        """Wait until everything is given back."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def stop(self) -> None:
        """Cancel what is being given back, before the connection is closed. Those leases expire."""
        under_way = list(self._under_way)
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)

    def _give_back(self, jobs: Sequence[HeldJob], delay_seconds: float) -> None:
        if not jobs:
            return
        leases = [(held.key[0], held.read_ct, held.key[1]) for held in jobs]
        task = asyncio.create_task(self._release(leases, delay_seconds), name="meshhook-release")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _release(
        self, leases: Sequence[tuple[int, int, float]], delay_seconds: float
    ) -> None:
        queue = self._queue
        try:
            with queue.metrics.operation("release"):
                rows = await self._connection.fetch(
                    self._sql, *zip(*leases, strict=True), delay_seconds
                )
        except DatabaseError as error:
            _log.warning(
                "leases not given back",
                queue=queue.name,
                leases=len(leases),
                error=str(error),
            )
            return
        queue.tally.released += len(rows)
        queue.metrics.attempts("released", len(rows))
