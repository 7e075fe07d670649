"""`App`: one object that knows the database, the handlers and the queues of a program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, Unpack

from pydantic import BaseModel

from meshhook.application.database_source import AppDatabase
from meshhook.application.declaration import Handlers, JobDeclaration
from meshhook.application.opened import OpenedDatabase
from meshhook.application.program import run_as_program
from meshhook.application.queue_handler import QueueHandler, identifiers, job_of
from meshhook.application.queue_options import QueueOptions, checked_options
from meshhook.arguments import check_range, checked_flag
from meshhook.errors import InvalidHandlerError, InvalidSettingError, QueueNotFoundError
from meshhook.names import validate_queue_name
from meshhook.outcomes import delay_in_seconds
from meshhook.schema import check_schema
from meshhook.worker import Worker
from meshhook.worker.assignments import MAX_WEIGHT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import timedelta
    from uuid import UUID

    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from meshhook.application.database_source import DatabaseAddress
    from meshhook.observability.tracing import ProducerTrace
    from meshhook.postgres.database import Database, DatabaseSource
    from meshhook.queues import QueueService

_Value = TypeVar("_Value")


class WorkerOptions(TypedDict, total=False):
    """What a worker may be given beside its queues; `Worker` describes it."""

    grace_seconds: float
    registry: CollectorRegistry | None
    name: str | None
    stall_seconds: float
    producer_trace: ProducerTrace | str
    max_message_bytes: int | None


class App:
    """The database, the handlers and the queues of a program.

    Handlers are declared by the decorator `job`. `enqueue` opens the database when it is first
    needed; `async with app:` opens it at once, and closes it. Workers run as a program by `run` or
    `meshhook worker --app MODULE:APP`, or inside another one by `async with app.workers():`.

    A queue's settings are those in the database, which operators change while workers run. What
    stands beside a handler is what its queue is created with, where the database has none of that
    name: when the app first enqueues into it, and when a worker starts. The settings of a queue
    that exists are never changed.
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
    ) -> None:
        """Take the database, and what goes for all queues.

        Args:
            database: postgresql://user:password@host:port/database, or a pool or connection of
                asyncpg or a Database, which stay the caller's and serve to enqueue. Default:
                MESHHOOK_DATABASE_URL says it when it is first needed.
            pooled: whether the URL leads through a pooler in transaction mode. Default: false, or
                what MESHHOOK_POOLED says where the environment names the database.
            listen_url: the same database without the pooler, for workers. Default: none, or
                MESHHOOK_LISTEN_URL.
            pool_size: how many connections the app itself may have, to enqueue, 1 to 1000; a worker
                has three of its own. Default 4.
            concurrency: how many jobs a worker of this app runs at once, of all its queues
                together, 1 to 10000, unless it is started with another. Default 50.
            create_queues: whether declared queues that are missing are created. Default true.
            tracer_provider: makes the spans of sends and attempts. Default: the global one of
                OpenTelemetry, if one is set; else there are no spans.

        Raises:
            InvalidSettingError: naming the argument.
        """
        self._database = AppDatabase(database, pooled, listen_url, pool_size)
        self._concurrency = concurrency
        self._creates_queues = checked_flag("create_queues", create_queues)
        self._tracer_provider = tracer_provider
        self._handlers = Handlers()
        self._opened: OpenedDatabase | None = None

    @property
    def handlers(self) -> Mapping[str, QueueHandler[Any]]:
        """The handlers that are declared, by the names of their queues."""
        return MappingProxyType(self._handlers.by_queue)

    def job(
        self,
        queue: str,
        *,
        payload_model: Any = None,
        weight: int = 1,
        **settings: Unpack[QueueOptions],
    ) -> JobDeclaration:
        """Declare the handler of a queue: a decorator.

        The function takes the job, `job: Job[Order]`, or its payload alone, `order: Order`. The
        annotation says the type of the payload: a pydantic model, or any type that pydantic can
        read; `job: Job` takes any JSON. An async function runs in the event loop, a plain one in a
        thread. What it may return or raise stands in `meshhook.outcomes`.

        The name then stands for a `QueueHandler`, whose `enqueue` stores jobs for it.

        Args:
            queue: the queue; one of an app has one handler.
            payload_model: the type of the payload, for a function without annotations, which takes
                a job. Default: the annotation says it.
            weight: the queue's part of a worker's slots while several queues have work, 1 to 1000.
                Default 1.
            **settings: what the queue is created with where it is missing, such as
                `max_retry_attempts`; see `QueueSettings`. The queue's own settings win: an operator
                may have changed them.

        Raises:
            InvalidQueueNameError, InvalidSettingError: naming the argument.
            InvalidHandlerError: if the queue has a handler already, or, when the decorator is
                applied, if the function cannot be one.
        """
        if callable(queue):
            raise InvalidHandlerError(
                "app.job takes the name of a queue: write @app.job('orders') over the function"
            )
        name = validate_queue_name(queue)
        check_range("weight", weight, MAX_WEIGHT)
        make = partial(
            QueueHandler[Any],
            self,
            name,
            payload_model=payload_model,
            weight=weight,
            settings=checked_options(name, settings),
        )
        return JobDeclaration(self._handlers, make)

    async def enqueue(
        self,
        queue: str,
        payload: object,
        *,
        delay: float | timedelta = 0,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        headers: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> int:
        """Store a job, and return its msg_id once it is durable.

        A queue that this app declares is created if the database has none of that name; any other
        must be there. The payload is checked against the type that its handler declares.

        Args:
            queue: the queue.
            payload: what the handler gets: a model, or anything that JSON can hold; or a whole
                `WorkflowJob`.
            delay: how long until it is ready, in seconds or as a timedelta, 0 to 366 days.
                Default 0.
            run_id: the run that it belongs to, text of 1 to 200 characters or a UUID. Default none.
            workflow_id: the workflow that is run, the same. Default none.
            project_id: the project that the workflow belongs to, the same. Default none.
            headers: message headers, such as a `traceparent`. Default none.
            connection: an asyncpg connection, to enqueue inside the caller's transaction: the job
                is there if and only if that transaction commits.

        Raises:
            InvalidJobError, JobTooLargeError, InvalidSettingError: the job is not stored.
            UncertainCommitError: the connection broke; the job may or may not be stored.
            QueueNotFoundError, DatabaseError: the job is not stored.
        """
        ids = identifiers(run_id=run_id, workflow_id=workflow_id, project_id=project_id)
        job = job_of(payload, ids)
        delay_seconds = delay_in_seconds(delay)

        async def send(service: QueueService[Any]) -> int:
            return await service.enqueue(job, delay_seconds, headers=headers, connection=connection)

        return await self._send(queue, send)

    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[object],
        *,
        delay: float | timedelta = 0,
        run_id: str | UUID | None = None,
        workflow_id: str | UUID | None = None,
        project_id: str | UUID | None = None,
        headers: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> list[int]:
        """Store jobs in one transaction, all or none, and return their msg_ids in order.

        Arguments and errors are those of `enqueue`; the delay, the identifiers and the headers are
        those of all.
        """
        ids = identifiers(run_id=run_id, workflow_id=workflow_id, project_id=project_id)
        # What is no list of payloads is refused further on, with a message.
        is_several = isinstance(payloads, Iterable) and not isinstance(
            payloads, str | bytes | Mapping | BaseModel
        )
        jobs = [job_of(each, ids) for each in payloads] if is_several else payloads
        delay_seconds = delay_in_seconds(delay)

        async def send(service: QueueService[Any]) -> list[int]:
            return await service.enqueue_many(
                jobs, delay_seconds, headers=headers, connection=connection
            )

        return await self._send(queue, send)

    def worker(
        self,
        queues: str | Iterable[str] | Mapping[str, int] | None = None,
        *,
        concurrency: int | None = None,
        **options: Unpack[WorkerOptions],
    ) -> Worker:
        """Return a worker for queues of this app, which is not started yet.

        It creates no queues: `create_missing_queues` does.

        Args:
            queues: which of the declared queues: a name, several, or a mapping of names to weights.
                Default: all of them, with the weights declared.
            concurrency: how many jobs run at once. Default: that of the app.
            **options: what `Worker` takes.

        Raises:
            InvalidHandlerError: if the app declares no such queue, naming those that it does.
            InvalidSettingError: naming the argument, or what of the database is not set.
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
        """Work on the app's queues while the block runs, inside another program.

        Opens the app, creates the queues that are missing, and starts a worker. At the end of the
        block it claims nothing more, jobs finish within `grace_seconds`, and the app is closed.
        Signals are left to the program.

        Yields:
            The worker, whose `liveness` and `readiness` say how it is.

        Raises:
            Exception: at the end, what the worker failed with, if it did.
            InvalidHandlerError, InvalidSettingError: as `worker`.
            SchemaMissingError, DatabaseError: it did not start.
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
        """Work on the app's queues until SIGTERM, SIGINT (Ctrl-C) or SIGHUP: the whole program.

        The same as `meshhook worker --app`: with its event loop, its logs to standard error, its
        metrics port and the environment variables that it reads. Returns when all is done in order;
        what goes wrong is printed, and the program exits with the code that the command has.

        Args:
            queues: which of the declared queues. Default: all of them.
            concurrency: how many jobs run at once. Default: that of the app.
            grace_seconds: how long jobs that run may take to finish at the end, 0 to 3600.
                Default 25.
            name: the worker's name in the history. Default: host, process id and a random part.

        Raises:
            SystemExit: with the exit code, unless that is 0.
            InvalidSettingError: inside of an event loop, or outside of the main thread.
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
        """Return the weights of queues by name: those given, or those declared.

        Args:
            queues: which of the declared queues. Default: all of them.

        Raises:
            InvalidHandlerError: if the app declares no such queue, or none at all.
        """
        return self._handlers.weights(queues)

    async def create_missing_queues(self, queues: Iterable[str] | None = None) -> None:
        """Create the declared queues that the database lacks, with the settings declared.

        Those that exist keep their settings; where these are others than the declared ones, the log
        says so.

        Args:
            queues: which of them. Default: all.

        Raises:
            InvalidHandlerError: if the app declares no such queue.
            QueueNotFoundError: if one is missing, and the role may not create it.
            DatabaseError: if the database cannot be used.
        """
        names = self._handlers.weights(queues)
        await self._current().create_missing([self._handlers.by_queue[name] for name in names])

    async def prepare(self, queues: Iterable[str]) -> None:
        """Do before a worker starts what this app is to do: create queues, unless told not to."""
        if self._creates_queues:
            await self.create_missing_queues(queues)

    async def open(self) -> Database:
        """Return the app's database, opened if it is not: for `DLQService` and its like.

        It stays open until `close`, or until the event loop ends.

        Raises:
            InvalidSettingError: if no database is named, or the app is open in another event loop.
        """
        return await self._current().database()

    async def close(self) -> None:
        """Wait for what is being enqueued, and close the database; the next use opens it again.

        Raises:
            InvalidSettingError: if the app is open in another event loop.
        """
        opened = self._opened
        if opened is not None and not opened.loop.is_closed():
            opened.check_loop()
            await opened.close()

    async def __aenter__(self) -> Self:
        """Open the database, and see that it can be used.

        Raises:
            SchemaMissingError, DatabaseError: it cannot.
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
        """Close it, at the end of the outermost block."""
        opened = self._opened
        if opened is not None:
            opened.users -= 1
            if opened.users <= 0:
                await self.close()

    def has_own_database(self) -> bool:
        """Return whether the app names its database itself; else the environment does."""
        return not self._database.is_of_environment

    def address(self) -> DatabaseAddress:
        """Return the URL of the database, and how it is reached.

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
        """Take another database from now on: for a test, or for a command that is told which.

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
        )
        was_checked = name in opened.checked_queues
        try:
            return await send(service)
        except QueueNotFoundError:
            # Once: a queue that is dropped while the program runs stays away.
            if handler is None or was_checked or not self._creates_queues:
                raise
        await opened.create_missing([handler], looks_again=False)
        return await send(service)
