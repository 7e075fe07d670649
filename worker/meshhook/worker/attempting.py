"""Making attempts: a job's handler is started, waited for, and what came of it handed over."""

from __future__ import annotations

import asyncio
import functools
import random
import time
from typing import TYPE_CHECKING, Any

from meshhook.errors import (
    DatabaseConflictError,
    InvalidPayloadError,
    InvalidSettingError,
    LeaseLostError,
)
from meshhook.observability.job_context import set_current_job
from meshhook.observability.tracing import settling
from meshhook.outcomes import FINAL_OUTCOMES
from meshhook.postgres.database import lent_by_caller
from meshhook.postgres.driver_errors import translated_errors
from meshhook.store.settlements import settle
from meshhook.worker.attempts import (
    Abort,
    RunningAttempt,
    is_ctrl_c,
    is_meant_for_slot,
    log_end,
    settlement_of,
)
from meshhook.worker.coroutines import StartedCoroutine, awaited_in
from meshhook.worker.results import (
    MAX_NESTED_AWAITABLES,
    as_awaitable,
    end_of,
    is_awaitable,
    nested_too_deep,
)
from meshhook.worker.settling import PendingSettlement
from meshhook.worker.verdicts import (
    DONE,
    CompletionRolledBackError,
    JobTimeoutError,
    SlotEndedError,
    Verdict,
    invalid_payload,
    lease_lost,
    shown,
    verdict,
)

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Callable

    from meshhook.jobs import Job, JobKey
    from meshhook.observability.tracing import AttemptTracer
    from meshhook.observability.worker_metrics import WorkerMetrics
    from meshhook.queue_config import QueueSettings
    from meshhook.store import queries
    from meshhook.worker.handler_threads import HandlerThreads
    from meshhook.worker.handlers import JobHandler

MAX_AGE_SECONDS = 1e9


