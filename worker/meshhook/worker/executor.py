"""The executor: runs held jobs in slots."""

from __future__ import annotations

import asyncio
import contextvars
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshhook.observability.loggers import get_logger
from meshhook.worker.attempt import Abort, is_meant_for_slot
from meshhook.worker.attempt_runner import AttemptRunner
from meshhook.worker.batch_runner import BatchRunner
from meshhook.worker.forks import end_forked
from meshhook.worker.handler_threads import HandlerThreads
from meshhook.worker.held_job import RUNNING

if TYPE_CHECKING:
    from meshhook.observability.loops import WatchedLoop
    from meshhook.observability.tracing import AttemptTracer
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.parked_slots import ParkedSlots
    from meshhook.worker.queue_context import QueueContext
    from meshhook.worker.releaser import Releaser

_log = get_logger("meshhook.worker.executor")

CANCEL_SECONDS = 1.0
WATCH_SECONDS = 1.0
UNENDED_DELAY_SECONDS = 30.0
TURN_SECONDS = 0.005
BATCHES_TURN_SECONDS = 0.001
"""The same for batches: as they take less of this process, the database waits for it sooner."""


class Executor:
    """Runs the held jobs of one queue in slots. `run` works until cancelled."""

    def __init__(
        self,
        *,
        queue: QueueContext,
        held_jobs: HeldJobs,
        releaser: Releaser,
        tracer: AttemptTracer | None,
        loop: WatchedLoop,
    ) -> None:
        """Take what it works with.

        Args:
            queue: the queue.
            held_jobs: the jobs to run.
            releaser: gives back jobs that cannot be ended.
            tracer: makes the spans of the attempts; None without tracing.
            loop: is told at every turn.
        """
        self._queue = queue
        self._held_jobs = held_jobs
        self._releaser = releaser
        self._loop = loop
        self._slots: list[asyncio.Task[None]] = []
        self._slots_made = 0
        self._is_forked = False
        self._context: contextvars.Context | None = None
        """The context of new slots; None while no slot may be opened."""
        self._failure: BaseException | None = None
        self._threads = (
            None
            if queue.handler.is_async
            else HandlerThreads(held_jobs.share.concurrency, held_jobs)
        )
        self._turns = LoopTurns(
            held_jobs.slots,
            TURN_SECONDS if queue.handler.batch is None else BATCHES_TURN_SECONDS,
        )
        parts: dict[str, Any] = {
            "queue": queue,
            "held_jobs": held_jobs,
            "releaser": releaser,
            "threads": self._threads,
            "tracer": tracer,
        }
        self._batches = None if queue.handler.batch is None else BatchRunner(**parts)
        self.attempts = AttemptRunner(**parts) if self._batches is None else self._batches

    async def run(self) -> None:
        """Run queued jobs until cancelled.

        Not a TaskGroup, which would wait for ever for a handler that ignores its cancellation.
        """
        self._context = contextvars.copy_context()
        self._failure = None
        self.attempts.owner = asyncio.current_task()
        self._held_jobs.look_again()
        try:
            await self._open_slots()
        finally:
            self._context = None
            self.attempts.owner = None
            for slot in self._slots:
                slot.cancel()
            if self._slots:
                await asyncio.wait(self._slots, timeout=CANCEL_SECONDS)
            if self._threads is not None:
                self._threads.shutdown()

    def stop_jobs(self) -> None:
        """Stop every running job at its next await. Each is then given back."""
        for held in list(self._held_jobs.running.jobs.values()):
            if held.attempt is not None:
                held.attempt.stop(Abort.SHUTDOWN)

    def forked(self) -> None:
        """Start no more jobs in this process, which a job has forked; it ends with that job."""
        self._is_forked = True
        self._held_jobs.forget_unstarted()

    async def _open_slots(self) -> None:
        """Open slots when wanted, and check once a second that jobs start, until a failure."""
        held_jobs, slots = self._held_jobs, self._held_jobs.slots
        first: object = None
        while self._failure is None:
            try:
                async with asyncio.timeout(WATCH_SECONDS):
                    await slots.are_wanted.wait()
            except TimeoutError:
                before, first = first, held_jobs.first_ready
                if first is None or first is not before or held_jobs.free <= 0:
                    self._loop.turn()
                else:
                    # It has waited a second although a slot is free: nothing has woken the slot.
                    held_jobs.look_again()
                continue
            slots.are_wanted.clear()
            for _ in range(min(held_jobs.startable, slots.most - slots.open)):
                self._open_slot()
        raise self._failure

    def _open_slot(self) -> None:
        if self._context is None:
            return
        batches = self._batches
        slot = asyncio.create_task(
            self._slot() if batches is None else self._batch_slot(batches),
            name=f"meshhook-slot-{self._slots_made}",
            context=self._context.copy(),
        )
        slot.add_done_callback(self._slot_ended)
        self._slots.append(slot)
        self._slots_made += 1
        self._held_jobs.slots.open += 1

    def _slot_ended(self, slot: asyncio.Task[None]) -> None:
        """Handle the end of a slot, and let another one take its place."""
        self._slots.remove(slot)
        held_jobs = self._held_jobs
        held_jobs.slots.open -= 1
        error = None if slot.cancelled() else slot.exception()
        owner = self.attempts.owner
        if owner is None or owner.cancelling() or self._failure is not None:
            return
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self._failure = error
            held_jobs.slots.are_wanted.set()
            return
        for held in held_jobs.running.take_cut_off():
            self.attempts.fail(held, GeneratorExit("its coroutine was closed from outside"))
        self._queue.metrics.slot_replaced()
        _log.error(
            "a slot has ended; another takes its place",
            queue=self._queue.name,
            reason="its task was cancelled, by a handler or by something that it started"
            if error is None
            else "it failed",
            **({} if error is None else {"exc_info": error}),
        )
        held_jobs.slot_freed()
        held_jobs.look_again()

    async def _slot(self) -> None:
        slot: Any = asyncio.current_task()
        turns, held_jobs, attempts = self._turns, self._held_jobs, self.attempts
        # A handler may have left a request to cancel this task, which would hit the next job.
        while not slot.cancelling() and not slot._must_cancel:  # noqa: SLF001 - there is no public way
            while not held_jobs.may_start:
                await held_jobs.slots.park()
            if time.monotonic() >= turns.ends_at and not await turns.begin():
                continue
            # A separate context, so that what a handler sets does not reach the next job in this
            # slot.
            context = contextvars.copy_context()
            held = held_jobs.start_next()
            try:
                attempt = context.run(attempts.start, held, context)
                if attempt.under_way is not None:
                    held_jobs.wake_for_more()
                    attempt.ended = await attempts.rest(attempt, attempt.under_way)
                if self._is_forked:
                    end_forked(attempt.ended)
                context.run(attempts.finish, held, attempt)
            except BaseException as error:
                if self._is_forked:
                    end_forked(error)
                self._cut_short(held, error, slot)
                raise
            held_jobs.slot_freed()

    async def _batch_slot(self, batches: BatchRunner) -> None:
        """Run batches, one after the other, as `_slot` runs jobs."""
        slot: Any = asyncio.current_task()
        turns, held_jobs = self._turns, self._held_jobs
        while not slot.cancelling() and not slot._must_cancel:  # noqa: SLF001 - there is no public way
            while not held_jobs.may_start_batch:
                await held_jobs.slots.park()
            if time.monotonic() >= turns.ends_at and not await turns.begin():
                continue
            context = contextvars.copy_context()
            jobs = held_jobs.start_batch()
            try:
                batch = context.run(batches.start_batch, jobs, context)
                if batch.under_way is not None:
                    held_jobs.wake_for_more()
                    batch.ended = await batches.rest(batch, batch.under_way)
                if self._is_forked:
                    end_forked(batch.ended)
                context.run(batches.finish_batch, batch)
            except BaseException as error:
                if self._is_forked:
                    end_forked(error)
                for held in jobs:
                    self._cut_short(held, error, slot)
                raise
            held_jobs.slot_freed()

    def _cut_short(self, held: HeldJob, error: BaseException, slot: asyncio.Task[Any]) -> None:
        """Handle a job whose slot ends while it runs."""
        if held.state is not RUNNING:
            return
        if is_meant_for_slot(error, slot, self.attempts.owner):
            self._held_jobs.cut_off(held)
            if isinstance(error, GeneratorExit):
                # The coroutine was closed from outside, and its task would wait for ever.
                with suppress(RuntimeError):  # or the event loop is closed
                    slot.cancel()
            return
        try:
            self.attempts.fail(held, error)
        except BaseException:
            self._releaser.release([held], UNENDED_DELAY_SECONDS)
            raise


class LoopTurns:
    """Gives all slots together a few milliseconds, then lets the event loop run everything else.

    Jobs that never wait would otherwise keep it from claiming, settling and handling signals.
    """

    def __init__(self, slots: ParkedSlots, seconds: float = TURN_SECONDS) -> None:
        """Take where slots wait, and how long a turn is, in seconds."""
        self._seconds = seconds
        self.ends_at = 0.0
        """When the slots' time is over, by the monotonic clock."""
        self._slots = slots
        self._has_loop_turned = True
        self._is_awaited = False

    async def begin(self) -> bool:
        """Begin a turn if the event loop has run since the last one; if not, wait: false.

        After the loop has run, one slot is woken, however many wait: if its jobs never wait, it
        uses the whole turn.
        """
        if not self._has_loop_turned:
            self._is_awaited = True
            await self._slots.park()
            return False
        self._has_loop_turned = False
        asyncio.get_running_loop().call_soon(self._loop_turned)
        self.ends_at = time.monotonic() + self._seconds
        return True

    def _loop_turned(self) -> None:
        self._has_loop_turned = True
        if self._is_awaited:
            self._is_awaited = False
            self._slots.wake(1)
