"""Spans that cannot harm the work: a failure of tracing is logged, and the work goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from meshhook.escaping import shown_sentence
from meshhook.observability.loggers import get_logger
from meshhook.observability.redaction import hide_in_text
from meshhook.observability.tracebacks import trace_of
from meshhook.outcomes import Outcome

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_log = get_logger("meshhook.tracing")

SYSTEM = "pgmq"
MAX_LINKS = 128
"""How many links a span may have by the defaults of the specification."""


def span_attributes(operation: str, queue_name: str) -> dict[str, Any]:
    """Return what every span of ours says."""
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue_name,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


@contextmanager
def current_span(
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
        note_error(span, type(error).__qualname__, None, shown)
        raise
    finally:
        otel_context.detach(token)
        end_quietly(span)


def note_error(span: Span, error_type: str, message: str | None, error: object) -> None:
    """Give a span the status of an error, and the exception as an event if there is one."""
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


def end_quietly(span: Span) -> None:
    """End a span; a failure to do so is only logged."""
    try:
        span.end()
    except Exception as failure:  # noqa: BLE001 - whatever a processor of spans raises
        _log.warning("span not ended", error=str(failure))
