"""A lane: the part of a worker that serves one queue, over connections that all lanes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook.administration import describe_tables, get_queue_config
from meshhook.observability.health import Check
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import WatchedLoop
from meshhook.observability.tracing import AttemptTracer, ProducerTrace
from meshhook.observability.worker_metrics import WorkerGauges, WorkerMetrics
from meshhook.postgres.database import Database
from meshhook.worker.completer import Completer
from meshhook.worker.cordon import Cordon
from meshhook.worker.executor import Executor
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.housekeeping import ConfigWatcher
from meshhook.worker.message_reader import MessageReader
from meshhook.worker.producer import Producer
from meshhook.worker.queue_context import QueueContext
from meshhook.worker.releaser import Releaser
from meshhook.worker.reporting import QueueReport
from meshhook.worker.wakeups import Wakeups

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, Sequence

    from opentelemetry.trace import Tracer

    from meshhook.encryption.key_ring import KeyRing
    from meshhook.queue_config import QueueConfig
    from meshhook.worker.assignments import Assignment
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.slot_shares import Share
    from meshhook.worker.stats import Tally

_log = get_logger("meshhook.worker")

MAX_UNSETTLED_SECONDS = 30.0
"""How long an outcome may wait until the worker reports that it is not ready."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What the lanes of a worker share."""

    worker_name: str
    main_connection: WorkerConnection
    """For claims, notifications, settings, reports and housekeeping."""
    settle_connection: WorkerConnection
    """For outcomes and releases."""
    read_connection: WorkerConnection
    """For large messages; opened when there is one."""
    max_message_bytes: int | None
    """The maximum size of a message, as in `meshhook.store.unread_messages`."""
    listens: bool
    """Whether the main connection hears notifications."""
    is_draining: Callable[[], bool]
    """Returns whether the worker is stopping."""
    stall_seconds: float
    """How long a turn of a loop may take."""
    tracer: Tracer | None
    """Makes spans; None without tracing."""
    encryption: KeyRing | None
    """The keys of encrypted messages; None if there are none."""
    producer_trace: ProducerTrace
    """How an attempt's trace relates to its producer's."""
    leases_loop: WatchedLoop
    """The loop that extends the leases of all queues."""
    claims_line: asyncio.Lock
    """Lets one lane claim at a time."""
    all_held_jobs: list[HeldJobs]
    """The held jobs of all lanes; each lane adds its own."""


