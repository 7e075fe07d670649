"""Killed, stopped and isolated operators, API server restarts, deleted namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeAlias

import asyncpg
import pytest

from support.cluster.api import Api
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import job_queue
from support.cluster.operator_process import OperatorProcess, StartOperator
from support.cluster.views import JobQueueView, serves_job_queues
from support.proxy import Proxy
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("job_queues_are_known")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def own_operator(start_operator: StartOperator) -> OperatorProcess:
    """An operator for this test's namespace alone."""
    return await start_operator()


@pytest.fixture
def control_plane_proxy(control_plane: ControlPlane) -> Iterator[Proxy]:
    """A proxy in front of the API server."""
    with Proxy(control_plane.url) as proxy:
        yield proxy


async def test_killed_while_scaling(
    api: Api, start_operator: StartOperator, database: str, sql: Connection
):
    """Killed right after a decision and started again, it continues from the present state."""
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

    await operator.start()
    await eventually(watch_replicas)
    assert min(watched) == 6
    await sql.execute("select pgmq.purge_queue('emails')")
    await view.until_replicas(1)


async def test_stopped_in_order(api: Api, own_operator: OperatorProcess, database: str):
    """On SIGTERM it exits with status 0."""
    await api.create(job_queue())
    await JobQueueView(api).until_condition("Ready", "True")
    own_operator.stop()
    assert own_operator.exit_status == 0


async def test_a_change_while_it_was_down(api: Api, start_operator: StartOperator, database: str):
    """Changes made while no operator ran are reconciled once one runs again."""
    operator = await start_operator()
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_replicas(1)
    operator.kill()
    await api.patch("JobQueue", "emails", {"spec": {"scaling": {"minReplicas": 3}}})
    await operator.start()
    await view.until_replicas(3)


@pytest.mark.parametrize("deletion_policy", ["Retain"])
async def test_a_namespace_goes_while_it_is_down(
    api: Api, own_operator: OperatorProcess, database: str, deletion_policy: str
):
    """A namespace can be deleted while no operator runs."""
    await api.create(job_queue(deletionPolicy=deletion_policy))
    await JobQueueView(api).until_ready_replicas(1)
    own_operator.kill()
    await api.delete("Namespace", api.namespace)

    async def is_gone() -> bool:
        return await api.find("Namespace", api.namespace) is None

    await eventually(is_gone, 180)
    await api.create({"kind": "Namespace", "metadata": {"name": api.namespace}})


async def test_it_never_asks_for_more_than_it_may(
    api: Api, own_operator: OperatorProcess, database: str, sql: Connection
):
    """With exactly its permissions in one namespace it works, and no request is refused."""
    await api.create(job_queue(deletionPolicy="DeleteIfEmpty"))
    view = JobQueueView(api)
    await view.until_ready_replicas(1)
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[40]))")
    await view.until_replicas(4)
    await api.delete("JobQueue", "emails")

    async def is_gone() -> bool:
        return await api.find("JobQueue", "emails") is None

    await eventually(is_gone)
    log = own_operator.log.read_text()
    assert "forbidden" not in log.lower()
    # Not the digits of a time or of a uid.
    assert not re.search(r"(?<![\w.:-])403(?![\w-])", log)


async def test_the_api_server_restarts(
    api: Api,
    own_operator: OperatorProcess,
    control_plane: ControlPlane,
    database: str,
    sql: Connection,
):
    """After the API server was killed and started again, everything continues by itself."""
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    server = control_plane.components["kube-apiserver"]
    server.kill()
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[40]))")
    server.start()
    control_plane.wait_until_serving()
    await eventually(lambda: serves_job_queues(api))
    await view.until_replicas(4)
    await api.patch("JobQueue", "emails", {"spec": {"scaling": {"minReplicas": 6}}})
    await view.until_replicas(6)
    assert own_operator.running


@pytest.mark.parametrize("fault", ["dropped", "silent"])
async def test_a_lost_watch(
    api: Api,
    start_operator: StartOperator,
    control_plane_proxy: Proxy,
    database: str,
    fault: str,
):
    """When watches are dropped or go silent, later changes are still noticed."""
    url = f"https://127.0.0.1:{control_plane_proxy.port}"
    operator = await start_operator(url, MESHHOOK_WATCH_SILENCE_SECONDS="10")
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_replicas(1)
    if fault == "dropped":
        control_plane_proxy.reset()
    else:
        control_plane_proxy.forget()
    await api.patch("JobQueue", "emails", {"spec": {"scaling": {"minReplicas": 3}}})
    await view.until_replicas(3, timeout=100)
    assert operator.running
