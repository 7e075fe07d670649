"""Which job the code that runs now works on: for its logs, and for whoever asks."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

if TYPE_CHECKING:
    from meshhook.jobs import Job

# One variable with the job rather than one a field: it is set for every attempt.
_current: ContextVar[Job[Any] | None] = ContextVar("meshhook_job", default=None)

set_current_job = _current.set
"""Say which job the code from here on works on, in this context; None: no job."""


def get_current_job() -> Job[Any] | None:
    """Return the job that the calling code works on, in a handler and in all that it calls.

    Also in tasks that the handler starts. None outside a worker's handler.
    """
    return _current.get()


def fields_of(job: Job[Any]) -> dict[str, Any]:
    """Return what a line about a job carries: queue, msg_id, attempt, run_id, and its trace."""
    return {
        "queue": job.queue,
        "msg_id": job.msg_id,
        "attempt": job.attempt,
        "run_id": job.run_id,
        **trace_fields(job),
    }


def trace_fields(job: Job[Any] | None) -> dict[str, str]:
    """Return the trace and span that are current, else the trace that a job was enqueued in."""
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        return {
            "trace_id": trace.format_trace_id(span.trace_id),
            "span_id": trace.format_span_id(span.span_id),
        }
    trace_id = job.trace_id if job is not None and job.headers else None
    return {} if trace_id is None else {"trace_id": trace_id}
