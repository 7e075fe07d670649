"""Encryption keys in worker pods: as docs/encryption.md mounts them, and nowhere in plain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from meshhook_operator.workers.manifests import worker_deployment
from support.jobqueues import jobqueue

PAGE = Path(__file__).parents[2] / "docs" / "encryption.md"


def documented() -> dict[str, Any]:
    """Return `spec.worker` of the page's example."""
    found = re.search(r"```yaml\n(spec:.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found is not None
    worker: dict[str, Any] = yaml.safe_load(found[1])["spec"]["worker"]
    return worker


def test_the_example_mounts_the_keys_so_that_the_worker_may_read_them() -> None:
    """Read-only, of root, readable by the group of the pod, which the key file's check accepts."""
    worker = {"image": "example.org/emails:1", "handler": "emails:send"} | documented()
    pod = worker_deployment(jobqueue(worker=worker), replicas=1)["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [volume] = [each for each in pod["volumes"] if "secret" in each]
    assert volume["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] > 0
    assert pod["securityContext"]["runAsNonRoot"]
    [mount] = [each for each in container["volumeMounts"] if each["name"] == volume["name"]]
    assert mount["readOnly"]
    [path] = [
        each["value"] for each in container["env"] if each["name"] == "MESHHOOK_ENCRYPTION_KEY_FILE"
    ]
    assert Path(path).parent == Path(mount["mountPath"])
    # No subPath: with one, a changed Secret would not reach the pod.
    assert "subPath" not in mount
    assert "MESHHOOK_ENCRYPTION_KEYS" not in str(container)
