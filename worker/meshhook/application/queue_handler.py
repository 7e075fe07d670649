"""The handler of one queue of an application, which also enqueues into that queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack, overload
from uuid import UUID

from meshhook.application.arguments import handler_argument, name_of, shown_type
from meshhook.application.payload_calls import called_with_payload, called_with_payloads
from meshhook.errors import InvalidHandlerError, InvalidJobError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.follow_ups import FollowUp
from meshhook.jobs import MAX_ID_LENGTH, Job, PayloadT, WorkflowJob
from meshhook.priorities import PRIORITY_HEADER
from meshhook.worker import JobHandler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import timedelta

    from meshhook.application.app import App
    from meshhook.job_ends import JobEnd
    from meshhook.job_policies import JobPolicies
    from meshhook.new_schedule import NewSchedule
    from meshhook.priorities import AnyPriority, Priority
    from meshhook.retry import RetryFunction
    from meshhook.unique import AppGroupOptions, AppOptions, EnqueuedId, OnConflict, UniqueFor
    from meshhook.worker.batch_options import BatchOptions


class QueueHandler(JobHandler[PayloadT]):
    """The handler of one queue of an application; the decorator `App.job` creates it.

    Calling it calls the decorated function. It is also a `JobHandler`.
    """

    def __init__(
        self,
        app: App,
        queue: str,
        *,
        function: Callable[..., Any],
        payload_model: Any = None,
        batch: BatchOptions | None = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        priority: Priority | None = None,
        settings: Mapping[str, Any],
        names: Mapping[str, Any],
    ) -> None:
        """Take a function, and read from its annotation what it takes.

        Args:
            app: the application.
            queue: the queue.
            function: takes a job, or only its payload; with `batch`, a list of them.
            payload_model: the type of the payload, if the annotation does not give it.
            batch: how jobs are put together. Default: not at all.
            weight: the queue's share of a worker's slots.
            retry: decides when a failed job is retried. Default: that of a `JobHandler`, if any.
            priority: the priority of jobs for which none is said. Default: none, which is normal.
            settings: settings for creating the queue.
            names: the local names at the place of the declaration.

        Raises:
            InvalidHandlerError: naming the function and what is wrong with it.
        """
        if isinstance(function, JobHandler):
            payload_model = function.decoder.model if payload_model is None else payload_model
            retry = function.retry if retry is None else retry
            batch = function.batch if batch is None else batch
            function = function.function
        super().__init__(function, batch=batch)  # checks what can be called with one argument
        is_batch = batch is not None
        argument = handler_argument(function, payload_model, names, is_batch=is_batch)
        try:
            model = None if argument.model is Any else argument.model
            super().__init__(function, model, retry, batch)
        except InvalidSettingError:
            raise InvalidHandlerError(
                f"handler {name_of(function)}: its argument is annotated with "
                f"{shown_type(argument.model)}, which pydantic cannot validate; write "
                "`job: Job[Order]` or `order: Order` for a model Order"
            ) from None
        self.app = app
        """The application."""
        self.queue = queue
        """The queue whose jobs it runs."""
        self.payload_model = argument.model
        """The type of the payload; Any for plain JSON."""
        self.weight = weight
        """The queue's share of a worker's slots, relative to other queues."""
        self.priority = priority
        """The priority of jobs for which none is said; None means normal."""
        self.settings = dict(settings)
        """The settings for creating the queue if it is missing."""
        self.schedules: list[NewSchedule] = []
        """The schedules of the handler, which workers store in the database."""
        self._written = function
        if not argument.is_job:
            calling = called_with_payloads if is_batch else called_with_payload
            self.function = calling(function, is_async=self.is_async)

    def __call__(
        self, argument: Job[PayloadT] | PayloadT | list[Job[PayloadT]] | list[PayloadT]
    ) -> Any:
        """Call the decorated function, with a job or a payload or a list, whichever it takes."""
        function: Any = self._written
        return function(argument)

    @property
    def place(self) -> str:
        """The function and its module, for errors."""
        return f"{getattr(self._written, '__module__', '?')}.{name_of(self._written)}"

    @overload
    async def enqueue(
        self,
        payload: PayloadT | WorkflowJob,
        *,
        unique_key: None = None,
        **options: Unpack[AppOptions],
    ) -> int: ...

    @overload
    async def enqueue(
        self,
        payload: PayloadT | WorkflowJob,
        *,
        unique_key: str | UUID,
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[AppOptions],
    ) -> EnqueuedId: ...

    async def enqueue(
        self,
        payload: PayloadT | WorkflowJob,
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
        """Store a job for this handler, and return its msg_id once it is durable.

        The arguments and errors are those of `App.enqueue`.
        """
        # The overloads are for callers: here no argument is known to be given.
        app: Any = self.app
        found: int | EnqueuedId = await app.enqueue(
            self.queue,
            payload,
            delay=delay,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            priority=priority,
            headers=headers,
            unique_key=unique_key,
            unique=unique,
            on_conflict=on_conflict,
            connection=connection,
            **policies,
        )
        return found

    @overload
    async def enqueue_many(
        self,
        payloads: Iterable[PayloadT | WorkflowJob],
        *,
        unique_keys: None = None,
        **options: Unpack[AppGroupOptions],
    ) -> list[int]: ...

    @overload
    async def enqueue_many(
        self,
        payloads: Iterable[PayloadT | WorkflowJob],
        *,
        unique_keys: Iterable[str | UUID],
        unique: UniqueFor | None = None,
        on_conflict: OnConflict | None = None,
        **options: Unpack[AppOptions],
    ) -> list[EnqueuedId]: ...

    async def enqueue_many(
        self,
        payloads: Iterable[PayloadT | WorkflowJob],
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
        """Store jobs for this handler, all or none, and return their msg_ids in order.

        The arguments and errors are those of `App.enqueue_many`.
        """
        app: Any = self.app
        found: list[int] | list[EnqueuedId] = await app.enqueue_many(
            self.queue,
            payloads,
            delay=delay,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            priority=priority,
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

    async def wait(self, msg_id: int, *, timeout_seconds: float) -> JobEnd:
        """Wait until a job of this handler has its final outcome, and return it with its result.

        The arguments and errors are those of `QueueService.wait`.
        """
        return await self.app.wait(self.queue, msg_id, timeout_seconds=timeout_seconds)

    def follow_up(
        self,
        payload: PayloadT | WorkflowJob,
        *,
        delay: float | timedelta = 0,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        key: str | UUID | None = None,
        priority: AnyPriority | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> FollowUp:
        """Return a job for this handler that follows another: see `Done` and `on_complete`.

        The arguments and errors are those of `FollowUp`.
        """
        said = isinstance(headers, Mapping) and PRIORITY_HEADER in headers
        return FollowUp(
            self.queue,
            payload,
            delay=delay,
            run_id=run_id,
            workflow_id=workflow_id,
            project_id=project_id,
            key=key,
            priority=priority if priority is not None or said else self.priority,
            headers=headers,
        )

    def __repr__(self) -> str:
        """Name the queue and the function."""
        return f"<QueueHandler {self.queue}: {name_of(self._written)}>"


def identifiers(**given: str | UUID | None) -> dict[str, str]:
    """Return the identifiers that are given, as strings.

    Raises:
        InvalidJobError: if one is neither a string of 1 to 200 characters nor a UUID.
    """
    found = {
        name: str(value) if isinstance(value, UUID) else value
        for name, value in given.items()
        if value is not None
    }
    for name, value in found.items():
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_ID_LENGTH:
            raise InvalidJobError(
                f"{name} is a string of 1 to {MAX_ID_LENGTH} characters or a UUID, "
                f"got {quoted(value)}"
            )
    return found
