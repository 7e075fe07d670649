"""The settings of a queue, read over a caller's connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meshhook.errors import QueueNotFoundError
from meshhook.queue_config import QueueConfig
from meshhook.settings_cache import FRESH_SECONDS
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook.drivers.driver_connection import SyncDriverConnection


class RecentSettings:
    """The settings of a queue, at most five seconds old. Threads may share them."""

    def __init__(self, queue: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the queue, and what tells the time in seconds, from any beginning."""
        self._queue = queue
        self._clock = clock
        self._known: tuple[QueueConfig, float] | None = None

    def read(self, connection: SyncDriverConnection) -> QueueConfig:
        """Return them; they are read over the connection unless they are known.

        Raises:
            QueueNotFoundError, DatabaseError: they cannot be read.
        """
        now = self._clock()
        known = self._known
        if known is not None and now - known[1] < FRESH_SECONDS:
            return known[0]
        rows = connection.fetch_now(queries.load("get_queue_config"), self._queue)
        if not rows:
            raise QueueNotFoundError(self._queue)
        config = QueueConfig.from_row(self._queue, rows[0][0])
        self._known = config, now
        return config

    def forget(self) -> None:
        """Read them anew next time."""
        self._known = None
