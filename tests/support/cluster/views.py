"""What a test asks of the objects in its namespace, to wait for an answer."""

from __future__ import annotations

from dataclasses import dataclass

from support.cluster.api import Api, ApiError, Object
from support.waiting import eventually

TIMEOUT_SECONDS = 120.0
"""Enough for a loaded machine; nothing waits for so long that works."""


async def serves_job_queues(api: Api) -> bool:
    """Return whether the API server knows JobQueues and JobSchedules, as it may not at first."""
    try:
        await api.list("JobQueue")
        await api.list("JobSchedule")
    except ApiError:
        return False
    return True


async def until_pods_can_be_made(api: Api) -> None:
    """Wait until the namespace has the account of its pods, without which each is refused."""
    await eventually(lambda: api.find("ServiceAccount", "default"), TIMEOUT_SECONDS)


@dataclass(frozen=True)
class JobQueueView:
    """A JobQueue and its Deployment, as the API server has them at each call."""

    api: Api
    name: str = "emails"
    deployment: str = "emails-worker"

    async def status(self) -> Object:
        """Return the status; empty if there is none yet."""
        status: Object = (await self.api.get("JobQueue", self.name)).get("status", {})
        return status

    async def condition(self, kind: str) -> Object:
        """Return a condition of the status; empty if there is none of that type yet."""
        found = (await self.status()).get("conditions", [])
        return next((each for each in found if each["type"] == kind), {})

    async def replicas(self) -> int | None:
        """Return how many replicas the Deployment should have; None if there is no Deployment."""
        found = await self.api.find("Deployment", self.deployment)
        return None if found is None else found["spec"]["replicas"]

    async def ready_replicas(self) -> int:
        """Return how many of them are ready."""
        found = await self.api.find("Deployment", self.deployment)
        return 0 if found is None else found.get("status", {}).get("readyReplicas", 0)

    async def until_condition(
        self,
        kind: str,
        status: str,
        *,
        reason: str | None = None,
        says: str = "",
        timeout: float = TIMEOUT_SECONDS,  # noqa: ASYNC109 - passed on
    ) -> Object:
        """Wait until a condition has a status, a reason if one is given, and words; return it.

        A busy machine may be told of something else first, as of a database that answers late.
        """

        async def holds() -> Object | None:
            found = await self.condition(kind)
            assert found.get("status") == status, found
            assert reason in {None, found.get("reason")}, found
            assert says in found["message"], found
            return found

        found: Object = await eventually(holds, timeout, message=f"{kind}={status}/{reason} {says}")
        return found

    async def until_replicas(self, replicas: int, *, timeout: float = TIMEOUT_SECONDS) -> None:  # noqa: ASYNC109 - passed on
        """Wait until the Deployment should have so many replicas."""

        async def holds() -> bool:
            found = await self.replicas()
            assert found == replicas, f"{found} replicas; {await self.status()}"
            return True

        await eventually(holds, timeout, message=f"{replicas} replicas")

    async def until_ready_replicas(self, replicas: int) -> None:
        """Wait until so many replicas are ready."""

        async def holds() -> bool:
            return await self.ready_replicas() == replicas

        await eventually(holds, TIMEOUT_SECONDS, message=f"{replicas} ready replicas")

    async def events(self) -> list[Object]:
        """Return the events about the JobQueue."""
        return [
            event
            for event in await self.api.list("Event")
            if event["regarding"]["name"] == self.name and event["regarding"]["kind"] == "JobQueue"
        ]
