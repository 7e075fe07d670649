"""The message reader: reads large messages of claimed jobs one at a time, before the jobs start."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from meshhook.encryption.envelope import is_sealed
from meshhook.encryption.messages import decrypt_job, note_identifiers
from meshhook.errors import (
    DatabaseUnavailableError,
    EncryptionError,
    LeaseLostError,
    MessageUnreadableError,
    UncertainCommitError,
    UnencryptedMessageError,
)
from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.store.unread_messages import largest_message, read_message
from meshhook.worker.attempt import log_end, settlement_of
from meshhook.worker.held_job import CLAIMED
from meshhook.worker.retries import undecrypted_on, verdict_on
from meshhook.worker.verdicts import Verdict, lease_lost, unreadable

if TYPE_CHECKING:
    from meshhook.jobs import Job
    from meshhook.queue_config import QueueSettings
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.queue_context import QueueContext

_log = get_logger("meshhook.worker.message_reader")

HELD_MESSAGES = 4
"""How many messages of the maximum size may be held in memory at once."""
AWAY_SECONDS = 1.0


class MessageReader:
    """Reads the large messages of one queue's jobs. `run` works until cancelled.

    Neither claims nor other jobs wait for it. A job whose message was read can start. If a message
    cannot be read at all, its job is settled; if reading failed, the job is retried.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        queue: QueueContext,
        held_jobs: HeldJobs,
        max_message_bytes: int | None,
    ) -> None:
        """Take what it works with.

        Args:
            connection: where to read; it has a statement timeout, and no other use.
            queue: the queue.
            held_jobs: the held jobs, including those to read.
            max_message_bytes: as in `largest_message`.
        """
        self._connection = connection
        self._queue = queue
        self._held_jobs = held_jobs
        self._max_message_bytes = max_message_bytes

    async def run(self) -> None:
        """Read messages one after the other until cancelled."""
        unread = self._held_jobs.unread
        while True:
            await unread.wait()
            if unread.takes_more_than(self._most_held):
                # A batch that waits for more jobs would wait for this one.
                self._held_jobs.start_gathered()
            # Until a message of the maximum size fits beside those that are held.
            await unread.wait_for_memory(lambda: self._most_held)
            if unread.jobs:
                await self._read(unread.jobs[0])

    @property
    def _most_held(self) -> int:
        return (HELD_MESSAGES - 1) * self._limit

    @property
    def _limit(self) -> int:
        return largest_message(self._max_message_bytes, self._queue.config)

    async def _read(self, held: HeldJob) -> None:
        job, settings, held_jobs = held.job, self._queue.config, self._held_jobs
        end: Verdict | None = None
        try:
            if job.lost_attempts and job.attempt > job.max_attempts:
                end = lease_lost(job.lost_attempts, settings)
            else:
                await read_message(self._connection, self._queue.tables, job, self._limit)
                await self._decrypt(job, settings)
        except (MessageUnreadableError, EncryptionError) as error:
            end = self._refusal(job, error, settings)
        except LeaseLostError as error:
            if held.state is CLAIMED:
                _log.warning("lease lost", **fields_of(job), error=str(error))
                held_jobs.unread_lost(held)
            return
        except UncertainCommitError as error:
            # Perhaps this very message ended the session.
            end = self._failed(job, error, settings)
        except DatabaseUnavailableError:
            await asyncio.sleep(AWAY_SECONDS)
            return
        except Exception as error:  # noqa: BLE001 - no message may end a worker
            end = self._failed(job, error, settings)
        if held.state is not CLAIMED:
            return  # it was given back or lost in the meantime
        if end is None:
            held_jobs.was_read(held)
            return
        log_end(job, end)
        finished = job.claimed_timestamp + time.monotonic() - held.claimed_at
        held_jobs.end_unread(held, settlement_of(job, end, None, finished, has_follow_up=True))

    def _refusal(
        self,
        job: Job[Any],
        error: MessageUnreadableError | EncryptionError,
        settings: QueueSettings,
    ) -> Verdict:
        if isinstance(error, EncryptionError):
            return undecrypted_on(job, error, self._queue, settings)
        return unreadable(error, settings)

    async def _decrypt(self, job: Job[Any], settings: QueueSettings) -> None:
        if is_sealed(job.body):
            await decrypt_job(job, self._queue.encryption)
        elif settings.requires_encryption:
            note_identifiers(job)
            raise UnencryptedMessageError(self._queue.name)

    def _failed(self, job: Job[Any], error: Exception, settings: QueueSettings) -> Verdict:
        failure = MessageUnreadableError(
            f"the message could not be read: {str(error) or type(error).__name__}"
        )
        return verdict_on(job, failure, self._queue, settings)
