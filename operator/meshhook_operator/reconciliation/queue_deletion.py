"""The deletion of one JobQueue: its finalizer, and whether its queue goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshhook.errors import MeshHookError
from meshhook_operator.problems import not_ready, problem_of
from meshhook_operator.scaling import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meshhook_operator.api.conditions import Finding
    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.databases.database import QueueDatabase
    from meshhook_operator.reconciliation.queue_in_database import QueueInDatabase
    from meshhook_operator.reconciliation.sources import Found

FINALIZER = "meshhook.io/queue"

_GONE_SECRET = ("SecretNotFound", "SecretKeyMissing")
"""Without its Secret, as when the namespace is deleted, the queue is out of reach, and is kept."""


class QueueDeletion:
    """Drops the queue with its JobQueue if the spec asks for it and it is empty."""

    def __init__(self, *, cluster: Cluster, queue: QueueInDatabase) -> None:
        self._cluster = cluster
        self._queue = queue

    async def ensure_finalizer(self, jobqueue: JobQueue) -> None:
        """Add the finalizer if the spec needs it, or remove it.

        Raises:
            ClusterError: if the API server refuses or cannot be reached.
        """
        spec = jobqueue.spec
        wanted = spec is not None and spec.deletion_policy == "DeleteIfEmpty"
        if wanted != (FINALIZER in jobqueue.finalizers):
            await self._cluster.apply_finalizers(jobqueue.key, [FINALIZER] if wanted else [])

    async def finalize(
        self,
        jobqueue: JobQueue,
        found: Found,
        database: QueueDatabase | None,
        *,
        is_theirs: bool,
        report: Callable[[Finding], Awaitable[None]],
    ) -> None:
        """Drop the queue if the spec asks for it and it is empty; then remove the finalizer.

        Args:
            jobqueue: the JobQueue that is being deleted.
            found: what was read of its queue.
            database: where the queue is; None if it cannot be reached at all.
            is_theirs: whether another JobQueue manages the queue.
            report: called with what Ready is to say if the queue cannot be dropped now.

        Raises:
            MeshHookError: if the database or the API server refuses, or cannot be reached.
        """
        spec = jobqueue.spec
        if FINALIZER not in jobqueue.finalizers:
            return
        # The spec counts as it is now: it may have changed since the finalizer was added.
        drops = spec is not None and spec.deletion_policy == "DeleteIfEmpty" and not spec.paused
        if spec is not None and drops and not is_theirs:
            if database is not None:
                try:
                    await self._queue.drop_if_empty(spec.queue_name, database)
                except MeshHookError as error:
                    await report(not_ready(problem_of(error)))
                    raise
            elif isinstance(found, Failure) and found.reason not in _GONE_SECRET:
                await report(not_ready(found))
                return
        await self._cluster.apply_finalizers(jobqueue.key, [])
