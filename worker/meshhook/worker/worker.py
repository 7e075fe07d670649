"""The worker: one process that serves one queue or several."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Self

from meshhook.errors import QueueNotFoundError
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.observability.health import Check, check_loops
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import STALL_SECONDS
from meshhook.observability.tracing import ProducerTrace
from meshhook.observability.worker_metrics import WorkerMetrics
from meshhook.worker.forks import ForkedProcess
from meshhook.worker.parts import Parts
from meshhook.worker.shutdown import asked_to_stop, follow, hand_back, shut_down
from meshhook.worker.signal_handlers import stopping_at_signals
from meshhook.worker.stats import Tally, WorkerStats
from meshhook.worker.worker_options import checked_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    from meshhook.encryption.key_ring import KeyRing


_log = get_logger("meshhook.worker")


class Worker:
    """Claims, runs and settles the jobs of its queues, over three connections of its own.

    A fourth connection is opened for the first large message.

    `start` and `stop` are idempotent; `run` does both, and stops at SIGTERM or SIGINT. While the
    database is unavailable, the worker waits for it. When it stops, running jobs may finish until
    two seconds before the end of the grace period. Jobs that have not started, or do not finish,
    are given back: they are ready at once, and the attempt does not count.

    While all of several queues have work, they share the slots by weight; slots that one of them
    does not use go to the others. Settings, pause, leases, metrics and statistics are separate for
    each queue.
    """

    def __init__(
        self,
        database_url: str,
        queues: str | Iterable[str] | Mapping[str, int] = DEFAULT_QUEUE_NAME,
        handler: Any = None,
        *,
        batch: int | None = None,
        batch_wait_seconds: float | None = None,
        concurrency: int = 50,
        grace_seconds: float = 25.0,
        pooled: bool = False,
        listen_url: str | None = None,
        registry: CollectorRegistry | None = None,
        name: str | None = None,
        stall_seconds: float = STALL_SECONDS,
        tracer_provider: TracerProvider | None = None,
        producer_trace: ProducerTrace | str = ProducerTrace.LINK,
        max_message_bytes: int | None = None,
        encryption: KeyRing | None = None,
    ) -> None:
        """Check the arguments.

        Args:
            database_url: postgresql://user:password@host:port/database, with the parameters of
                libpq. A worker opens its own connections; it takes no pool.
            queues: a queue's name, several names, or a mapping of names to weights from 1 to
                1000; at most 100 queues. Default `workflow_jobs`.
            handler: made by `create_job_handler`, or a function of one job; or a mapping of each
                queue's name to its handler. Required. Without queues, pass it by name:
                `Worker(url, handler=...)`.
            batch: the most jobs of one call, 1 to 1000, for handlers that are functions: they then
                take a list of jobs, as `create_job_handler` describes. Default: one job.
            batch_wait_seconds: how long a batch waits for more jobs, 0 to 60. Default 0.
            concurrency: how many jobs run at once, or how many batches, of all queues together: 1
                to 10000, and at least the number of queues. Default 50.
            grace_seconds: how long `stop` may take, 0 to 3600; keep it below the pod's
                terminationGracePeriodSeconds. Default 25.
            pooled: whether the URL leads through a pooler in transaction mode. A waiting worker
                then polls once a second, unless it has a `listen_url`. Default false.
            listen_url: the same database without the pooler. The connection that claims, one of
                the worker's three, then goes there and hears notifications. Default: none.
            registry: where the metrics go. Default: the process's registry.
            name: the worker's name in the history, 1 to 200 characters. Default: host, process id
                and a random part, so that a restarted pod of the same name counts as a new worker.
            stall_seconds: after how long a loop of the worker counts as stalled in `liveness`,
                10 to 86400. No loop turns while a handler blocks the event loop. Default 60.
            tracer_provider: makes the spans of the attempts. Default: the global provider of
                OpenTelemetry if one is set when the worker starts; otherwise there are no spans.
            producer_trace: `link`: each attempt has its own trace, linked to the trace in which the
                job was enqueued; `parent`: it continues that trace. Default link.
            max_message_bytes: the maximum size of a message's JSON, 1,024 to 268,435,456 bytes; a
                larger message becomes a dead letter. Default: 16 MiB, or twice the queue's
                `max_payload_bytes` if that is more.
            encryption: the keys that decrypt messages, and encrypt the jobs that follow others and
                the results of encrypted ones. Default: none; an encrypted job is tried again, and
                becomes a dead letter after its last attempt.

        Raises:
            InvalidQueueNameError, InvalidHandlerError, InvalidSettingError: naming the argument.
        """
        self._options = options = checked_options(
            url=database_url,
            listen_url=listen_url,
            queues=queues,
            handler=handler,
            batch=batch,
            batch_wait_seconds=batch_wait_seconds,
            concurrency=concurrency,
            name=name,
            producer_trace=producer_trace,
            grace_seconds=grace_seconds,
            stall_seconds=stall_seconds,
            max_message_bytes=max_message_bytes,
            pooled=pooled,
            tracer_provider=tracer_provider,
            encryption=encryption,
        )
        self.queues = options.queue_names
        self.name = options.name
        self._metrics = {each: WorkerMetrics(each, registry) for each in self.queues}
        self._tallies = {each: Tally() for each in self.queues}
        self._parts: Parts | None = None
        self._main: asyncio.Task[None] | None = None
        self._stop_requested = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Check the database and start working. Returns once the worker claims.

        Raises:
            QueueNotFoundError, SchemaMissingError, DatabaseError: it did not start.
            EncryptionKeysUnavailableError: its keys cannot be had; it did not start.
        """
        if self._main is not None:
            return
        self._stopped.clear()
        self._failure = None
        if self._options.encryption is not None:
            await self._options.encryption.prepare()
        self._parts = await Parts.open(
            self._options,
            metrics=self._metrics,
            tallies=self._tallies,
            is_draining=self._stop_requested.is_set,
        )
        self.name = self._parts.worker_name
        self._main = asyncio.create_task(self._work(self._parts), name=f"meshhook-{self.name}")
        _log.info(
            "worker started",
            queue=self._options.queues_shown,
            worker=self.name,
            concurrency=self._options.concurrency,
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

        Signal handlers that were set before are called as well, and restored when this returns.
        Several workers in one event loop stop at the same signal.

        Args:
            handle_signals: whether to stop at a signal, including SIGHUP if that would end the
                process. Only in the main thread. Default true.

        Raises:
            InvalidSettingError: `handle_signals` outside the main thread.
            QueueNotFoundError, SchemaMissingError, DatabaseError: it did not start.
            Exception: what the worker failed with, if it did.
        """
        with stopping_at_signals(self.request_stop) if handle_signals else nullcontext():
            try:
                await self.start()
                await self._stopped.wait()
            finally:
                # Even if the caller is cancelled, outcomes are recorded and leases given back.
                self.request_stop()
                await asyncio.shield(self.stop())

    def request_stop(self) -> None:
        """Ask the worker to stop, and return at once."""
        self._stop_requested.set()

    def get_stats(self, queue: str | None = None) -> WorkerStats:
        """Return what the worker has done since it was created.

        Args:
            queue: one of its queues. Default: all of them together.

        Raises:
            InvalidQueueNameError: the name is not a valid queue name.
            QueueNotFoundError: it is not one of the worker's queues.
        """
        if queue is not None and validate_queue_name(queue) not in self._tallies:
            raise QueueNotFoundError(queue)
        lanes = () if self._parts is None else self._parts.lanes
        tallies = self._tallies.items()
        return Tally.sum(tally for name, tally in tallies if queue in (None, name)).stats(
            running=sum(
                len(lane.held_jobs.running) for lane in lanes if queue in (None, lane.queue_name)
            )
        )

    def liveness(self) -> list[Check]:
        """Return a check for each loop. If a loop has stalled, the process must be replaced.

        Can be called from any thread, also while a handler blocks the event loop. A database that
        is unavailable stalls no loop. Each queue has a claimer, a settler and slots; one loop
        extends the leases of all queues.
        """
        if self._failure is not None:
            return [Check("worker", f"has failed: {type(self._failure).__name__}")]
        if self._parts is None or self._main is None or self._stopped.is_set():
            return []
        checks: list[Check] = []
        for lane in self._parts.lanes:
            loops = lane.loops
            if self._stop_requested.is_set():
                loops = [loop for loop in loops if loop.name != "claimer"]  # it ends first
            checks += check_loops(loops, prefix=f"{lane.queue_name} ")
        return checks + check_loops(
            [self._parts.leases_loop], prefix=f"{self._options.queues_shown} "
        )

    def readiness(self) -> list[Check]:
        """Return what must hold for the worker to do its work: database, migrations, not stopping.

        Can be called from any thread.
        """
        parts = self._parts
        if parts is None or self._main is None or self._stopped.is_set():
            return [Check("worker", "does not run")]
        is_draining = self._stop_requested.is_set()
        has_outcomes = any(lane.held_jobs.unsettled for lane in parts.lanes)
        unsettled = parts.settle_connection.failure if has_outcomes else None
        return [
            Check("database", parts.main_connection.fault or unsettled),
            *(fault for lane in parts.lanes for fault in lane.faults()),
            Check("migrations", parts.schema_watch.fault),
            Check("draining", "the worker stops" if is_draining else None),
        ]

    @property
    def has_stuck_jobs(self) -> bool:
        """Whether a job that was given up still runs, which would delay a normal exit.

        That can be a plain function in its thread, or an async one that ignores its cancellation.
        """
        return self._parts is not None and any(
            lane.held_jobs.taken_slots for lane in self._parts.lanes
        )

    async def __aenter__(self) -> Self:
        """Start the worker."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop the worker."""
        await self.stop()

    async def _work(self, parts: Parts) -> None:
        for lane in parts.lanes:
            lane.show_gauges()
        forked = ForkedProcess(
            sockets=parts.sockets,
            on_fork=parts.start_nothing,
        )
        forked.watch()
        # Not in the group: if another part fails, a claim under way must still deliver its jobs.
        claiming = [
            asyncio.create_task(lane.producer.run(), name=f"meshhook-producer-{lane.queue_name}")
            for lane in parts.lanes
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(coroutine, name=f"meshhook-{part}-{lane.queue_name}")
                    for lane in parts.lanes
                    for part, coroutine in lane.parts().items()
                ]
                tasks += [
                    group.create_task(parts.housekeeper.run(), name="meshhook-housekeeper"),
                    group.create_task(parts.group_repairer.run(), name="meshhook-groups"),
                    group.create_task(parts.scheduler.run(), name="meshhook-scheduler"),
                    group.create_task(parts.reporter.run(), name="meshhook-reporter"),
                    group.create_task(parts.schema_watch.run(), name="meshhook-schema"),
                    group.create_task(parts.cancellations.run(), name="meshhook-cancellations"),
                ]
                if self._options.encryption is not None:
                    tasks.append(
                        group.create_task(
                            self._options.encryption.keep_fresh(), name="meshhook-encryption-keys"
                        )
                    )
                for producer in claiming:
                    group.create_task(follow(producer), name=f"{producer.get_name()}-watch")
                await asked_to_stop(self._stop_requested, parts.lanes, [*tasks, *claiming])
                parts.reporter.drain()
                await shut_down(parts.lanes, claiming, grace_seconds=self._options.grace_seconds)
                for task in tasks:
                    task.cancel()
        except BaseException as error:  # noqa: BLE001 - handed to stop()
            self._failure = error
            fields = {"queue": self._options.queues_shown, "worker": self.name}
            if isinstance(error, asyncio.CancelledError):
                event = "worker cut short: its tasks were cancelled, as when an event loop ends"
                _log.warning(event, **fields)
            else:
                _log.error("worker failed", **fields, exc_info=error)
            await hand_back(parts.lanes, claiming)
        finally:
            forked.ignore()
            for lane in parts.lanes:
                lane.hide_gauges()
            await parts.close()
            _log.info("worker stopped", queue=self._options.queues_shown, worker=self.name)
            self._stopped.set()