class Lane:
    """Claims, runs and settles the jobs of one queue. Created at each start of a worker.

    `held_jobs` holds every job from its claim on: the producer claims, the executor runs, the
    completer settles, and the releaser gives back.
    """

    def __init__(self, queue: QueueContext, *, share: Share, worker: WorkerContext) -> None:
        """Take what it works with.

        Args:
            queue: the queue.
            share: the queue's share of the slots.
            worker: what it shares with the other lanes.
        """
        self.queue = queue
        self._worker = worker
        self.held_jobs = held_jobs = HeldJobs(share, queue.handler.batch)
        worker.all_held_jobs.append(held_jobs)
        self._wakeups = wakeups = Wakeups()
        self._cordon = cordon = Cordon(queue.name)
        producer_loop, completer_loop, slots_loop = (
            WatchedLoop(name, stall_seconds=worker.stall_seconds)
            for name in ("claimer", "settler", "slots")
        )
        self.loops: Sequence[WatchedLoop] = (producer_loop, completer_loop, slots_loop)
        self.releaser = releaser = Releaser(
            connection=worker.settle_connection, queue=queue, held_jobs=held_jobs
        )
        self.producer = Producer(
            connection=worker.main_connection,
            queue=queue,
            held_jobs=held_jobs,
            all_held_jobs=worker.all_held_jobs,
            releaser=releaser,
            wakeups=wakeups,
            cordon=cordon,
            loop=producer_loop,
            listens=worker.listens,
            line=worker.claims_line,
        )
        self._reader = MessageReader(
            connection=worker.read_connection,
            queue=queue,
            held_jobs=held_jobs,
            max_message_bytes=worker.max_message_bytes,
        )
        self.executor = Executor(
            queue=queue,
            held_jobs=held_jobs,
            releaser=releaser,
            tracer=self._attempt_tracer(),
            loop=slots_loop,
        )
        self.completer = Completer(
            connection=worker.settle_connection,
            queue=queue,
            held_jobs=held_jobs,
            wakeups=wakeups,
            loop=completer_loop,
        )
        self._config_watcher = ConfigWatcher(
            connection=worker.main_connection,
            queue_name=queue.name,
            on_change=self._on_config_read,
        )
        self.gauges = WorkerGauges(
            inflight=lambda: len(held_jobs.leases),
            running=lambda: len(held_jobs.running),
            limit=lambda: held_jobs.capacity,
            unsettled=lambda: held_jobs.unsettled,
            oldest_unsettled_seconds=lambda: held_jobs.ended.oldest_seconds,
            is_connected=lambda: worker.main_connection.fault is None,
            is_draining=worker.is_draining,
            is_cordoned=lambda: cordon.is_on,
            loops=(*self.loops, worker.leases_loop),
        )

    @classmethod
    async def open(
        cls,
        assignment: Assignment,
        *,
        share: Share,
        worker: WorkerContext,
        metrics: WorkerMetrics,
        tally: Tally,
    ) -> Lane:
        """Read the queue's tables and settings, and return a lane for it.

        Args:
            assignment: the queue and its handler.
            share: the queue's share of the slots.
            worker: what it shares with the other lanes.
            metrics: the queue's metrics.
            tally: counts what the worker does for the queue.

        Raises:
            QueueNotFoundError, SchemaMissingError, DatabaseError: the queue cannot be served.
        """
        database = Database(worker.main_connection)
        queue = QueueContext(
            tables=await describe_tables(database, assignment.queue_name),
            config=await get_queue_config(database, assignment.queue_name),
            handler=assignment.handler,
            worker_name=worker.worker_name,
            metrics=metrics,
            tally=tally,
            tracer=worker.tracer,
            encryption=worker.encryption,
        )
        _warn_of_missing_keys(queue)
        return cls(queue, share=share, worker=worker)

    @property
    def queue_name(self) -> str:
        """The queue's name."""
        return self.queue.name

    @property
    def workers(self) -> int:
        """How many workers the queue has, including this one."""
        return self._wakeups.workers

    @property
    def config(self) -> QueueConfig:
        """The queue's current settings."""
        return self.queue.config

    def notify(self) -> None:
        """Note that messages were inserted."""
        if not self._cordon.is_on:
            self._wakeups.notify()

    def note_config_change(self) -> None:
        """Note that the queue's settings have changed."""
        self._config_watcher.note_change()

    def note_workers(self, workers: int) -> None:
        """Note how many workers the queue has, including this one."""
        self._wakeups.note_workers(workers)

    def note_cordon(self, seconds: float, asked_at: float) -> None:
        """Note for how long the queue is cordoned here, as `Cordon.note` says.

        When a cordon begins, jobs that have not started are given back at once.
        """
        was_on = self._cordon.is_on
        if self._cordon.note(seconds, asked_at):
            self.producer.hand_back()
        elif was_on and not self._cordon.is_on:
            self._wakeups.wake()

    def show_gauges(self) -> None:
        """Let the metrics read this lane."""
        self.queue.metrics.attach(self.gauges)

    def hide_gauges(self) -> None:
        """Stop letting the metrics read this lane."""
        self.queue.metrics.detach(self.gauges)

    def parts(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return what runs beside the producer until cancelled, by name."""
        return {
            "completer": self.completer.run(),
            "executor": self.executor.run(),
            "reader": self._reader.run(),
            "config": self._config_watcher.run(),
        }

    def faults(self) -> list[Check]:
        """Return what keeps the queue from being served. Can be called from any thread."""
        unsettled_seconds = self.held_jobs.ended.oldest_seconds
        faults = {
            "claims": self.producer.fault,
            "leases": "they cannot be extended: nothing is claimed"
            if self.held_jobs.cannot_be_extended
            else None,
            "outcomes": f"the oldest has waited for {unsettled_seconds:.0f} s to be recorded"
            if unsettled_seconds > MAX_UNSETTLED_SECONDS
            else None,
        }
        return [Check(f"{self.queue_name} {name}", text) for name, text in faults.items() if text]

    def report(self) -> QueueReport:
        """Return what the worker currently does for the queue."""
        return QueueReport(
            self.queue_name,
            self.held_jobs.capacity,
            len(self.held_jobs.running),
            self.queue.tally.processed,
            self.held_jobs.running.busy_seconds,
            self.held_jobs.running.longest_run_seconds,
            self._cordon.is_on,
        )

    async def all_recorded(self) -> None:
        """Wait until everything is given back and every outcome is recorded."""
        await self.releaser.wait()
        await self.held_jobs.ended.wait_empty()

    def _attempt_tracer(self) -> AttemptTracer | None:
        worker = self._worker
        if worker.tracer is None:
            return None
        return AttemptTracer(
            worker.tracer, self.queue_name, worker.worker_name, worker.producer_trace
        )

    def _on_config_read(self, config: QueueConfig) -> None:
        if config != self.queue.config:
            self.queue.config = config
            self._wakeups.wake()
            _log.info("settings changed", queue=self.queue_name, paused=config.paused)
            _warn_of_missing_keys(self.queue)


def _warn_of_missing_keys(queue: QueueContext) -> None:
    if queue.config.requires_encryption and queue.encryption is None:
        _log.warning(
            "the queue requires encryption, and this worker has no keys: no job of it can run "
            "here. Give it the keys: encryption=KeyRing.from_file(...), or for the command "
            "MESHHOOK_ENCRYPTION_KEY_FILE",
            queue=queue.name,
        )
