"""A batch under way: several jobs that one call of a handler runs, and the attempt of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.worker.attempt import Abort, Attempt, HandlerCall

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Sequence

    from meshhook.cancellation import Cancellation
    from meshhook.jobs import Job, JobKey
    from meshhook.queue_config import QueueSettings
    from meshhook.worker.held_job import HeldJob


class Batch(HandlerCall):
    """A handler that was called with several jobs. Each has an attempt of its own."""

    __slots__ = ("attempts", "listed", "members")

    def __init__(
        self, began_at: float, settings: QueueSettings, context: contextvars.Context
    ) -> None:
        super().__init__(began_at, settings, context)
        self.members: list[HeldJob] = []
        """The jobs, in the order in which the handler has them."""
        self.attempts: list[BatchedAttempt] = []
        """The attempt of each, in the same order."""
        self.listed: list[Job[Any]] = []
        """The list of the jobs that the handler was called with. It may change that."""

    @property
    def keys(self) -> Sequence[JobKey]:
        """The keys of its jobs."""
        return [held.key for held in self.members]

    def stop(self, reason: Abort) -> None:
        """Stop the handler at its next await, for all its jobs."""
        for attempt in self.attempts:
            if attempt.abort is None:
                attempt.abort = reason
        super().stop(reason)

    def stop_if_unwanted(self) -> None:
        """Stop the handler if none of its jobs is still wanted here.

        One that was cancelled or whose lease was lost stops nothing: the others go on.
        """
        is_cancelled = False
        left = [attempt for attempt in self.attempts if not attempt.was_completed]
        for attempt in left:
            if attempt.abort is None:
                if attempt.job.cancellation is None:
                    return
                is_cancelled = True
        if left and not (is_cancelled and self.is_in_thread):
            self.stop(Abort.CANCELLED if is_cancelled else Abort.LEASE_LOST)


class BatchedAttempt(Attempt):
    """The attempt of one job of a batch."""

    __slots__ = ("batch",)

    def __init__(
        self,
        job: Job[Any],
        began_at: float,
        settings: QueueSettings,
        context: contextvars.Context,
        batch: Batch,
    ) -> None:
        # Not by the constructors that it inherits: this runs for every job.
        self.job = job
        self.batch = batch
        self.began_at = began_at
        self.settings = settings
        self.context = context
        self.abort = self.refusal = self.completed_key = None
        self.under_way = self.ended = self.timeout = self.span = None
        self.was_completed = self.is_in_thread = False

    def stop(self, reason: Abort) -> None:
        """Stop the whole batch, or tell its handler that the lease of this job was lost."""
        if reason is Abort.LEASE_LOST:
            if self.abort is None:
                self.abort = reason
            self.job.lease_expired = True
            self.batch.stop_if_unwanted()
        else:
            self.batch.stop(reason)

    def cancel(self, cancellation: Cancellation) -> None:
        """Tell the handler that this job is to be cancelled. Stops a batch of nothing else."""
        if not self.was_completed:
            self._note(cancellation)
            self.batch.stop_if_unwanted()
