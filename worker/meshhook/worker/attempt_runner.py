"""Running attempts: starts a job's handler, waits for it, and ends the job."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from meshhook.errors import (
    DatabaseConflictError,
    InvalidSettingError,
    LeaseLostError,
)
from meshhook.follow_ups import checked_follow_ups
from meshhook.observability.job_context import set_current_job
from meshhook.observability.tracing import settling
from meshhook.outcomes import FINAL_OUTCOMES
from meshhook.postgres.database import lent_by_caller
from meshhook.postgres.driver_errors import translated_errors
from meshhook.store import queries
from meshhook.store.settlements import settle
from meshhook.worker.attempt import (
    Abort,
    Attempt,
    HandlerCall,
    is_ctrl_c,
    is_meant_for_slot,
    log_end,
    settlement_of,
)
from meshhook.worker.coroutines import StartedCoroutine, awaited_in
from meshhook.worker.error_texts import shown
from meshhook.worker.judge import Judge
from meshhook.worker.results import (
    MAX_NESTED_AWAITABLES,
    as_awaitable,
    end_of,
    is_awaitable,
    nested_too_deep,
)
from meshhook.worker.retries import own_policy
from meshhook.worker.verdicts import JobTimeoutError, SlotEndedError, Verdict

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Sequence

    from meshhook.follow_ups import FollowUp
    from meshhook.jobs import Job
    from meshhook.observability.tracing import AttemptTracer
    from meshhook.worker.handler_threads import HandlerThreads
    from meshhook.worker.held_job import HeldJob
    from meshhook.worker.held_jobs import HeldJobs
    from meshhook.worker.queue_context import QueueContext
    from meshhook.worker.releaser import Releaser

MAX_AGE_SECONDS = 1e9


class AttemptRunner:
    """Runs attempts of one queue's jobs: `start`, then `rest` if the handler waits, then `finish`.

    `finish` ends the held job, or releases it if the attempt does not count.
    """

    def __init__(
        self,
        *,
        queue: QueueContext,
        held_jobs: HeldJobs,
        releaser: Releaser,
        threads: HandlerThreads | None,
        tracer: AttemptTracer | None,
    ) -> None:
        """Take what it works with.

        Args:
            queue: the queue.
            held_jobs: the held jobs.
            releaser: gives back jobs that are stopped because the worker stops.
            threads: run handlers that are plain functions; None for async handlers.
            tracer: makes the spans of the attempts; None without tracing.
        """
        self.tracer = tracer
        self.owner: asyncio.Task[object] | None = None
        """The task that stops the slots. None while they are being stopped, and before they
        start."""
        self._queue = queue
        self._judge = Judge(queue)
        self._function: Any = queue.handler.function
        self._held_jobs = held_jobs
        self._releaser = releaser
        self._threads = threads

    def start(self, held: HeldJob, context: contextvars.Context) -> Attempt:
        """Start an attempt in its context, and run it up to its first await."""
        job = held.job
        began_at = time.monotonic()
        # By the database's clock: the moment of the claim plus the time since then.
        job.started_timestamp = job.claimed_timestamp + began_at - held.claimed_at
        settings = self._queue.config
        held.attempt = attempt = Attempt(job, began_at, settings, context)
        set_current_job(job)
        if self.tracer is not None:
            attempt.span = self.tracer.begin(job)
        attempt.refusal = self._judge.refusal(job, settings)
        if attempt.refusal is None:
            job._complete = self._complete_job  # noqa: SLF001 - made here
            self._take_first_step(attempt, job)
        return attempt

    def _take_first_step(self, attempt: HandlerCall, argument: object) -> None:
        """Run a handler up to its first await.

        Many handlers never wait. They need no timer, which costs more than the rest of an attempt.
        """
        if self._threads is not None:
            attempt.under_way = self._threads.run(self._function, argument, attempt)
            return
        try:
            awaitable = self._function(argument)
        except BaseException as error:  # noqa: BLE001 - handled there
            attempt.ended = _raised_at_once(error)
            return
        try:
            started = StartedCoroutine(awaitable, attempt.context)
        except StopIteration as returned:
            attempt.ended = returned.value
            if attempt.ended is not None:
                self._look_at_result(attempt, attempt.ended)
        except BaseException as error:  # noqa: BLE001 - handled there
            attempt.ended = _raised_at_once(error)
        else:
            attempt.under_way = started

    def _look_at_result(self, attempt: HandlerCall, result: object) -> None:
        if is_awaitable(result):
            attempt.under_way = self._awaited(attempt, result)
        else:
            attempt.ended = end_of(result)

    async def _awaited(self, attempt: HandlerCall, result: object) -> object:
        """Await a handler's result, and its result in turn if need be, and return what it means."""
        for _ in range(MAX_NESTED_AWAITABLES):
            if not is_awaitable(result):
                return end_of(result)
            result = await awaited_in(attempt.context, as_awaitable(result))
        return nested_too_deep(result) if is_awaitable(result) else end_of(result)

    async def rest(self, attempt: HandlerCall, under_way: Awaitable[object]) -> object:
        """Wait for an attempt or a batch.

        Returns its handler's result or error, or why it was stopped.
        """
        slot = asyncio.current_task()
        timeout_seconds = attempt.settings.job_timeout_seconds
        rest_seconds = (
            None
            if timeout_seconds is None
            else timeout_seconds - (time.monotonic() - attempt.began_at)
        )
        try:
            async with asyncio.timeout(rest_seconds) as attempt.timeout:
                result = await under_way
                return result if result is None else await self._awaited(attempt, result)
        except TimeoutError as error:
            if attempt.abort is not None:
                return attempt.abort
            if attempt.timeout is not None and attempt.timeout.expired():
                return JobTimeoutError(f"the attempt ran longer than {timeout_seconds:g} seconds")
            return error
        except BaseException as error:
            if is_meant_for_slot(error, slot, self.owner):
                raise
            if isinstance(error, asyncio.CancelledError) and attempt.abort is not None:
                return attempt.abort
            return error

    def finish(self, held: HeldJob, attempt: Attempt) -> None:
        """End the job of a finished attempt, in the attempt's context."""
        now = time.monotonic()
        ran_seconds = now - attempt.began_at
        held_jobs = self._held_jobs
        held_jobs.running.finished += 1
        held_jobs.running.finished_seconds += ran_seconds
        job, ended, span = attempt.job, attempt.ended, attempt.span
        if isinstance(ended, Abort) and ended is not Abort.CANCELLED:
            if span is not None:
                span.end_without_outcome(is_lost=ended is Abort.LEASE_LOST)
            if ended is Abort.SHUTDOWN:
                self._releaser.release([held])
            else:
                held_jobs.stopped(held)
            return
        started = job.started_timestamp
        end = self._judge.end(attempt, ended) if attempt.refusal is None else attempt.refusal
        self._observe(held, attempt, end, ran_seconds)
        settlement = settlement_of(
            job,
            end,
            started if attempt.refusal is None else None,
            started + ran_seconds,
            keeps_results=self._queue.config.results,
            has_follow_up=self._queue.config.dead_letter_follow_up is not None,
        )
        self._note_end(held, attempt, end)
        context = None
        if span is not None:
            shown_end = None if self._queue.withholds(job) else ended
            span.end(end.outcome, end.error_type, end.error_message, shown_end)
            context = span.context
        held_jobs.end(held, settlement, now, attempt.was_completed, context)

    def _note_end(self, held: HeldJob, attempt: Attempt, end: Verdict) -> None:
        """Keep what the completer needs beside the settlement, since the job is then dropped."""
        if end.hold_seconds:
            held.key_hold_seconds = end.hold_seconds
        if end.follow_ups and attempt.job.headers:
            held.own_policy = own_policy(attempt.job, self._queue)
        held.is_failure = end.is_failure
        held.completed_key = attempt.completed_key

    def _observe(self, held: HeldJob, attempt: Attempt, end: Verdict, ran_seconds: float) -> None:
        job, metrics = attempt.job, self._queue.metrics
        exemplar = None if attempt.span is None else attempt.span.exemplar
        if attempt.refusal is None:
            wait_seconds = job.started_timestamp - job.ready_timestamp
            if not 0.0 <= wait_seconds <= MAX_AGE_SECONDS:
                wait_seconds = within_bounds(wait_seconds)
            metrics.duration.observe(ran_seconds)
            metrics.wait.observe(wait_seconds)
            if held.place is not None:
                targets = self._queue.config.priority_target_seconds
                metrics.waited_by_priority(held.place.band, wait_seconds, targets)
            if exemplar is not None:
                metrics.duration.note_exemplar(ran_seconds, exemplar)
                metrics.wait.note_exemplar(wait_seconds, exemplar)
        if end.outcome in FINAL_OUTCOMES:
            age_seconds = job.started_timestamp + ran_seconds - job.enqueued_timestamp
            if not 0.0 <= age_seconds <= MAX_AGE_SECONDS:
                age_seconds = within_bounds(age_seconds)
            metrics.age.observe(age_seconds)
            if exemplar is not None:
                metrics.age.note_exemplar(age_seconds, exemplar)

    def fail(self, held: HeldJob, error: BaseException) -> None:
        """End a job as failed because the worker's own code raised an error."""
        job, settings = held.job, self._queue.config
        reason = type(error).__name__ if self._queue.withholds(job) else shown(error)
        failure = SlotEndedError(f"the attempt could not be ended: {reason}")
        end = self._judge.verdict(failure, job, settings)
        log_end(job, end)
        started = job.started_timestamp
        finished = max(started, job.claimed_timestamp)
        config = self._queue.config
        settlement = settlement_of(
            job,
            end,
            started,
            finished,
            keeps_results=config.results,
            has_follow_up=config.dead_letter_follow_up is not None,
        )
        held.is_failure = end.is_failure
        self._held_jobs.end(held, settlement, time.monotonic())

    async def _complete_job(
        self,
        job: Job[Any],
        connection: Any,
        then: FollowUp | Sequence[FollowUp],
        result: object,
    ) -> None:
        """Complete a job that runs here.

        It is looked up: a job that knew its attempt, which knows the job, would be freed only by
        the garbage collector, which would cost a fifth of what a job costs.
        """
        held = self._held_jobs.leases.jobs.get(job.key)
        attempt = None if held is None else held.attempt
        if attempt is None or attempt.job is not job:
            raise LeaseLostError(job.queue, job.msg_id, job.attempt)
        await self._complete(attempt, connection, then, result)

    async def _complete(
        self,
        attempt: Attempt,
        connection: Any,
        then: FollowUp | Sequence[FollowUp],
        result: object,
    ) -> None:
        end = self._judge.completion(attempt, checked_follow_ups("then", then), result)
        own = lent_by_caller(connection, None)
        with translated_errors():
            is_in_transaction = own.is_in_transaction()
        if not is_in_transaction:
            message = "job.complete() needs a connection inside a transaction"
            raise InvalidSettingError(message)
        job = attempt.job
        started = job.started_timestamp
        finished = started + time.monotonic() - attempt.began_at
        settlement = settlement_of(
            job, end, started, finished, keeps_results=self._queue.config.results
        )
        tracer = None if self.tracer is None else self.tracer.tracer
        config, key = self._queue.config, None
        try:
            with translated_errors(), settling(tracer, job.queue, 1):
                if config.has_breakers:
                    # Its breaker is told after the commit: nobody must wait for that.
                    sql = queries.load(
                        "key_of_message", self._queue.tables, key_path=config.key_path
                    )
                    rows = await own.fetch(sql, job.msg_id)
                    key = rows[0]["key"] if rows else None
                recorded = await settle(
                    own,
                    self._queue.tables,
                    self._queue.worker_name,
                    [settlement],
                    keeps_bodies=config.keeps_bodies,
                )
        except DatabaseConflictError as error:
            message = (
                "job.complete() needs a transaction that is READ COMMITTED, or that began after "
                "the job's lease was last extended, which happens every third of the queue's "
                f"visibility_timeout_seconds: {error}"
            )
            raise DatabaseConflictError(message) from error
        if not recorded:
            raise LeaseLostError(job.queue, job.msg_id, job.attempt)
        attempt.was_completed = True
        attempt.completed_key = key


def _raised_at_once(error: BaseException) -> BaseException:
    """Return an error raised before the first await, when nothing could cancel the handler."""
    if is_ctrl_c(error):
        raise error
    return error


def within_bounds(seconds: float) -> float:
    """Return a time of a message as a metric takes it.

    Other clients may write any time as that of enqueueing or falling due.
    """
    return min(max(seconds, 0.0), MAX_AGE_SECONDS)
