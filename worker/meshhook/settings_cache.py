"""A producer's cache of one queue's settings, refreshed without blocking the producer."""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from typing import TYPE_CHECKING, Any

from meshhook import administration
from meshhook.errors import DatabaseUnavailableError, MeshHookError, QueueNotFoundError
from meshhook.observability.loggers import get_logger
from meshhook.postgres.database import Database
from meshhook.postgres.driver_errors import translated_read_errors
from meshhook.postgres.tries import tries

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.queue_config import QueueConfig

_log = get_logger("meshhook.environment")

FRESH_SECONDS = 5.0
"""Up to this age settings count as fresh."""
USABLE_SECONDS = 60.0
"""Up to this age settings are still used while a task refreshes them."""
RETRY_SECONDS = 1.0


class SettingsCache:
    """Reads the settings of a queue and caches them.

    A caller that holds a connection must not wait for a second one: if every connection of a pool
    were held that way, all would wait for ever. `usable` therefore takes no connection from the
    pool if the caller passes one, or if the cached settings are recent enough.
    """

    def __init__(
        self,
        database: Database,
        queue: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take where the queue is.

        Args:
            database: where to read them.
            queue: the queue.
            clock: tells the time in seconds, from any beginning.
        """
        self._database = database
        self._queue_name = queue
        self._clock = clock
        self._config: QueueConfig | None = None
        self._read_at = float("-inf")
        self._failed_at = float("-inf")
        self._reader: asyncio.Task[QueueConfig] | None = None
        self._waiting = 0

    @property
    def last(self) -> QueueConfig | None:
        """The settings that were read last, of any age; None if none were."""
        return self._config

    async def fresh(self) -> QueueConfig:
        """Return settings that are at most five seconds old, over a connection of the database.

        Raises:
            QueueNotFoundError, DatabaseError: they cannot be read.
        """
        if (config := self._younger_than(FRESH_SECONDS)) is not None:
            return config
        # What comes at the same time waits for one read, and goes on in one turn of the loop.
        reader = self._started()
        self._waiting += 1
        try:
            return await asyncio.shield(reader)
        except asyncio.CancelledError:
            if self._waiting == 1:
                # Nobody else waits, and the connection may be the caller's.
                await _end(reader)
            raise
        finally:
            self._waiting -= 1

    async def usable(self, own: Any = None) -> QueueConfig:
        """Return fresh settings, or cached ones while a task refreshes them.

        Args:
            own: the connection that the caller holds, used if nothing usable is cached.

        Raises:
            QueueNotFoundError, DatabaseError: nothing usable is cached, and reading failed.
        """
        if (config := self._younger_than(FRESH_SECONDS)) is not None:
            return config
        kept = self._younger_than(USABLE_SECONDS)
        if own is None and (kept is None or not self._database.is_pool):
            return await self.fresh()
        if self._database.is_pool:
            # A task of ours would compete with the caller for its own connection.
            self._read_in_background()
            if kept is not None:
                return kept
        assert own is not None  # noqa: S101 - else the settings are fresh
        with translated_read_errors():
            database = Database.of_caller(own)
            config = await administration.get_queue_config(database, self._queue_name)
        # The caller's transaction may see an old snapshot, which is not to be cached as fresh.
        is_old = self._database.is_pool
        self._config, self._read_at = config, self._clock() - (FRESH_SECONDS if is_old else 0)
        return config

    async def close(self) -> None:
        """Stop refreshing, unless a caller waits for it; cached settings stay."""
        reader = self._reader
        if reader is None:
            return
        if self._waiting:
            await asyncio.wait([reader])
        else:
            await _end(reader)

    def _younger_than(self, seconds: float) -> QueueConfig | None:
        return self._config if self._clock() - self._read_at < seconds else None

    def _started(self) -> asyncio.Task[QueueConfig]:
        """Return the task that reads the settings; start it if none does."""
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(
                self._read(),
                name=f"meshhook-settings-{self._queue_name}",
                # Not the caller's: it reads for others as well.
                context=Context(),
            )
        return self._reader

    def _read_in_background(self) -> None:
        is_reading = self._reader is not None and not self._reader.done()
        if is_reading or self._clock() - self._failed_at < RETRY_SECONDS:
            return
        self._started().add_done_callback(self._note_failure)

    def _note_failure(self, reader: asyncio.Task[QueueConfig]) -> None:
        if reader.cancelled():
            return
        error = reader.exception()
        if isinstance(error, QueueNotFoundError):
            # The next caller is told.
            self._config = None
        elif isinstance(error, MeshHookError):
            self._failed_at = self._clock()
            _log.warning("settings not read", queue=self._queue_name, error=str(error))
        elif error is not None:
            raise error  # the event loop reports it

    async def _read(self) -> QueueConfig:
        now = self._clock()
        # Reading is safe to repeat, and finds a connection that still stands.
        async for attempt in tries(
            on=DatabaseUnavailableError,
            limit=3,
            timeout_seconds=5,
            first_pause_seconds=0.25,
            max_pause_seconds=0.5,
            queue=self._queue_name,
            step="read settings",
        ):
            with attempt, translated_read_errors():
                read = await administration.get_queue_config(self._database, self._queue_name)
        self._config, self._read_at = read, now
        return read


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])
