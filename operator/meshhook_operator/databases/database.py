"""One database with queues: its small pool, what is read and written, and its wake-ups."""

from __future__ import annotations

import asyncio
import time
import traceback
from contextlib import asynccontextmanager
from dataclasses import astuple
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.administration import create_queue, set_queue_config
from meshhook.errors import DatabaseError, DatabaseUnavailableError, MeshHookError
from meshhook.exporter import QueueExporter
from meshhook.observability.loggers import get_logger
from meshhook.postgres.database import Database
from meshhook.schema import check_schema
from meshhook.store.changes import change_value
from meshhook.store.queries import load as load_library_query
from meshhook.topics import bind_topic, list_topic_bindings, unbind_topic
from meshhook_operator.databases.declared_schedules import (
    DeclaredSchedule,
    declare,
    delete_declared,
    read_declared,
)
from meshhook_operator.databases.demand import (
    DemandRequest,
    QueueDemand,
    QueueProblem,
    load,
    read_demand,
)
from meshhook_operator.databases.guarded_loop import GuardedLoop
from meshhook_operator.databases.hosts import DatabaseHosts
from meshhook_operator.databases.index_changes import IndexChanges
from meshhook_operator.databases.key_changes import build_key_indexes, build_priority_index
from meshhook_operator.databases.name_lookups import NameLookups
from meshhook_operator.databases.wakeups import WakeUps
from meshhook_operator.errors import AnswerRefusedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence

    from prometheus_client import CollectorRegistry

    from meshhook.new_schedule import NewSchedule
    from meshhook_operator.api.keys_spec import KeyOverride
    from meshhook_operator.databases.scaling_row import ScalingRow

_log = get_logger("meshhook_operator.databases")

POOL_CONNECTIONS = 3
"""One reads the demand, one the metrics, and one makes changes, so that none waits for another."""
TICK_TIMEOUT_SECONDS = 2.0
TICK_TIMEOUT_SECONDS_A_QUEUE = 0.01
"""In addition, for each queue: hundreds may share a database on a busy machine."""
FIRST_TICK_TIMEOUT_SECONDS = 10.0
"""A new session first reads the catalog entries of all queues."""
CHANGE_TIMEOUT_SECONDS = 15.0
SCHEDULE_TIMEOUT_SECONDS = 5.0
"""How long it may take to read or change a schedule, such as while somebody holds its row: the next
tick of the queue waits for it."""
REPORT_TIMEOUT_SECONDS = 2.0
"""How long a row that only people read may take, such as while its table is locked."""
REPORT_AGAIN_SECONDS = 50.0
OLD_IDENTITY_SECONDS = 300.0
"""How long a database keeps its previous identity in addition to a new one: after a restart of the
server, users of another URL for it may not have noticed yet."""


class DatabaseAddress(NamedTuple):
    """The URL of a database and how it is reached. JobQueues with the same address share a pool."""

    url: str
    pooled: bool

    def __repr__(self) -> str:
        """Show nothing, since the URL holds a password."""
        return "DatabaseAddress(...)"


