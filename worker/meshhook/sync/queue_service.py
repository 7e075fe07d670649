"""`SyncQueueService`: one queue, without an event loop in the calling thread."""

from __future__ import annotations

import os
import threading
import weakref
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Unpack, overload

from meshhook.arguments import checked_flag, checked_seconds, headers_with_key
from meshhook.delays import delay_in_seconds
from meshhook.drivers.lending import check_sync, sync_connection
from meshhook.encryption.envelope import Place
from meshhook.encryption.key_ring import checked_ring, withholds_errors
from meshhook.encryption.messages import outgoing_body
from meshhook.errors import InvalidSettingError, QueueNotFoundError
from meshhook.jobs import PayloadT
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name, validate_topic
from meshhook.observability.tracing import TracerFinder, note_sent, sending
from meshhook.postgres.database import Database
from meshhook.postgres.url import parse_database_url
from meshhook.priorities import headers_with_priority
from meshhook.queues import QueueService
from meshhook.store.bodies import BodyDecoder, encode_headers
from meshhook.store.encrypted_headers import encrypted_headers
from meshhook.store.groups import new_group
from meshhook.store.messages import check_several, encoded, encoded_many
from meshhook.store.policy_headers import job_headers
from meshhook.store.publishing import publication, publish_now
from meshhook.store.sending import insert_group_now, insert_now
from meshhook.store.unique_sending import (
    check_ungrouped,
    insert_all_unique_now,
    with_uniques,
)
from meshhook.sync.loop_thread import LoopThread
from meshhook.sync.recent_settings import RecentSettings
from meshhook.tracking import find_jobs
from meshhook.unique import unique_from, uniques_from

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping
    from datetime import datetime, timedelta
    from uuid import UUID

    from opentelemetry.trace import TracerProvider

    from meshhook.drivers.driver_connection import SyncDriverConnection
    from meshhook.encryption.key_ring import KeyRing
    from meshhook.follow_ups import FollowUp
    from meshhook.job_changes import JobChanges, JobChoiceOptions
    from meshhook.job_ends import JobEnd
    from meshhook.job_policies import JobPolicies
    from meshhook.job_replays import ReplayOptions
    from meshhook.priorities import AnyPriority
    from meshhook.queue_config import QueueConfig
    from meshhook.store.groups import NewGroup
    from meshhook.store.messages import Message
    from meshhook.store.publishing import Publication
    from meshhook.tracking import FoundJobs, JobFilters
    from meshhook.unique import (
        EnqueuedId,
        GroupOptions,
        OnConflict,
        ServiceOptions,
        Unique,
        UniqueFor,
    )

POOL_SIZE = 4
"""The most connections that are opened for a URL."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is used in the thread with the connections."""

    database: Database
    service: QueueService[Any]


