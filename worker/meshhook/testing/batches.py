"""A batch of jobs, run without a database and judged as a worker would judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook.application.arguments import name_of
from meshhook.errors import InvalidHandlerError, InvalidSettingError
from meshhook.escaping import quoted
from meshhook.testing.attempts import AttemptResult, make_job, queue_and_settings, result_of
from meshhook.testing.handler_runs import run_handler
from meshhook.worker.handlers import JobHandler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshhook.queue_config import QueueSettings


async def run_batch(
    handler: Any,
    payloads: Sequence[Any],
    *,
    attempt: int = 1,
    queue: str | None = None,
    headers: Mapping[str, Any] | None = None,
    settings: QueueSettings | Mapping[str, Any] | None = None,
) -> list[AttemptResult]:
    """Run a handler on a batch of jobs without a database, and return what a worker would record.

    It is `run_job` for a handler of batches. The jobs have the msg_ids 1, 2 and so on.

    Args:
        handler: a handler of batches, of an app or of `create_job_handler`.
        payloads: what each job carries: a model, anything that JSON can hold, or a `WorkflowJob`.
            One at least, and no more than the handler takes.
        attempt: which attempt of each job it is, from 1. Default 1.
        queue: the queue, as in `run_job`.
        headers: the headers of each message. Default: none.
        settings: the queue's settings, as in `run_job`.

    Returns:
        The result of each job, in the order of the payloads.

    Raises:
        InvalidJobError, JobTooLargeError: if no producer could enqueue such a job.
        InvalidHandlerError, InvalidQueueNameError, InvalidSettingError: naming the argument.
    """
    if not isinstance(handler, JobHandler) or handler.batch is None:
        raise InvalidHandlerError(
            f"handler {name_of(handler)} is none of batches: declare it with batch=100, for "
            "example, or run it with run_job"
        )
    most = handler.batch.jobs
    if not isinstance(payloads, list | tuple) or not 1 <= len(payloads) <= most:
        shown = len(payloads) if isinstance(payloads, list | tuple) else quoted(payloads)
        raise InvalidSettingError(f"payloads is a list of 1 to {most}, got {shown}")
    queue, settings = queue_and_settings(handler, queue, settings)
    jobs = [
        make_job(
            payload,
            attempt=attempt,
            max_attempts=settings.max_retry_attempts,
            msg_id=msg_id,
            queue=queue,
            headers=headers,
        )
        for msg_id, payload in enumerate(payloads, start=1)
    ]
    return [result_of(run) for run in await run_handler(handler, jobs, settings)]
