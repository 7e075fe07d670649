"""A JobQueue that is reconciled against a recorded cluster, tick by tick."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

from prometheus_client import CollectorRegistry

from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.databases.database import QueueDatabase
from meshhook_operator.databases.demand import DemandRequest
from meshhook_operator.metrics import OperatorMetrics
from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
from meshhook_operator.reconciliation.reconciler import JobQueueReconciler
from meshhook_operator.reconciliation.sources import Source
from support.jobqueues import deployment, jobqueue
from support.recorded_cluster import RecordedCluster


class Reconciled:
    """The JobQueue of queue `jobs`, with a Deployment of which nothing is to be scaled."""

    def __init__(
        self,
        database: QueueDatabase,
        *,
        name: str = "emails",
        cluster: RecordedCluster | None = None,
        jobschedules: JobScheduleTable | None = None,
        **spec: Any,
    ) -> None:
        """Take the database, and fields of the spec.

        Args:
            database: where the queue is.
            name: of the JobQueue.
            cluster: where it is reported. Default: one of its own.
            jobschedules: all JobSchedules. Default: none.
            spec: fields of the spec.
        """
        self._name = name
        self.database = database
        self.cluster = cluster or RecordedCluster()
        self.declared = self._jobqueue(**spec)
        self.reconciler = JobQueueReconciler(
            self.declared,
            cluster=cast("Any", self.cluster),
            metrics=OperatorMetrics(CollectorRegistry()),
            find_conflict=lambda _: None,
            clock=time.time,
            jobschedules=jobschedules,
        )
        self.reconciler._workers.fleet.is_known = True
        self.reconciler.on_deployment_changed(deployment())

    def _jobqueue(self, **spec: Any) -> JobQueue:
        found = jobqueue(
            self._name,
            queueName="jobs",
            worker=None,
            deploymentRef={"name": "emails-worker"},
            # As many as there are, so that nothing is scaled.
            scaling={"minReplicas": 1, "maxReplicas": 1},
            **spec,
        )
        assert not found.problem
        return found

    def change(self, **spec: Any) -> None:
        """Take another spec."""
        generation = self.reconciler.jobqueue.generation + 1
        self.reconciler.on_jobqueue_changed(replace(self._jobqueue(**spec), generation=generation))

    async def reason(self) -> tuple[str, str]:
        """Reconcile it once, and return the status and the reason of Ready."""
        request = DemandRequest("jobs", lookahead_seconds=10)
        found = await self.database.read_demand([request], waiting_seconds=1)
        await self.reconciler.reconcile(found["jobs"], Source(self.database, None))
        condition = self.cluster.condition(self.declared.key)
        assert condition is not None
        return condition["status"], condition["reason"]

    async def is_operating(self) -> bool:
        """Reconcile it once, and return whether all is as declared."""
        return await self.reason() == ("True", "Operating")
