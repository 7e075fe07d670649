"""Every pod of the chart passes the restricted Pod Security Standard, and a little more."""

from __future__ import annotations

import pytest

from support.helm import Object, one, pods, render

ROLES: Object = {
    "database": {"existingSecret": "workers", "operatorExistingSecret": "operator"},
    "migrations": {"existingSecret": "owner", "roles": {"workersEnqueue": True}},
}
CONSOLE: Object = {
    "console": {"enabled": True, "authentication": "basic", "settingsSecret": "console"}
}
DATABASES: list[Object] = [{}, {"database": {"existingSecret": "pg"}}, ROLES, CONSOLE]


@pytest.fixture(scope="module")
def all_pods():
    """All pods that any values make, by name; with roles the migrations have init containers."""
    found: dict[str, Object] = {}
    for values in DATABASES:
        found |= pods(render(values))
    return found


def containers(pod):
    """Return all containers of a pod."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_there_are_all_kinds_of_pods(all_pods):
    """Operator, database, migrations and test are looked at."""
    assert {name.partition("/")[0] for name in all_pods} == {
        "Deployment",
        "Job",
        "Pod",
        "StatefulSet",
    }


def test_pods_are_restricted(all_pods):
    """What the standard asks for: no root, no privileges, no host, a seccomp profile."""
    for name, pod in all_pods.items():
        security = pod["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        for volume in pod["volumes"]:
            assert volume.keys() - {"name"} <= {"emptyDir", "configMap", "secret"}, name
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert not any("hostPort" in port for port in container.get("ports", [])), name


def test_root_file_systems_are_read_only(all_pods):
    """Only /tmp and the data can be written to; temporary files have a limit."""
    for name, pod in all_pods.items():
        for container in containers(pod):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
        for volume in pod["volumes"]:
            if volume["name"] == "tmp":
                assert volume["emptyDir"]["sizeLimit"], name


def test_only_the_operator_has_a_token(all_pods):
    """No other pod gets a service account's token."""
    for name, pod in all_pods.items():
        if name.startswith("Deployment/") and name.endswith("-operator"):
            assert pod["automountServiceAccountToken"] is True
        else:
            assert pod["automountServiceAccountToken"] is False, name
            assert "serviceAccountName" not in pod, name


def test_every_container_says_what_it_needs(all_pods):
    """Requests of cpu and memory, and a limit of memory."""
    for name, pod in all_pods.items():
        for container in containers(pod):
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert container["resources"]["limits"]["memory"], name


def test_the_operators_account_gives_no_token_by_itself():
    """A pod that merely names the account gets no token of it."""
    assert one(render(), "ServiceAccount")["automountServiceAccountToken"] is False
