"""`App`: one object for the database, the handlers and the queues of a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack, overload

from pydantic import BaseModel

from meshhook.application.database_source import AppDatabase
from meshhook.application.declaration import BatchDeclaration, Handlers, JobDeclaration
from meshhook.application.opened import OpenedDatabase
from meshhook.application.periodic import PeriodicDeclaration, PeriodicOptions, store_schedules
from meshhook.application.program import run_as_program
from meshhook.application.queue_handler import QueueHandler, identifiers
from meshhook.application.queue_options import QueueOptions, checked_options
from meshhook.arguments import check_range, checked_flag
from meshhook.delays import delay_in_seconds
from meshhook.encryption.key_ring import KeyRing, checked_ring
from meshhook.errors import InvalidHandlerError, InvalidSettingError, QueueNotFoundError
from meshhook.escaping import quoted
from meshhook.names import validate_queue_name
from meshhook.priorities import checked_priority, headers_with_priority
from meshhook.schema import check_schema
from meshhook.store.messages import job_of
from meshhook.worker import Worker
from meshhook.worker.assignments import MAX_WEIGHT
from meshhook.worker.batch_options import checked_batch
from meshhook.worker.worker_options import MAX_CONCURRENCY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import timedelta
    from uuid import UUID

    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from meshhook.application.database_source import DatabaseAddress
    from meshhook.follow_ups import FollowUp
    from meshhook.job_ends import JobEnd
    from meshhook.job_policies import JobPolicies
    from meshhook.observability.tracing import ProducerTrace
    from meshhook.postgres.database import Database, DatabaseSource
    from meshhook.priorities import AnyPriority, Priority
    from meshhook.queues import QueueService
    from meshhook.retry import RetryFunction
    from meshhook.unique import AppGroupOptions, AppOptions, EnqueuedId, OnConflict, UniqueFor

_Value = TypeVar("_Value")


class WorkerOptions(TypedDict, total=False):
    """The optional arguments of a worker; `Worker` describes them."""

    grace_seconds: float
    registry: CollectorRegistry | None
    name: str | None
    stall_seconds: float
    producer_trace: ProducerTrace | str
    max_message_bytes: int | None


class App:
    """The database, the handlers and the queues of a program.

    The decorator `job` declares a handler. The first `enqueue` opens the database; `async with
    app:` opens it immediately and closes it at the end. Workers run as a program (`run`, or
    `meshhook worker --app MODULE:APP`) or inside another program (`async with app.workers():`).

    The database is the only source of a queue's settings, and operators change them while workers
    run. The settings in the decorator apply when the queue is created: when the app first enqueues
    into it, or when a worker starts, if the database has no queue of that name. The settings of an
    existing queue are never changed.
    """

    def __init__(
        self,
        database: str | DatabaseSource | None = None,
        *,
        pooled: bool | None = None,
        listen_url: str | None = None,
        pool_size: int = 4,
        concurrency: int = 50,
        create_queues: bool = True,
        tracer_provider: TracerProvider | None = None,
        encryption: KeyRing | None = None,
    ) -> None:
        """Take the database and the options for all queues.

        Args:
            database: postgresql://user:password@host:port/database. Or an asyncpg pool or
                connection, or a Database: these are only used to enqueue, and the caller still owns
                them. Default: MESHHOOK_DATABASE_URL, read when the database is first used.
            pooled: whether the URL leads through a pooler in transaction mode. Default: the value
                of MESHHOOK_POOLED if the environment names the database, otherwise false.
            listen_url: the same database without the pooler, for workers. Default: the value of
                MESHHOOK_LISTEN_URL if the environment names the database, otherwise none.
            pool_size: the most connections that the app opens to enqueue, 1 to 1000; a worker has
                three of its own. Default 4.
            concurrency: how many jobs, or batches, a worker of this app runs at once, over all its
                queues, 1 to 10000. Starting a worker with another value overrides it. Default 50.
            create_queues: whether to create declared queues that are missing. Default true.
            tracer_provider: makes the spans of sends and attempts. Default: the global one of
                OpenTelemetry, if one is set; else there are no spans.
            encryption: the keys with which the app encrypts the jobs that it enqueues, and its
                workers decrypt them. Default: those that MESHHOOK_ENCRYPTION_KEY_FILE or
                MESHHOOK_ENCRYPTION_KEYS names when the app is first used; else none.

        Raises:
            InvalidSettingError: naming the argument.
        """
        self._database = AppDatabase(database, pooled, listen_url, pool_size)
        check_range("concurrency", concurrency, MAX_CONCURRENCY)
        self._concurrency = concurrency
        self._creates_queues = checked_flag("create_queues", create_queues)
        self._tracer_provider = tracer_provider
        self._encryption = checked_ring(encryption)
        self._looked_for_keys = encryption is not None
        self._handlers = Handlers()
        self._opened: OpenedDatabase | None = None

    @property
    def handlers(self) -> Mapping[str, QueueHandler[Any]]:
        """The declared handlers, by queue."""
        return MappingProxyType(self._handlers.by_queue)

    @property
    def encryption(self) -> KeyRing | None:
        """The keys of its jobs; None if neither the program nor the environment names any.

        Raises:
            InvalidSettingError: if the environment names keys that are none.
        """
        if not self._looked_for_keys:
            self._encryption = KeyRing.from_environment()
            self._looked_for_keys = True
        return self._encryption

    @overload
    def job(
        self,
        queue: str,
        *,
        payload_model: Any = None,
        batch: None = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        priority: AnyPriority | None = None,
        **settings: Unpack[QueueOptions],
    ) -> JobDeclaration: ...

    @overload
    def job(
        self,
        queue: str,
        *,
        payload_model: Any = None,
        batch: int,
        batch_wait_seconds: float | None = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        priority: AnyPriority | None = None,
        **settings: Unpack[QueueOptions],
    ) -> BatchDeclaration: ...

    def job(
        self,
        queue: str,
        *,
        payload_model: Any = None,
        batch: int | None = None,
        batch_wait_seconds: float | None = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        priority: AnyPriority | None = None,
        **settings: Unpack[QueueOptions],
    ) -> JobDeclaration | BatchDeclaration:
        """Return a decorator that declares a function as the handler of a queue.

        The function takes the job (`job: Job[Order]`) or only its payload (`order: Order`). The
        annotation gives the type of the payload: a pydantic model, or any type that pydantic can
        validate; `job: Job` accepts any JSON. An async function runs in the event loop, a plain one
        in a thread. `meshhook.outcomes` describes what it may return or raise.

        With `batch` it takes a list: of jobs (`jobs: list[Job[Order]]`) or of payloads (`orders:
        list[Order]`). `create_job_handler` describes what it then returns.

        The decorator returns a `QueueHandler`, whose `enqueue` stores jobs for the handler.

        Args:
            queue: the queue. Each queue has one handler.
            payload_model: the type of the payload, for a function without annotations; it takes a
                job. Default: the type in the annotation.
            batch: the most jobs of one call, 1 to 1000. Default: the function takes one job.
            batch_wait_seconds: how long a batch waits for more jobs, from the claim of its first
                one: 0 to 60. Default 0.
            weight: the queue's share of a worker's slots while several queues have jobs, 1 to 1000.
                Default 1.
            retry: decides when a failed job is retried: takes a `FailedAttempt`, and returns a
                delay of 0 to 7 days in seconds or as a timedelta, or None for a dead letter. It
                runs in the event loop, so it must be quick, and a plain function. It is not asked
                after the last attempt, or if the handler has said so itself. If it fails, the
                retry policy of the queue applies. Default: none.
            priority: the priority of jobs that the app enqueues for which none is said: `urgent`,
                `high`, `normal` or `low`, or 0 to 3. Default: normal.
            **settings: settings for creating the queue if it is missing, such as
                `max_retry_attempts`; see `QueueSettings`. The settings of an existing queue are not
                changed: an operator may have set them.

        Raises:
            InvalidQueueNameError, InvalidSettingError, InvalidJobError: naming the argument.
            InvalidHandlerError: when the decorator is applied, if the function cannot be a handler
                or the queue already has one.
        """
        if callable(queue):
            raise InvalidHandlerError(
                "app.job takes the name of a queue: write @app.job('orders') above the function"
            )
        name = validate_queue_name(queue)
        check_range("weight", weight, MAX_WEIGHT)
        options = checked_batch(batch, batch_wait_seconds)
        make = partial(
            QueueHandler[Any],
            self,
            name,
            payload_model=payload_model,
            batch=options,
            weight=weight,
            retry=retry,
            priority=None if priority is None else checked_priority(priority),
            settings=checked_options(name, settings),
        )
        declaration = JobDeclaration if options is None else BatchDeclaration
        return declaration(self._handlers, make)

    def on_dead_letter(
        self,
        of_queue: str,
        *,
        queue: str | None = None,
        payload_model: Any = None,
        weight: int = 1,
        retry: RetryFunction | None = None,
        **settings: Unpack[QueueOptions],
    ) -> JobDeclaration:
        """Return a decorator that declares the handler of jobs that follow dead letters of a queue.

        For each job of the queue that becomes a dead letter, one is enqueued for this handler, in
        the statement that records it. Its payload tells of the dead letter, and so does
        `Job.failed_job`. If the app creates the queue, it sets `dead_letter_follow_up`; for an
        existing queue, an operator does.

        Args:
            of_queue: the queue whose dead letters are followed.
            queue: the queue of the handler. Default: the name of the other with `_failed` after it.
            payload_model: as in `job`, like all other arguments.
            weight: as in `job`.
            retry: as in `job`.
            **settings: as in `job`, for the queue of the handler.

        Raises:
            InvalidQueueNameError, InvalidSettingError: naming the argument.
            InvalidHandlerError: as in `job`.
        """
        followed = validate_queue_name(of_queue)
        own = validate_queue_name(f"{followed}_failed" if queue is None else queue)
        if own == followed:
            raise InvalidSettingError(
                f"queue={quoted(own)}: what follows its own dead letters would never end; name "
                "another queue"
            )
        declaration = self.job(
            own, payload_model=payload_model, weight=weight, retry=retry, **settings
        )
        self._handlers.follow_dead_letters(followed, own)
        return declaration

    def periodic(
        self,
        cron: str | None = None,
        *,
        name: str | None = None,
        payload: Any = None,
        **options: Unpack[PeriodicOptions],
    ) -> PeriodicDeclaration:
        """Return a decorator that enqueues a job for a handler at due times. Write it above `job`.

        A worker of the queue stores the schedule when it starts, if the database does not have it
        as it is declared here. One that is no longer declared stays in the database: delete it with
        `meshhook schedule delete`.

        Args:
            cron: minute, hour, day of the month, month and day of the week, as `0 9 * * 1-5`; or
                `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. Default: none; give `every`.
            name: the name of the schedule, unique in the queue. Default: that of the function.
            payload: what the handler receives. Default: an empty object.
            **options: `every`, `tz`, `key`, `headers`, `missed` and `overlap`, as `add_schedule`
                takes them.

        Raises:
            InvalidSettingError, InvalidJobError: naming the argument, such as the expression.
            InvalidHandlerError: when the decorator is applied to anything but a handler.
        """
        return PeriodicDeclaration(cron, name, payload, options)

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

    def worker(
        self,
        queues: str | Iterable[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int | None = None,
        **options: Unpack[WorkerOptions],
    ) -> Worker:
        """Return a worker for queues of this app. It is not started, and no queues are created.

        Args:
            queues: some of the declared queues: a name, several names, or a mapping of names to
                weights. Default: all, with their declared weights.
            concurrency: how many jobs run at once. Default: the app's.
            **options: further arguments of `Worker`.

        Raises:
            InvalidHandlerError: if the app does not declare a queue, naming those that it does.
            InvalidSettingError: naming the argument, or if the database's URL is not known.
        """
        weights = self._handlers.weights(queues)
        address = self._database.address()
        return Worker(
            address.url,
            weights,
            {name: self._handlers.by_queue[name] for name in weights},
            concurrency=self._concurrency if concurrency is None else concurrency,
            pooled=address.pooled,
            listen_url=address.listen_url,
            tracer_provider=self._tracer_provider,
            encryption=self.encryption,
            **options,
        )

    @asynccontextmanager
    async def workers(
        self,
        queues: str | Iterable[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int | None = None,
        **options: Unpack[WorkerOptions],
    ) -> AsyncIterator[Worker]:
        """Run a worker for the app's queues while the block runs, inside another program.

        It opens the app, creates missing queues, and starts a worker. At the end of the block the
        worker stops claiming, running jobs have `grace_seconds` to finish, and the app is closed.
        Signals are left to the program.

        Yields:
            The worker; its `liveness` and `readiness` report its state.

        Raises:
            Exception: at the end of the block, the error that the worker failed with, if it did.
            InvalidHandlerError, InvalidSettingError: as `worker`.
            SchemaMissingError, DatabaseError: the worker did not start.
        """
        weights = self.weights(queues)
        worker = self.worker(weights, concurrency=concurrency, **options)
        async with self:
            await self.prepare(weights)
            async with worker:
                yield worker

    def run(
        self,
        queues: str | Iterable[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int | None = None,
        grace_seconds: float | None = None,
        name: str | None = None,
    ) -> None:
        """Run the app's queues as a program, until SIGTERM, SIGINT (Ctrl-C) or SIGHUP.

        This is `meshhook worker --app`, with the command's event loop, logs on standard error,
        metrics port and environment variables. It returns after an orderly stop. Errors are
        printed, and end the program with the command's exit code.

        Args:
            queues: some of the declared queues, as in `worker`. Default: all.
            concurrency: how many jobs run at once. Default: the app's.
            grace_seconds: how long running jobs may take to finish after a stop, 0 to 3600.
                Default 25.
            name: the worker's name in the history. Default: host, process id and a random part.

        Raises:
            SystemExit: with the exit code, unless it is 0.
            InvalidHandlerError: if the app does not declare a queue.
            InvalidSettingError: inside an event loop, or outside the main thread.
        """
        weights = self.weights(queues)
        run_as_program(
            self,
            weights,
            {"concurrency": concurrency, "grace-seconds": grace_seconds, "name": name},
        )

    def weights(
        self, queues: str | Iterable[str] | Mapping[str, int] | None = None
    ) -> dict[str, int]:
        """Return the weight of each queue: the given one, or else the declared one.

        Args:
            queues: some of the declared queues, as in `worker`. Default: all.

        Raises:
            InvalidHandlerError: if the app does not declare a queue, or has none.
        """
        return self._handlers.weights(queues)

    async def create_missing_queues(self, queues: Iterable[str] | None = None) -> None:
        """Create declared queues that are missing in the database, with their declared settings.

        Existing queues keep their settings. Where these differ from the declared ones, the log says
        so.

        Args:
            queues: some of the declared queues. Default: all.

        Raises:
            InvalidHandlerError: if the app does not declare a queue.
            QueueNotFoundError: if one is missing, and the role may not create it.
            DatabaseError: if the database cannot be used.
        """
        names = self._handlers.weights(queues)
        await self._current().create_missing([self._handlers.by_queue[name] for name in names])

    async def prepare(self, queues: Iterable[str]) -> None:
        """Prepare the database for a worker of these queues.

        Creates missing queues, unless `create_queues` is false, and stores schedules that are
        missing or were declared otherwise.
        """
        names = self._handlers.weights(queues)
        if self._creates_queues:
            await self.create_missing_queues(names)
        handlers = [self._handlers.by_queue[name] for name in names]
        if any(handler.schedules for handler in handlers):
            database = await self._current().database()
            await store_schedules(database, handlers, self.encryption)

    async def open(self) -> Database:
        """Open the app's database if necessary, and return it: for `DLQService`, for example.

        It stays open until `close`, or until the event loop ends.

        Raises:
            InvalidSettingError: if no database is named, or the app is open in another event loop.
        """
        return await self._current().database()

    async def close(self) -> None:
        """Wait for pending jobs to be stored, and close the database; the next use opens it again.

        Raises:
            InvalidSettingError: if the app is open in another event loop.
        """
        opened = self._opened
        if opened is not None and not opened.loop.is_closed():
            opened.check_loop()
            await opened.close()

    async def __aenter__(self) -> Self:
        """Open the database, and check that it is usable.

        Raises:
            SchemaMissingError, DatabaseError: it is not.
        """
        opened = self._current()
        opened.users += 1
        try:
            await check_schema(await opened.database())
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the database at the end of the outermost block."""
        opened = self._opened
        if opened is not None:
            opened.users -= 1
            if opened.users <= 0:
                await self.close()

    def has_own_database(self) -> bool:
        """Return whether the app names its database; otherwise the environment does."""
        return not self._database.is_of_environment

    def address(self) -> DatabaseAddress:
        """Return the URL of the database, and how to reach it.

        Raises:
            InvalidSettingError: if none is set, or the app was made with a pool or connection.
        """
        return self._database.address()

    def use_database(
        self,
        database: str | DatabaseSource | None,
        *,
        pooled: bool | None = None,
        listen_url: str | None = None,
    ) -> None:
        """Use another database from now on, for a test for example.

        Args:
            database: as the constructor takes it.
            pooled: the same.
            listen_url: the same.

        Raises:
            InvalidSettingError: naming the argument, or if the app is open.
        """
        if self._opened is not None and not self._opened.loop.is_closed():
            raise InvalidSettingError("the app is open; close it first: await app.close()")
        self._database = replace(
            self._database, source=database, pooled=pooled, listen_url=listen_url
        )

    def __repr__(self) -> str:
        """Name the queues."""
        return f"<App: {', '.join(self._handlers.by_queue) or 'no queues'}>"

    def _current(self) -> OpenedDatabase:
        opened = self._opened
        if opened is None or opened.loop.is_closed():
            opened = self._opened = OpenedDatabase(self._database.connect, self._forget)
        opened.check_loop()
        return opened

    def _forget(self, opened: OpenedDatabase) -> None:
        if self._opened is opened:
            self._opened = None

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
