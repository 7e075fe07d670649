"""Real webhooks through real pods: from none to some and back, dead letters, and a replay."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from support.e2e import (
    RELEASE,
    Receiver,
    all_accepted,
    job_queue,
    produced,
    producer,
    worker_selector,
)
from support.kube import Kube
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)


def delivery(delivery_id: str) -> str:
    """Return a message: one webhook."""
    payload = {
        "url": Receiver.url,
        "id": delivery_id,
        "body": {"ref": "refs/heads/main"},
    }
    return json.dumps(
        {"run_id": delivery_id, "workflow_id": "push", "project_id": "e2e", "payload": payload}
    )


def woken_at(kube: Kube, queue: str) -> datetime:
    """Return when the operator's log says that it last woke a queue from zero."""
    lines = kube.kubectl("logs", f"deployment/{RELEASE}-operator").splitlines()
    events = [json.loads(line) for line in lines]
    return max(
        datetime.fromisoformat(event["timestamp"])
        for event in events
        if event["event"] == "scaled" and event["queue"] == queue and event["replicas_before"] == 0
    )


async def test_a_queue_wakes_from_zero_and_goes_back(installed, receiver, image):
    """One job starts a worker pod; many start more; without any, all pods go."""
    selector = worker_selector("from-zero")
    scaling = {"targetAgeSeconds": 5, "cooldownSeconds": 5, "scaleDown": {"windowSeconds": 5}}
    queue = job_queue("from-zero", image, **scaling)
    installed.apply(queue)
    await eventually(
        lambda: "conditions" in installed.get("jobqueue", "from-zero").get("status", {}),
        timeout=180,
    )
    await eventually(lambda: not installed.pods(selector), timeout=180)

    sent = json.loads(installed.meshhook("enqueue", "from-zero", delivery("first-0"), "--json"))
    await all_accepted(receiver, "first", 1, seconds=180)
    (msg_id,) = sent["msg_ids"]

    def finished() -> dict[str, Any]:
        # The receiver knows of a delivery before its job is settled.
        found = json.loads(installed.meshhook("jobs", "show", "from-zero", str(msg_id), "--json"))
        assert found["attempts"], found
        assert found["attempts"][-1]["finished_at"], found
        return dict(found)

    job = await eventually(finished)
    attempt = job["attempts"][-1]
    enqueued_at = datetime.fromisoformat(job["enqueued_at"])
    waited = datetime.fromisoformat(attempt["finished_at"]) - enqueued_at
    decided = woken_at(installed, "from-zero") - enqueued_at
    print(
        f"from zero to the first job done: {waited.total_seconds():.2f} s, "
        f"of which the operator {decided.total_seconds():.2f} s"
    )
    assert decided <= waited

    installed.apply(producer(image, "from-zero", "slow", rate=300, count=600))
    await eventually(lambda: len(installed.pods(selector)) > 1, timeout=180)
    assert await produced(installed, "slow") == 600
    await all_accepted(receiver, "slow", 600)
    await eventually(lambda: not installed.pods(selector), timeout=300)
    installed.kubectl("delete", "jobqueue", "from-zero")


async def test_dead_letters_are_replayed_from_the_command_line(installed, receiver, deliveries):
    """What the receiver refuses becomes dead letters; replayed once it accepts, they arrive."""
    lines = "\n".join(delivery(f"refused-{number}") for number in range(20))
    installed.meshhook("enqueue", deliveries, "--file", "-", stdin=lines)

    def dead_letters() -> list[dict[str, object]]:
        found: list[dict[str, object]] = json.loads(
            installed.meshhook("dlq", "list", deliveries, "--json")
        )
        return found

    await eventually(lambda: len(dead_letters()) == 20, timeout=180)
    errors = installed.meshhook("dlq", "errors", deliveries)
    assert "HTTP 410" in errors
    assert not any(each.startswith("refused-") for each in receiver.ledger())

    receiver.be_friendly()
    installed.meshhook("dlq", "replay", deliveries, "--error-type", "HTTP 410")
    accepted = await all_accepted(receiver, "refused", 20)
    assert set(accepted.values()) == {1}
    assert dead_letters() == []
