"""Settling in micro-batches: whatever ended while one statement ran goes into the next."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.context import Context

from meshhook.errors import (
    DatabaseConflictError,
    DatabaseError,
    DatabaseLockedError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    UncertainCommitError,
)
from meshhook.observability.loggers import get_logger
from meshhook.observability.tracing import settling
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.tries import tries
from meshhook.store.settlements import Settlement, find_locked, find_settled, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import SpanContext, Tracer

    from meshhook.jobs import Job, JobKey
    from meshhook.observability.loops import WatchedLoop
    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.store import queries
    from meshhook.worker.connections import WorkerConnection

_log = get_logger("meshhook.worker.settling")

MAX_BATCH_SETTLEMENTS = 500
REFUSED_RETRY_SECONDS = 5.0
LOCKED_RETRY_SECONDS = 1.0
LOCK_TIMEOUT_SECONDS = 0.5
"""How long a settlement waits for a message that a transaction has locked, on the connection that
settles: the others in its batch wait as long."""


class PendingSettlement(NamedTuple):
    """A settlement on its way to the database."""

    settlement: Settlement
    since: float
    """When the attempt ended, by the monotonic clock."""
    was_completed: bool = False
    """Whether the handler settled the job in its own transaction: if that was committed, the
    message is gone and the job is done; if it was rolled back, this settlement holds."""
    attempt: SpanContext | None = None
    """The span of the attempt, if there is one."""

    def under(self, job: Job[Any]) -> PendingSettlement:
        """Return the same outcome under a newer lease of its job."""
        settlement = self.settlement._replace(read_ct=job.read_ct, attempt=job.attempt)
        return self._replace(settlement=settlement)


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch."""

    recorded: list[Settlement]
    """Recorded by this statement."""
    completed: list[Settlement]
    """Recorded before by the handler's own transaction."""
    lost: list[Settlement]
    """The lease was lost: nothing was changed."""


