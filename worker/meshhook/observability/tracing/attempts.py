"""The spans of attempts."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind

from meshhook.observability.loggers import get_logger
from meshhook.observability.tracing.spans import MAX_LINKS, end_quietly, note_error, span_attributes
from meshhook.observability.tracing.trace_context import producer_of

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.trace import Span, Tracer

    from meshhook.jobs import Job

_log = get_logger("meshhook.tracing")


class ProducerTrace(StrEnum):
    """How the trace of an attempt relates to the trace in which its job was enqueued."""

    LINK = "link"
    """A separate trace, linked to it: a job may run much later, and several times."""
    PARENT = "parent"
    """The same trace, continued in the worker."""


class AttemptSpan:
    """The span of an attempt, or of a batch of them.

    It is current in the context where it was begun until it is ended.
    """

    __slots__ = ("_span", "_token", "context", "exemplar")

    def __init__(self, span: Span, token: Token[Context]) -> None:
        self._span = span
        self._token = token
        self.context = span.get_span_context()
        self.exemplar: dict[str, str] | None = None
        """The labels of an exemplar; None if the trace is not sampled, and so not to be found."""
        if self.context.trace_flags.sampled:
            self.exemplar = {
                "trace_id": trace.format_trace_id(self.context.trace_id),
                "span_id": trace.format_span_id(self.context.span_id),
            }

    def end(
        self,
        outcome: str,
        error_type: str | None = None,
        error_message: str | None = None,
        error: object = None,
    ) -> None:
        """End it, in the context where it was begun.

        Args:
            outcome: the outcome of the attempt; of a batch, that of all, or `mixed`.
            error_type: the type of its error; None: it did not fail.
            error_message: the error's message. Default: none.
            error: the exception that the handler raised, if any.
        """
        self._span.set_attribute("meshhook.outcome", outcome)
        if error_type is not None:
            note_error(self._span, error_type, error_message, error)
        end_quietly(self._span)
        otel_context.detach(self._token)

    def end_without_outcome(self, *, is_lost: bool) -> None:
        """End the span of an attempt whose lease was lost, or whose job was released unused."""
        if is_lost:
            self.end("lost", "LeaseLost", "the lease was lost: another worker may run the job")
        else:
            self.end("released")


class AttemptTracer:
    """Creates the spans of the attempts of one worker's queue."""

    def __init__(
        self,
        tracer: Tracer,
        queue_name: str,
        worker_name: str,
        producer_trace: ProducerTrace = ProducerTrace.LINK,
    ) -> None:
        self.tracer = tracer
        self._name = f"process {queue_name}"
        self._attributes = span_attributes("process", queue_name) | {
            "messaging.client.id": worker_name
        }
        self._producer_trace = producer_trace

    def begin(self, job: Job[Any]) -> AttemptSpan | None:
        """Begin the span of an attempt and make it current; None if that fails."""
        try:
            return self._begin(job)
        except Exception as error:  # noqa: BLE001 - whatever a processor of spans raises
            _log.warning("span not begun", error=str(error))
            return None

    def _begin(self, job: Job[Any]) -> AttemptSpan:
        producer_context, producer = producer_of(job)
        is_parent = self._producer_trace is ProducerTrace.PARENT
        span = self.tracer.start_span(
            self._name,
            # Not the current context: a worker may have been started within some span.
            context=producer_context if is_parent else Context(),
            kind=SpanKind.CONSUMER,
            attributes={
                **self._attributes,
                "messaging.message.id": str(job.msg_id),
                "meshhook.attempt": job.attempt,
            },
            links=[Link(producer)] if producer.is_valid and not is_parent else None,
        )
        return _current(span)

    def begin_batch(self, jobs: Sequence[Job[Any]]) -> AttemptSpan | None:
        """Begin the span of a batch and make it current; None if that fails.

        It is a trace of its own, whatever `producer_trace` says, since the jobs may come from
        several: it is linked to the span of each producer, of the first 128 jobs.
        """
        try:
            return self._begin_batch(jobs)
        except Exception as error:  # noqa: BLE001 - whatever a processor of spans raises
            _log.warning("span not begun", error=str(error))
            return None

    def _begin_batch(self, jobs: Sequence[Job[Any]]) -> AttemptSpan:
        producers = ((job, producer_of(job)[1]) for job in jobs if job.headers)
        links = [
            Link(producer, {"messaging.message.id": str(job.msg_id)})
            for job, producer in producers
            if producer.is_valid
        ]
        span = self.tracer.start_span(
            self._name,
            context=Context(),
            kind=SpanKind.CONSUMER,
            attributes={**self._attributes, "messaging.batch.message_count": len(jobs)},
            links=links[:MAX_LINKS],
        )
        return _current(span)


def _current(span: Span) -> AttemptSpan:
    token = otel_context.attach(trace.set_span_in_context(span, Context()))
    return AttemptSpan(span, token)
