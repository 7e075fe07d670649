"""JobSchedules of one JobQueue, with what an operator makes of them in a real database."""

from __future__ import annotations

from typing import Any, cast

from prometheus_client import CollectorRegistry

from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
from meshhook_operator.reconciliation.queue_schedules import QueueSchedules
from meshhook_operator.reconciliation.schedule_reporter import ScheduleReporter
from support.jobschedules import jobschedule
from support.recorded_cluster import RecordedCluster

KEY = ObjectKey("shop", "jobs")
NIGHTLY = ObjectKey("shop", "nightly")
NOW = 1_800_000_000.0


def make(url: str) -> QueueDatabase:
    """Return the operator's view of a database."""
    return QueueDatabase(
        DatabaseAddress(url, pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )


class Declared:
    """The JobSchedules of one JobQueue, and what the operator makes of them."""

    def __init__(self, database: QueueDatabase) -> None:
        self.database = database
        self.cluster = RecordedCluster()
        self.jobqueues = {KEY}
        """The JobQueues that there are."""
        self.table = JobScheduleTable(
            on_change=lambda _: self.schedules.requeue(),
            has_jobqueue=lambda key: key in self.jobqueues,
        )
        self.schedules = self.started()
        self.table.is_listed = True

    def started(self) -> QueueSchedules:
        """Return what an operator that has just started works with."""
        cluster = cast("Any", self.cluster)
        return QueueSchedules(
            KEY,
            table=self.table,
            reporter=ScheduleReporter(cluster=cluster, table=self.table, clock=lambda: NOW),
            check_may_write=self._check_may_write,
        )

    def _check_may_write(self, namespace: str) -> None:
        self.cluster.check_may_write(namespace)

    async def ensure(self) -> None:
        """Let the operator look."""
        await self.schedules.ensure("jobs", self.database)

    async def declare(self, name: str = "nightly", **changes: Any) -> None:
        """Create or change a JobSchedule, and let the operator look."""
        self.table.update(jobschedule(name, **changes))
        await self.ensure()

    def state(self, name: str = "nightly") -> str | None:
        """Return the reason of Ready."""
        condition = self.cluster.condition(ObjectKey("shop", name))
        return condition["reason"] if condition else None
