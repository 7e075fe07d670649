"""Which JobQueues the chart's policy refuses and accepts, on a real API server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from support.cluster.api import Api, ApiError, Object
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import deployment, grant, job_queue
from support.cluster.programs import program_path
from support.helm import one, render
from support.skipping import skip
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("job_queues_are_known")

KINDS = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
NARROW = {
    "allowedServiceAccounts": ["mailer", "elsewhere/other"],
    "allowedSecrets": ["smtp", "elsewhere/other", "database"],
    "allowedImages": ["registry.example/shop/", "registry.example/mail", "none:1"],
    "allowedVolumes": ["emptyDir", "csi", "projected"],
    "allowedPodLabels": ["team"],
    "allowedPodAnnotations": ["note", "k8s.v1.cni.cncf.io/networks"],
}


class Guarded(NamedTuple):
    """A namespace for each policy."""

    by_default: str
    narrow: str


def policy(namespace: str, **values: Any) -> list[Object]:
    """Return the chart's policy and its binding, for one namespace, the release's."""
    found = render(
        {
            "fullnameOverride": namespace,
            "database": {"existingSecret": "database", "operatorExistingSecret": "operators"},
            "migrations": {"existingSecret": "owner"},
            "policy": values
            | {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}},
        },
        namespace=namespace,
    )
    return [one(found, kind, f"{namespace}-{namespace}") for kind in KINDS]


@pytest.fixture(scope="module")
def guarded(control_plane: ControlPlane, job_queues_are_known: None) -> Iterator[Guarded]:
    """Two namespaces, one with the default policy, one with every list set."""
    if not program_path("helm").exists():
        skip("not built: helm; build with: python3 tests/support/cluster/programs.py helm")
    namespaces = Guarded(*(f"{each}-{secrets.token_hex(4)}" for each in ("default", "narrow")))
    policies = [
        *policy(namespaces.by_default),
        *policy(namespaces.narrow, **NARROW),
    ]

    async def install() -> None:
        async with control_plane.administrator("default") as api:
            for namespace in namespaces:
                await api.create({"kind": "Namespace", "metadata": {"name": namespace}})
            for each in policies:
                await api.create(each)
            for namespace in namespaces:
                await eventually(partial(_is_guarded, api, namespace))

    async def uninstall() -> None:
        async with control_plane.administrator("default") as api:
            for each in reversed(policies):
                await api.delete(each["kind"], each["metadata"]["name"])
            for namespace in namespaces:
                await api.delete("Namespace", namespace)

    asyncio.run(install())
    yield namespaces
    asyncio.run(uninstall())


@pytest.fixture
async def api(control_plane: ControlPlane, guarded: Guarded) -> AsyncIterator[Api]:
    """An administrator's client."""
    async with control_plane.administrator(guarded.by_default) as api:
        yield api


async def _is_guarded(api: Api, namespace: str) -> bool:
    manifest = job_queue("tried", worker={"securityContext": {"privileged": True}})
    return "must be false" in str(await refusal(api, namespace, manifest))


def worker(**fields: Any) -> Object:
    """Return a JobQueue with these fields of its worker."""
    return job_queue(worker={"concurrency": 3} | fields)


async def refusal(api: Api, namespace: str, manifest: Object) -> str | None:
    """Try to create a JobQueue; return why it was refused, None if it was not."""
    path = api.path("JobQueue", namespace=namespace)
    body = {"apiVersion": "meshhook.io/v1alpha1"} | manifest
    try:
        await api.request("POST", path, body, dryRun="All", fieldValidation="Strict")
    except ApiError as error:
        return str(error)
    return None