class Settler:
    """Records how attempts end. Nothing handed over is dropped: it waits for the database.

    `put` never blocks. `run` works until cancelled; `flush` waits until all is recorded, and
    `wait_idle` until all is that neither the database refuses nor a transaction has locked.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        tables: queries.QueueTables,
        worker_name: str,
        on_settled: Callable[[Settled], None],
        metrics: WorkerMetrics,
        tracer: Tracer | None,
        loop: WatchedLoop,
    ) -> None:
        self._connection = connection
        self._tables = tables
        self._worker_name = worker_name
        self._on_settled = on_settled
        self._metrics = metrics
        self._tracer = tracer
        self._loop = loop
        self._succeeded: list[PendingSettlement] = []
        self._others: list[PendingSettlement] = []
        self._is_turn_of_successes = False
        self._in_flight: Sequence[PendingSettlement] = ()
        self._put_off: list[PendingSettlement] = []
        """What the database refuses, or some transaction has locked: tried again in a while."""
        self._claimed_again: dict[JobKey, Job[Any]] = {}
        """Jobs of the batch under way whose lease ran out, and which this process claimed again."""
        self._has_pending = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def backlog(self) -> int:
        """How many settlements are not recorded yet."""
        return len(self._succeeded) + len(self._others) + len(self._in_flight) + len(self._put_off)

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest of them waits; 0 if there is none. Any thread may look."""
        # What was put off comes back behind younger ones, so each is looked at. The lists are
        # copied, since they change while another thread looks.
        lists = (self._in_flight, self._succeeded, self._others, self._put_off)
        ends = [pending.since for each in lists for pending in list(each)]
        return max(0.0, time.monotonic() - min(ends)) if ends else 0.0

    def put(self, pending: PendingSettlement) -> None:
        """Hand a settlement over."""
        self._of_the_kind(pending).append(pending)
        if not self._has_pending.is_set():
            self._has_pending.set()
            self._is_idle.clear()
            self._is_empty.clear()

    def take_up(self, job: Job[Any]) -> bool:
        """Record an outcome that waits here under the newer lease with which its job was claimed.

        Returns:
            Whether one waits: then the job has ended, and must not run again.
        """
        for pendings in (self._succeeded, self._others, self._put_off):
            for position, pending in enumerate(pendings):
                if _is_lost_outcome(pending, job):
                    pendings[position] = pending.under(job)
                    return True
        if any(_is_lost_outcome(pending, job) for pending in self._in_flight):
            self._claimed_again[job.key] = job
            return True
        return False

    async def flush(self) -> None:
        """Wait until everything handed over is recorded."""
        await self._is_empty.wait()

    async def wait_idle(self) -> None:
        """Wait until everything handed over is recorded, or put off to be tried again.

        A settlement that is refused for good must not hold up those who wait for other jobs.
        """
        await self._is_idle.wait()

    async def run(self) -> None:
        """Record what is handed over, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._loop.turn()
                if not self._has_pending.is_set():
                    await self._loop.wait_for(self._has_pending.wait())
                batch = self._take_batch()
                self._in_flight = batch
                try:
                    await self._settle(batch, group)
                except asyncio.CancelledError:
                    # What is under way may or may not be recorded; a new run would find out.
                    self._put_back(batch)
                    raise
                finally:
                    self._in_flight = ()
                    self._claimed_again.clear()
                    self._update_events()

    def _take_batch(self) -> list[PendingSettlement]:
        """Take the next ones: successes and the rest by turns, since successes alone cost half."""
        self._is_turn_of_successes = bool(self._succeeded) and not (
            self._is_turn_of_successes and self._others
        )
        pending = self._succeeded if self._is_turn_of_successes else self._others
        batch = pending[:MAX_BATCH_SETTLEMENTS]
        del pending[: len(batch)]
        return batch

    def _put_back(self, batch: list[PendingSettlement]) -> None:
        self._of_the_kind(batch[0])[:0] = batch

    def _of_the_kind(self, pending: PendingSettlement) -> list[PendingSettlement]:
        has_succeeded = pending.settlement.outcome is AttemptOutcome.SUCCEEDED
        return self._succeeded if has_succeeded else self._others

    def _update_events(self) -> None:
        if not self._succeeded and not self._others:
            self._has_pending.clear()
            if not self._in_flight:
                self._is_idle.set()
        if not self.backlog:
            self._is_empty.set()

    async def _settle(self, batch: Sequence[PendingSettlement], group: asyncio.TaskGroup) -> None:
        try:
            await self._settle_when_reachable(batch)
        except DatabaseLockedError as error:
            await self._settle_unlocked(batch, error, group)
        except DatabaseError as error:
            if len(batch) > 1:
                # The statement is all or nothing: one settlement that the server refuses must
                # not hold the others back.
                for pending in batch:
                    await self._settle([pending], group)
                return
            self._log_put_off(batch[0], "settlement refused; it is tried again", error)
            self._put_off_for(REFUSED_RETRY_SECONDS, batch, group)

    async def _settle_unlocked(
        self,
        batch: Sequence[PendingSettlement],
        error: DatabaseLockedError,
        group: asyncio.TaskGroup,
    ) -> None:
        """Settle those of a batch whose message no transaction has locked; the others wait."""
        try:
            locked = await self._find_locked(batch)
        except DatabaseError as also:
            # The whole table is locked, as by LOCK TABLE or VACUUM FULL, or worse.
            _log.warning(
                "settlements wait for a lock",
                queue=self._tables.queue_name,
                settlements=len(batch),
                error=str(also),
            )
            self._put_off_for(LOCKED_RETRY_SECONDS, batch, group)
            return
        if not locked:
            # It was let go just now, or the table is locked against writes, as by CREATE INDEX.
            self._put_off_for(LOCKED_RETRY_SECONDS, batch, group)
            return
        for position in locked:
            self._log_put_off(batch[position], "settlement waits for a lock on its message", error)
        self._put_off_for(LOCKED_RETRY_SECONDS, [batch[i] for i in sorted(locked)], group)
        free = [pending for i, pending in enumerate(batch) if i not in locked]
        if free:
            await self._settle(free, group)

    def _put_off_for(
        self, seconds: float, batch: Sequence[PendingSettlement], group: asyncio.TaskGroup
    ) -> None:
        keys = {pending.settlement.key for pending in batch}
        self._put_off += [self._under_newer_lease(pending) for pending in batch]

        async def put_again() -> None:
            await asyncio.sleep(seconds)
            again = [pending for pending in self._put_off if pending.settlement.key in keys]
            locked: set[int] = set()
            if seconds == LOCKED_RETRY_SECONDS:
                # So that the next batch does not stand still for those that are locked still.
                try:
                    locked = await self._find_locked(again)
                except DatabaseError:
                    locked = set(range(len(again)))
            free = {p.settlement.key for i, p in enumerate(again) if i not in locked}
            for pending in [p for p in self._put_off if p.settlement.key in free]:
                self._put_off.remove(pending)
                self.put(pending)
            keys.intersection_update(again[i].settlement.key for i in locked)
            if keys:
                group.create_task(put_again(), name="meshhook-settle-again")

        group.create_task(put_again(), name="meshhook-settle-again")

    def _log_put_off(self, pending: PendingSettlement, event: str, error: DatabaseError) -> None:
        settlement = pending.settlement
        _log.error(
            event,
            queue=self._tables.queue_name,
            msg_id=settlement.msg_id,
            attempt=settlement.attempt,
            outcome=str(settlement.outcome),
            error=str(error),
            **({"trace_id": settlement.trace_id} if settlement.trace_id else {}),
        )

    async def _find_locked(self, batch: Sequence[PendingSettlement]) -> set[int]:
        return await find_locked(
            self._connection, self._tables, [pending.settlement for pending in batch]
        )

    def _under_newer_lease(self, pending: PendingSettlement) -> PendingSettlement:
        job = self._claimed_again.get(pending.settlement.key)
        return pending if job is None else pending.under(job)

    async def _settle_when_reachable(self, batch: Sequence[PendingSettlement]) -> None:
        settlements = [pending.settlement for pending in batch]
        is_uncertain = False
        recorded: dict[int, AttemptOutcome] = {}
        async for retry in tries(
            on=(DatabaseUnavailableError, DatabaseReadOnlyError, DatabaseConflictError),
            queue=self._tables.queue_name,
            step="settle",
        ):
            with retry:
                self._loop.turn()
                if is_uncertain:
                    recorded |= await self._find_recorded(settlements)
                rest = [i for i in range(len(batch)) if i not in recorded]
                if not rest:
                    break
                try:
                    with (
                        self._metrics.operation("settle"),
                        settling(
                            self._tracer,
                            self._tables.queue_name,
                            len(rest),
                            attempts=[batch[i].attempt for i in rest],
                            context=Context(),
                        ),
                    ):
                        positions = await settle(
                            self._connection,
                            self._tables,
                            self._worker_name,
                            [settlements[i] for i in rest],
                        )
                except UncertainCommitError:
                    is_uncertain = True
                    raise
                recorded |= {rest[i]: settlements[rest[i]].outcome for i in positions}
                if is_uncertain:
                    # The first statement may have gone on in the server and ended just now.
                    recorded |= await self._find_recorded(settlements)
        self._note_settled(batch, recorded)

    def _note_settled(
        self, batch: Sequence[PendingSettlement], recorded: dict[int, AttemptOutcome]
    ) -> None:
        settled = Settled([], [], [])
        for position, pending in enumerate(batch):
            settlement = pending.settlement
            outcome = recorded.get(position)
            if pending.was_completed and outcome in (None, AttemptOutcome.SUCCEEDED):
                # Gone already, or found as the handler's own transaction has recorded it.
                settled.completed.append(settlement)
            elif outcome is not None:
                settled.recorded.append(settlement)
            elif settlement.key in self._claimed_again:
                self.put(self._under_newer_lease(pending))
            else:
                settled.lost.append(settlement)
        self._on_settled(settled)

    async def _find_recorded(self, settlements: Sequence[Settlement]) -> dict[int, AttemptOutcome]:
        return await find_settled(
            self._connection, self._tables.queue_name, self._worker_name, settlements
        )


def _is_lost_outcome(pending: PendingSettlement, job: Job[Any]) -> bool:
    """Say whether a claimed job's history counts as lost the attempt whose outcome waits here."""
    settlement = pending.settlement
    return settlement.key == job.key and job.attempt - settlement.attempt <= job.lost_attempts
