"""One attempt of a job, run without a database and judged as a worker would judge it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from meshhook.application.arguments import name_of
from meshhook.application.queue_handler import QueueHandler, identifiers
from meshhook.errors import InvalidHandlerError, InvalidSettingError
from meshhook.jobs import Job, WorkflowJob
from meshhook.names import DEFAULT_QUEUE_NAME, validate_queue_name
from meshhook.outcomes import AttemptOutcome, Done, Outcome
from meshhook.queue_config import QueueSettings, changed_settings
from meshhook.store.bodies import encode_body
from meshhook.store.message_headers import decode_headers, encode_headers
from meshhook.store.messages import job_of
from meshhook.testing.handler_runs import HandlerRun, run_handler
from meshhook.worker.handlers import JobHandler
from meshhook.worker.verdicts import meaning_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from meshhook.follow_ups import FollowUp


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
    if known.batch is not None:
        raise InvalidHandlerError(
            f"handler {name_of(known)} takes a list of jobs; run it with run_batch(handler, "
            "[payload, ...])"
        )
    queue, settings = queue_and_settings(known, queue, settings)
    job = make_job(
        payload,
        run_id=run_id,
        workflow_id=workflow_id,
        project_id=project_id,
        attempt=attempt,
        lost_attempts=lost_attempts,
        max_attempts=settings.max_retry_attempts,
        msg_id=msg_id,
        queue=queue,
        headers=headers,
    )
    [run] = await run_handler(known, [job], settings)
    return result_of(run)


def queue_and_settings(
    handler: JobHandler[Any], queue: str | None, settings: QueueSettings | Mapping[str, Any] | None
) -> tuple[str, QueueSettings]:
    """Return the queue of a handler, and its settings, as `run_job` takes them.

    Raises:
        InvalidSettingError: naming the setting.
    """
    declared: Mapping[str, Any] = {}
    if isinstance(handler, QueueHandler):
        declared, queue = handler.settings, handler.queue if queue is None else queue
    if not isinstance(settings, QueueSettings):
        without_jitter = QueueSettings(retry_jitter=0)
        settings = changed_settings(without_jitter, {**declared, **(settings or {})})
    return DEFAULT_QUEUE_NAME if queue is None else queue, settings


def result_of(run: HandlerRun) -> AttemptResult:
    """Return how the attempt of a job ended."""
    settlement, ended = run.held.settlement, run.ended
    if run.completion is not None and not isinstance(ended, BaseException):
        then, result = run.completion
        return AttemptResult(
            AttemptOutcome.SUCCEEDED,
            job=run.job,
            was_completed=True,
            result=None if result is None else json.loads(result),
            then=then,
        )
    ended = meaning_of(ended)
    is_error = isinstance(ended, BaseException) and not isinstance(ended, Outcome)
    return AttemptResult(
        settlement.outcome,
        job=run.job,
        delay_seconds=settlement.delay_seconds,
        error_type=settlement.error_type,
        error_message=settlement.error_message,
        error_stack=settlement.error_stack,
        error=ended if is_error and isinstance(ended, BaseException) else None,
        was_completed=run.held.was_completed,
        result=None if settlement.result is None else json.loads(settlement.result),
        then=ended.then if isinstance(ended, Done) and settlement.follow_ups else (),
    )


def _check_attempts(attempt: int, lost_attempts: int) -> None:
    for name, value, least in (("attempt", attempt, 1), ("lost_attempts", lost_attempts, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidSettingError(f"{name} is a whole number from {least}, got {value!r}")
    if lost_attempts >= attempt:
        raise InvalidSettingError(
            f"lost_attempts ({lost_attempts}) must be less than attempt ({attempt})"
        )
