"""One attempt of a job, run without a database and judged as a worker would judge it."""

from __future__ import annotations

import asyncio
import contextvars
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from prometheus_client import CollectorRegistry

from meshhook.application.queue_handler import QueueHandler, identifiers
from meshhook.errors import InvalidSettingError
from meshhook.follow_ups import checked_follow_ups
from meshhook.jobs import Job, WorkflowJob
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.observability.worker_metrics import WorkerMetrics
from meshhook.outcomes import AttemptOutcome, Done, Outcome
from meshhook.queue_config import QueueConfig, QueueSettings, changed_settings
from meshhook.store import queries
from meshhook.store.bodies import decode_headers, encode_body, encode_headers
from meshhook.store.messages import job_of
from meshhook.worker.attempt_runner import AttemptRunner
from meshhook.worker.handler_threads import HandlerThreads
from meshhook.worker.handlers import JobHandler
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.queue_context import QueueContext
from meshhook.worker.releaser import Releaser
from meshhook.worker.slot_shares import SharedSlots
from meshhook.worker.stats import Tally
from meshhook.worker.verdicts import meaning_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from meshhook.follow_ups import FollowUp
    from meshhook.worker.attempt import Attempt
    from meshhook.worker.held_job import HeldJob

CANCEL_SECONDS = 1.0
"""How long a handler may take to end when its test is cancelled."""

_WORKER_NAME = "meshhook.testing"


@dataclass(frozen=True, slots=True, repr=False)
class AttemptResult:
    """How an attempt ended, as the worker would record it."""

    outcome: AttemptOutcome
    """succeeded, retried, snoozed, dead_lettered, cancelled, archived or expired; equal to that
    text."""
    job: Job[Any]
    """The job that was passed to the handler."""
    delay_seconds: float = 0.0
    """How long until the next attempt of a job that was retried or snoozed; else 0."""
    error_type: str | None = None
    """The error type, by which dead letters are grouped; None if nothing failed."""
    error_message: str | None = None
    """The error message, or the reason that the handler gave, with secrets hidden."""
    error_stack: str | None = None
    """The stack of the handler's exception, if it raised one."""
    error: BaseException | None = None
    """The exception that the handler raised, or `JobTimeoutError` if it took too long; None for an
    outcome such as `RetryAfter`, and if the handler did not run."""
    was_completed: bool = False
    """Whether the handler called `job.complete()`."""
    result: Any = None
    """What is kept as the result, as JSON has it; None if the queue does not keep results."""
    then: tuple[FollowUp, ...] = ()
    """The jobs that follow."""

    def __repr__(self) -> str:
        """Show the outcome and the error, for the message of a failed assertion."""
        delay = f" in {self.delay_seconds:g} s" if self.delay_seconds else ""
        error = f": {self.error_type}" if self.error_type else ""
        message = f": {self.error_message}" if self.error_message else ""
        return f"<AttemptResult {self.outcome}{delay}{error}{message}>"


def make_job(
    payload: Any = None,
    *,
    run_id: str | UUID | None = None,
    workflow_id: str | UUID | None = None,
    project_id: str | UUID | None = None,
    attempt: int = 1,
    lost_attempts: int = 0,
    max_attempts: int = QueueSettings().max_retry_attempts,
    msg_id: int = 1,
    queue: str = DEFAULT_QUEUE_NAME,
    headers: Mapping[str, Any] | None = None,
) -> Job[Any]:
    """Return a job, for a test that calls a handler's function itself.

    `job.payload` is the payload as given, `job.body` the JSON that a producer would store.

    Args:
        payload: a model, anything that JSON can hold, or a `WorkflowJob`. Default: an empty object.
        run_id: the run it belongs to. Default: none.
        workflow_id: the workflow it belongs to. Default: none.
        project_id: the project it belongs to. Default: none.
        attempt: which attempt it is, from 1. Default 1.
        lost_attempts: how many of the attempts just before this one ended without an outcome, 0 to
            `attempt` - 1. Default 0.
        max_attempts: how many attempts the queue allows. Default 5.
        msg_id: the message's id. Default 1.
        queue: the queue it was claimed from. Default `workflow_jobs`.
        headers: the message's headers. Default: none.

    Raises:
        InvalidJobError, JobTooLargeError: as when such a job is enqueued.
        InvalidQueueNameError, InvalidSettingError: naming the argument.
    """
    _check_attempts(attempt, lost_attempts)
    if isinstance(payload, WorkflowJob):
        run_id, workflow_id, project_id = payload.run_id, payload.workflow_id, payload.project_id
        payload = payload.payload
    payload = {} if payload is None else payload
    ids = identifiers(run_id=run_id, workflow_id=workflow_id, project_id=project_id)
    max_bytes = QueueSettings().max_payload_bytes
    now = time.time()
    job: Job[Any] = Job(
        queue=validate_queue_name(queue),
        msg_id=msg_id,
        attempt=attempt,
        max_attempts=max_attempts,
        enqueued_timestamp=now,
        ready_timestamp=now,
        claimed_timestamp=now,
        headers=decode_headers(encode_headers(headers)),
        body=encode_body(job_of(payload, ids), max_bytes, is_payload=True),
    )
    job.lost_attempts = lost_attempts
    job.apply_retry_policy()
    for name, value in ids.items():
        setattr(job, name, value)
    job.payload = payload
    return job


