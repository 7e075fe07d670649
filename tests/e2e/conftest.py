"""A cluster with the chart installed, a receiver of webhooks, and a pod to run commands in.

By default the cluster is that of cluster.sh: a real node on this machine. With E2E_KUBECONFIG,
E2E_IMAGE and E2E_EVALUATION_IMAGE set it is yours. It then gets a namespace and what the chart
brings for a whole cluster, which is the JobQueue definition and a role; they go when the tests are
over.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support import image as images
from support.cluster.building import build_if_needed
from support.cluster.programs import PROGRAMS
from support.e2e import NAMESPACE, RELEASE, Receiver, job_queue, next_image, pod
from support.helm import CHART
from support.image import EVALUATION_IMAGE, IMAGE, ImageError
from support.kube import Kube, Object
from support.last_tests import until_last_test
from support.skipping import skip
from support.waiting import eventually

HERE = Path(__file__).parent
CLUSTER = HERE / "cluster.sh"
STATE = Path(os.environ.get("CLUSTER_STATE", "/run/meshhook-cluster"))
DEFINITION = "jobqueues.meshhook.io"
# Not KUBECONFIG itself: whoever runs all tests does not mean the cluster they happen to work with.
KUBECONFIG = os.environ.get("E2E_KUBECONFIG")
_UNUSED = {"actionlint", "kwok", "kubeconform", "kube-score"}
_NEEDED = ["kubectl", "helm"] if KUBECONFIG else [name for name in PROGRAMS if name not in _UNUSED]
_OBSTACLE = pytest.StashKey[str | None]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build programs before the first test."""
    session.config.stash[_OBSTACLE] = build_if_needed(
        session, _NEEDED, lambda item: HERE in item.path.parents, obstacle=_obstacle
    )


def _obstacle() -> str | None:
    """Return why there can be no local cluster where one is wanted, or None."""
    if KUBECONFIG:
        return None
    checked = subprocess.run([CLUSTER, "check"], check=False, capture_output=True, text=True)
    return checked.stderr.strip() if checked.returncode else None


