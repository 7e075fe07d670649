"""How large the messages of a queue may be, read over a caller's connection."""

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


class QueueLimit:
    """The `max_payload_bytes` of a queue, at most five seconds old. Threads may share it."""

    def __init__(self, queue: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the queue, and what tells the time in seconds, from any beginning."""
        self._queue = queue
        self._clock = clock
        self._known: tuple[int, float] | None = None

    def max_bytes(self, connection: SyncDriverConnection) -> int:
        """Return the limit; it is read over the connection unless it is known.

        Raises:
            QueueNotFoundError, DatabaseError: it cannot be read.
        """
        now = self._clock()
        known = self._known
        if known is not None and now - known[1] < FRESH_SECONDS:
            return known[0]
        rows = connection.fetch_now(queries.load("get_queue_config"), self._queue)
        if not rows:
            raise QueueNotFoundError(self._queue)
        config = QueueConfig.from_row(self._queue, rows[0][0])
        self._known = config.max_payload_bytes, now
        return config.max_payload_bytes

    def forget(self) -> None:
        """Read it anew next time."""
        self._known = None