class QueueDatabase:
    """One database, shared by all its queues: at most three connections, plus one that listens.

    While indexes are built there is one more. It connects when first used, and again after a
    failure. Every method raises what `meshhook.postgres.database` says, and an InvalidSettingError
    where the URL is not one.
    """

    def __init__(
        self,
        address: DatabaseAddress,
        *,
        on_wake: Callable[[str], None],
        on_identity: Callable[[], None],
        registry: CollectorRegistry,
        hosts: DatabaseHosts | None = None,
        lookups: NameLookups | None = None,
    ) -> None:
        """Take what it needs, in a running event loop.

        Args:
            address: where the database is.
            on_wake: called with a queue's name when a message wakes it.
            on_identity: called when `identities` has changed.
            registry: where the metrics of all its queues go.
            hosts: the allowed hosts. Default: all.
            lookups: what looks up its host name. Default: one of its own.
        """
        self._address = address
        hosts, lookups = hosts or DatabaseHosts(), lookups or NameLookups()
        self._loop = GuardedLoop(hosts=hosts, lookups=lookups)
        self._registry = registry
        self._on_identity = on_identity
        self._replaced_at: dict[Hashable, float] = {}
        self._opening = asyncio.Lock()
        self._database: Database | None = None
        self._exporter: QueueExporter | None = None
        self._is_checked = False
        self._is_warm = False
        self._changing = asyncio.Semaphore(1)
        self._reporting = asyncio.Semaphore(1)
        self._report_at = float("-inf")
        self._wake_ups = WakeUps(address.url, on_wake, driver_loop=self._loop)
        changes = partial(
            IndexChanges,
            address.url,
            pooled=address.pooled,
            hosts=hosts,
            lookups=lookups,
            one_at_a_time=asyncio.Lock(),
        )
        self.key_changes = changes(what="keys", build=build_key_indexes)
        """Changes of the keys of its queues, which go on beside all else."""
        self.priority_changes = changes(what="priorities", build=build_priority_index)
        """Changes of the priorities of its queues, after those of keys that were begun before."""

    @property
    def generation(self) -> Hashable:
        """Changes when the address leads to another database."""
        current = [each for each, at in self._replaced_at.items() if at == _IS_CURRENT]
        return (id(self), *current)

    @property
    def identities(self) -> frozenset[Hashable]:
        """What identifies the database, whatever URL leads there; empty before it was reached."""
        oldest = time.monotonic() - OLD_IDENTITY_SECONDS
        return frozenset(each for each, at in self._replaced_at.items() if at > oldest)

    async def read_demand(
        self, requests: Sequence[DemandRequest], *, waiting_seconds: float
    ) -> dict[str, QueueDemand | QueueProblem]:
        """Read all these queues in one statement with a time limit; one call at a time."""
        limit = TICK_TIMEOUT_SECONDS if self._is_warm else FIRST_TICK_TIMEOUT_SECONDS
        limit += TICK_TIMEOUT_SECONDS_A_QUEUE * len(requests)
        async with self._opened(limit) as database:
            found = await read_demand(database, requests, waiting_seconds=waiting_seconds)
        self._is_warm = True
        return found

    async def ensure_queue(self, queue_name: str, settings: Mapping[str, Any]) -> bool:
        """Create or adopt the queue if it is missing, and give it these settings.

        Returns:
            Whether PGMQ had it before.
        """
        async with self._changing, self._opened(CHANGE_TIMEOUT_SECONDS) as database:
            # Less than the time limit, so that the error can name who holds the tables.
            wait_seconds = CHANGE_TIMEOUT_SECONDS / 2
            was_there = bool(await database.fetchval(load("has_queue_table"), queue_name))
            await create_queue(database, queue_name, wait_seconds=wait_seconds)
            await set_queue_config(database, queue_name, **settings)
        return was_there

    async def set_declared_keys(self, queue_name: str, overrides: Sequence[KeyOverride]) -> int:
        """Give keys of the queue what is declared for them; return how many were changed."""
        async with self._changing, self._opened(CHANGE_TIMEOUT_SECONDS) as database:
            return int(
                await change_value(
                    database,
                    load("set_declared_keys"),
                    queue_name,
                    [each.key for each in overrides],
                    [each.weight for each in overrides],
                    [each.max_running for each in overrides],
                    [each.max_starts for each in overrides],
                )
            )

    async def topics(self, queue_name: str) -> set[str]:
        """Return the patterns that are bound to the queue."""
        async with self._changing, self._opened(CHANGE_TIMEOUT_SECONDS) as database:
            found = await list_topic_bindings(database, queue_name)
        return {each.pattern for each in found}

    async def bind(self, queue_name: str, *, bind: Iterable[str], unbind: Iterable[str]) -> None:
        """Bind the queue to patterns of topics, and others no longer."""
        async with self._changing, self._opened(CHANGE_TIMEOUT_SECONDS) as database:
            for pattern in bind:
                await bind_topic(database, queue_name, pattern)
            for pattern in unbind:
                await unbind_topic(database, queue_name, pattern)

    async def declared_schedules(self, queue_name: str) -> list[DeclaredSchedule]:
        """Return the schedules of the queue that JobSchedules declare."""
        async with self._changing, self._opened(SCHEDULE_TIMEOUT_SECONDS) as database:
            return await read_declared(database, queue_name)

    async def declare_schedule(
        self, new: NewSchedule, *, resource: str, paused: bool | None
    ) -> tuple[str | None, DeclaredSchedule | None]:
        """Store a schedule for a JobSchedule; see `declared_schedules.declare`."""
        async with self._changing, self._opened(SCHEDULE_TIMEOUT_SECONDS) as database:
            return await declare(database, new, resource=resource, paused=paused)

    async def delete_declared_schedule(self, queue_name: str, name: str, resource: str) -> None:
        """Delete a schedule of the queue, if it is that of a JobSchedule."""
        async with self._changing, self._opened(SCHEDULE_TIMEOUT_SECONDS) as database:
            await delete_declared(database, queue_name, name, resource)

    async def drop_queue_if_empty(self, queue_name: str) -> bool:
        """Drop the queue if it is empty; return whether it is gone."""
        async with self._changing, self._opened(CHANGE_TIMEOUT_SECONDS) as database:
            return bool(await change_value(database, load("drop_queue_if_empty"), queue_name))

    async def cordon(self, queue_name: str, hosts: Sequence[str], seconds: float) -> int:
        """Let the queue's workers on these hosts claim no more, and all others of it claim.

        Args:
            queue_name: the queue.
            hosts: the names of the pods; empty uncordons all workers.
            seconds: how long it lasts unless it is renewed, 0 to 3600.

        Returns:
            How many workers it was written for. One that was reporting at this moment is left out.
        """
        async with self._changing, self._opened(CHANGE_TIMEOUT_SECONDS) as database:
            return int(
                await database.fetchval(load("cordon_workers"), queue_name, list(hosts), seconds)
            )

    async def report_scaling(self, row: ScalingRow) -> None:
        """Write how a JobQueue scales the workers of its queue.

        Nobody waits long for it: where it takes too long, no queue tries again for 50 seconds.
        """
        async with self._reporting:
            if time.monotonic() < self._report_at:
                message = "another row could not be written in time a moment ago"
                raise DatabaseUnavailableError(message)
            try:
                async with self._opened(REPORT_TIMEOUT_SECONDS) as database:
                    await database.fetch(load("report_scaling"), *astuple(row))
            except DatabaseUnavailableError:
                self._report_at = time.monotonic() + REPORT_AGAIN_SECONDS
                raise

    async def forget_scaling(self, jobqueue_uid: str) -> None:
        """Delete what a JobQueue has written of its scaling."""
        async with self._reporting, self._opened(REPORT_TIMEOUT_SECONDS) as database:
            await database.fetch(load("forget_scaling"), jobqueue_uid)

    def listen(self, queue_names: frozenset[str]) -> None:
        """Listen for messages to these queues only. Behind a pooler this does nothing."""
        if not self._address.pooled:
            self._wake_ups.want(queue_names)

    async def close(self) -> None:
        """Close all connections, and remove the metrics of its queues."""
        database, self._database = self._database, None
        exporter, self._exporter = self._exporter, None
        try:
            await self.key_changes.close()
            await self.priority_changes.close()
            await self._wake_ups.close()
            if exporter is not None:
                await exporter.stop()
            if database is not None:
                async with asyncio.timeout(2):
                    await database.close()
        except Exception as error:  # noqa: BLE001 - no error here may stop the operator
            if not isinstance(error, TimeoutError | DatabaseError):
                _log.exception("database not closed cleanly")
            if database is not None:
                database.source.terminate()

    @asynccontextmanager
    async def _opened(self, seconds: float) -> AsyncIterator[Database]:
        """Lend the pool for a limited time, after checking that the schema is installed."""
        try:
            async with _in_time(seconds):
                async with self._opening:
                    if self._database is None:
                        self._database = await Database.connect(
                            self._address.url,
                            min_size=0,
                            max_size=POOL_CONNECTIONS,
                            pooled=self._address.pooled,
                            driver_loop=self._loop,
                        )
                    if not self._is_checked:
                        await check_schema(self._database)
                        await self._identify(self._database)
                        self._is_checked = True
                if self._exporter is None:
                    self._exporter = QueueExporter(self._database, registry=self._registry)
                    self._exporter.start()
                yield self._database
        except Exception as error:
            # The server may have been replaced or restored, so check everything again.
            self._is_checked = self._is_warm = False
            refusal = self._loop.take_refusal()
            if refusal is None and isinstance(error, MeshHookError):
                raise
            await self._stop_exporter()
            # The driver and this code rely on the types of an answer. Any other error here means
            # that the server sent something else.
            message = refusal or f"the answer of the database is malformed: {_place_of(error)}"
            raise AnswerRefusedError(message) from error

    async def _stop_exporter(self) -> None:
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            await exporter.stop()

    async def _identify(self, database: Database) -> None:
        row = await database.fetchrow(load_library_query("identify_database"))
        assert row is not None  # noqa: S101 - it has one row
        identity = tuple(row.values())
        if self._replaced_at.get(identity) == _IS_CURRENT:
            return
        now = time.monotonic()
        self._replaced_at = dict.fromkeys(self.identities, now) | {identity: _IS_CURRENT}
        self._on_identity()


_IS_CURRENT = float("inf")


def _place_of(error: BaseException) -> str:
    """Return the type of an error and where it was raised, without its message."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"


@asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        message = f"the database did not answer within {seconds:g} seconds"
        raise DatabaseUnavailableError(message) from error
