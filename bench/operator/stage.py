"""What is measured on: a control plane, a PostgreSQL with many queues, and the operator."""

from __future__ import annotations

import asyncio
import secrets
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import psutil

from meshhook.embedded import EmbeddedPostgres
from meshhook.schema import migrate
from support.cluster.api import Api
from support.cluster.control_plane import ControlPlane
from support.cluster.objects import custom_resource_definitions, database_secret, job_queue
from support.cluster.operator_process import OperatorProcess, operator_kubeconfig
from support.databases import server_directory
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PARALLEL_REQUESTS = 16
SETTINGS = {"shared_preload_libraries": "pg_stat_statements"}


@dataclass(frozen=True)
class Stage:
    """Everything that runs.

    Attributes:
        api: an administrator's requests, for the namespace of the JobQueues.
        control_plane: the control plane.
        operator: the operator, with its own rights.
        sql: a connection to the database of all queues.
        postmaster_pid: the process of the database server.
    """

    api: Api
    control_plane: ControlPlane
    operator: OperatorProcess
    sql: asyncpg.Connection[Any]
    postmaster_pid: int

    @property
    def process(self) -> psutil.Process:
        """The operator's process."""
        return psutil.Process(self.operator.pid)

    async def make_job_queues(self, names: list[str], **spec: Any) -> None:
        """Create a JobQueue for each name."""
        line = asyncio.Semaphore(PARALLEL_REQUESTS)

        async def make(name: str) -> None:
            async with line:
                manifest = job_queue(name, **spec)
                # As often as the defaults have it, and not as often as the tests.
                manifest["spec"]["scaling"].pop("tickSeconds")
                await self.api.create(manifest)

        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(make(name))


@asynccontextmanager
async def running_stage() -> AsyncIterator[Stage]:
    """Start everything, and stop it at the end."""
    with (
        server_directory() as directory,
        server_directory(in_memory=True) as state,
        tempfile.TemporaryDirectory(prefix="meshhook-bench-") as logs,
        ControlPlane(state) as control_plane,
    ):
        server = EmbeddedPostgres(directory / "postgres", settings=SETTINGS)
        url = server.start()
        try:
            async with _connected(url) as sql, _administrator(control_plane) as api:
                await migrate(sql)
                await sql.execute("create extension pg_stat_statements")
                await _install(api, url)
                kubeconfig = await operator_kubeconfig(
                    api, control_plane, Path(logs), cluster_wide=True
                )
                operator = OperatorProcess(
                    kubeconfig=kubeconfig, directory=Path(logs), namespace=None
                )
                try:
                    await operator.start()
                    yield Stage(api, control_plane, operator, sql, server.pid or 0)
                finally:
                    operator.stop()
        finally:
            server.stop()


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url, server_settings={"application_name": "bench"})
    try:
        yield connection
    finally:
        await connection.close()


def _administrator(control_plane: ControlPlane) -> Api:
    return Api(
        control_plane.url,
        token=control_plane.admin_token,
        certificate=control_plane.certificate,
        namespace=f"bench-{secrets.token_hex(3)}",
    )


async def _install(api: Api, url: str) -> None:
    await api.create({"kind": "Namespace", "metadata": {"name": api.namespace}})
    await api.create(database_secret(url))
    for definition in custom_resource_definitions():
        await api.apply(definition)

    async def is_served() -> bool:
        group = await api.request("GET", "/apis")
        return any(each["name"] == "meshhook.io" for each in group["groups"])

    await eventually(is_served, 60)
