"""Fixtures for tests on a real control plane: one a session, a namespace for each test."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import NoReturn

import pytest

from support.cluster.api import Api, ApiError
from support.cluster.control_plane import ControlPlane, obstacle
from support.cluster.objects import custom_resource_definition
from support.cluster.programs import CONTROL_PLANE, ProgramsMissingError, build, missing
from support.databases import server_directory
from support.waiting import eventually

_MISSING = pytest.StashKey[str]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test, whose time is limited; the build may take long."""
    if session.config.option.collectonly or not any(
        "control_plane" in getattr(item, "fixturenames", ()) for item in session.items
    ):
        return
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    say = terminal.write_line if terminal is not None else print
    try:
        if missing(CONTROL_PLANE):
            build(CONTROL_PLANE, say=say)
    except ProgramsMissingError as error:
        session.config.stash[_MISSING] = str(error)


def _refuse(reason: str) -> NoReturn:
    """Skip the test; where the environment says that this is CI, fail it."""
    if os.environ.get("CI", "false").lower() not in {"", "0", "false"}:
        pytest.fail(f"may not be skipped in CI: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """A control plane with one node, for all tests."""
    if reason := pytestconfig.stash.get(_MISSING, None) or obstacle():
        _refuse(reason)
    with server_directory(in_memory=True) as directory, ControlPlane(directory) as control_plane:
        yield control_plane


@pytest.fixture(scope="session")
def job_queues_are_known(control_plane: ControlPlane) -> None:
    """The API server knows JobQueues."""

    async def install() -> None:
        async with Api(
            control_plane.url,
            token=control_plane.admin_token,
            certificate=control_plane.certificate,
            namespace="default",
        ) as api:
            await api.apply(custom_resource_definition())
            await eventually(lambda: _serves_job_queues(api), timeout=60)

    asyncio.run(install())


async def _serves_job_queues(api: Api) -> bool:
    try:
        await api.list("JobQueue")
    except ApiError:
        return False
    return True


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Api]:
    """An administrator's requests, for a namespace that this test has for itself."""
    async with Api(
        control_plane.url,
        token=control_plane.admin_token,
        certificate=control_plane.certificate,
        namespace=f"test-{secrets.token_hex(4)}",
    ) as api:
        await api.create({"kind": "Namespace", "metadata": {"name": api.namespace}})
        yield api
        await api.delete("Namespace", api.namespace)
