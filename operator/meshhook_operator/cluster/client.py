"""The operator's requests to the Kubernetes API. kopf does the watching."""

from __future__ import annotations

import asyncio
import base64
import binascii
import secrets
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube import AsyncClient
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.operators import exists, in_, not_exists, not_in
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler
from lightkube.resources.core_v1 import Event, Pod, Secret
from lightkube.types import PatchType

from meshhook_operator.api.jobqueue import JobQueue, ObjectKey
from meshhook_operator.api.jobschedule import JobSchedule
from meshhook_operator.api.kind import (
    API_VERSION,
    GROUP,
    KIND,
    PLURAL,
    SCHEDULE_KIND,
    SCHEDULE_PLURAL,
    VERSION,
)
from meshhook_operator.cluster.checked_bodies import check_bodies
from meshhook_operator.cluster.deployments import FIELD_MANAGER, DeploymentView
from meshhook_operator.cluster.pods import DELETION_COST_ANNOTATION, PodView
from meshhook_operator.cluster.responses import translated_errors
from meshhook_operator.errors import ClusterRefusedError, NotLeadingError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from meshhook_operator.cluster.deployments import LabelTerm

ALL_NAMESPACES = "*"
FINALIZER_MANAGER = "meshhook-operator-finalizer"
_REQUEST_SECONDS = 10.0
_MAX_EVENT_BYTES = 1_000

_OPERATORS: dict[str, Callable[[Sequence[str]], Any]] = {
    "In": in_,
    "NotIn": not_in,
    "Exists": lambda _: exists(),
    "DoesNotExist": lambda _: not_exists(),
}

_JobQueueResource = create_namespaced_resource(GROUP, VERSION, KIND, PLURAL)
_JobScheduleResource = create_namespaced_resource(GROUP, VERSION, SCHEDULE_KIND, SCHEDULE_PLURAL)


