"""Keys from a mounted Secret, on a real node: rotated, lost, and found again, with no job lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from support.e2e import Receiver, all_accepted, job_queue, worker_selector
from support.kube import Kube, Object
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)

QUEUE = "sealed"
SECRET = "encryption-keys"
KEYS = "/tmp/keys"
MOUNTED = "/etc/meshhook"


def secret(keys: str) -> Object:
    """Return the Secret with a key file."""
    metadata = {"name": SECRET}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "stringData": {"keys": keys},
    }


def sealed_queue(image: str) -> Object:
    """Return a JobQueue as docs/encryption.md has it, with a worker that is always there."""
    queue = job_queue(QUEUE, image, minReplicas=1, maxReplicas=1)
    # A key that is missing is not waited for.
    queue["spec"]["retry"] = {"maxAttempts": 1}
    queue["spec"]["worker"] |= {
        "podSecurityContext": {"fsGroup": 65532},
        "env": [
            *queue["spec"]["worker"]["env"],
            {"name": "MESHHOOK_ENCRYPTION_KEY_FILE", "value": f"{MOUNTED}/keys"},
        ],
        "volumes": [{"name": "keys", "secret": {"secretName": SECRET, "defaultMode": 0o440}}],
        "volumeMounts": [{"name": "keys", "mountPath": MOUNTED, "readOnly": True}],
    }
    return queue


class Keys:
    """Key files in the pod `client`, and what is sent with them."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube

    def file(self) -> dict[str, str]:
        """Return the line of each key, by its id."""
        lines = self._kube.kubectl("exec", "client", "--", "cat", KEYS).splitlines()
        return {line.partition(":")[0]: line for line in lines if line}

    def send(self, delivery_id: str) -> int:
        """Enqueue a delivery, encrypted with the first key of the file."""
        payload = {"url": Receiver.url, "id": delivery_id, "body": {"card": delivery_id}}
        message = {"run_id": delivery_id, "workflow_id": "pay", "project_id": "e2e"}
        command = ["exec", "--stdin", "client", "--", "env", f"MESHHOOK_ENCRYPTION_KEY_FILE={KEYS}"]
        text = json.dumps(message | {"payload": payload})
        said = self._kube.kubectl(*command, "meshhook", "enqueue", QUEUE, "--json", stdin=text)
        (msg_id,) = json.loads(said)["msg_ids"]
        return int(msg_id)


@pytest.fixture
def keys(installed: Kube, receiver: Receiver, image: str) -> Iterator[Keys]:
    """Two keys, of which the first encrypts, and an empty queue; both go afterwards."""
    for key_id in ("k1", "k2"):
        installed.meshhook("encryption", "new-key", KEYS, "--id", key_id)
    yield Keys(installed)
    installed.kubectl("delete", "jobqueue", QUEUE, "--ignore-not-found", "--timeout=2m")
    installed.kubectl("delete", "secret", SECRET, "--ignore-not-found")
    installed.kubectl("exec", "client", "--", "rm", KEYS)
    installed.meshhook("queue", "drop", QUEUE, "--yes")


async def started(kube: Kube, *, but: str = "") -> str:
    """Return the name of the worker pod once it is Ready, and not the one that is to go."""

    def find() -> str | None:
        names = [name for name in kube.ready_pods(worker_selector(QUEUE)) if name != but]
        return names[0] if len(names) == 1 else None

    return str(await eventually(find, timeout=240))


async def has_keys(kube: Kube, worker: str, count: int) -> None:
    """Wait until so many keys are mounted: the kubelet may hear of a changed Secret late."""
    count_lines = f"print(len(open('{MOUNTED}/keys').readlines()))"
    command = ("exec", worker, "--", "python", "-c", count_lines)
    await eventually(lambda: kube.kubectl(*command).strip() == str(count), timeout=240)


async def test_a_key_is_rotated_lost_and_found(
    installed: Kube, receiver: Receiver, keys: Keys, image: str
):
    """Jobs of a lost key become dead letters that name it; with the key, a replay runs them."""
    lines = keys.file()
    installed.apply(secret("\n".join(lines.values()) + "\n"), sealed_queue(image))
    worker = await started(installed)
    installed.meshhook("queue", "set", QUEUE, "encryption=require")

    keys.send("sealed-0")
    await all_accepted(receiver, "sealed", 1, seconds=120)

    # The old key is lost: new pods have the next one alone.
    installed.apply(secret(lines["k2"] + "\n"))
    installed.kubectl("delete", "pod", worker, "--wait=false")
    worker = await started(installed, but=worker)
    await has_keys(installed, worker, 1)
    lost = keys.send("lost-0")
    installed.meshhook("encryption", "use-key", KEYS, "k2")
    keys.send("sealed-1")
    await all_accepted(receiver, "sealed", 2, seconds=120)

    def dead_letters() -> list[dict[str, Any]]:
        return list(json.loads(installed.meshhook("dlq", "list", QUEUE, "--json")))

    (letter,) = await eventually(dead_letters, timeout=120)
    assert (letter["msg_id"], letter["error_type"]) == (lost, "UnknownEncryptionKeyError")
    assert "k1" in letter["error_message"]
    shown = installed.meshhook("dlq", "show", QUEUE, str(letter["id"]))
    assert "card" not in shown, "it is encrypted"

    # It is found: pods that run have it as soon as the kubelet has, and look by themselves.
    installed.apply(secret(f"{lines['k2']}\n{lines['k1']}\n"))
    # A change of a pod makes the kubelet look after its volumes now, and not within a minute.
    installed.kubectl("annotate", "pod", worker, "e2e/keys=changed")
    await has_keys(installed, worker, 2)
    installed.meshhook("dlq", "replay", QUEUE, "--error-type", "UnknownEncryptionKeyError")
    await all_accepted(receiver, "lost", 1, seconds=120)
    (pod,) = installed.pods(worker_selector(QUEUE))
    assert pod["metadata"]["name"] == worker, "it was not replaced"
    (status,) = pod["status"]["containerStatuses"]
    assert status["restartCount"] == 0, "it was not restarted"

    logs = installed.kubectl("logs", worker)
    assert not [line for line in lines.values() if line.partition(":")[2] in logs]
