"""Repairing groups of jobs: finishes those whose last jobs nobody counted."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseError
from meshhook.observability.loggers import get_logger
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.worker.connections import WorkerConnection

_log = get_logger("meshhook.worker.group_repair")

REPAIR_SECONDS = 60.0
MAX_GROUPS = 20
"""How many groups of a queue are looked at in a row."""


class GroupRepairer:
    """Looks every minute at the groups that nobody has looked at for that long.

    A settlement counts the jobs of a group. It misses those that an older worker settles, and those
    whose messages somebody deletes.
    """

    def __init__(self, *, connection: WorkerConnection, queue_names: Sequence[str]) -> None:
        """Take the connection, and the queues whose groups to look at."""
        self._connection = connection
        self._queue_names = queue_names

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            spread = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, keeps no secret
            await asyncio.sleep(REPAIR_SECONDS * spread)
            await self.repair()

    async def repair(self) -> None:
        """Look once. What the database refuses is tried later."""
        for queue_name in self._queue_names:
            try:
                # One at a time: claims on the same connection take their turn in between.
                for _ in range(MAX_GROUPS):
                    if not await self._connection.fetchval(
                        queries.load("repair_groups"), queue_name, REPAIR_SECONDS, 1, None
                    ):
                        break
            except DatabaseError as error:
                _log.warning("groups not looked at", queue=queue_name, error=str(error))
