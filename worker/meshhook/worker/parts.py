"""The parts of a started worker: its connections, its lanes, and its background tasks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from meshhook.errors import DatabaseUnavailableError
from meshhook.names import CANCELLATIONS_CHANNEL, CONFIG_CHANNEL, host_name, wake_channel
from meshhook.observability.loops import WatchedLoop
from meshhook.observability.tracing import TracerFinder
from meshhook.postgres.text_encodings import fitted_text
from meshhook.worker.cancellations import CancellationWatcher
from meshhook.worker.completer import LOCK_TIMEOUT_SECONDS
from meshhook.worker.connections import WorkerConnection, check_same_database
from meshhook.worker.group_repair import GroupRepairer
from meshhook.worker.housekeeping import Housekeeper, SchemaWatch
from meshhook.worker.lane import Lane, WorkerContext
from meshhook.worker.lease_keeper import LeaseKeeper
from meshhook.worker.reporting import Reporter
from meshhook.worker.scheduler import Scheduler
from meshhook.worker.slot_shares import SharedSlots

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    import asyncpg

    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.queue_config import QueueConfig
    from meshhook.worker.stats import Tally
    from meshhook.worker.worker_options import WorkerOptions

READ_SECONDS = 15.0
"""How long the server may take to read one large message."""


@dataclass(slots=True)
class Parts:
    """The parts of a started worker."""

    options: WorkerOptions
    main_connection: WorkerConnection = field(init=False)
    settle_connection: WorkerConnection = field(init=False)
    read_connection: WorkerConnection = field(init=False)
    lanes: list[Lane] = field(init=False, default_factory=list)
    leases_loop: WatchedLoop = field(init=False)
    schema_watch: SchemaWatch = field(init=False)
    lease_keeper: LeaseKeeper = field(init=False)
    housekeeper: Housekeeper = field(init=False)
    group_repairer: GroupRepairer = field(init=False)
    scheduler: Scheduler = field(init=False)
    reporter: Reporter = field(init=False)
    cancellations: CancellationWatcher = field(init=False)
    worker_name: str = field(init=False)
    """The worker's name as the database's encoding can store it."""

    @classmethod
    async def open(
        cls,
        options: WorkerOptions,
        *,
        metrics: Mapping[str, WorkerMetrics],
        tallies: Mapping[str, Tally],
        is_draining: Callable[[], bool],
    ) -> Parts:
        """Connect, read the queues, and start extending leases.

        Args:
            options: what the worker was made with.
            metrics: those of each queue.
            tallies: count what is done for each queue.
            is_draining: returns whether the worker is stopping.

        Raises:
            QueueNotFoundError, SchemaMissingError, DatabaseError: it cannot work.
        """
        parts = cls(options)
        parts._make_connections()
        main = parts.main_connection
        # Before it is connected, since it may be told of a request from then on.
        parts.cancellations = CancellationWatcher(connection=main, lanes=parts.lanes)
        await main.open()
        parts.worker_name = fitted_text(options.name, main.server_encoding)
        parts.leases_loop = WatchedLoop("leases", stall_seconds=options.stall_seconds)
        try:
            if options.listen_url is not None:
                await check_same_database(main, parts.settle_connection)
            await parts._open_lanes(metrics, tallies, is_draining)
            parts.schema_watch = SchemaWatch(main)
            await parts.schema_watch.check()
            parts.lease_keeper = LeaseKeeper(
                url=options.url,
                pooled=options.pooled,
                application_name=parts._application_name("leases"),
                lanes=parts.lanes,
                loop=parts.leases_loop,
                spare=parts.settle_connection,
            )
            # All of them now: without the second nothing is recorded, without the third leases
            # expire.
            await _open_all(parts.settle_connection.open, parts.lease_keeper.start)
        except BaseException:
            await main.close()
            await parts.settle_connection.close()
            raise
        parts._make_background_tasks()
        # Before the first claim: a job that was to be cancelled must not start again.
        await parts.cancellations.look()
        return parts

    async def close(self) -> None:
        """Withdraw the worker's report, and disconnect."""
        await self.lease_keeper.stop()
        await self.reporter.withdraw()
        await self.main_connection.close()
        await self.settle_connection.close()
        await self.read_connection.close()

    def sockets(self) -> list[int]:
        """Return the file descriptors of the open connections."""
        connections = (
            self.main_connection,
            self.settle_connection,
            self.read_connection,
            self.lease_keeper.connection,
        )
        numbers = (None if each is None else each.socket_number for each in connections)
        return [number for number in numbers if number is not None]

    def start_nothing(self) -> None:
        """Start no more jobs, because this process was forked by a job."""
        for lane in self.lanes:
            lane.executor.forked()

    def _make_background_tasks(self) -> None:
        """Make what runs beside the lanes, on the main connection."""
        main = self.main_connection
        self.housekeeper = Housekeeper(
            connection=main,
            configs={lane.queue.tables: partial(_config_of, lane) for lane in self.lanes},
        )
        self.group_repairer = GroupRepairer(
            connection=main, queue_names=[lane.queue.name for lane in self.lanes]
        )
        self.scheduler = Scheduler(connection=main)
        self.reporter = Reporter(
            connection=main,
            worker_name=self.worker_name,
            host=fitted_text(host_name(), main.server_encoding),
            read=lambda: [lane.report() for lane in self.lanes],
            on_counted=self._note_workers,
            on_cordons=self._note_cordons,
        )

    def _make_connections(self) -> None:
        options = self.options
        self.main_connection = WorkerConnection(
            options.listen_url or options.url,
            application_name=self._application_name("worker"),
            pooled=not options.listens,
            on_connect=self._listen if options.listens else None,
        )
        self.settle_connection = WorkerConnection(
            options.url,
            application_name=self._application_name("settle"),
            pooled=options.pooled,
            lock_timeout_seconds=LOCK_TIMEOUT_SECONDS,
            spare=self.main_connection,
        )
        self.read_connection = WorkerConnection(
            options.url,
            application_name=self._application_name("read"),
            pooled=options.pooled,
            statement_timeout_seconds=READ_SECONDS,
        )

    async def _open_lanes(
        self,
        metrics: Mapping[str, WorkerMetrics],
        tallies: Mapping[str, Tally],
        is_draining: Callable[[], bool],
    ) -> None:
        options = self.options
        context = WorkerContext(
            worker_name=self.worker_name,
            main_connection=self.main_connection,
            settle_connection=self.settle_connection,
            read_connection=self.read_connection,
            max_message_bytes=options.max_message_bytes,
            listens=options.listens,
            is_draining=is_draining,
            stall_seconds=options.stall_seconds,
            tracer=TracerFinder(options.tracer_provider).find(),
            encryption=options.encryption,
            producer_trace=options.producer_trace,
            leases_loop=self.leases_loop,
            claims_line=asyncio.Lock(),
            all_held_jobs=[],
        )
        weights = {each.queue_name: each.weight for each in options.assignments}
        shares = SharedSlots(options.concurrency, weights).shares
        for assignment in options.assignments:
            name = assignment.queue_name
            lane = await Lane.open(
                assignment,
                share=shares[name],
                worker=context,
                metrics=metrics[name],
                tally=tallies[name],
            )
            self.lanes.append(lane)

    def _application_name(self, part: str) -> str:
        return f"meshhook {part} {self.options.queues_shown}"

    async def _listen(self, connection: asyncpg.Connection[Any]) -> None:
        for name in self.options.queue_names:
            await connection.add_listener(wake_channel(name), partial(self._on_wake, name))
        await connection.add_listener(CONFIG_CHANNEL, self._on_config)
        await connection.add_listener(CANCELLATIONS_CHANNEL, self._on_cancellation)

    def _on_wake(self, queue_name: str, *_: object) -> None:
        lane = self._lane(queue_name)
        if lane is not None:
            lane.notify()

    def _on_config(self, _: object, __: int, ___: str, payload: object) -> None:
        lane = self._lane(payload)
        if lane is not None:
            lane.note_config_change()

    def _on_cancellation(self, _: object, __: int, ___: str, payload: object) -> None:
        if self._lane(payload) is not None:
            self.cancellations.note_request()

    def _lane(self, queue_name: object) -> Lane | None:
        return next((lane for lane in self.lanes if lane.queue_name == queue_name), None)

    def _note_workers(self, workers: dict[str, int]) -> None:
        """Tell the lanes how many workers their queues have."""
        for lane in self.lanes:
            lane.note_workers(workers.get(lane.queue_name, 1))

    def _note_cordons(self, seconds: dict[str, float], asked_at: float) -> None:
        """Tell the lanes for how long they are cordoned."""
        for lane in self.lanes:
            lane.note_cordon(seconds.get(lane.queue_name, 0.0), asked_at)


async def _open_all(*openings: Callable[[], Awaitable[None]]) -> None:
    """Open connections, one after the other.

    Raises:
        DatabaseUnavailableError: the server has no room for all connections of a worker.
        DatabaseError: one was refused.
    """
    for opening in openings:
        try:
            await opening()
        except DatabaseUnavailableError as error:
            raise DatabaseUnavailableError(f"{error} (a worker takes three connections)") from error


def _config_of(lane: Lane) -> QueueConfig:
    return lane.config
