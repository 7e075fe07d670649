"""One metric: its name, kind, labels, and the programs that export it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily


class Kind(StrEnum):
    """The type of a metric, in Prometheus's terms."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Source(StrEnum):
    """The program that exports a metric."""

    WORKER = "worker"
    PRODUCER = "producer"
    EXPORTER = "exporter"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of series."""

    name: str
    """The exported name; for a histogram, without `_bucket`, `_sum` and `_count`."""
    kind: Kind
    help: str
    """One sentence; the unit is part of the name."""
    sources: tuple[Source, ...]
    labels: tuple[str, ...] = ("queue",)
    buckets: tuple[float, ...] = ()
    """A histogram's upper bounds, without infinity."""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Labels whose values are known in advance, and these values."""

    def family(self) -> Any:
        """Return an empty `…MetricFamily` of this metric, for a collector to fill."""
        makers: dict[Kind, Any] = {
            Kind.COUNTER: CounterMetricFamily,
            Kind.GAUGE: GaugeMetricFamily,
            Kind.HISTOGRAM: HistogramMetricFamily,
        }
        return makers[self.kind](self.name, self.help, labels=self.labels)
