"""A stand-in for the operator where there is no Kubernetes.

It decides with the operator's own scaler and exports the operator's own metrics. Only the cluster
is missing: the workers are processes, and it counts as replicas those that report.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from prometheus_client import CollectorRegistry

from meshhook.postgres.database import Database
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, read_demand
from meshhook_operator.metrics import JobQueueMetrics, OperatorMetrics
from meshhook_operator.scaling import Fleet, ScalerState, ScalingSpec, decide, lookahead_seconds

SPEC = ScalingSpec(max_replicas=4, target_age_seconds=20, tick_seconds=1)
NAMESPACE = "shop"


class StandInOperator:
    """Decides how many workers each queue needs, once a call."""

    def __init__(self, database: Database, registry: CollectorRegistry) -> None:
        """Take the database and the registry to add its metrics to."""
        self._database = database
        self._metrics = OperatorMetrics(registry)
        self._queues: dict[str, tuple[JobQueueMetrics, ScalerState]] = {}
        self._started_at = time.monotonic()

    async def tick(self, only: Collection[str] = ()) -> Mapping[str, int]:
        """Look at queues, all or only some, and return how many workers each should have."""
        started = time.perf_counter()
        rows = await self._database.fetch("select queue_name from meshhook.queue_config")
        requests = [
            self._request(row["queue_name"])
            for row in rows
            if not only or row["queue_name"] in only
        ]
        found = await read_demand(self._database, requests, waiting_seconds=SPEC.tick_seconds)
        desired = {}
        for queue, demand in found.items():
            assert isinstance(demand, QueueDemand), demand
            desired[queue] = self._reconcile(queue, demand)
        self._metrics.tick_duration.observe(time.perf_counter() - started)
        return desired

    def _request(self, queue: str) -> DemandRequest:
        if queue not in self._queues:
            metrics = self._metrics.of_jobqueue(queue, f"{NAMESPACE}/{queue}")
            self._queues[queue] = metrics, ScalerState.begin(time.monotonic())
        _, state = self._queues[queue]
        return DemandRequest(queue, lookahead_seconds(SPEC, state))

    def _reconcile(self, queue: str, demand: QueueDemand) -> int:
        started = time.perf_counter()
        metrics, state = self._queues[queue]
        workers, paused = demand.sample.workers, bool(demand.settings["paused"])
        before = len(workers) if state.desired is None else state.desired
        fleet = Fleet(
            replicas=before,
            ready_replicas=len(workers),
            created_at=self._started_at,
            paused=paused,
        )
        decision, state = decide(SPEC, demand.sample, fleet, state, time.monotonic())
        self._queues[queue] = metrics, state
        metrics.decided(decision)
        metrics.set(
            replicas=before,
            ready_replicas=len(workers),
            min_replicas=SPEC.min_replicas,
            max_replicas=SPEC.max_replicas,
            paused=paused,
            ready=1,
        )
        metrics.pods_failed({"WorkersNotReady": max(0, before - len(workers))})
        metrics.succeeded()
        if decision.desired_replicas != before:
            metrics.scaled("up" if decision.desired_replicas > before else "down")
        self._metrics.reconciled(is_well=True)
        self._metrics.reconcile_duration.observe(time.perf_counter() - started)
        return decision.desired_replicas
