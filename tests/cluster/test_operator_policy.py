"""What somebody who has the operator's token can do to Deployments."""

from __future__ import annotations

import copy
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from meshhook_operator.api.jobqueue import JobQueue
from meshhook_operator.workers.manifests import worker_deployment
from support.cluster.api import Api, ApiError, Object
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import deployment, grant, job_queue, operator_rules
from support.cluster.programs import program_path
from support.cluster.views import until_pods_can_be_made
from support.helm import one, render
from support.skipping import skip
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("job_queues_are_known")

ACCOUNT = "operator"


class Stolen:
    """The operator's token in a namespace with the policy, and an allowed Deployment."""

    def __init__(self, api: Api, manifest: Object) -> None:
        self.api = api
        self.manifest = manifest

    async def refusal(self, change: Callable[[Object], Any] = lambda _: None) -> str | None:
        """Apply the Deployment with a change, for a try; return why it was refused, if it was."""
        manifest = copy.deepcopy(self.manifest)
        change(manifest)
        path = self.api.path("Deployment", manifest["metadata"]["name"])
        try:
            await self.api.request(
                "PATCH",
                path,
                manifest,
                content_type="application/apply-patch+yaml",
                fieldManager="meshhook-operator",
                force="true",
                dryRun="All",
            )
        except ApiError as error:
            return str(error)
        return None


@pytest.fixture
async def stolen(api: Api, control_plane: ControlPlane) -> AsyncIterator[Stolen]:
    """An account with the operator's permissions, and the policy for it."""
    if not program_path("helm").exists():
        skip("not built: helm; build with: python3 tests/support/cluster/programs.py helm")
    await grant(api, ACCOUNT, operator_rules())
    name = f"policy-{secrets.token_hex(4)}"
    values = {
        "fullnameOverride": name,
        "operator": {"serviceAccount": {"name": ACCOUNT}},
        "policy": {"allowedServiceAccounts": ["mailer"]},
    }
    rendered = render(values, namespace=api.namespace)
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    objects = [
        one(rendered, kind, f"{api.namespace}-{name}-{part}")
        for part in ("operator", "operator-pods")
        for kind in kinds
    ]
    made = await api.create(job_queue())
    manifest = worker_deployment(
        JobQueue.from_body(made), replicas=1, database_url_checksum="1f2e3d4c"
    )
    for each in objects:
        await api.create(each)
    async with Api(
        control_plane.url,
        token=await api.token_of(ACCOUNT),
        certificate=control_plane.certificate,
        namespace=api.namespace,
    ) as own:
        stolen = Stolen(own, manifest)

        async def is_watched() -> bool:
            said = str(await stolen.refusal(escalating))
            assert "not privileged" in said, said
            return True

        await eventually(is_watched)
        yield stolen
    for each in reversed(objects):
        await api.delete(each["kind"], each["metadata"]["name"])


def pod_of(manifest: Object) -> Object:
    """Return the spec of the pods."""
    spec: Object = manifest["spec"]["template"]["spec"]
    return spec


def container_of(manifest: Object) -> Object:
    """Return the container."""
    container: Object = pod_of(manifest)["containers"][0]
    return container


def escalating(manifest: Object) -> None:
    """Let the container gain privileges; the tests' API server refuses `privileged` by itself."""
    container_of(manifest)["securityContext"]["allowPrivilegeEscalation"] = True


def renamed(manifest: Object) -> None:
    """Take another Deployment."""
    manifest["metadata"]["name"] = "payments"


CHANGES: list[tuple[Callable[[Object], Any], str]] = [
    (renamed, "Deployments of JobQueues only"),
    (lambda m: m["metadata"].pop("ownerReferences"), "Deployments of JobQueues only"),
    (lambda m: pod_of(m).update(hostNetwork=True), "nothing of the host's"),
    (lambda m: pod_of(m).update(hostPID=True), "nothing of the host's"),
    (
        lambda m: pod_of(m).update(initContainers=[{"name": "a", "image": "none:1"}]),
        "have one container",
    ),
    (
        lambda m: pod_of(m)["containers"].append({"name": "a", "image": "none:1"}),
        "have one container",
    ),
    (escalating, "is not privileged"),
    (lambda m: container_of(m).pop("securityContext"), "is not privileged"),
    (lambda m: container_of(m)["securityContext"].pop("capabilities"), "no capabilities"),
    (
        lambda m: container_of(m)["securityContext"]["capabilities"].update(add=["NET_RAW"]),
        "no capabilities",
    ),
    (lambda m: container_of(m)["ports"][0].update(hostPort=80), "no port of the host's"),
    (lambda m: pod_of(m).pop("securityContext"), "a user that is not root"),
    (lambda m: pod_of(m)["securityContext"].update(runAsUser=0), "a user that is not root"),
    (
        lambda m: container_of(m)["securityContext"].update(runAsNonRoot=False),
        "a user that is not root",
    ),
    (lambda m: pod_of(m).update(serviceAccountName="admin"), "service account admin is not in"),
    (lambda m: pod_of(m).update(automountServiceAccountToken=True), "have a token only"),
    (
        lambda m: pod_of(m)["volumes"].append(
            {"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "a"}}]}}
        ),
        "have a token only",
    ),
    (
        lambda m: pod_of(m)["volumes"].append({"name": "a", "hostPath": {"path": "/"}}),
        "volumes of these types only: configMap",
    ),
]


async def test_the_operator_makes_what_jobqueues_ask_for(stolen: Stolen) -> None:
    """The operator's Deployments pass, also with a listed service account."""
    assert await stolen.refusal() is None

    def with_account(manifest: Object) -> None:
        pod_of(manifest).update(serviceAccountName="mailer", automountServiceAccountToken=True)

    assert await stolen.refusal(with_account) is None


ASKED_FOR: list[Object] = [
    {"securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": False}},
    {"securityContext": {"capabilities": {"drop": ["ALL"]}, "procMount": "Default"}},
    {"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "runAsUser": None}},
    {
        "podSecurityContext": {
            "runAsUser": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "Localhost", "localhostProfile": "worker.json"},
        }
    },
    {
        "volumes": [
            {"name": "a", "configMap": {"name": "a"}},
            {"name": "b", "projected": {"sources": [{"secret": {"name": "b"}}]}},
        ]
    },
]


