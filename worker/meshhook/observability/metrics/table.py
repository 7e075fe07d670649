"""The table of metrics: the single definition of each metric, whichever program exports it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from meshhook.observability.metrics.exporter import EXPORTER_METRICS
from meshhook.observability.metrics.metric import Metric
from meshhook.observability.metrics.operator import OPERATOR_METRICS
from meshhook.observability.metrics.programs import PROGRAM_METRICS
from meshhook.observability.metrics.queues import QUEUE_METRICS
from meshhook.observability.metrics.schedules import SCHEDULE_METRICS
from meshhook.observability.metrics.worker import WORKER_METRICS

METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            *WORKER_METRICS,
            *PROGRAM_METRICS,
            *QUEUE_METRICS,
            *SCHEDULE_METRICS,
            *EXPORTER_METRICS,
            *OPERATOR_METRICS,
        )
    }
)
"""Every metric, by its name."""
