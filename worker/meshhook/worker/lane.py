"""A lane: one queue's part in a worker, over connections that all its queues share."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook.administration import describe_tables, get_queue_config
from meshhook.errors import DatabaseError
from meshhook.observability.health import Check
from meshhook.observability.loggers import get_logger
from meshhook.observability.loops import WatchedLoop
from meshhook.observability.tracing import AttemptTracer, ProducerTrace
from meshhook.observability.worker_metrics import WorkerGauges, WorkerMetrics
from meshhook.outcomes import FINAL_OUTCOMES, AttemptOutcome
from meshhook.postgres.database import Database
from meshhook.store import queries
from meshhook.worker.claiming import Claimer
from meshhook.worker.housekeeping import ConfigWatcher
from meshhook.worker.leases import KeptQueue, Lease, LeaseTable
from meshhook.worker.reporting import QueueReport
from meshhook.worker.running import Runner
from meshhook.worker.settling import Settled, Settler
from meshhook.worker.unread_jobs import UnreadJobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from opentelemetry.trace import Tracer

    from meshhook.jobs import Job
    from meshhook.queue_config import QueueConfig
    from meshhook.worker.assignments import Assignment
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.slots import Share
    from meshhook.worker.stats import Tally

_log = get_logger("meshhook.worker")

MAX_UNSETTLED_SECONDS = 30.0
"""How long an outcome may wait to be recorded until the worker says that it is not ready."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the lanes of a worker have in common."""

    worker_name: str
    concurrency: int
    """How many slots there are for all queues together."""
    main_connection: WorkerConnection
    """For claims, notifications, settings, reports and housekeeping."""
    settle_connection: WorkerConnection
    """For outcomes and releases."""
    read_connection: WorkerConnection
    """For messages that are not short; it is opened when there is one."""
    max_message_bytes: int | None
    """How much JSON a message may be to be run, as `meshhook.store.unread_messages` has it."""
    listens: bool
    """Whether the main connection hears notifications."""
    is_draining: Callable[[], bool]
    """Says whether the worker is stopping."""
    stall_seconds: float
    """How long a loop may take for a turn."""
    tracer: Tracer | None
    """Makes spans; None: there are none."""
    producer_trace: ProducerTrace
    """How an attempt's trace belongs to that of its producer."""
    leases_loop: WatchedLoop
    """The loop that keeps the leases of all queues."""
    claims_line: asyncio.Lock
    """Lets one lane claim at a time."""
    all_ended: Callable[[], Awaitable[None]]
    """Waits until nothing runs in any lane, and all outcomes are recorded or put off."""
    longest_run_seconds: Callable[[], float]
    """Returns how long the job has run in any lane that has run longest."""


