"""What breaks: databases, Secrets, the API server, the operator itself. Nothing needs a restart."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from meshhook.schema import migrate
from support.cluster.api import Api
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import database_secret, job_queue
from support.cluster.operator_process import OperatorProcess, operator_kubeconfig
from support.cluster.proxy import Proxy
from support.cluster.views import JobQueueView
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("job_queues_are_known")

Connection = asyncpg.Connection[asyncpg.Record]
StartOperator = Callable[..., Awaitable[OperatorProcess]]


@pytest.fixture
async def start_operator(
    api: Api, control_plane: ControlPlane, tmp_path: Path
) -> AsyncIterator[StartOperator]:
    """Starts an operator for this test's namespace alone, with rights in no other."""
    started: list[OperatorProcess] = []

    async def start(url: str | None = None) -> OperatorProcess:
        kubeconfig = await operator_kubeconfig(api, control_plane, tmp_path, url=url)
        process = OperatorProcess(
            kubeconfig=kubeconfig, directory=tmp_path, namespace=api.namespace
        )
        started.append(process)
        process.start()
        return process

    yield start
    for process in started:
        process.stop()


@pytest.fixture
async def own_operator(start_operator: StartOperator) -> OperatorProcess:
    """An operator for this test's namespace alone."""
    return await start_operator()


@pytest.fixture
async def control_plane_proxy(control_plane: ControlPlane) -> AsyncIterator[Proxy]:
    """A proxy before the API server."""
    async with Proxy(control_plane.url) as proxy:
        yield proxy


@pytest.fixture
async def database_proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A proxy before the database."""
    async with Proxy(database_url, default_port=5432) as proxy:
        yield proxy


def through(proxy: Proxy, url: str) -> str:
    """Return a URL that leads through a proxy."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{proxy.port}"))


async def is_served(api: Api, name: str) -> None:
    """Make another JobQueue, on a Secret `other`, and wait until it is served."""
    await api.create(job_queue(name, database={"secretRef": {"name": "other"}}))
    view = JobQueueView(api, name=name, deployment=f"{name}-worker")
    await view.until_condition("Ready", "True")
    await view.until_replicas(1)


# --- Databases and Secrets -----------------------------------------------------------------------


async def test_a_missing_secret(api: Api, own_operator: OperatorProcess, database_url: str):
    """A Secret that is not there is named; once it is there, all goes on."""
    await api.create(job_queue())
    view = JobQueueView(api)
    condition = await view.until_condition("Ready", "False")
    assert "'database'" in condition["message"] or "database" in condition["message"]
    await api.create(database_secret(database_url))
    await view.until_condition("Ready", "True")


async def test_a_secret_without_the_key(api: Api, own_operator: OperatorProcess, database_url: str):
    """A key that the Secret lacks is named; once it is there, all goes on."""
    await api.create({"kind": "Secret", "metadata": {"name": "database"}, "stringData": {"x": "y"}})
    await api.create(job_queue())
    view = JobQueueView(api)
    condition = await view.until_condition("Ready", "False")
    assert "uri" in condition["message"]
    await api.patch("Secret", "database", {"stringData": {"uri": database_url}})
    await view.until_condition("Ready", "True")


@pytest.mark.parametrize("url", ["not a URL", "mysql://host/db", ""])
async def test_a_secret_with_nonsense(
    api: Api, own_operator: OperatorProcess, database_url: str, url: str
):
    """A value that is no URL of a database is told, and what it was is not."""
    await api.create(database_secret(url))
    await api.create(job_queue())
    view = JobQueueView(api)
    condition = await view.until_condition("Ready", "False")
    assert not url or url not in condition["message"]
    await api.patch("Secret", "database", {"stringData": {"uri": database_url}})
    await view.until_condition("Ready", "True")


async def test_a_wrong_password(api: Api, own_operator: OperatorProcess, database_url: str):
    """A password that the database refuses is told, without the password; then it is mended."""
    password = urlsplit(database_url).password or ""
    await api.create(database_secret(database_url.replace(password, "letmein")))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue())
    view = JobQueueView(api)
    condition = await view.until_condition("Ready", "False")
    assert "password" in condition["message"]
    assert "letmein" not in condition["message"]
    await is_served(api, "letters")
    await api.patch("Secret", "database", {"stringData": {"uri": database_url}})
    await view.until_condition("Ready", "True")


