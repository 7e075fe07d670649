"""Traces of jobs by OpenTelemetry's messaging conventions: send, process, settle.

Without a provider no span is created, and the hot path pays nothing for it.
"""

from meshhook.observability.tracing.attempts import AttemptSpan, AttemptTracer, ProducerTrace
from meshhook.observability.tracing.sends import send_traced, send_traced_now, sending
from meshhook.observability.tracing.settlements import settling
from meshhook.observability.tracing.trace_context import trace_headers
from meshhook.observability.tracing.tracer_finder import TracerFinder

__all__ = [
    "AttemptSpan",
    "AttemptTracer",
    "ProducerTrace",
    "TracerFinder",
    "send_traced",
    "send_traced_now",
    "sending",
    "settling",
    "trace_headers",
]
