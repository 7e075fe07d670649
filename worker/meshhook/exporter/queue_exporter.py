"""Reading the figures of all queues periodically."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

import asyncpg
from prometheus_client import REGISTRY, CollectorRegistry

from meshhook.arguments import check_range, checked_seconds
from meshhook.errors import DatabaseError, MeshHookError
from meshhook.escaping import shown_sentence
from meshhook.exporter.queue_collector import collector_of
from meshhook.observability.families import families_of
from meshhook.observability.health import Check, check_loops
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import STALL_SECONDS, WatchedLoop
from meshhook.observability.metrics import METRICS
from meshhook.observability.priority_series import check_priority_rows
from meshhook.observability.queue_series import check_key_rows, check_rows
from meshhook.observability.schedule_series import MAX_SCHEDULES, check_schedule_rows
from meshhook.postgres.database import Database, DatabaseSource
from meshhook.postgres.driver_errors import translated_statement_errors
from meshhook.store import queries

_log = get_logger("meshhook.exporter")

COUNT_LIMIT = 10_000
KEPT_BACK_LIMIT = 1_000
"""Where counting what is kept back stops, for each reason."""
MAX_COUNT_LIMIT = 10_000_000
INTERVAL_SECONDS = 10.0
STATEMENT_TIMEOUT_SECONDS = 2.0
STALE_INTERVALS = 6
"""For how many intervals without a successful reading the last values are still exported."""
ANSWER_MARGIN_SECONDS = 3.0
MAX_PROBLEM_CHARACTERS = 500

QUEUE_UNREADABLE = "QueueUnreadable"
"""The error type of a queue that was left out of a reading that otherwise succeeded."""


class QueueExporter:
    """Reads all queues of a database every few seconds and exports the latest figures.

    It reads on a schedule instead of during scrapes. Scrapes are therefore quick whatever the
    database does, a second Prometheus server adds no load, and a failing reading shows in
    `meshhook_exporter_last_collection_age_seconds`. Without a successful reading the last values
    stay for six intervals, and at least a minute; then the series disappear rather than mislead.

    Each reading is one statement in a transaction with a statement timeout. `start` and `stop` are
    idempotent. If the database goes away, the exporter waits for it. It can be passed to
    `MonitoringServer(health=...)`.
    """

    def __init__(
        self,
        database: DatabaseSource,
        *,
        registry: CollectorRegistry = REGISTRY,
        interval_seconds: float = INTERVAL_SECONDS,
        count_limit: int = COUNT_LIMIT,
        statement_timeout_seconds: float = STATEMENT_TIMEOUT_SECONDS,
    ) -> None:
        """Take the database and how to read it.

        Args:
            database: the primary server, through a pool of one connection or more; or its URL, to
                which connections are opened that `stop` closes.
            registry: where the metrics are registered; exporters of several databases may share
                one. Default: the process's global registry.
            interval_seconds: from one reading to the next, 0.1 to 3600. Default 10.
            count_limit: where counting stops: this many ready or lost messages a queue, as many
                others, and as many dead letters; 1 to 10 million. Default 10,000.
            statement_timeout_seconds: how long the statement may take, 0.1 to 60. Default 2.

        Raises:
            InvalidSettingError: naming the argument and its range.
        """
        check_range("count_limit", count_limit, MAX_COUNT_LIMIT)
        self._database = Database.of(database)
        self._owns_database = isinstance(database, str)
        self._interval_seconds = checked_seconds("interval_seconds", interval_seconds, 0.1, 3_600)
        self._count_limit = count_limit
        self._timeout_seconds = checked_seconds(
            "statement_timeout_seconds", statement_timeout_seconds, 0.1, 60
        )
        self._stale_seconds = max(60.0, STALE_INTERVALS * self._interval_seconds)
        self._rows: Sequence[asyncpg.Record] = ()
        self._key_rows: Sequence[asyncpg.Record] = ()
        self._priority_rows: Sequence[asyncpg.Record] = ()
        self._schedule_rows: Sequence[asyncpg.Record] = ()
        self._part_faults: dict[str, str] = {}
        self._read_at: float | None = None
        self._made_at = time.monotonic()
        self._fault: str | None = "nothing was read yet"
        self._problems: dict[str, str] = {}
        self._task: asyncio.Task[None] | None = None
        self._loop: WatchedLoop | None = None
        found = families_of(registry)
        found.show_build()
        self._duration = found.histogram("meshhook_exporter_collection_duration_seconds").labels()
        self._errors = found.counter("meshhook_exporter_collection_errors_total")
        errors = METRICS["meshhook_exporter_collection_errors_total"]
        for error_type in errors.values["error_type"]:
            self._errors.labels(error_type)
        self._collector = collector_of(registry)
        self.last_success_timestamp_seconds = 0.0
        """When the queues were last read, in seconds since 1970; 0 if never."""

    @property
    def age_seconds(self) -> float:
        """Seconds since the last reading, or since creation, by the monotonic clock."""
        return time.monotonic() - (self._made_at if self._read_at is None else self._read_at)

    @property
    def rows(self) -> Sequence[asyncpg.Record]:
        """The latest figures; empty if they are too old."""
        is_fresh = (
            self._read_at is not None and time.monotonic() - self._read_at < self._stale_seconds
        )
        return self._rows if is_fresh else ()

    @property
    def key_rows(self) -> Sequence[asyncpg.Record]:
        """The latest figures about the keys of keyed queues; empty if they could not be read."""
        return self._key_rows if self.rows else ()

    @property
    def priority_rows(self) -> Sequence[asyncpg.Record]:
        """The latest figures about priorities; empty if they could not be read."""
        return self._priority_rows if self.rows else ()

    @property
    def schedule_rows(self) -> Sequence[asyncpg.Record]:
        """The latest figures about schedules; empty if they could not be read."""
        return self._schedule_rows if self.rows else ()

    def start(self) -> None:
        """Start reading, in the running event loop, and exporting."""
        if self._task is not None:
            return
        stall_seconds = max(STALL_SECONDS, 3 * self._interval_seconds)
        self._loop = WatchedLoop("exporter", stall_seconds=stall_seconds)
        self._collector.add(self)
        self._task = asyncio.create_task(self._run(self._loop), name="meshhook-exporter")

    async def stop(self) -> None:
        """Stop reading; the series of the queues disappear."""
        task, self._task = self._task, None
        if task is None:
            return
        self._collector.remove(self)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        if self._owns_database:
            await self._database.close()

    async def __aenter__(self) -> Self:
        """Start."""
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def collect(self) -> bool:
        """Read all queues once, and return whether that succeeded."""
        began_at = time.monotonic()
        try:
            rows = await self._read("queue_metrics", self._count_limit)
            check_rows(rows)
            key_rows: Sequence[asyncpg.Record] = ()
            if any(row.get("any_is_keyed") for row in rows):
                key_rows = await self._read_part("key_metrics", KEPT_BACK_LIMIT, check_key_rows)
            priority_rows: Sequence[asyncpg.Record] = ()
            if any(row.get("any_is_prioritized") for row in rows):
                priority_rows = await self._read_part(
                    "priority_metrics", self._count_limit, check_priority_rows
                )
            schedule_rows = await self._read_part(
                "schedule_metrics", MAX_SCHEDULES, check_schedule_rows
            )
        except (MeshHookError, OSError) as error:
            self._note_failure(error)
            return False
        finally:
            self._duration.observe_now(time.monotonic() - began_at)
        problems = [row for row in (*key_rows, *priority_rows, *rows) if row["problem"]]
        self._note_problems({row["queue"]: row["problem"] for row in problems})
        self._rows, self._key_rows = rows, key_rows
        self._priority_rows, self._schedule_rows = priority_rows, schedule_rows
        self._read_at = time.monotonic()
        self.last_success_timestamp_seconds = time.time()
        if self._fault is not None and self._task is not None:
            _log.info("queues are read", queues=sum(row["queue"] is not None for row in rows))
        self._fault = None
        return True

    def liveness(self) -> list[Check]:
        """Return whether the reading loop is alive, whatever the state of the database."""
        if self._task is None or self._loop is None:
            return []
        if self._task.done():
            return [Check("exporter", "has failed")]
        return check_loops([self._loop])

    def readiness(self) -> list[Check]:
        """Return whether the last reading succeeded."""
        return [Check("collection", self._fault)]

    async def _run(self, loop: WatchedLoop) -> None:
        while True:
            loop.turn()
            began_at = time.monotonic()
            await self.collect()
            pause_seconds = began_at + self._interval_seconds - time.monotonic()
            await loop.wait_for(asyncio.sleep(max(0.0, pause_seconds)))

    async def _read_part(
        self, statement: str, limit: int, check: Callable[[Sequence[asyncpg.Record]], None]
    ) -> Sequence[asyncpg.Record]:
        """Read what else there is; return nothing if that fails, which disturbs no other."""
        try:
            found = await self._read(statement, limit)
            check(found)
        except (MeshHookError, OSError) as error:
            self._count_error(error)
            if self._part_faults.get(statement) != str(error):
                _log.warning("part of the metrics not read", part=statement, error=str(error))
            self._part_faults[statement] = str(error)
            return ()
        self._part_faults.pop(statement, None)
        return found

    async def _read(self, statement: str, count_limit: int) -> Sequence[asyncpg.Record]:
        milliseconds = round(self._timeout_seconds * 1_000)
        # Each step has a limit of its own but for the first: a connection that is silently gone.
        async with (
            asyncio.timeout(self._timeout_seconds + 2 * ANSWER_MARGIN_SECONDS),
            self._database.transaction() as connection,
        ):
            with translated_statement_errors():
                await connection.fetch(
                    queries.load("limit_statement"),
                    f"{milliseconds}ms",
                    timeout=self._timeout_seconds,
                )
                rows: Sequence[asyncpg.Record] = await connection.fetch(
                    queries.load(statement),
                    count_limit,
                    # The server stops it; this is for a server that no longer answers.
                    timeout=self._timeout_seconds + ANSWER_MARGIN_SECONDS,
                )
        return rows

    def _note_failure(self, error: MeshHookError | OSError) -> None:
        if self._fault != str(error):
            _log.warning("queues not read", error=str(error))
        self._fault = str(error)
        self._count_error(error)

    def _count_error(self, error: MeshHookError | OSError) -> None:
        is_timeout = isinstance(error.__cause__, asyncpg.QueryCanceledError)
        known = METRICS["meshhook_exporter_collection_errors_total"].values["error_type"]
        name = "StatementTimeout" if is_timeout else type(error).__name__
        self._errors.labels(name if name in known else DatabaseError.__name__).inc()

    def _note_problems(self, problems: dict[str, str]) -> None:
        for queue, problem in problems.items():
            self._errors.labels(QUEUE_UNREADABLE).inc()
            if self._problems.get(queue) != problem:
                text = shown_sentence(problem, limit=MAX_PROBLEM_CHARACTERS)
                _log.warning("queue not read", queue=queue, error=text)
        self._problems = problems
