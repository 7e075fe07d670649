"""The worker: one process's part in draining one queue."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from meshhook import queries
from meshhook.administration import describe_tables, get_queue_config
from meshhook.database import Database
from meshhook.errors import DatabaseError, InvalidHandlerError, InvalidSettingError
from meshhook.names import CONFIG_CHANNEL, validate_queue_name, wake_channel
from meshhook.observability.health import Check, check_loops
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import STALL_SECONDS, WatchedLoop
from meshhook.observability.metrics import LOOPS
from meshhook.observability.worker_metrics import WorkerGauges, WorkerMetrics
from meshhook.outcomes import FINAL_OUTCOMES, AttemptOutcome
from meshhook.worker.claiming import Claimer
from meshhook.worker.connections import WorkerConnection
from meshhook.worker.handlers import JobHandler, create_job_handler
from meshhook.worker.housekeeping import ConfigWatcher, Housekeeper
from meshhook.worker.leases import LeaseKeeper, LeaseTable
from meshhook.worker.reporting import QueueReport, Reporter
from meshhook.worker.running import Runner
from meshhook.worker.schema_watch import SchemaWatch
from meshhook.worker.settling import Settled, Settler
from meshhook.worker.stats import Tally, WorkerStats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg
    from prometheus_client import CollectorRegistry

    from meshhook.jobs import Job
    from meshhook.queue_config import QueueConfig

_log = get_logger("meshhook.worker")

MAX_CONCURRENCY = 10_000
RELEASE_MARGIN_SECONDS = 2.0


class Worker:
    """Claims, runs and settles the jobs of one queue, with three connections of its own.

    `start` and `stop` are idempotent; `run` does both, and stops at SIGTERM or SIGINT.
    A database that goes away is waited for. Stopping lets running jobs finish until the grace
    period ends, less two seconds; what has not started, or does not finish, is given back, ready
    at once and with its attempt unspent.
    """

    def __init__(
        self,
        database_url: str,
        queue_name: str,
        handler: Any,
        *,
        concurrency: int = 50,
        grace_seconds: float = 25.0,
        pooled: bool = False,
        registry: CollectorRegistry | None = None,
        name: str | None = None,
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        """Take what it works on.

        Args:
            database_url: postgresql://user:password@host:port/database.
            queue_name: the queue.
            handler: what `create_job_handler` made, or a function of one job.
            concurrency: how many jobs run at once, 1 to 10000. Default 50.
            grace_seconds: how long `stop` may take, 0 to 3600; keep it under the pod's
                terminationGracePeriodSeconds. Default 25.
            pooled: whether the URL leads through a pooler in transaction mode; waiting workers
                then poll, once a second. Default false.
            registry: where the metrics go. Default: the process's own.
            name: the worker's name in the history. Default: host, process id and a random part,
                so that a restarted pod of the same name is a new worker.
            stall_seconds: how long a loop of the worker may take for a turn until `liveness`
                says that it has stalled, 10 to 86400. Nothing turns while a handler blocks the
                event loop. Default 60.

        Raises:
            InvalidQueueNameError, InvalidHandlerError, InvalidSettingError: naming the argument.
        """
        self.queue_name = validate_queue_name(queue_name)
        if not isinstance(concurrency, int) or not 1 <= concurrency <= MAX_CONCURRENCY:
            raise InvalidSettingError(
                f"concurrency is a whole number from 1 to {MAX_CONCURRENCY}, got {concurrency!r}"
            )
        if not isinstance(grace_seconds, int | float) or not 0 <= grace_seconds <= 3600:  # noqa: PLR2004
            raise InvalidSettingError(f"grace_seconds is 0 to 3600, got {grace_seconds!r}")
        if not isinstance(stall_seconds, int | float) or not 10 <= stall_seconds <= 86_400:  # noqa: PLR2004
            raise InvalidSettingError(f"stall_seconds is 10 to 86400, got {stall_seconds!r}")
        if not callable(handler):
            raise InvalidHandlerError(f"a handler is a function of one job, got {handler!r}")
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        self._url = database_url
        self._handler = handler if isinstance(handler, JobHandler) else create_job_handler(handler)
        self._concurrency = concurrency
        self._grace_seconds = float(grace_seconds)
        self._pooled = pooled
        self._stall_seconds = float(stall_seconds)
        self._metrics = WorkerMetrics(self.queue_name, registry)
        self._tally = Tally()
        self._leases = LeaseTable()
        self._parts: _Parts | None = None
        self._main: asyncio.Task[None] | None = None
        self._stop_requested = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Check the database and start to work; returns once the worker claims.

        Raises:
            QueueNotFoundError, SchemaMissingError, DatabaseError: it did not start.
        """
        if self._main is not None:
            return
        self._stopped.clear()
        self._failure = None
        self._parts = await self._make_parts()
        self._main = asyncio.create_task(self._work(self._parts), name=f"meshhook-{self.name}")
        _log.info(
            "worker started",
            queue=self.queue_name,
            worker=self.name,
            concurrency=self._concurrency,
        )

    async def stop(self) -> None:
        """Stop claiming, give back what has not started, let jobs finish, record, disconnect.

        Raises:
            Exception: what the worker failed with, if it did.
        """
        if self._main is None:
            self._stop_requested.clear()
            return
        self._stop_requested.set()
        await self._stopped.wait()
        self._stop_requested.clear()
        self._main = None
        if self._failure is not None:
            raise self._failure

    async def run(self, *, handle_signals: bool = True) -> None:
        """Work until SIGTERM or SIGINT, or until `request_stop`.

        Args:
            handle_signals: whether to stop at a signal. Default true.

        Raises:
            QueueNotFoundError, SchemaMissingError, DatabaseError: it did not start.
            Exception: what the worker failed with, if it did.
        """
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT) if handle_signals else ()
        for number in signals:
            loop.add_signal_handler(number, self.request_stop)
        try:
            await self.start()
            await self._stopped.wait()
        finally:
            # Also when the caller is cancelled: outcomes are recorded and leases given back.
            self.request_stop()
            await asyncio.shield(self.stop())
            for number in signals:
                loop.remove_signal_handler(number)

    def request_stop(self) -> None:
        """Ask the worker to stop, and return at once."""
        self._stop_requested.set()

    def get_stats(self) -> WorkerStats:
        """Return what the worker has done since it was made."""
        return self._tally.stats(running=0 if self._parts is None else self._parts.runner.running)

    def liveness(self) -> list[Check]:
        """Return a check for each loop: one that has stalled needs a new process.

        Any thread may ask, also while a handler blocks the event loop. A database that is away
        stalls nothing. The names are claimer, settler and leases.
        """
        if self._failure is not None:
            return [Check("worker", f"has failed: {type(self._failure).__name__}")]
        if self._parts is None or self._main is None or self._stopped.is_set():
            return []
        loops = self._parts.gauges.loops
        if self._stop_requested.is_set():
            loops = [loop for loop in loops if loop.name != "claimer"]  # it ends first
        return check_loops(loops, prefix=f"{self.queue_name} ")

    def readiness(self) -> list[Check]:
        """Return what must hold for it to work: the database, the migrations, no draining.

        Any thread may ask.
        """
        parts = self._parts
        if parts is None or self._main is None or self._stopped.is_set():
            return [Check("worker", "does not run")]
        is_draining = self._stop_requested.is_set()
        return [
            Check("database", parts.main_connection.fault),
            Check("migrations", parts.schema_watch.fault),
            Check("draining", "the worker stops" if is_draining else None),
        ]

    @property
    def has_stuck_jobs(self) -> bool:
        """Whether a job that was given up still runs: it would hold up a normal exit.

        That is a plain function in its thread, or an async one that swallows its cancellation.
        """
        return self._parts is not None and self._parts.runner.is_stuck

    async def __aenter__(self) -> Self:
        """Start the worker."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the worker."""
        await self.stop()

    async def _make_parts(self) -> _Parts:
        main = self._connection("worker", on_connect=None if self._pooled else self._listen)
        try:
            database = Database(main)
            tables = await describe_tables(database, self.queue_name)
            config = await get_queue_config(database, self.queue_name)
        except BaseException:
            await main.close()
            raise
        settle_connection = self._connection("settle")

        claimer_loop, settler_loop, leases_loop = (
            WatchedLoop(name, stall_seconds=self._stall_seconds) for name in LOOPS
        )
        schema_watch = SchemaWatch(main)
        await schema_watch.check()

        def settings() -> QueueConfig:
            return config if self._parts is None else self._parts.config

        settler = Settler(
            connection=settle_connection,
            tables=tables,
            worker_name=self.name,
            on_settled=self._on_settled,
            metrics=self._metrics,
            loop=settler_loop,
        )
        runner = Runner(
            handler=self._handler,
            concurrency=self._concurrency,
            tables=tables,
            worker_name=self.name,
            settings=settings,
            leases=self._leases,
            metrics=self._metrics,
            on_ended=settler.put,
            on_released=self._release_soon,
        )
        claimer = Claimer(
            connection=main,
            tables=tables,
            handler=self._handler,
            runner=runner,
            settler=settler,
            leases=self._leases,
            settings=settings,
            metrics=self._metrics,
            loop=claimer_loop,
            listens=not self._pooled,
        )
        return _Parts(
            config=config,
            release_sql=queries.load("release", tables),
            main_connection=main,
            settle_connection=settle_connection,
            lease_keeper=LeaseKeeper(
                url=self._url,
                pooled=self._pooled,
                application_name=self._application_name("leases"),
                tables=tables,
                leases=self._leases,
                lease_seconds=lambda: float(settings().visibility_timeout_seconds),
                on_lost=self._on_leases_lost,
                metrics=self._metrics,
                loop=leases_loop,
            ),
            settler=settler,
            runner=runner,
            claimer=claimer,
            config_watcher=ConfigWatcher(
                connection=main, queue_name=self.queue_name, on_change=self._on_config_read
            ),
            housekeeper=Housekeeper(
                connection=main,
                tables=tables,
                dlq_retention_days=lambda: settings().dlq_retention_days,
            ),
            reporter=Reporter(connection=main, worker_name=self.name, read=self._reports),
            schema_watch=schema_watch,
            releasing=set(),
            gauges=WorkerGauges(
                inflight=lambda: len(self._leases),
                running=lambda: runner.running,
                limit=lambda: self._concurrency,
                unsettled=lambda: settler.backlog,
                is_connected=lambda: main.fault is None,
                is_draining=self._stop_requested.is_set,
                loops=(claimer_loop, settler_loop, leases_loop),
            ),
        )

    def _reports(self) -> list[QueueReport]:
        if self._parts is None:
            return []
        runner = self._parts.runner
        return [
            QueueReport(
                self.queue_name,
                self._concurrency,
                runner.running,
                self._tally.processed,
                runner.busy_seconds,
            )
        ]

    def _connection(
        self,
        part: str,
        on_connect: Callable[[asyncpg.Connection[Any]], Awaitable[None]] | None = None,
    ) -> WorkerConnection:
        return WorkerConnection(
            self._url,
            application_name=self._application_name(part),
            pooled=self._pooled,
            on_connect=on_connect,
        )

    def _application_name(self, part: str) -> str:
        return f"meshhook {part} {self.queue_name}"

    async def _listen(self, connection: asyncpg.Connection[Any]) -> None:
        await connection.add_listener(wake_channel(self.queue_name), self._on_wake)
        await connection.add_listener(CONFIG_CHANNEL, self._on_config)

    def _on_wake(self, *_: object) -> None:
        if self._parts is not None:
            self._parts.claimer.wake()

    def _on_config(self, _: object, __: int, ___: str, payload: object) -> None:
        if self._parts is not None and payload == self.queue_name:
            self._parts.config_watcher.note_change()

    def _on_config_read(self, config: QueueConfig) -> None:
        if self._parts is not None and config != self._parts.config:
            self._parts.config = config
            self._parts.claimer.wake()
            _log.info("settings changed", queue=self.queue_name, paused=config.paused)

    def _on_leases_lost(self, lost: dict[int, int]) -> None:
        # What was settled while the extension was under way is no longer held, and not lost.
        lost = {i: a for i, a in lost.items() if self._leases.holds(i, a)}
        if self._parts is None or not lost:
            return
        self._metrics.lease_extensions("lost", len(lost))
        self._tally.leases_lost += len(lost)
        self._leases.discard(lost.items())
        for msg_id, attempt in lost.items():
            self._parts.runner.lease_lost(msg_id, attempt)

    async def _work(self, parts: _Parts) -> None:
        parts.lease_keeper.start()
        self._metrics.attach(parts.gauges)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(coroutine, name=f"meshhook-{name}")
                    for name, coroutine in (
                        ("settler", parts.settler.run()),
                        ("runner", parts.runner.run()),
                        ("config", parts.config_watcher.run()),
                        ("housekeeper", parts.housekeeper.run()),
                        ("reporter", parts.reporter.run()),
                        ("schema", parts.schema_watch.run()),
                    )
                ]
                claiming = group.create_task(parts.claimer.run(), name="meshhook-claimer")
                await self._asked_to_stop([*tasks, claiming])
                await self._shut_down(parts, claiming)
                for task in tasks:
                    task.cancel()
        except BaseException as error:  # noqa: BLE001 - handed to stop()
            self._failure = error
            _log.error("worker failed", queue=self.queue_name, worker=self.name, exc_info=error)
        finally:
            self._metrics.detach(parts.gauges)
            await parts.lease_keeper.stop()
            await parts.reporter.withdraw()
            await parts.main_connection.close()
            await parts.settle_connection.close()
            _log.info("worker stopped", queue=self.queue_name, worker=self.name)
            self._stopped.set()

    async def _asked_to_stop(self, tasks: list[asyncio.Task[None]]) -> None:
        try:
            await self._stop_requested.wait()
        except asyncio.CancelledError:
            # An event loop that closes cancels every task: that is a way of asking, too. Where a
            # part has failed there is nothing left to shut down in order.
            if any(task.done() for task in tasks):
                raise

    async def _shut_down(self, parts: _Parts, claiming: asyncio.Task[None]) -> None:
        deadline = time.monotonic() + self._grace_seconds
        margin = min(RELEASE_MARGIN_SECONDS, self._grace_seconds / 4)
        runner = parts.runner
        _log.info(
            "worker stops",
            queue=self.queue_name,
            running=runner.running,
            unstarted=runner.unstarted,
        )
        parts.claimer.stop()
        parts.reporter.drain()
        self._release_soon(runner.take_unstarted(), 0.0)
        # A claim that is under way hands its jobs over still; they are given back as well.
        await _until(deadline - margin, asyncio.wait([claiming]))
        claiming.cancel()
        self._release_soon(runner.take_unstarted(), 0.0)
        await _until(deadline - margin, runner.wait_idle())
        if runner.running:
            runner.abort_all()
            await _until(deadline - margin / 2, runner.wait_idle())
            stuck = runner.running_jobs()
            if stuck:
                _log.error(
                    "jobs take no notice of being stopped; they are given back",
                    queue=self.queue_name,
                    msg_ids=[job.msg_id for job in stuck][:20],
                )
                self._release_soon(stuck, 0.0)
        await _until(deadline, self._recorded(parts))
        if parts.settler.backlog:
            _log.error(
                "outcomes not recorded; their jobs run again when the leases end",
                queue=self.queue_name,
                outcomes=parts.settler.backlog,
            )

    async def _recorded(self, parts: _Parts) -> None:
        while parts.releasing:
            await asyncio.wait(parts.releasing)
        await parts.settler.flush()

    def _release_soon(self, jobs: list[Job[Any]], delay_seconds: float) -> None:
        """Give leases back. Where that fails they run out by themselves."""
        if self._parts is None or not jobs:
            return
        leases = [(job.msg_id, job.attempt) for job in jobs]
        self._leases.discard(leases)
        task = asyncio.create_task(
            self._release(self._parts, leases, delay_seconds), name="meshhook-release"
        )
        self._parts.releasing.add(task)
        task.add_done_callback(self._parts.releasing.discard)

    async def _release(
        self, parts: _Parts, leases: list[tuple[int, int]], delay_seconds: float
    ) -> None:
        msg_ids, attempts = zip(*leases, strict=True)
        try:
            with self._metrics.operation("release"):
                rows = await parts.settle_connection.fetch(
                    parts.release_sql, msg_ids, attempts, delay_seconds
                )
        except DatabaseError as error:
            _log.warning("leases not given back", leases=len(leases), error=str(error))
            return
        self._tally.released += len(rows)
        self._metrics.attempts("released", len(rows))

    def _on_settled(self, settled: Settled) -> None:
        outcomes = [settlement.outcome for settlement in settled.recorded]
        outcomes += [AttemptOutcome.SUCCEEDED] * len(settled.completed)
        for outcome, count in Counter(outcomes).items():
            self._tally.outcomes[outcome] += count
            self._metrics.attempts(outcome, count)
        failures = Counter(s.error_type for s in settled.recorded if s.error_type is not None)
        for error_type, count in failures.items():
            self._metrics.errors(error_type, count)
        delays = [
            settlement.delay_seconds
            for settlement in settled.recorded
            if settlement.outcome not in FINAL_OUTCOMES
        ]
        if delays and self._parts is not None:
            self._parts.claimer.wake_in(min(delays))
        for settlement in settled.lost:
            self._tally.leases_lost += 1
            _log.warning(
                "outcome not recorded: the lease was lost",
                queue=self.queue_name,
                msg_id=settlement.msg_id,
                attempt=settlement.attempt,
                outcome=str(settlement.outcome),
            )
        self._leases.discard(
            (settlement.msg_id, settlement.attempt)
            for settlement in (*settled.recorded, *settled.completed, *settled.lost)
        )
        self._metrics.count_observations()


@dataclass(slots=True)
class _Parts:
    """What a started worker is made of."""

    config: QueueConfig
    release_sql: str
    main_connection: WorkerConnection
    settle_connection: WorkerConnection
    lease_keeper: LeaseKeeper
    settler: Settler
    runner: Runner
    claimer: Claimer
    config_watcher: ConfigWatcher
    housekeeper: Housekeeper
    schema_watch: SchemaWatch
    gauges: WorkerGauges
    reporter: Reporter
    releasing: set[asyncio.Task[None]]
    """Releases under way."""


async def _until(deadline: float, awaitable: Any) -> None:
    """Wait for something until a moment of the monotonic clock, and no longer."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await awaitable
    except TimeoutError:
        pass