def secret_variable(name: str) -> Object:
    """Return a variable with the value of a Secret."""
    return {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": name, "key": "token"}}}


def projected(**source: Any) -> Object:
    """Return a volume with one projected source."""
    return {"name": "data", "projected": {"sources": [source]}}


TOKEN = {"serviceAccountToken": {"path": "token"}}

REFUSED = [
    # What a container may do to its node.
    ({"securityContext": {"privileged": True}}, "securityContext.privileged must be false"),
    ({"securityContext": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation must be"),
    ({"securityContext": {"allowPrivilegeEscalation": None}}, "allowPrivilegeEscalation must be"),
    ({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}}, "add none"),
    ({"securityContext": {"capabilities": {"add": ["NET_RAW"]}}}, "must drop ALL and add none"),
    ({"securityContext": {"capabilities": {}}}, "must drop ALL and add none"),
    ({"securityContext": {"capabilities": None}}, "must drop ALL and add none"),
    ({"securityContext": {"runAsNonRoot": False}}, "worker.securityContext.runAsNonRoot must be"),
    ({"podSecurityContext": {"runAsNonRoot": False}}, "podSecurityContext.runAsNonRoot must be"),
    ({"podSecurityContext": {"runAsNonRoot": None}}, "podSecurityContext.runAsNonRoot must be"),
    ({"securityContext": {"runAsUser": 0}}, "worker.securityContext.runAsUser is 0, which is root"),
    ({"podSecurityContext": {"runAsUser": 0}}, "podSecurityContext.runAsUser is 0, which is root"),
    ({"securityContext": {"procMount": "Unmasked"}}, "procMount must be Default"),
    (
        {"securityContext": {"seccompProfile": {"type": "Unconfined"}}},
        "spec.worker.securityContext.seccompProfile must be of type RuntimeDefault or Localhost",
    ),
    ({"podSecurityContext": {"seccompProfile": {"type": "Unconfined"}}}, "seccompProfile must be"),
    ({"podSecurityContext": {"seccompProfile": None}}, "podSecurityContext.seccompProfile must be"),
    ({"podSecurityContext": {"seccompProfile": {}}}, "podSecurityContext.seccompProfile must be"),
    ({"securityContext": {"appArmorProfile": {"type": "Unconfined"}}}, "appArmorProfile must be"),
    (
        {"podSecurityContext": {"windowsOptions": {"hostProcess": True}}},
        "spec.worker.podSecurityContext.windowsOptions may not be set",
    ),
    (
        {"podSecurityContext": {"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}},
        "spec.worker.podSecurityContext.sysctls may not be set",
    ),
    (
        {"securityContext": {"seLinuxOptions": {"type": "spc_t"}}},
        "seLinuxOptions may set the level",
    ),
    ({"securityContext": {"somethingNew": True}}, "securityContext.somethingNew may not be set"),
    ({"priorityClassName": "system-node-critical"}, "system-node-critical is for the cluster"),
    (
        {"podAnnotations": {"container.apparmor.security.beta.kubernetes.io/worker": "unconfined"}},
        "change how a pod is confined",
    ),
    ({"podAnnotations": {"k8s.v1.cni.cncf.io/networks": "host"}}, "cncf.io/networks"),
    # What pods may mount and read.
    (
        {"volumes": [{"name": "data", "hostPath": {"path": "/"}}]},
        "spec.worker.volumes[data].hostPath is refused: use one of configMap",
    ),
    ({"volumes": [{"name": "data", "nfs": {"server": "x", "path": "/"}}]}, "volumes[data].nfs is"),
    ({"volumes": [{"name": "data", "csi": {"driver": "x"}}]}, "volumes[data].csi is refused"),
    (
        {"volumes": [{"name": "data", "emptyDir": {}, "hostPath": None}]},
        "volumes[data].hostPath is",
    ),
    ({"volumes": [projected(**TOKEN)]}, "a serviceAccountToken only where"),
    ({"volumes": [projected(podCertificate={"signerName": "x/y"})]}, "volumes[data].projected may"),
    ({"volumes": [projected(secret={"name": "owner"})]}, "projected names such a Secret: the data"),
    (
        {"volumes": [{"name": "data", "secret": {"secretName": "owner"}}]},
        "volumes[data] names owner",
    ),
    ({"env": [secret_variable("owner")]}, "spec.worker.env[TOKEN] names owner: the database's own"),
    ({"envFrom": [{"secretRef": {"name": "owner"}}]}, "spec.worker.envFrom names owner"),
    # Whose rights pods have.
    (
        {"serviceAccountName": "admin"},
        "spec.worker.serviceAccountName: admin is not in policy.allowedServiceAccounts",
    ),
    ({"serviceAccountName": "default"}, "serviceAccountName: default is not in"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=lambda each: str(each)[:60])
async def test_what_goes_beyond_a_worker_is_refused(
    api: Api, guarded: Guarded, fields: Object, message: str
):
    """The message names the field, the value, and what to do."""
    assert message in str(await refusal(api, guarded.by_default, worker(**fields)))


ALLOWED: list[Object] = [
    {},
    {"securityContext": {"privileged": False, "readOnlyRootFilesystem": False, "runAsUser": 1000}},
    {"securityContext": {"capabilities": {"drop": ["ALL"]}, "procMount": "Default"}},
    {
        "podSecurityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "supplementalGroups": [5],
            "seccompProfile": {"type": "Localhost", "localhostProfile": "worker.json"},
            "seLinuxOptions": {"level": "s0:c1,c2"},
        }
    },
    {"env": [secret_variable("api"), {"name": "A", "value": "b"}], "envFrom": [{"prefix": "X_"}]},
    {
        "volumes": [
            {"name": "a", "configMap": {"name": "a"}},
            {"name": "b", "secret": {"secretName": "b"}},
            {"name": "c", "emptyDir": {"sizeLimit": "1Gi"}},
            {"name": "d", "persistentVolumeClaim": {"claimName": "d"}},
            projected(secret={"name": "e"}),
        ]
    },
    {"podLabels": {"app": "shop"}, "podAnnotations": {"note": "x"}, "priorityClassName": "high"},
    {"image": "anywhere.example/any:1"},
]


@pytest.mark.parametrize("fields", ALLOWED, ids=lambda each: str(each)[:60])
async def test_what_workers_need_passes(api: Api, guarded: Guarded, fields: Object):
    """What an ordinary worker asks for is allowed."""
    assert await refusal(api, guarded.by_default, worker(**fields)) is None


NARROW_REFUSED: list[tuple[Object, str]] = [
    ({"serviceAccountName": "other"}, "serviceAccountName: other is not in"),
    ({"env": [secret_variable("other")]}, "env[TOKEN] names other, which is not in policy.allowed"),
    ({"volumes": [projected(secret={"name": "other"})]}, "projected names such a Secret, which is"),
    (
        {"volumes": [{"name": "a", "csi": {"driver": "x", "nodePublishSecretRef": {"name": "b"}}}]},
        "spec.worker.volumes[a] names b, which is not",
    ),
    ({"imagePullSecrets": [{"name": "other"}]}, "spec.worker.imagePullSecrets names other"),
    ({"image": "registry.example/shop-evil:1"}, "spec.worker.image: registry.example/shop-evil:1"),
    ({"image": "registry.example/mail:5000/evil:1"}, "is not in policy.allowedImages"),
    ({"image": "registry.example/mailer:1"}, "use an image from registry.example/shop/"),
    ({"volumes": [{"name": "a", "configMap": {"name": "a"}}]}, "use one of emptyDir, csi"),
    ({"podLabels": {"team": "a", "app": "payments"}}, "spec.worker.podLabels: app is not in"),
    ({"podAnnotations": {"other": "a"}}, "spec.worker.podAnnotations: other"),
]


@pytest.mark.parametrize(("fields", "message"), NARROW_REFUSED, ids=lambda each: str(each)[:60])
async def test_what_is_not_on_a_list_is_refused(
    api: Api, guarded: Guarded, fields: Object, message: str
):
    """Accounts, Secrets, images, volumes, labels and annotations can be limited to lists."""
    assert message in str(await refusal(api, guarded.narrow, worker(**fields)))


NARROW_ALLOWED: list[Object] = [
    {"serviceAccountName": "mailer", "volumes": [projected(**TOKEN)]},
    {"env": [secret_variable("smtp")], "volumes": [projected(secret={"name": "smtp"})]},
    {"image": "registry.example/shop/mail:1"},
    {"image": "registry.example/mail:7"},
    {"image": f"registry.example/mail@sha256:{'0' * 64}"},
    {"image": "localhost/meshhook-queue:0.1.0"},
    {"podLabels": {"team": "a"}, "podAnnotations": {"k8s.v1.cni.cncf.io/networks": "mail"}},
]


@pytest.mark.parametrize("fields", NARROW_ALLOWED, ids=lambda each: str(each)[:60])
async def test_what_is_on_a_list_passes(api: Api, guarded: Guarded, fields: Object):
    """Listed values pass, and so do the release's own Secret and image."""
    assert await refusal(api, guarded.narrow, worker(**fields)) is None


async def test_the_database_of_a_queue_is_a_secret_like_any_other(api: Api, guarded: Guarded):
    """The owner's Secret is always refused, others if there is a list."""
    owner = job_queue(database={"secretRef": {"name": "owner"}})
    assert "spec.database.secretRef names owner" in str(await refusal(api, guarded.narrow, owner))
    other = job_queue(database={"secretRef": {"name": "other"}})
    assert await refusal(api, guarded.by_default, other) is None
    assert "secretRef names other, which" in str(await refusal(api, guarded.narrow, other))


async def test_the_operators_secret_is_for_the_operator(api: Api, guarded: Guarded):
    """The operator's Secret is allowed where the operator reads it, and nowhere else."""
    both = {"secretRef": {"name": "database"}, "operatorSecretRef": {"name": "operators"}}
    for namespace in guarded:
        assert await refusal(api, namespace, job_queue(database=both)) is None
        said = await refusal(
            api, namespace, job_queue(database={"secretRef": both["operatorSecretRef"]})
        )
        assert "spec.database.secretRef names operators: the database's owner" in str(said)
    said = await refusal(api, guarded.by_default, worker(env=[secret_variable("operators")]))
    assert "spec.worker.env[TOKEN] names operators" in str(said)
    for name, namespace in (("owner", guarded.by_default), ("other", guarded.narrow)):
        manifest = job_queue(database=both | {"operatorSecretRef": {"name": name}})
        said = await refusal(api, namespace, manifest)
        assert f"spec.database.operatorSecretRef names {name}" in str(said)


async def test_a_change_is_looked_at_as_a_new_one_is(api: Api):
    """A valid JobQueue cannot be changed into one that is refused."""
    await api.create(job_queue("changed"))
    change = {"spec": {"worker": {"securityContext": {"privileged": True}}}}
    with pytest.raises(ApiError, match="privileged must be false"):
        await api.patch("JobQueue", "changed", change)
    applied = job_queue("changed", worker={"serviceAccountName": "admin"})
    with pytest.raises(ApiError, match="serviceAccountName: admin"):
        await api.apply(applied, force=True)


async def test_what_is_older_than_the_policy_can_be_deleted(api: Api, control_plane: ControlPlane):
    """An older JobQueue can change its finalizer and labels, and its spec only into a valid one."""
    namespace = f"older-{secrets.token_hex(4)}"
    manifest = worker(serviceAccountName="admin")
    manifest["metadata"]["finalizers"] = ["meshhook.io/queue"]
    async with control_plane.administrator(namespace) as own:
        await own.create({"kind": "Namespace", "metadata": {"name": namespace}})
        await own.create(manifest)
        objects = policy(namespace)
        for each in objects:
            await own.create(each)
        await eventually(lambda: _is_guarded(own, namespace))
        with pytest.raises(ApiError, match="serviceAccountName: admin"):
            await own.patch("JobQueue", "emails", {"spec": {"worker": {"concurrency": 4}}})
        await own.patch("JobQueue", "emails", {"metadata": {"labels": {"a": "b"}}})
        await own.delete("JobQueue", "emails")
        await own.patch("JobQueue", "emails", {"metadata": {"finalizers": None}})
        assert await own.find("JobQueue", "emails") is None
        for each in objects:
            await own.delete(each["kind"], each["metadata"]["name"])
        await own.delete("Namespace", namespace)


async def test_a_deployment_is_scaled_for_those_who_may_scale_it(
    api: Api, control_plane: ControlPlane, guarded: Guarded
):
    """A deploymentRef needs the author's permission to scale that Deployment."""
    await api.create(deployment("payments"))
    queues = {"apiGroups": ["meshhook.io"], "resources": ["jobqueues"], "verbs": ["create"]}
    scale = {"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["patch"]}
    await grant(api, "author", [queues])
    await grant(api, "scaler", [queues, scale | {"resourceNames": ["payments"]}])
    said = {}
    for account in ("author", "scaler"):
        token = await api.token_of(account)
        async with Api(
            control_plane.url,
            token=token,
            certificate=control_plane.certificate,
            namespace=guarded.by_default,
        ) as user:
            for name in ("payments", "other"):
                manifest = job_queue(worker=None, deploymentRef={"name": name})
                said[account, name] = await refusal(user, guarded.by_default, manifest)
    assert "you may not scale Deployment payments yourself" in str(said["author", "payments"])
    assert "Deployment other" in str(said["scaler", "other"])
    assert said["scaler", "payments"] is None


async def test_the_largest_jobqueue_stays_within_the_budget(api: Api, guarded: Guarded):
    """Expressions have a cost limit, and lists of the maximum length stay below it."""
    fields: Object = {
        "env": [secret_variable("smtp") | {"name": f"V{n}"} for n in range(499)],
        "envFrom": [{"secretRef": {"name": "smtp"}}] * 200,
        "volumes": [projected(secret={"name": "smtp"}) | {"name": f"v{n}"} for n in range(200)],
        "podLabels": {},
    }
    assert await refusal(api, guarded.narrow, worker(**fields)) is None
    fields["env"].append(secret_variable("other"))
    assert "env[TOKEN] names other" in str(await refusal(api, guarded.narrow, worker(**fields)))


async def test_the_api_server_finds_nothing_wrong_with_the_expressions(api: Api, guarded: Guarded):
    """The expressions pass the type check without warnings."""

    async def is_checked() -> bool:
        found = await api.get("ValidatingAdmissionPolicy", f"{guarded.narrow}-{guarded.narrow}")
        status = found.get("status", {})
        assert not status.get("typeChecking", {}).get("expressionWarnings")
        return bool(status.get("observedGeneration") == found["metadata"]["generation"])

    await eventually(is_checked)


@pytest.mark.parametrize(
    "field",
    [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "initContainers",
        "containers",
        "sidecars",
        "lifecycle",
        "ports",
        "command",
        "automountServiceAccountToken",
        "podTemplate",
    ],
)
async def test_a_worker_has_no_such_field(api: Api, guarded: Guarded, field: str):
    """Other pod features are not fields of a JobQueue."""
    said = await refusal(api, guarded.by_default, worker(**{field: True}))
    assert f'unknown field "spec.worker.{field}"' in str(said)
