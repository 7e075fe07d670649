"""Running batches: calls a handler with several jobs, and ends each of them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from meshhook.observability.job_context import fields_of, set_current_job
from meshhook.observability.loggers import get_logger
from meshhook.outcomes import FINAL_OUTCOMES
from meshhook.worker.attempt import Abort, is_ctrl_c, settlement_of
from meshhook.worker.attempt_runner import MAX_AGE_SECONDS, AttemptRunner, within_bounds
from meshhook.worker.batch import Batch, BatchedAttempt
from meshhook.worker.batch_ends import ends_of_batch
from meshhook.worker.error_texts import shown
from meshhook.worker.results import UnusableResultError
from meshhook.worker.shared_error import SharedError
from meshhook.worker.verdicts import DONE

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Sequence

    from meshhook.observability.tracing import AttemptSpan
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.verdicts import Verdict

_log = get_logger("meshhook.worker.batch_runner")

UNENDED_DELAY_SECONDS = 30.0
MIXED_OUTCOMES = "mixed"
"""The outcome of the span of a batch whose jobs ended in different ways."""


class BatchRunner(AttemptRunner):
    """Runs batches of one queue's jobs: `start_batch`, then `rest`, then `finish_batch`.

    What is done for one job of a batch costs no neighbour: a job that cannot be read ends alone,
    and the others run without it.
    """

    def start_batch(self, jobs: Sequence[HeldJob], context: contextvars.Context) -> Batch:
        """Start the attempts of some jobs in one context, and run them up to the first await."""
        began_at = time.monotonic()
        settings = self._queue.config
        batch = Batch(began_at, settings, context)
        refused: list[HeldJob] = []
        members, attempts, complete = batch.members, batch.attempts, self._complete_job
        for held in jobs:
            job = held.job
            job.started_timestamp = job.claimed_timestamp + began_at - held.claimed_at
            held.attempt = attempt = BatchedAttempt(job, began_at, settings, context, batch)
            attempt.refusal = self._judge.refusal(job, settings)
            if attempt.refusal is not None:
                refused.append(held)
                continue
            job._complete = complete  # noqa: SLF001 - made here
            members.append(held)
            attempts.append(attempt)
        for held in refused:
            self._end_safely(held, None, began_at)
        if not members:
            return batch
        self._held_jobs.running.keep_slot(members[0])
        # No single one: what the handler logs is about all of them.
        set_current_job(None)
        if self.tracer is not None:
            batch.span = self.tracer.begin_batch([held.job for held in members])
            for attempt in attempts:
                attempt.span = batch.span
        self._queue.metrics.batch_started(len(members))
        batch.listed = [held.job for held in members]
        self._take_first_step(batch, batch.listed)
        return batch

    def finish_batch(self, batch: Batch) -> None:
        """End the jobs of a batch whose handler has ended, in the context of the batch."""
        members = batch.members
        now = time.monotonic()
        ran_seconds = now - batch.began_at
        running = self._held_jobs.running
        running.finished += len(members)
        running.finished_seconds += ran_seconds * len(members)
        verdicts: list[Verdict] = []
        if members:
            if _is_done(batch):
                verdicts = self._end_done(batch, now)
            else:
                ends = _ends_of(batch)
                if _may_tell_of_others(batch.ended, ends):
                    self._withhold(batch)
                verdicts = self._end_all(batch, ends, now)
        metrics = self._queue.metrics
        metrics.duration.observe_times(ran_seconds, len(verdicts))
        if batch.span is not None:
            if batch.span.exemplar is not None and verdicts:
                metrics.duration.note_exemplar(ran_seconds, batch.span.exemplar)
            is_withheld = any(self._queue.withholds(attempt.job) for attempt in batch.attempts)
            _end_span(batch.span, verdicts, batch.ended, is_withheld=is_withheld)
        # Each attempt knows its batch, and would live until the next look for such circles. The
        # slot knows the batch until it starts another one, and a handler its list.
        batch.attempts.clear()
        batch.listed = []

    def _withhold(self, batch: Batch) -> None:
        """Treat all jobs of a batch as encrypted if one is: the error of all may tell of it."""
        jobs = [attempt.job for attempt in batch.attempts]
        if any(self._queue.withholds(job) for job in jobs):
            for job in jobs:
                job.is_encrypted = True

    def _end_done(self, batch: Batch, now: float) -> list[Verdict]:
        """End a batch of which every job is done: the usual case, at a low price for each."""
        members, metrics = batch.members, self._queue.metrics
        keeps_results = self._queue.config.results
        targets = self._queue.config.priority_target_seconds
        ran_seconds = now - batch.began_at
        waits, ages, settlements = [], [], []
        for held in members:
            job = held.job
            started = job.started_timestamp
            finished = started + ran_seconds
            wait_seconds = started - job.ready_timestamp
            waits.append(wait_seconds)
            if held.place is not None:
                metrics.waited_by_priority(held.place.band, within_bounds(wait_seconds), targets)
            ages.append(finished - job.enqueued_timestamp)
            settlements.append(
                settlement_of(job, DONE, started, finished, keeps_results=keeps_results)
            )
        for times, series in ((waits, metrics.wait), (ages, metrics.age)):
            are_usual = min(times) >= 0.0 and max(times) <= MAX_AGE_SECONDS
            series.observe_all(times if are_usual else map(within_bounds, times))
        context = None if batch.span is None else batch.span.context
        self._held_jobs.end_batch(members, settlements, now, context)
        return [DONE] * len(members)

    def _end_all(self, batch: Batch, ends: Sequence[object], now: float) -> list[Verdict]:
        """End each job of a batch in its own way. Returns the verdicts, where there is one."""
        verdicts: list[Verdict] = []
        to_release: list[HeldJob] = []
        shared = SharedError()
        for held, ended in zip(batch.members, ends, strict=True):
            if ended is Abort.LEASE_LOST:
                self._held_jobs.stopped(held)
            elif ended is Abort.SHUTDOWN:
                to_release.append(held)
            else:
                end = self._end_safely(held, ended, now, shared)
                if end is not None:
                    verdicts.append(end)
        if to_release:
            self._releaser.release(to_release)
        return verdicts

    def _end_safely(
        self, held: HeldJob, ended: object, now: float, shared: SharedError | None = None
    ) -> Verdict | None:
        """End one job; returns None if that failed. The others of its batch are ended as well."""
        try:
            return self._end(held, ended, now, shared)
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            reason = type(error).__name__ if self._queue.withholds(held.job) else shown(error)
            _log.error("a job of a batch could not be ended", **fields_of(held.job), error=reason)
            try:
                self.fail(held, error)
            except Exception:  # noqa: BLE001 - it was logged; the job runs again
                self._releaser.release([held], UNENDED_DELAY_SECONDS)
            return None

    def _end(self, held: HeldJob, ended: object, now: float, shared: SharedError | None) -> Verdict:
        attempt: Any = held.attempt
        job = attempt.job
        refusal: Verdict | None = attempt.refusal
        if refusal is not None:
            end = refusal
        elif ended is None and not attempt.was_completed:
            end = DONE
        else:
            end = self._judge.end(attempt, ended, shared)
        metrics, started = self._queue.metrics, job.started_timestamp
        finished = started + now - attempt.began_at
        if refusal is None:
            wait_seconds = within_bounds(started - job.ready_timestamp)
            metrics.wait.observe(wait_seconds)
            if held.place is not None:
                targets = self._queue.config.priority_target_seconds
                metrics.waited_by_priority(held.place.band, wait_seconds, targets)
        if end.outcome in FINAL_OUTCOMES:
            metrics.age.observe(within_bounds(finished - job.enqueued_timestamp))
        settlement = settlement_of(
            job,
            end,
            started if refusal is None else None,
            finished,
            keeps_results=self._queue.config.results,
            has_follow_up=self._queue.config.dead_letter_follow_up is not None,
        )
        self._note_end(held, attempt, end)
        span = attempt.span
        context = None if span is None else span.context
        self._held_jobs.end(held, settlement, now, attempt.was_completed, context)
        return end


def _is_done(batch: Batch) -> bool:
    """Return whether the handler is done with all jobs, and has completed none in a transaction."""
    return batch.ended is None and not any(
        attempt.was_completed or attempt.abort is not None for attempt in batch.attempts
    )


def _ends_of(batch: Batch) -> list[object]:
    """Return how the handler ended each job, or why the job was stopped."""
    attempts, ended = batch.attempts, batch.ended
    if isinstance(ended, Abort):
        return [attempt.abort for attempt in attempts]
    ends = ends_of_batch(ended, [attempt.job for attempt in attempts], batch.listed)
    return [
        end if attempt.abort is not Abort.LEASE_LOST or attempt.was_completed else attempt.abort
        for attempt, end in zip(attempts, ends, strict=True)
    ]


def _may_tell_of_others(ended: object, ends: Sequence[object]) -> bool:
    """Return whether the error of a job of a batch may quote another one of it."""
    return isinstance(ended, BaseException) or any(
        isinstance(end, UnusableResultError) for end in ends
    )


def _end_span(
    span: AttemptSpan, verdicts: Sequence[Verdict], ended: object, *, is_withheld: bool
) -> None:
    """End the span of a batch: it has failed if a job of it has.

    Args:
        span: the span.
        verdicts: those on its jobs.
        ended: what the handler returned or raised.
        is_withheld: whether errors are named by their type only, because a job was encrypted.
    """
    if not verdicts:
        span.end_without_outcome(is_lost=ended is not Abort.SHUTDOWN)
        return
    outcomes = {end.outcome for end in verdicts}
    failed = next((end for end in verdicts if end.error_type is not None), DONE)
    span.end(
        str(verdicts[0].outcome) if len(outcomes) == 1 else MIXED_OUTCOMES,
        failed.error_type,
        failed.error_message,
        None if is_withheld else ended,
    )
