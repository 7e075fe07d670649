"""A Kubernetes API in memory, for an operator in the same process: it records what is written."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, cast

from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Secret

from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from meshhook_operator.api.jobschedule import JobSchedule
from meshhook_operator.api.kind import KIND
from meshhook_operator.cluster.client import Cluster
from meshhook_operator.cluster.deployments import DeploymentView


class RecordedCluster:
    """What the operator reads, and what it has written; nothing else happens."""

    def __init__(self) -> None:
        self.secrets: dict[ObjectKey, dict[str, bytes]] = {}
        self.statuses: dict[ObjectKey, dict[str, Any]] = defaultdict(dict)
        self.events: list[tuple[ObjectKey, str, str]] = []
        """Of which JobQueue, for what reason, and what they say."""
        self.jobqueues: list[JobQueue] = []
        self.jobschedules: list[JobSchedule] | None = []

    def condition(self, key: ObjectKey, kind: str = "Ready") -> dict[str, Any] | None:
        """Return a condition of a JobQueue, None if it was not written yet."""
        found = self.statuses[key].get("conditions", [])
        return next((each for each in found if each["type"] == kind), None)

    def check_may_write(self, _: str) -> None:
        """Allow everything."""

    async def read_secret(self, key: ObjectKey) -> dict[str, str] | None:
        """Return what is in a Secret, decoded as the operator does it."""
        if key not in self.secrets:
            return None
        data = {name: base64.b64encode(value).decode() for name, value in self.secrets[key].items()}

        class Client:
            async def get(self, *_: object, **__: object) -> Secret:
                return Secret(metadata=ObjectMeta(name=key.name), data=data)

        return await Cluster(cast("Any", Client())).read_secret(key)

    async def patch_status(self, key: ObjectKey, status: Mapping[str, Any]) -> None:
        """Take a status."""
        self.statuses[key].update(status)

    async def patch_schedule_status(self, key: ObjectKey, status: Mapping[str, Any]) -> None:
        """Take the status of a JobSchedule, among those of JobQueues."""
        self.statuses[key].update(status)

    async def create_event(
        self,
        key: ObjectKey,
        uid: str,
        *,
        is_warning: bool,
        reason: str,
        message: str,
        kind: str = KIND,
    ) -> None:
        """Take an event."""
        self.events.append((key, reason, message))

    async def find_deployment(self, _: ObjectKey) -> DeploymentView | None:
        """Return nothing: there is none."""
        return None

    async def apply_finalizers(self, *_: object) -> None:
        """Do nothing."""

    async def list_jobqueues(self, _: str) -> list[JobQueue]:
        """Return the JobQueues that there are."""
        return self.jobqueues

    async def list_jobschedules(self, _: str) -> list[JobSchedule] | None:
        """Return the JobSchedules that there are; None without a definition."""
        return self.jobschedules

    async def list_hpas(self, _: str) -> list[tuple[ObjectKey, str]]:
        """Return nothing."""
        return []
