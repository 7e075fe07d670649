"""`QueueService`: one queue, for producers and for programs that claim jobs without a worker."""

from __future__ import annotations

import random
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

from meshhook import administration
from meshhook.arguments import headers_with_key
from meshhook.delays import delay_in_seconds
from meshhook.drivers.lending import driver_connection
from meshhook.encryption.envelope import Place, is_sealed
from meshhook.encryption.key_ring import checked_ring
from meshhook.encryption.messages import (
    check_no_plain_follow_up,
    decrypt_job,
    note_identifiers,
    outgoing_body,
)
from meshhook.errors import (
    DecryptionError,
    InvalidJobError,
    InvalidSettingError,
    LeaseLostError,
    MessageUnreadableError,
    NotAJobError,
    SchemaMissingError,
    UnencryptedMessageError,
)
from meshhook.escaping import quoted
from meshhook.expiry import deadline_of, job_expired_message
from meshhook.job_changes import CHANGE_SECONDS, JobChanger, JobChanges, JobChoice, checked_time
from meshhook.job_ends import EndWaiter, JobEnd
from meshhook.job_replays import JobReplayer, ReplayChoice
from meshhook.jobs import Job, PayloadT, has_links
from meshhook.names import (
    DEFAULT_QUEUE_NAME,
    validate_queue_name,
    validate_topic,
    validate_worker_name,
)
from meshhook.observability.tracing import TracerFinder, note_sent, sending, settling
from meshhook.outcomes import (
    JOB_EXPIRED,
    LEASE_LOST,
    AttemptOutcome,
    lease_lost_message,
)
from meshhook.postgres.database import Database, lent_by_caller
from meshhook.priorities import AGED_SHARE, headers_with_priority
from meshhook.settings_cache import SettingsCache
from meshhook.store import queries
from meshhook.store.bodies import BodyDecoder, encode_headers
from meshhook.store.claims import claim, claim_by_priority
from meshhook.store.groups import new_group
from meshhook.store.messages import check_several, encoded, encoded_many
from meshhook.store.policy_headers import headers_with_policies
from meshhook.store.publishing import publication, publish
from meshhook.store.sending import SendBuffer, insert_batches, insert_group, insert_over
from meshhook.store.settlements import BreakerCount, Settlement, settle
from meshhook.store.unique_sending import (
    check_ungrouped,
    insert_all_unique,
    insert_unique,
    with_uniques,
)
from meshhook.store.unread_messages import largest_message, read_message
from meshhook.unique import unique_from, uniques_from

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from opentelemetry.trace import TracerProvider

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.follow_ups import FollowUp
    from meshhook.job_policies import JobPolicies
    from meshhook.priorities import AnyPriority
    from meshhook.queue_config import QueueConfig
    from meshhook.store.claims import Claim
    from meshhook.store.groups import NewGroup
    from meshhook.store.messages import Message
    from meshhook.store.publishing import Publication
    from meshhook.store.unique_sending import UniqueMessage
    from meshhook.unique import (
        EnqueuedId,
        GroupOptions,
        OnConflict,
        ServiceOptions,
        Unique,
        UniqueFor,
    )

MIN_LEASE_SECONDS = 0.001
MAX_LEASE_SECONDS = 43_200


