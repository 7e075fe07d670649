"""Missing, wrong or unreachable Secrets and databases: a condition, and automatic recovery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from meshhook.schema import migrate
from support.cluster.api import Api
from support.cluster.objects import database_secret, job_queue
from support.cluster.views import JobQueueView
from support.proxy import Proxy
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")


@pytest.fixture
def database_proxy(database_url: str) -> Iterator[Proxy]:
    """A proxy in front of the database."""
    with Proxy(database_url) as proxy:
        yield proxy


async def is_served(api: Api, name: str) -> None:
    """Create another JobQueue with the Secret `other`, and wait until it is Ready."""
    await api.create(job_queue(name, database={"secretRef": {"name": "other"}}))
    view = JobQueueView(api, name=name, deployment=f"{name}-worker")
    await view.until_condition("Ready", "True")
    await view.until_replicas(1)


async def test_a_missing_secret(api: Api, database_url: str):
    """A missing Secret is named; once it is created, the queue recovers."""
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "False", reason="SecretNotFound", says="'database'")
    await api.create(database_secret(database_url))
    await view.until_condition("Ready", "True")


async def test_a_secret_without_the_key(api: Api, database_url: str):
    """A missing key of the Secret is named; once it is added, the queue recovers."""
    await api.create({"kind": "Secret", "metadata": {"name": "database"}, "stringData": {"x": "y"}})
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "False", reason="SecretKeyMissing", says="uri")
    await api.patch("Secret", "database", {"stringData": {"uri": database_url}})
    await view.until_condition("Ready", "True")


@pytest.mark.parametrize("url", ["mysql://host/db", ""])
async def test_a_secret_with_nonsense(api: Api, database_url: str, url: str):
    """A value that is not a database URL is reported without being shown."""
    await api.create(database_secret(url))
    await api.create(job_queue())
    view = JobQueueView(api)
    condition = await view.until_condition("Ready", "False")
    assert not url or url not in condition["message"]
    await api.patch("Secret", "database", {"stringData": {"uri": database_url}})
    await view.until_condition("Ready", "True")


async def test_a_wrong_password(api: Api, database_url: str):
    """A refused password is reported without being shown; correcting it helps."""
    password = urlsplit(database_url).password or ""
    await api.create(database_secret(database_url.replace(password, "letmein")))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue())
    view = JobQueueView(api)
    condition = await view.until_condition("Ready", "False", reason="LoginRefused")
    assert "password" in condition["message"]
    assert "letmein" not in condition["message"]
    await is_served(api, "letters")
    await api.patch("Secret", "database", {"stringData": {"uri": database_url}})
    await view.until_condition("Ready", "True")


async def test_missing_migrations(
    api: Api,
    database_url: str,
    empty_database_url: str,
):
    """A database without the schema is reported with what to do; migrating it helps."""
    await api.create(database_secret(empty_database_url))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "False", reason="SchemaMissing", says="migrate")
    await is_served(api, "letters")
    connection = await asyncpg.connect(empty_database_url)
    await migrate(connection)
    await connection.close()
    await view.until_condition("Ready", "True")


async def test_an_unreachable_database(
    api: Api,
    database_proxy: Proxy,
    database_url: str,
):
    """An unreachable database is reported, other queues are served, and it recovers by itself."""
    database_proxy.refuse()
    await api.create(database_secret(database_proxy.through(database_url)))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "False", reason="SourceUnavailable")
    await is_served(api, "letters")
    database_proxy.accept()
    await view.until_condition("Ready", "True")


@pytest.mark.parametrize("fault", ["refuses", "stalls"])
async def test_a_database_that_goes_away(
    api: Api,
    database_proxy: Proxy,
    database_url: str,
    fault: str,
):
    """Without its database a queue keeps its workers, and continues without a dip (1850, 2244)."""
    connection = await asyncpg.connect(database_url)
    await api.create(database_secret(database_proxy.through(database_url)))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue(scaling={"scaleDown": {"windowSeconds": 5}}))
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    await connection.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[50]))")
    await view.until_replicas(5)
    if fault == "refuses":
        database_proxy.refuse()
    else:
        database_proxy.stall()
    await view.until_condition("Ready", "False", reason="SourceUnavailable")
    await is_served(api, "letters")
    assert await view.replicas() == 5
    database_proxy.accept()
    database_proxy.resume()
    await view.until_condition("Ready", "True")
    assert await view.replicas() == 5
    await connection.execute("select pgmq.purge_queue('emails')")
    await connection.close()
    await view.until_replicas(1)


async def test_the_fallback(api: Api, database_proxy: Proxy, database_url: str):
    """A queue at zero is scaled up to its fallback while its database is down (KEDA 7239)."""
    await api.create(database_secret(database_proxy.through(database_url)))
    fallback = {"replicas": 2, "afterFailures": 3}
    scaling: dict[str, Any] = {"minReplicas": 0, "cooldownSeconds": 0, "fallback": fallback}
    await api.create(job_queue(scaling=scaling | {"scaleDown": {"windowSeconds": 1}}))
    view = JobQueueView(api)
    await view.until_replicas(0)
    database_proxy.refuse()
    await view.until_replicas(2)


async def test_a_rotated_secret(api: Api, database_proxy: Proxy, database_url: str):
    """A new URL is used, and the workers are rolled out with it."""
    await api.create(database_secret(database_url))
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_ready_replicas(1)
    (before,) = await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
    url = database_proxy.through(database_url)
    await api.patch("Secret", "database", {"stringData": {"uri": url}})

    async def is_another() -> bool:
        pods = await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
        return [pod["metadata"]["uid"] for pod in pods] != [before["metadata"]["uid"]]

    await eventually(is_another, 120)
    await eventually(lambda: database_proxy.connections > 0)