class Attempter:
    """Makes the attempts of one queue's jobs: `start`, then `rest` if it waits, then `finish`.

    How an attempt ended goes to `on_ended`, or to `on_released` where it is to be given back.
    """

    def __init__(
        self,
        *,
        handler: JobHandler[Any],
        threads: HandlerThreads | None,
        tables: queries.QueueTables,
        worker_name: str,
        settings: Callable[[], QueueSettings],
        metrics: WorkerMetrics,
        tracer: AttemptTracer | None,
        on_ended: Callable[[PendingSettlement], None],
        on_released: Callable[[list[Job[Any]], float], None],
    ) -> None:
        self.running: dict[JobKey, RunningAttempt] = {}
        """Those that were started, by job; whoever finishes one takes it out."""
        self.finished = 0
        """How many attempts have ended since the start."""
        self.finished_seconds = 0.0
        """How long these ran, added up."""
        self.tracer = tracer
        self.owner: asyncio.Task[object] | None = None
        """The task that stops the slots; None: they are being stopped, or were never started."""
        self._handler = handler
        self._threads = threads
        """Where a handler runs that is a plain function; None: it is async."""
        self._tables = tables
        self._worker_name = worker_name
        self._settings = settings
        self._metrics = metrics
        self._on_ended = on_ended
        self._on_released = on_released

    def start(
        self, job: Job[Any], claimed_at: float, context: contextvars.Context
    ) -> RunningAttempt:
        """Start an attempt, in its context, and take it as far as it goes without waiting."""
        began_at = time.monotonic()
        # The database's clock: the moment of the claim by it, and what has passed since.
        job.started_timestamp = job.claimed_timestamp + began_at - claimed_at
        settings = self._settings()
        running = RunningAttempt(job, began_at, settings, context)
        self.running[job.key] = running
        set_current_job(job)
        if self.tracer is not None:
            running.span = self.tracer.begin(job)
        running.refusal = self._refusal(job, settings)
        if running.refusal is None:
            job._complete = functools.partial(self._complete, running)  # noqa: SLF001 - made here
            self._take_first_step(running)
        return running

    def _refusal(self, job: Job[Any], settings: QueueSettings) -> Verdict | None:
        """Return what becomes of a job that must not run, or None."""
        try:
            self._handler.decoder.decode(job)
        except InvalidPayloadError as error:
            refusal = invalid_payload(str(error), settings)
            log_end(job, refusal)
            return refusal
        except BaseException as error:
            if is_ctrl_c(error):
                raise
            refusal = self._verdict(error, job, settings)
            log_end(job, refusal, error)
            return refusal
        if job.attempt > settings.max_retry_attempts and job.lost_attempts:
            refusal = lease_lost(job.lost_attempts, settings)
            log_end(job, refusal)
            return refusal
        return None

    def _take_first_step(self, running: RunningAttempt) -> None:
        """Run a handler up to where it waits for the first time.

        Many never wait. They need no timer, which costs more than all the rest of an attempt.
        """
        if self._threads is not None:
            running.under_way = self._threads.run(self._handler.function, running)
            return
        try:
            awaitable = self._handler.function(running.job)
        except BaseException as error:  # noqa: BLE001 - sorted out there
            running.ended = _raised_at_once(error)
            return
        try:
            started = StartedCoroutine(awaitable, running.context)
        except StopIteration as returned:
            running.ended = returned.value
            if running.ended is not None:
                self._look_at_result(running, running.ended)
        except BaseException as error:  # noqa: BLE001 - sorted out there
            running.ended = _raised_at_once(error)
        else:
            running.under_way = started

    def _look_at_result(self, running: RunningAttempt, result: object) -> None:
        if is_awaitable(result):
            running.under_way = self._awaited(running, result)
        else:
            running.ended = end_of(result)

    async def _awaited(self, running: RunningAttempt, result: object) -> object:
        """Await what a handler returned as long as it has to be, and return what it means."""
        for _ in range(MAX_NESTED_AWAITABLES):
            if not is_awaitable(result):
                return end_of(result)
            result = await awaited_in(running.context, as_awaitable(result))
        return nested_too_deep(result) if is_awaitable(result) else end_of(result)

    async def rest(self, running: RunningAttempt, under_way: Awaitable[object]) -> object:
        """Wait for an attempt, and return what its handler returned or raised, or why not."""
        slot = asyncio.current_task()
        timeout_seconds = running.settings.job_timeout_seconds
        rest_seconds = (
            None
            if timeout_seconds is None
            else timeout_seconds - (time.monotonic() - running.began_at)
        )
        try:
            async with asyncio.timeout(rest_seconds) as running.timeout:
                result = await under_way
                return result if result is None else await self._awaited(running, result)
        except TimeoutError as error:
            if running.abort is not None:
                return running.abort
            if running.timeout is not None and running.timeout.expired():
                return JobTimeoutError(f"the attempt ran longer than {timeout_seconds:g} seconds")
            return error
        except BaseException as error:
            if is_meant_for_slot(error, slot, self.owner):
                raise
            if isinstance(error, asyncio.CancelledError) and running.abort is not None:
                return running.abort
            return error

    def finish(self, running: RunningAttempt) -> None:
        """Hand over how an attempt ended, in its context."""
        self.finished += 1
        now = time.monotonic()
        ran_seconds = now - running.began_at
        self.finished_seconds += ran_seconds
        job, ended, span = running.job, running.ended, running.span
        if isinstance(ended, Abort):
            if span is not None:
                span.end_without_outcome(is_lost=ended is Abort.LEASE_LOST)
            if ended is Abort.SHUTDOWN:
                self._on_released([job], 0.0)
            return
        started = job.started_timestamp
        end = self._end(running, ended) if running.refusal is None else running.refusal
        self._observe(running, end, ran_seconds)
        settlement = settlement_of(
            job, end, started if running.refusal is None else None, started + ran_seconds
        )
        attempt = None
        if span is not None:
            span.end(end.outcome, end.error_type, end.error_message, ended)
            attempt = span.context
        self._on_ended(PendingSettlement(settlement, now, running.was_completed, attempt))

    def _observe(self, running: RunningAttempt, end: Verdict, ran_seconds: float) -> None:
        job, metrics = running.job, self._metrics
        exemplar = None if running.span is None else running.span.exemplar
        if running.refusal is None:
            wait_seconds = job.started_timestamp - job.ready_timestamp
            if not 0.0 <= wait_seconds <= MAX_AGE_SECONDS:
                wait_seconds = _bounded(wait_seconds)
            metrics.duration.observe(ran_seconds)
            metrics.wait.observe(wait_seconds)
            if exemplar is not None:
                metrics.duration.note_exemplar(ran_seconds, exemplar)
                metrics.wait.note_exemplar(wait_seconds, exemplar)
        if end.outcome in FINAL_OUTCOMES:
            age_seconds = job.started_timestamp + ran_seconds - job.enqueued_timestamp
            if not 0.0 <= age_seconds <= MAX_AGE_SECONDS:
                age_seconds = _bounded(age_seconds)
            metrics.age.observe(age_seconds)
            if exemplar is not None:
                metrics.age.note_exemplar(age_seconds, exemplar)

    def _end(self, running: RunningAttempt, ended: object) -> Verdict:
        """Return what becomes of a job that ran."""
        if ended is None and not running.was_completed:
            return DONE  # at once, since it is the most usual
        if running.was_completed and not isinstance(ended, BaseException):
            # Holds only if the message is still there: then the transaction was rolled back.
            ended = CompletionRolledBackError()
        end = self._verdict(ended, running.job, running.settings)
        if end is not DONE and not running.was_completed:
            log_end(running.job, end, ended)
        return end

    @staticmethod
    def _verdict(ended: object, job: Job[Any], settings: QueueSettings) -> Verdict:
        return verdict(
            ended,
            attempt=job.attempt,
            settings=settings,
            jitter_fraction=random.random(),  # noqa: S311 - jitter, not a secret
        )

    def fail(self, job: Job[Any], error: BaseException) -> None:
        """Hand over that an attempt has failed for which `start`, `rest` or `finish` raised."""
        settings = self._settings()
        failure = SlotEndedError(f"the attempt could not be ended: {shown(error)}")
        end = self._verdict(failure, job, settings)
        log_end(job, end)
        started = job.started_timestamp
        finished = max(started, job.claimed_timestamp)
        settlement = settlement_of(job, end, started, finished)
        self._on_ended(PendingSettlement(settlement, time.monotonic()))

    async def _complete(self, running: RunningAttempt, connection: Any) -> None:
        own = lent_by_caller(connection, None)
        with translated_errors():
            is_in_transaction = own.is_in_transaction()
        if not is_in_transaction:
            message = "job.complete() needs a connection inside a transaction"
            raise InvalidSettingError(message)
        job = running.job
        started = job.started_timestamp
        finished = started + time.monotonic() - running.began_at
        settlement = settlement_of(job, DONE, started, finished)
        tracer = None if self.tracer is None else self.tracer.tracer
        try:
            with translated_errors(), settling(tracer, job.queue, 1):
                recorded = await settle(own, self._tables, self._worker_name, [settlement])
        except DatabaseConflictError as error:
            message = (
                "job.complete() needs a transaction that is READ COMMITTED, or that began after "
                "the job's lease was last extended, which happens every third of the queue's "
                f"visibility_timeout_seconds: {error}"
            )
            raise DatabaseConflictError(message) from error
        if not recorded:
            raise LeaseLostError(job.queue, job.msg_id, job.attempt)
        running.was_completed = True


def _raised_at_once(error: BaseException) -> BaseException:
    """Return what a handler raised before it waited: nobody could cancel or close it by then."""
    if is_ctrl_c(error):
        raise error
    return error


def _bounded(seconds: float) -> float:
    # Other clients may say anything of when their messages were enqueued or fell due.
    return 0.0 if seconds < 0.0 else MAX_AGE_SECONDS
