"""Upgrades and uninstalls: what stays, and what a later install finds."""

from __future__ import annotations

import json

import pytest

from support.e2e import RELEASE, job_queue, released, steady_workers, worker_selector
from support.helm import CHART
from support.kube import KubeError
from support.waiting import eventually

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def waiting_jobs(installed, receiver):
    """Three jobs in a queue that nobody works on; checks that they are there."""
    installed.meshhook("queue", "create", "kept")
    for number in range(3):
        installed.meshhook("enqueue", "kept", json.dumps({"n": number}))

    def count() -> int:
        found = json.loads(installed.meshhook("jobs", "list", "--queue", "kept", "--json"))
        return len(found)

    assert count() == 3
    yield count
    installed.meshhook("queue", "drop", "kept", "--yes")


async def test_an_upgrade_keeps_queues_and_messages(installed, values, deliveries, waiting_jobs):
    """After an upgrade that restarts everything, JobQueues, password and jobs are the same."""
    before = installed.get("jobqueue", deliveries)["metadata"]["uid"]
    secret = installed.get("secret", f"{RELEASE}-database")["data"]
    changed = values | {"commonLabels": {"round": "two"}, "operator": {"logLevel": "debug"}}
    await released(installed, "upgrade", changed)
    assert installed.get("jobqueue", deliveries)["metadata"]["uid"] == before
    assert installed.get("secret", f"{RELEASE}-database")["data"] == secret
    assert waiting_jobs() == 3


@pytest.fixture
async def workers(installed, image, deliveries) -> set[str]:
    """The workers of a queue that wants no more and no fewer: its fleet may be about to shrink."""
    installed.apply(job_queue(deliveries, image, minReplicas=2, maxReplicas=2))
    return await steady_workers(installed, deliveries, 2)


async def test_an_uninstall_keeps_definition_and_data(
    installed, values, deliveries, waiting_jobs, workers
):
    """Workers work on without the release; a new install finds queues, password and jobs."""
    installed.helm("uninstall", RELEASE, "--wait", "--timeout", "5m")
    assert installed.get("crd", "jobqueues.meshhook.io")
    assert installed.get("jobqueue", deliveries)
    assert installed.get("secret", f"{RELEASE}-database")
    assert installed.get("pvc", f"data-{RELEASE}-database-0")
    # helm waits for the objects that it made, and their pods go after them.
    components = "app.kubernetes.io/component in (operator,database)"
    await eventually(lambda: not installed.pods(components), timeout=120)

    await released(installed, "install", values)
    assert waiting_jobs() == 3
    await eventually(
        lambda: workers <= set(installed.ready_pods(worker_selector(deliveries))), timeout=240
    )


def test_a_migration_that_fails_stops_the_install(installed, values):
    """Without its Secret the hook's pod cannot start, and nothing of the release is made."""
    changed = values | {
        "database": {"existingSecret": "absent"},
        "migrations": {"timeoutSeconds": 5},
        "crds": {"enabled": False},
        "operator": {"watchNamespaces": ["elsewhere"]},
    }
    with pytest.raises(KubeError, match="pre-install"):
        installed.helm("install", "second", CHART, "--timeout", "60s", values=changed)
    names = [each["metadata"]["name"] for each in installed.get("deployments")]
    assert not [name for name in names if name.startswith("second")]
    installed.helm("uninstall", "second")


async def test_queues_of_a_release_are_made_changed_and_taken_away(installed, receiver, values):
    """`queues` become JobQueues of the release: an upgrade changes them, or deletes them."""
    spec = {
        "worker": {"handler": "handlers:none", "concurrency": 1},
        "scaling": {"minReplicas": 0, "maxReplicas": 1},
    }

    async def upgrade(*queues: dict[str, object]) -> None:
        await released(installed, "upgrade", values | {"queues": list(queues)})

    await upgrade({"name": "declared", "spec": spec})
    uid = installed.get("jobqueue", "declared")["metadata"]["uid"]
    await upgrade({"name": "declared", "spec": spec | {"visibilityTimeoutSeconds": 77}})
    found = installed.get("jobqueue", "declared")
    assert found["metadata"]["uid"] == uid
    assert found["spec"]["visibilityTimeoutSeconds"] == 77
    await upgrade()
    await eventually(
        lambda: "declared" not in {each["metadata"]["name"] for each in installed.get("jobqueues")}
    )
