"""Every pod of the chart and of JobQueues is accepted under the restricted standard."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.workers.manifests import worker_deployment
from support.cluster.api import Api, ApiError, Object
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import job_queue
from support.cluster.programs import program_path
from support.cluster.views import until_pods_can_be_made
from support.helm import pods, render
from support.skipping import skip

pytestmark = pytest.mark.usefixtures("job_queues_are_known")

ROLES: Object = {
    "database": {"existingSecret": "workers", "operatorExistingSecret": "operator"}
    | {"caSecret": "ca"},
    "migrations": {"existingSecret": "owner"},
}


@pytest.fixture
async def restricted(control_plane: ControlPlane) -> AsyncIterator[Api]:
    """An administrator's client, for a namespace that accepts no other pods."""
    if not program_path("helm").exists():
        skip("not built: helm; build with: python3 tests/support/cluster/programs.py helm")
    async with control_plane.administrator(f"restricted-{secrets.token_hex(4)}") as api:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"name": api.namespace, "labels": labels}
        await api.create({"kind": "Namespace", "metadata": metadata})
        await until_pods_can_be_made(api)
        yield api
        await api.delete("Namespace", api.namespace)


async def admit(api: Api, name: str, spec: Object) -> str | None:
    """Try to create a pod; return why it was refused, None if it was not."""
    # Accounts are looked for before the standard; those of the release are not there.
    spec = {key: value for key, value in spec.items() if key != "serviceAccountName"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    try:
        await api.request("POST", api.path("Pod"), pod, dryRun="All", fieldValidation="Strict")
    except ApiError as error:
        return str(error)
    return None


async def test_all_pods_are_let_in(restricted: Api) -> None:
    """The chart's pods with every kind of database, including init containers, and the workers."""
    found: dict[str, Any] = {}
    # The volume of a claim is the StatefulSet's to add.
    embedded: Object = {"embedded": {"persistence": {"enabled": False}}}
    for values in (embedded, {"database": {"existingSecret": "pg"}}, ROLES):
        for name, spec in pods(render(values)).items():
            found[f"{name} {values}"] = spec
    made = await restricted.create(job_queue())
    worker = worker_deployment(JobQueue.from_body(made), replicas=1)
    found["worker"] = worker["spec"]["template"]["spec"]
    refused = {name: await admit(restricted, "tried", spec) for name, spec in found.items()}
    assert {name: why for name, why in refused.items() if why is not None} == {}
    assert len(found) >= 10


async def test_others_are_not(restricted: Api) -> None:
    """The standard is enforced there: a plain pod is refused."""
    said = await admit(restricted, "plain", {"containers": [{"name": "a", "image": "none:1"}]})
    assert 'violates PodSecurity "restricted' in str(said)
