"""A JobQueue's queue, settings and workers are created, and drift is corrected."""

from __future__ import annotations

import json
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest

from support.cluster.api import Api
from support.cluster.objects import database_secret, deployment, job_queue
from support.cluster.views import JobQueueView
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def emails(api: Api, database: str) -> JobQueueView:
    """A JobQueue that is ready, with one worker."""
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    return view


async def settings(sql: Connection, queue_name: str = "emails") -> dict[str, Any]:
    """Return the settings of a queue; empty if it has none."""
    row = await sql.fetchrow(
        "select * from meshhook.queue_config where queue_name = $1", queue_name
    )
    return dict(row or {})


async def image(api: Api, name: str = "emails-worker") -> str:
    """Return the image that a Deployment's pods should have."""
    found = await api.get("Deployment", name)
    image: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
    return image


async def test_a_job_queue_makes_its_queue(emails: JobQueueView, sql: Connection):
    """The queue and its dead letter queue are there, with the settings of the resource."""
    queues = await sql.fetch("select queue_name from pgmq.list_queues()")
    assert {row["queue_name"] for row in queues} == {"emails", "emails_dlq"}
    found = await settings(sql)
    assert found["max_retry_attempts"] == 5
    assert found["visibility_timeout_seconds"] == 30


async def test_a_job_queue_makes_its_workers(emails: JobQueueView):
    """The JobQueue owns a Deployment of `meshhook worker` with the database URL from the Secret."""
    await emails.until_ready_replicas(1)
    found = await emails.api.get("Deployment", "emails-worker")
    (owner,) = found["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["controller"]) == ("JobQueue", "emails", True)
    (container,) = found["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "none:1"
    command = [*container["command"], *container["args"]]
    assert command[:3] == ["meshhook", "worker", "emails"]
    url = next(each for each in container["env"] if each["name"] == "MESHHOOK_DATABASE_URL")
    assert url["valueFrom"]["secretKeyRef"]["name"] == "database"


async def test_operator_and_workers_may_have_roles_of_their_own(api: Api, database: str):
    """The operator uses its own URL, not that of the workers, with which it would fail."""
    await api.create(database_secret("postgresql://worker:none@127.0.0.1:1/none", name="workers"))
    urls = {"secretRef": {"name": "workers"}, "operatorSecretRef": {"name": "database"}}
    await api.create(job_queue(database=urls))
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    await view.until_ready_replicas(1)
    found = await api.get("Deployment", "emails-worker")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    url = next(each for each in container["env"] if each["name"] == "MESHHOOK_DATABASE_URL")
    assert url["valueFrom"]["secretKeyRef"]["name"] == "workers"


async def test_the_password_is_nowhere_but_in_the_secret(emails: JobQueueView, database: str):
    """Neither the status, nor an event, nor the Deployment holds the password."""
    password = urlsplit(database).password
    assert password
    everything = [
        await emails.api.get("JobQueue", "emails"),
        await emails.api.get("Deployment", "emails-worker"),
        *await emails.events(),
    ]
    assert password not in json.dumps(everything)


async def test_workers_meet_the_restricted_standard(api: Api, database: str):
    """In a namespace that enforces the restricted Pod Security standard the pods are made."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    await api.patch("Namespace", api.namespace, {"metadata": {"labels": label}})
    await api.create(job_queue())
    await JobQueueView(api).until_ready_replicas(1)


async def test_changed_settings_reach_the_database(emails: JobQueueView, sql: Connection):
    """A changed number of attempts reaches the queue."""
    await emails.api.patch("JobQueue", "emails", {"spec": {"retry": {"maxAttempts": 9}}})

    async def has_changed() -> bool:
        return bool((await settings(sql))["max_retry_attempts"] == 9)

    await eventually(has_changed)


async def test_a_new_image_rolls_out(emails: JobQueueView):
    """A changed image reaches the pods, and the status has the generation of the spec."""
    changed = await emails.api.patch(
        "JobQueue", "emails", {"spec": {"worker": {"image": "none:2"}}}
    )

    async def rolled_out() -> bool:
        pods = await emails.api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
        return {pod["spec"]["containers"][0]["image"] for pod in pods} == {"none:2"}

    await eventually(rolled_out)

    async def observed() -> bool:
        status = await emails.status()
        return bool(status["observedGeneration"] == changed["metadata"]["generation"])

    await eventually(observed)


async def test_changed_settings_are_put_back(emails: JobQueueView, sql: Connection):
    """Manual changes in `queue_config` are reverted."""
    await sql.execute("update meshhook.queue_config set max_retry_attempts = 1")

    async def is_back() -> bool:
        return bool((await settings(sql))["max_retry_attempts"] == 5)

    await eventually(is_back)


async def test_a_pause_by_hand_stays(emails: JobQueueView, sql: Connection):
    """`meshhook queue pause` is not undone, since it is not a setting of the resource."""
    await sql.execute("update meshhook.queue_config set paused = true, max_retry_attempts = 1")

    async def is_back() -> bool:
        return bool((await settings(sql))["max_retry_attempts"] == 5)

    await eventually(is_back)
    assert (await settings(sql))["paused"] is True


async def test_a_dropped_queue_is_made_again(emails: JobQueueView, sql: Connection):
    """A dropped queue is created again (RabbitMQ topology operator 243)."""
    await sql.execute("select pgmq.drop_queue('emails')")

    async def is_there() -> bool:
        found = await sql.fetchval("select to_regclass('pgmq.q_emails') is not null")
        return bool(found) and (await emails.condition("Ready")).get("status") == "True"

    await eventually(is_there)


async def test_a_changed_deployment_is_put_back(emails: JobQueueView):
    """A manually changed image is reverted."""
    change = {"spec": {"template": {"spec": {"containers": [{"name": "worker", "image": "evil"}]}}}}
    await emails.api.request(
        "PATCH",
        emails.api.path("Deployment", "emails-worker"),
        change,
        content_type="application/strategic-merge-patch+json",
    )

    async def is_back() -> bool:
        return await image(emails.api) == "none:1"

    await eventually(is_back)


async def test_a_deleted_deployment_is_made_again(emails: JobQueueView):
    """A deleted Deployment is created again, with another uid."""
    before = (await emails.api.get("Deployment", "emails-worker"))["metadata"]["uid"]
    await emails.api.delete("Deployment", "emails-worker")

    async def is_another() -> bool:
        found = await emails.api.find("Deployment", "emails-worker")
        return found is not None and found["metadata"]["uid"] != before

    await eventually(is_another)


async def test_deletion_loses_no_message(emails: JobQueueView, sql: Connection):
    """A deleted JobQueue and its Deployment are gone at once; its messages stay (747)."""
    await sql.execute("select pgmq.send('emails', '{}')")
    await emails.api.delete("JobQueue", "emails")

    async def is_gone() -> bool:
        return (
            await emails.api.find("JobQueue", "emails") is None
            and await emails.api.find("Deployment", "emails-worker") is None
        )

    # The garbage collector of Kubernetes looks for new kinds every 30 seconds.
    await eventually(is_gone, 180)
    assert await sql.fetchval("select count(*) from pgmq.q_emails") == 1


async def test_nothing_has_a_finalizer(emails: JobQueueView):
    """The operator adds no finalizer and no annotation to a JobQueue or its Deployment."""
    for kind, name in (("JobQueue", "emails"), ("Deployment", "emails-worker")):
        metadata = (await emails.api.get(kind, name))["metadata"]
        assert "finalizers" not in metadata
        assert not [key for key in metadata.get("annotations", {}) if "kopf" in key]


async def test_an_empty_queue_may_go_with_its_resource(api: Api, database: str, sql: Connection):
    """With deletionPolicy DeleteIfEmpty a queue without messages is dropped."""
    await api.create(job_queue(deletionPolicy="DeleteIfEmpty"))
    await JobQueueView(api).until_condition("Ready", "True")
    await api.delete("JobQueue", "emails")

    async def is_gone() -> bool:
        return await api.find("JobQueue", "emails") is None

    await eventually(is_gone)
    assert await sql.fetchval("select to_regclass('pgmq.q_emails')") is None


async def test_the_policy_at_the_end_is_the_one_that_counts(
    api: Api, database: str, sql: Connection
):
    """A queue whose policy has changed to Retain is kept, although it is empty."""
    await api.create(job_queue(deletionPolicy="DeleteIfEmpty"))
    await JobQueueView(api).until_condition("Ready", "True")
    # Before the operator looks again, with its finalizer still there.
    await api.patch("JobQueue", "emails", {"spec": {"deletionPolicy": "Retain"}})
    await api.delete("JobQueue", "emails")

    async def is_gone() -> bool:
        return await api.find("JobQueue", "emails") is None

    await eventually(is_gone)
    assert await sql.fetchval("select to_regclass('pgmq.q_emails')") is not None


async def test_a_deletion_that_cannot_reach_the_database_says_so(
    api: Api, database: str, sql: Connection
):
    """The condition names the reason, and setting Retain helps."""
    await api.create(job_queue(deletionPolicy="DeleteIfEmpty"))
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    await sql.execute("alter table meshhook.queue_config rename to queue_config_away")
    await api.delete("JobQueue", "emails")
    await view.until_condition("Ready", "False")
    await api.patch("JobQueue", "emails", {"spec": {"deletionPolicy": "Retain"}})

    async def is_gone() -> bool:
        return await api.find("JobQueue", "emails") is None

    await eventually(is_gone, 60)


async def test_a_queue_with_messages_stays(api: Api, database: str, sql: Connection):
    """With deletionPolicy DeleteIfEmpty a queue that holds a dead letter stays as it is."""
    await api.create(job_queue(deletionPolicy="DeleteIfEmpty"))
    await JobQueueView(api).until_condition("Ready", "True")
    await sql.execute("select pgmq.send('emails_dlq', '{}')")
    await api.delete("JobQueue", "emails")

    async def is_gone() -> bool:
        return await api.find("JobQueue", "emails") is None

    await eventually(is_gone)
    assert await sql.fetchval("select count(*) from pgmq.q_emails_dlq") == 1


async def test_a_deployment_of_ones_own(api: Api, database: str):
    """With deploymentRef only the replicas of the Deployment are changed."""
    await api.create(deployment("mine", replicas=1))
    before = (await api.get("Deployment", "mine"))["spec"]["template"]
    await api.create(
        job_queue(worker=None, deploymentRef={"name": "mine"}, scaling={"minReplicas": 3})
    )
    view = JobQueueView(api, deployment="mine")
    await view.until_replicas(3)
    after = await api.get("Deployment", "mine")
    assert after["spec"]["template"] == before
    assert "ownerReferences" not in after["metadata"]


async def test_a_deployment_that_comes_later(api: Api, database: str):
    """A missing Deployment is named in the condition, and scaled once it exists."""
    await api.create(job_queue(worker=None, deploymentRef={"name": "mine"}))
    view = JobQueueView(api, deployment="mine")
    await view.until_condition("Ready", "False", says="mine")
    await api.create(deployment("mine"))
    await view.until_condition("Ready", "True")


async def test_a_pod_that_kubernetes_refuses(api: Api, database: str):
    """A field that only Kubernetes can check is named in the condition; correcting it helps."""
    await api.create(job_queue(worker={"affinity": {"nodeAffinity": {"no": "such"}}}))
    view = JobQueueView(api)
    await view.until_condition("Ready", "False", says="nodeAffinity")
    await api.patch("JobQueue", "emails", {"spec": {"worker": {"affinity": None}}})
    await view.until_condition("Ready", "True")


async def test_a_paused_job_queue_writes_nothing(api: Api, database: str, sql: Connection):
    """While paused nothing is created or corrected; afterwards it is."""
    await api.create(job_queue(paused=True))
    view = JobQueueView(api)
    await view.until_condition("Paused", "True")
    assert await view.replicas() is None
    assert await settings(sql) == {}
    await api.patch("JobQueue", "emails", {"spec": {"paused": False}})
    await view.until_condition("Ready", "True")
    await view.until_condition("Paused", "False")
    await view.until_replicas(1)


async def test_kubectl_get_shows_the_queue(emails: JobQueueView, sql: Connection):
    """The columns of `kubectl get` show messages and replicas."""

    async def is_shown() -> bool:
        async with emails.api._session.get(
            emails.api.path("JobQueue"),
            headers={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"},
        ) as response:
            table = await response.json()
        columns = [column["name"] for column in table["columnDefinitions"]]
        (row,) = table["rows"]
        shown = dict(zip(columns, row["cells"], strict=True))
        assert (shown["Ready"], shown["State"]) == ("True", "Operating")
        assert (shown["Waiting"], shown["Running"], shown["Dead"]) == (0, 0, 0)
        assert (shown["Oldest(s)"], shown["Target(s)"]) == (0, 60)
        assert (shown["Replicas"], shown["Desired"]) == (1, 1)
        return True

    # Ready may be told before the first decision.
    await eventually(is_shown)


async def test_several_queues_share_a_database(api: Api, database: str, sql: Connection):
    """Five JobQueues on one database are all served, over four connections at most (KEDA 7998)."""
    names = ["emails", "letters", "pages", "calls", "faxes"]
    for name in names:
        await api.create(job_queue(name))
    for name in names:
        view = JobQueueView(api, name=name, deployment=f"{name}-worker")
        await view.until_condition("Ready", "True")
        await view.until_replicas(1)
    connections = await sql.fetchval(
        "select count(*) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
        " and backend_type = 'client backend'"
    )
    assert 1 <= connections <= 4