async def run_job(
    handler: Any,
    payload: Any = None,
    *,
    run_id: str | UUID | None = None,
    workflow_id: str | UUID | None = None,
    project_id: str | UUID | None = None,
    attempt: int = 1,
    lost_attempts: int = 0,
    msg_id: int = 1,
    queue: str | None = None,
    headers: Mapping[str, Any] | None = None,
    settings: QueueSettings | Mapping[str, Any] | None = None,
) -> AttemptResult:
    """Run a handler on one job without a database, and return what a worker would record.

    All of this is the worker's own code: the payload is written as JSON and validated by the
    handler's model, the time limit applies, and what the handler returns or raises decides the
    outcome.

    `job.complete()` accepts any connection and writes nothing. If the handler raises afterwards,
    its transaction counts as rolled back.

    Args:
        handler: a handler of an app or of `create_job_handler`, or a function of one job.
        payload: a model, anything that JSON can hold, or a `WorkflowJob`. Default: an empty object.
        run_id: the run it belongs to. Default: none.
        workflow_id: the workflow it belongs to. Default: none.
        project_id: the project it belongs to. Default: none.
        attempt: which attempt it is, from 1. Default 1.
        lost_attempts: how many of the attempts just before this one ended without an outcome, 0 to
            `attempt` - 1. Default 0.
        msg_id: the message's id. Default 1.
        queue: the queue it was claimed from. Default: the one that an app declares for the
            handler, else `workflow_jobs`.
        headers: the message's headers. Default: none.
        settings: the queue's settings: a complete `QueueSettings`, or changes to the settings that
            an app declares for the handler, else to those of a new queue. Without a complete set,
            `retry_jitter` is 0 unless it is given, so delays are the same in every run.

    Raises:
        InvalidJobError, JobTooLargeError: if no producer could enqueue such a job.
        InvalidHandlerError, InvalidQueueNameError, InvalidSettingError: naming the argument.
    """
    known = handler if isinstance(handler, JobHandler) else JobHandler(handler)
    declared: Mapping[str, Any] = {}
    if isinstance(known, QueueHandler):
        declared, queue = known.settings, known.queue if queue is None else queue
    if not isinstance(settings, QueueSettings):
        without_jitter = QueueSettings(retry_jitter=0)
        settings = changed_settings(without_jitter, {**declared, **(settings or {})})
    job = make_job(
        payload,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        attempt=attempt,
        lost_attempts=lost_attempts,
        max_attempts=settings.max_retry_attempts,
        msg_id=msg_id,
        queue=DEFAULT_QUEUE_NAME if queue is None else queue,
        headers=headers,
    )
    held, made, completion = await _run(known, job, settings)
    settlement, ended = held.settlement, made.ended
    if completion is not None and not isinstance(ended, BaseException):
        then, result = completion
        return AttemptResult(
            AttemptOutcome.SUCCEEDED,
            job=job,
            was_completed=True,
            result=None if result is None else json.loads(result),
            then=then,
        )
    ended = meaning_of(ended)
    is_error = isinstance(ended, BaseException) and not isinstance(ended, Outcome)
    return AttemptResult(
        settlement.outcome,
        job=job,
        delay_seconds=settlement.delay_seconds,
        error_type=settlement.error_type,
        error_message=settlement.error_message,
        error_stack=settlement.error_stack,
        error=ended if is_error and isinstance(ended, BaseException) else None,
        was_completed=held.was_completed,
        result=None if settlement.result is None else json.loads(settlement.result),
        then=ended.then if isinstance(ended, Done) and settlement.follow_ups else (),
    )


