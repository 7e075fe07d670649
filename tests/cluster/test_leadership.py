"""Two operators: one works, the other stands by or leaves the namespace alone, whatever happens."""

from __future__ import annotations

import re
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from support.cluster.api import Api
from support.cluster.audit import Write
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import OWN_LEASE, job_queue
from support.cluster.operator_process import OperatorProcess, operator_kubeconfig
from support.cluster.views import JobQueueView
from support.proxy import Proxy
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("job_queues_are_known")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NAMESPACE_LEASE = "meshhook-jobqueues"
QUICK = {"scaleDown": {"windowSeconds": 0}}


class Operators:
    """Operators for the namespace of a test, each under an account of its own."""

    def __init__(self, api: Api, control_plane: ControlPlane, directory: Path) -> None:
        self._api = api
        self._control_plane = control_plane
        self._directory = directory
        self._homes = AsyncExitStack()
        self._started: list[OperatorProcess] = []

    async def start(
        self,
        account: str,
        *,
        lease: str = OWN_LEASE,
        cluster_wide: bool = False,
        url: str | None = None,
    ) -> OperatorProcess:
        """Start one.

        Args:
            account: what its service account and its process are called.
            lease: the name of its own Lease: another one is another installation's.
            cluster_wide: whether it watches all namespaces, from one of its own.
            url: the address of a proxy before the API server.
        """
        home = self._api
        if cluster_wide:
            home = self._control_plane.administrator(f"operator-{secrets.token_hex(4)}")
            await self._homes.enter_async_context(home)
            await home.create({"kind": "Namespace", "metadata": {"name": home.namespace}})
            self._homes.push_async_callback(home.delete, "Namespace", home.namespace)
        kubeconfig = await operator_kubeconfig(
            home,
            self._control_plane,
            self._directory,
            account=account,
            lease=lease,
            cluster_wide=cluster_wide,
            url=url,
        )
        process = OperatorProcess(
            kubeconfig=kubeconfig,
            directory=self._directory,
            namespace=None if cluster_wide else self._api.namespace,
            MESHHOOK_OPERATOR_IDENTITY=account,
            MESHHOOK_OPERATOR_LEASE=f"{home.namespace}/{lease}",
        )
        self._started.append(process)
        await process.start()
        return process

    def writes(self, *, since: str | None = None) -> list[Write]:
        """Return what they have written, but for Leases.

        Args:
            since: only from when this one took the Lease.
        """
        found = self._control_plane.writes_in(self._api.namespace)
        if since is not None:
            found = found[[each.holder == since for each in found].index(True) :]
        return [each for each in found if each.resource != "leases"]

    def writers(self, *, since: str | None = None) -> set[str]:
        """Return who has written anything but Leases."""
        return {each.account for each in self.writes(since=since)}

    async def end(self) -> None:
        """Kill those that are left, and remove what was made for them."""
        for process in self._started:
            process.kill()
        await self._homes.aclose()


@pytest.fixture
async def operators(
    api: Api, control_plane: ControlPlane, tmp_path: Path
) -> AsyncIterator[Operators]:
    """Starts operators for the namespace of this test."""
    found = Operators(api, control_plane, tmp_path)
    yield found
    await found.end()


@pytest.fixture
def proxy(control_plane: ControlPlane) -> Iterator[Proxy]:
    """A proxy in front of the API server."""
    with Proxy(control_plane.url) as proxy:
        yield proxy


def leads(operator: OperatorProcess) -> bool:
    """Whether it says that it leads."""
    return operator.metric("meshhook_operator_leading") == 1


async def until_leading(operator: OperatorProcess) -> None:
    """Wait until it says that it leads; on a busy machine it may renew its Lease late."""
    await eventually(lambda: leads(operator))


def queue_series(operator: OperatorProcess) -> list[str]:
    """Return what it exports about queues and JobQueues, and the age of these figures."""
    pattern = r"^meshhook_(?:queue|scaler|exporter_last)_.*$"
    return re.findall(pattern, operator.metrics(), re.MULTILINE)


