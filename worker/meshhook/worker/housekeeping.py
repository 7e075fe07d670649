"""What a worker does besides jobs: follow settings, limit the history, watch the schema."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import TYPE_CHECKING

from meshhook.errors import DatabaseError, DatabaseLockedError, InvalidSettingError
from meshhook.observability.loggers import get_logger
from meshhook.queue_config import QueueConfig
from meshhook.schema import check_schema
from meshhook.store import queries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from meshhook.worker.connections import WorkerConnection

_log = get_logger("meshhook.worker.housekeeping")

CONFIG_POLL_SECONDS = 10.0
MAINTENANCE_SECONDS = 3_600.0
RECHECK_SECONDS = 10.0
CHUNK_ROWS = 5_000
LOCK_PAUSES_SECONDS = (1.0, 5.0, 20.0)
"""How long to let others pass before locking again a table that they use."""


class ConfigWatcher:
    """Reads the queue's settings when told that they changed, and every ten seconds."""

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        queue_name: str,
        on_change: Callable[[QueueConfig], None],
    ) -> None:
        self._connection = connection
        self._queue_name = queue_name
        self._on_change = on_change
        self._changed = asyncio.Event()

    def note_change(self) -> None:
        """Read the settings again, soon."""
        self._changed.set()

    async def run(self) -> None:
        """Follow the settings until cancelled."""
        while True:
            try:
                async with asyncio.timeout(CONFIG_POLL_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                row = await self._connection.fetchrow(
                    queries.load("get_queue_config"), self._queue_name
                )
                if row is not None:
                    self._on_change(QueueConfig.from_row(self._queue_name, row["config"]))
            except (DatabaseError, InvalidSettingError) as error:
                _log.warning("settings not read", queue=self._queue_name, error=str(error))


class Housekeeper:
    """Creates and drops partitions of the history and deletes old rows, once an hour.

    Every worker does so at a different time. If another worker is at it, this one waits or finds it
    done.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        configs: Mapping[queries.QueueTables, Callable[[], QueueConfig]],
    ) -> None:
        """Take the connection, and the settings that say how long each queue keeps what."""
        self._connection = connection
        self._configs = configs

    async def run(self) -> None:
        """Do it once an hour until cancelled."""
        while True:
            await self.keep_house()
            spread = random.uniform(0.8, 1.2)  # noqa: S311 - spreads load, keeps no secret
            await asyncio.sleep(MAINTENANCE_SECONDS * spread)

    async def keep_house(self) -> None:
        """Do everything once. What the database refuses blocks nothing else; it is tried later."""
        for query in (
            "create_attempt_partitions",
            "drop_expired_attempt_partitions",
            "mend_tables",
        ):
            await self._try(query, self._once(query))
        await self._try(
            "delete_expired_attempts", self._in_chunks(queries.load("delete_expired_attempts"))
        )
        await self._try(
            "delete_expired_groups", self._in_chunks(queries.load("delete_expired_groups"))
        )
        await self._try(
            "delete_expired_firings", self._in_chunks(queries.load("delete_expired_firings"))
        )
        await self._try(
            "delete_expired_audit_entries",
            self._in_chunks(queries.load("delete_expired_audit_entries")),
        )
        await self._try(
            "delete_idle_breakers", self._in_chunks(queries.load("delete_idle_breakers"))
        )
        for tables, config in self._configs.items():
            kept_days = {
                "delete_expired_dead_letters": config().dlq_retention_days,
                "delete_expired_archived": config().archive_retention_days,
            }
            for query, days in kept_days.items():
                if days is not None:
                    sql = queries.load(query, tables)
                    await self._try(query, self._in_chunks(sql, CHUNK_ROWS, days))
            await self._try("delete_unused_unique_keys", self._delete_unused_unique_keys(tables))

    @staticmethod
    async def _try(step: str, doing: Awaitable[None]) -> None:
        try:
            await doing
        except DatabaseError as error:
            _log.warning("housekeeping put off", step=step, error=str(error))

    async def _once(self, query: str) -> None:
        # Each waits at most a second for its locks, because others wait behind it.
        for pause_seconds in LOCK_PAUSES_SECONDS:
            with suppress(DatabaseLockedError):
                await self._connection.fetch(queries.load(query))
                return
            await asyncio.sleep(pause_seconds)
        await self._connection.fetch(queries.load(query))

    async def _in_chunks(self, sql: str, *arguments: object) -> None:
        # Claims on the same connection take their turn in between.
        while await self._connection.fetchval(sql, *arguments):
            pass

    async def _delete_unused_unique_keys(self, tables: queries.QueueTables) -> None:
        sql = queries.load("delete_unused_unique_keys", tables)
        key: str | None = ""
        while key is not None:
            key = await self._connection.fetchval(sql, tables.queue_name, key, CHUNK_ROWS)


class SchemaWatch:
    """Checks the migrations until all are there. After that they do not go away."""

    def __init__(self, connection: WorkerConnection) -> None:
        self._connection = connection
        self.fault: str | None = "not checked yet"
        """What is missing; None if nothing is. Can be read from any thread."""

    async def check(self) -> None:
        """Check once."""
        try:
            await check_schema(self._connection)
        except DatabaseError as error:
            self.fault = str(error)
        else:
            self.fault = None

    async def run(self) -> None:
        """Check again from time to time until cancelled."""
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            if self.fault is not None:
                await self.check()
