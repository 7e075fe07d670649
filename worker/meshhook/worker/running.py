"""Running jobs: a fixed number of slots that take claimed jobs and hand over how they ended."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.worker.attempting import Attempter
from meshhook.worker.attempts import Abort, is_meant_for_slot
from meshhook.worker.forks import end_forked
from meshhook.worker.handler_threads import HandlerThreads
from meshhook.worker.loop_turns import LoopTurns
from meshhook.worker.unread_jobs import MAX_WAITING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from meshhook.jobs import Job, JobKey
    from meshhook.observability.loops import WatchedLoop
    from meshhook.observability.tracing import AttemptTracer
    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.queue_config import QueueSettings
    from meshhook.store import queries
    from meshhook.worker.handlers import JobHandler
    from meshhook.worker.leases import Lease, LeaseTable
    from meshhook.worker.settling import PendingSettlement
    from meshhook.worker.slots import Share
    from meshhook.worker.unread_jobs import UnreadJobs

_log = get_logger("meshhook.worker.running")

CANCEL_SECONDS = 1.0
WATCH_SECONDS = 1.0
UNENDED_DELAY_SECONDS = 30.0


class Runner:
    """Runs claimed jobs in `concurrency` slots.

    `put` hands jobs over; `run` works until cancelled. How each job ends goes to `on_ended`, or
    to `on_released` where the attempt is to be given back.
    """

    def __init__(
        self,
        *,
        handler: JobHandler[Any],
        concurrency: int,
        tables: queries.QueueTables,
        worker_name: str,
        settings: Callable[[], QueueSettings],
        leases: LeaseTable,
        metrics: WorkerMetrics,
        tracer: AttemptTracer | None,
        on_ended: Callable[[PendingSettlement], None],
        on_released: Callable[[list[Job[Any]], float], None],
        take_up_outcome: Callable[[Job[Any]], bool],
        unread: UnreadJobs,
        loop: WatchedLoop,
        share: Share | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._queue_name = tables.queue_name
        self._share = share
        """The queue's share of the worker's slots; None where it is the only queue."""
        self.has_room = asyncio.Event()
        """Set whenever a slot is free or little work is left unstarted."""
        self.room_mark = 0
        """How little unstarted work makes room."""
        self._settings = settings
        self._on_released = on_released
        self._take_up_outcome = take_up_outcome
        """Says whether a claimed job has ended here already and waits to be recorded."""
        self._unstarted: deque[tuple[Job[Any], float]] = deque()
        self._unread = unread
        """Jobs that are to become unstarted ones, once their message is read."""
        unread.on_read = self._put_read
        unread.on_refused = self._update_all
        self._slots: list[asyncio.Task[None]] = []
        self._slots_made = 0
        self._is_forked = False
        self._idle_slots: deque[asyncio.Future[None]] = deque()
        self._context: contextvars.Context | None = None
        """What the slots run in; None: none may be opened."""
        self._cut_off: list[Job[Any]] = []
        """Jobs that ran when their slot was stopped."""
        self._metrics = metrics
        self._loop = loop
        self._failure: asyncio.Future[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._threads = (
            None if handler.is_async else HandlerThreads(concurrency, on_end=self._thread_ended)
        )
        self._is_limited = share is not None or self._threads is not None
        """Whether an idle slot may have to wait all the same; every start of a job asks."""
        self._turns = LoopTurns()
        self._attempter = Attempter(
            handler=handler,
            threads=self._threads,
            tables=tables,
            worker_name=worker_name,
            settings=settings,
            metrics=metrics,
            tracer=tracer,
            on_ended=on_ended,
            on_released=on_released,
        )
        self._running = self._attempter.running
        leases.running = self._running

    @property
    def unstarted(self) -> int:
        """How many claimed jobs have not started; a number that are read first is left out."""
        return len(self._unstarted) + max(0, len(self._unread) - MAX_WAITING)

    @property
    def running(self) -> int:
        """How many jobs run."""
        return len(self._running)

    @property
    def finished(self) -> int:
        """How many attempts have ended since the start."""
        return self._attempter.finished

    @property
    def busy_seconds(self) -> float:
        """How long jobs have run since the start, added up, those that still run included."""
        now = time.monotonic()
        return self._attempter.finished_seconds + sum(
            now - each.began_at for each in self._running.values()
        )

    @property
    def longest_run_seconds(self) -> float:
        """How long the job has run that has run longest; 0 if none runs."""
        now = time.monotonic()
        return max((now - each.began_at for each in self._running.values()), default=0.0)

    @property
    def taken_slots(self) -> int:
        """How many slots are taken: by jobs that run, and by threads that were given up."""
        return len(self._running) + len(self._given_up)

    @property
    def free_slots(self) -> int:
        """How many jobs could start at once."""
        if self._share is not None:
            return self._share.free
        return self.concurrency - self.taken_slots

    @property
    def utilisation(self) -> float:
        """The share of the worker's slots, those of all its queues, that are taken, 0 to 1."""
        free = self.free_slots if self._share is None else self._share.unused
        return 1 - max(0, free) / self.concurrency

    @property
    def is_stuck(self) -> bool:
        """Whether a job still runs after it was given up: a thread, or one that takes no notice."""
        return bool(self.taken_slots)

    @property
    def _given_up(self) -> Collection[JobKey]:
        return () if self._threads is None else self._threads.given_up

    def adopt(self, jobs: Iterable[Job[Any]]) -> list[Job[Any]]:
        """Deal with claimed jobs that this process still has, and return the others.

        Where an attempt is under way whose lease ran out, it goes on under the new lease. Where
        one is being stopped, the job is given back for a moment: two must not run at once.
        """
        others: list[Job[Any]] = []
        for job in jobs:
            running = self._running.get(job.key)
            held = None if running is None else running.job
            if held is None and job.lost_attempts:
                # Its last lease ran out, perhaps here.
                held = self._unstarted_job(job.key)
            if held is not None and (running is None or running.abort is None):
                _log.warning("lease taken up again", **fields_of(job))
                held.read_ct, held.attempt = job.read_ct, job.attempt
                held.lost_attempts, held.lease_expired = job.lost_attempts, False
            elif running is not None or job.key in self._given_up:
                delay_seconds = self._settings().retry_strategy().get_delay_seconds(1)
                self._on_released([job], max(delay_seconds, 1.0))
            elif job.lost_attempts and self._take_up_outcome(job):
                _log.warning("lease taken up again for an outcome", **fields_of(job))
            else:
                others.append(job)
        return others

    def put(self, jobs: Iterable[Job[Any]], claimed_at: float) -> None:
        """Take claimed jobs; `claimed_at` is when, by the monotonic clock."""
        for job in jobs:
            if job.body:
                self._unstarted.append((job, claimed_at))
            else:
                self._unread.put(job, claimed_at)
            self._idle.clear()
        for _ in range(len(self._unstarted)):
            if not self._wake_slot():
                break
        self._update_room()

    def _put_read(self, job: Job[Any], claimed_at: float) -> None:
        self.put([job], claimed_at)

    @property
    def waits_for_slots(self) -> bool:
        """Whether it could do something with a slot that another queue of the worker leaves."""
        return not self.has_room.is_set() or bool(self._unstarted and self._has_spare_slot)

    def look_again(self) -> None:
        """Start what may start now: another queue of the worker has left a slot."""
        if self._unstarted and self._has_spare_slot:
            for _ in range(min(len(self._unstarted), self.free_slots)):
                if not self._wake_slot():
                    break
        self._update_room()

    def give_back(self, jobs: list[Job[Any]], delay_seconds: float = 0.0) -> None:
        """Give jobs back that were claimed and are not to run here, ready after a delay."""
        self._on_released(jobs, delay_seconds)

    def take_unstarted(self) -> list[Job[Any]]:
        """Take back every job that has not started."""
        jobs = [*(job for job, _ in self._unstarted), *self._unread.take_all()]
        self._unstarted.clear()
        self._update_idle()
        return jobs

    def holds(self, lease: Lease) -> bool:
        """Say whether a job needs its lease: it runs or waits for its start.

        One that has ended does neither, and one that was completed has nothing more to lose.
        """
        running = self._running.get(lease.key)
        if running is not None and running.job.read_ct == lease.read_ct:
            return not running.was_completed
        unstarted = self._unstarted_job(lease.key)
        return unstarted is not None and unstarted.read_ct == lease.read_ct

    def lease_lost(self, lease: Lease) -> None:
        """Stop a job whose lease is lost: another worker may run it."""
        running = self._running.get(lease.key)
        if running is not None and running.job.read_ct == lease.read_ct:
            _log.warning("lease lost", **fields_of(running.job))
            running.stop(Abort.LEASE_LOST)
            return
        kept = [item for item in self._unstarted if item[0].key != lease.key]
        if len(kept) != len(self._unstarted):
            self._unstarted = deque(kept)
            self._unread.ended(lease.key)
            self._update_idle()
        elif self._unread.remove(lease.key):
            self._update_idle()

    def leases_expired(self, leases: Iterable[Lease]) -> None:
        """Tell jobs that their lease has ended while the database could not be asked to extend it.

        They go on: where nobody has claimed them meanwhile, and nobody can while the database is
        away from all, the lease is taken up again when it is back.
        """
        for lease in leases:
            running = self._running.get(lease.key)
            job = self._unstarted_job(lease.key) if running is None else running.job
            if job is not None and job.read_ct == lease.read_ct and not job.lease_expired:
                job.lease_expired = True
                _log.warning("lease not extended in time: others may run the job", **fields_of(job))

    async def wait_idle(self) -> None:
        """Wait until every job handed over has ended."""
        await self._idle.wait()

    def abort_all(self) -> None:
        """Stop every running job; each is given back."""
        for running in list(self._running.values()):
            running.stop(Abort.SHUTDOWN)

    def forked(self) -> None:
        """Start nothing more in this process, which a job has forked, and end it with the job."""
        self._is_forked = True
        self._unstarted.clear()
        self._unread.take_all()

    def take_held(self) -> list[Job[Any]]:
        """Take back every job that has not ended, also those whose slot was stopped under them."""
        jobs = [*self.take_unstarted(), *self.running_jobs(), *self._cut_off]
        self._cut_off.clear()
        return jobs

    def running_jobs(self) -> list[Job[Any]]:
        """Return the jobs that run; after `abort_all`, those that take no notice of it."""
        return [running.job for running in self._running.values()]

    async def run(self) -> None:
        """Run what is handed over, until cancelled.

        Not a TaskGroup: it would wait for ever for a handler that takes no notice.
        """
        self._context = contextvars.copy_context()
        self._failure = asyncio.get_running_loop().create_future()
        self._attempter.owner = asyncio.current_task()
        self.look_again()
        try:
            await self._watch(self._failure)
        finally:
            self._context = None
            self._attempter.owner = None
            for slot in self._slots:
                slot.cancel()
            if self._slots:
                await asyncio.wait(self._slots, timeout=CANCEL_SECONDS)
            if self._threads is not None:
                self._threads.shutdown()

    async def _watch(self, failure: asyncio.Future[None]) -> None:
        """Look once a second whether jobs are started, until a failure."""
        first: object = None
        while not failure.done():
            await asyncio.wait([failure], timeout=WATCH_SECONDS)
            before, first = first, self._unstarted[0] if self._unstarted else None
            if first is None or first is not before or self.free_slots <= 0:
                self._loop.turn()
            else:
                # It had a second, and a slot is free: nobody has woken it.
                self.look_again()
        failure.result()

    @property
    def _has_spare_slot(self) -> bool:
        return bool(self._idle_slots) or len(self._slots) < self.concurrency

    def _wake_slot(self) -> bool:
        while self._idle_slots:
            waiting = self._idle_slots.popleft()
            if not waiting.done():
                waiting.set_result(None)
                return True
        if self._context is None or len(self._slots) >= self.concurrency:
            return False
        # Not before it is needed: a worker of many queues has as many slots for each of them.
        slot = asyncio.create_task(
            self._slot(), name=f"meshhook-slot-{self._slots_made}", context=self._context.copy()
        )
        slot.add_done_callback(self._slot_ended)
        self._slots.append(slot)
        self._slots_made += 1
        return True

    def _slot_ended(self, slot: asyncio.Task[None]) -> None:
        """Take note of the end of a slot, and let another take its place."""
        self._slots.remove(slot)
        error = None if slot.cancelled() else slot.exception()
        owner = self._attempter.owner
        if owner is None or owner.cancelling() or self._failure is None or self._failure.done():
            return
        if isinstance(error, KeyboardInterrupt | SystemExit):
            self._failure.set_exception(error)
            return
        cut_off, self._cut_off = self._cut_off, []
        for job in cut_off:
            self._attempter.fail(job, GeneratorExit("somebody has closed its coroutine"))
        self._metrics.slot_replaced()
        _log.error(
            "a slot has ended; another takes its place",
            queue=self._queue_name,
            reason="its task was cancelled, by a handler or by what a handler has started"
            if error is None
            else "it failed",
            **({} if error is None else {"exc_info": error}),
        )
        self._slot_freed()
        self.look_again()

    async def _slot(self) -> None:
        loop = asyncio.get_running_loop()
        slot: Any = asyncio.current_task()
        turns, attempter = self._turns, self._attempter
        # A handler may have left a request to cancel the task, which would strike the next job.
        while not slot.cancelling() and not slot._must_cancel:  # noqa: SLF001 - there is no other
            while not self._unstarted or (self._is_limited and not self._may_start()):
                waiting = loop.create_future()
                self._idle_slots.append(waiting)
                await waiting
            if time.monotonic() >= turns.ends_at and not await turns.begin():
                continue
            # Of its own, so that what a handler sets does not reach the next one in this slot.
            context = contextvars.copy_context()
            job, claimed_at = self._unstarted.popleft()
            try:
                running = context.run(attempter.start, job, claimed_at, context)
                if running.under_way is not None:
                    running.ended = await attempter.rest(running, running.under_way)
                self._leave(job, running.ended)
                context.run(attempter.finish, running)
            except BaseException as error:
                self._leave(job, error)
                self._cut_short(job, error, slot)
                raise
            self._slot_freed()

    def _leave(self, job: Job[Any], ended: object) -> None:
        if self._is_forked:
            end_forked(ended)
        self._running.pop(job.key, None)
        if self._unread.held:
            self._unread.ended(job.key)
        # As in `_update_idle`: the call takes longer than what it does.
        if not self._unstarted and not self._running and not self._unread.waiting:
            self._idle.set()

    def _cut_short(self, job: Job[Any], error: BaseException, slot: asyncio.Task[Any]) -> None:
        """See to a job whose slot ends under it."""
        if is_meant_for_slot(error, slot, self._attempter.owner):
            self._cut_off.append(job)
            if isinstance(error, GeneratorExit):
                # Somebody has closed the coroutine, and its task would wait on for ever.
                with suppress(RuntimeError):  # or the event loop is closed
                    slot.cancel()
            return
        try:
            self._attempter.fail(job, error)
        except BaseException:
            self._on_released([job], UNENDED_DELAY_SECONDS)
            raise

    def _may_start(self) -> bool:
        if self._share is not None:
            return self._share.may_start
        # A thread that was given up has no slot, and keeps its place all the same.
        return self.free_slots > 0

    def _thread_ended(self) -> None:
        """Let a job start in the place of a thread that was given up."""
        self._slot_freed()
        self.look_again()

    def _slot_freed(self) -> None:
        self._update_room()
        if self._share is not None:
            self._share.freed()

    def _update_room(self) -> None:
        if not self.has_room.is_set() and (
            len(self._unstarted) <= self.room_mark
            or (len(self._unstarted) < self.concurrency and self.free_slots > len(self._unstarted))
        ):
            self.has_room.set()

    def _unstarted_job(self, key: JobKey) -> Job[Any] | None:
        found = next((job for job, _ in self._unstarted if job.key == key), None)
        return self._unread.find(key) if found is None else found

    def _update_all(self) -> None:
        self._update_idle()
        self._update_room()

    def _update_idle(self) -> None:
        if not self._unstarted and not self._running and not self._unread.waiting:
            self._idle.set()
