"""Fixtures for tests on a real control plane: one a session, a namespace for each test."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from support.cluster.api import Api
from support.cluster.building import build_if_needed
from support.cluster.control_plane import ControlPlane, obstacle
from support.cluster.objects import custom_resource_definitions, database_secret
from support.cluster.operator_process import (
    OperatorProcess,
    StartOperator,
    operator_kubeconfig,
)
from support.cluster.programs import CONTROL_PLANE
from support.cluster.views import serves_job_queues
from support.databases import server_directory
from support.last_tests import until_last_test
from support.skipping import skip
from support.waiting import eventually

HERE = Path(__file__).parent
_MISSING = pytest.StashKey[str | None]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test."""
    session.config.stash[_MISSING] = build_if_needed(
        session,
        CONTROL_PLANE,
        lambda item: "control_plane" in getattr(item, "fixturenames", ()),
    )


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A control plane with one node, for all tests of the folder."""
    if reason := pytestconfig.stash[_MISSING] or obstacle():
        skip(reason)
    with until_last_test(pytestconfig, HERE) as stack:
        directory = stack.enter_context(server_directory(in_memory=True))
        yield stack.enter_context(ControlPlane(directory))


@pytest.fixture(scope="session")
def job_queues_are_known(control_plane: ControlPlane) -> None:
    """The API server has the JobQueue definition."""

    async def install() -> None:
        async with control_plane.administrator("default") as api:
            for definition in custom_resource_definitions():
                await api.apply(definition)
            await eventually(lambda: serves_job_queues(api))

    asyncio.run(install())


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Api]:
    """An administrator's client, for a namespace of this test's own."""
    async with control_plane.administrator(f"test-{secrets.token_hex(4)}") as api:
        await api.create({"kind": "Namespace", "metadata": {"name": api.namespace}})
        yield api
        await api.delete("Namespace", api.namespace)


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane,
    job_queues_are_known: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[OperatorProcess]:
    """An operator for all namespaces, shared by the tests of a module; none may disturb it."""
    directory = tmp_path_factory.mktemp("operator")
    namespace = f"operator-{secrets.token_hex(4)}"

    async def install() -> Path:
        async with control_plane.administrator(namespace) as api:
            await api.create({"kind": "Namespace", "metadata": {"name": namespace}})
            return await operator_kubeconfig(api, control_plane, directory, cluster_wide=True)

    async def uninstall() -> None:
        async with control_plane.administrator(namespace) as api:
            await api.delete("Namespace", namespace)

    process = OperatorProcess(
        kubeconfig=asyncio.run(install()), directory=directory, namespace=None
    )
    try:
        asyncio.run(process.start())
        yield process
    finally:
        process.kill()
        asyncio.run(uninstall())


@pytest.fixture
async def start_operator(
    api: Api, control_plane: ControlPlane, tmp_path: Path
) -> AsyncIterator[StartOperator]:
    """Starts an operator for this test's namespace only, with permissions in no other."""
    started: list[OperatorProcess] = []

    async def start(url: str | None = None, **variables: str) -> OperatorProcess:
        kubeconfig = await operator_kubeconfig(api, control_plane, tmp_path, url=url)
        process = OperatorProcess(
            kubeconfig=kubeconfig, directory=tmp_path, namespace=api.namespace, **variables
        )
        started.append(process)
        await process.start()
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
async def database(api: Api, database_url: str) -> str:
    """A migrated database of this test; a Secret in its namespace has its URL."""
    await api.create(database_secret(database_url))
    return database_url


@pytest.fixture
async def sql(database: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection to `database`."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()
