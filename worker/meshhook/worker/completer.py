"""The completer: records outcomes, in batches of what ended during the previous statement."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

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
from meshhook.outcomes import FINAL_OUTCOMES, AttemptOutcome
from meshhook.postgres.driver_errors import is_refusal_of_message
from meshhook.postgres.tries import tries
from meshhook.store.settlements import find_locked, find_settled, settle
from meshhook.worker.held_job import SETTLED
from meshhook.worker.key_effects import KeyEffects
from meshhook.worker.verdicts import FollowUpRefusedError, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.observability.loops import WatchedLoop
    from meshhook.store.settlements import Settlement
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.queue_context import QueueContext
    from meshhook.worker.wakeups import Wakeups

_log = get_logger("meshhook.worker.completer")

REFUSED_RETRY_SECONDS = 5.0
LOCKED_RETRY_SECONDS = 1.0
LOCK_TIMEOUT_SECONDS = 0.5
"""How long a settlement waits for a message that a transaction has locked. The other settlements
in its batch wait as long."""


class Completer:
    """Records the outcomes of one queue's jobs. None is dropped while the database is unavailable.

    `run` works until cancelled.
    """

    def __init__(
        self,
        *,
        connection: WorkerConnection,
        queue: QueueContext,
        held_jobs: HeldJobs,
        wakeups: Wakeups,
        loop: WatchedLoop,
    ) -> None:
        """Take what it works with.

        Args:
            connection: where to record.
            queue: the queue.
            held_jobs: the jobs whose outcomes to record.
            wakeups: wake the producer when a retry is due soon.
            loop: is told at every turn.
        """
        self._connection = connection
        self._queue = queue
        self._keys = KeyEffects(connection, queue)
        self._held_jobs = held_jobs
        self._ended = held_jobs.ended
        self._wakeups = wakeups
        self._loop = loop

    async def run(self) -> None:
        """Record outcomes until cancelled."""
        ended = self._ended
        async with asyncio.TaskGroup() as group:
            while True:
                self._loop.turn()
                if not ended.has_waiting:
                    await self._loop.wait_for(ended.wait())
                batch = ended.take_batch()
                try:
                    await self._settle(batch, group)
                except asyncio.CancelledError:
                    # This batch may or may not be recorded; a new run would find out.
                    ended.put_back(batch)
                    raise
                finally:
                    ended.batch_done()

    async def _settle(self, batch: Sequence[HeldJob], group: asyncio.TaskGroup) -> None:
        try:
            await self._settle_when_reachable(batch)
        except DatabaseLockedError as error:
            await self._settle_unlocked(batch, error, group)
        except DatabaseError as error:
            if len(batch) > 1:
                # The statement is all or nothing: one refused outcome must not block the others.
                for held in batch:
                    await self._settle([held], group)
                return
            if batch[0].settlement.follow_ups and is_refusal_of_message(error):
                self._fail_for_follow_ups(batch[0], error)
                await self._settle(batch, group)
                return
            self._log_put_off(batch[0], "settlement refused; it is tried again", error)
            self._put_off(batch, REFUSED_RETRY_SECONDS, group)

    async def _settle_unlocked(
        self, batch: Sequence[HeldJob], error: DatabaseLockedError, group: asyncio.TaskGroup
    ) -> None:
        """Settle those of a batch whose message is not locked; the others wait."""
        try:
            locked = await self._find_locked(batch)
        except DatabaseError as also:
            # The whole table is locked, as by LOCK TABLE or VACUUM FULL, or something worse.
            _log.warning(
                "settlements wait for a lock",
                queue=self._queue.name,
                settlements=len(batch),
                error=str(also),
            )
            self._put_off(batch, LOCKED_RETRY_SECONDS, group)
            return
        if not locked:
            # The lock is gone already, or the table is locked against writes, as by CREATE INDEX.
            self._put_off(batch, LOCKED_RETRY_SECONDS, group)
            return
        for position in locked:
            self._log_put_off(batch[position], "settlement waits for a lock on its message", error)
        self._put_off([batch[i] for i in sorted(locked)], LOCKED_RETRY_SECONDS, group)
        free = [held for i, held in enumerate(batch) if i not in locked]
        if free:
            await self._settle(free, group)

    def _fail_for_follow_ups(self, held: HeldJob, error: DatabaseError) -> None:
        """Let a job fail whose follow-ups are refused: it has not done what it was to do."""
        queue, settlement = self._queue, held.settlement
        failure = FollowUpRefusedError(f"a job that follows was refused: {error}")
        end = verdict(
            failure,
            attempt=settlement.attempt,
            settings=queue.config,
            jitter_fraction=random.random(),  # noqa: S311 - jitter, not a secret
        )
        held.settlement = settlement._replace(
            outcome=end.outcome,
            delay_seconds=end.delay_seconds,
            error_type=end.error_type,
            error_message=end.error_message,
            error_stack=end.error_stack,
            follow_ups=(),
        )
        held.is_failure = end.is_failure
        fields = _fields_of(queue.name, held.settlement)
        _log.error("the jobs that follow were refused", **fields, error=str(error))

    def _put_off(self, batch: Sequence[HeldJob], seconds: float, group: asyncio.TaskGroup) -> None:
        self._ended.put_off(batch)
        group.create_task(self._put_again(batch, seconds), name="meshhook-settle-again")

    async def _put_again(self, batch: Sequence[HeldJob], seconds: float) -> None:
        """Try outcomes again after a pause. Those whose message is still locked wait again."""
        while batch:
            await asyncio.sleep(seconds)
            locked: set[int] = set()
            if seconds == LOCKED_RETRY_SECONDS:
                # So that the next batch is not held up by messages that are still locked.
                try:
                    locked = await self._find_locked(batch)
                except DatabaseError:
                    locked = set(range(len(batch)))
            self._ended.put_again([held for i, held in enumerate(batch) if i not in locked])
            batch = [batch[i] for i in sorted(locked)]

    def _log_put_off(self, held: HeldJob, event: str, error: DatabaseError) -> None:
        _log.error(event, **_fields_of(self._queue.name, held.settlement), error=str(error))

    async def _find_locked(self, batch: Sequence[HeldJob]) -> set[int]:
        return await find_locked(
            self._connection, self._queue.tables, [held.settlement for held in batch]
        )

    async def _settle_when_reachable(self, batch: Sequence[HeldJob]) -> None:
        queue = self._queue
        # A copy: a job that is claimed again in the meantime gets a new settlement.
        settlements = [held.settlement for held in batch]
        is_uncertain = False
        recorded: dict[int, AttemptOutcome] = {}
        async for retry in tries(
            on=(DatabaseUnavailableError, DatabaseReadOnlyError, DatabaseConflictError),
            queue=queue.name,
            step="settle",
        ):
            with retry:
                self._loop.turn()
                if is_uncertain:
                    recorded |= await self._find_recorded(settlements)
                rest = [i for i in range(len(batch)) if i not in recorded]
                if not rest:
                    break
                await self._keys.hold([batch[i] for i in rest if batch[i].key_hold_seconds])
                try:
                    with (
                        queue.metrics.operation("settle"),
                        settling(
                            queue.tracer,
                            queue.name,
                            len(rest),
                            attempts=[batch[i].span for i in rest],
                            context=Context(),
                        ),
                    ):
                        positions = await settle(
                            self._connection,
                            queue.tables,
                            queue.worker_name,
                            [settlements[i] for i in rest],
                            breakers := self._keys.count([batch[i] for i in rest]),
                        )
                except UncertainCommitError:
                    is_uncertain = True
                    raise
                recorded |= {rest[i]: settlements[rest[i]].outcome for i in positions}
                if breakers is not None:
                    self._keys.note_changes(breakers.changes)
                if is_uncertain:
                    # The first statement may have continued in the server and ended just now.
                    recorded |= await self._find_recorded(settlements)
        self._note_settled(batch, settlements, recorded)
        if queue.config.has_breakers:
            await self._keys.note_completed([held for held in batch if held.state is SETTLED])

    async def _find_recorded(self, settlements: Sequence[Settlement]) -> dict[int, AttemptOutcome]:
        return await find_settled(
            self._connection, self._queue.name, self._queue.worker_name, settlements
        )

    def _note_settled(
        self,
        batch: Sequence[HeldJob],
        settlements: Sequence[Settlement],
        recorded: dict[int, AttemptOutcome],
    ) -> None:
        """Move a batch of jobs to their next state, and count them."""
        settled: list[HeldJob] = []
        lost: list[HeldJob] = []
        outcomes: list[AttemptOutcome] = []
        by_us: list[Settlement] = []
        """Recorded by this statement, and not by the handler's own transaction."""
        for position, held in enumerate(batch):
            outcome = recorded.get(position)
            if held.was_completed and outcome in (None, AttemptOutcome.SUCCEEDED):
                # The message is gone already, or the handler's own transaction has recorded it.
                settled.append(held)
                outcomes.append(AttemptOutcome.SUCCEEDED)
            elif outcome is not None:
                settled.append(held)
                outcomes.append(settlements[position].outcome)
                by_us.append(settlements[position])
            elif held.settlement is not settlements[position]:
                # It was claimed again in the meantime: record it under the newer lease.
                self._ended.put(held)
            else:
                lost.append(held)
        self._held_jobs.settle(settled, lost)
        self._count(outcomes, by_us, lost)

    def _count(
        self,
        outcomes: Sequence[AttemptOutcome],
        recorded: Sequence[Settlement],
        lost: Sequence[HeldJob],
    ) -> None:
        tally, metrics = self._queue.tally, self._queue.metrics
        for outcome, count in Counter(outcomes).items():
            tally.outcomes[outcome] += count
            metrics.attempts(outcome, count)
        failures = Counter(s.error_type for s in recorded if s.error_type is not None)
        for error_type, count in failures.items():
            metrics.errors(error_type, count)
        delays = [s.delay_seconds for s in recorded if s.outcome not in FINAL_OUTCOMES]
        if delays:
            self._wakeups.wake_in(min(delays))
        if self._queue.config.is_limited:
            # What ended may have kept others back.
            self._wakeups.wake()
        tally.leases_lost += len(lost)
        for held in lost:
            _log.warning(
                "outcome not recorded: the lease was lost",
                **_fields_of(self._queue.name, held.settlement),
            )
        metrics.count_observations()


def _fields_of(queue_name: str, settlement: Settlement) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "queue": queue_name,
        "msg_id": settlement.msg_id,
        "attempt": settlement.attempt,
        "outcome": str(settlement.outcome),
    }
    return fields | ({"trace_id": settlement.trace_id} if settlement.trace_id else {})
