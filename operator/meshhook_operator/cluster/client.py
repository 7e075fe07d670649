"""The operator's requests to the Kubernetes API; watching is left to kopf."""

from __future__ import annotations

import base64
import binascii
import secrets
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
from meshhook_operator.api.kind import API_VERSION, GROUP, KIND, PLURAL, VERSION
from meshhook_operator.cluster.deployments import FIELD_MANAGER, DeploymentView
from meshhook_operator.cluster.pods import DELETION_COST_ANNOTATION, PodView, deletion_cost
from meshhook_operator.cluster.responses import translated_errors
from meshhook_operator.errors import ClusterRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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


class Cluster:
    """The Kubernetes API, with its errors translated.

    Every method raises:
        ClusterUnavailableError: it cannot be reached, or cannot answer now.
        ClusterRefusedError: it refused the request.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @classmethod
    def connect(cls) -> Cluster:
        """Take the service account of the pod; outside of a cluster, the kubeconfig.

        Raises:
            lightkube.ConfigError: if there is neither.
        """
        return cls(AsyncClient(timeout=httpx2.Timeout(_REQUEST_SECONDS)))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def check_rights(self, namespace: str) -> None:
        """Check that everything that is watched can be listed: it is there, and the operator may.

        Args:
            namespace: the one to look into; `*` means all.
        """
        for resource in (_JobQueueResource, Deployment, HorizontalPodAutoscaler):
            with translated_errors():
                async for _ in self._client.list(resource, namespace=namespace, chunk_size=1):
                    break

    async def list_jobqueues(self, namespace: str) -> list[JobQueue]:
        """Return the JobQueues of a namespace, or of all of them if it is `*`."""
        with translated_errors():
            return [
                JobQueue.from_body(found)
                async for found in self._client.list(
                    _JobQueueResource, namespace=namespace, chunk_size=500
                )
            ]

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
        """Make a Deployment what the manifest says, and return what became of it."""
        metadata = manifest["metadata"]
        with translated_errors():
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
        """Set the replicas of a Deployment, and nothing else; return its new resourceVersion."""
        scale = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "spec": {"replicas": replicas},
        }
        with translated_errors():
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
        """Return the pods that a selector finds and that are not on their way out."""
        with translated_errors():
            found = self._client.list(
                Pod,
                namespace=namespace,
                # A list, since a key may have several terms; the signature knows only a dict.
                labels=[  # type: ignore[call-overload]
                    (term.key, _OPERATORS[term.operator](term.values)) for term in selector
                ],
                chunk_size=500,
            )
            return [
                PodView(ObjectKey(namespace, pod.metadata.name or ""), deletion_cost(pod))
                async for pod in found
                if pod.metadata is not None and pod.metadata.deletionTimestamp is None
            ]

    async def set_deletion_cost(self, key: ObjectKey, cost: int | None) -> None:
        """Say how soon a pod should go when there are too many; None takes the word back."""
        value = None if cost is None else str(cost)
        with translated_errors():
            await self._client.patch(
                Pod,
                key.name,
                {"metadata": {"annotations": {DELETION_COST_ANNOTATION: value}}},
                namespace=key.namespace,
                patch_type=PatchType.MERGE,
                field_manager=FIELD_MANAGER,
            )

    async def read_secret(self, key: ObjectKey) -> dict[str, str] | None:
        """Return what is in a Secret, or None if there is none; what is not text is left out."""
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
        """Write fields of a JobQueue's status; a field that is None is removed."""
        with translated_errors():
            await self._client.patch(
                _JobQueueResource.Status,
                key.name,
                {"status": dict(status)},
                namespace=key.namespace,
                patch_type=PatchType.MERGE,
                field_manager=FIELD_MANAGER,
            )

    async def apply_finalizers(self, key: ObjectKey, finalizers: Sequence[str]) -> None:
        """Make these the operator's finalizers on a JobQueue; others' stay."""
        patch = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": key.name,
                "namespace": key.namespace,
                "finalizers": list(finalizers),
            },
        }
        with translated_errors():
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
        self, key: ObjectKey, uid: str, *, is_warning: bool, reason: str, message: str
    ) -> None:
        """Add an event to a JobQueue."""
        now = datetime.now(UTC)
        event = Event(
            metadata=ObjectMeta(name=f"{key.name}.{secrets.token_hex(8)}", namespace=key.namespace),
            involvedObject=ObjectReference(
                apiVersion=API_VERSION,
                kind=KIND,
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
        with translated_errors():
            await self._client.create(event)


def _in_event(message: str) -> str:
    """Return as much of a message as an event may hold, in bytes."""
    return message.encode(errors="replace")[:_MAX_EVENT_BYTES].decode(errors="ignore")
