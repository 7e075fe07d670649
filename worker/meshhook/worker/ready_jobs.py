"""The jobs of one queue that are ready to start, and the slots and the room that there are."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from meshhook.worker.batch_starts import BatchStarts
from meshhook.worker.fair_turns import FairTurns
from meshhook.worker.held_job import CLAIMED, RUNNING, HeldJob, IllegalMoveError
from meshhook.worker.parked_slots import ParkedSlots
from meshhook.worker.priority_turns import PriorityTurns
from meshhook.worker.running_jobs import RunningJobs
from meshhook.worker.unread_jobs import UnreadJobs
from meshhook.worker.urgent_load import slots_to_keep

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook.jobs import JobKey
    from meshhook.worker.batch_options import BatchOptions
    from meshhook.worker.priority_turns import PriorityPlace
    from meshhook.worker.slot_shares import Share


class ReadyJobs:
    """The jobs of one queue that wait for a slot, those that have one, and the room for more.

    It is the part of `HeldJobs` that starts jobs. Call it only in the worker's event loop.
    """

    def __init__(self, share: Share, batch: BatchOptions | None = None) -> None:
        """Take the queue's share of the worker's slots.

        `batch` is given if the handler runs several jobs in one slot. Default: one job a slot.
        """
        self.share = share
        self._slot_jobs = 1 if batch is None else batch.jobs
        self._batches = None if batch is None else BatchStarts(batch, self.look_again)
        share.user = self
        self.running = RunningJobs()
        """Jobs that have a slot."""
        self.waiting: deque[HeldJob] | FairTurns | PriorityTurns = deque()
        """Jobs that wait for a slot."""
        self.turns: FairTurns | PriorityTurns | None = None
        """The same while the queue is keyed or has priorities, else None."""
        self._bands: PriorityTurns | None = None
        """The same while the queue has priorities, else None."""
        self._kept_slots = 0
        """How many slots urgent jobs have or find free, while the queue has priorities."""
        self.unread = UnreadJobs()
        """Jobs whose message must be read before they can start."""
        self.slots = ParkedSlots(share.concurrency)
        """Slots that wait for a job."""
        self._room_mark = 0
        self._is_room_awaited = False
        self._is_urgent_room_awaited = False
        self._has_room = asyncio.Event()
        self.is_idle = asyncio.Event()
        """Set while no job is queued or runs."""
        self.is_idle.set()

    # Answers.

    @property
    def unstarted(self) -> int:
        """How many claimed jobs wait for a slot. The first 100 unread ones do not count."""
        return len(self.waiting) + self.unread.claimed_ahead

    @property
    def free(self) -> int:
        """How many jobs could start now, if they are not urgent."""
        free = self.share.free
        if self._bands is not None:
            running_urgent = -(-self._bands.running_urgent // self._slot_jobs)
            free = max(free - max(self._kept_slots - running_urgent, 0), 0)
        return free * self._slot_jobs

    @property
    def free_for_urgent(self) -> int:
        """How many more urgent jobs could start before others that wait; 0 without priorities.

        An urgent job takes a free slot, or the next one that another job would start in.
        """
        if self._bands is None:
            return 0
        waiting, urgent = len(self._bands), self._bands.urgent
        return max(self.share.free * self._slot_jobs + waiting - 2 * urgent, 0)

    @property
    def capacity(self) -> int:
        """How many jobs can run at once, if the queue has all slots."""
        return self.share.concurrency * self._slot_jobs

    @property
    def wanted_slots(self) -> int:
        """How many more slots the unstarted jobs could use."""
        return -(-self.unstarted // self._slot_jobs)

    @property
    def taken_slots(self) -> int:
        """How many slots are taken, by running jobs and by threads that were given up."""
        return self.running.taken_slots

    # For the producer.

    def start_in_turn(self, *, has_keys: bool, has_priorities: bool) -> None:
        """Start jobs in fair shares, or the most urgent first, or in the order of their claims."""
        kind = FairTurns if has_keys else PriorityTurns if has_priorities else None
        if kind is (None if self.turns is None else type(self.turns)):
            return
        waiting = list(self.waiting)
        self.turns = None if kind is None else kind()
        self._bands = self.turns if isinstance(self.turns, PriorityTurns) else None
        self.waiting = deque() if self.turns is None else self.turns
        for held in waiting:
            self.waiting.append(held)

    def note_places(self, places: Mapping[JobKey, PriorityPlace]) -> None:
        """Note the places of jobs that were just claimed, if the queue has priorities."""
        if self._bands is not None:
            self._bands.note_claim(places.values())

    def keep_slots(self, urgent_slots: int) -> None:
        """Keep at least so many slots for urgent jobs, if the queue has priorities."""
        if self._bands is not None:
            before, self._kept_slots = (
                self._kept_slots,
                slots_to_keep(
                    self._bands.average_urgent / self._slot_jobs,
                    least=urgent_slots,
                    slots=self.share.concurrency,
                    is_late=self._bands.has_aged,
                ),
            )
            if self._kept_slots < before:
                self.look_again()

    async def wait_for_room(self, mark: int, *, for_urgent: bool = False) -> None:
        """Wait until a slot is free, or until no more than `mark` jobs wait for one.

        Args:
            mark: how many jobs may wait.
            for_urgent: whether a slot that is kept for urgent jobs is enough. Default false.
        """
        self._room_mark = mark
        self._is_urgent_room_awaited = for_urgent
        self._is_room_awaited = True
        self._has_room.clear()
        await self._has_room.wait()

    def end_wait_for_room(self) -> None:
        """End `wait_for_room`, whether there is room or not."""
        self._is_room_awaited = False
        self._has_room.set()

    # For the executor.

    @property
    def may_start(self) -> bool:
        """Whether a job waits and has a slot to start in."""
        if not self.waiting or not self.share.may_start:
            return False
        return self._bands is None or self._bands.urgent > 0 or self.free > 0

    @property
    def _is_only_urgent(self) -> bool:
        """Whether the slot of the job that starts next is one that is kept for urgent jobs.

        If no urgent job waits it is not, or none could start: see `may_start`.
        """
        return self._bands is not None and self._bands.urgent > 0 and not self.free

    @property
    def may_start_batch(self) -> bool:
        """Whether a batch is due and has a slot to start in."""
        return self.startable > 0 and self.may_start

    @property
    def ready(self) -> int:
        """How many jobs wait for a slot. Their messages are read."""
        return len(self.waiting)

    @property
    def startable(self) -> int:
        """How many slots the jobs that wait for one could use now."""
        if self._batches is None or not self.waiting:
            return len(self.waiting)
        return self._batches.due(self.waiting, self._next)

    @property
    def first_ready(self) -> HeldJob | None:
        """The job that starts next, if one can start once there is a slot."""
        return self._next if self.startable else None

    @property
    def _next(self) -> HeldJob:
        return self.waiting[0] if isinstance(self.waiting, deque) else self.waiting.first

    def start_next(self) -> HeldJob:
        """Start the job whose turn it is: CLAIMED to RUNNING.

        It is the one that has waited longest, or whose key or band has its turn.
        """
        return self._start(only_urgent=self._is_only_urgent)

    def start_batch(self) -> list[HeldJob]:
        """Start the jobs whose turn it is, as many as a batch has: CLAIMED to RUNNING.

        They have one slot. A job whose earlier attempt was lost starts alone.
        """
        if self._bands is None and isinstance(self.waiting, deque):
            return self._start_first(self.waiting)
        bands = self._bands
        only_urgent = self._is_only_urgent
        batch = [self._start(only_urgent=only_urgent)]
        companions, is_alone = self.running.companions, batch[0].job.lost_attempts > 0
        while len(batch) < self._slot_jobs and self.waiting and not is_alone:
            has_more = bands is None or not only_urgent or bands.urgent > 0
            if not has_more or self._next.job.lost_attempts:
                break
            held = self._start(only_urgent=only_urgent)
            companions.add(held.key)
            batch.append(held)
        return batch

    def _start_first(self, waiting: deque[HeldJob]) -> list[HeldJob]:
        """Start the batch whose jobs have waited longest, at a low price for each."""
        batch = [waiting.popleft()]
        if not batch[0].job.lost_attempts:
            most = self._slot_jobs
            while waiting and len(batch) < most and not waiting[0].job.lost_attempts:
                batch.append(waiting.popleft())
        jobs = self.running.jobs
        for held in batch:
            if held.state is not CLAIMED:
                raise IllegalMoveError(held, RUNNING)
            held.state = RUNNING
            jobs[held.key] = held
        self.running.companions.update([held.key for held in batch[1:]])
        return batch

    def _start(self, *, only_urgent: bool) -> HeldJob:
        if self._bands is None:
            held = self.waiting.popleft()
        else:
            held = self._bands.popleft(only_urgent=only_urgent)
        if held.state is not CLAIMED:
            raise IllegalMoveError(held, RUNNING)
        held.state = RUNNING
        self.running.jobs[held.key] = held
        return held

    def slot_freed(self) -> None:
        """Note that a slot is free again."""
        if self._is_room_awaited:
            self.update_room()
        self.share.freed()

    def thread_ended(self, keys: Sequence[JobKey]) -> None:
        """Free the slot of jobs whose thread was given up and has now ended."""
        self.running.thread_ended(keys)
        self.slot_freed()
        self.look_again()

    @property
    def waits_for_slots(self) -> bool:
        """Whether it could use a slot that another queue leaves."""
        return self._is_room_awaited or (
            bool(self.waiting) and self.running.slots < self.share.concurrency
        )

    def wake_for_queued(self) -> None:
        """Wake a slot for jobs that were just added, and the producer if there is room for more.

        One slot runs all jobs that never wait. When one of them waits, it calls `wake_for_more`.
        """
        self.slots.wake(min(self.startable, 1))
        self.update_room()

    def wake_for_more(self) -> None:
        """Wake slots if more jobs can start while those of a slot wait.

        Two, which wake two more in turn: soon all run, but few wake in vain if the jobs run out.
        """
        if self.may_start:
            self.slots.wake(min(self.startable, 2))

    def look_again(self) -> None:
        """Wake slots for jobs that can start now, and the producer if there is room for more."""
        if self.waiting:
            # A slot that is kept for urgent jobs waits on if none is ready.
            self.slots.wake(min(self.startable, self.share.free))
        self.update_room()

    def start_gathered(self) -> None:
        """Let jobs start that wait until their batch is full: something waits for their end."""
        if self._batches is not None:
            self._batches.hurry()

    async def wait_idle(self) -> None:
        """Wait until no job is queued or runs."""
        await self.is_idle.wait()

    def update_room(self) -> None:
        """End a wait for room if there is room."""
        waiting = len(self.waiting)
        if self._is_room_awaited and (
            waiting <= self._room_mark
            or (waiting < self.capacity and self.free > waiting)
            or (self._is_urgent_room_awaited and self.free_for_urgent)
        ):
            self.end_wait_for_room()

    def update_idle(self) -> None:
        """End a wait for idleness if nothing is queued or runs."""
        if not self.running.jobs and not self.waiting and not self.unread.jobs:
            self.is_idle.set()
