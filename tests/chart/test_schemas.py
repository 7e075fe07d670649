"""What the chart renders, checked against the schemas of Kubernetes and of JobQueue."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.cluster.programs import program_path
from support.helm import ROOT, Object, render
from support.kubernetes_schemas import LOCATION, write_schemas

# The definitions of the Prometheus operator are not part of Kubernetes; test_rendering.py looks at
# every field of these instead.
UNKNOWN_KINDS = "PodMonitor,ServiceMonitor,PrometheusRule"
EVERYTHING = {
    "commonLabels": {"team": "payments"},
    "imagePullSecrets": [{"name": "pull"}],
    "database": {"existingSecret": "pg", "pooled": True, "caSecret": "ca"}
    | {"operatorExistingSecret": "operator"},
    "migrations": {"existingSecret": "owner"},
    "operator": {
        "watchNamespaces": ["a", "b"],
        "extraEnv": [{"name": "A", "value": "b"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"podAntiAffinity": {}},
        "priorityClassName": "high",
        "nodeSelector": {"a": "b"},
    },
    "queues": [
        {
            "name": "orders",
            "namespace": "a",
            "spec": {
                "worker": {"handler": "shop:handle", "env": [{"name": "A", "value": "b"}]},
                "keys": {"path": "a.b", "overrides": [{"key": "", "maxRunning": 1}]},
                "scaling": {"minReplicas": 0, "maxReplicas": 3},
            },
            "schedules": [{"name": "nightly", "spec": {"cron": "@daily", "payload": {"a": [1]}}}],
        },
        {
            "name": "mails",
            "namespace": "a",
            "spec": {
                "worker": {"handler": "shop:mail"},
                "priorities": {"targetSeconds": {"urgent": 2.5, "low": 3600}, "urgentSlots": 2},
                "scaling": {"maxReplicas": 3},
            },
        },
    ],
    "networkPolicy": {
        "metricsFrom": [{"namespaceSelector": {}}],
        "databaseTo": [{"ipBlock": {"cidr": "203.0.113.0/24"}}],
        "apiServerTo": [{"ipBlock": {"cidr": "203.0.113.0/24"}}],
        "nameServerTo": [{"namespaceSelector": {}}],
        "operatorEgress": [{"ports": [{"port": 5432}]}],
        "workers": {"limitEgress": True, "egress": [{"ports": [{"port": 443}]}]},
    },
    "console": {
        "enabled": True,
        "existingSecret": "oncall",
        "authentication": "proxy",
        "proxy": {"addresses": ["10.0.0.0/8"]},
        "redact": ["body.payload.card"],
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {"a": "b"},
        "service": {"annotations": {"a": "b"}},
        "podLabels": {"a": "b"},
    },
    "monitoring": {"enabled": True, "prometheusConfig": {"enabled": True}},
}


@pytest.fixture(scope="module")
def schemas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of schemas."""
    directory = tmp_path_factory.mktemp("schemas")
    files = (ROOT / "operator/crds").glob("*.yaml")
    write_schemas(directory, *(yaml.safe_load(file.read_text()) for file in files))
    return directory


def check(objects: list[Object], schemas: Path) -> dict[str, Any]:
    """Return what kubeconform says of objects."""
    done = subprocess.run(
        [
            program_path("kubeconform"),
            *("-strict", "-summary", "-output", "json", "-skip", UNKNOWN_KINDS),
            *("-schema-location", f"{schemas}/{LOCATION}"),
        ],
        input=yaml.dump_all(objects, Dumper=yaml.CSafeDumper),
        check=False,
        capture_output=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_objects_are_what_their_schemas_say(values, schemas):
    """Every object is valid, with no field that Kubernetes does not know."""
    objects = render(values)
    found = check(objects, schemas)
    assert found.get("resources", []) == []
    unknown = [each for each in objects if each["kind"] in UNKNOWN_KINDS.split(",")]
    assert found["summary"]["valid"] == len(objects) - len(unknown)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec")),
        ("StatefulSet", ("spec",)),
        ("JobQueue", ("spec", "scaling")),
        ("NetworkPolicy", ("spec",)),
    ],
)
def test_a_misplaced_field_would_be_found(kind, path, schemas):
    """The schemas are strict: a field that is not known is an error."""
    objects = [json.loads(json.dumps(each)) for each in render() if each["kind"] == kind][:1]
    part = objects[0]
    for key in path:
        part = part[key]
    part["replicaz"] = 2
    found = check(objects, schemas)
    assert found["summary"]["invalid"] == 1
    assert "replicaz" in str(found["resources"])
