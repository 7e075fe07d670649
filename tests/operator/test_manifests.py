"""The complete workers' Deployment, for a minimal JobQueue and for one with every field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from meshhook_operator.workers.manifests import worker_deployment
from support.jobqueues import jobqueue

EXPECTED = Path(__file__).parent / "manifests"

EVERYTHING: dict[str, Any] = {
    "database": {"secretRef": {"name": "emails-db", "key": "url"}, "pooled": True},
    "worker": {
        "image": "example.org/emails:1",
        "handler": "emails.jobs:send",
        "concurrency": 7,
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "256Mi"}},
        "env": [
            {"name": "MODE", "value": "fast"},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "smtp", "key": "key"}}},
        ],
        "envFrom": [{"prefix": "SMTP_", "configMapRef": {"name": "smtp"}}],
        "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "ca", "mountPath": "/ca", "readOnly": True}],
        "serviceAccountName": "emails",
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
        "priorityClassName": "high",
        "podLabels": {"team": "shop", "meshhook.io/jobqueue": "other"},
        "podAnnotations": {"note": "yes"},
        "podSecurityContext": {"runAsUser": 1000},
        "securityContext": {"readOnlyRootFilesystem": False},
        "terminationGracePeriodSeconds": 90,
    },
}


@pytest.mark.parametrize(
    ("name", "spec", "checksum"), [("short", {}, ""), ("everything", EVERYTHING, "1f2e3d4c")]
)
def test_whole_manifest(name: str, spec: dict[str, Any], checksum: str):
    """The applied manifest is exactly the one in tests/operator/manifests."""
    manifest = worker_deployment(jobqueue(**spec), replicas=3, database_url_checksum=checksum)
    assert manifest == yaml.safe_load((EXPECTED / f"{name}.yaml").read_text())


def pod(**worker: Any) -> dict[str, Any]:
    """Return the spec of the pods of a JobQueue with these fields of its worker."""
    worker = {"image": "example.org/emails:1", "handler": "emails:send"} | worker
    manifest = worker_deployment(jobqueue(worker=worker), replicas=1)
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


def test_the_pods_meet_the_restricted_standard():
    """A namespace that enforces the restricted Pod Security Standard accepts the pods."""
    (container,) = pod()["containers"]
    assert pod()["securityContext"] == {
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_no_pod_may_use_its_node_up():
    """Memory and /tmp are limited by default, and the limits can be removed."""
    (container,) = pod()["containers"]
    assert container["resources"] == {
        "requests": {"cpu": "50m", "memory": "128Mi"},
        "limits": {"memory": "1Gi"},
    }
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}} in pod()["volumes"]
    (container,) = pod(resources={})["containers"]
    assert "resources" not in container
    (container,) = pod(resources={"limits": {"memory": "4Gi"}})["containers"]
    assert container["resources"] == {"limits": {"memory": "4Gi"}}


def test_the_operator_asks_for_no_privilege():
    """No token, no root, no writable root file system, no capability."""
    found = pod()
    (container,) = found["containers"]
    assert found["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert not {"hostNetwork", "hostPID", "hostIPC"} & found.keys()


def test_jobs_end_before_the_pod_does():
    """The worker gives jobs back five seconds before Kubernetes kills it."""
    found = pod(terminationGracePeriodSeconds=10)
    assert found["terminationGracePeriodSeconds"] == 10
    assert "--grace-seconds=5" in found["containers"][0]["args"]


def test_no_token_without_an_account():
    """A handler gets an API server token only if a service account is named."""
    assert pod()["automountServiceAccountToken"] is False
    assert pod(serviceAccountName="emails")["automountServiceAccountToken"] is True


def test_the_password_is_in_no_manifest():
    """The URL of the database is referred to, never copied."""
    variable = pod()["containers"][0]["env"][0]
    assert variable == {
        "name": "MESHHOOK_DATABASE_URL",
        "valueFrom": {"secretKeyRef": {"name": "emails-db", "key": "uri"}},
    }


def test_labels_of_the_operator_win():
    """A user's pod label cannot separate the pods from their Deployment."""
    manifest = worker_deployment(
        jobqueue(
            worker={
                "image": "a",
                "handler": "a:b",
                "podLabels": {"meshhook.io/jobqueue": "other", "team": "shop"},
            }
        ),
        replicas=1,
    )
    labels = manifest["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "shop"
    assert labels.items() >= manifest["spec"]["selector"]["matchLabels"].items()


def test_workers_get_their_own_url():
    """The operator's Secret is in no field of the Deployment."""
    database = {"secretRef": {"name": "theirs"}, "operatorSecretRef": {"name": "the-operators"}}
    manifest = worker_deployment(jobqueue(database=database), replicas=1)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    url = next(each for each in container["env"] if each["name"] == "MESHHOOK_DATABASE_URL")
    assert url["valueFrom"]["secretKeyRef"] == {"name": "theirs", "key": "uri"}
    assert "the-operators" not in str(manifest)


def test_an_app_takes_the_place_of_the_handler():
    """The worker runs the queue's own handler, whichever others the app declares."""
    worker = {"image": "example.org/shop:1", "app": "shop.jobs:app"}
    manifest = worker_deployment(jobqueue(worker=worker), replicas=1)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [
        "worker",
        "emails",
        "--app=shop.jobs:app",
        "--concurrency=50",
        "--grace-seconds=25",
    ]