async def test_missing_migrations(
    api: Api,
    own_operator: OperatorProcess,
    database_url: str,
    empty_database_url: str,
):
    """A database that was never migrated is told, with what to do; once it is, all goes on."""
    await api.create(database_secret(empty_database_url))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue())
    view = JobQueueView(api)
    condition = await view.until_condition("Ready", "False")
    assert "migrate" in condition["message"]
    await is_served(api, "letters")
    connection = await asyncpg.connect(empty_database_url)
    await migrate(connection)
    await connection.close()
    await view.until_condition("Ready", "True")


async def test_an_unreachable_database(
    api: Api,
    own_operator: OperatorProcess,
    database_proxy: Proxy,
    database_url: str,
):
    """A database that refuses connections is told; others are served; it comes back by itself."""
    await database_proxy.refuse()
    await api.create(database_secret(through(database_proxy, database_url)))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "False", reason="SourceUnavailable")
    await is_served(api, "letters")
    await database_proxy.accept()
    await view.until_condition("Ready", "True", timeout=60)


@pytest.mark.parametrize("fault", ["refuses", "stalls"])
async def test_a_database_that_goes_away(
    api: Api,
    own_operator: OperatorProcess,
    database_proxy: Proxy,
    database_url: str,
    fault: str,
):
    """Without its database a queue keeps its workers, and goes on without a dip (1850, 2244)."""
    connection = await asyncpg.connect(database_url)
    await api.create(database_secret(through(database_proxy, database_url)))
    await api.create(database_secret(database_url, "other"))
    await api.create(job_queue(scaling={"scaleDown": {"windowSeconds": 5}}))
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    await connection.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[50]))")
    await view.until_replicas(5)
    if fault == "refuses":
        await database_proxy.refuse()
    else:
        database_proxy.stall()
    await view.until_condition("Ready", "False", reason="SourceUnavailable")
    await is_served(api, "letters")
    assert await view.replicas() == 5
    await database_proxy.accept()
    database_proxy.resume()
    await view.until_condition("Ready", "True", timeout=60)
    assert await view.replicas() == 5
    await connection.execute("select pgmq.purge_queue('emails')")
    await connection.close()
    await view.until_replicas(1)


async def test_the_fallback(
    api: Api, own_operator: OperatorProcess, database_proxy: Proxy, database_url: str
):
    """A queue at zero goes up to its fallback when its database is away (KEDA 7239)."""
    await api.create(database_secret(through(database_proxy, database_url)))
    fallback = {"replicas": 2, "afterFailures": 3}
    scaling: dict[str, Any] = {"minReplicas": 0, "cooldownSeconds": 0, "fallback": fallback}
    await api.create(job_queue(scaling=scaling | {"scaleDown": {"windowSeconds": 1}}))
    view = JobQueueView(api)
    await view.until_replicas(0)
    await database_proxy.refuse()
    await view.until_replicas(2)


async def test_a_rotated_secret(
    api: Api, own_operator: OperatorProcess, database_proxy: Proxy, database_url: str
):
    """A new URL is taken up, and the workers are made anew with it."""
    await api.create(database_secret(database_url))
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_ready_replicas(1)
    (before,) = await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
    url = through(database_proxy, database_url)
    await api.patch("Secret", "database", {"stringData": {"uri": url}})

    async def is_another() -> bool:
        pods = await api.list("Pod", labelSelector="meshhook.io/jobqueue=emails")
        return [pod["metadata"]["uid"] for pod in pods] != [before["metadata"]["uid"]]

    await eventually(is_another, 60)
    await eventually(lambda: database_proxy.connections > 0)


# --- The operator ---------------------------------------------------------------------------------


