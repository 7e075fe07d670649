"""The program helm, and what the chart renders, as plain objects."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from support.cluster.programs import program_path

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/meshhook"
RELEASE = "shop"
NAMESPACE = "jobs"
KUBERNETES = "1.36.3"

Object = dict[str, Any]


class HelmError(RuntimeError):
    """Helm refused; the message is what it said."""


def helm(*arguments: str | Path, kubeconfig: Path | None = None, values: Any = None) -> str:
    """Run helm, and return what it prints.

    Args:
        arguments: its arguments.
        kubeconfig: of the cluster to use; none by default, not even the user's.
        values: given to it as a file of values.

    Raises:
        HelmError: if it fails.
    """
    environment = os.environ | {"KUBECONFIG": str(kubeconfig or "/dev/null")}
    extra = [] if values is None else ["--values", "-"]
    done = subprocess.run(
        [program_path("helm"), *arguments, *extra],
        input=None if values is None else json.dumps(values),
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise HelmError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


def render(
    values: Mapping[str, Any] | None = None,
    *,
    chart: Path = CHART,
    knows_job_queues: bool = True,
    is_upgrade: bool = False,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    kubernetes: str = KUBERNETES,
    kinds: Iterable[str] = (),
) -> list[Object]:
    """Return the objects that the chart renders.

    Args:
        values: over the defaults.
        chart: a folder or an archive.
        knows_job_queues: whether the cluster knows JobQueues already.
        is_upgrade: whether it is an upgrade.
        release: its name.
        namespace: that of the release.
        kubernetes: the version of the cluster.
        kinds: which the cluster knows besides, as `group/version/Kind`.
    """
    arguments: list[str | Path] = ["template", release, chart, "--namespace", namespace]
    arguments += ["--kube-version", kubernetes]
    if knows_job_queues:
        arguments += ["--api-versions", "meshhook.io/v1alpha1/JobQueue"]
    arguments += [part for kind in kinds for part in ("--api-versions", kind)]
    if is_upgrade:
        arguments.append("--is-upgrade")
    text = _rendered(json.dumps(values or {}, sort_keys=True), tuple(arguments))
    return [each for each in yaml.load_all(text, Loader=yaml.CSafeLoader) if each]


@cache
def _rendered(values: str, arguments: tuple[str | Path, ...]) -> str:
    return helm(*arguments, values=json.loads(values))


PROMETHEUS_KINDS = tuple(
    f"monitoring.coreos.com/v1/{kind}"
    for kind in ("ServiceMonitor", "PodMonitor", "PrometheusRule")
)
"""What a cluster with the Prometheus operator knows."""


def notes(chart: Path, values: Mapping[str, Any], *, kinds: Iterable[str] = ()) -> str:
    """Return what helm says after an install.

    Args:
        chart: one whose notes are a template, as the fixture `notes_chart` has it.
        values: over the defaults.
        kinds: which the cluster knows besides, as `group/version/Kind`.
    """
    known = [part for kind in kinds for part in ("--api-versions", kind)]
    shown = helm(
        *("template", RELEASE, chart, "--namespace", NAMESPACE),
        *("--kube-version", KUBERNETES, "--api-versions", "meshhook.io/v1alpha1/JobQueue"),
        *known,
        *("--show-only", "templates/notes.yaml"),
        values=values,
    )
    text: str = json.loads(shown.partition("notes: ")[2])
    return text


def select(objects: Iterable[Object], kind: str, name: str | None = None) -> list[Object]:
    """Return the objects of a kind, and of a name if one is given."""
    return [
        each
        for each in objects
        if each["kind"] == kind and name in {None, each["metadata"]["name"]}
    ]


def one(objects: Iterable[Object], kind: str, name: str | None = None) -> Object:
    """Return the only object of a kind, and of a name if one is given."""
    found = select(objects, kind, name)
    assert len(found) == 1, f"{len(found)} objects {kind} {name or ''}, not one"
    return found[0]


def pods(objects: Iterable[Object]) -> dict[str, Object]:
    """Return the specs of all pods that the objects make, by `kind/name`."""
    found = {}
    for each in objects:
        name = f"{each['kind']}/{each['metadata']['name']}"
        if each["kind"] == "Pod":
            found[name] = each["spec"]
        elif each["kind"] in {"Deployment", "StatefulSet", "Job", "DaemonSet"}:
            found[name] = each["spec"]["template"]["spec"]
    return found
