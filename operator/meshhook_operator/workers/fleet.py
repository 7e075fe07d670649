"""The Deployment of one JobQueue: what is known about it, and every write to it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from meshhook_operator.workers.idle_pods import mark_idle_pods
from meshhook_operator.workers.manifests import worker_deployment, worker_labels
from meshhook_operator.workers.pod_health import PodMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.cluster.client import Cluster
    from meshhook_operator.cluster.deployments import DeploymentView
    from meshhook_operator.url_checksums import UrlChecksum
    from meshhook_operator.workers.pod_health import PodHealth
    from meshhook_operator.workers.pod_work import PodWork

CONTEST_SECONDS = 600.0
"""How long it is reported that somebody else has set the replicas."""
RESYNC_SECONDS = 300.0


class Rescale(NamedTuple):
    """A change of the replicas that was written."""

    before: int
    after: int

    @property
    def direction(self) -> str:
        """`up` or `down`."""
        return "up" if self.after > self.before else "down"


class _Applied(NamedTuple):
    """What the last write to the Deployment was made from, and its result."""

    jobqueue_generation: int
    checksum: str
    deployment_uid: str
    deployment_generation: int


class WorkerFleet:
    """The Deployment of one JobQueue; it is written only if it differs from what it should be."""

    def __init__(self, jobqueue: JobQueue, *, cluster: Cluster, clock: Callable[[], float]) -> None:
        self._jobqueue = jobqueue
        self._cluster = cluster
        self._clock = clock
        self.view: DeploymentView | None = None
        """The Deployment as last seen; None if there is none, or before `look_up`."""
        self.is_known = False
        """Whether it has been looked up."""
        self._seen_at = float("-inf")
        self._applied: _Applied | None = None
        self._wrote_replicas: int | None = None
        self._contest: tuple[float, str] | None = None
        self._pods = PodMonitor(cluster=cluster, clock=clock)

    def on_jobqueue_changed(self, jobqueue: JobQueue) -> bool:
        """Take a newer version of the JobQueue; return whether it has another Deployment now."""
        moved = jobqueue.deployment_key != self._jobqueue.deployment_key
        if jobqueue.generation != self._jobqueue.generation:
            self._pods.on_spec_changed()
        self._jobqueue = jobqueue
        if moved:
            self._pods.forget()
            self.view, self.is_known = None, False
            self._applied = self._wrote_replicas = self._contest = None
        return moved

    def on_deployment_changed(self, view: DeploymentView | None) -> bool:
        """Take a newer version, None if it was deleted; return whether something must be done."""
        self._seen_at = self._clock()
        if view is None:
            self.view, self._applied, self._wrote_replicas = None, None, None
            return True
        known = self.view
        if known and known.uid == view.uid and view.resource_version <= known.resource_version:
            return False  # older than the answer to our own last write
        self.view, self.is_known = view, True
        wrote = self._wrote_replicas
        if wrote is not None and view.replicas != wrote and view.replicas_managers:
            self._contest = (self._clock(), ", ".join(view.replicas_managers))
        return self._has_drifted(view)

    async def look_up(self) -> None:
        """Read the Deployment, at first and every few minutes.

        A watch that was interrupted does not report what was deleted meanwhile.
        """
        key = self._jobqueue.deployment_key
        now = self._clock()
        if key is None or (self.is_known and now - self._seen_at < RESYNC_SECONDS):
            return
        found = await self._cluster.find_deployment(key)
        self._seen_at = now
        self.on_deployment_changed(found)
        self.is_known = True

    async def look_at_pods(self, *, lead_seconds: float) -> PodHealth | None:
        """Return what keeps pods from running; they are looked at if too few have been ready.

        Args:
            lead_seconds: how long a pod takes to become Ready.
        """
        await self._pods.observe(self.view, lead_seconds=lead_seconds)
        return self._pods.health

    @property
    def contested_by(self) -> str | None:
        """Who else has set the replicas recently; None if nobody has."""
        if self._contest is None or self._clock() - self._contest[0] > CONTEST_SECONDS:
            return None
        return self._contest[1]

    @property
    def is_foreign(self) -> bool:
        """Whether a Deployment has the name that ours would have, but does not belong to us."""
        if self.view is None or not self._jobqueue.owns_deployment:
            return False
        return self.view.owner_uid != self._jobqueue.uid

    async def ensure(
        self,
        replicas: int,
        *,
        checksum: UrlChecksum | None,
        pods: Mapping[str, PodWork] | None,
        runs_are_long: bool = False,
        max_replicas: int | None = None,
    ) -> Rescale | None:
        """Create or correct the Deployment; return the change of its replicas, if there was one.

        Creating the Deployment does not count as a change.

        Args:
            replicas: how many there are to be.
            checksum: of the database URL; None if it is not known now: the pods stay as they are.
            pods: what each pod does, by its name; None if the queue could not be read.
            runs_are_long: whether jobs may run longer than a pod that stops would let them.
            max_replicas: no more are left, even if that cuts jobs off. Default: any number.
        """
        value = None
        if checksum is not None and self._jobqueue.owns_deployment:
            value = await checksum.compute(is_hurried=pods is not None)
        before = self.view
        if before is None and pods is None:
            return None  # it was deleted meanwhile, and new pods would have nothing to work on
        if before is not None and replicas < before.replicas:
            may_go = await mark_idle_pods(
                self._cluster, before, replicas, pods, runs_are_long=runs_are_long
            )
            least = before.replicas - may_go
            replicas = max(replicas, least if max_replicas is None else min(least, max_replicas))
        if value is None and self._applied is not None:
            value = self._applied.checksum
        if self._jobqueue.owns_deployment and value is not None:
            after = await self._apply(replicas, value)
        else:
            # Applied without the checksum, the pod template would change: a rollout for nothing.
            after = await self._scale(replicas)
        if after is None:
            return None
        self.view, self.is_known, self._wrote_replicas = after, True, after.replicas
        if before is None or before.replicas == after.replicas:
            return None
        return Rescale(before.replicas, after.replicas)

    async def _apply(self, replicas: int, checksum: str) -> DeploymentView | None:
        view, last = self.view, self._applied
        is_current = (
            view is not None
            and last is not None
            and view.replicas == replicas
            and (last.jobqueue_generation, last.checksum) == (self._jobqueue.generation, checksum)
            and not self._has_drifted(view)
        )
        if is_current:
            return None
        generation = self._jobqueue.generation
        applied = await self._cluster.apply_deployment(
            worker_deployment(self._jobqueue, replicas=replicas, database_url_checksum=checksum)
        )
        self._applied = _Applied(generation, checksum, applied.uid, applied.generation)
        return applied

    async def _scale(self, replicas: int) -> DeploymentView | None:
        view = self.view
        if view is None or view.replicas == replicas:
            return None
        version = await self._cluster.scale_deployment(view.key, replicas)
        return dataclasses.replace(
            view, replicas=replicas, resource_version=max(version, view.resource_version)
        )

    def _has_drifted(self, view: DeploymentView) -> bool:
        """Whether somebody else has changed it since the last write."""
        if self._wrote_replicas is not None and view.replicas != self._wrote_replicas:
            return True
        if not self._jobqueue.owns_deployment or self._applied is None:
            return False
        return (view.uid, view.generation) != (
            self._applied.deployment_uid,
            self._applied.deployment_generation,
        ) or not view.labels.issuperset(worker_labels(self._jobqueue.key.name).items())