class _WithoutDatabase(AttemptRunner):
    """Runs attempts, and believes a handler that says it has settled its job."""

    completion: tuple[tuple[FollowUp, ...], str | None] | None = None
    """What follows the job that the handler has completed, and its result as JSON text."""

    async def _complete(self, attempt: Attempt, connection: Any, then: Any, result: Any) -> None:  # noqa: ARG002
        follow_ups = checked_follow_ups("then", then)
        end = self._judge.completion(attempt, follow_ups, result)
        self.completion = follow_ups, end.result
        attempt.was_completed = True


async def _run(
    handler: JobHandler[Any], job: Job[Any], settings: QueueSettings
) -> tuple[HeldJob, Attempt, tuple[tuple[FollowUp, ...], str | None] | None]:
    """Run one attempt as a worker runs it, in a task of its own.

    Also returns what `job.complete()` was called with, if it was.
    """
    held_jobs = HeldJobs(SharedSlots(1, {job.queue: 1}).shares[job.queue])
    threads = None if handler.is_async else HandlerThreads(1, held_jobs)
    now = datetime.now(UTC)
    queue = QueueContext(
        tables=queries.QueueTables(job.queue),
        config=QueueConfig(
            # Its message was made here, and is not encrypted.
            **(settings.model_dump() | {"encryption": "accept"}),
            queue=job.queue,
            created_at=now,
            updated_at=now,
        ),
        handler=handler,
        worker_name=_WORKER_NAME,
        metrics=WorkerMetrics(job.queue, CollectorRegistry()),
        tally=Tally(),
        tracer=None,
    )
    runner = _WithoutDatabase(
        queue=queue,
        held_jobs=held_jobs,
        # Only a worker that stops gives jobs back.
        releaser=Releaser(connection=cast("Any", None), queue=queue, held_jobs=held_jobs),
        threads=threads,
        tracer=None,
    )
    made: list[tuple[HeldJob, Attempt]] = []
    # A handler that cancels its own task must not cancel the test.
    runner.owner = asyncio.current_task()
    claimed_at = time.monotonic()
    held_jobs.queue(held_jobs.claim([job], claimed_at, claimed_at).to_start)
    slot = asyncio.create_task(_attempt(runner, held_jobs, made), name="meshhook-slot-0")
    try:
        await asyncio.wait([slot])
    except asyncio.CancelledError:
        slot.cancel()
        await asyncio.wait([slot], timeout=CANCEL_SECONDS)
        raise
    finally:
        if threads is not None:
            threads.shutdown()
    if not made:
        slot.result()  # raises what ends the process and not the job, such as KeyboardInterrupt
    return *made[0], runner.completion


async def _attempt(
    runner: AttemptRunner, held_jobs: HeldJobs, made: list[tuple[HeldJob, Attempt]]
) -> None:
    """Run a job as a slot of a worker does."""
    context = contextvars.copy_context()
    held = held_jobs.start_next()
    attempt = context.run(runner.start, held, context)
    if attempt.under_way is not None:
        attempt.ended = await runner.rest(attempt, attempt.under_way)
    context.run(runner.finish, held, attempt)
    made.append((held, attempt))


def _check_attempts(attempt: int, lost_attempts: int) -> None:
    for name, value, least in (("attempt", attempt, 1), ("lost_attempts", lost_attempts, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidSettingError(f"{name} is a whole number from {least}, got {value!r}")
    if lost_attempts >= attempt:
        raise InvalidSettingError(
            f"lost_attempts ({lost_attempts}) must be less than attempt ({attempt})"
        )
