"""The job that the running code works on, for log lines and for `get_current_job`."""

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
    """Return the job that the calling code works on, in a handler and everything it calls.

    It includes tasks that the handler starts. None outside a worker's handler.
    """
    return _current.get()


def current_fields() -> dict[str, Any]:
    """Return the log fields of the current job and span; empty if there is none."""
    job = _current.get()
    if job is not None:
        return fields_of(job)
    return _span_fields()


def fields_of(job: Job[Any]) -> dict[str, Any]:
    """Return the log fields of a job: queue, msg_id, attempt, run_id and trace_id.

    The trace is that of the attempt if it is traced and current, otherwise the one in which the job
    was enqueued, if any. Fields without a value are left out.
    """
    fields: dict[str, Any] = {"queue": job.queue, "msg_id": job.msg_id, "attempt": job.attempt}
    if job.run_id is not None:
        fields["run_id"] = job.run_id
    span_fields = _span_fields()
    if span_fields:
        return fields | span_fields
    trace_id = job.trace_id if job.headers else None
    return fields if trace_id is None else fields | {"trace_id": trace_id}


def _span_fields() -> dict[str, str]:
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {
        "trace_id": trace.format_trace_id(span.trace_id),
        "span_id": trace.format_span_id(span.span_id),
    }
