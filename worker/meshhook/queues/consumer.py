"""`QueueConsumer`: jobs are claimed and settled without a worker."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

from meshhook.encryption.envelope import is_sealed
from meshhook.encryption.messages import decrypt_job, note_identifiers
from meshhook.errors import (
    DecryptionError,
    InvalidJobError,
    InvalidSettingError,
    LeaseLostError,
    MessageUnreadableError,
    NotAJobError,
    UnencryptedMessageError,
    UnknownEncryptionKeyError,
)
from meshhook.escaping import quoted
from meshhook.expiry import deadline_of, job_expired_message
from meshhook.jobs import Job, PayloadT, has_links
from meshhook.observability.tracing import settling
from meshhook.outcomes import JOB_EXPIRED, LEASE_LOST, AttemptOutcome, lease_lost_message
from meshhook.priorities import AGED_SHARE
from meshhook.queues.access import QueueAccess
from meshhook.store import queries
from meshhook.store.claims import claim, claim_by_priority
from meshhook.store.messages import check_several
from meshhook.store.settlements import BreakerCount, Settlement, settle
from meshhook.store.unread_messages import largest_message, read_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.queue_config import QueueConfig
    from meshhook.store.claims import Claim

MIN_LEASE_SECONDS = 0.001
MAX_LEASE_SECONDS = 43_200


class QueueConsumer(QueueAccess[PayloadT]):
    """The part of a service that claims and settles jobs by hand."""

    async def dequeue(self, vt_seconds: float | None = None) -> Job[PayloadT] | None:
        """Claim the oldest ready job, or return None if there is none.

        In a queue with priorities it is the oldest of the most urgent ones, and one time in four an
        aged one.

        Settle it with `acknowledge`, `archive_job` or `release` before its lease ends. As in a
        worker, a job is not returned if its last attempt ended without an outcome, or if its
        message is too large or unreadable: it becomes a dead letter, or is archived if the queue
        has dead letters disabled. A job whose deadline has passed expires.

        Args:
            vt_seconds: how long the lease lasts, from 0.001 seconds to 12 hours. Default: the
                queue's visibility_timeout_seconds.

        Raises:
            InvalidSettingError: if `vt_seconds` is out of range.
            InvalidPayloadError: if the payload does not fit the model; the lease runs out.
            UnknownEncryptionKeyError: if it is encrypted with a key that is missing here; the lease
                runs out. After its last attempt it becomes a dead letter instead.
            QueueNotFoundError, DatabaseError: nothing was claimed.
        """
        config = await self.get_config()
        lease_seconds = config.visibility_timeout_seconds if vt_seconds is None else vt_seconds
        is_number = isinstance(lease_seconds, int | float) and not isinstance(lease_seconds, bool)
        if not is_number or not MIN_LEASE_SECONDS <= lease_seconds <= MAX_LEASE_SECONDS:
            message = f"vt_seconds is 0.001 to 43200, got {quoted(vt_seconds)}"
            raise InvalidSettingError(message)
        while True:
            async with self._existing_tables() as tables:
                claimed = await self._claim_one(tables, config, float(lease_seconds))
            if not claimed.jobs:
                return None
            [job] = claimed.jobs
            try:
                async with self._existing_tables() as tables:
                    await self._read(job, tables, config)
                await self._decrypt(job, config)
            except (
                MessageUnreadableError,
                DecryptionError,
                UnencryptedMessageError,
            ) as error:
                reason = type(error).__name__, str(error)
                await self._bury(job, *reason, dlq_enabled=config.dlq_enabled)
                continue
            except UnknownEncryptionKeyError as error:
                if not _has_lost_last_attempt(job):
                    raise
                reason = type(error).__name__, str(error)
                await self._bury(job, *reason, dlq_enabled=config.dlq_enabled)
                continue
            except LeaseLostError:
                continue
            deadline = deadline_of(job, config.job_expiry_seconds)
            if job.claimed_timestamp >= deadline:
                await self._settle_expired(job, deadline, config)
                continue
            if not _has_lost_last_attempt(job):
                self._decoder.decode(job)
                return job
            reason = LEASE_LOST, lease_lost_message(job.lost_attempts)
            await self._bury(job, *reason, dlq_enabled=config.dlq_enabled)

    async def _claim_one(
        self, tables: queries.QueueTables, config: QueueConfig, lease_seconds: float
    ) -> Claim:
        if config.prioritized:
            return await claim_by_priority(
                self._database,
                tables,
                lease_seconds=lease_seconds,
                limit=1,
                max_attempts=config.max_retry_attempts,
                aged_seconds=config.aged_seconds,
                most_aged=int(random.random() < AGED_SHARE),  # noqa: S311 - shares, keeps no secret
            )
        return await claim(
            self._database,
            tables,
            lease_seconds=lease_seconds,
            limit=1,
            max_attempts=config.max_retry_attempts,
            keys=config.keys,
            is_limited=config.is_limited,
        )

    async def acknowledge(self, job: Job[Any]) -> bool:
        """Settle a job as done.

        Returns:
            False if its lease is lost: nothing was changed, and another may run it.
        """
        return (await self.acknowledge_many([job]))[0]

    async def acknowledge_many(self, jobs: Sequence[Job[Any]]) -> list[bool]:
        """Settle jobs as done, in one statement.

        Returns:
            For each job, in order, whether its lease still held; the others changed nothing.
        """
        check_several(jobs, "acknowledge()")
        return await self._settle(jobs, AttemptOutcome.SUCCEEDED)

    async def archive_job(self, job: Job[Any]) -> bool:
        """Settle a job by moving its message to PGMQ's archive of the queue.

        Returns:
            False if its lease is lost: nothing was changed.
        """
        return (await self._settle([job], AttemptOutcome.ARCHIVED))[0]

    async def release(self, job: Job[Any]) -> bool:
        """Release a job unused: it is ready at once, and no attempt is spent.

        Returns:
            False if its lease is lost: nothing was changed.
        """
        async with self._existing_tables() as tables:
            rows = await self._database.fetch(
                queries.load("release", tables),
                [self._own(job).msg_id],
                [job.read_ct],
                [job.enqueued_timestamp],
                0.0,
            )
        return bool(rows)

    def _own(self, job: Job[Any]) -> Job[Any]:
        if not isinstance(job, Job):
            raise NotAJobError(job)
        if job.queue != self.queue:
            raise InvalidJobError(
                f"job {job.msg_id} belongs to queue {job.queue!r}, not to {self.queue!r}"
            )
        return job

    async def _read(self, job: Job[Any], tables: queries.QueueTables, config: QueueConfig) -> None:
        if not job.body:
            await read_message(self._database, tables, job, largest_message(None, config))

    async def _decrypt(self, job: Job[Any], config: QueueConfig) -> None:
        if is_sealed(job.body):
            await decrypt_job(job, self._encryption)
        elif config.requires_encryption:
            note_identifiers(job)
            raise UnencryptedMessageError(self.queue)

    async def _bury(
        self, job: Job[Any], error_type: str, error_message: str, *, dlq_enabled: bool
    ) -> None:
        """Settle a job that must not be returned to the caller."""
        outcome = AttemptOutcome.DEAD_LETTERED if dlq_enabled else AttemptOutcome.ARCHIVED
        await self._settle_unreturned(job, outcome, error_type, error_message)

    async def _settle_expired(self, job: Job[Any], deadline: float, config: QueueConfig) -> None:
        is_dead = config.on_expiry == "dead_letter" and config.dlq_enabled
        outcome = AttemptOutcome.DEAD_LETTERED if is_dead else AttemptOutcome.EXPIRED
        await self._settle_unreturned(job, outcome, JOB_EXPIRED, job_expired_message(deadline))

    async def _settle_unreturned(
        self, job: Job[Any], outcome: AttemptOutcome, error_type: str, error_message: str
    ) -> None:
        note_identifiers(job)
        settlement = Settlement(
            msg_id=job.msg_id,
            read_ct=job.read_ct,
            enqueued=job.enqueued_timestamp,
            attempt=job.attempt,
            outcome=outcome,
            started_at=None,
            finished_at=job.claimed_timestamp,
            run_id=job.run_id,
            workflow_id=job.workflow_id,
            project_id=job.project_id,
            has_links=True,  # a job may follow
            error_type=error_type,
            error_message=error_message,
        )
        async with self._existing_tables() as tables:
            await settle(self._database, tables, self._worker_name, [settlement])

    async def _settle(self, jobs: Sequence[Job[Any]], outcome: AttemptOutcome) -> list[bool]:
        if not jobs:
            return []
        now = time.time()
        settlements = [
            Settlement(
                msg_id=self._own(job).msg_id,
                read_ct=job.read_ct,
                enqueued=job.enqueued_timestamp,
                attempt=job.attempt,
                outcome=outcome,
                started_at=job.started_timestamp,
                finished_at=max(now, job.started_timestamp),
                run_id=job.run_id,
                workflow_id=job.workflow_id,
                project_id=job.project_id,
                has_links=has_links(job.headers),
            )
            for job in jobs
        ]
        # Claiming has read them, unless the job was claimed elsewhere.
        config = self._settings.last or await self.get_config()
        breakers = BreakerCount(config.key_path) if config.has_breakers else None
        async with self._existing_tables() as tables:
            with settling(self._tracing.find(), self.queue, len(jobs)):
                settled = await settle(
                    self._database,
                    tables,
                    self._worker_name,
                    settlements,
                    breakers,
                    keeps_bodies=config.keeps_bodies,
                )
        return [position in settled for position in range(len(jobs))]


def _has_lost_last_attempt(job: Job[Any]) -> bool:
    """Return whether a job has had all its attempts, and the last ones ended without an outcome."""
    return job.lost_attempts > 0 and job.attempt > job.max_attempts