def _archives() -> dict[str, Path]:
    """Return where each image is written to."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshhook"
    return {IMAGE: cache / "e2e-image.tar", EVALUATION_IMAGE: cache / "e2e-evaluation-image.tar"}


@pytest.fixture(scope="session")
def is_local() -> bool:
    """Whether the cluster is that of cluster.sh."""
    return not KUBECONFIG


@pytest.fixture(scope="session")
def runtime_image(is_local) -> str:
    """The image of the operator, of migrations, and of workers that bring their own handler."""
    return IMAGE if is_local else _named_image("E2E_IMAGE")


@pytest.fixture(scope="session")
def image(is_local) -> str:
    """The image for evaluation: of the embedded database, and of workers that deliver webhooks."""
    return EVALUATION_IMAGE if is_local else _named_image("E2E_EVALUATION_IMAGE")


def _named_image(variable: str) -> str:
    found = os.environ.get(variable, "")
    if not re.fullmatch(r".+(@sha256:[0-9a-f]+|:[^:/]+)", found):
        pytest.fail(
            f"E2E_KUBECONFIG is set, and {variable} is {found!r}: name an image that the nodes of "
            "the cluster have or can pull, as NAME:TAG or NAME@DIGEST"
        )
    return found


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Kube]:
    """A cluster with an empty namespace that enforces the restricted Pod Security Standard."""
    if reason := pytestconfig.stash[_OBSTACLE]:
        skip(reason)
    if KUBECONFIG:
        kube = Kube(Path(KUBECONFIG), NAMESPACE)
        _make_namespace(kube)
        yield kube
        kube.kubectl("delete", "namespace", NAMESPACE, "--timeout=5m")
        return
    if reason := images.obstacle():
        skip(reason)
    try:
        for image, archive in _archives().items():
            images.build(image, archive)
    except ImageError as error:
        pytest.fail(str(error))
    with until_last_test(pytestconfig, HERE) as stack:
        yield stack.enter_context(_local_cluster())


@contextmanager
def _local_cluster() -> Iterator[Kube]:
    with Path("/run/meshhook-e2e.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # there is one such cluster at a time on a machine
        started = subprocess.run([CLUSTER, "up"], check=False, capture_output=True, text=True)
        if started.returncode:
            pytest.fail(f"the cluster does not start: {started.stderr.strip()}")
        try:
            subprocess.run([CLUSTER, "load", *_archives().values()], check=True)
            _ctr("images", "tag", EVALUATION_IMAGE, next_image(EVALUATION_IMAGE))
            kube = Kube(STATE / "admin.conf", NAMESPACE, prefix=[str(CLUSTER), "exec"])
            _make_namespace(kube)
            yield kube
        finally:
            subprocess.run([CLUSTER, "down"], check=True)


def _ctr(*arguments: str) -> None:
    """Tell the local cluster's containerd something."""
    socket = str(STATE / "run-containerd/containerd.sock")
    command = ["ctr", "--address", socket, "--namespace", "k8s.io", *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def kill(is_local) -> Callable[[Object], None]:
    """Kill the container of a pod with SIGKILL, which is not possible from within."""
    if not is_local:
        pytest.skip("kills processes on the node of the local cluster only")

    def kill(pod: Object) -> None:
        (status,) = pod["status"]["containerStatuses"]
        container = status["containerID"].removeprefix("containerd://")
        _ctr("tasks", "kill", "--signal", "SIGKILL", container)

    return kill


def _make_namespace(kube: Kube) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": kube.namespace, "labels": labels}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


@pytest.fixture(scope="session")
def values(runtime_image, image) -> Object:
    """The values that the chart is installed with: the images, and no more."""
    return {"image": _image_values(runtime_image), "embedded": {"image": _image_values(image)}}


def _image_values(image: str) -> Object:
    repository, _, digest = image.partition("@")
    if digest:
        return {"repository": repository, "digest": digest}
    repository, _, tag = image.rpartition(":")
    return {"repository": repository, "tag": tag}


@pytest.fixture(scope="session")
def installed(cluster: Kube, values, is_local) -> Iterator[Kube]:
    """The cluster with the chart installed, with a database of its own."""
    had_definition = _has_definition(cluster)
    try:
        cluster.helm("install", RELEASE, CHART, "--wait", "--timeout", "5m", values=values)
        yield cluster
    finally:
        if not is_local:  # which goes as a whole
            _uninstall(cluster, keep_definition=had_definition)


def _has_definition(cluster: Kube) -> bool:
    return cluster.kubectl("get", "crd", DEFINITION, "--ignore-not-found") != ""


def _uninstall(cluster: Kube, *, keep_definition: bool) -> None:
    if _has_definition(cluster):  # the operator takes their finalizers away
        cluster.kubectl("delete", "jobqueues", "--all", "--timeout=2m")
    cluster.helm("uninstall", RELEASE, "--wait", "--timeout", "5m", "--ignore-not-found")
    if not keep_definition:
        cluster.kubectl("delete", "crd", DEFINITION, "--ignore-not-found", "--timeout=2m")


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
        pod(
            "client",
            image,
            ["sleep", "infinity"],
            # Once the database is Ready, its Service may refuse connections for a second or more.
            startupProbe={
                "exec": {"command": ["meshhook", "queue", "list"]},
                "periodSeconds": 1,
                "timeoutSeconds": 30,
                "failureThreshold": 60,
            },
        ),
        pod(
            "receiver",
            image,
            ["python", "/pods/receiver.py"],
            readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        ),
    )
    installed.kubectl("wait", "--for=condition=Ready", "pod/client", "pod/receiver", "--timeout=5m")
    return Receiver(installed)


@pytest.fixture
async def deliveries(receiver: Receiver, installed: Kube, image) -> str:
    """A queue with two workers that are Ready; its name."""
    installed.apply(job_queue("deliveries", image, minReplicas=2))
    selector = "meshhook.io/jobqueue=deliveries"
    await eventually(lambda: len(installed.ready_pods(selector)) >= 2, timeout=240)
    return "deliveries"
