"""The context of a trace in the headers of messages, as W3C has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from meshhook.jobs import Job

# W3C only, whatever OTEL_PROPAGATORS says: other PGMQ clients read and write these headers.
PROPAGATOR = TraceContextTextMapPropagator()
MAX_TRACE_HEADER_LENGTH = 512
_TRACE_HEADERS = ("traceparent", "tracestate")


def trace_headers(job: Job[Any], *, is_traced: bool) -> dict[str, str]:
    """Return the headers with which what a handler enqueues belongs to a trace.

    Args:
        job: the job of the handler.
        is_traced: whether its attempt has a span, to which the current one then belongs. If not,
            it is the trace that the job was enqueued in.
    """
    if is_traced:
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        return carrier
    if job.trace_id is None:
        return {}
    return {
        name: value
        for name in _TRACE_HEADERS
        if isinstance(value := job.headers.get(name), str) and len(value) <= MAX_TRACE_HEADER_LENGTH
    }


def producer_of(job: Job[Any]) -> tuple[Context, SpanContext]:
    """Return the context in which a job was enqueued, and its span; invalid if there is none."""
    carrier = {
        name: value for name in _TRACE_HEADERS if isinstance(value := job.headers.get(name), str)
    }
    context = PROPAGATOR.extract(carrier, Context()) if carrier else Context()
    return context, trace.get_current_span(context).get_span_context()
