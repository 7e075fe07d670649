"""kube-score finds nothing to say about the chart, but for what stands here with its reason."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
import yaml

from support.cluster.programs import program_path
from support.helm import Object, render

IGNORED = {
    "container-image-pull-policy": "images have fixed tags; image.pullPolicy can be Always",
    "container-ephemeral-storage-request-and-limit": "the root is read-only; volumes have a limit",
    "container-resources": "a limit of cpu would throttle; test_pod_security.py checks the others",
    "deployment-replicas": "a second operator would stand by; workers keep running without one",
    "deployment-strategy": "two consoles would not know of each other: docs/decisions/0033",
    "networkpolicy-targets-pod": "the operator makes the pods of the workers",
    "pod-networkpolicy": "test_network.py works out what is reached; workers have theirs elsewhere",
    "pod-probes-identical": "a database is alive and ready by the same sign: its open port",
    "pod-topology-spread-constraints": "there is one pod of each kind",
    "statefulset-has-servicename": "one pod needs no name of its own, but an address that stays",
}
KINDS = {"CustomResourceDefinition", "JobQueue"}  # kube-score takes them for something else


def scores(objects: list[Object]) -> list[dict[str, Any]]:
    """Return what kube-score says of each object."""
    ignored = [option for check in IGNORED for option in ("--ignore-test", check)]
    done = subprocess.run(
        [program_path("kube-score"), "score", "-", "--output-format", "json", *ignored],
        input=yaml.dump_all(
            [each for each in objects if each["kind"] not in KINDS], Dumper=yaml.CSafeDumper
        ),
        check=False,
        capture_output=True,
        text=True,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


CONSOLE = {"enabled": True, "authentication": "basic", "settingsSecret": "console"}


@pytest.mark.parametrize(
    "values", [{}, {"database": {"existingSecret": "pg"}}, {"console": CONSOLE}]
)
def test_there_is_nothing_to_say(values):
    """No check that is not ignored finds a problem, critical or not."""
    problems = [
        f"{scored['object_name']}: {check['check']['id']}: {comment['summary']}"
        for scored in scores(render(values))
        for check in scored["checks"]
        if not check["skipped"]
        for comment in check["comments"] or ()
    ]
    assert problems == []
