"""The spans of settlements."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind

from meshhook.observability.tracing.spans import MAX_LINKS, current_span, span_attributes

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


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
    attributes = span_attributes("settle", queue_name) | {"messaging.batch.message_count": count}
    name = f"settle {queue_name}"
    with current_span(tracer, name, SpanKind.CLIENT, attributes, links=links, context=context):
        yield