async def enqueue(sql: Connection, jobs: int) -> None:
    """Enqueue so many jobs."""
    await sql.execute(
        "select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[$1::int]))", jobs
    )


async def test_one_of_two_replicas_works(api: Api, operators: Operators, sql: Connection):
    """The other one is ready and alive, writes nothing, and exports nothing about queues."""
    blue = await operators.start("blue")
    await eventually(lambda: leads(blue))
    green = await operators.start("green")
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_ready_replicas(1)
    for jobs, replicas in ((60, 6), (30, 9)):
        await enqueue(sql, jobs)
        await view.until_replicas(replicas)
    assert operators.writers() == {"blue"}
    await until_leading(blue)
    assert not leads(green)
    await eventually(lambda: queue_series(blue))
    assert queue_series(green) == []
    assert green.page("/readyz")
    assert green.page("/healthz")


async def test_a_stopped_leader_hands_over_at_once(
    api: Api,
    operators: Operators,
    sql: Connection,
):
    """On SIGTERM it gives the Lease back, so that the next one need not wait until it runs out."""
    blue = await operators.start("blue")
    await eventually(lambda: leads(blue))
    green = await operators.start("green")
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_replicas(1)
    blue.stop()
    assert blue.exit_status == 0
    lease = await api.get("Lease", OWN_LEASE)
    assert lease["spec"].get("holderIdentity") in {None, "", "green"}
    await enqueue(sql, 60)
    await view.until_replicas(6)
    await until_leading(green)
    assert operators.writers(since="green") == {"green"}


async def test_a_killed_leader_is_replaced_when_its_lease_has_run_out(
    api: Api,
    operators: Operators,
    sql: Connection,
):
    """The next one goes on from the present state, with what the status says of the first."""
    blue = await operators.start("blue")
    await eventually(lambda: leads(blue))
    await operators.start("green")
    await api.create(job_queue(scaling=QUICK))
    view = JobQueueView(api)
    await view.until_replicas(1)
    await enqueue(sql, 60)
    await view.until_replicas(6)
    blue.kill()
    await enqueue(sql, 30)
    await view.until_replicas(9)
    assert operators.writers(since="green") == {"green"}
    lease = await api.get("Lease", OWN_LEASE)
    assert lease["spec"]["holderIdentity"] == "green"
    assert lease["spec"]["leaseTransitions"] == 1


async def test_a_suspended_leader_writes_nothing_when_it_wakes_up(
    api: Api,
    operators: Operators,
    sql: Connection,
):
    """Its decisions are old by then, and its successor has made others."""
    blue = await operators.start("blue")
    await eventually(lambda: leads(blue))
    green = await operators.start("green")
    await api.create(job_queue(scaling=QUICK))
    view = JobQueueView(api)
    await view.until_replicas(1)
    await enqueue(sql, 60)
    await view.until_replicas(6)
    blue.send_signal(signal.SIGSTOP)
    await enqueue(sql, 30)
    await view.until_replicas(9)
    await until_leading(green)
    await sql.execute("select pgmq.purge_queue('emails')")
    await view.until_replicas(1)
    blue.send_signal(signal.SIGCONT)
    await eventually(lambda: not leads(blue) and not queue_series(blue))
    await enqueue(sql, 60)
    await view.until_replicas(6)
    assert operators.writers(since="green") == {"green"}


async def test_a_leader_without_the_api_server_is_replaced(
    api: Api,
    operators: Operators,
    proxy: Proxy,
    sql: Connection,
):
    """Cut off alone, it goes on running and stands by once it can see the API server again."""
    blue = await operators.start("blue", url=f"https://127.0.0.1:{proxy.port}")
    await eventually(lambda: leads(blue))
    green = await operators.start("green")
    await api.create(job_queue(scaling=QUICK))
    view = JobQueueView(api)
    await view.until_replicas(1)
    proxy.refuse()
    await enqueue(sql, 60)
    await view.until_replicas(6)
    await until_leading(green)
    proxy.accept()
    await eventually(lambda: not leads(blue) and not queue_series(blue))
    await enqueue(sql, 30)
    await view.until_replicas(9)
    assert operators.writers(since="green") == {"green"}
    assert blue.running


