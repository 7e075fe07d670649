"""JobQueues and Deployments for tests, as the API server would give them."""

from __future__ import annotations

from typing import Any

from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.cluster.deployments import DeploymentView

UID = "0d1cf3ad-8f0c-4f52-9f52-000000000001"


def jobqueue_body(name: str = "emails", **spec: Any) -> dict[str, Any]:
    """Return a JobQueue; what is given replaces fields of its spec, None takes one away."""
    found: dict[str, Any] = {
        "queueName": "emails",
        "database": {"secretRef": {"name": "emails-db"}},
        "worker": {"image": "example.org/emails:1", "handler": "emails:send"},
        "scaling": {"maxReplicas": 20},
    } | spec
    return {
        "apiVersion": "meshhook.io/v1alpha1",
        "kind": "JobQueue",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": UID,
            "generation": 1,
            "creationTimestamp": "2026-01-02T03:04:05Z",
        },
        "spec": {key: value for key, value in found.items() if value is not None},
    }


def jobqueue(name: str = "emails", **spec: Any) -> JobQueue:
    """Return the same, taken in."""
    return JobQueue.from_body(jobqueue_body(name, **spec))


def deployment_body(name: str = "emails-worker", *, replicas: int = 1) -> dict[str, Any]:
    """Return a Deployment of the JobQueue `emails`, all of whose pods are ready."""
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": "0d1cf3ad-8f0c-4f52-9f52-000000000002",
            "resourceVersion": "100",
            "generation": 1,
            "labels": {"meshhook.io/jobqueue": "emails"},
            "ownerReferences": [
                {"kind": "JobQueue", "name": "emails", "uid": UID, "controller": True}
            ],
        },
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"meshhook.io/jobqueue": "emails"}},
        },
        "status": {
            "replicas": replicas,
            "updatedReplicas": replicas,
            "readyReplicas": replicas,
        },
    }


def deployment(name: str = "emails-worker", *, replicas: int = 1) -> DeploymentView:
    """Return the same, taken in."""
    return DeploymentView.from_body(deployment_body(name, replicas=replicas))
