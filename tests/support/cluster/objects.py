"""Objects that tests make: JobQueues and what belongs to them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from support.cluster.api import Api, Object
from support.waiting import eventually

OPERATOR = Path(__file__).parents[3] / "operator"
SECRET = "database"
OWN_LEASE = "meshhook-operator"


def job_queue(name: str = "emails", **spec: Any) -> Object:
    """Return a JobQueue that ticks every second, and with these fields of its spec besides.

    Args:
        name: its name, and that of its queue.
        spec: replaces fields of the spec; None takes a field away. What is given for `scaling`
            and `worker` is added to what is there.
    """
    scaling = {"minReplicas": 1, "maxReplicas": 10, "tickSeconds": 1}
    found: Object = {
        "queueName": name,
        "database": {"secretRef": {"name": SECRET}},
        "worker": {"image": "none:1", "handler": "tests:handle", "concurrency": 10},
        "scaling": scaling | spec.pop("scaling", {}),
    }
    if spec.get("worker"):
        found["worker"] |= spec.pop("worker")
    found |= spec
    return {
        "kind": "JobQueue",
        "metadata": {"name": name},
        "spec": {key: value for key, value in found.items() if value is not None},
    }


def database_secret(url: str, name: str = SECRET) -> Object:
    """Return a Secret with the URL of a database."""
    return {"kind": "Secret", "metadata": {"name": name}, "stringData": {"uri": url}}


def deployment(
    name: str, *, replicas: int | None = 1, pod: Mapping[str, Any] | None = None
) -> Object:
    """Return a Deployment of somebody else's making.

    Args:
        name: its name, and the value of the label `app` that it selects.
        replicas: left out if it is None.
        pod: added to the spec of its pods.
    """
    labels = {"app": name}
    spec: Object = {
        "selector": {"matchLabels": labels},
        "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "none:1"}]} | dict(pod or {}),
        },
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {"kind": "Deployment", "metadata": {"name": name}, "spec": spec}


def job_schedule(name: str = "nightly", jobqueue: str = "emails", **spec: Any) -> Object:
    """Return a JobSchedule that is due once a year, with these fields of its spec besides."""
    found = {"jobQueueRef": {"name": jobqueue}, "cron": "0 0 1 1 *"} | spec
    return {
        "kind": "JobSchedule",
        "metadata": {"name": name},
        "spec": {key: value for key, value in found.items() if value is not None},
    }


def custom_resource_definitions() -> list[Object]:
    """Return the definitions of JobQueues and JobSchedules, as they are installed."""
    files = sorted((OPERATOR / "crds").glob("*.yaml"))
    return [yaml.load(file.read_text(), Loader=yaml.CSafeLoader) for file in files]


def operator_rules() -> list[Object]:
    """Return what the operator may do."""
    found: list[Object] = yaml.safe_load((OPERATOR / "rbac.yaml").read_text())["rules"]
    return found


def own_lease_rules(name: str = OWN_LEASE) -> list[Object]:
    """Return what the operator may do with its own Lease besides."""
    return [
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": [name],
            "verbs": ["get", "patch"],
        }
    ]


async def grant(api: Api, account: str, rules: list[Object], *, cluster_wide: bool = False) -> None:
    """Make a service account with exactly these rules, in the namespace of `api` or everywhere.

    The API server knows of them when this returns.
    """
    await api.create({"kind": "ServiceAccount", "metadata": {"name": account}})
    name = f"{api.namespace}-{account}" if cluster_wide else account
    prefix = "Cluster" if cluster_wide else ""
    role = f"{prefix}Role"
    await api.create({"kind": role, "metadata": {"name": name}, "rules": copy.deepcopy(rules)})
    await api.create(
        {
            "kind": f"{role}Binding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": api.namespace}],
        }
    )
    await until_granted(api, f"{api.namespace}:{account}", rules)


async def until_granted(api: Api, account: str, rules: list[Object]) -> None:
    """Wait until the API server lets an account do what rules allow in the namespace of `api`.

    It answers that a role was made before those who decide have heard of it.

    Args:
        api: an administrator.
        account: the service account, as NAMESPACE:NAME.
        rules: of one role; when the first holds, all do.
    """
    rule = rules[0]
    attributes = {
        "namespace": api.namespace,
        "group": rule["apiGroups"][0],
        "resource": rule["resources"][0].partition("/")[0],
        "subresource": rule["resources"][0].partition("/")[2],
        "verb": rule["verbs"][0],
        "name": next(iter(rule.get("resourceNames", ())), ""),
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": f"system:serviceaccount:{account}", "resourceAttributes": attributes},
    }

    async def is_allowed() -> bool:
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = await api.request("POST", path, review)
        assert answer["status"]["allowed"], answer["status"]
        return True

    await eventually(is_allowed)
