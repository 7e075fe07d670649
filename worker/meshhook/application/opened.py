"""The open database of an application: its connections, and a service for each queue."""

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
    """A database that is opened once, and closed in the event loop that opened it.

    If nobody closes it, the event loop does when it ends, because it closes all asynchronous
    generators.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Database]],
        on_closed: Callable[[OpenedDatabase], None],
    ) -> None:
        """Belong to the running event loop.

        Args:
            connect: opens the database.
            on_closed: called when it is closed.
        """
        self.loop = asyncio.get_running_loop()
        self.users = 0
        """How many `async with` blocks keep it open."""
        self.checked_queues: set[str] = set()
        """Queues that exist, or were created because they were missing."""
        self._connect = connect
        self._on_closed = on_closed
        self._opening = asyncio.Lock()
        self._creating = asyncio.Lock()
        self._services: dict[str, QueueService[Any]] = {}
        self._life: AsyncGenerator[Database, None] | None = None
        self._database: Database | None = None
        self._is_closed = False

    def check_loop(self) -> None:
        """Check that the running event loop is the one that it belongs to.

        Raises:
            InvalidSettingError: if not.
        """
        if self.loop is not asyncio.get_running_loop():
            raise InvalidSettingError(
                "the app is open in another event loop; close it there first (await app.close()), "
                "or use a separate App in each event loop"
            )

    async def database(self) -> Database:
        """Return the database; the first call opens it.

        Raises:
            InvalidSettingError, DatabaseError: it cannot be opened, or was closed in the meantime.
        """
        async with self._opening:
            if self._is_closed:
                raise InvalidSettingError("another task has closed the app; open it again")
            if self._database is None:
                life = self._lifetime()
                self._database = await anext(life)
                self._life = life
        return self._database

    async def service(self, queue: str, **options: Any) -> QueueService[Any]:
        """Return the service of a queue; the first call creates it with `options`."""
        database = await self.database()
        if queue not in self._services:
            self._services[queue] = QueueService(database, queue, **options)
        return self._services[queue]

    async def create_missing(
        self, handlers: Iterable[QueueHandler[Any]], *, looks_again: bool = True
    ) -> None:
        """Create the queues of handlers if they are missing.

        Args:
            handlers: the handlers.
            looks_again: whether to also check queues that existed before. Default true.

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
        """Wait for pending jobs to be stored, and close the database."""
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
