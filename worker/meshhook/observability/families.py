"""The metric families of a registry: created once, shared by everything that reports to it."""

from __future__ import annotations

import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from prometheus_client import Counter, Gauge

from meshhook.observability.histograms import Histogram
from meshhook.observability.metrics import METRICS, Kind

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Families:
    """The families that have been created in one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()

    def counter(self, name: str) -> Counter:
        """Return the counter of that name in the table."""
        found: Counter = self._family(name, Kind.COUNTER)
        return found

    def gauge(self, name: str) -> Gauge:
        """Return the gauge of that name in the table."""
        found: Gauge = self._family(name, Kind.GAUGE)
        return found

    def histogram(self, name: str) -> Histogram:
        """Return the histogram of that name in the table."""
        found: Histogram = self._family(name, Kind.HISTOGRAM)
        return found

    def show_build(self) -> None:
        """Export the running version."""
        self.gauge("meshhook_build_info").labels(version("meshhook-queue")).set(1)

    def _family(self, name: str, kind: Kind) -> Any:
        metric = METRICS[name]
        if metric.kind is not kind:
            raise TypeError(f"{name} is a {metric.kind}, not a {kind}")
        with self._lock:
            if name not in self._made:
                if kind is Kind.HISTOGRAM:
                    made: Any = Histogram(metric, self._registry)
                else:
                    maker = Counter if kind is Kind.COUNTER else Gauge
                    made = maker(name, metric.help, metric.labels, registry=self._registry)
                self._made[name] = made
            return self._made[name]


_families: WeakKeyDictionary[CollectorRegistry, Families] = WeakKeyDictionary()
_families_lock = threading.Lock()


def families_of(registry: CollectorRegistry) -> Families:
    """Return the families of a registry; a registry refuses a second metric of the same name."""
    with _families_lock:
        if registry not in _families:
            _families[registry] = Families(registry)
        return _families[registry]
