"""Databases in whose schema public others have overloads of all that our SQL uses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from meshhook.schema import migrate
from support.databases import Databases, server_directory
from support.hostile_objects import Way, create_hostile_objects
from support.pgbouncer import pgbouncer
from support.sql_texts import all_texts

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give whichever test comes first the time to make the hostile objects, which are 90,000."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="session")
def hostile_template(databases: Databases) -> str:
    """The name of a database without MeshHook, with hostile objects in schema public."""

    async def prepare(connection: Connection) -> None:
        await create_hostile_objects(connection, all_texts())

    return databases.create_template(prepare)


@pytest.fixture(scope="session")
def hostile_queues_template(databases: Databases, hostile_template: str) -> str:
    """The name of the same with MeshHook, and with the queues `jobs` and `other`."""

    async def prepare(url: str) -> None:
        # Whatever the library does by itself, so that each test says what it is about.
        connection = await asyncpg.connect(url, server_settings={"search_path": "pg_catalog"})
        try:
            await migrate(connection)
            await connection.execute("select meshhook.create_queue('jobs')")
            await connection.execute("select meshhook.create_queue('other')")
        finally:
            await connection.close()

    url = databases.create(template=hostile_template)
    databases.run(prepare(url))
    return url.rpartition("/")[2]


@pytest.fixture
def hostile_url(databases: Databases, hostile_template: str) -> Iterator[str]:
    """The URL of a database without MeshHook, with hostile objects."""
    url = databases.create(template=hostile_template)
    yield url
    databases.drop(url)


@pytest.fixture
def hostile_queues_url(databases: Databases, hostile_queues_template: str) -> Iterator[str]:
    """The URL of one with MeshHook and the queues `jobs` and `other`."""
    url = databases.create(template=hostile_queues_template)
    yield url
    databases.drop(url)


@pytest.fixture
async def hostile(hostile_url: str) -> AsyncIterator[Connection]:
    """A superuser's connection to it, with the search_path that PostgreSQL gives everybody."""
    connection = await asyncpg.connect(hostile_url)
    yield connection
    await connection.close()


@pytest.fixture(params=["our path", "the path of everybody", "behind a pooler"])
def way(request: pytest.FixtureRequest, hostile_queues_url: str) -> Iterator[Way]:
    """How to connect to that database: with sessions whose path is ours, and with others."""
    if request.param == "our path":
        yield Way(hostile_queues_url, is_pooled=False)
    elif request.param == "the path of everybody":
        yield Way(f'{hostile_queues_url}?search_path="$user",public', is_pooled=False)
    else:
        with (
            server_directory() as folder,
            pgbouncer(folder, hostile_queues_url, pool_size=4) as pooler,
        ):
            yield Way(pooler.url(hostile_queues_url), is_pooled=True)