class QueueService(Generic[PayloadT]):
    """One queue: enqueue, and claim and settle by hand.

    Several tasks may share one service. `close` waits for enqueues that are under way.
    """

    def __init__(
        self,
        source: Any,
        queue: str = DEFAULT_QUEUE_NAME,
        *,
        payload_model: Any = None,
        worker_name: str | None = None,
        tracer_provider: TracerProvider | None = None,
        answer_timeout_seconds: float | None = None,
        encryption: KeyRing | None = None,
    ) -> None:
        """Take an asyncpg pool or connection, and the queue's name.

        Args:
            source: an asyncpg Pool or Connection, or a Database, which the caller still owns; or a
                URL, to which a pool of at most 4 connections is opened when it is needed, and
                closed by `close`.
            queue: the queue; see `meshhook.names`. Default `workflow_jobs`.
            payload_model: the type of `Job.payload`, both enqueued and dequeued; other payloads
                are refused. Default: plain JSON, and anything may be enqueued.
            worker_name: the name recorded in the history for jobs settled here, up to 200
                characters. Default: none.
            tracer_provider: creates the spans of sends and puts their trace into the headers.
                Default: OpenTelemetry's global provider, once one is set; otherwise no spans.
            answer_timeout_seconds: how long a statement may take before its connection counts as
                broken, 0.001 to 86,400 seconds. It applies to the caller's connections too, unless
                they have a `command_timeout`. Default: that of the given Database, or 30.
            encryption: the keys with which jobs are encrypted when they are enqueued, and decrypted
                when they are claimed. Default: none; jobs are enqueued as they are.

        Raises:
            InvalidQueueNameError: if the name is not a valid queue name.
            InvalidSettingError: if `source` is no pool or connection, or a limit is out of range.
        """
        self.queue = validate_queue_name(queue)
        self._encryption = checked_ring(encryption)
        self._database = Database(source, answer_timeout_seconds=answer_timeout_seconds)
        self._answer_timeout_seconds = answer_timeout_seconds
        self._decoder: BodyDecoder[PayloadT] = BodyDecoder(payload_model)
        self._worker_name = worker_name and validate_worker_name(worker_name)
        self._tracing = TracerFinder(tracer_provider)
        self._tables: queries.QueueTables | None = None
        self._settings = SettingsCache(self._database, self.queue)
        self._send_buffer: SendBuffer[Message] = SendBuffer(self._database, self.queue)
        self._unique_buffer: SendBuffer[UniqueMessage] = SendBuffer(
            self._database, self.queue, insert_unique
        )
        self._ends = EndWaiter(self._database, self.queue, encryption=self._encryption)

    @overload
    async def enqueue(
        self,
        job: object,
        delay_seconds: float = 0,
        *,
        unique_key: None = None,
        **options: Unpack[ServiceOptions],
    ) -> int: ...

    @overload
    async def enqueue(
        self,
        job: object,
        delay_seconds: float = 0,
        *,
        unique_key: str | UUID,
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[ServiceOptions],
    ) -> EnqueuedId: ...

    async def enqueue(
        self,
        job: object,
        delay_seconds: float = 0,
        *,
        key: str | UUID | None = None,
        priority: AnyPriority | None = None,
        headers: Mapping[str, Any] | None = None,
        unique_key: str | UUID | None = None,
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        connection: Any = None,
        **policies: Unpack[JobPolicies],
    ) -> int | EnqueuedId:
        """Store a job, and return its msg_id once it is durable.

        Concurrent calls share one statement: while one batch commits, new calls queue up for the
        next. Each caller waits for its own commit.

        Args:
            job: a `WorkflowJob`, another pydantic model, or anything that JSON can hold.
            delay_seconds: how long until it is ready, 0 to 366 days. Default 0.
            key: whose job it is, a tenant or a destination: a string of 1 to 200 characters or a
                UUID. A keyed queue serves its keys in fair shares. Default: none, a key of its own.
            priority: how urgent it is: `urgent`, `high`, `normal` or `low`, or 0 to 3. In a queue
                with priorities, the most urgent jobs go first. Default: normal.
            headers: message headers, such as a `traceparent`. Default none.
            unique_key: a string of 1 to 200 characters or a UUID that at most one job of the queue
                has at a time. Default: none.
            unique: how long the job has it: `until_done`, `until_started`, or a timedelta of up to
                366 days. Default `until_done`, which includes its retries.
            on_conflict: what to do if another job has it. `existing` returns that job's msg_id,
                `error` raises, and `replace` puts this job in its place if it has not started yet,
                else returns its msg_id. Default `existing`.
            connection: a connection of asyncpg, psycopg or SQLAlchemy, to enqueue inside the
                caller's transaction: the job exists if and only if that transaction commits, and
                no other connection is used. If the connection is not in a transaction, the job is
                stored at once.
            **policies: the job's own policies, which count before the queue's settings: `retry`,
                a `RetryPolicy`; `expires_at`, a datetime with a time zone, or `expires_in`, seconds
                or a timedelta: when the job is no longer to be started; `on_dead_letter`, a
                `FollowUp` to enqueue if the job becomes a dead letter. Default: none.

        Returns:
            The msg_id. With a unique key it is an `EnqueuedId`, whose `is_new` says whether the
            job was stored.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError: the job is not stored.
            DuplicateJobError: another job has the unique key; with `error` only.
            UncertainCommitError: the connection broke; the job may or may not be stored.
            QueueNotFoundError, DatabaseError: the job is not stored.
        """
        one = unique_from(unique_key, unique, on_conflict)
        check_no_plain_follow_up(self._encryption, policies.get("on_dead_letter"))
        headers = headers_with_policies(headers_with_priority(headers, priority), **policies)
        tracer = self._tracing.find()
        if tracer is None:
            return await self._enqueue(
                job, delay_seconds, key, headers, unique=one, connection=connection
            )
        with sending(tracer, self.queue, headers) as (traced, span):
            msg_id = await self._enqueue(
                job, delay_seconds, key, traced, unique=one, connection=connection
            )
            note_sent(span, [msg_id])
        return msg_id

    @overload
    async def enqueue_many(
        self,
        jobs: Iterable[object],
        delay_seconds: float = 0,
        *,
        unique_keys: None = None,
        **options: Unpack[GroupOptions],
    ) -> list[int]: ...

    @overload
    async def enqueue_many(
        self,
        jobs: Iterable[object],
        delay_seconds: float = 0,
        *,
        unique_keys: Iterable[str | UUID],
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[ServiceOptions],
    ) -> list[EnqueuedId]: ...

    async def enqueue_many(
        self,
        jobs: Iterable[object],
        delay_seconds: float = 0,
        *,
        key: str | UUID | None = None,
        priority: AnyPriority | None = None,
        headers: Mapping[str, Any] | None = None,
        unique_keys: Iterable[str | UUID] | None = None,
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        connection: Any = None,
        group: str | UUID | None = None,
        on_complete: FollowUp | None = None,
        **policies: Unpack[JobPolicies],
    ) -> list[int] | list[EnqueuedId]:
        """Store jobs in one transaction, all or none, and return their msg_ids in order.

        Arguments and errors are those of `enqueue`; an error caused by one job names that job. To
        enqueue very many jobs, pass a few thousand at a time.

        Args:
            jobs: the jobs.
            delay_seconds: of each job, as in `enqueue`.
            key: of each job, as in `enqueue`.
            priority: of each job, as in `enqueue`.
            headers: of each job, as in `enqueue`.
            unique_keys: a unique key for each job. Jobs of one call with the same key are one job:
                the first, or with `replace` the last; with `error` they are refused. Not together
                with a group.
            unique: of each job, as in `enqueue`.
            on_conflict: of each job, as in `enqueue`.
            connection: as in `enqueue`.
            **policies: of each job, as in `enqueue`.
            group: makes the jobs a group of this name, of 1 to 200 characters, which no other group
                of the queue may have. Default: no group, or with `on_complete` a name of its own.
            on_complete: a job to enqueue when the last job of the group has its final outcome; if
                there are no jobs, at once. Its handler sees `Job.finished_group`. Default: none.

        Raises:
            GroupExistsError: if the queue has a group of that name; nothing is stored.
        """
        headers = headers_with_priority(headers, priority)
        made = new_group(group, on_complete)
        check_ungrouped(unique_keys, made)
        check_no_plain_follow_up(self._encryption, policies.get("on_dead_letter"))
        headers = headers_with_policies(headers, **policies)
        uniques = partial(uniques_from, unique_keys, unique=unique, on_conflict=on_conflict)
        tracer = self._tracing.find()
        if tracer is None:
            return await self._enqueue_many(
                jobs,
                delay_seconds,
                key,
                headers,
                unique_keys=uniques,
                group=made,
                connection=connection,
            )
        with sending(tracer, self.queue, headers) as (traced, span):
            msg_ids = await self._enqueue_many(
                jobs,
                delay_seconds,
                key,
                traced,
                unique_keys=uniques,
                group=made,
                connection=connection,
            )
            note_sent(span, msg_ids)
        return msg_ids

    async def publish(
        self,
        topic: str,
        job: object,
        delay_seconds: float = 0,
        *,
        key: str | UUID | None = None,
        priority: AnyPriority | None = None,
        headers: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> dict[str, int]:
        """Store a job in each queue that is bound to a topic, all or none.

        Which these are is up to `bind_topic`; the queue of this service is one of them only if it
        is bound, too. Each has a job of its own, with its own attempts.

        Args:
            topic: 1 to 255 characters, names of a-z, A-Z, 0-9, `_` and `-` with dots between them,
                such as `shop.orders.created`.
            job: as in `enqueue`. No queue that is bound may find it too large.
            delay_seconds: as in `enqueue`.
            key: as in `enqueue`. A queue that takes its keys from the body does not look at it.
            priority: as in `enqueue`.
            headers: as in `enqueue`.
            connection: as in `enqueue`.

        Returns:
            The msg_id in each queue; empty if no queue is bound, and the job is stored nowhere.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError: the job is stored nowhere.
            UnsupportedPgmqError: the installed PGMQ has no topics; 1.11.0 has.
            UncertainCommitError: the connection broke; all have the job, or none has.
            DatabaseError: the job is stored nowhere.
        """
        validate_topic(topic)
        headers = headers_with_priority(headers, priority)
        own = None if connection is None else await self._own_connection(connection)
        database = self._database if own is None else Database.of_caller(own)
        if self._encryption is not None:
            await self._encryption.prepare()

        def encode(all_headers: Mapping[str, Any] | None) -> Publication:
            return publication(
                self._decoder,
                topic,
                job,
                delay_seconds=delay_seconds,
                key=key,
                headers=all_headers,
                encryption=self._encryption,
            )

        tracer = self._tracing.find()
        if tracer is None:
            return await publish(database, encode(headers))
        with sending(tracer, topic, headers) as (traced, span):
            msg_ids = await publish(database, encode(traced))
            note_sent(span, [*msg_ids.values()])
        return msg_ids

    async def _enqueue(
        self,
        job: object,
        delay_seconds: float,
        key: str | UUID | None,
        headers: Mapping[str, Any] | None,
        *,
        unique: Unique | None,
        connection: Any,
    ) -> int:
        own = None if connection is None else await self._own_connection(connection)
        delay = delay_in_seconds(delay_seconds)
        config = await self._settings.usable(own)
        header_text = encode_headers(headers_with_key(headers, key, config.body_key_path))
        body = encoded(self._decoder, job, config.max_payload_bytes)
        message = await self._stored(body, config), header_text, delay
        if unique is not None:
            if own is None:
                found: EnqueuedId = await self._unique_buffer.send((*message, unique))
                return found
            database = Database.of_caller(own)
            return (await insert_all_unique(database, self.queue, [(*message, unique)]))[0]
        if own is not None:
            return (await insert_over(own, self.queue, [message]))[0]
        stored: int = await self._send_buffer.send(message)
        return stored

    async def _enqueue_many(
        self,
        jobs: Iterable[object],
        delay_seconds: float,
        key: str | UUID | None,
        headers: Mapping[str, Any] | None,
        *,
        unique_keys: Callable[[int], list[Unique] | None],
        connection: Any,
        group: NewGroup | None,
    ) -> list[int] | list[EnqueuedId]:
        own = None if connection is None else await self._own_connection(connection)
        check_several(jobs, "enqueue()")
        delay = delay_in_seconds(delay_seconds)
        config = await self._settings.usable(own)
        headers = headers_with_key(headers, key, config.body_key_path)
        header_text = encode_headers(headers) if group is None else group.headers(headers)
        messages = encoded_many(
            self._decoder,
            jobs,
            config.max_payload_bytes,
            headers=header_text,
            delay_seconds=delay,
        )
        if self._encryption is not None or config.requires_encryption:
            messages = [
                (await self._stored(body, config), header_text, delay) for body, _, _ in messages
            ]
        uniques = unique_keys(len(messages))
        if group is not None:
            group = group.encrypted(self._encryption)
            over = self._database if own is None else Database.of_caller(own)
            return await insert_group(over, self.queue, group.in_trace_of(headers), messages)
        if not messages:
            return []
        if uniques is not None:
            database = self._database if own is None else Database.of_caller(own)
            return await insert_all_unique(database, self.queue, with_uniques(messages, uniques))
        if own is not None:
            return await insert_over(own, self.queue, messages)
        return await insert_batches(self._database, self.queue, messages)

    async def _stored(self, body: str, config: QueueConfig) -> str:
        """Return the JSON of a message as it is to be stored: encrypted, if there are keys."""
        ring = self._encryption
        if ring is None and not config.requires_encryption:
            return body
        if ring is not None and ring.is_stale:
            await ring.prepare()
        return outgoing_body(
            body,
            ring,
            Place("queue", self.queue),
            max_bytes=config.max_payload_bytes,
            key_path=config.body_key_path,
            is_required=config.requires_encryption,
        )

    async def _own_connection(self, connection: object) -> Any:
        if not hasattr(connection, "fetch"):
            found = await driver_connection(connection)
            if found is not None:
                return found
        return lent_by_caller(connection, self._answer_timeout_seconds)

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
                runs out.
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
            except LeaseLostError:
                continue
            deadline = deadline_of(job, config.job_expiry_seconds)
            if job.claimed_timestamp >= deadline:
                await self._settle_expired(job, deadline, config)
                continue
            if job.attempt <= job.max_attempts or not job.lost_attempts:
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

    async def cancel(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        state: str | None = None,
        reason: str = "",
        requested_by: str | None = None,
        dry_run: bool = False,
        search_seconds: float = CHANGE_SECONDS,
        connection: Any = None,
    ) -> JobChanges:
        """Cancel jobs: those that wait at once, those that run through their workers.

        A job that is scheduled, ready, lost or waits for a retry is removed, and the history says
        `cancelled`. For a job that runs, the request is stored: its worker reads it within about a
        second, stops the handler, and settles the job as `cancelled`. If the handler ends first,
        its outcome counts, unless that would be a retry. A job never is both cancelled and done.

        Name jobs by id, or by any of the other arguments: those that fit all of them. The queue is
        read for them, about 500,000 short messages a second; they are cancelled in chunks of 1,000,
        each committed on its own.

        Args:
            msg_ids: a job's id, or several.
            run_id: jobs of this run.
            workflow_id: jobs of this workflow.
            project_id: jobs of this project.
            key: jobs of this key.
            state: only jobs in this state: ready, scheduled, running, retrying or lost.
            reason: for the history and the handler, up to 4,000 characters. Default: who asked.
            requested_by: who asks, up to 200 characters. Default: the database role.
            dry_run: change nothing, and return what would be changed. Default false.
            search_seconds: after how long no further part of the queue is searched, 0.1 to 86,400.
                Default 300. It does not apply to ids.
            connection: an asyncpg connection, to cancel inside the caller's transaction.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if no jobs are named.
            QueueNotFoundError, DatabaseError: chunks that were cancelled before stay cancelled.
        """
        changer = self._changer(
            connection,
            search_seconds,
            msg_ids,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            state=state,
        )
        return await changer.cancel(reason=reason, requested_by=requested_by, dry_run=dry_run)

    async def reschedule(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        at: datetime | None = None,
        delay_seconds: float | timedelta | None = None,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        state: str | None = None,
        dry_run: bool = False,
        search_seconds: float = CHANGE_SECONDS,
        connection: Any = None,
    ) -> JobChanges:
        """Let jobs that wait run at another time: scheduled, ready, or waiting for a retry.

        A job that runs is left alone; so is one whose lease was lost, which is claimed next.

        Args:
            msg_ids: as in `cancel`, like the other arguments that name jobs.
            at: when, a datetime with a time zone, at most 366 days ahead. In the past means now.
            delay_seconds: or after how long, 0 to 366 days from now.
            run_id: jobs of this run.
            workflow_id: jobs of this workflow.
            project_id: jobs of this project.
            key: jobs of this key.
            state: only jobs in this state.
            dry_run: change nothing, and return what would be changed. Default false.
            search_seconds: as in `cancel`.
            connection: an asyncpg connection, to do it inside the caller's transaction.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if no jobs are named.
            QueueNotFoundError, DatabaseError: chunks that were rescheduled before stay so.
        """
        moment, delay = checked_time(at, delay_seconds)
        changer = self._changer(
            connection,
            search_seconds,
            msg_ids,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            state=state,
        )
        return await changer.reschedule(moment, delay, dry_run=dry_run)

    async def run_now(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        state: str | None = None,
        dry_run: bool = False,
        search_seconds: float = CHANGE_SECONDS,
        connection: Any = None,
    ) -> JobChanges:
        """Let jobs run now that are scheduled or wait for a retry.

        They are ready behind what is ready already. Arguments and errors are those of `reschedule`.
        """
        changer = self._changer(
            connection,
            search_seconds,
            msg_ids,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            state=state,
        )
        return await changer.reschedule(None, None, dry_run=dry_run)

    async def delete_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        state: str | None = None,
        dry_run: bool = False,
        search_seconds: float = CHANGE_SECONDS,
        connection: Any = None,
    ) -> JobChanges:
        """Delete jobs that do not run with everything about them, as if they had never been.

        That is the message, or the dead letter it became, and its history. To keep the history,
        cancel the job. By id it deletes jobs that have ended, too; by the other arguments only
        those that are in the queue. Of what another transaction has locked, a message counts as
        running, and a dead letter is left alone. Only the owner of the schema may do it.

        Arguments and errors are those of `reschedule`.
        """
        changer = self._changer(
            connection,
            search_seconds,
            msg_ids,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            state=state,
        )
        return await changer.delete(dry_run=dry_run)

    async def replay_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        state: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        delay_seconds: float | timedelta = 0,
        again: bool = False,
        dry_run: bool = False,
        search_seconds: float = CHANGE_SECONDS,
        connection: Any = None,
    ) -> JobChanges:
        """Enqueue jobs again that have ended and whose bodies the queue keeps.

        The queue's setting `keep_bodies_days` keeps them. A new job has the same body and headers,
        and all its attempts; it is in no group and has no unique key. Dead letters are replayed by
        `DLQService`.

        A job is replayed once: another call leaves it as it is and tells the msg_id of its replay,
        unless `again` is true. So a call whose outcome is uncertain can be repeated.

        Name jobs by id, or by any of the other arguments up to `until`: those that fit all of them,
        which are searched for in the history. Jobs are replayed in chunks of 1,000, each committed
        on its own. In the result, `not_kept` counts those whose bodies were not kept.

        Args:
            msg_ids: a job's id, or several.
            run_id: jobs of this run.
            workflow_id: jobs of this workflow.
            project_id: jobs of this project.
            key: jobs of this key. Those whose bodies were not kept are then not counted.
            state: how they ended, succeeded or cancelled. Default, unless ids are given: succeeded.
            since: only jobs that ended at this time or later, a datetime with a time zone.
            until: the same, before this time.
            delay_seconds: how long until they are ready, 0 to 366 days. Default 0.
            again: whether to replay also those that were replayed before. Default false.
            dry_run: change nothing, and return what would be changed. Default false.
            search_seconds: after how long no further part of the history is searched, 0.1 to
                86,400. Default 300. It does not apply to ids or a run.
            connection: an asyncpg connection, to do it inside the caller's transaction.

        Raises:
            InvalidSettingError: naming the argument that is wrong, or if no jobs are named.
            QueueNotFoundError, DatabaseError: chunks that were replayed before stay replayed.
        """
        choice = ReplayChoice.of(
            msg_ids,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            state=state,
            since=since,
            until=until,
        )
        database = self._database if connection is None else Database.of(connection)
        replayer = JobReplayer(database, self.queue, choice, search_seconds)
        return await replayer.replay(delay_seconds=delay_seconds, again=again, dry_run=dry_run)

    def _changer(
        self,
        connection: Any,
        search_seconds: float,
        msg_ids: int | Iterable[int] | None,
        **filters: Any,
    ) -> JobChanger:
        choice = JobChoice.of(msg_ids, **filters)
        database = self._database if connection is None else Database.of(connection)
        return JobChanger(database, self.queue, choice, search_seconds)

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

    async def get_config(self) -> QueueConfig:
        """Return the queue's settings, at most five seconds old.

        Raises:
            QueueNotFoundError: if the queue does not exist.
        """
        return await self._settings.fresh()

    async def close(self) -> None:
        """Wait until every enqueue that is under way has been stored or refused."""
        try:
            await self._send_buffer.flush()
            await self._unique_buffer.flush()
            await self._ends.close()
            await self._settings.close()
        finally:
            await self._database.close()  # only what a URL has opened

    async def __aenter__(self) -> QueueService[PayloadT]:
        """Return the service itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Wait for enqueues that are under way."""
        await self.close()

    @asynccontextmanager
    async def _existing_tables(self) -> AsyncIterator[queries.QueueTables]:
        """Yield the queue's tables; raise QueueNotFoundError if it was dropped in the meantime."""
        if self._tables is None:
            self._tables = await administration.describe_tables(self._database, self.queue)
        try:
            yield self._tables
        except SchemaMissingError:
            self._tables = None
            await administration.describe_tables(self._database, self.queue)
            raise

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
