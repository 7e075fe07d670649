"""One attempt under way: its job, how it was stopped or ended, and what is recorded of it."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.outcomes import AttemptOutcome, Outcome
from meshhook.settlements import Settlement

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable

    from meshhook.jobs import Job
    from meshhook.observability.tracing import AttemptSpan
    from meshhook.queue_config import QueueSettings
    from meshhook.worker.verdicts import Verdict

_log = get_logger("meshhook.worker.attempts")


class Abort(Enum):
    """Why an attempt was stopped with no outcome of its own."""

    LEASE_LOST = auto()
    SHUTDOWN = auto()


class RunningAttempt:
    """One attempt under way."""

    __slots__ = (
        "abort",
        "began_at",
        "context",
        "ended",
        "job",
        "refusal",
        "settings",
        "span",
        "timeout",
        "under_way",
        "was_completed",
    )

    def __init__(
        self,
        job: Job[Any],
        began_at: float,
        settings: QueueSettings,
        context: contextvars.Context,
    ) -> None:
        self.job = job
        self.began_at = began_at
        """By the monotonic clock."""
        self.settings = settings
        self.context = context
        """The context variables of the attempt: its job, its span, and what the handler sets."""
        self.refusal: Verdict | None = None
        """What becomes of the job without a run."""
        self.under_way: Awaitable[object] | None = None
        """The rest of an attempt that waits for something."""
        self.ended: object = None
        """What the handler returned or raised, or why it was stopped."""
        self.timeout: asyncio.Timeout | None = None
        self.abort: Abort | None = None
        self.was_completed = False
        """Whether the handler recorded the outcome in its own transaction."""
        self.span: AttemptSpan | None = None

    def stop(self, reason: Abort) -> None:
        """Stop it where it waits next; the first reason counts."""
        # An expired timeout cancels the handler, and nothing else: the slot lives on.
        if self.abort is None:
            self.abort = reason
            if self.timeout is not None and not self.timeout.expired():
                self.timeout.reschedule(asyncio.get_running_loop().time())


def ended_with(error: BaseException) -> BaseException:
    """Return what a handler raised; raise what is meant for the process or the slot instead."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise error
        return error
    if isinstance(error, Exception | SystemExit | BaseExceptionGroup):
        return error
    raise error


def settlement_of(
    job: Job[Any], end: Verdict, started: float | None, finished: float
) -> Settlement:
    """Return the settlement of a job; times are seconds since 1970 by the database's clock."""
    # By position, since it is made for every job: the fields are those of `Settlement`, in order.
    return Settlement(
        job.msg_id,
        job.read_ct,
        job.enqueued_timestamp,
        job.attempt,
        end.outcome,
        started,
        finished,
        end.delay_seconds,
        job.run_id,
        job.workflow_id,
        job.project_id,
        end.error_type,
        end.error_message,
        end.error_stack,
        job.trace_id if job.headers else None,
    )


def log_end(job: Job[Any], end: Verdict, ended: object = None) -> None:
    """Log what became of an attempt that did not simply succeed.

    Args:
        job: its job.
        end: what becomes of it.
        ended: what its handler returned or raised. Default: it did not run.
    """
    log = _log.info
    if end.outcome in (AttemptOutcome.DEAD_LETTERED, AttemptOutcome.ARCHIVED):
        log = _log.error
    elif end.outcome is AttemptOutcome.RETRIED:
        log = _log.warning
    is_failure = isinstance(ended, BaseException) and not isinstance(ended, Outcome)
    log(
        f"attempt {end.outcome}",
        **fields_of(job),
        delay_seconds=round(end.delay_seconds, 3),
        error_type=end.error_type,
        error=end.error_message,
        **({"exc_info": ended} if is_failure else {}),
    )
