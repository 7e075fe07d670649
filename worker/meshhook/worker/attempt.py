"""A handler that was called, and one attempt: its job, why it was stopped, what is recorded."""

from __future__ import annotations

import asyncio
import signal
import threading
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from meshhook.jobs import GROUP_HEADER, has_links
from meshhook.observability.job_context import fields_of
from meshhook.observability.loggers import get_logger
from meshhook.observability.tracebacks import is_short, trace_of
from meshhook.outcomes import AttemptOutcome, Outcome
from meshhook.store.settlements import Settlement

if TYPE_CHECKING:
    import contextvars
    from collections.abc import Awaitable, Sequence

    from meshhook.cancellation import Cancellation
    from meshhook.jobs import Job, JobKey
    from meshhook.observability.tracing import AttemptSpan
    from meshhook.queue_config import QueueSettings
    from meshhook.worker.verdicts import Verdict

_log = get_logger("meshhook.worker.attempt")

_RAISE_INTERRUPTS = ("asyncio.runners", "meshhook.worker.signal_handlers")
"""Where a second Ctrl-C is raised if the first one was taken as a request to stop."""


TIMEOUT_LEASE_MARGIN_SECONDS = 10.0


class Abort(Enum):
    """Why an attempt was stopped. Only one that is cancelled has an outcome."""

    CANCELLED = auto()
    LEASE_LOST = auto()
    SHUTDOWN = auto()


class HandlerCall:
    """A handler that was called, for one job or for a batch of them."""

    __slots__ = (
        "abort",
        "began_at",
        "context",
        "ended",
        "is_in_thread",
        "settings",
        "span",
        "timeout",
        "under_way",
    )

    def __init__(
        self, began_at: float, settings: QueueSettings, context: contextvars.Context
    ) -> None:
        self.began_at = began_at
        """By the monotonic clock."""
        self.settings = settings
        self.context = context
        """Its context variables: the job, the span, and what the handler sets."""
        self.under_way: Awaitable[object] | None = None
        """What is left of it, if it waits."""
        self.ended: object = None
        """What the handler returned or raised, or why it was stopped."""
        self.timeout: asyncio.Timeout | None = None
        self.abort: Abort | None = None
        self.is_in_thread = False
        """Whether it runs in a thread, which cannot be stopped."""
        self.span: AttemptSpan | None = None

    @property
    def keys(self) -> Sequence[JobKey]:
        """The keys of its jobs."""
        raise NotImplementedError

    def stop(self, reason: Abort) -> None:
        """Stop it at its next await. The first reason counts."""
        # An expired timeout cancels only the handler; the slot goes on.
        if self.abort is None:
            self.abort = reason
            if self.timeout is not None and not self.timeout.expired():
                self.timeout.reschedule(asyncio.get_running_loop().time())


class Attempt(HandlerCall):
    """One attempt under way."""

    __slots__ = ("completed_key", "job", "refusal", "was_completed")

    def __init__(
        self,
        job: Job[Any],
        began_at: float,
        settings: QueueSettings,
        context: contextvars.Context,
    ) -> None:
        super().__init__(began_at, settings, context)
        self.job = job
        self.refusal: Verdict | None = None
        """The verdict on a job that does not run."""
        self.was_completed = False
        """Whether the handler recorded the outcome in its own transaction."""
        self.completed_key: str | None = None
        """The key of the message it did so for, if the keys have breakers."""

    @property
    def keys(self) -> Sequence[JobKey]:
        """The key of its job."""
        return (self.job.key,)

    def may_keep_lease(self, now: float) -> bool:
        """Return whether its lease may still be extended: until shortly after its time limit.

        `now` is by the monotonic clock. Can be called from any thread.
        """
        timeout_seconds = self.settings.job_timeout_seconds
        if timeout_seconds is None:
            return True
        return now < self.began_at + timeout_seconds + TIMEOUT_LEASE_MARGIN_SECONDS

    def cancel(self, cancellation: Cancellation) -> None:
        """Tell the handler that its job is to be cancelled, and stop it if it can be stopped."""
        if self.was_completed:
            return
        self._note(cancellation)
        if not self.is_in_thread:
            self.stop(Abort.CANCELLED)

    def _note(self, cancellation: Cancellation) -> None:
        if self.job.cancellation is None:
            self.job.cancellation = cancellation
            _log.info(
                "job is to be cancelled",
                **fields_of(self.job),
                requested_by=cancellation.requested_by,
                reason=cancellation.reason,
            )


