"""The spans of sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from opentelemetry.trace import SpanKind

from meshhook.observability.tracing.spans import current_span, span_attributes
from meshhook.observability.tracing.trace_context import PROPAGATOR

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_Sent = TypeVar("_Sent")


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
    attributes = span_attributes("send", queue_name)
    with current_span(
        tracer,
        f"send {queue_name}",
        SpanKind.PRODUCER,
        attributes,
        withholds_errors=withholds_errors,
    ) as span:
        carrier: dict[str, str] = {}
        PROPAGATOR.inject(carrier)
        # Headers that are not a mapping are refused when they are encoded.
        is_mapping = headers is None or isinstance(headers, Mapping)
        yield ({**carrier, **(headers or {})} if is_mapping else headers), span


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
