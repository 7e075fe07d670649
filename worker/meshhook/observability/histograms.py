"""Histograms for hot paths: observing appends to a list; the buckets are counted later.

The histogram of prometheus-client takes a lock and walks its buckets with each observation:
1.2 to 1.5 microseconds, against 0.1 for an append and 0.1 for its later share of the counting.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import Exemplar
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric as Family

    from meshhook.observability.metrics import Metric


class Series:
    """One series of a histogram. Any thread may observe."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: list[Exemplar | None] = [None] * (len(bounds) + 1)
        self._pending: list[float] = []
        self._lock = threading.Lock()
        self.observe = self._pending.append
        """Note a value. Callers that observe often also call `count` from time to time."""

    def observe_now(self, value: float) -> None:
        """Note a value and count it: for what happens a few times a second."""
        self.observe(value)
        self.count()

    def observe_times(self, value: float, times: int) -> None:
        """Note the same value several times."""
        self._pending.extend([value] * times)

    def observe_all(self, values: Iterable[float]) -> None:
        """Note several values."""
        self._pending.extend(values)

    def note_exemplar(self, value: float, labels: dict[str, str]) -> None:
        """Keep a value, which is also observed, as the newest exemplar of its bucket."""
        position = bisect_left(self._bounds, value)
        self._exemplars[position] = Exemplar(labels, value, time.time())

    def count(self) -> None:
        """Count the observed values, so that their list does not grow."""
        bounds, counts = self._bounds, self._counts
        with self._lock:
            # Other threads may append meanwhile: values beyond this length stay for the next count.
            length = len(self._pending)
            values = self._pending[:length]
            del self._pending[:length]
            for value in values:
                counts[bisect_left(bounds, value)] += 1
            self._sum += sum(values)

    def read(self) -> tuple[list[int], float, list[Exemplar | None]]:
        """Return the cumulative counts with that of infinity, the sum, and the exemplars."""
        self.count()
        with self._lock:
            return list(accumulate(self._counts)), self._sum, list(self._exemplars)


class Histogram(Collector):
    """A histogram with its series by label values; a series exists from its first `labels` call."""

    def __init__(self, metric: Metric, registry: CollectorRegistry) -> None:
        """Take the metric's definition, and register with `registry`."""
        self._metric = metric
        self._bounds = tuple(float(bound) for bound in metric.buckets)
        self._names = [str(bound) for bound in self._bounds] + ["+Inf"]
        self._series: dict[tuple[str, ...], Series] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Return the series of these label values, in the order of the definition."""
        if len(values) != len(self._metric.labels):
            raise ValueError(f"{self._metric.name} has labels {self._metric.labels}, got {values}")
        with self._lock:
            return self._series.setdefault(values, Series(self._bounds))

    def describe(self) -> Iterable[Family]:
        """Return the family without series."""
        return [self._metric.family()]

    def collect(self) -> Iterable[Family]:
        """Return the family with all series."""
        family = self._metric.family()
        with self._lock:
            series = list(self._series.items())
        for values, each in series:
            counts, total, exemplars = each.read()
            family.add_metric(
                values,
                [
                    (name, count) if exemplar is None else (name, count, exemplar)
                    for name, count, exemplar in zip(self._names, counts, exemplars, strict=True)
                ],
                total,
            )
        return [family]
