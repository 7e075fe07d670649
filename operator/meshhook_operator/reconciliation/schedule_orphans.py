"""JobSchedules that refer to no JobQueue that there is: nobody else would tell them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook_operator.api.conditions import Finding
from meshhook_operator.api.schedule_spec import NOT_FOUND
from meshhook_operator.reconciliation.schedule_reporter import ScheduleReporter

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from meshhook_operator.api.jobqueue import ObjectKey
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.reconciliation.jobschedules import JobScheduleTable


class ScheduleOrphans:
    """Tells JobSchedules that their JobQueue does not exist, the second time it is missing."""

    def __init__(
        self, *, cluster: Cluster, table: JobScheduleTable, clock: Callable[[], float]
    ) -> None:
        """Take the Kubernetes API, all JobSchedules, and seconds since 1970."""
        self._table = table
        self._reporter = ScheduleReporter(cluster=cluster, table=table, clock=clock)
        self._missing: set[str] = set()

    async def tell(
        self, jobqueues: Container[ObjectKey], serves: Callable[[ObjectKey], bool]
    ) -> None:
        """Write the status of those whose JobQueue has been missing since the last call.

        Args:
            jobqueues: all that there are.
            serves: whether this process works on an object.
        """
        missing = [
            each
            for each in self._table
            if each.jobqueue_key not in jobqueues and not each.is_deleting and serves(each.key)
        ]
        for jobschedule in missing:
            if jobschedule.uid in self._missing:
                await self._reporter.report(jobschedule, _finding_of(jobschedule.jobqueue_key))
        self._missing = {each.uid for each in missing}


def _finding_of(key: ObjectKey | None) -> Finding:
    if key is None:
        message = "spec.jobQueueRef.name: Field required"
        return Finding(holds=False, reason="InvalidSpec", message=message)
    message = (
        f"spec.jobQueueRef: JobQueue {key.name!r} does not exist in this namespace. Create it, or "
        "correct the name. A schedule that was stored before stays in its queue"
    )
    return Finding(holds=False, reason=NOT_FOUND, message=message)
