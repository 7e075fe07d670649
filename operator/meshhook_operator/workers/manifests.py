"""The manifest of the workers' Deployment, as a function of the JobQueue. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshhook_operator.api.kind import API_VERSION, KIND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshhook_operator.api.jobqueue import JobQueue
    from meshhook_operator.api.spec import DatabaseSpec, JobQueueSpec
    from meshhook_operator.api.worker_spec import WorkerSpec

METRICS_PORT = 9464
GRACE_MARGIN_SECONDS = 5
"""The part of its grace period that a pod reserves to give back jobs and record outcomes."""

TMP_SIZE = "1Gi"
"""What a pod may write to /tmp before it is evicted; pods share the node's disk."""
RESOURCES = {
    "requests": {"cpu": "50m", "memory": "128Mi"},
    "limits": {"memory": "1Gi"},
}
"""The default, so that a worker that leaks memory is killed before its neighbours are."""

JOBQUEUE_LABEL = "meshhook.io/jobqueue"
QUEUE_ANNOTATION = "meshhook.io/queue"
CHECKSUM_ANNOTATION = "meshhook.io/database-url-checksum"


def worker_labels(name: str) -> dict[str, str]:
    """Return the labels of the Deployment and the pods of a JobQueue."""
    return {
        "app.kubernetes.io/name": "meshhook-worker",
        "app.kubernetes.io/instance": name,
        "app.kubernetes.io/component": "worker",
        "app.kubernetes.io/managed-by": "meshhook-operator",
        JOBQUEUE_LABEL: name,
    }


def worker_deployment(
    jobqueue: JobQueue, *, replicas: int, database_url_checksum: str = ""
) -> dict[str, Any]:
    """Return the Deployment of a JobQueue with `spec.worker`.

    Args:
        jobqueue: with a valid spec.
        replicas: the number of pods.
        database_url_checksum: changes with the database URL, so that the pods are replaced: a pod
            reads the URL only when it starts.
    """
    key, spec = jobqueue.deployment_key, jobqueue.spec
    assert key is not None  # noqa: S101 - the caller has checked the spec
    assert spec is not None  # noqa: S101
    assert spec.worker is not None  # noqa: S101
    worker = spec.worker
    selector = {JOBQUEUE_LABEL: jobqueue.key.name}
    annotations = worker.pod_annotations | {QUEUE_ANNOTATION: spec.queue_name}
    if database_url_checksum:
        annotations[CHECKSUM_ANNOTATION] = database_url_checksum
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": key.name,
            "namespace": key.namespace,
            "labels": worker_labels(jobqueue.key.name),
            "annotations": {QUEUE_ANNOTATION: spec.queue_name},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": jobqueue.key.name,
                    "uid": jobqueue.uid,
                    "controller": True,
                }
            ],
        },
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": worker.pod_labels | worker_labels(jobqueue.key.name),
                    "annotations": annotations,
                },
                "spec": _pod(spec, worker, selector),
            },
        },
    }


def _pod(spec: JobQueueSpec, worker: WorkerSpec, selector: dict[str, str]) -> dict[str, Any]:
    return _without_empty(
        {
            "serviceAccountName": worker.service_account_name,
            # A worker does not use the API server; a handler may, with an account of its own.
            "automountServiceAccountToken": worker.service_account_name is not None,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": worker.termination_grace_period_seconds,
            "securityContext": _merged(
                {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                worker.pod_security_context,
            ),
            "imagePullSecrets": [each.model_dump() for each in worker.image_pull_secrets],
            "priorityClassName": worker.priority_class_name,
            "nodeSelector": worker.node_selector,
            "tolerations": [_dumped(each) for each in worker.tolerations],
            "affinity": worker.affinity,
            "topologySpreadConstraints": [
                {"labelSelector": {"matchLabels": dict(selector)}} | each
                for each in worker.topology_spread_constraints
            ],
            "containers": [_container(spec, worker)],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": TMP_SIZE}},
                *worker.volumes,
            ],
        }
    )


def grace_seconds(worker: WorkerSpec) -> int:
    """Return how long a stopping worker lets its jobs run, in seconds."""
    return worker.termination_grace_period_seconds - GRACE_MARGIN_SECONDS


def _container(spec: JobQueueSpec, worker: WorkerSpec) -> dict[str, Any]:
    return _without_empty(
        {
            "name": "worker",
            "image": worker.image,
            "imagePullPolicy": worker.image_pull_policy,
            "command": ["meshhook"],
            "args": [
                "worker",
                spec.queue_name,
                f"--app={worker.app}" if worker.app else f"--handler={worker.handler}",
                f"--concurrency={worker.concurrency}",
                f"--grace-seconds={grace_seconds(worker)}",
            ],
            "env": [*_environment(spec.database), *(_dumped(each) for each in worker.env)],
            "envFrom": [_dumped(each) for each in worker.env_from],
            "ports": [{"name": "metrics", "containerPort": METRICS_PORT, "protocol": "TCP"}],
            # Every second until a pod is Ready adds to the lead time that the scaler plans with.
            "startupProbe": _probe("/healthz", period_seconds=1, failure_threshold=120),
            "readinessProbe": _probe("/readyz", period_seconds=5, failure_threshold=3),
            "livenessProbe": _probe("/healthz", period_seconds=10, failure_threshold=6),
            # Why a handler cannot be loaded is then in the pod's status, where the operator looks.
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": RESOURCES if worker.resources is None else _dumped(worker.resources),
            "securityContext": _merged(
                {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                worker.security_context,
            ),
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *worker.volume_mounts],  # noqa: S108 - in the pod
        }
    )


def _environment(database: DatabaseSpec) -> list[dict[str, Any]]:
    secret = database.secret_ref
    variables: list[dict[str, Any]] = [
        {
            "name": "MESHHOOK_DATABASE_URL",
            "valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}},
        },
        {"name": "MESHHOOK_METRICS_PORT", "value": str(METRICS_PORT)},
    ]
    if database.pooled:
        variables.append({"name": "MESHHOOK_POOLED", "value": "true"})
    return variables


def _probe(path: str, *, period_seconds: int, failure_threshold: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "metrics"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failure_threshold,
    }


def _dumped(part: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = part.model_dump(by_alias=True, exclude_none=True)
    return dumped


def _merged(base: Mapping[str, Any], over: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `base` with the fields of `over` in their place."""
    return {**base, **(over or {})}


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in fields.items() if value is not None and value not in ([], {})
    }
