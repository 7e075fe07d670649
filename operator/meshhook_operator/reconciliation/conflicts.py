"""Who else manages the queue or the Deployment of a JobQueue. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Mapping

    from meshhook_operator.api.jobqueue import JobQueue, ObjectKey


class Conflict(NamedTuple):
    """Why a JobQueue must not write."""

    message: str
    is_about_queue: bool
    """Whether it concerns the queue in the database as well as the Deployment."""


class Claims:
    """What every JobQueue claims. Of two that claim the same, the older one keeps it."""

    def __init__(
        self,
        jobqueues: Iterable[tuple[JobQueue, Hashable | None]],
        autoscalers: Mapping[ObjectKey, Iterable[str]],
        gone: Collection[tuple[ObjectKey, str]] = (),
    ) -> None:
        """Take all JobQueues, and the HorizontalPodAutoscalers of each Deployment.

        Args:
            jobqueues: each with its database, None if that is not known.
            autoscalers: names by the Deployment that they scale.
            gone: the Deployment and the name of each of these that has been deleted since.
        """
        self._gone = gone
        self._autoscalers = autoscalers
        self._of_deployment: dict[ObjectKey, JobQueue] = {}
        self._of_queue: dict[tuple[Hashable, str], JobQueue] = {}
        for jobqueue, database in sorted(jobqueues, key=lambda each: _age(each[0])):
            if jobqueue.spec is None or jobqueue.deployment_key is None:
                continue
            self._of_deployment.setdefault(jobqueue.deployment_key, jobqueue)
            if database is not None:
                self._of_queue.setdefault((database, jobqueue.spec.queue_name), jobqueue)

    def conflict_of(self, jobqueue: JobQueue, database: Hashable | None) -> Conflict | None:
        """Return the conflict that a JobQueue must yield to; None if there is none."""
        spec, target = jobqueue.spec, jobqueue.deployment_key
        if spec is None or target is None:
            return None
        holder = None if database is None else self._of_queue.get((database, spec.queue_name))
        if holder is not None and holder.uid != jobqueue.uid:
            return Conflict(
                f"JobQueue {holder.key} is older and already manages queue {spec.queue_name!r} "
                "of the same database",
                is_about_queue=True,
            )
        holder = self._of_deployment.get(target)
        if holder is not None and holder.uid != jobqueue.uid:
            return Conflict(
                f"JobQueue {holder.key} is older and already scales Deployment {target.name!r}",
                is_about_queue=False,
            )
        for name in self._autoscalers.get(target, ()):
            if (target, name) in self._gone:
                continue
            return Conflict(
                f"HorizontalPodAutoscaler {name!r} also scales Deployment {target.name!r}: "
                "delete it, or the ScaledObject that created it",
                is_about_queue=False,
            )
        return None


def _age(jobqueue: JobQueue) -> tuple[float, str]:
    return jobqueue.created_at, jobqueue.uid