class Cluster:
    """The Kubernetes API.

    Every method raises:
        ClusterUnavailableError: if the API server cannot be reached, or cannot answer now.
        ClusterRefusedError: if it refused the request.
    """

    def __init__(
        self, client: AsyncClient, *, seconds_left: Callable[[str], float] | None = None
    ) -> None:
        """Take the client, and what may be written.

        Args:
            client: for all requests.
            seconds_left: called with a namespace right before each write there: for how long it may
                take; raises a NotLeadingError if there may be none. Default: everything may.
        """
        self._client = client
        self._seconds_left = seconds_left

    @classmethod
    def connect(cls, *, seconds_left: Callable[[str], float] | None = None) -> Cluster:
        """Use the service account of the pod, or outside a cluster the kubeconfig.

        Raises:
            lightkube.ConfigError: if there is neither.
        """
        client = AsyncClient(timeout=httpx2.Timeout(_REQUEST_SECONDS))
        if seconds_left is not None:
            check_bodies(client, seconds_left)
        return cls(client, seconds_left=seconds_left)

    def check_may_write(self, namespace: str) -> None:
        """Check that this process may change what belongs to the JobQueues of a namespace now.

        Raises:
            NotLeadingError: if it may not.
        """
        if self._seconds_left is not None:
            self._seconds_left(namespace)

    @asynccontextmanager
    async def _writing(self, namespace: str) -> AsyncIterator[None]:
        """Let a write begin only while it is allowed, and end by then."""
        seconds = None if self._seconds_left is None else self._seconds_left(namespace)
        try:
            async with asyncio.timeout(seconds):
                with translated_errors():
                    yield
        except TimeoutError as error:
            message = "a write took until the Lease ran out, and was given up"
            raise NotLeadingError(message) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def check_rights(self, namespace: str) -> None:
        """Check that everything that is watched exists and may be listed.

        Args:
            namespace: where to look; `*` means everywhere.
        """
        for resource in (_JobQueueResource, Deployment, HorizontalPodAutoscaler):
            with translated_errors():
                async for _ in self._client.list(resource, namespace=namespace, chunk_size=1):
                    break
        await self._check_jobschedules(namespace)

    async def _check_jobschedules(self, namespace: str) -> None:
        """Check that JobSchedules may be listed, unless their definition is not installed."""
        try:
            with translated_errors():
                async for _ in self._client.list(
                    _JobScheduleResource, namespace=namespace, chunk_size=1
                ):
                    break
        except ClusterRefusedError as error:
            if error.code != HTTPStatus.NOT_FOUND:
                raise

    async def list_jobqueues(self, namespace: str) -> list[JobQueue]:
        """Return the JobQueues of a namespace; `*` means all namespaces."""
        with translated_errors():
            return [
                JobQueue.from_body(found)
                async for found in self._client.list(
                    _JobQueueResource, namespace=namespace, chunk_size=500
                )
            ]

    async def list_jobschedules(self, namespace: str) -> list[JobSchedule] | None:
        """Return the JobSchedules of a namespace; None if their definition is not installed."""
        try:
            with translated_errors():
                return [
                    JobSchedule.from_body(found)
                    async for found in self._client.list(
                        _JobScheduleResource, namespace=namespace, chunk_size=500
                    )
                ]
        except ClusterRefusedError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise

    async def list_hpas(self, namespace: str) -> list[tuple[ObjectKey, str]]:
        """Return the Deployment that each HorizontalPodAutoscaler scales, and its own name."""
        with translated_errors():
            return [
                (ObjectKey(metadata.namespace or "", spec.scaleTargetRef.name), metadata.name or "")
                async for found in self._client.list(
                    HorizontalPodAutoscaler, namespace=namespace, chunk_size=500
                )
                if (metadata := found.metadata) is not None
                and (spec := found.spec) is not None
                and spec.scaleTargetRef.kind == "Deployment"
            ]

    async def find_deployment(self, key: ObjectKey) -> DeploymentView | None:
        """Return a Deployment, or None if there is none."""
        try:
            with translated_errors():
                found = await self._client.get(Deployment, key.name, namespace=key.namespace)
        except ClusterRefusedError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        return DeploymentView.from_body(found.to_dict())

    async def apply_deployment(self, manifest: Mapping[str, Any]) -> DeploymentView:
        """Apply a Deployment, and return the result."""
        metadata = manifest["metadata"]
        async with self._writing(metadata["namespace"]):
            applied = await self._client.patch(
                Deployment,
                metadata["name"],
                dict(manifest),
                namespace=metadata["namespace"],
                patch_type=PatchType.APPLY,
                field_manager=FIELD_MANAGER,
                force=True,
            )
        return DeploymentView.from_body(applied.to_dict())

    async def scale_deployment(self, key: ObjectKey, replicas: int) -> int:
        """Set only the replicas of a Deployment, and return its new resourceVersion."""
        scale = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "spec": {"replicas": replicas},
        }
        async with self._writing(key.namespace):
            scaled = await self._client.patch(
                Deployment.Scale,
                key.name,
                scale,
                namespace=key.namespace,
                patch_type=PatchType.APPLY,
                field_manager=FIELD_MANAGER,
                force=True,
            )
        metadata = scaled.metadata
        return int((metadata and metadata.resourceVersion) or 0)

    async def list_pods(self, namespace: str, selector: Sequence[LabelTerm]) -> list[PodView]:
        """Return the pods that match a selector, without those that have ended or are to go."""
        with translated_errors():
            found = self._client.list(
                Pod,
                namespace=namespace,
                # A list, since a key may have several terms; the signature allows only a dict.
                labels=[  # type: ignore[call-overload]
                    (term.key, _OPERATORS[term.operator](term.values)) for term in selector
                ],
                chunk_size=500,
            )
            return [
                view
                async for pod in found
                if (view := PodView.from_body(pod.to_dict())) is not None
            ]

    async def set_deletion_cost(self, key: ObjectKey, cost: int | None) -> None:
        """Set the deletion cost of a pod; None removes it."""
        value = None if cost is None else str(cost)
        async with self._writing(key.namespace):
            await self._client.patch(
                Pod,
                key.name,
                {"metadata": {"annotations": {DELETION_COST_ANNOTATION: value}}},
                namespace=key.namespace,
                patch_type=PatchType.MERGE,
                field_manager=FIELD_MANAGER,
            )

    async def read_secret(self, key: ObjectKey) -> dict[str, str] | None:
        """Return the text values of a Secret, or None if it does not exist."""
        try:
            with translated_errors():
                secret = await self._client.get(Secret, key.name, namespace=key.namespace)
        except ClusterRefusedError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        values = {}
        for name, value in (secret.data or {}).items():
            try:
                values[name] = base64.b64decode(value).decode()
            except (binascii.Error, UnicodeDecodeError):
                continue
        return values

    async def patch_status(self, key: ObjectKey, status: Mapping[str, Any]) -> None:
        """Merge fields into a JobQueue's status; None removes a field."""
        async with self._writing(key.namespace):
            await self._client.patch(
                _JobQueueResource.Status,
                key.name,
                {"status": dict(status)},
                namespace=key.namespace,
                patch_type=PatchType.MERGE,
                field_manager=FIELD_MANAGER,
            )

    async def patch_schedule_status(self, key: ObjectKey, status: Mapping[str, Any]) -> None:
        """Merge fields into a JobSchedule's status; None removes a field."""
        async with self._writing(key.namespace):
            await self._client.patch(
                _JobScheduleResource.Status,
                key.name,
                {"status": dict(status)},
                namespace=key.namespace,
                patch_type=PatchType.MERGE,
                field_manager=FIELD_MANAGER,
            )

    async def apply_finalizers(self, key: ObjectKey, finalizers: Sequence[str]) -> None:
        """Set the operator's finalizers on a JobQueue; those of others stay."""
        patch = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "finalizers": list(finalizers),
            },
        }
        async with self._writing(key.namespace):
            await self._client.patch(
                _JobQueueResource,
                key.name,
                patch,
                namespace=key.namespace,
                patch_type=PatchType.APPLY,
                field_manager=FINALIZER_MANAGER,
                force=True,
            )

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
        """Add an event to a JobQueue, or to an object of another kind."""
        now = datetime.now(UTC)
        event = Event(
            metadata=ObjectMeta(name=f"{key.name}.{secrets.token_hex(8)}", namespace=key.namespace),
            involvedObject=ObjectReference(
                apiVersion=API_VERSION,
                kind=kind,
                namespace=key.namespace,
                name=key.name,
                uid=uid,
            ),
            type="Warning" if is_warning else "Normal",
            reason=reason,
            message=_in_event(message),
            source=EventSource(component=FIELD_MANAGER),
            firstTimestamp=now,
            lastTimestamp=now,
            count=1,
        )
        async with self._writing(key.namespace):
            await self._client.create(event)


def _in_event(message: str) -> str:
    """Return as much of a message as an event can hold."""
    return message.encode(errors="replace")[:_MAX_EVENT_BYTES].decode(errors="ignore")
