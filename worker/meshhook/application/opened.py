"""The database of an application while it is open: its pool, and a sender for each queue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from meshhook.application.queue_options import create_if_missing
from meshhook.errors import InvalidSettingError
from meshhook.queues import QueueService

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

    from meshhook.application.queue_handler import QueueHandler
    from meshhook.postgres.database import Database


class OpenedDatabase:
    """A database that is opened once, in one event loop, and closed in it.

    Whoever opens it may forget to close it: the event loop then does it at its end, as it closes
    all asynchronous generators.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Database]],
        on_closed: Callable[[OpenedDatabase], None],
    ) -> None:
        """Belong to the event loop that runs.

        Args:
            connect: opens the database.
            on_closed: called once it is closed.
        """
        self.loop = asyncio.get_running_loop()
        self.users = 0
        """How many blocks hold it open."""
        self.checked_queues: set[str] = set()
        """The queues that were created if they were missing."""
        self._connect = connect
        self._on_closed = on_closed
        self._opening = asyncio.Lock()
        self._creating = asyncio.Lock()
        self._services: dict[str, QueueService[Any]] = {}
        self._life: AsyncGenerator[Database, None] | None = None
        self._database: Database | None = None
        self._is_closed = False

    def check_loop(self) -> None:
        """Check that the event loop that runs is its own.

        Raises:
            InvalidSettingError: if not.
        """
        if self.loop is not asyncio.get_running_loop():
            raise InvalidSettingError(
                "the app is open in another event loop than this one; close it there first "
                "(await app.close()), or make an App for each event loop"
            )

    async def database(self) -> Database:
        """Return the database, opened at the first call.

        Raises:
            InvalidSettingError, DatabaseError: it cannot be opened, or has been closed meanwhile.
        """
        async with self._opening:
            if self._is_closed:
                raise InvalidSettingError("the app was closed by another task meanwhile")
            if self._database is None:
                life = self._lifetime()
                self._database = await anext(life)
                self._life = life
        return self._database

    async def service(self, queue: str, **options: Any) -> QueueService[Any]:
        """Return what sends to a queue, made with `options` at the first call."""
        database = await self.database()
        if queue not in self._services:
            self._services[queue] = QueueService(database, queue, **options)
        return self._services[queue]

    async def create_missing(
        self, handlers: Iterable[QueueHandler[Any]], *, looks_again: bool = True
    ) -> None:
        """Create the queues of handlers where they are missing.

        Args:
            handlers: whose queues.
            looks_again: whether to look for a queue that was there before. Default true.

        Raises:
            QueueNotFoundError: if one is missing, and the role may not create it.
            DatabaseError: if the database cannot be used.
        """
        database = await self.database()
        async with self._creating:
            for handler in handlers:
                if looks_again or handler.queue not in self.checked_queues:
                    await create_if_missing(database, handler.queue, handler.settings)
                    self.checked_queues.add(handler.queue)

    async def close(self) -> None:
        """Wait for what is being enqueued, and close the database."""
        async with self._opening:
            self._is_closed = True
            life, self._life = self._life, None
            if life is not None:
                await life.aclose()
            else:
                self._on_closed(self)

    async def _lifetime(self) -> AsyncGenerator[Database, None]:
        database = await self._connect()
        try:
            yield database
        finally:
            self._on_closed(self)
            self._database = None
            services = list(self._services.values())
            self._services.clear()
            try:
                for service in services:
                    await service.close()
            finally:
                await database.close()