async def test_what_a_jobqueue_may_ask_for_the_operator_may_make(api: Api, stolen: Stolen) -> None:
    """No JobQueue is accepted whose Deployment would be refused."""
    made = await api.get("JobQueue", "emails")
    for fields in ASKED_FOR:
        asked = copy.deepcopy(made)
        asked["spec"]["worker"] |= fields
        stolen.manifest = worker_deployment(JobQueue.from_body(asked), replicas=1)
        assert await stolen.refusal() is None, fields


async def test_its_token_is_good_for_nothing_more(stolen: Stolen) -> None:
    """Privileges, host access, root, other accounts and other Deployments are refused."""
    said = [(message, await stolen.refusal(change)) for change, message in CHANGES]
    assert [(message, why) for message, why in said if message not in str(why)] == []


async def test_others_make_what_they_may(api: Api, stolen: Stolen) -> None:
    """The policy applies to the operator's account only, which can scale others' Deployments."""
    await api.create(deployment("other", replicas=0))
    scale = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "other"},
        "spec": {"replicas": 1},
    }
    await stolen.api.request(
        "PATCH",
        f"{api.path('Deployment', 'other')}/scale",
        scale,
        content_type="application/apply-patch+yaml",
        fieldManager="meshhook-operator",
        force="true",
    )
    assert (await api.get("Deployment", "other"))["spec"]["replicas"] == 1


def with_image(pod: Object) -> None:
    """Let the pod run something else."""
    pod["spec"]["containers"][0]["image"] = "other:1"


POD_CHANGES: list[Callable[[Object], Any]] = [
    with_image,
    lambda pod: pod["metadata"].update(labels={"app": "payments"}),
    lambda pod: pod["metadata"].update(finalizers=["example.com/never"]),
    lambda pod: pod["metadata"].update(annotations={"seen": "yes", "other": "1"}),
    lambda pod: pod["metadata"].update(annotations=None),
]


async def test_of_pods_it_changes_only_which_goes_first(api: Api, stolen: Stolen) -> None:
    """The image, labels, finalizers and other annotations of pods cannot be changed."""
    container = {"name": "main", "image": "none:1"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "other", "annotations": {"seen": "yes"}, "labels": {"app": "other"}},
        "spec": {"containers": [container], "automountServiceAccountToken": False},
    }
    await until_pods_can_be_made(api)
    await api.create(pod)

    async def refusal(change: Callable[[Object], Any]) -> str | None:
        patch: Object = {"metadata": {}, "spec": {"containers": [dict(container)]}}
        change(patch)
        try:
            await stolen.api.request(
                "PATCH",
                api.path("Pod", "other"),
                patch,
                content_type="application/strategic-merge-patch+json",
                dryRun="All",
            )
        except ApiError as error:
            return str(error)
        return None

    async def is_watched() -> bool:
        return "changes nothing of a pod" in str(await refusal(with_image))

    await eventually(is_watched)
    for change in POD_CHANGES:
        assert "changes nothing of a pod" in str(await refusal(change))
    cost = {"controller.kubernetes.io/pod-deletion-cost": "-1"}
    assert await refusal(lambda pod: pod["metadata"].update(annotations=cost)) is None


async def test_what_is_older_than_the_policy_is_still_scaled(api: Api, stolen: Stolen) -> None:
    """An older Deployment can be scaled; changed pods must pass the policy."""
    older = copy.deepcopy(stolen.manifest)
    pod_of(older).update(serviceAccountName="admin")
    await api.apply(older, manager="meshhook-operator")
    stolen.manifest = older
    assert await stolen.refusal(lambda m: m["spec"].update(replicas=3)) is None
    said = await stolen.refusal(lambda m: container_of(m).update(image="other:1"))
    assert "service account admin" in str(said)


async def test_the_api_server_finds_nothing_wrong_with_the_expressions(
    api: Api, stolen: Stolen
) -> None:
    """The expressions pass the type check without warnings."""
    found = [
        each
        for each in await api.list("ValidatingAdmissionPolicy")
        if each["metadata"]["name"].startswith(f"{api.namespace}-")
    ]
    assert len(found) == 2

    async def are_checked() -> bool:
        for each in found:
            policy = await api.get("ValidatingAdmissionPolicy", each["metadata"]["name"])
            status = policy.get("status", {})
            assert not status.get("typeChecking", {}).get("expressionWarnings"), status
            assert status.get("observedGeneration") == each["metadata"]["generation"]
        return True

    await eventually(are_checked)
