"""The operator's series. The library's table of metrics declares each family."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from meshhook.observability.families import families_of
from meshhook.observability.metrics.label_values import KEPT_BACK_REASONS
from meshhook_operator.scaling import Limit, Signal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry, Counter, Gauge

    from meshhook.observability.families import Families
    from meshhook_operator.scaling import Decision

_GAUGES = (
    "replicas",
    "desired_replicas",
    "ready_replicas",
    "min_replicas",
    "max_replicas",
    "paused",
    "ready",
    "last_success_age_seconds",
)
_DIRECTIONS = ("up", "down")


class OperatorMetrics:
    """The operator's metrics. The series of a queue exist as long as its JobQueue does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families = families_of(registry)
        self._families.show_build()
        self.reconcile_duration = self._families.histogram(
            "meshhook_operator_reconcile_duration_seconds"
        ).labels()
        self.tick_duration = self._families.histogram(
            "meshhook_operator_tick_duration_seconds"
        ).labels()
        reconciles = self._families.counter("meshhook_operator_reconciles_total")
        self.leading = self._families.gauge("meshhook_operator_leading")
        self.unserved_namespaces = self._families.gauge("meshhook_operator_unserved_namespaces")
        self._reconciles = {outcome: reconciles.labels(outcome) for outcome in ("ok", "error")}

    def reconciled(self, *, is_well: bool) -> None:
        """Count the work on one queue in a tick."""
        self._reconciles["ok" if is_well else "error"].inc()

    def of_jobqueue(self, queue_name: str, jobqueue: str) -> JobQueueMetrics:
        """Return the series of one JobQueue, at zero.

        Args:
            queue_name: the queue.
            jobqueue: as namespace/name.
        """
        return JobQueueMetrics(self._families, queue_name, jobqueue)


class JobQueueMetrics:
    """The series of one JobQueue."""

    def __init__(self, families: Families, queue_name: str, jobqueue: str) -> None:
        self._labels = (queue_name, jobqueue)
        self._families: list[tuple[Counter | Gauge, list[tuple[str, ...]]]] = []

        def gauge(name: str, values: tuple[str, ...] = ()) -> dict[str, Gauge]:
            family = families.gauge(f"meshhook_scaler_{name}")
            return self._series(family, values)

        self._gauges = {name: gauge(name)[""] for name in _GAUGES}
        self._succeeded_at = time.monotonic()
        self._gauges["last_success_age_seconds"].set_function(
            lambda: time.monotonic() - self._succeeded_at
        )
        self._recommended = gauge("recommended_replicas", tuple(each.value for each in Signal))
        self._limited = gauge("limited", tuple(each.value for each in Limit))
        self._kept_back = gauge("kept_back", KEPT_BACK_REASONS)
        self._failing_pods = families.gauge("meshhook_scaler_failing_pods")
        self._failing: dict[str, Gauge] = {}
        self._scaled: dict[str, Counter] = self._series(
            families.counter("meshhook_scaler_events_total"), _DIRECTIONS
        )

    def set(self, **values: float) -> None:
        """Set gauges, by their names without `meshhook_scaler_`."""
        for name, value in values.items():
            self._gauges[name].set(value)

    def succeeded(self) -> None:
        """Note that a decision was made from fresh data."""
        self._succeeded_at = time.monotonic()

    def scaled(self, direction: str) -> None:
        """Count a change of the replicas: `up` or `down`."""
        self._scaled[direction].inc()

    def decided(self, decision: Decision) -> None:
        """Show a decision."""
        self._gauges["desired_replicas"].set(decision.desired_replicas)
        for signal in Signal:
            self._recommended[signal.value].set(decision.recommended.get(signal, 0))
        for limit in Limit:
            self._limited[limit.value].set(decision.limit is limit)

    def kept_back(
        self, *, by_holds: int, by_key_limits: int, by_order: int, by_queue_limit: int
    ) -> None:
        """Show how many messages are kept back, by the reason."""
        counts = (by_holds, by_key_limits, by_order, by_queue_limit)
        for reason, count in zip(KEPT_BACK_REASONS, counts, strict=True):
            self._kept_back[reason].set(count)

    def pods_failed(self, failing: Mapping[str, int]) -> None:
        """Show how many pods have each problem; a problem has no series before it first occurs."""
        for problem in failing.keys() - self._failing.keys():
            self._failing |= self._series(self._failing_pods, (problem,))
        for problem, gauge in self._failing.items():
            gauge.set(failing.get(problem, 0))

    def remove(self) -> None:
        """Remove the series: the JobQueue is gone."""
        for family, series in self._families:
            for labels in series:
                family.remove(*labels)

    def _series(self, family: Any, values: tuple[str, ...]) -> dict[str, Any]:
        """Make a series for each value of the last label, or one, under no name, without it."""
        labels: list[tuple[str, ...]] = [(*self._labels, value) for value in values]
        labels = labels or [self._labels]
        self._families.append((family, labels))
        return dict(zip(values or ("",), (family.labels(*each) for each in labels), strict=True))
