"""The control plane that the other tests here rely on."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psutil
import pytest

from support.cluster.api import Api, ApiError, Object
from support.cluster.components import Component, ComponentError
from support.cluster.control_plane import NODE, ControlPlane
from support.cluster.views import until_pods_can_be_made
from support.waiting import eventually
from support.workers import TESTS

POD = {
    "kind": "Pod",
    "metadata": {"name": "pod"},
    "spec": {"containers": [{"name": "main", "image": "none"}]},
}


def ready(pod: Object) -> bool:
    """Return whether a pod is Ready."""
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def test_pods_become_ready(api: Api):
    """A pod is scheduled to the node and becomes Ready, and is gone once it is deleted."""
    await until_pods_can_be_made(api)
    await api.create(POD)

    async def pod_is_ready() -> bool:
        return ready(await api.get("Pod", "pod"))

    await eventually(pod_is_ready)
    assert (await api.get("Pod", "pod"))["spec"]["nodeName"] == NODE
    await api.delete("Pod", "pod")

    async def pod_is_gone() -> bool:
        return await api.find("Pod", "pod") is None

    await eventually(pod_is_gone)


async def test_rights_are_enforced(api: Api, control_plane: ControlPlane):
    """A service account can do what its roles allow, and nothing else."""
    await api.create({"kind": "ServiceAccount", "metadata": {"name": "reader"}})
    await api.create(
        {
            "kind": "Role",
            "metadata": {"name": "reader"},
            "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
        }
    )
    await api.create(
        {
            "kind": "RoleBinding",
            "metadata": {"name": "reader"},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "Role",
                "name": "reader",
            },
            "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": api.namespace}],
        }
    )
    token = await api.token_of("reader")
    async with Api(
        control_plane.url,
        token=token,
        certificate=control_plane.certificate,
        namespace=api.namespace,
    ) as reader:
        await eventually(lambda: _may_list(reader, "ConfigMap"))
        with pytest.raises(ApiError) as refusal:
            await reader.list("Secret")
    assert refusal.value.status == 403


async def _may_list(api: Api, kind: str) -> bool:
    try:
        await api.list(kind)
    except ApiError:
        return False
    return True


async def test_killed_with_the_tests(tmp_path: Path):
    """Processes of the tests end when the tests are killed and cannot clean up."""
    program = (
        "import pathlib, time; from support.cluster.components import Component\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "sleeper = Component('sleeper', ['sleep', '1000'], log=here / 'log', directory=here)\n"
        "sleeper.start(); print(sleeper.pid, flush=True); time.sleep(1000)\n"
    )
    tests = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    try:
        assert tests.stdout is not None
        pid = int(await tests.stdout.readline())
        # Only then has the kernel been told whose end it is to watch.
        await eventually(lambda: psutil.Process(pid).name() == "sleep")
    finally:
        tests.kill()
        await tests.wait()

    def sleeper_is_gone() -> bool:
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    await eventually(sleeper_is_gone)


def test_a_component_that_ends_says_why(tmp_path: Path):
    """Waiting for a program that has ended fails at once, with its output."""
    component = Component(
        "broken",
        ["sh", "-c", "echo out of cheese; exit 3"],
        log=tmp_path / "log",
        directory=tmp_path,
    )
    component.start()
    with pytest.raises(ComponentError, match="broken ended with status 3:\nout of cheese"):
        component.wait_until(lambda: False, seconds=60)
