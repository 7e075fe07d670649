"""`QueueProducer`: jobs are enqueued and published."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar, overload

from meshhook.arguments import headers_with_key
from meshhook.delays import delay_in_seconds
from meshhook.drivers.lending import driver_connection
from meshhook.encryption.envelope import Place
from meshhook.encryption.key_ring import withholds_errors
from meshhook.encryption.messages import outgoing_body
from meshhook.jobs import ON_DEAD_LETTER_HEADER, PayloadT
from meshhook.names import validate_topic
from meshhook.observability.tracing import send_traced
from meshhook.postgres.database import Database, lent_by_caller
from meshhook.queues.access import QueueAccess
from meshhook.store.encrypted_headers import check_follow_up_queue, encrypted_headers
from meshhook.store.groups import new_group
from meshhook.store.message_headers import encode_headers
from meshhook.store.messages import check_several, encoded, encoded_many, note_position
from meshhook.store.policy_headers import job_headers
from meshhook.store.publishing import publication, publish
from meshhook.store.sending import insert_batches, insert_group, insert_over
from meshhook.store.unique_sending import check_ungrouped, insert_all_unique, with_uniques
from meshhook.unique import unique_from, uniques_from

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import Any, Unpack
    from uuid import UUID

    from meshhook.follow_ups import FollowUp
    from meshhook.job_policies import JobPolicies
    from meshhook.priorities import AnyPriority
    from meshhook.queue_config import QueueConfig
    from meshhook.store.groups import NewGroup
    from meshhook.unique import (
        EnqueuedId,
        GroupOptions,
        OnConflict,
        ServiceOptions,
        Unique,
        UniqueFor,
    )

_Sent = TypeVar("_Sent")


class QueueProducer(QueueAccess[PayloadT]):
    """The part of a service that stores jobs."""

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
        headers = job_headers(headers, priority, **policies)
        return await self._sent(
            self.queue, headers, self._enqueue, job, delay_seconds, key, one, connection
        )

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
        headers = job_headers(headers, priority, **policies)
        made = new_group(group, on_complete)
        check_ungrouped(unique_keys, made)
        uniques = partial(uniques_from, unique_keys, unique=unique, on_conflict=on_conflict)
        return await self._sent(
            self.queue,
            headers,
            self._enqueue_many,
            *(jobs, delay_seconds, key, uniques, made, connection),
        )

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
        **policies: Unpack[JobPolicies],
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
            **policies: of each job, as in `enqueue`.

        Returns:
            The msg_id in each queue; empty if no queue is bound, and the job is stored nowhere.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError: the job is stored nowhere.
            UnsupportedPgmqError: the installed PGMQ has no topics; 1.11.0 has.
            UncertainCommitError: the connection broke; all have the job, or none has.
            DatabaseError: the job is stored nowhere.
        """
        validate_topic(topic)
        headers = job_headers(headers, priority, **policies)
        own = None if connection is None else await self._own_connection(connection)
        database = self._database if own is None else Database.of_caller(own)
        if self._encryption is not None:
            await self._encryption.prepare()

        def send(all_headers: Mapping[str, Any] | None) -> Awaitable[dict[str, int]]:
            found = publication(
                self._decoder,
                topic,
                job,
                delay_seconds=delay_seconds,
                key=key,
                headers=all_headers,
                encryption=self._encryption,
            )
            return publish(database, found)

        return await self._sent(topic, headers, send)

    def _sent(
        self,
        destination: str,
        headers: Mapping[str, Any] | None,
        send: Callable[..., Awaitable[_Sent]],
        *arguments: object,
    ) -> Awaitable[_Sent]:
        """Send with a span if there is a tracer; without one, for no more than a call.

        `send` takes the headers, then the arguments.
        """
        tracer = self._tracing.find()
        if tracer is None:
            return send(headers, *arguments)
        hides = withholds_errors(self._encryption)
        return send_traced(tracer, destination, headers, send, *arguments, withholds_errors=hides)

    async def _enqueue(  # noqa: PLR0917 - `_sent` hands them on, which keywords would slow
        self,
        headers: Mapping[str, Any] | None,
        job: object,
        delay_seconds: float,
        key: str | UUID | None,
        unique: Unique | None,
        connection: Any,
    ) -> int:
        own = None if connection is None else await self._own_connection(connection)
        delay = delay_in_seconds(delay_seconds)
        config = await self._settings.usable(own)
        header_text = encode_headers(headers_with_key(headers, key, config.body_key_path))
        body = encoded(self._decoder, job, config.max_payload_bytes)
        key_path = None
        if header_text is not None and ON_DEAD_LETTER_HEADER in header_text:
            key_path = await self._follow_up_key_path(header_text, own)
        message = (*await self._stored(body, header_text, config, key_path), delay)
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

    async def _enqueue_many(  # noqa: PLR0917 - as above
        self,
        headers: Mapping[str, Any] | None,
        jobs: Iterable[object],
        delay_seconds: float,
        key: str | UUID | None,
        unique_keys: Callable[[int], list[Unique] | None],
        group: NewGroup | None,
        connection: Any,
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
        key_path = None
        if header_text is not None and ON_DEAD_LETTER_HEADER in header_text:
            key_path = await self._follow_up_key_path(header_text, own)
        if self._encryption is not None or config.requires_encryption:
            plain, messages = messages, []
            for body, _, _ in plain:
                try:
                    stored = await self._stored(body, header_text, config, key_path)
                except ValueError as error:
                    note_position(error, len(messages))
                    raise
                messages.append((*stored, delay))
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

    async def _follow_up_key_path(self, headers: str, own: Any) -> str | None:
        """Return where the queue of what follows a dead letter has its keys, if in the body.

        Raises:
            EncryptionRequiredError: if that queue requires encryption, and there are no keys.
        """
        config = await self._follow_up_queues.of(headers, own)
        return check_follow_up_queue(headers, config, self._encryption)

    async def _stored(
        self,
        body: str,
        headers: str | None,
        config: QueueConfig,
        follow_up_key_path: str | None,
    ) -> tuple[str, str | None]:
        """Return body and headers as they are to be stored: encrypted, if there are keys."""
        ring = self._encryption
        if ring is None and not config.requires_encryption:
            return body, headers
        if ring is not None and ring.is_stale:
            await ring.prepare()
        stored = outgoing_body(
            body,
            ring,
            Place("queue", self.queue),
            max_bytes=config.max_payload_bytes,
            key_path=config.body_key_path,
            is_required=config.requires_encryption,
        )
        return stored, encrypted_headers(headers, body, ring, key_path=follow_up_key_path)

    async def _own_connection(self, connection: object) -> Any:
        if not hasattr(connection, "fetch"):
            found = await driver_connection(connection)
            if found is not None:
                return found
        return lent_by_caller(connection, self._answer_timeout_seconds)