def is_meant_for_slot(
    error: BaseException, slot: asyncio.Task[object] | None, owner: asyncio.Task[object] | None
) -> bool:
    """Return whether an exception from a handler is meant for its slot, and not for its job.

    Args:
        error: the exception.
        slot: the slot's task.
        owner: the task that stops the slots; None while they are being stopped.
    """
    if isinstance(error, asyncio.CancelledError):
        # Anyone can cancel the slot's task, above all the handler; only its owner means it.
        return owner is None or owner.done() or bool(owner.cancelling())
    if isinstance(error, GeneratorExit):
        # Raised when Python closes a coroutine that no task runs any more.
        return not _is_current(slot)
    return is_ctrl_c(error)


def is_ctrl_c(error: BaseException) -> bool:
    """Return whether an error may come from the keyboard rather than from the handler's own code.

    It cannot while a signal handler takes Ctrl-C, as in `Worker.run`.
    """
    if not isinstance(error, KeyboardInterrupt):
        return False
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        return True
    tail = error.__traceback__
    while tail is not None and tail.tb_next is not None:
        tail = tail.tb_next
    return tail is not None and tail.tb_frame.f_globals.get("__name__") in _RAISE_INTERRUPTS


def _is_current(slot: asyncio.Task[object] | None) -> bool:
    try:
        return slot is not None and asyncio.current_task() is slot
    except RuntimeError:  # no event loop runs
        return False


def settlement_of(
    job: Job[Any],
    end: Verdict,
    started: float | None,
    finished: float,
    *,
    keeps_results: bool = False,
    has_follow_up: bool = False,
) -> Settlement:
    """Return the settlement of a job; times are seconds since 1970 by the database's clock.

    `has_follow_up` says whether a job may follow if this one becomes a dead letter.
    """
    has_header, group_id = False, None
    if job.headers and has_links(job.headers):
        has_header = True
        group = job.headers.get(GROUP_HEADER)
        group_id = group if isinstance(group, str) else None
    # By position, because this runs for every job. The fields are those of `Settlement`, in order.
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
        keeps_results
        or bool(end.follow_ups)
        or has_header
        or (has_follow_up and end.outcome is AttemptOutcome.DEAD_LETTERED),
        end.follow_ups,
        end.result,
        group_id,
    )


def log_end(job: Job[Any], end: Verdict, ended: object = None) -> None:
    """Log the verdict on an attempt that did not simply succeed.

    Args:
        job: its job.
        end: the verdict.
        ended: what its handler returned or raised. Default: it did not run.
    """
    log = _log.info
    if end.outcome in (AttemptOutcome.DEAD_LETTERED, AttemptOutcome.ARCHIVED):
        log = _log.error
    elif end.outcome in (AttemptOutcome.RETRIED, AttemptOutcome.EXPIRED):
        log = _log.warning
    fields = fields_of(job) | {
        "delay_seconds": round(end.delay_seconds, 3),
        "error_type": end.error_type,
        "error": end.error_message,
    }
    is_failure = isinstance(ended, BaseException) and not isinstance(ended, Outcome)
    try:
        log(f"attempt {end.outcome}", **fields, **(_shown(ended) if is_failure else {}))
    except BaseException as error:
        if not is_failure or is_ctrl_c(error):
            raise
        log(f"attempt {end.outcome}", **fields)


def _shown(error: Any) -> dict[str, Any]:
    """Return an exception as a field of a record. Whoever formats a long one blocks the loop."""
    if is_short(error):
        return {"exc_info": error}
    return {"exception": trace_of(error, error.__traceback__)}