async def test_a_leader_alone_outlasts_an_outage_of_the_api_server(
    api: Api, operators: Operators, proxy: Proxy, sql: Connection
):
    """Its Lease runs out and nobody takes it: it writes nothing, and goes on when it can."""
    blue = await operators.start("blue", url=f"https://127.0.0.1:{proxy.port}")
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_ready_replicas(1)
    await eventually(lambda: queue_series(blue))
    proxy.refuse()
    await enqueue(sql, 60)
    paused = "nothing is written until the lease is renewed"
    await eventually(lambda: paused in blue.log.read_text())
    assert not leads(blue)
    await eventually(lambda: queue_series(blue))
    proxy.accept()
    await view.until_replicas(6)
    lease = await api.get("Lease", OWN_LEASE)
    assert lease["spec"].get("leaseTransitions", 0) == 0


@pytest.mark.parametrize("cluster_wide", [False, True], ids=["two for one", "one for all"])
async def test_two_installations_never_work_on_one_namespace(
    api: Api,
    operators: Operators,
    sql: Connection,
    cluster_wide: bool,
):
    """The second one says whom it leaves the namespace to, in its log and its metrics."""
    blue = await operators.start("blue")
    await api.create(job_queue())
    view = JobQueueView(api)
    await view.until_replicas(1)
    green = await operators.start("green", lease="green", cluster_wide=cluster_wide)
    await eventually(lambda: green.metric("meshhook_operator_unserved_namespaces") == 1)
    await enqueue(sql, 60)
    await view.until_replicas(6)
    await until_leading(blue)
    await until_leading(green)
    assert operators.writers() == {"blue"}
    assert queue_series(green) == []
    log = green.log.read_text()
    assert "namespace left to another operator" in log
    assert f"{api.namespace}/{OWN_LEASE}" in log
    lease = await api.get("Lease", NAMESPACE_LEASE)
    assert lease["spec"]["holderIdentity"] == f"{api.namespace}/{OWN_LEASE}"


async def test_a_namespace_without_jobqueues_is_anybodys(
    api: Api, operators: Operators, database: str
):
    """Its Lease is given back with the last JobQueue, and another installation may take it."""
    blue = await operators.start("blue")
    await api.create(job_queue())
    await JobQueueView(api).until_replicas(1)
    green = await operators.start("green", lease="green")
    await api.delete("JobQueue", "emails")

    async def is_free() -> bool:
        lease = await api.get("Lease", NAMESPACE_LEASE)
        return not lease["spec"].get("holderIdentity")

    await eventually(is_free)
    blue.stop()
    await api.create(job_queue("letters"))
    await JobQueueView(api, "letters", "letters-worker").until_replicas(1)
    await until_leading(green)

    def has_made_it() -> bool:
        # The API server may log a request after it has answered it.
        accounts = {each.account for each in operators.writes() if each.name == "letters-worker"}
        assert accounts == {"green"}, accounts
        return True

    await eventually(has_made_it)


async def test_a_namespace_is_deleted_though_its_lease_goes_first(
    api: Api, operators: Operators, database: str
):
    """No Lease can be made there any more, and the finalizers of JobQueues are still removed."""
    await operators.start("blue", cluster_wide=True)
    await api.create(job_queue(deletionPolicy="DeleteIfEmpty"))
    await JobQueueView(api).until_replicas(1)
    await api.delete("Lease", NAMESPACE_LEASE)
    await api.delete("Namespace", api.namespace)

    async def is_gone() -> bool:
        return await api.find("Namespace", api.namespace) is None

    await eventually(is_gone, 180)
    await api.create({"kind": "Namespace", "metadata": {"name": api.namespace}})
