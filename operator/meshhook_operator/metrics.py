"""The operator's metrics: the only place where one is defined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from meshhook_operator.scaling import Limit, Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshhook_operator.scaling import Decision

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_OF_QUEUE = ("queue", "jobqueue")
DIRECTIONS = ("up", "down")


@dataclass(frozen=True, slots=True)
class _Family:
    kind: Callable[..., Any]
    help: str
    labels: tuple[str, ...] = _OF_QUEUE
    buckets: tuple[float, ...] = ()


FAMILIES: dict[str, _Family] = {
    "meshhook_scaler_replicas": _Family(Gauge, "Replicas that the Deployment asks for."),
    "meshhook_scaler_desired_replicas": _Family(Gauge, "Replicas that were decided on."),
    "meshhook_scaler_ready_replicas": _Family(Gauge, "Replicas that are ready."),
    "meshhook_scaler_min_replicas": _Family(Gauge, "The least number of replicas."),
    "meshhook_scaler_max_replicas": _Family(Gauge, "The greatest number of replicas."),
    "meshhook_scaler_recommended_replicas": _Family(
        Gauge, "Replicas that each signal asks for.", (*_OF_QUEUE, "signal")
    ),
    "meshhook_scaler_limited": _Family(
        Gauge, "1 for what keeps the replicas from the signals, else 0.", (*_OF_QUEUE, "reason")
    ),
    "meshhook_scaler_events_total": _Family(
        Counter, "Changes of the replicas.", (*_OF_QUEUE, "direction")
    ),
    "meshhook_scaler_paused": _Family(Gauge, "1 while nothing is scaled because of a pause."),
    "meshhook_scaler_ready": _Family(Gauge, "The condition Ready of the JobQueue: 1 or 0."),
    "meshhook_scaler_last_success_timestamp_seconds": _Family(
        Gauge, "When the queue was last read and acted on, in seconds since 1970."
    ),
    "meshhook_operator_reconcile_duration_seconds": _Family(
        Histogram, "How long the work on one queue took in a tick.", (), _SECONDS
    ),
    "meshhook_operator_reconciles_total": _Family(
        Counter, "Work on one queue in a tick, by outcome: ok or error.", ("outcome",)
    ),
    "meshhook_operator_tick_duration_seconds": _Family(
        Histogram, "How long one look at all queues of a database took.", (), _SECONDS
    ),
}
"""Every metric of the operator, by its name."""


class OperatorMetrics:
    """The operator's metrics; the series of a queue appear and vanish with its JobQueue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Take the registry to add them to; a registry takes them once."""
        self._families = {
            name: family.kind(
                name,
                family.help,
                family.labels,
                registry=registry,
                **({"buckets": family.buckets} if family.buckets else {}),
            )
            for name, family in FAMILIES.items()
        }
        self.reconcile_duration: Histogram = self._families[
            "meshhook_operator_reconcile_duration_seconds"
        ]
        self.tick_duration: Histogram = self._families["meshhook_operator_tick_duration_seconds"]
        reconciles = self._families["meshhook_operator_reconciles_total"]
        self.reconciles = {outcome: reconciles.labels(outcome) for outcome in ("ok", "error")}

    def of_queue(self, queue_name: str, jobqueue: str) -> QueueMetrics:
        """Return the series of one JobQueue, at zero."""
        return QueueMetrics(self._families, queue_name, jobqueue)


class QueueMetrics:
    """The series of one JobQueue."""

    def __init__(self, families: dict[str, Any], queue_name: str, jobqueue: str) -> None:
        self._families = families
        self._labels = (queue_name, jobqueue)

        def series(name: str, *more: str) -> Any:
            return families[f"meshhook_scaler_{name}"].labels(queue_name, jobqueue, *more)

        self.replicas: Gauge = series("replicas")
        self.desired: Gauge = series("desired_replicas")
        self.ready_replicas: Gauge = series("ready_replicas")
        self.min_replicas: Gauge = series("min_replicas")
        self.max_replicas: Gauge = series("max_replicas")
        self.paused: Gauge = series("paused")
        self.ready: Gauge = series("ready")
        self.last_success: Gauge = series("last_success_timestamp_seconds")
        self.events = {each: series("events_total", each) for each in DIRECTIONS}
        self._recommended = {each: series("recommended_replicas", each.value) for each in Signal}
        self._limited = {each: series("limited", each.value) for each in Limit}

    def decided(self, decision: Decision) -> None:
        """Take what a decision says."""
        self.desired.set(decision.desired_replicas)
        for signal, gauge in self._recommended.items():
            gauge.set(decision.recommended.get(signal, 0))
        for limit, gauge in self._limited.items():
            gauge.set(1 if decision.limit is limit else 0)

    def remove(self) -> None:
        """Take the series away: the JobQueue is gone."""
        queue_name, jobqueue = self._labels
        for name, family in self._families.items():
            if FAMILIES[name].labels[:2] == _OF_QUEUE:
                family.remove_by_labels({"queue": queue_name, "jobqueue": jobqueue})
