"""helm on a real API server that has never seen a JobQueue: install, upgrade, uninstall."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.cluster.control_plane import ControlPlane, obstacle
from support.cluster.programs import program_path
from support.databases import server_directory
from support.helm import CHART, NAMESPACE, RELEASE
from support.kube import Kube, KubeError
from support.skipping import skip
from support.waiting import eventually

pytestmark = pytest.mark.timeout(600)

QUEUE: dict[str, Any] = {
    "name": "orders",
    "spec": {
        "worker": {"handler": "shop:handle"},
        "scaling": {"minReplicas": 0, "maxReplicas": 3},
    },
}


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[Kube]:
    """A control plane of its own: JobQueues, once known, would be known to all tests."""
    reason = obstacle() or (
        None if program_path("kubectl").exists() else "not built: kubectl; see obstacle"
    )
    if reason:
        skip(reason)
    with server_directory(in_memory=True) as directory, ControlPlane(directory) as control_plane:
        config = control_plane.write_kubeconfig(
            tmp_path / "kubeconfig", token=control_plane.admin_token, namespace=NAMESPACE
        )
        yield Kube(config, NAMESPACE)


def names(kube: Kube, resource: str) -> set[str]:
    """Return the names of the objects of a kind."""
    return {each["metadata"]["name"] for each in kube.get(resource)}


def is_known(kube: Kube) -> bool:
    """Whether clients are told of JobQueues: that is a moment after their definition is made."""
    try:
        kube.get("jobqueues")
    except KubeError:
        return False
    return True


async def test_queues_wait_for_their_definition(kube):
    """A first install with queues says what to do; then upgrades make, change and delete them."""
    with pytest.raises(KubeError, match="Install without `queues` first"):
        kube.helm("install", RELEASE, CHART, "--create-namespace", values={"queues": [QUEUE]})
    kube.helm("install", RELEASE, CHART, "--create-namespace")
    await eventually(lambda: is_known(kube))
    kube.helm("upgrade", RELEASE, CHART, values={"queues": [QUEUE]})
    first = kube.get("jobqueue", "orders")
    assert first["spec"]["queueName"] == "orders"

    changed = QUEUE | {"spec": QUEUE["spec"] | {"visibilityTimeoutSeconds": 77}}
    kube.helm("upgrade", RELEASE, CHART, values={"queues": [changed]})
    second = kube.get("jobqueue", "orders")
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert second["spec"]["visibilityTimeoutSeconds"] == 77

    kube.helm("uninstall", RELEASE)
    assert names(kube, "jobqueues") == set()
    assert "jobqueues.meshhook.io" in names(kube, "crd")


def test_the_password_outlives_upgrade_and_uninstall(kube):
    """The embedded database's random passwords are made once, and the Secrets stay."""
    kube.helm("install", RELEASE, CHART, "--create-namespace")

    def passwords() -> dict[str, str]:
        return {
            part: kube.get("secret", f"{RELEASE}-meshhook-database{part}")["data"]
            for part in ("", "-operator", "-workers")
        }

    first = passwords()
    kube.helm("upgrade", RELEASE, CHART)
    kube.helm("uninstall", RELEASE)
    assert passwords() == first
    kube.helm("install", RELEASE, CHART)
    assert passwords() == first


def test_a_definition_that_is_not_kept_goes(kube):
    """With crds.keep false an uninstall takes the definition, and all JobQueues with it."""
    kube.helm("install", RELEASE, CHART, "--create-namespace", values={"crds": {"keep": False}})
    assert "jobqueues.meshhook.io" in names(kube, "crd")
    kube.helm("uninstall", RELEASE, "--wait")
    assert "jobqueues.meshhook.io" not in names(kube, "crd")
