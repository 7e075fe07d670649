"""`QueueService`: one queue, for producers and for programs that claim jobs without a worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook import administration
from meshhook.jobs import PayloadT
from meshhook.queues.changes import QueueChanges
from meshhook.queues.consumer import QueueConsumer
from meshhook.queues.producer import QueueProducer
from meshhook.store import queries

if TYPE_CHECKING:
    from meshhook.job_ends import JobEnd


class QueueService(QueueProducer[PayloadT], QueueConsumer[PayloadT], QueueChanges[PayloadT]):
    """One queue: enqueue, and claim and settle by hand.

    Several tasks may share one service. `close` waits for enqueues that are under way.
    """

    async def wait(self, msg_id: int, *, timeout_seconds: float) -> JobEnd:
        """Wait until a job has its final outcome, and return it with the job's result.

        For dead letters, cancelled, archived and expired jobs it returns as well: see
        `JobEnd.outcome`. Any number of tasks may wait; they share one statement a second. Where the
        database is reached directly through a pool, workers tell when jobs of queues that keep
        results end, and one connection of the pool listens while somebody waits.

        Args:
            msg_id: the job. It must be committed.
            timeout_seconds: how long to wait, 0.001 to 86,400 seconds.

        Raises:
            WaitTimeoutError: if it had no final outcome in time; it goes on.
            JobNotFoundError: if nothing is left of the job.
            InvalidSettingError: if an argument is out of its range.
            QueueNotFoundError, DatabaseError: if it cannot be read.
        """
        return await self._ends.wait(msg_id, timeout_seconds)

    async def get_queue_metrics(
        self, *, count_limit: int = 100_000
    ) -> administration.QueueSnapshot:
        """Count the queue's messages by state, up to `count_limit` ready and as many others.

        Raises:
            InvalidSettingError: if `count_limit` is not 1 to 10 million.
            QueueNotFoundError: if the queue does not exist.
        """
        return await administration.get_queue_snapshot(
            self._database, self.queue, count_limit=count_limit
        )

    async def purge_queue(self) -> int:
        """Delete all messages, leased ones included, and return how many were deleted.

        Dead letters, the history, and jobs enqueued in the meantime stay. Messages are deleted in
        chunks, each committed on its own.
        """
        async with self._existing_tables() as tables:
            newest = await self._database.fetchval(queries.load("newest_message", tables))
            sql = queries.load("purge_queue", tables)
            return await administration.purge_in_chunks(self._database, self.queue, sql, newest)

    async def close(self) -> None:
        """Wait until every enqueue that is under way has been stored or refused."""
        try:
            await self._send_buffer.flush()
            await self._unique_buffer.flush()
            await self._ends.close()
            await self._settings.close()
            await self._follow_up_queues.close()
        finally:
            await self._database.close()  # only what a URL has opened

    async def __aenter__(self) -> QueueService[PayloadT]:
        """Return the service itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for enqueues that are under way."""
        await self.close()
