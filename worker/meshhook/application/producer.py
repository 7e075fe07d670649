"""`AppProducer`: jobs are enqueued and awaited, whatever their queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, overload

from pydantic import BaseModel

from meshhook.application.access import AppAccess
from meshhook.application.queue_handler import identifiers
from meshhook.delays import delay_in_seconds
from meshhook.errors import QueueNotFoundError
from meshhook.names import validate_queue_name
from meshhook.priorities import headers_with_priority
from meshhook.store.messages import job_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta
    from uuid import UUID

    from meshhook.follow_ups import FollowUp
    from meshhook.job_ends import JobEnd
    from meshhook.job_policies import JobPolicies
    from meshhook.priorities import AnyPriority, Priority
    from meshhook.queues import QueueService
    from meshhook.unique import AppGroupOptions, AppOptions, EnqueuedId, OnConflict, UniqueFor

_Value = TypeVar("_Value")


class AppProducer(AppAccess):
    """The part of an application that stores jobs."""

    @overload
    async def enqueue(
        self, queue: str, payload: object, *, unique_key: None = None, **options: Unpack[AppOptions]
    ) -> int: ...

    @overload
    async def enqueue(
        self,
        queue: str,
        payload: object,
        *,
        unique_key: str | UUID,
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[AppOptions],
    ) -> EnqueuedId: ...

    async def enqueue(
        self,
        queue: str,
        payload: object,
        *,
        delay: float | timedelta = 0,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
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

        If the app declares the queue and the database does not have it, the queue is created; any
        other queue must exist. The payload is checked against the type that the handler declares.

        Args:
            queue: the queue.
            payload: what the handler receives: a model or anything that JSON can represent. Or a
                `WorkflowJob`, which includes its payload.
            delay: how long until the job is ready, in seconds or as a timedelta, 0 to 366 days.
                Default 0.
            run_id: the run that it belongs to, a string of 1 to 200 characters or a UUID. Default:
                none.
            workflow_id: the workflow that is run; the same types. Default: none.
            project_id: the project that the workflow belongs to; the same types. Default: none.
            key: whose job it is, a tenant or a destination; the same types. A keyed queue serves
                its keys in fair shares. Default: none, a key of its own.
            priority: how urgent it is: `urgent`, `high`, `normal` or `low`, or 0 to 3. In a queue
                with priorities, the most urgent jobs go first. Default: that of the handler, or
                normal.
            headers: message headers, such as a `traceparent`. Default: none.
            unique_key: a string of 1 to 200 characters or a UUID that at most one job of the queue
                has at a time. Default: none.
            unique: how long the job has it: `until_done`, `until_started`, or a timedelta of up to
                366 days. Default `until_done`, which includes its retries.
            on_conflict: what to do if another job has it. `existing` returns that job's msg_id,
                `error` raises, and `replace` puts this job in its place if it has not started yet,
                else returns its msg_id. Default `existing`.
            connection: a connection of asyncpg, psycopg or SQLAlchemy, to enqueue inside the
                caller's transaction: the job exists if and only if that transaction commits.
                Default: none.
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
        ids = identifiers(run_id=run_id, workflow_id=workflow_id, project_id=project_id)
        job = job_of(payload, ids)
        delay_seconds = delay_in_seconds(delay)
        headers = headers_with_priority(headers, priority, self._priority_of(queue))

        # The overloads are for callers: here no argument is known to be given.
        async def send(service: Any) -> int | EnqueuedId:
            found: int | EnqueuedId = await service.enqueue(
                job,
                delay_seconds,
                key=key,
                headers=headers,
                unique_key=unique_key,
                unique=unique,
                on_conflict=on_conflict,
                connection=connection,
                **policies,
            )
            return found

        return await self._send(queue, send)

    @overload
    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[object],
        *,
        unique_keys: None = None,
        **options: Unpack[AppGroupOptions],
    ) -> list[int]: ...

    @overload
    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[object],
        *,
        unique_keys: Iterable[str | UUID],
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[AppOptions],
    ) -> list[EnqueuedId]: ...

    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[object],
        *,
        delay: float | timedelta = 0,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
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

        The arguments and errors are those of `enqueue`. The delay, identifiers, key, priority
        and headers apply to every job.

        Args:
            queue: the queue.
            payloads: what the handler receives, one for each job.
            delay: of each job.
            run_id: of each job.
            workflow_id: of each job.
            project_id: of each job.
            key: of each job.
            priority: of each job.
            headers: of each job.
            unique_keys: a unique key for each job. Jobs of one call with the same key are one job:
                the first, or with `replace` the last; with `error` they are refused. Not together
                with a group.
            unique: of each job, as in `enqueue`.
            on_conflict: of each job, as in `enqueue`.
            connection: as in `enqueue`.
            **policies: of each job.
            group: makes the jobs a group of this name, of 1 to 200 characters, which no other group
                of the queue may have. Default: no group, or with `on_complete` a name of its own.
            on_complete: a job to enqueue when the last job of the group has its final outcome; if
                there are no jobs, at once. Its handler sees `Job.finished_group`. Default: none.

        Raises:
            GroupExistsError: if the queue has a group of that name; nothing is stored.
        """
        ids = identifiers(run_id=run_id, workflow_id=workflow_id, project_id=project_id)
        # The service refuses anything else, with a message.
        is_several = isinstance(payloads, Iterable) and not isinstance(
            payloads, str | bytes | Mapping | BaseModel
        )
        jobs = [job_of(each, ids) for each in payloads] if is_several else payloads
        delay_seconds = delay_in_seconds(delay)
        headers = headers_with_priority(headers, priority, self._priority_of(queue))

        async def send(service: Any) -> list[int] | list[EnqueuedId]:
            found: list[int] | list[EnqueuedId] = await service.enqueue_many(
                jobs,
                delay_seconds,
                key=key,
                headers=headers,
                unique_keys=unique_keys,
                unique=unique,
                on_conflict=on_conflict,
                connection=connection,
                group=group,
                on_complete=on_complete,
                **policies,
            )
            return found

        return await self._send(queue, send)

    def _priority_of(self, queue: str) -> Priority | None:
        handler = self._handlers.by_queue.get(queue) if isinstance(queue, str) else None
        return None if handler is None else handler.priority

    async def wait(self, queue: str, msg_id: int, *, timeout_seconds: float) -> JobEnd:
        """Wait until a job has its final outcome, and return it with the job's result.

        The arguments and errors are those of `QueueService.wait`, and the queue.
        """
        return await self._send(
            queue, lambda service: service.wait(msg_id, timeout_seconds=timeout_seconds)
        )

    async def _send(
        self, queue: str, send: Callable[[QueueService[Any]], Awaitable[_Value]]
    ) -> _Value:
        name = validate_queue_name(queue)
        handler = self._handlers.by_queue.get(name)
        opened = self._current()
        service = await opened.service(
            name,
            payload_model=None if handler is None else handler.payload_model,
            tracer_provider=self._tracer_provider,
            encryption=self.encryption,
        )
        was_checked = name in opened.checked_queues
        try:
            return await send(service)
        except QueueNotFoundError:
            # Once per queue: one that an operator drops later is not created again.
            if handler is None or was_checked or not self._creates_queues:
                raise
        await opened.create_missing([handler], looks_again=False)
        return await send(service)
