"""Metrics of any program: its version, and what it enqueues."""

from __future__ import annotations

from typing import Final

from meshhook.observability.metrics.metric import Kind, Metric, Source

PROGRAM_METRICS: Final = (
    Metric(
        "meshhook_build_info",
        Kind.GAUGE,
        "Always 1; the label is the running version.",
        (Source.WORKER, Source.EXPORTER, Source.OPERATOR),
        ("version",),
    ),
    Metric(
        "meshhook_producer_messages_total",
        Kind.COUNTER,
        "Messages enqueued by this process.",
        (Source.PRODUCER, Source.WORKER),
    ),
)