@dataclass
class _Process:
    """What belongs to one process: a forked one must not use connections of its parent."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    thread: LoopThread[_Opened] | None = None


class SyncQueueService(Generic[PayloadT]):
    """One queue, for threads, scripts and WSGI: enqueue, cancel, find and await jobs.

    Threads may share one service, and so may processes that are forked: each opens connections of
    its own when it first needs them.
    """

    def __init__(
        self,
        source: Any = None,
        queue: str = DEFAULT_QUEUE_NAME,
        *,
        payload_model: Any = None,
        tracer_provider: TracerProvider | None = None,
        pooled: bool = False,
        answer_timeout_seconds: float | None = None,
        encryption: KeyRing | None = None,
    ) -> None:
        """Take where the queue is, and its name.

        Args:
            source: a URL, to which at most 4 connections are opened when they are needed; they
                live in a thread of their own, and `close` closes them. Or a connection of psycopg,
                SQLAlchemy or Django that is not asynchronous, or a session: the caller still owns
                it, and jobs are part of the transaction on it. Default: none, for a service that
                is only called with `connection=`.
            queue: the queue; see `meshhook.names`. Default `workflow_jobs`.
            payload_model: the type of the payload; other payloads are refused. Default: anything
                that JSON can hold.
            tracer_provider: creates the spans of sends and puts their trace into the headers.
                Default: OpenTelemetry's global provider, once one is set; otherwise no spans.
            pooled: whether the URL leads through a pooler in transaction mode. Default false.
            answer_timeout_seconds: how long a statement on a connection to the URL may take before
                it counts as broken, 0.001 to 86,400 seconds. Default 30.
            encryption: the keys with which jobs are encrypted. Default: none.

        Raises:
            InvalidQueueNameError: if the name is not a valid queue name.
            InvalidSettingError: if `source` is none of these, or another argument is not valid.
        """
        self.queue = validate_queue_name(queue)
        if isinstance(source, str):
            parse_database_url(source)
        elif source is not None:
            check_sync(source)
        self._source = source
        self._payload_model = payload_model
        self._tracer_provider = tracer_provider
        self._pooled = checked_flag("pooled", pooled)
        if answer_timeout_seconds is not None:
            checked_seconds("answer_timeout_seconds", answer_timeout_seconds, 0.001, 86_400)
        self._answer_timeout_seconds = answer_timeout_seconds
        self._decoder: BodyDecoder[PayloadT] = BodyDecoder(payload_model)
        self._tracing = TracerFinder(tracer_provider)
        self._encryption = checked_ring(encryption)
        self._settings = RecentSettings(self.queue)
        self._processes: dict[int, _Process] = {}
        # Also at the end of the program, for connections that nobody closes.
        weakref.finalize(self, _close, self._processes)

    @overload
    def enqueue(
        self,
        job: object,
        delay_seconds: float = 0,
        *,
        unique_key: None = None,
        **options: Unpack[ServiceOptions],
    ) -> int: ...

    @overload
    def enqueue(
        self,
        job: object,
        delay_seconds: float = 0,
        *,
        unique_key: str | UUID,
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[ServiceOptions],
    ) -> EnqueuedId: ...

    def enqueue(
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

        Over a URL, concurrent calls of several threads share one statement.

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
            connection: a connection as `source` takes it, to enqueue inside the caller's
                transaction: the job exists if and only if that transaction commits, and no other
                connection is used. Default: the source.
            **policies: the job's own policies, which count before the queue's settings: `retry`,
                a `RetryPolicy`; `expires_at`, a datetime with a time zone, or `expires_in`, seconds
                or a timedelta: when the job is no longer to be started; `on_dead_letter`, a
                `FollowUp` to enqueue if the job becomes a dead letter. Default: none.

        Returns:
            The msg_id. With a unique key it is an `EnqueuedId`, whose `is_new` says whether the
            job was stored.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError: the job is not stored.
            DuplicateJobError: another job has the unique key; with `on_conflict="error"` only.
            UncertainCommitError: the connection broke; the job may or may not be stored.
            QueueNotFoundError, DatabaseError: the job is not stored.
        """
        own = self._own_connection(connection)
        if own is None:
            stored: int | EnqueuedId = self._opened().run(
                lambda opened: _any(opened.service).enqueue(
                    job,
                    delay_seconds,
                    key=key,
                    priority=priority,
                    headers=headers,
                    unique_key=unique_key,
                    unique=unique,
                    on_conflict=on_conflict,
                    **policies,
                )
            )
            return stored
        headers = job_headers(headers, priority, **policies)
        one = unique_from(unique_key, unique, on_conflict)

        def encode(max_bytes: int, header_text: str | None, delay: float) -> list[Message]:
            return [(encoded(self._decoder, job, max_bytes), header_text, delay)]

        def uniques(_: int) -> list[Unique] | None:
            return None if one is None else [one]

        found: int | EnqueuedId = self._enqueue_over(
            own, encode, delay_seconds, key, headers, unique_keys=uniques
        )[0]
        return found

    @overload
    def enqueue_many(
        self,
        jobs: Iterable[object],
        delay_seconds: float = 0,
        *,
        unique_keys: None = None,
        **options: Unpack[GroupOptions],
    ) -> list[int]: ...

    @overload
    def enqueue_many(
        self,
        jobs: Iterable[object],
        delay_seconds: float = 0,
        *,
        unique_keys: Iterable[str | UUID],
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[ServiceOptions],
    ) -> list[EnqueuedId]: ...

    def enqueue_many(
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
        enqueue very many jobs, pass a few thousand at a time. `unique_keys`, `group` and
        `on_complete` are those of `QueueService.enqueue_many`.
        """
        own = self._own_connection(connection)
        check_several(jobs, "enqueue()")
        if own is None:
            stored: list[int] | list[EnqueuedId] = self._opened().run(
                lambda opened: _any(opened.service).enqueue_many(
                    jobs,
                    delay_seconds,
                    key=key,
                    priority=priority,
                    headers=headers,
                    unique_keys=unique_keys,
                    unique=unique,
                    on_conflict=on_conflict,
                    group=group,
                    on_complete=on_complete,
                    **policies,
                )
            )
            return stored
        headers = job_headers(headers, priority, **policies)
        made = new_group(group, on_complete)
        check_ungrouped(unique_keys, made)

        def encode(max_bytes: int, header_text: str | None, delay: float) -> list[Message]:
            return encoded_many(
                self._decoder, jobs, max_bytes, headers=header_text, delay_seconds=delay
            )

        uniques = partial(uniques_from, unique_keys, unique=unique, on_conflict=on_conflict)
        found: list[int] | list[EnqueuedId] = self._enqueue_over(
            own, encode, delay_seconds, key, headers, unique_keys=uniques, group=made
        )
        return found

    def publish(
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
        """Store a job in each queue that is bound to a topic, as `QueueService.publish` does.

        Args:
            topic: as there, such as `shop.orders.created`.
            job: the job.
            delay_seconds: as in `enqueue`.
            key: as in `enqueue`.
            priority: as in `enqueue`.
            headers: as in `enqueue`.
            connection: as in `enqueue`.

        Returns:
            The msg_id in each queue; empty if no queue is bound, and the job is stored nowhere.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError: the job is stored nowhere.
            UnsupportedPgmqError, UncertainCommitError, DatabaseError: as there.
        """
        validate_topic(topic)
        headers = headers_with_priority(headers, priority)
        own = self._own_connection(connection)
        if own is None:
            return self._opened().run(
                lambda opened: opened.service.publish(
                    topic, job, delay_seconds, key=key, headers=headers
                )
            )

        if self._encryption is not None:
            self._encryption.prepare_now()

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
            return publish_now(own, encode(headers))
        with sending(
            tracer, topic, headers, withholds_errors=withholds_errors(self._encryption)
        ) as (traced, span):
            msg_ids = publish_now(own, encode(traced))
            note_sent(span, [*msg_ids.values()])
        return msg_ids

    def cancel(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        reason: str = "",
        requested_by: str | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Cancel jobs, as `QueueService.cancel` does.

        To do it in a transaction of the caller, run `select * from meshhook.cancel(...)` there.

        Raises:
            InvalidSettingError: if the service was made without a URL, or an argument is wrong.
            QueueNotFoundError, DatabaseError: as there.
        """
        return self._opened_for("cancel()").run(
            lambda opened: opened.service.cancel(
                msg_ids, reason=reason, requested_by=requested_by, **choice
            )
        )

    def reschedule(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        at: datetime | None = None,
        delay_seconds: float | timedelta | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Let jobs that wait run at another time, as `QueueService.reschedule` does.

        In a transaction of the caller: `select * from meshhook.reschedule(...)`. Errors are those
        of `cancel`.
        """
        return self._opened_for("reschedule()").run(
            lambda opened: opened.service.reschedule(
                msg_ids, at=at, delay_seconds=delay_seconds, **choice
            )
        )

    def run_now(
        self,
        msg_ids: int | Iterable[int] | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Let jobs run now that are scheduled or wait for a retry, as `QueueService.run_now` does.

        In a transaction of the caller: `select * from meshhook.run_now(...)`. Errors are those of
        `cancel`.
        """
        return self._opened_for("run_now()").run(
            lambda opened: opened.service.run_now(msg_ids, **choice)
        )

    def set_priority(
        self,
        msg_ids: int | Iterable[int] | None = None,
        *,
        priority: AnyPriority,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Change the priority of jobs that wait, as `QueueService.set_priority` does.

        In a transaction of the caller: `select * from meshhook.set_priority(...)`. Errors are those
        of `cancel`, and `InvalidJobError` if that is no priority.
        """
        return self._opened_for("set_priority()").run(
            lambda opened: opened.service.set_priority(msg_ids, priority=priority, **choice)
        )

    def delete_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        **choice: Unpack[JobChoiceOptions],
    ) -> JobChanges:
        """Delete jobs with everything about them, as `QueueService.delete_jobs` does.

        In a transaction of the caller: `select * from meshhook.delete_jobs(...)`. Errors are those
        of `cancel`.
        """
        return self._opened_for("delete_jobs()").run(
            lambda opened: opened.service.delete_jobs(msg_ids, **choice)
        )

    def replay_jobs(
        self,
        msg_ids: int | Iterable[int] | None = None,
        **choice: Unpack[ReplayOptions],
    ) -> JobChanges:
        """Enqueue jobs again that have ended, as `QueueService.replay_jobs` does.

        In a transaction of the caller: `select * from meshhook.replay_jobs(...)`. Errors are those
        of `cancel`.
        """
        return self._opened_for("replay_jobs()").run(
            lambda opened: opened.service.replay_jobs(msg_ids, **choice)
        )

    def find_jobs(self, **filters: Unpack[JobFilters]) -> FoundJobs:
        """Return jobs of the queue, most recently enqueued first, as `tracking.find_jobs` does.

        Raises:
            InvalidSettingError: if the service was made without a URL, or an argument is wrong.
            QueueNotFoundError, DatabaseError: as there.
        """
        return self._opened_for("find_jobs()").run(
            lambda opened: find_jobs(opened.database, queue=self.queue, **filters)
        )

    def wait(self, msg_id: int, *, timeout_seconds: float) -> JobEnd:
        """Wait until a job has its final outcome, as `QueueService.wait` does.

        Raises:
            InvalidSettingError: if the service was made without a URL, or an argument is out of
                its range.
            WaitTimeoutError, JobNotFoundError, QueueNotFoundError, DatabaseError: as there.
        """
        return self._opened_for("wait()").run(
            lambda opened: opened.service.wait(msg_id, timeout_seconds=timeout_seconds)
        )

    def close(self) -> None:
        """Wait for enqueues that are under way, and close connections to a URL.

        The next call opens them again. A source that is a connection stays open.
        """
        _close(self._processes)

    def __enter__(self) -> SyncQueueService[PayloadT]:
        """Return the service itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close connections to a URL."""
        self.close()

    def _own_connection(self, connection: object) -> SyncDriverConnection | None:
        if connection is not None:
            return sync_connection(connection)
        if isinstance(self._source, str):
            return None
        if self._source is None:
            raise InvalidSettingError(
                "the service has no database: pass connection=, or make it with a URL: "
                "SyncQueueService('postgresql://user:password@host:5432/name', 'orders')"
            )
        return sync_connection(self._source)

    def _enqueue_over(
        self,
        connection: SyncDriverConnection,
        encode: Callable[[int, str | None, float], list[Message]],
        delay_seconds: float,
        key: str | UUID | None,
        headers: Mapping[str, Any] | None,
        *,
        unique_keys: Callable[[int], list[Unique] | None],
        group: NewGroup | None = None,
    ) -> Any:
        def insert(headers: Mapping[str, Any] | None) -> Any:
            delay = delay_in_seconds(delay_seconds)
            config = self._settings.read(connection)
            headers = headers_with_key(headers, key, config.body_key_path)
            header_text = encode_headers(headers) if group is None else group.headers(headers)
            messages = self._stored(encode(config.max_payload_bytes, header_text, delay), config)
            uniques = unique_keys(len(messages))
            try:
                if group is not None:
                    in_trace = group.encrypted(self._encryption).in_trace_of(headers)
                    return insert_group_now(connection, self.queue, in_trace, messages)
                if uniques is not None and messages:
                    return insert_all_unique_now(
                        connection, self.queue, with_uniques(messages, uniques)
                    )
                return insert_now(connection, self.queue, messages) if messages else []
            except QueueNotFoundError:
                self._settings.forget()
                raise

        tracer = self._tracing.find()
        if tracer is None:
            return insert(headers)
        with sending(
            tracer, self.queue, headers, withholds_errors=withholds_errors(self._encryption)
        ) as (traced, span):
            ids = insert(traced)
            note_sent(span, ids)
        return ids

    def _stored(self, messages: list[Message], config: QueueConfig) -> list[Message]:
        """Return messages as they are to be stored: encrypted, if there are keys."""
        ring = self._encryption
        if ring is None and not config.requires_encryption:
            return messages
        if ring is not None:
            ring.prepare_now()
        place, limit = Place("queue", self.queue), config.max_payload_bytes
        return [
            (
                outgoing_body(
                    body,
                    ring,
                    place,
                    max_bytes=limit,
                    key_path=config.body_key_path,
                    is_required=config.requires_encryption,
                ),
                encrypted_headers(headers, body, ring),
                delay_seconds,
            )
            for body, headers, delay_seconds in messages
        ]

    def _opened_for(self, method: str) -> LoopThread[_Opened]:
        if not isinstance(self._source, str):
            raise InvalidSettingError(
                f"{method} needs connections of its own: make the service with a URL"
            )
        return self._opened()

    def _opened(self) -> LoopThread[_Opened]:
        """Return the thread that has this process's connections; the first call starts it."""
        # What a parent process had stays untouched: to let go of it would end its sessions.
        process = self._processes.setdefault(os.getpid(), _Process())
        with process.lock:
            if process.thread is None:
                process.thread = LoopThread(self._open, name=f"meshhook-enqueue-{self.queue}")
            return process.thread

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[_Opened]:
        database = await Database.connect(
            self._source,
            min_size=0,
            max_size=POOL_SIZE,
            pooled=self._pooled,
            answer_timeout_seconds=self._answer_timeout_seconds,
        )
        try:
            async with QueueService[Any](
                database,
                self.queue,
                payload_model=self._payload_model,
                tracer_provider=self._tracer_provider,
                encryption=self._encryption,
            ) as service:
                yield _Opened(database, service)
        finally:
            await database.close()


def _close(processes: dict[int, _Process]) -> None:
    process = processes.get(os.getpid())
    if process is None:
        return
    with process.lock:
        thread, process.thread = process.thread, None
    if thread is not None:
        thread.stop()


def _any(service: Any) -> Any:
    # The overloads are for callers: here no argument is known to be given.
    return service
