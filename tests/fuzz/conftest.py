"""One event loop and one database for all examples of a property."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest

from meshhook import Database
from support.databases import Databases
from support.fuzzing import CALL_TIMEOUT_SECONDS, FACTOR

Run = Callable[[Awaitable[Any]], Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the long form its time."""
    for item in items:
        if FACTOR > 1 and item.path.parent.name == "fuzz":
            item.add_marker(pytest.mark.timeout(7_200))


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """Waits for something in one event loop of the module, and fails if it hangs."""
    with asyncio.Runner() as runner:

        async def limited(work: Awaitable[Any]) -> Any:
            async with asyncio.timeout(CALL_TIMEOUT_SECONDS):
                return await work

        yield lambda work: runner.run(limited(work))


@pytest.fixture(scope="module")
def shared_url(databases: Databases, template_of_day: Callable[[date], str]) -> Iterator[str]:
    """The URL of a migrated database for the tests of a module."""
    url = databases.create(template=template_of_day(datetime.now(UTC).date()))
    yield url
    databases.drop(url)


@pytest.fixture(scope="module")
def database(run: Run, shared_url: str) -> Iterator[Database]:
    """That database, with the empty queue `jobs`."""
    database = run(Database.connect(shared_url, max_size=2))
    run(database.fetch("select meshhook.create_queue('jobs')"))
    yield database
    run(database.close())
