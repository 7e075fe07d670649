"""The settings of queues in which jobs are to follow the dead letters of a producer's jobs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from meshhook.errors import QueueNotFoundError
from meshhook.settings_cache import FRESH_SECONDS, SettingsCache
from meshhook.store.encrypted_headers import follow_up_queue

if TYPE_CHECKING:
    from meshhook.postgres.database import Database
    from meshhook.queue_config import QueueConfig

MAX_QUEUES = 100
"""Of how many queues the settings are kept; beyond that all are read anew."""


class FollowUpQueues:
    """Reads and caches them, as `SettingsCache` does for the producer's own queue."""

    def __init__(self, database: Database) -> None:
        """Take where the queues are."""
        self._database = database
        self._caches: dict[str, SettingsCache] = {}
        self._missing: dict[str, float] = {}
        """Queues that were not there, and when that was seen."""

    async def of(self, headers: str | None, own: Any = None) -> QueueConfig | None:
        """Return the settings of the queue that headers name for what follows a dead letter.

        Args:
            headers: the headers as JSON.
            own: the connection that the caller holds, if any.

        Returns:
            The settings; None if nothing is to follow, or the queue is not there (yet).

        Raises:
            DatabaseError: they cannot be read.
        """
        queue = follow_up_queue(headers)
        if queue is None:
            return None
        missing_at = self._missing.pop(queue, None)
        if missing_at is not None and time.monotonic() - missing_at < FRESH_SECONDS:
            self._missing[queue] = missing_at
            return None
        if len(self._caches) + len(self._missing) > MAX_QUEUES:
            await self.close()
        cache = self._caches.setdefault(queue, SettingsCache(self._database, queue))
        try:
            return await cache.usable(own)
        except QueueNotFoundError:
            self._missing[queue] = time.monotonic()
            return None

    async def close(self) -> None:
        """Stop reading them, and forget them."""
        caches, self._caches, self._missing = self._caches, {}, {}
        for cache in caches.values():
            await cache.close()
