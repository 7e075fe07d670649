"""A cluster with the chart installed, a receiver of webhooks, and a pod to run commands in.

By default the cluster is that of cluster.sh: a real node on this machine. With E2E_KUBECONFIG and
E2E_IMAGE set it is yours; everything happens in one namespace of it, and the JobQueue definition.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import image as images
from support.cluster.programs import PROGRAMS, ProgramsMissingError, build, missing
from support.e2e import NAMESPACE, RELEASE, Receiver, job_queue, next_image, pod
from support.helm import CHART
from support.image import IMAGE, ImageError
from support.kube import Kube, Object
from support.skipping import skip
from support.waiting import eventually

HERE = Path(__file__).parent
CLUSTER = HERE / "cluster.sh"
STATE = Path(os.environ.get("CLUSTER_STATE", "/run/meshhook-cluster"))
# Not KUBECONFIG itself: whoever runs all tests does not mean the cluster they happen to work with.
KUBECONFIG = os.environ.get("E2E_KUBECONFIG")
_UNUSED = {"kwok", "kubeconform", "kube-score"}
_NEEDED = ["kubectl", "helm"] if KUBECONFIG else [name for name in PROGRAMS if name not in _UNUSED]
_OBSTACLE = pytest.StashKey[str]()
_FAILURE = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build programs and image before the first test, whose time is limited."""
    here = f"{HERE}{os.sep}"
    if session.config.option.collectonly or not any(
        str(item.path).startswith(here) for item in session.items
    ):
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    say: Any = terminal.write_line if terminal is not None else print
    if not KUBECONFIG:
        checked = subprocess.run([CLUSTER, "check"], check=False, capture_output=True, text=True)
        if checked.returncode:
            session.config.stash[_OBSTACLE] = checked.stderr.strip()
            return
    try:
        if missing(_NEEDED):
            build(_NEEDED, say=say)
    except ProgramsMissingError as error:
        session.config.stash[_OBSTACLE] = str(error)
        return
    if KUBECONFIG:
        return
    if reason := images.obstacle():
        session.config.stash[_OBSTACLE] = reason
        return
    say("building the image")
    try:
        images.build(_archive())
    except ImageError as error:
        session.config.stash[_FAILURE] = str(error)


def _archive() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "meshhook" / "e2e-image.tar"


@pytest.fixture(scope="session")
def is_local() -> bool:
    """Whether the cluster is that of cluster.sh."""
    return not KUBECONFIG


@pytest.fixture(scope="session")
def image(is_local) -> str:
    """The image of everything."""
    if is_local:
        return IMAGE
    found = os.environ.get("E2E_IMAGE")
    if found is None:
        pytest.fail("E2E_KUBECONFIG is set, and E2E_IMAGE is not: an image that the cluster has")
    return found


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Kube]:
    """A cluster with an empty namespace that enforces the restricted Pod Security Standard."""
    if reason := pytestconfig.stash.get(_OBSTACLE, None):
        skip(reason)
    if failure := pytestconfig.stash.get(_FAILURE, None):
        pytest.fail(failure)
    if KUBECONFIG:
        yield from _in_namespace(Kube(Path(KUBECONFIG), NAMESPACE))
        return
    with Path("/run/meshhook-e2e.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # there is one such cluster at a time on a machine
        started = subprocess.run([CLUSTER, "up"], check=False, capture_output=True, text=True)
        if started.returncode:
            pytest.fail(f"the cluster does not start: {started.stderr.strip()}")
        try:
            subprocess.run([CLUSTER, "load", _archive()], check=True)
            socket = str(STATE / "run-containerd/containerd.sock")
            ctr = ["ctr", "--address", socket, "--namespace", "k8s.io", "images"]
            subprocess.run([*ctr, "tag", IMAGE, next_image(IMAGE)], check=True, capture_output=True)
            kube = Kube(STATE / "admin.conf", NAMESPACE, prefix=[str(CLUSTER), "exec"])
            yield from _in_namespace(kube)
        finally:
            subprocess.run([CLUSTER, "down"], check=True)


def _in_namespace(kube: Kube) -> Iterator[Kube]:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": kube.namespace, "labels": labels}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    yield kube
    kube.kubectl("delete", "namespace", kube.namespace, "--wait=false")


@pytest.fixture(scope="session")
def values(image) -> Object:
    """The values that the chart is installed with: the image, and no more."""
    repository, _, tag = image.rpartition(":")
    return {"image": {"repository": repository, "tag": tag}}


@pytest.fixture(scope="session")
def installed(cluster: Kube, values, is_local) -> Iterator[Kube]:
    """The cluster with the chart installed, with a database of its own."""
    cluster.helm("install", RELEASE, CHART, "--wait", "--timeout", "5m", values=values)
    yield cluster
    if not is_local:  # which would go anyway
        cluster.kubectl("delete", "jobqueues", "--all", "--timeout=2m")
        cluster.helm("uninstall", RELEASE, "--wait", "--timeout", "5m")


@pytest.fixture(scope="session")
def receiver(installed: Kube, image) -> Receiver:
    """A receiver of webhooks, and the pod `client` that runs commands."""
    scripts = {path.name: path.read_text() for path in (HERE / "pods").glob("*.py")}
    port = {"port": 8080, "protocol": "TCP"}
    installed.apply(
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pods"}, "data": scripts},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "receiver"},
            "spec": {"selector": {"app": "receiver"}, "ports": [port]},
        },
        pod("client", image, ["sleep", "infinity"]),
        pod(
            "receiver",
            image,
            ["python", "/pods/receiver.py"],
            readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        ),
    )
    installed.kubectl("wait", "--for=condition=Ready", "pod/client", "pod/receiver", "--timeout=2m")
    return Receiver(installed)


@pytest.fixture
async def deliveries(receiver: Receiver, installed: Kube, image) -> str:
    """A queue with two workers that are Ready; its name."""
    installed.apply(job_queue("deliveries", image, minReplicas=2))
    selector = "meshhook.io/jobqueue=deliveries"
    await eventually(lambda: len(installed.ready_pods(selector)) >= 2, timeout=240)
    return "deliveries"
