"""Requests for Leases, over a connection of their own: no other request may hold up a renewal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import httpx2
from lightkube import ApiError, AsyncClient
from lightkube.generic_resource import create_namespaced_resource
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.types import PatchType

from meshhook_operator.cluster.deployments import FIELD_MANAGER
from meshhook_operator.cluster.responses import translated_errors
from meshhook_operator.errors import ClusterRefusedError, NamespaceEndingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook_operator.api.jobqueue import ObjectKey

REQUEST_SECONDS = 3.0
"""A request that takes longer is tried again, over a new connection."""

# Generic: lightkube's own model writes a time without its six digits when they are zero, which the
# API server refuses.
_Lease = create_namespaced_resource("coordination.k8s.io", "v1", "Lease", "leases")


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseRecord:
    """One version of a Lease."""

    version: str
    """Its resourceVersion: different after every write."""
    holder: str
    """Who holds it; empty: nobody."""
    duration_seconds: float
    """How long it is valid after a write."""
    transitions: int = 0
    """How often it has changed hands."""


class Leases:
    """The Leases of the cluster.

    Every method raises:
        ClusterUnavailableError: if the API server cannot be reached, or cannot answer now.
        ClusterRefusedError: if it refused the request.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @classmethod
    def connect(cls) -> Leases:
        """Use the service account of the pod, or outside a cluster the kubeconfig.

        Raises:
            lightkube.ConfigError: if there is neither.
        """
        return cls(AsyncClient(timeout=httpx2.Timeout(REQUEST_SECONDS)))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def own_namespace(self) -> str:
        """That of the service account, or of the kubeconfig's context."""
        return str(self._client.namespace)

    async def read(self, key: ObjectKey) -> LeaseRecord | None:
        """Return a Lease; None if there is none."""
        try:
            with translated_errors():
                found = await self._client.get(_Lease, key.name, namespace=key.namespace)
        except ClusterRefusedError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        return _record(found)

    async def create(self, key: ObjectKey, holder: str, duration_seconds: float) -> LeaseRecord:
        """Create a Lease that somebody holds.

        Raises:
            NamespaceEndingError: if its namespace is being deleted.
        """
        now = _now()
        spec = _spec(holder, duration_seconds) | {
            "acquireTime": now,
            "renewTime": now,
            "leaseTransitions": 0,
        }
        lease = _Lease(metadata=ObjectMeta(name=key.name, namespace=key.namespace), spec=spec)
        with translated_errors():
            try:
                created = await self._client.create(lease, field_manager=FIELD_MANAGER)
            except ApiError as error:
                if _is_about_ending_namespace(error):
                    raise NamespaceEndingError(
                        f"namespace {key.namespace} is being deleted", HTTPStatus.FORBIDDEN
                    ) from error
                raise
        return _record(created)

    async def write(
        self, key: ObjectKey, last: LeaseRecord, holder: str, duration_seconds: float
    ) -> LeaseRecord:
        """Write a Lease, only if it is still as it was; otherwise the answer is a Conflict.

        Args:
            key: which.
            last: the version that the decision to write was made from.
            holder: who holds it from now on; empty: nobody.
            duration_seconds: how long it is valid after this write.
        """
        now = _now()
        spec = _spec(holder, duration_seconds) | {"renewTime": now}
        if holder and holder != last.holder:
            spec |= {"acquireTime": now, "leaseTransitions": last.transitions + 1}
        # With a resourceVersion in it, a merge patch is refused if there is a newer version.
        patch = {"metadata": {"resourceVersion": last.version}, "spec": spec}
        with translated_errors():
            written = await self._client.patch(
                _Lease,
                key.name,
                patch,
                namespace=key.namespace,
                patch_type=PatchType.MERGE,
                field_manager=FIELD_MANAGER,
            )
        return _record(written)


def _spec(holder: str, duration_seconds: float) -> dict[str, Any]:
    return {"holderIdentity": holder, "leaseDurationSeconds": max(1, round(duration_seconds))}


def _record(lease: Mapping[str, Any]) -> LeaseRecord:
    spec = lease.get("spec") or {}
    return LeaseRecord(
        version=lease["metadata"]["resourceVersion"],
        holder=spec.get("holderIdentity") or "",
        duration_seconds=spec.get("leaseDurationSeconds") or 1,
        transitions=spec.get("leaseTransitions") or 0,
    )


def _now() -> str:
    """Return the time as people read it in the Lease; no decision depends on it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _is_about_ending_namespace(error: ApiError) -> bool:
    details = error.status.details
    causes = (details and details.causes) or ()
    return any(cause.reason == "NamespaceTerminating" for cause in causes)