async def test_killed_while_scaling(
    api: Api, start_operator: StartOperator, database: str, sql: Connection
):
    """Killed right after a decision and started again, it goes on from what is there."""
    operator = await start_operator()
    await api.create(job_queue(scaling={"scaleDown": {"windowSeconds": 2}}))
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[60]))")
    await view.until_replicas(6)
    operator.kill()
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[30]))")
    watched: list[int] = [6]

    async def watch_replicas() -> bool:
        replicas = await view.replicas()
        assert replicas is not None
        watched.append(replicas)
        return replicas == 9

    operator.start()
    await eventually(watch_replicas, 30)
    assert min(watched) == 6
    await sql.execute("select pgmq.purge_queue('emails')")
    await view.until_replicas(1)


async def test_stopped_in_order(api: Api, own_operator: OperatorProcess, database: str):
    """Asked to end, it ends by itself, with status 0."""
    await api.create(job_queue())
    await JobQueueView(api).until_condition("Ready", "True")
    own_operator.stop()
    assert own_operator.exit_status == 0


async def test_a_change_while_it_was_down(api: Api, start_operator: StartOperator, database: str):
    """What changed while no operator ran is done once one runs again."""
    operator = await start_operator()
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_replicas(1)
    operator.kill()
    await api.patch("JobQueue", "emails", {"spec": {"scaling": {"minReplicas": 3}}})
    operator.start()
    await view.until_replicas(3)


@pytest.mark.parametrize("deletion_policy", ["Retain"])
async def test_a_namespace_goes_while_it_is_down(
    api: Api, own_operator: OperatorProcess, database: str, deletion_policy: str
):
    """Nothing of ours holds up the deletion of a namespace when no operator runs."""
    await api.create(job_queue(deletionPolicy=deletion_policy))
    await JobQueueView(api).until_ready_replicas(1)
    own_operator.kill()
    await api.delete("Namespace", api.namespace)

    async def is_gone() -> bool:
        return await api.find("Namespace", api.namespace) is None

    await eventually(is_gone, 60)
    await api.create({"kind": "Namespace", "metadata": {"name": api.namespace}})


async def test_it_never_asks_for_more_than_it_may(
    api: Api, own_operator: OperatorProcess, database: str, sql: Connection
):
    """With exactly its rules in one namespace it works, and the API server refuses it nothing."""
    await api.create(job_queue(deletionPolicy="DeleteIfEmpty"))
    view = JobQueueView(api)
    await view.until_ready_replicas(1)
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[40]))")
    await view.until_replicas(4)
    await api.delete("JobQueue", "emails")

    async def is_gone() -> bool:
        return await api.find("JobQueue", "emails") is None

    await eventually(is_gone, 30)
    log = own_operator.log.read_text()
    assert "forbidden" not in log.lower()
    assert "403" not in log


# --- The API server -------------------------------------------------------------------------------


async def test_the_api_server_restarts(
    api: Api,
    own_operator: OperatorProcess,
    control_plane: ControlPlane,
    database: str,
    sql: Connection,
):
    """After the API server was killed and started again, everything goes on by itself."""
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    server = control_plane.components["kube-apiserver"]
    server.kill()
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[40]))")
    server.start()
    control_plane.wait_until_serving()
    await view.until_replicas(4, timeout=60)
    await api.patch("JobQueue", "emails", {"spec": {"scaling": {"minReplicas": 6}}})
    await view.until_replicas(6, timeout=60)
    assert own_operator.running


@pytest.mark.parametrize("fault", ["dropped", "silent"])
async def test_a_lost_watch(
    api: Api,
    start_operator: StartOperator,
    control_plane_proxy: Proxy,
    database: str,
    fault: str,
):
    """When the watches are dropped, or go silent without a word, later changes are still seen."""
    url = f"https://127.0.0.1:{control_plane_proxy.port}"
    operator = await start_operator(url)
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_replicas(1)
    if fault == "dropped":
        await control_plane_proxy.drop()
    else:
        control_plane_proxy.forget()
    await api.patch("JobQueue", "emails", {"spec": {"scaling": {"minReplicas": 3}}})
    await view.until_replicas(3, timeout=100)
    assert operator.running
