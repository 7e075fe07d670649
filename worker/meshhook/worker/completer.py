"""The completer: records outcomes, in batches of what ended during the previous statement."""

from __future__ import annotations

import asyncio
import random
import time
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
from meshhook.postgres.driver_errors import is_refusal_of_message, is_refusal_of_value
from meshhook.postgres.tries import tries
from meshhook.store.settlements import (
    MAX_ERROR_MESSAGE_LENGTH,
    RetryBudget,
    find_locked,
    find_settled,
    settle,
    storable_text,
)
from meshhook.worker.held_job import SETTLED
from meshhook.worker.key_effects import KeyEffects
from meshhook.worker.lock_waits import MAX_LOCKED_PARTS, NOTHING, LockWaits, parts_of
from meshhook.worker.verdicts import RESULT_REFUSED, FollowUpRefusedError, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshhook.observability.loops import WatchedLoop
    from meshhook.store.settlements import Settlement
    from meshhook.worker.connections import WorkerConnection
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.lock_waits import Hanging
    from meshhook.worker.queue_context import QueueContext
    from meshhook.worker.wakeups import Wakeups

_log = get_logger("meshhook.worker.completer")

REFUSED_RETRY_SECONDS = 5.0
LOCKED_RETRY_SECONDS = 1.0
LOCK_TIMEOUT_SECONDS = 0.5
"""How long a settlement waits for a message, or for what hangs on its job, that a transaction has
locked. The other settlements in its batch wait as long."""


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
        self._lock_waits = LockWaits()

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
                    await self._settle_free(batch, group)
                except asyncio.CancelledError:
                    # This batch may or may not be recorded; a new run would find out.
                    ended.put_back(batch)
                    raise
                finally:
                    ended.batch_done()

    async def _settle_free(self, batch: Sequence[HeldJob], group: asyncio.TaskGroup) -> None:
        """Settle a batch. What waits for a lock on what hangs on it is tried apart, seldom."""
        if not self._lock_waits:
            await self._settle(batch, group)
            return
        free: list[HeldJob] = []
        due: tuple[Hanging, list[HeldJob]] | None = None
        now = time.monotonic()
        for hanging, part in self._parts_of(batch).items():
            seconds_left = self._lock_waits.seconds_left(hanging, now)
            if seconds_left is None:
                free += part
            elif seconds_left or due is not None:
                self._put_off(part, seconds_left or LOCKED_RETRY_SECONDS, group)
            else:
                due = hanging, part
        if free:
            await self._settle(free, group)
        if due is not None and await self._settle(due[1], group):
            self._lock_waits.note_free(due[0])

    async def _settle(self, batch: Sequence[HeldJob], group: asyncio.TaskGroup) -> bool:
        """Settle a batch, or put off what cannot be settled. Returns whether no lock was met."""
        try:
            await self._settle_when_reachable(batch)
        except DatabaseLockedError as error:
            await self._settle_unlocked(batch, error, group)
            return False
        except DatabaseError as error:
            if len(batch) > 1:
                # The statement is all or nothing: one refused outcome must not block the others.
                for held in batch:
                    await self._settle_free([held], group)
            elif batch[0].settlement.result is not None and is_refusal_of_value(error):
                self._leave_result_out(batch[0], error)
                await self._settle(batch, group)
            elif batch[0].settlement.follow_ups and is_refusal_of_message(error):
                self._fail_for_follow_ups(batch[0], error)
                await self._settle(batch, group)
            else:
                self._log_put_off(batch[0], "settlement refused; it is tried again", error)
                self._put_off(batch, REFUSED_RETRY_SECONDS, group)
        return True

    async def _settle_unlocked(
        self, batch: Sequence[HeldJob], error: DatabaseLockedError, group: asyncio.TaskGroup
    ) -> None:
        """Settle those of a batch for which nothing is locked; the others wait."""
        try:
            locked = await self._find_locked(batch)
        except DatabaseError as also:
            # The whole table is locked, as by LOCK TABLE or VACUUM FULL, or something worse.
            self._wait_for_table(batch, also, group)
            return
        if not locked:
            await self._settle_parts(batch, error, group)
            return
        for position in locked:
            self._log_put_off(batch[position], "settlement waits for a lock on its message", error)
        self._put_off_locked([batch[i] for i in sorted(locked)], group)
        free = [held for i, held in enumerate(batch) if i not in locked]
        if free:
            await self._settle(free, group)

    async def _settle_parts(
        self, batch: Sequence[HeldJob], error: DatabaseLockedError, group: asyncio.TaskGroup
    ) -> None:
        """Settle a batch of which no message is locked, part by part: what hangs on some may be."""
        parts = self._parts_of(batch)
        if len(parts) == 1:
            [hanging] = parts
            if hanging == NOTHING:
                # The lock is gone already, or the table is locked against writes, as by CREATE
                # INDEX.
                self._wait_for_table(batch, error, group)
                return
            seconds = self._lock_waits.note_locked(hanging, time.monotonic())
            _log.warning(
                "settlements wait for a lock on what hangs on their jobs",
                queue=self._queue.name,
                settlements=len(batch),
                group=hanging.group_id,
                follow_ups_to=hanging.queues,
                key=hanging.key,
                error=str(error),
            )
            self._put_off(batch, seconds, group)
            return
        left = list(parts.values())
        locked_in_a_row = 0
        while left and locked_in_a_row < MAX_LOCKED_PARTS:
            part = left.pop(0)
            locked_in_a_row = 0 if await self._settle(part, group) else locked_in_a_row + 1
            if locked_in_a_row and part is parts.get(NOTHING):
                break  # then it is the table
        if left:
            self._put_off([held for part in left for held in part], LOCKED_RETRY_SECONDS, group)

    def _parts_of(self, batch: Sequence[HeldJob]) -> dict[Hanging, list[HeldJob]]:
        config = self._queue.config
        return parts_of(batch, with_keys=config.has_breakers or config.on_dead_letter == "block")

    def _wait_for_table(
        self, batch: Sequence[HeldJob], error: DatabaseError, group: asyncio.TaskGroup
    ) -> None:
        _log.warning(
            "settlements wait for a lock",
            queue=self._queue.name,
            settlements=len(batch),
            error=str(error),
        )
        self._put_off_locked(batch, group)

    def _leave_result_out(self, held: HeldJob, error: DatabaseError) -> None:
        """Record a job without its result, which may be what the database refuses: it is done."""
        held.settlement = held.settlement._replace(
            result=None,
            error_type=RESULT_REFUSED,
            error_message=storable_text(
                f"the database does not take the result: {error}", MAX_ERROR_MESSAGE_LENGTH
            ),
        )
        fields = _fields_of(self._queue.name, held.settlement)
        _log.error("result not kept", **fields, error=str(error))

    def _fail_for_follow_ups(self, held: HeldJob, error: DatabaseError) -> None:
        """Let a job fail whose follow-ups are refused: it has not done what it was to do."""
        queue, settlement = self._queue, held.settlement
        failure = FollowUpRefusedError(f"a job that follows was refused: {error}")
        end = verdict(
            failure,
            attempt=settlement.attempt,
            settings=queue.config,
            jitter_fraction=random.random(),  # noqa: S311 - jitter, not a secret
            own=held.own_policy,
        )
        held.settlement = settlement._replace(
            outcome=end.outcome,
            delay_seconds=end.delay_seconds,
            error_type=end.error_type,
            error_message=end.error_message,
            error_stack=end.error_stack,
            has_links=True,
            follow_ups=(),
        )
        held.is_failure = end.is_failure
        fields = _fields_of(queue.name, held.settlement)
        _log.error("the jobs that follow were refused", **fields, error=str(error))

    def _put_off(self, batch: Sequence[HeldJob], seconds: float, group: asyncio.TaskGroup) -> None:
        self._ended.put_off(batch)

        async def put_again() -> None:
            await asyncio.sleep(seconds)
            self._ended.put_again(batch)

        group.create_task(put_again(), name="meshhook-settle-again")

    def _put_off_locked(self, batch: Sequence[HeldJob], group: asyncio.TaskGroup) -> None:
        self._ended.put_off(batch)
        group.create_task(self._put_unlocked_again(batch), name="meshhook-settle-again")

    async def _put_unlocked_again(self, batch: Sequence[HeldJob]) -> None:
        """Try outcomes again once nobody has locked their messages, so as to hold up no batch."""
        while batch:
            await asyncio.sleep(LOCKED_RETRY_SECONDS)
            try:
                locked = await self._find_locked(batch)
            except DatabaseError:
                continue
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
                limit = queue.config.max_retries_per_second
                budget = None if limit is None else RetryBudget()
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
                            keeps_bodies=queue.config.keeps_bodies,
                            budget=budget,
                        )
                except UncertainCommitError:
                    is_uncertain = True
                    raise
                recorded |= {rest[i]: settlements[rest[i]].outcome for i in positions}
                if breakers is not None:
                    self._keys.note_changes(breakers.changes)
                if budget is not None:
                    queue.metrics.retries_delayed(budget.delayed)
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
