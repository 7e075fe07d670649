"""Traces of jobs by OpenTelemetry's messaging conventions: send, process, settle.

Without a provider no span is created, and the hot path pays nothing for it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NoOpTracerProvider,
    ProxyTracerProvider,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from meshhook.escaping import shown_sentence
from meshhook.observability.loggers import get_logger
from meshhook.observability.redaction import hide_in_text
from meshhook.observability.tracebacks import trace_of
from meshhook.outcomes import Outcome

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.trace import Span, Tracer, TracerProvider

    from meshhook.jobs import Job

_log = get_logger("meshhook.tracing")
_Sent = TypeVar("_Sent")

SYSTEM = "pgmq"
LOOK_AGAIN_SECONDS = 1.0
MAX_TRACE_HEADER_LENGTH = 512
_TRACE_HEADERS = ("traceparent", "tracestate")
MAX_LINKS = 128
"""How many links a span may have by the defaults of the specification."""

# W3C only, whatever OTEL_PROPAGATORS says: other PGMQ clients read and write these headers.
_propagator = TraceContextTextMapPropagator()


class ProducerTrace(StrEnum):
    """How the trace of an attempt relates to the trace in which its job was enqueued."""

    LINK = "link"
    """A separate trace, linked to it: a job may run much later, and several times."""
    PARENT = "parent"
    """The same trace, continued in the worker."""


class TracerFinder:
    """Finds the tracer to use; None while there is no provider."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Take a provider. None: the global one, as soon as one is set."""
        self._tracer = None if provider is None else _tracer_of(provider)
        self._looked_at = float("-inf")

    def find(self) -> Tracer | None:
        """Return the tracer; asks for a global provider at most once a second."""
        if self._tracer is None:
            now = time.monotonic()
            if now - self._looked_at >= LOOK_AGAIN_SECONDS:
                self._looked_at = now
                self._tracer = _tracer_of(trace.get_tracer_provider())
        return self._tracer


def _tracer_of(provider: TracerProvider) -> Tracer | None:
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return None
    return provider.get_tracer("meshhook", version("meshhook-queue"))


def _attributes(operation: str, queue_name: str) -> dict[str, Any]:
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue_name,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


@contextmanager
def sending(
    tracer: Tracer,
    queue_name: str,
    headers: Mapping[str, Any] | None,
    *,
    withholds_errors: bool = False,
) -> Iterator[tuple[Any, Span]]:
    """Trace sending messages: yield their headers with the trace added, and the span.

    Headers that already name a trace keep it. Errors are named by their type only if
    `withholds_errors`: those about a message that is encrypted may quote it.
    """
    attributes = _attributes("send", queue_name)
    with _current_span(
        tracer,
        f"send {queue_name}",
        SpanKind.PRODUCER,
        attributes,
        withholds_errors=withholds_errors,
    ) as span:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        # Headers that are not a mapping are refused when they are encoded.
        is_mapping = headers is None or isinstance(headers, Mapping)
        yield ({**carrier, **(headers or {})} if is_mapping else headers), span


def trace_headers(job: Job[Any], *, is_traced: bool) -> dict[str, str]:
    """Return the headers with which what a handler enqueues belongs to a trace.

    Args:
        job: the job of the handler.
        is_traced: whether its attempt has a span, to which the current one then belongs. If not,
            it is the trace that the job was enqueued in.
    """
    if is_traced:
        carrier: dict[str, str] = {}
        _propagator.inject(carrier)
        return carrier
    if job.trace_id is None:
        return {}
    return {
        name: value
        for name in _TRACE_HEADERS
        if isinstance(value := job.headers.get(name), str) and len(value) <= MAX_TRACE_HEADER_LENGTH
    }


def note_sent(span: Span, msg_ids: Sequence[int]) -> None:
    """Record on the span which message a send has stored, or how many."""
    if len(msg_ids) == 1:
        span.set_attribute("messaging.message.id", str(msg_ids[0]))
    else:
        span.set_attribute("messaging.batch.message_count", len(msg_ids))


async def send_traced(
    tracer: Tracer,
    destination: str,
    headers: Mapping[str, Any] | None,
    send: Callable[..., Awaitable[_Sent]],
    *arguments: object,
    withholds_errors: bool,
) -> _Sent:
    """Send messages with `send` within a span; return what it returns.

    Args:
        tracer: what makes the span.
        destination: the queue or the topic.
        headers: as they are without the trace.
        send: takes the headers and the arguments, and returns a msg_id, a list of them, or one by
            queue.
        *arguments: for `send`.
        withholds_errors: as in `sending`.
    """
    with sending(tracer, destination, headers, withholds_errors=withholds_errors) as (traced, span):
        sent = await send(traced, *arguments)
        note_sent(span, _ids_of(sent))
    return sent


