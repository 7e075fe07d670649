"""`AppWorkers`: workers of an application, inside another program."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypedDict, Unpack

from meshhook.application.access import AppAccess
from meshhook.application.periodic import store_schedules
from meshhook.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from prometheus_client import CollectorRegistry

    from meshhook.observability.tracing import ProducerTrace


class WorkerOptions(TypedDict, total=False):
    """The optional arguments of a worker; `Worker` describes them."""

    grace_seconds: float
    registry: CollectorRegistry | None
    name: str | None
    stall_seconds: float
    producer_trace: ProducerTrace | str
    max_message_bytes: int | None


class AppWorkers(AppAccess):
    """The part of an application that runs workers."""

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
