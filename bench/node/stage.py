"""The node: started with the chart installed, and all of it removed at the end."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.node.manifests import handler_config_map
from support import image as images
from support.cluster.programs import PROGRAMS, ProgramsMissingError, build
from support.e2e import RELEASE
from support.helm import CHART
from support.image import EVALUATION_IMAGE, IMAGE
from support.kube import Kube, KubeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "tests/e2e/cluster.sh"
STATE = Path(os.environ.get("CLUSTER_STATE", "/run/meshhook-cluster"))
LOCK = Path("/run/meshhook-e2e.lock")
"""That of the end-to-end tests: there is one such node at a time on a machine."""
NAMESPACE = "meshhook-bench"
UNUSED = {"actionlint", "kwok", "kubeconform", "kube-score"}
END_SECONDS = 10.0


class NodeError(Exception):
    """There is no node; the message says what is missing, or what failed."""


@dataclass(frozen=True)
class Node:
    """The running node, with the chart installed.

    Attributes:
        pid: its first process.
    """

    pid: int

    def run(self, module: str, *arguments: str) -> int:
        """Run a module in the network of the node, and return its exit code.

        It is ended at once when this program is interrupted.
        """
        command = [str(CLUSTER), "exec", sys.executable, "-m", module, *arguments]
        environment = os.environ | {
            "KUBECONFIG": str(STATE / "admin.conf"),
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        }
        # In a session of its own, so that Ctrl-C does not reach it before this program.
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True)
        try:
            return process.wait()
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


@contextmanager
def running_node(say: Callable[[str], None]) -> Iterator[Node]:
    """Start the node and install the chart; remove all of it at the end, however it comes.

    Raises:
        NodeError: if this machine cannot run it, or it does not start.
    """
    archives = _prepared(say)
    with LOCK.open("w") as lock:
        say("waiting for whoever else uses a node on this machine")
        fcntl.flock(lock, fcntl.LOCK_EX)
        say("starting the node")
        _refuse_a_running_one()
        try:
            _start()
            _install(archives, say)
            yield Node(int((STATE / "pid").read_text()))
        finally:
            say("removing the node")
            _remove()


def _refuse_a_running_one() -> None:
    """Leave alone what somebody else has started, as with `make cluster`."""
    if _cluster("status").returncode == 0:
        raise NodeError(f"a node runs on this machine already; end it with: {CLUSTER} down")


def _start() -> None:
    # In a session of its own: where this program is interrupted, it ends what it has started.
    process = subprocess.Popen(
        [CLUSTER, "up"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _, said = process.communicate()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode:
        raise NodeError(f"the node does not start: {said.strip()}")


def _prepared(say: Callable[[str], None]) -> list[Path]:
    """Build what is missing, and return the archives of the images."""
    checked = _cluster("check")
    reason = checked.stderr.strip() if checked.returncode else images.obstacle()
    if reason:
        raise NodeError(reason)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "meshhook"
    archives = {
        IMAGE: cache / "bench-image.tar",
        EVALUATION_IMAGE: cache / "bench-evaluation-image.tar",
    }
    try:
        build([name for name in PROGRAMS if name not in UNUSED], say=say)
        for image, archive in archives.items():
            say(f"building {image}")
            images.build(image, archive)
    except (ProgramsMissingError, images.ImageError) as error:
        raise NodeError(str(error)) from error
    return [*archives.values()]


def _install(archives: Sequence[Path], say: Callable[[str], None]) -> None:
    say("loading the images")
    loaded = _cluster("load", *map(str, archives))
    if loaded.returncode:
        raise NodeError(f"the images cannot be loaded: {loaded.stderr.strip()}")
    kube = Kube(STATE / "admin.conf", NAMESPACE, prefix=[str(CLUSTER), "exec"])
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": NAMESPACE, "labels": labels}
    values = {"image": _image(IMAGE), "embedded": {"image": _image(EVALUATION_IMAGE)}}
    say("installing the chart")
    try:
        kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        kube.apply(handler_config_map())
        kube.helm("install", RELEASE, CHART, "--wait", "--timeout", "5m", values=values)
    except KubeError as error:
        raise NodeError(f"the chart cannot be installed: {error}") from error


def _image(name: str) -> dict[str, str]:
    repository, _, tag = name.rpartition(":")
    return {"repository": repository, "tag": tag}


def _remove() -> None:
    """Remove the node; a second Ctrl-C does not leave half of it."""
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        done = subprocess.run(
            [CLUSTER, "down"], check=False, capture_output=True, text=True, start_new_session=True
        )
        if done.returncode:
            raise NodeError(f"the node cannot be removed: {done.stderr.strip()}")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([CLUSTER, *arguments], check=False, capture_output=True, text=True)