def send_traced_now(
    tracer: Tracer,
    destination: str,
    headers: Mapping[str, Any] | None,
    send: Callable[[Any], _Sent],
    *,
    withholds_errors: bool,
) -> _Sent:
    """Do the same as `send_traced` without an event loop."""
    with sending(tracer, destination, headers, withholds_errors=withholds_errors) as (traced, span):
        sent = send(traced)
        note_sent(span, _ids_of(sent))
    return sent


def _ids_of(sent: object) -> Sequence[int]:
    if isinstance(sent, int):
        return (sent,)
    return [*sent.values()] if isinstance(sent, Mapping) else cast("Sequence[int]", sent)


@contextmanager
def settling(
    tracer: Tracer | None,
    queue_name: str,
    count: int,
    *,
    attempts: Iterable[SpanContext | None] = (),
    context: Context | None = None,
) -> Iterator[None]:
    """Trace settling `count` jobs in one statement.

    Args:
        tracer: makes the span; None: there is none.
        queue_name: the queue.
        count: how many jobs.
        attempts: the spans of their attempts, to link to. Default none.
        context: what it belongs to. Default: what is current.
    """
    if tracer is None:
        yield
        return
    # The jobs of a batch share a span.
    spans = {each.span_id: each for each in attempts if each is not None}
    links = [Link(attempt) for attempt in spans.values()][:MAX_LINKS]
    attributes = _attributes("settle", queue_name) | {"messaging.batch.message_count": count}
    name = f"settle {queue_name}"
    with _current_span(tracer, name, SpanKind.CLIENT, attributes, links=links, context=context):
        yield


@contextmanager
def _current_span(
    tracer: Tracer,
    name: str,
    kind: SpanKind,
    attributes: dict[str, Any],
    *,
    links: Sequence[Link] = (),
    context: Context | None = None,
    withholds_errors: bool = False,
) -> Iterator[Span]:
    """Make a span current. If tracing itself fails, the work continues without it."""
    try:
        span = tracer.start_span(
            name, context=context, kind=kind, attributes=attributes, links=links
        )
    except Exception as failure:  # noqa: BLE001 - whatever a processor of spans raises
        _log.warning("span not begun", error=str(failure))
        yield trace.INVALID_SPAN
        return
    token = otel_context.attach(trace.set_span_in_context(span))
    try:
        yield span
    except Exception as error:
        shown = None if withholds_errors else error
        _note_error(span, type(error).__qualname__, None, shown)
        raise
    finally:
        otel_context.detach(token)
        _end_quietly(span)


def _note_error(span: Span, error_type: str, message: str | None, error: object) -> None:
    # An exporter drops an attribute that is not UTF-8, and for such a status the whole batch.
    span.set_attribute("error.type", shown_sentence(error_type))
    shown_message = None if message is None else shown_sentence(message)
    span.set_status(Status(StatusCode.ERROR, shown_message))
    if isinstance(error, BaseException) and not isinstance(error, Outcome) and span.is_recording():
        try:
            # As `record_exception` would, with the secrets hidden.
            stack = trace_of(error, error.__traceback__)
            span.add_event(
                "exception",
                {
                    "exception.type": shown_sentence(_full_name(type(error))),
                    "exception.message": shown_sentence(hide_in_text(str(error))),
                    "exception.stacktrace": shown_sentence(hide_in_text(stack)),
                    "exception.escaped": "False",
                },
            )
        except Exception as failure:  # noqa: BLE001 - an exception that cannot even be shown
            _log.warning("exception not traced", error_type=error_type, error=str(failure))


def _full_name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _end_quietly(span: Span) -> None:
    try:
        span.end()
    except Exception as failure:  # noqa: BLE001 - whatever a processor of spans raises
        _log.warning("span not ended", error=str(failure))


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
            _note_error(self._span, error_type, error_message, error)
        _end_quietly(self._span)
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
        self._attributes = _attributes("process", queue_name) | {"messaging.client.id": worker_name}
        self._producer_trace = producer_trace

    def begin(self, job: Job[Any]) -> AttemptSpan | None:
        """Begin the span of an attempt and make it current; None if that fails."""
        try:
            return self._begin(job)
        except Exception as error:  # noqa: BLE001 - whatever a processor of spans raises
            _log.warning("span not begun", error=str(error))
            return None

    def _begin(self, job: Job[Any]) -> AttemptSpan:
        producer_context, producer = _producer_of(job)
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
        producers = ((job, _producer_of(job)[1]) for job in jobs if job.headers)
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


def _producer_of(job: Job[Any]) -> tuple[Context, SpanContext]:
    carrier = {
        name: value for name in _TRACE_HEADERS if isinstance(value := job.headers.get(name), str)
    }
    context = _propagator.extract(carrier, Context()) if carrier else Context()
    return context, trace.get_current_span(context).get_span_context()
