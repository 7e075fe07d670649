"""`SyncQueueProducer`: jobs are enqueued and published without an event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from meshhook.arguments import headers_with_key
from meshhook.delays import delay_in_seconds
from meshhook.encryption.envelope import Place
from meshhook.encryption.key_ring import withholds_errors
from meshhook.encryption.messages import outgoing_body
from meshhook.errors import QueueNotFoundError
from meshhook.jobs import PayloadT
from meshhook.names import validate_topic
from meshhook.observability.tracing import send_traced_now
from meshhook.queues.follow_up_queues import MAX_QUEUES
from meshhook.store.encrypted_headers import (
    check_follow_up_queue,
    encrypted_headers,
    follow_up_queue,
)
from meshhook.store.groups import new_group
from meshhook.store.message_headers import encode_headers
from meshhook.store.messages import check_several, encoded, encoded_many, note_position
from meshhook.store.policy_headers import job_headers
from meshhook.store.publishing import publication, publish_now
from meshhook.store.sending import insert_group_now, insert_now
from meshhook.store.unique_sending import check_ungrouped, insert_all_unique_now, with_uniques
from meshhook.sync.access import SyncQueueAccess
from meshhook.sync.recent_settings import RecentSettings
from meshhook.unique import unique_from, uniques_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from uuid import UUID

    from meshhook.drivers.driver_connection import SyncDriverConnection
    from meshhook.follow_ups import FollowUp
    from meshhook.job_policies import JobPolicies
    from meshhook.priorities import AnyPriority
    from meshhook.queue_config import QueueConfig
    from meshhook.store.groups import NewGroup
    from meshhook.store.messages import Message
    from meshhook.unique import (
        EnqueuedId,
        GroupOptions,
        OnConflict,
        ServiceOptions,
        Unique,
        UniqueFor,
    )

_Sent = TypeVar("_Sent")


class SyncQueueProducer(SyncQueueAccess[PayloadT]):
    """The part of a service that stores jobs."""

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
        **policies: Unpack[JobPolicies],
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
            **policies: of each job, as in `enqueue`.

        Returns:
            The msg_id in each queue; empty if no queue is bound, and the job is stored nowhere.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError: the job is stored nowhere.
            UnsupportedPgmqError, UncertainCommitError, DatabaseError: as there.
        """
        validate_topic(topic)
        headers = job_headers(headers, priority, **policies)
        own = self._own_connection(connection)
        if own is None:
            return self._opened().run(
                lambda opened: opened.service.publish(
                    topic, job, delay_seconds, key=key, headers=headers
                )
            )

        if self._encryption is not None:
            self._encryption.prepare_now()

        def send(all_headers: Mapping[str, Any] | None) -> dict[str, int]:
            found = publication(
                self._decoder,
                topic,
                job,
                delay_seconds=delay_seconds,
                key=key,
                headers=all_headers,
                encryption=self._encryption,
            )
            return publish_now(own, found)

        return self._sent(topic, headers, send)

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
            key_path = self._follow_up_key_path(header_text, connection)
            messages = encode(config.max_payload_bytes, header_text, delay)
            messages = self._stored(messages, config, key_path)
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

        return self._sent(self.queue, headers, insert)

    def _sent(
        self,
        destination: str,
        headers: Mapping[str, Any] | None,
        send: Callable[[Mapping[str, Any] | None], _Sent],
    ) -> _Sent:
        """Send with a span if there is a tracer."""
        tracer = self._tracing.find()
        if tracer is None:
            return send(headers)
        hides = withholds_errors(self._encryption)
        return send_traced_now(tracer, destination, headers, send, withholds_errors=hides)

    def _follow_up_key_path(
        self, headers: str | None, connection: SyncDriverConnection
    ) -> str | None:
        """Return where the queue of what follows a dead letter has its keys, if in the body.

        Raises:
            EncryptionRequiredError: if that queue requires encryption, and there are no keys.
        """
        queue = follow_up_queue(headers)
        if queue is None:
            return None
        if len(self._follow_up_settings) > MAX_QUEUES:
            self._follow_up_settings.clear()
        settings = self._follow_up_settings.setdefault(queue, RecentSettings(queue))
        try:
            config = settings.read(connection)
        except QueueNotFoundError:
            return None  # it may come
        return check_follow_up_queue(headers, config, self._encryption)

    def _stored(
        self, messages: list[Message], config: QueueConfig, follow_up_key_path: str | None
    ) -> list[Message]:
        """Return messages as they are to be stored: encrypted, if there are keys."""
        ring = self._encryption
        if ring is None and not config.requires_encryption:
            return messages
        if ring is not None:
            ring.prepare_now()
        stored: list[Message] = []
        for body, headers, delay_seconds in messages:
            try:
                sent = outgoing_body(
                    body,
                    ring,
                    Place("queue", self.queue),
                    max_bytes=config.max_payload_bytes,
                    key_path=config.body_key_path,
                    is_required=config.requires_encryption,
                )
                sent_headers = encrypted_headers(headers, body, ring, key_path=follow_up_key_path)
            except ValueError as error:
                if len(messages) > 1:
                    note_position(error, len(stored))
                raise
            stored.append((sent, sent_headers, delay_seconds))
        return stored


def _any(service: Any) -> Any:
    # The overloads are for callers: here no argument is known to be given.
    return service
