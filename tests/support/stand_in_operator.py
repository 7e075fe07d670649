"""A stand-in for the operator where there is no Kubernetes.

It decides with the operator's own scaler and exports the operator's own metrics. Only the cluster
is missing: the workers are processes, and it counts as replicas those that report.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

import asyncpg
from prometheus_client import CollectorRegistry

from meshhook_operator.metrics import OperatorMetrics, QueueMetrics
from meshhook_operator.scaling import (
    Fleet,
    Sample,
    ScalerState,
    ScalingSpec,
    WorkerReport,
    decide,
)

SPEC = ScalingSpec(max_replicas=4, target_age_seconds=20, tick_seconds=1)
NAMESPACE = "shop"

_WORKERS = """
    select worker, concurrency, running, processed, busy_seconds, draining,
        extract(epoch from seen_at)::float8 as seen_at
    from meshhook.workers
    where queue = $1 and seen_at > now() - interval '30 seconds'
"""


class StandInOperator:
    """Decides how many workers each queue needs, once a call."""

    def __init__(self, connection: asyncpg.Connection[Any], registry: CollectorRegistry) -> None:
        """Take a connection of its own and the registry to add its metrics to."""
        self._connection = connection
        self._metrics = OperatorMetrics(registry)
        self._queues: dict[str, tuple[QueueMetrics, ScalerState]] = {}
        self._started_at = time.monotonic()

    async def tick(self, only: Collection[str] = ()) -> Mapping[str, int]:
        """Look at queues, all or only some, and return how many workers each should have."""
        started = time.perf_counter()
        rows = await self._connection.fetch(
            "select *, extract(epoch from sampled_at)::float8 as moment"
            " from meshhook.queue_monitoring"
        )
        desired = {
            row["queue"]: await self._reconcile(row)
            for row in rows
            if not only or row["queue"] in only
        }
        self._metrics.tick_duration.observe(time.perf_counter() - started)
        return desired

    async def _reconcile(self, row: asyncpg.Record) -> int:
        started, queue = time.perf_counter(), row["queue"]
        workers = [
            WorkerReport(**dict(worker.items()))
            for worker in await self._connection.fetch(_WORKERS, queue)
        ]
        if queue not in self._queues:
            metrics = self._metrics.of_queue(queue, f"{NAMESPACE}/{queue}")
            state = ScalerState.begin(time.monotonic())
            self._queues[queue] = metrics, state
        metrics, state = self._queues[queue]
        before = len(workers) if state.desired is None else state.desired
        fleet = Fleet(
            replicas=before,
            ready_replicas=len(workers),
            created_at=self._started_at,
            paused=row["paused"],
        )
        decision, state = decide(SPEC, _sample(row, workers), fleet, state, time.monotonic())
        self._queues[queue] = metrics, state
        metrics.decided(decision)
        metrics.set(
            replicas=before,
            ready_replicas=len(workers),
            min_replicas=SPEC.min_replicas,
            max_replicas=SPEC.max_replicas,
            paused=row["paused"],
            ready=1,
            last_success_timestamp_seconds=time.time(),
        )
        if decision.desired_replicas != before:
            metrics.scaled("up" if decision.desired_replicas > before else "down")
        self._metrics.reconciled(is_well=True)
        self._metrics.reconcile_duration.observe(time.perf_counter() - started)
        return decision.desired_replicas


def _sample(row: asyncpg.Record, workers: list[WorkerReport]) -> Sample:
    return Sample(
        sampled_at=row["moment"],
        ready=row["ready"],
        ready_is_capped=row["capped"],
        lost=row["lost"],
        due_soon=row["retrying"],
        leased=row["running"],
        oldest_ready_seconds=row["oldest_ready_seconds"],
        enqueued_total=row["enqueued_total"],
        workers=tuple(workers),
    )
