"""Claimed jobs whose messages are not read yet: read one at a time, before they may start."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from meshhook.errors import (
    DatabaseUnavailableError,
    LeaseLostError,
    MessageUnreadableError,
    UncertainCommitError,
)
from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.store.unread_messages import largest_message, read_message
from meshhook.worker.attempts import log_end, settlement_of
from meshhook.worker.settling import PendingSettlement
from meshhook.worker.verdicts import Verdict, lease_lost, unreadable, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.jobs import Job, JobKey
    from meshhook.queue_config import QueueSettings
    from meshhook.store import queries
    from meshhook.worker.connections import WorkerConnection

_log = get_logger("meshhook.worker.unread_jobs")

MAX_WAITING = 100
"""How many such jobs may wait without being counted as work that is claimed ahead."""
HELD_MESSAGES = 4
"""How many messages of the largest size may be held in memory at once, by all such jobs."""
AWAY_SECONDS = 1.0


class UnreadJobs:
    """The jobs of one queue whose messages are read apart. `run` works until cancelled.

    They keep nobody waiting: neither claims nor other jobs. What is read goes to `on_read`; a
    message that cannot be read is settled, and one that could not be is retried.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        tables: queries.QueueTables,
        max_message_bytes: int | None,
        settings: Callable[[], QueueSettings],
        on_ended: Callable[[PendingSettlement], None],
    ) -> None:
        """Take what it works with.

        Args:
            connection: where to read; it has a time limit for a statement, and no other use.
            tables: the queue's tables.
            max_message_bytes: as `largest_message` has it.
            settings: returns the queue's settings now.
            on_ended: takes the outcome of a job whose message cannot be read.
        """
        self._connection = connection
        self._tables = tables
        self._max_message_bytes = max_message_bytes
        self._settings = settings
        self._on_ended = on_ended
        self.on_read: Callable[[Job[Any], float], None] = lambda *_: None
        """Takes a job whose message was read, and when it was claimed by the monotonic clock."""
        self.on_refused: Callable[[], None] = lambda: None
        """Is told that there is one job less."""
        self.waiting: deque[tuple[Job[Any], float]] = deque()
        """Those to be read, the next one first, with when each was claimed."""
        self.held: dict[JobKey, int] = {}
        """How much memory the messages take that were read and whose jobs have not ended."""
        self._has_work = asyncio.Event()
        self._has_memory = asyncio.Event()

    def __len__(self) -> int:
        """Return how many wait to be read."""
        return len(self.waiting)

    def put(self, job: Job[Any], claimed_at: float) -> None:
        """Take a claimed job; `claimed_at` is when, by the monotonic clock."""
        self.waiting.append((job, claimed_at))
        self._has_work.set()

    def find(self, key: JobKey) -> Job[Any] | None:
        """Return the job of a key if it waits here."""
        return next((job for job, _ in self.waiting if job.key == key), None)

    def remove(self, key: JobKey) -> bool:
        """Forget a job, and say whether it waited here."""
        found = next((item for item in self.waiting if item[0].key == key), None)
        if found is not None:
            self.waiting.remove(found)
        return found is not None

    def take_all(self) -> list[Job[Any]]:
        """Take back every job that waits here."""
        jobs = [job for job, _ in self.waiting]
        self.waiting.clear()
        return jobs

    def ended(self, key: JobKey) -> None:
        """Take note that a job has ended, and its message takes no memory any more."""
        if self.held.pop(key, None) is not None:
            self._has_memory.set()

    async def run(self) -> None:
        """Read what waits, until cancelled."""
        while True:
            if not self.waiting:
                self._has_work.clear()
                await self._has_work.wait()
                continue
            await self._wait_for_memory()
            if self.waiting:
                await self._read(*self.waiting[0])

    async def _wait_for_memory(self) -> None:
        """Wait until the largest message may be read beside those that are held."""
        while self.held and sum(self.held.values()) > (HELD_MESSAGES - 1) * self._limit:
            self._has_memory.clear()
            await self._has_memory.wait()

    @property
    def _limit(self) -> int:
        return largest_message(self._max_message_bytes, self._settings())

    async def _read(self, job: Job[Any], claimed_at: float) -> None:
        settings = self._settings()
        end: Verdict | None = None
        try:
            if job.attempt > settings.max_retry_attempts and job.lost_attempts:
                end = lease_lost(job.lost_attempts, settings)
            else:
                await read_message(self._connection, self._tables, job, self._limit)
        except MessageUnreadableError as error:
            end = unreadable(error, settings)
        except LeaseLostError as error:
            _log.warning("lease lost", **fields_of(job), error=str(error))
            self.remove(job.key)
            self.on_refused()
            return
        except UncertainCommitError as error:
            # It may be the message that has ended the session.
            end = self._failed(job, error, settings)
        except DatabaseUnavailableError:
            await asyncio.sleep(AWAY_SECONDS)
            return
        except Exception as error:  # noqa: BLE001 - no message may end a worker
            end = self._failed(job, error, settings)
        if not self.remove(job.key):
            return  # it was taken back meanwhile
        if end is None:
            self.held[job.key] = len(job.body)
            self.on_read(job, claimed_at)
            return
        log_end(job, end)
        finished = job.claimed_timestamp + time.monotonic() - claimed_at
        self._on_ended(PendingSettlement(settlement_of(job, end, None, finished), time.monotonic()))
        self.on_refused()

    @staticmethod
    def _failed(job: Job[Any], error: Exception, settings: QueueSettings) -> Verdict:
        failure = MessageUnreadableError(
            f"the message could not be read: {str(error) or type(error).__name__}"
        )
        return verdict(
            failure,
            attempt=job.attempt,
            settings=settings,
            jitter_fraction=random.random(),  # noqa: S311 - jitter, not a secret
        )