class Lane:
    """Claims, runs and settles the jobs of one queue. Made anew at each start of a worker."""

    def __init__(
        self,
        assignment: Assignment,
        *,
        tables: queries.QueueTables,
        config: QueueConfig,
        shared: Shared,
        metrics: WorkerMetrics,
        tally: Tally,
        share: Share | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            assignment: the queue and its handler.
            tables: the queue's tables.
            config: the queue's settings at the start.
            shared: what it has in common with the other lanes.
            metrics: the queue's.
            tally: counts what the worker does for the queue.
            share: the queue's share of the slots. Default: all of them.
        """
        self.queue_name = assignment.queue_name
        self.tables = tables
        self.config = config
        self._shared = shared
        self._metrics = metrics
        self._tally = tally
        self._leases = LeaseTable()
        self._release_sql = queries.load("release", tables)
        self._releasing: set[asyncio.Task[None]] = set()
        claimer_loop, settler_loop, slots_loop = (
            WatchedLoop(name, stall_seconds=shared.stall_seconds)
            for name in ("claimer", "settler", "slots")
        )
        self.loops: Sequence[WatchedLoop] = (claimer_loop, settler_loop, slots_loop)
        self.settler = Settler(
            connection=shared.settle_connection,
            tables=tables,
            worker_name=shared.worker_name,
            on_settled=self._on_settled,
            metrics=metrics,
            tracer=shared.tracer,
            loop=settler_loop,
        )
        self._unread = UnreadJobs(
            connection=shared.read_connection,
            tables=tables,
            max_message_bytes=shared.max_message_bytes,
            settings=self._settings,
            on_ended=self.settler.put,
        )
        self.runner = Runner(
            handler=assignment.handler,
            concurrency=shared.concurrency,
            tables=tables,
            worker_name=shared.worker_name,
            settings=self._settings,
            leases=self._leases,
            metrics=metrics,
            tracer=self._attempt_tracer(),
            on_ended=self.settler.put,
            on_released=self.release_soon,
            take_up_outcome=self.settler.take_up,
            unread=self._unread,
            loop=slots_loop,
            share=share,
        )
        if share is not None:
            share.user = self.runner
        self.claimer = Claimer(
            connection=shared.main_connection,
            tables=tables,
            handler=assignment.handler,
            runner=self.runner,
            settler=self.settler,
            leases=self._leases,
            settings=self._settings,
            metrics=metrics,
            loop=claimer_loop,
            listens=shared.listens,
            line=shared.claims_line,
            all_ended=shared.all_ended,
            longest_run_seconds=shared.longest_run_seconds,
            share=share,
        )
        self.config_watcher = ConfigWatcher(
            connection=shared.main_connection,
            queue_name=self.queue_name,
            on_change=self._on_config_read,
        )
        self.gauges = WorkerGauges(
            inflight=lambda: len(self._leases),
            running=lambda: self.runner.running,
            limit=lambda: shared.concurrency,
            unsettled=lambda: self.settler.backlog,
            oldest_unsettled_seconds=lambda: self.settler.oldest_seconds,
            is_connected=lambda: shared.main_connection.fault is None,
            is_draining=shared.is_draining,
            loops=(*self.loops, shared.leases_loop),
        )

    @classmethod
    async def open(cls, assignment: Assignment, *, shared: Shared, **rest: Any) -> Lane:
        """Look at the queue, and return a lane for it.

        Args:
            assignment: the queue and its handler.
            shared: what it has in common with the other lanes.
            **rest: the other arguments of the constructor.

        Raises:
            QueueNotFoundError, SchemaMissingError, DatabaseError: it cannot be worked on.
        """
        database = Database(shared.main_connection)
        return cls(
            assignment,
            tables=await describe_tables(database, assignment.queue_name),
            config=await get_queue_config(database, assignment.queue_name),
            shared=shared,
            **rest,
        )

    @property
    def kept(self) -> KeptQueue:
        """What the keeper of leases needs to know."""
        return KeptQueue(
            tables=self.tables,
            leases=self._leases,
            lease_seconds=lambda: float(self.config.visibility_timeout_seconds),
            on_lost=self._on_leases_lost,
            on_expired=self.runner.leases_expired,
            metrics=self._metrics,
        )

    def show_gauges(self) -> None:
        """Let the metrics read what happens here."""
        self._metrics.attach(self.gauges)

    def hide_gauges(self) -> None:
        """Let the metrics read it no longer."""
        self._metrics.detach(self.gauges)

    def parts(self) -> dict[str, Coroutine[Any, Any, None]]:
        """Return what is to run beside the claimer until it is cancelled, by name."""
        return {
            "settler": self.settler.run(),
            "runner": self.runner.run(),
            "reader": self._unread.run(),
            "config": self.config_watcher.run(),
        }

    def faults(self) -> list[Check]:
        """Return what keeps the queue from being worked on. Any thread may ask."""
        unsettled_seconds = self.settler.oldest_seconds
        faults = {
            "claims": self.claimer.fault,
            "leases": "they cannot be extended: nothing is claimed"
            if self._leases.cannot_be_extended
            else None,
            "outcomes": f"the oldest has waited for {unsettled_seconds:.0f} s to be recorded"
            if unsettled_seconds > MAX_UNSETTLED_SECONDS
            else None,
        }
        return [Check(f"{self.queue_name} {name}", text) for name, text in faults.items() if text]

    def report(self) -> QueueReport:
        """Return what the worker does for the queue now."""
        return QueueReport(
            self.queue_name,
            self._shared.concurrency,
            self.runner.running,
            self._tally.processed,
            self.runner.busy_seconds,
        )

    def release_unstarted(self) -> None:
        """Give back every job that has not started."""
        self.release_soon(self.runner.take_unstarted(), 0.0)

    def release_held(self) -> None:
        """Give back every job that has not ended."""
        self.release_soon(self.runner.take_held(), 0.0)

    def release_soon(self, jobs: list[Job[Any]], delay_seconds: float) -> None:
        """Give leases back. Where that fails they run out by themselves."""
        if not jobs:
            return
        self._leases.discard((job.key, job.read_ct) for job in jobs)
        leases = [(job.msg_id, job.read_ct, job.enqueued_timestamp) for job in jobs]
        task = asyncio.create_task(self._release(leases, delay_seconds), name="meshhook-release")
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def all_recorded(self) -> None:
        """Wait until every release is done and every outcome recorded."""
        while self._releasing:
            await asyncio.wait(self._releasing)
        await self.settler.flush()

    async def give_up_releases(self) -> None:
        """Stop giving leases back, before the connection is closed; they run out by themselves."""
        releasing = list(self._releasing)
        for task in releasing:
            task.cancel()
        if releasing:
            await asyncio.wait(releasing)

    def _attempt_tracer(self) -> AttemptTracer | None:
        shared = self._shared
        if shared.tracer is None:
            return None
        return AttemptTracer(
            shared.tracer, self.queue_name, shared.worker_name, shared.producer_trace
        )

    def _settings(self) -> QueueConfig:
        return self.config

    def _on_config_read(self, config: QueueConfig) -> None:
        if config != self.config:
            self.config = config
            self.claimer.wake()
            _log.info("settings changed", queue=self.queue_name, paused=config.paused)

    def _on_leases_lost(self, lost: list[Lease]) -> None:
        self._leases.discard((lease.key, lease.read_ct) for lease in lost)
        # What is being settled, or was completed by its handler in a transaction of its own, may be
        # gone from the queue already; settling finds out what is lost.
        needed = [lease for lease in lost if self.runner.holds(lease)]
        if not needed:
            return
        self._metrics.lease_extensions("lost", len(needed))
        self._tally.leases_lost += len(needed)
        for lease in needed:
            self.runner.lease_lost(lease)

    async def _release(
        self, leases: Sequence[tuple[int, int, float]], delay_seconds: float
    ) -> None:
        try:
            with self._metrics.operation("release"):
                rows = await self._shared.settle_connection.fetch(
                    self._release_sql, *zip(*leases, strict=True), delay_seconds
                )
        except DatabaseError as error:
            _log.warning(
                "leases not given back",
                queue=self.queue_name,
                leases=len(leases),
                error=str(error),
            )
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
        if delays:
            self.claimer.wake_in(min(delays))
        for settlement in settled.lost:
            self._tally.leases_lost += 1
            _log.warning(
                "outcome not recorded: the lease was lost",
                queue=self.queue_name,
                msg_id=settlement.msg_id,
                attempt=settlement.attempt,
                outcome=str(settlement.outcome),
                **({"trace_id": settlement.trace_id} if settlement.trace_id else {}),
            )
        self._leases.discard(
            (settlement.key, settlement.read_ct)
            for settlement in (*settled.recorded, *settled.completed, *settled.lost)
        )
        self._metrics.count_observations()
