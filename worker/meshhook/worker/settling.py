"""Settling in micro-batches: whatever ended while one statement ran goes into the next."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import stamina
from opentelemetry.context import Context

from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    UncertainCommitError,
)
from meshhook.observability.loggers import get_logger
from meshhook.observability.tracing import settling
from meshhook.outcomes import AttemptOutcome
from meshhook.settlements import Settlement, find_settled, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from opentelemetry.trace import SpanContext, Tracer

    from meshhook import queries
    from meshhook.observability.loops import WatchedLoop
    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.worker.connections import WorkerConnection

_log = get_logger("meshhook.worker.settling")

MAX_BATCH_SETTLEMENTS = 500
REFUSED_RETRY_SECONDS = 5.0


class PendingSettlement(NamedTuple):
    """A settlement on its way to the database."""

    settlement: Settlement
    was_completed: bool = False
    """Whether the handler settled the job in its own transaction: if that was committed, the
    message is gone and the job is done; if it was rolled back, this settlement holds."""
    attempt: SpanContext | None = None
    """The span of the attempt, if there is one."""


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
    `wait_idle` until all is that the database does not refuse.
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
        self._in_flight = 0
        self._refused = 0
        self._has_pending = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    @property
    def backlog(self) -> int:
        """How many settlements are not recorded yet."""
        return len(self._succeeded) + len(self._others) + self._in_flight + self._refused

    def put(self, pending: PendingSettlement) -> None:
        """Hand a settlement over."""
        self._of_the_kind(pending).append(pending)
        if not self._has_pending.is_set():
            self._has_pending.set()
            self._is_idle.clear()
            self._is_empty.clear()

    async def flush(self) -> None:
        """Wait until everything handed over is recorded."""
        await self._is_empty.wait()

    async def wait_idle(self) -> None:
        """Wait until everything handed over is recorded, or refused and waiting to be tried again.

        Who waits for other jobs' sake must not wait for one that is refused for good.
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
                self._in_flight = len(batch)
                try:
                    await self._settle(batch, group)
                except asyncio.CancelledError:
                    # What is under way may or may not be recorded; a new run would find out.
                    self._put_back(batch)
                    raise
                finally:
                    self._in_flight = 0
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
        except DatabaseError as error:
            if len(batch) > 1:
                # The statement is all or nothing: one settlement that the server refuses must
                # not hold the others back.
                for pending in batch:
                    await self._settle([pending], group)
                return
            self._keep_refused(batch[0], error, group)

    def _keep_refused(
        self, pending: PendingSettlement, error: DatabaseError, group: asyncio.TaskGroup
    ) -> None:
        settlement = pending.settlement
        _log.error(
            "settlement refused; it is tried again",
            queue=self._tables.queue_name,
            msg_id=settlement.msg_id,
            attempt=settlement.attempt,
            outcome=str(settlement.outcome),
            error=str(error),
            **({"trace_id": settlement.trace_id} if settlement.trace_id else {}),
        )
        self._refused += 1

        async def put_again() -> None:
            try:
                await asyncio.sleep(REFUSED_RETRY_SECONDS)
            finally:
                self._refused -= 1
                self.put(pending)

        group.create_task(put_again(), name=f"meshhook-settle-again-{settlement.msg_id}")

    async def _settle_when_reachable(self, batch: Sequence[PendingSettlement]) -> None:
        settlements = [pending.settlement for pending in batch]
        is_uncertain = False
        recorded: set[int] = set()
        async for retry in stamina.retry_context(
            on=(DatabaseUnavailableError, DatabaseReadOnlyError),
            attempts=None,
            timeout=None,
            wait_initial=0.1,
            wait_max=5,
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
                recorded |= {rest[position] for position in positions}
                if is_uncertain:
                    # The first statement may have gone on in the server and ended just now.
                    recorded |= await self._find_recorded(settlements)
        self._on_settled(_sorted_out(batch, recorded))

    async def _find_recorded(self, settlements: Sequence[Settlement]) -> set[int]:
        return await find_settled(
            self._connection, self._tables.queue_name, self._worker_name, settlements
        )


def _sorted_out(batch: Sequence[PendingSettlement], recorded: set[int]) -> Settled:
    done: list[Settlement] = []
    completed: list[Settlement] = []
    lost: list[Settlement] = []
    for position, pending in enumerate(batch):
        if position in recorded:
            done.append(pending.settlement)
        elif pending.was_completed:
            completed.append(pending.settlement)
        else:
            lost.append(pending.settlement)
    return Settled(done, completed, lost)
