"""Invalid JobQueues that the API server refuses, before the operator sees them."""

from __future__ import annotations

from typing import Any

import pytest

from support.cluster.api import Api, ApiError, Object
from support.cluster.objects import job_queue

pytestmark = pytest.mark.usefixtures("job_queues_are_known")


def changed(path: str, value: Any) -> Object:
    """Return a valid JobQueue with one field of its spec set to `value`."""
    manifest = job_queue()
    place = manifest["spec"]
    *parents, last = path.split(".")
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return manifest


async def refusal(api: Api, manifest: Object) -> str:
    """Create an object that must be refused, and return the message."""
    with pytest.raises(ApiError) as caught:
        await api.create(manifest)
    assert caught.value.status in {400, 422}
    return str(caught.value)


async def test_defaults_are_filled_in(api: Api):
    """Defaults are stored, so that `kubectl get -o yaml` shows the effective settings."""
    created = await api.create(job_queue())
    spec = created["spec"]
    assert spec["visibilityTimeoutSeconds"] == 30
    assert spec["retry"]["maxAttempts"] == 5
    assert spec["scaling"]["targetAgeSeconds"] == 60
    assert spec["deletionPolicy"] == "Retain"
    assert spec["paused"] is False


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("scaling.minReplicas", 11, "minReplicas is more than maxReplicas"),
        ("scaling.fallback", {"replicas": 11}, "fallback.replicas is more than maxReplicas"),
        ("scaling.targetAgeSeconds", 0, "spec.scaling.targetAgeSeconds"),
        ("scaling.maxReplicas", 0, "spec.scaling.maxReplicas"),
        ("scaling.maxReplicas", "many", "spec.scaling.maxReplicas"),
        ("scaling.maxReplicas", None, "spec.scaling.maxReplicas"),
        ("scaling.tickSeconds", 0, "spec.scaling.tickSeconds"),
        ("scaling.cooldownSeconds", -1, "spec.scaling.cooldownSeconds"),
        ("deploymentRef", {"name": "workers"}, "exactly one of worker and deploymentRef"),
        ("worker", None, "exactly one of worker and deploymentRef"),
        ("worker.handler", "no_module", "spec.worker.handler"),
        ("worker.handler", None, "exactly one of handler and app"),
        ("worker.app", "shop.jobs:app", "exactly one of handler and app"),
        ("worker.app", "no_module", "spec.worker.app"),
        ("worker.concurrency", 0, "spec.worker.concurrency"),
        ("worker.env", [{"name": "MESHHOOK_DATABASE_URL", "value": "x"}], "sets MESHHOOK_DATABASE"),
        ("retry", {"backoffBaseMs": 10, "backoffMaxMs": 5}, "backoffBaseMs is more than"),
        ("retry.jitter", 1.5, "spec.retry.jitter"),
        ("visibilityTimeoutSeconds", 0, "spec.visibilityTimeoutSeconds"),
        ("database.secretRef", {}, "spec.database.secretRef.name"),
        ("database.secretRef.name", "Not A Name", "spec.database.secretRef.name"),
        ("deletionPolicy", "Destroy", "spec.deletionPolicy"),
        ("queueName", "a" * 44, "spec.queueName"),
        ("queueName", "Emails", "spec.queueName"),
        ("queueName", "emails; drop table jobs", "spec.queueName"),
        ("queueName", "ümläut", "spec.queueName"),
        ("queueName", "", "spec.queueName"),
        ("queueName", "emails_dlq", "belong to dead letter queues"),
    ],
)
async def test_bad_values_are_refused(api: Api, path: str, value: Any, message: str):
    """An invalid value is refused, and the message names the field or the rule."""
    assert message in await refusal(api, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("maxReplicas", 20),
        ("scaling.maxReplica", 20),
        ("scaling.cooldownPeriod", 300),
        ("worker.replicas", 3),
        ("worker.resources.cpu", "1"),
        ("database.url", "postgresql://"),
        ("retry.maxRetries", 3),
    ],
)
async def test_misplaced_fields_are_refused(api: Api, path: str, value: Any):
    """An unknown field is refused, not ignored (KEDA 2479)."""
    assert f'unknown field "spec.{path}"' in await refusal(api, changed(path, value))


async def test_the_queue_cannot_be_changed(api: Api):
    """Another queueName is refused: the old queue's messages would be forgotten."""
    await api.create(job_queue())
    with pytest.raises(ApiError, match="queueName cannot be changed"):
        await api.patch("JobQueue", "emails", {"spec": {"queueName": "letters"}})


async def test_the_deployment_cannot_become_somebody_elses(api: Api):
    """Switching from worker to deploymentRef would leave its pods running unattended."""
    await api.create(job_queue())
    change = {"spec": {"worker": None, "deploymentRef": {"name": "mail"}}}
    with pytest.raises(ApiError, match="cannot replace each other"):
        await api.patch("JobQueue", "emails", change)


async def test_long_names_are_refused(api: Api):
    """A name that is too long for the label of a pod is refused at once."""
    manifest = job_queue()
    manifest["metadata"]["name"] = "e" * 60
    assert "at most 52 characters" in await refusal(api, manifest)


async def test_the_longest_names_are_taken(api: Api):
    """A name of 52 characters and a queue name of 43 are taken."""
    manifest = job_queue()
    manifest["metadata"]["name"] = "e" * 52
    manifest["spec"]["queueName"] = "q" * 43
    assert await api.create(manifest)


async def test_the_status_is_a_subresource(api: Api):
    """Writing the spec does not write the status."""
    created = await api.create(job_queue() | {"status": {"replicas": 7}})
    assert "status" not in created


@pytest.mark.parametrize("name", ["jobqueues", "jobqueue", "jobq"])
async def test_names_for_kubectl(api: Api, name: str):
    """`kubectl get` accepts jobqueues, jobqueue, jobq and meshhook."""
    found = await api.request("GET", "/apis/meshhook.io/v1alpha1")
    (resource,) = [
        each
        for each in found["resources"]
        if each["kind"] == "JobQueue" and "/" not in each["name"]
    ]
    assert name in {resource["name"], resource["singularName"], *resource["shortNames"]}
    assert resource["categories"] == ["meshhook"]


async def test_no_other_scaler_can_take_hold(api: Api):
    """There is no subresource `scale` with which an HPA could fight the operator."""
    found = await api.request("GET", "/apis/meshhook.io/v1alpha1")
    assert "jobqueues/scale" not in {each["name"] for each in found["resources"]}
