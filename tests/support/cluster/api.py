"""A client of the API server for tests: plain objects in, plain objects out.

Tests look at what the server answers, so there is nothing between: no models, no cache, no
retries.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import aiohttp

Object: TypeAlias = dict[str, Any]

JOB_QUEUES = "meshhook.io/v1alpha1"


@dataclass(frozen=True)
class Resource:
    """Where objects of a kind live."""

    api_version: str
    plural: str
    namespaced: bool = True


RESOURCES = {
    "ClusterRole": Resource("rbac.authorization.k8s.io/v1", "clusterroles", namespaced=False),
    "ClusterRoleBinding": Resource(
        "rbac.authorization.k8s.io/v1", "clusterrolebindings", namespaced=False
    ),
    "ConfigMap": Resource("v1", "configmaps"),
    "CustomResourceDefinition": Resource(
        "apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False
    ),
    "Deployment": Resource("apps/v1", "deployments"),
    "Event": Resource("events.k8s.io/v1", "events"),
    "HorizontalPodAutoscaler": Resource("autoscaling/v2", "horizontalpodautoscalers"),
    "JobQueue": Resource(JOB_QUEUES, "jobqueues"),
    "JobSchedule": Resource(JOB_QUEUES, "jobschedules"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
    "Namespace": Resource("v1", "namespaces", namespaced=False),
    "Node": Resource("v1", "nodes", namespaced=False),
    "Pod": Resource("v1", "pods"),
    "ReplicaSet": Resource("apps/v1", "replicasets"),
    "ResourceQuota": Resource("v1", "resourcequotas"),
    "Role": Resource("rbac.authorization.k8s.io/v1", "roles"),
    "RoleBinding": Resource("rbac.authorization.k8s.io/v1", "rolebindings"),
    "Secret": Resource("v1", "secrets"),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "ValidatingAdmissionPolicy": Resource(
        "admissionregistration.k8s.io/v1", "validatingadmissionpolicies", namespaced=False
    ),
    "ValidatingAdmissionPolicyBinding": Resource(
        "admissionregistration.k8s.io/v1", "validatingadmissionpolicybindings", namespaced=False
    ),
}


class ApiError(Exception):
    """The API server refused a request.

    Attributes:
        status: the HTTP status.
        reason: the reason in one word, such as NotFound or Invalid.
    """

    def __init__(self, status: int, answer: Mapping[str, Any]) -> None:
        super().__init__(answer.get("message", ""))
        self.status = status
        self.reason = answer.get("reason", "")


class Api:
    """Requests as one user, for the namespace of a test unless an object names another."""

    def __init__(self, url: str, *, token: str, certificate: Path, namespace: str) -> None:
        """Describe the connection; open it with `async with`.

        Args:
            url: the address of the API server.
            token: a bearer token.
            certificate: the certificate that signed the server's.
            namespace: where objects are that don't name their namespace.
        """
        self.namespace = namespace
        self._url = url
        self._token = token
        self._certificate = certificate

    async def __aenter__(self) -> Self:
        """Connect at the first request."""
        context = ssl.create_default_context(cafile=str(self._certificate))
        self._session = aiohttp.ClientSession(
            self._url,
            headers={"Authorization": f"Bearer {self._token}"},
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            timeout=aiohttp.ClientTimeout(total=60),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        content_type: str = "application/json",
        **parameters: str,
    ) -> Object:
        """Send a request, and return the object that the server answers.

        Raises:
            ApiError: the server refused it.
        """
        async with self._session.request(
            method,
            path,
            params=parameters,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": content_type},
        ) as response:
            text = await response.text()
            if response.status >= 400:
                # Before a kind is served, its path is answered in plain text.
                is_status = response.content_type == "application/json"
                raise ApiError(
                    response.status, json.loads(text) if is_status else {"message": text}
                )
            answer: Object = json.loads(text)
            return answer

    async def create(self, manifest: Mapping[str, Any], *, strict: bool = True) -> Object:
        """Create an object.

        Args:
            manifest: the object.
            strict: whether unknown fields are refused, as kubectl asks for.
        """
        path = self._path_of(manifest).rpartition("/")[0]
        validation = "Strict" if strict else "Ignore"
        return await self.request(
            "POST", path, self._with_version(manifest), fieldValidation=validation
        )

    async def apply(
        self, manifest: Mapping[str, Any], *, manager: str = "tests", force: bool = False
    ) -> Object:
        """Apply an object on the server's side, as `kubectl apply --server-side` does."""
        return await self.request(
            "PATCH",
            self._path_of(manifest),
            self._with_version(manifest),
            content_type="application/apply-patch+yaml",
            fieldManager=manager,
            force=str(force).lower(),
        )

    async def get(self, kind: str, name: str) -> Object:
        """Return an object."""
        return await self.request("GET", self.path(kind, name))

    async def find(self, kind: str, name: str) -> Object | None:
        """Return an object, or None if there is none."""
        try:
            return await self.get(kind, name)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    async def list(self, kind: str, **parameters: str) -> list[Object]:
        """Return the objects of a kind; `labelSelector` and such narrow them down."""
        answer = await self.request("GET", self.path(kind), **parameters)
        items: list[Object] = answer["items"]
        return items

    async def patch(
        self, kind: str, name: str, change: Mapping[str, Any], *, subresource: str = ""
    ) -> Object:
        """Merge a change into an object."""
        path = self.path(kind, name) + (f"/{subresource}" if subresource else "")
        return await self.request(
            "PATCH", path, change, content_type="application/merge-patch+json"
        )

    async def delete(self, kind: str, name: str, *, propagation: str = "Background") -> None:
        """Delete an object."""
        await self.request("DELETE", self.path(kind, name), propagationPolicy=propagation)

    async def watch(
        self, kind: str, *, since: Object | None = None
    ) -> AsyncIterator[tuple[str, Object]]:
        """Yield the changes of a kind's objects: what happened, and the object.

        Args:
            kind: which objects.
            since: an object as it was read; what changed before is left out. Default: now.
        """
        if since is None:
            since = await self.request("GET", self.path(kind), limit="1")
        parameters = {"watch": "true", "resourceVersion": since["metadata"]["resourceVersion"]}
        async with self._session.get(
            self.path(kind),
            params=parameters,
            timeout=aiohttp.ClientTimeout(total=None),
        ) as response:
            async for line in response.content:
                event = json.loads(line)
                yield event["type"], event["object"]

    async def token_of(self, service_account: str) -> str:
        """Return a token of a service account, as a pod would have it."""
        path = self.path("ServiceAccount", service_account) + "/token"
        request = {"spec": {"expirationSeconds": 3600}}
        token: str = (await self.request("POST", path, request))["status"]["token"]
        return token

    def path(self, kind: str, name: str = "", *, namespace: str | None = None) -> str:
        """Return the path of a kind's objects, or of one of them."""
        resource = RESOURCES[kind]
        version = resource.api_version
        path = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if resource.namespaced:
            path += f"/namespaces/{namespace or self.namespace}"
        return f"{path}/{resource.plural}" + (f"/{name}" if name else "")

    def _path_of(self, manifest: Mapping[str, Any]) -> str:
        metadata = manifest["metadata"]
        return self.path(manifest["kind"], metadata["name"], namespace=metadata.get("namespace"))

    @staticmethod
    def _with_version(manifest: Mapping[str, Any]) -> Object:
        return {"apiVersion": RESOURCES[manifest["kind"]].api_version} | dict(manifest)
