"""`AppAccess`: the database, the handlers and the keys of an application."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from meshhook.application.database_source import AppDatabase
from meshhook.application.declaration import Handlers
from meshhook.application.opened import OpenedDatabase
from meshhook.arguments import check_range, checked_flag
from meshhook.encryption.key_ring import KeyRing, checked_ring
from meshhook.errors import InvalidSettingError
from meshhook.schema import check_schema
from meshhook.worker.worker_options import MAX_CONCURRENCY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from opentelemetry.trace import TracerProvider

    from meshhook.application.database_source import DatabaseAddress
    from meshhook.application.queue_handler import QueueHandler
    from meshhook.postgres.database import Database, DatabaseSource


class AppAccess:
    """What all that an application does has in common."""

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

    def _current(self) -> OpenedDatabase:
        opened = self._opened
        if opened is None or opened.loop.is_closed():
            opened = self._opened = OpenedDatabase(self._database.connect, self._forget)
        opened.check_loop()
        return opened

    def _forget(self, opened: OpenedDatabase) -> None:
        if self._opened is opened:
            self._opened = None
