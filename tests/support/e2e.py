"""What the end-to-end tests install: JobQueues, a receiver of webhooks, and pods to use."""

from __future__ import annotations

import json
import re
from typing import Any

from support.helm import CHART
from support.kube import Kube, KubeError, Object
from support.waiting import eventually

NAMESPACE = "meshhook-e2e"
RELEASE = "meshhook"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
IN_CLUSTERS = (
    *("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
    "198.18.0.0/15",  # those of cluster.sh
)
"""Networks in which a cluster has its Services: no delivery would go there otherwise."""
_NO_DATABASE = 4
"""The exit code of `meshhook` where no database can be connected to."""


def next_image(image: str) -> str:
    """Return the name under which the local cluster has the same image again."""
    return f"{image}-next"


async def released(kube: Kube, verb: str, values: Object) -> None:
    """Install or upgrade the release, and wait until the pod `client` reaches the database.

    `helm --wait` returns when the database's pod is Ready. Its Service refuses connections until
    kube-proxy has heard of that, too: a second later, or more.
    """
    kube.helm(verb, RELEASE, CHART, "--wait", "--timeout", "5m", values=values)

    def is_reached() -> bool:
        try:
            kube.meshhook("queue", "list")
        except KubeError as error:
            if error.exit_code != _NO_DATABASE:
                raise
            raise AssertionError(str(error)) from error
        return True

    await eventually(is_reached, timeout=60)


def worker_selector(queue: str) -> str:
    """Return the selector of the worker pods of a JobQueue."""
    return f"meshhook.io/jobqueue={queue}"


async def steady_workers(kube: Kube, queue: str, count: int) -> set[str]:
    """Wait until a JobQueue has exactly so many workers and wants no others; return their names.

    Its spec must leave no other number. The operator has seen the spec then, its Deployment is
    rolled out, and no pod more or less is on its way.
    """
    selector = worker_selector(queue)

    def is_steady() -> set[str]:
        found = kube.get("jobqueue", queue)
        seen = found.get("status", {}).get("observedGeneration")
        assert seen == found["metadata"]["generation"], f"generation {seen} was seen"
        deployment = kube.get("deployment", f"{queue}-worker")
        status = deployment["status"]
        assert status.get("observedGeneration") == deployment["metadata"]["generation"], status
        kinds = ("replicas", "updatedReplicas", "readyReplicas")
        numbers = {kind: status.get(kind) for kind in kinds}
        assert deployment["spec"]["replicas"] == count, deployment["spec"]["replicas"]
        assert numbers == dict.fromkeys(kinds, count), numbers
        # With those on their way out: they may be evicted or killed no more.
        names = {each["metadata"]["name"] for each in kube.get("pods", "--selector", selector)}
        ready = set(kube.ready_pods(selector))
        assert names == ready, names - ready
        assert len(ready) == count, ready
        return ready

    steady: set[str] = await eventually(is_steady, timeout=240)
    return steady


def pod(name: str, image: str, command: list[str], **container: Any) -> Object:
    """Return a pod that meets the restricted standard, with the scripts at /pods."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, "meshhook.io/client": "true"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                # Not the account of the image: any will do.
                "runAsUser": 1234567,
                "runAsGroup": 0,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": command,
                    "env": [
                        {"name": "WEBHOOK_SECRET", "value": SECRET},
                        {
                            "name": "MESHHOOK_DATABASE_URL",
                            "valueFrom": {
                                "secretKeyRef": {"name": f"{RELEASE}-database", "key": "uri"}
                            },
                        },
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "pods", "mountPath": "/pods"},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
                | container
            ],
            "volumes": [
                {"name": "pods", "configMap": {"name": "pods"}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


class Receiver:
    """The receiver of webhooks, a pod behind a Service."""

    url = "http://receiver:8080/hooks"

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def ledger(self) -> dict[str, int]:
        """Return how often each id was accepted."""
        found: dict[str, int] = json.loads(self._ask("GET", "ledger"))
        return found

    def be_friendly(self) -> None:
        """Let it accept what it refused."""
        self._ask("POST", "friendly")

    def _ask(self, method: str, path: str) -> str:
        code = (
            "import sys, urllib.request as u;"
            f"print(u.urlopen(u.Request('http://receiver:8080/{path}', method='{method}'))"
            ".read().decode())"
        )
        return self._kube.kubectl("exec", "client", "--", "python", "-c", code)


def job_queue(name: str, image: str, **scaling: Any) -> Object:
    """Return a JobQueue whose workers deliver webhooks."""
    return {
        "apiVersion": "meshhook.io/v1alpha1",
        "kind": "JobQueue",
        "metadata": {"name": name},
        "spec": {
            "queueName": name,
            "database": {
                "secretRef": {"name": f"{RELEASE}-database-workers"},
                "operatorSecretRef": {"name": f"{RELEASE}-database-operator"},
            },
            "visibilityTimeoutSeconds": 10,
            "retry": {"maxAttempts": 10, "backoffBaseMs": 500, "backoffMaxMs": 5000},
            "worker": {
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "handler": "meshhook.demo.webhook_delivery:deliver",
                "concurrency": 5,
                "env": [
                    {"name": "MESHHOOK_WEBHOOK_SECRET", "value": SECRET},
                    {"name": "MESHHOOK_WEBHOOK_ALLOW_HTTP", "value": "true"},
                    {"name": "MESHHOOK_WEBHOOK_ALLOWED_NETWORKS", "value": ",".join(IN_CLUSTERS)},
                ],
                "resources": {"requests": {"cpu": "50m", "memory": "96Mi"}},
                "terminationGracePeriodSeconds": 15,
            },
            "scaling": {"minReplicas": 0, "maxReplicas": 4, "tickSeconds": 1} | scaling,
        },
    }


def producer(image: str, queue: str, prefix: str, *, rate: int, count: int | None = None) -> Object:
    """Return a pod that enqueues webhooks with the ids PREFIX-0 and so on.

    Args:
        image: with meshhook.
        queue: where they go.
        prefix: of their ids, and of the pod's name: `producer-<prefix>`.
        rate: how many a second.
        count: how many in all; by default there is no end before SIGTERM.
    """
    arguments = [queue, Receiver.url, prefix, str(rate), *([] if count is None else [str(count)])]
    return pod(f"producer-{prefix}", image, ["python", "/pods/producer.py", *arguments])


def enqueued(kube: Kube, prefix: str) -> int:
    """Return how many jobs the producer of a prefix has stored so far."""
    said = kube.kubectl("logs", f"producer-{prefix}")
    return max(
        (int(found) for found in re.findall(r"^enqueued (\d+)$", said, re.MULTILINE)), default=0
    )


async def produced(kube: Kube, prefix: str, seconds: float = 240) -> int:
    """Wait until a producer has ended, and return how many jobs it stored."""
    name = f"producer-{prefix}"

    def phase() -> str:
        found: str = kube.get("pod", name)["status"]["phase"]
        assert found != "Failed", kube.kubectl("logs", name)
        return found

    await eventually(lambda: phase() == "Succeeded", timeout=seconds)
    return enqueued(kube, prefix)


async def all_accepted(
    receiver: Receiver, prefix: str, count: int, seconds: float = 240
) -> dict[str, int]:
    """Wait until every id of a producer was accepted, and return how often each was."""
    return await accepted(receiver, {f"{prefix}-{number}" for number in range(count)}, seconds)


async def accepted(receiver: Receiver, ids: set[str], seconds: float = 240) -> dict[str, int]:
    """Wait until deliveries were accepted, and return how often each was."""
    found: dict[str, int] = {}

    def is_complete() -> bool:
        nonlocal found
        try:
            found = receiver.ledger()
        except KubeError as error:  # the node is busy, or the API server restarts
            raise AssertionError(str(error)) from error
        missing = ids - found.keys()
        assert not missing, f"{len(missing)} of {len(ids)} are missing: {sorted(missing)[:10]}"
        return True

    await eventually(is_complete, timeout=seconds)
    return {each: found[each] for each in ids}
