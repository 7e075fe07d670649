"""The reconcilers of all JobQueues: by name, by Deployment, by queue; and their conflicts."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from meshhook_operator.reconciliation.conflicts import Claims

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence

    from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
    from meshhook_operator.databases.database import DatabaseAddress
    from meshhook_operator.reconciliation.conflicts import Conflict
    from meshhook_operator.reconciliation.reconciler import JobQueueReconciler


class JobQueueTable:
    """One reconciler for each JobQueue that exists."""

    def __init__(self, database_name: Callable[[JobQueueReconciler], Hashable | None]) -> None:
        """Take what names the database of a JobQueue; None if that is not known."""
        self._database_name = database_name
        self._by_key: dict[ObjectKey, JobQueueReconciler] = {}
        self._by_deployment: defaultdict[ObjectKey, list[JobQueueReconciler]] = defaultdict(list)
        self._by_queue: defaultdict[
            tuple[DatabaseAddress | None, str], list[JobQueueReconciler]
        ] = defaultdict(list)
        """As they were at the last `refresh`."""
        self._claims = Claims((), {})
        self.is_stale = False
        """Whether something has changed that conflicts depend on, so that `refresh` has work."""
        self._hpas: Mapping[ObjectKey, Iterable[str]] = {}
        self._deleted_hpas: frozenset[tuple[ObjectKey, str]] = frozenset()

    def __iter__(self) -> Iterator[JobQueueReconciler]:
        """Yield the reconcilers."""
        return iter(self._by_key.values())

    def get(self, key: ObjectKey) -> JobQueueReconciler | None:
        """Return the reconciler of a JobQueue; None if there is none."""
        return self._by_key.get(key)

    def of_deployment(self, key: ObjectKey) -> Sequence[JobQueueReconciler]:
        """Return those that scale a Deployment."""
        return self._by_deployment.get(key, ())

    def of_queue(self, address: DatabaseAddress, queue_name: str) -> Sequence[JobQueueReconciler]:
        """Return those of a queue, as they were at the last `refresh`."""
        return self._by_queue.get((address, queue_name), ())

    def add(self, reconciler: JobQueueReconciler) -> None:
        """Add the reconciler of a new JobQueue."""
        self._by_key[reconciler.jobqueue.key] = reconciler
        self._add_deployment(reconciler)
        self.is_stale = True

    def update(self, reconciler: JobQueueReconciler, jobqueue: JobQueue) -> None:
        """Hand a newer version of a JobQueue to its reconciler."""
        self._remove_deployment(reconciler)
        reconciler.on_jobqueue_changed(jobqueue)
        self._add_deployment(reconciler)
        self.is_stale = True

    def remove(self, key: ObjectKey) -> JobQueueReconciler | None:
        """Remove the reconciler of a JobQueue that was deleted, and return it."""
        reconciler = self._by_key.pop(key, None)
        if reconciler is not None:
            self._remove_deployment(reconciler)
            self.is_stale = True
        return reconciler

    def _add_deployment(self, reconciler: JobQueueReconciler) -> None:
        target = reconciler.jobqueue.deployment_key
        if target is not None:
            self._by_deployment[target].append(reconciler)

    def _remove_deployment(self, reconciler: JobQueueReconciler) -> None:
        target = reconciler.jobqueue.deployment_key
        if target is not None:
            self._by_deployment[target].remove(reconciler)
            if not self._by_deployment[target]:
                del self._by_deployment[target]

    # --- Conflicts -------------------------------------------------------------------------------

    def use_hpas(self, hpas: Mapping[ObjectKey, Iterable[str]]) -> None:
        """Take the live index of HorizontalPodAutoscalers, by the Deployment that they scale."""
        if hpas is not self._hpas:
            self._hpas, self.is_stale = hpas, True

    def set_deleted_hpas(self, deleted: frozenset[tuple[ObjectKey, str]]) -> None:
        """Take those HorizontalPodAutoscalers of the index that a listing no longer has."""
        self._deleted_hpas, self.is_stale = deleted, True

    def refresh(self, addresses: Mapping[ObjectKey, DatabaseAddress | None]) -> None:
        """Find conflicts again, and which JobQueues each queue has.

        Args:
            addresses: where the database of each JobQueue is; None if that is not known.
        """
        self.is_stale = False
        self.refresh_claims()
        self._by_queue.clear()
        for key, reconciler in self._by_key.items():
            self._by_queue[addresses[key], reconciler.queue_name].append(reconciler)

    def refresh_claims(self) -> None:
        """Find conflicts again."""
        self._claims = Claims(
            ((each.jobqueue, self._database_name(each)) for each in self),
            self._hpas,
            self._deleted_hpas,
        )

    def conflict_of(self, reconciler: JobQueueReconciler) -> Conflict | None:
        """Return the conflict that a JobQueue must yield to; None if there is none."""
        return self._claims.conflict_of(reconciler.jobqueue, self._database_name(reconciler))
