"""A stand-in for the operator: its metrics from the table, without the operator.

It reads the queues and says how many replicas a rule of thumb would ask for. It scales nothing.
"""

from __future__ import annotations

import math
import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from meshhook.observability.metrics import METRICS, SIGNALS, Kind, Source

MIN_REPLICAS, MAX_REPLICAS = 1, 4
REASONS = ("MaxReplicas", "MinReplicas", "ScaleDownWindow")
MESSAGES_A_REPLICA = 30


class StandInOperator:
    """Fills every metric that only an operator exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Take the registry to add them to."""
        self._families = {
            name: _make(name, registry)
            for name, metric in METRICS.items()
            if metric.sources == (Source.OPERATOR,)
        }
        for outcome in ("ok", "error"):
            self._families["meshhook_operator_reconciles_total"].labels(outcome)
        self._replicas: dict[str, int] = {}

    def look(self, queue: str, *, ready: int, running: int, workers: int) -> None:
        """Take what a queue is like now."""
        started = time.perf_counter()
        jobqueue = f"shop/{queue}"
        signals = dict.fromkeys(SIGNALS, 0) | {
            "backlog": math.ceil(ready / MESSAGES_A_REPLICA),
            "deadline": math.ceil(ready / MESSAGES_A_REPLICA / 2),
            "arrivals": math.ceil(running / 5),
            "running": int(ready + running > 0),
        }
        asked = max(signals.values())
        desired = min(max(asked, MIN_REPLICAS), MAX_REPLICAS)
        before = self._replicas.get(queue, desired)
        self._replicas[queue] = desired
        for name, value in {
            "replicas": max(workers, before),
            "desired_replicas": desired,
            "ready_replicas": workers,
            "min_replicas": MIN_REPLICAS,
            "max_replicas": MAX_REPLICAS,
            "paused": 0,
            "ready": 1,
            "last_success_timestamp_seconds": time.time(),
        }.items():
            self._of(name, queue, jobqueue).set(value)
        for signal, replicas in signals.items():
            self._of("recommended_replicas", queue, jobqueue, signal).set(replicas)
        limits = {"MaxReplicas": asked > MAX_REPLICAS, "MinReplicas": asked < MIN_REPLICAS}
        for reason in REASONS:
            self._of("limited", queue, jobqueue, reason).set(limits.get(reason, False))
        self._of("events_total", queue, jobqueue, "up").inc(desired > before)
        self._of("events_total", queue, jobqueue, "down").inc(desired < before)
        self._families["meshhook_operator_reconciles_total"].labels("ok").inc()
        elapsed = time.perf_counter() - started
        self._families["meshhook_operator_reconcile_duration_seconds"].observe(elapsed)
        self._families["meshhook_operator_tick_duration_seconds"].observe(elapsed)

    def _of(self, name: str, *labels: str) -> Any:
        return self._families[f"meshhook_scaler_{name}"].labels(*labels)


def _make(name: str, registry: CollectorRegistry) -> Any:
    metric = METRICS[name]
    if metric.kind is Kind.HISTOGRAM:
        return Histogram(
            name, metric.help, metric.labels, buckets=metric.buckets, registry=registry
        )
    kind: Any = Counter if metric.kind is Kind.COUNTER else Gauge
    return kind(name, metric.help, metric.labels, registry=registry)
