"""Metrics of the exporter: how well the queues can be read."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from meshhook.observability.metrics.buckets import STATEMENT_SECONDS
from meshhook.observability.metrics.label_values import COLLECTION_ERRORS
from meshhook.observability.metrics.metric import Kind, Metric, Source

EXPORTER_METRICS: Final = (
    Metric(
        "meshhook_exporter_last_collection_age_seconds",
        Kind.GAUGE,
        "Time since the queues were last read successfully, or since the exporter was created.",
        (Source.EXPORTER, Source.OPERATOR),
        (),
    ),
    Metric(
        "meshhook_exporter_collection_duration_seconds",
        Kind.HISTOGRAM,
        "How long reading all queues took, including failures.",
        (Source.EXPORTER, Source.OPERATOR),
        (),
        STATEMENT_SECONDS,
    ),
    Metric(
        "meshhook_exporter_collection_errors_total",
        Kind.COUNTER,
        "Failed readings of the queues, and queues that were left out, by error type.",
        (Source.EXPORTER, Source.OPERATOR),
        ("error_type",),
        values=MappingProxyType({"error_type": COLLECTION_ERRORS}),
    ),
)
