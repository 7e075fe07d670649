"""The jobs of one queue that a worker holds: where each is found, and the only place it moves.

A job moves like this::

    CLAIMED ──> RUNNING ──> ENDED ──> SETTLED
       │           │          │
       └───────────┴──────────┴─────> RELEASED or LOST

The producer claims, the executor runs, the completer settles, and the lease keeper extends leases.
Each takes jobs from here and gives them back here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.worker.attempt import Abort
from meshhook.worker.ended_jobs import EndedJobs
from meshhook.worker.held_job import (
    CLAIMED,
    ENDED,
    LOST,
    RELEASED,
    RUNNING,
    SETTLED,
    HeldJob,
    IllegalMoveError,
    JobState,
)
from meshhook.worker.leases import LeaseTable
from meshhook.worker.ready_jobs import ReadyJobs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from opentelemetry.trace import SpanContext

    from meshhook.cancellation import Cancellation
    from meshhook.jobs import Job, JobKey
    from meshhook.store.claims import KeyShare
    from meshhook.store.settlements import Settlement
    from meshhook.worker.batch_options import BatchOptions
    from meshhook.worker.leases import Lease
    from meshhook.worker.priority_turns import PriorityPlace
    from meshhook.worker.slot_shares import Share

_log = get_logger("meshhook.worker.held_jobs")


class NewlyClaimed(NamedTuple):
    """What is to be done with newly claimed jobs."""

    to_start: list[HeldJob]
    """Those to pass to `queue`."""
    to_release: list[HeldJob]
    """Those to give back for now: an earlier attempt in this process is still being stopped."""


class HeldJobs(ReadyJobs):
    """The jobs of one queue that a worker holds.

    `ReadyJobs` is the part that starts them. Call it only in the worker's event loop, except where
    a docstring says otherwise.
    """

    def __init__(self, share: Share, batch: BatchOptions | None = None) -> None:
        """Take the queue's share of the worker's slots.

        `batch` is given if the handler runs several jobs in one slot. Default: one job a slot.
        """
        super().__init__(share, batch)
        self.ended = EndedJobs()
        """Jobs whose outcome is not recorded yet."""
        self.cannot_be_extended = False
        """Whether leases could not be extended lately. A job claimed now might then run twice."""
        self.cancellations: Mapping[JobKey, Cancellation] = {}
        """The open requests to cancel jobs of the queue, held here or not."""
        self.leases = LeaseTable()
        """All held jobs by key, with their leases."""

    @property
    def unsettled(self) -> int:
        """How many outcomes are not recorded yet."""
        return len(self.ended)

    # For the producer.

    def claim(
        self,
        jobs: Iterable[Job[Any]],
        asked_at: float,
        claimed_at: float,
        shares: Mapping[JobKey, KeyShare] | None = None,
        places: Mapping[JobKey, PriorityPlace] | None = None,
    ) -> NewlyClaimed:
        """Add jobs that were just claimed.

        A job that this process still holds continues under its new lease, whether it waits, runs or
        has ended. If its attempt is being stopped, it must not run here a second time: the new
        claim is to be released.

        Args:
            jobs: what was claimed.
            asked_at: when the database was asked for the leases.
            claimed_at: when it answered.
            shares: the keys of the messages, to start jobs in fair shares. Default: in the order
                in which they were claimed.
            places: the places of the messages in a queue with priorities, to start the most urgent
                first. Default: the same.
        """
        self.start_in_turn(has_keys=shares is not None, has_priorities=places is not None)
        all_jobs, running, given_up = self.leases.jobs, self.running.jobs, self.running.given_up
        to_start: list[HeldJob] = []
        to_release: list[HeldJob] = []
        with self.leases.lock:
            for job in jobs:
                key = job.key
                if key in all_jobs or key in given_up:
                    earlier = all_jobs.get(key)
                    if earlier is not None and earlier.take_up_again(job, asked_at):
                        continue
                    if key in running or key in given_up:
                        to_release.append(HeldJob(job, asked_at, claimed_at))
                        continue
                all_jobs[key] = held = HeldJob(job, asked_at, claimed_at)
                to_start.append(held)
        if shares is not None:
            for held in to_start:
                held.share = shares.get(held.key)
        if places is not None:
            self.note_places(places)
            _give_places(to_start, places)
        if self.cancellations:
            for held in to_start:
                held.job.cancellation = self.cancellations.get(held.key)
        return NewlyClaimed(to_start, to_release)

    def queue(self, jobs: Iterable[HeldJob]) -> None:
        """Let claimed jobs start as slots become free and their messages are read."""
        for held in jobs:
            if held.state is not CLAIMED:
                continue  # its lease was lost while it waited to run apart
            if held.job.body:
                self.waiting.append(held)
            else:
                self.unread.put(held)
            self.is_idle.clear()
        self.wake_for_queued()

    # For the executor.

    def end(
        self,
        held: HeldJob,
        settlement: Settlement,
        ended_at: float,
        was_completed: bool = False,  # noqa: FBT001, FBT002 - by position, for every job
        span: SpanContext | None = None,
    ) -> None:
        """Record how a job ended: RUNNING to ENDED, or CLAIMED to ENDED if it was refused unread.

        Args:
            held: the job.
            settlement: how it ended.
            ended_at: when, by the monotonic clock.
            was_completed: whether its handler settled it in a transaction. Default false.
            span: the span of the attempt. Default: none.
        """
        if held.state is not RUNNING and held.state is not CLAIMED:
            raise IllegalMoveError(held, ENDED)
        held.state = ENDED
        held.settlement = settlement
        held.ended_at = ended_at
        held.was_completed = was_completed
        held.span = span
        held.attempt = None
        del held.job
        self.ended.put(held)
        self._leave(held)

    def end_batch(
        self,
        jobs: Sequence[HeldJob],
        settlements: Iterable[Settlement],
        ended_at: float,
        span: SpanContext | None = None,
    ) -> None:
        """Record how jobs ended whose handler settled none of them: each RUNNING to ENDED.

        Args:
            jobs: the jobs.
            settlements: how each ended, in their order.
            ended_at: when, by the monotonic clock.
            span: the span of their attempts. Default: none.
        """
        for held in jobs:
            if held.state is not RUNNING:
                raise IllegalMoveError(held, ENDED)
        for held, settlement in zip(jobs, settlements, strict=True):
            held.state = ENDED
            held.settlement = settlement
            held.ended_at = ended_at
            held.was_completed = False
            held.span = span
            held.attempt = None
            del held.job
        self.ended.put_all(jobs)
        self.running.leave_all(jobs)
        if self.turns is not None:
            for held in jobs:
                self.turns.leave(held)
        if self.unread.sizes:
            for held in jobs:
                self.unread.free_memory(held.key)
        self.update_idle()

    def stopped(self, held: HeldJob) -> None:
        """Drop a job that was stopped because its lease was lost: RUNNING to LOST."""
        if held.state is not RUNNING:
            raise IllegalMoveError(held, LOST)
        self._drop(held, LOST)
        self._leave(held)

    def cut_off(self, held: HeldJob) -> None:
        """Note that a running job lost its slot. It must then be ended or released."""
        self.running.cut_off.append(held)
        self._leave(held)

    # For the message reader.

    def was_read(self, held: HeldJob) -> None:
        """Let a job start whose message was read."""
        self.unread.jobs.remove(held)
        self.unread.sizes[held.key] = len(held.job.body)
        self.queue([held])

    def end_unread(self, held: HeldJob, settlement: Settlement) -> None:
        """End a job whose message cannot be read: CLAIMED to ENDED."""
        self.unread.jobs.remove(held)
        self.end(held, settlement, time.monotonic())
        self.update_room()

    def unread_lost(self, held: HeldJob) -> None:
        """Drop a job whose message now belongs to another worker: CLAIMED to LOST."""
        self.unread.jobs.remove(held)
        self._drop(held, LOST)
        self._leave(held)
        self.update_room()

    # For the completer.

    def settle(self, recorded: Sequence[HeldJob], lost: Sequence[HeldJob]) -> None:
        """Note which outcomes were recorded: ENDED to SETTLED, or to LOST if the lease was lost."""
        for batch, state in ((recorded, SETTLED), (lost, LOST)):
            for held in batch:
                if held.state is not ENDED:
                    raise IllegalMoveError(held, state)
                held.state = state
            self.leases.remove(batch)

    # For the releaser.

    def take_unstarted(self) -> list[HeldJob]:
        """Remove all jobs from the queue that have not started. They must then be released."""
        jobs = [*self.waiting, *self.unread.jobs]
        self.forget_unstarted()
        self.update_idle()
        return jobs

    def forget_unstarted(self) -> None:
        """Forget all jobs that have not started, in a forked process: they belong to its parent."""
        self.waiting.clear()
        self.unread.jobs.clear()

    def release(self, jobs: Iterable[HeldJob]) -> None:
        """Drop jobs whose leases are given back: CLAIMED or RUNNING to RELEASED."""
        for held in jobs:
            if held.state is not CLAIMED and held.state is not RUNNING:
                raise IllegalMoveError(held, RELEASED)
            self._drop(held, RELEASED)
            self._leave(held)

    def release_leases(self, jobs: Iterable[HeldJob]) -> None:
        """Note that the leases of running jobs that ignore being stopped are given back."""
        self.leases.end(jobs)

    # For the watcher of cancellations.

    def cancel(self, requests: Mapping[JobKey, Cancellation]) -> int:
        """Note the open requests, and stop running jobs that they are for.

        A job that has not started is refused when it starts. One that has ended has its outcome.

        Returns:
            How many of the jobs are held here.
        """
        self.cancellations = requests
        count = 0
        for key, cancellation in requests.items():
            held = self.leases.jobs.get(key)
            if held is None:
                continue
            count += 1
            if held.state is CLAIMED:
                held.job.cancellation = cancellation
            elif held.attempt is not None and self.running.jobs.get(key) is held:
                held.attempt.cancel(cancellation)
        return count

    # For the lease keeper.

    def leases_lost(self, leases: Iterable[Lease]) -> int:
        """Handle leases that the database reports as lost. Returns how many jobs are affected.

        A job that has not started moves from CLAIMED to LOST. A running job is stopped first and
        moves when its attempt ends. A job that has ended, or that its handler has completed, is not
        affected: its message may be gone because it is done, and settling finds out.
        """
        count = 0
        for held, read_ct in leases:
            if held.read_ct != read_ct or not held.has_lease:
                continue  # claimed again since, or given back
            self.leases.end([held])
            if held.state is CLAIMED:
                self._remove_unstarted(held)
                self._drop(held, LOST)
                self._leave(held)
                count += 1
            elif self.running.jobs.get(held.key) is held:
                attempt = held.attempt
                if attempt is not None and not attempt.was_completed:
                    _log.warning("lease lost", **fields_of(held.job))
                    attempt.stop(Abort.LEASE_LOST)
                    count += 1
        return count

    def leases_expired(self, leases: Iterable[Lease]) -> None:
        """Tell jobs that their lease ended while the database could not be asked to extend it.

        They continue. Unless another worker claims them in the meantime, this worker takes the
        leases up again when the database is back.
        """
        for held, read_ct in leases:
            if held.state is not CLAIMED and held.state is not RUNNING:
                continue
            if held.read_ct == read_ct and not held.job.lease_expired:
                held.job.lease_expired = True
                _log.warning(
                    "lease not extended in time: others may run the job", **fields_of(held.job)
                )

    def _remove_unstarted(self, held: HeldJob) -> None:
        # A job that waits to run apart is in neither.
        for queued in (self.waiting, self.unread.jobs):
            if held in queued:
                queued.remove(held)

    def _drop(self, held: HeldJob, state: JobState) -> None:
        held.state = state
        self.leases.end([held])
        self.leases.remove([held])

    def _leave(self, held: HeldJob) -> None:
        self.running.leave(held)
        if self.turns is not None:
            self.turns.leave(held)
        if self.unread.sizes:
            self.unread.free_memory(held.key)
        # Inlined `update_idle`: this runs for every job.
        if not self.running.jobs and not self.waiting and not self.unread.jobs:
            self.is_idle.set()


def _give_places(jobs: Iterable[HeldJob], places: Mapping[JobKey, PriorityPlace]) -> None:
    for held in jobs:
        held.place = places.get(held.key)
