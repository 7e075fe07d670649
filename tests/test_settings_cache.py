"""A queue's settings are read once for all who wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.errors import QueueNotFoundError
from meshhook.postgres.database import Database
from meshhook.settings_cache import SettingsCache
from support.waiting import eventually, lock_waiters

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture
async def own(database_url: str) -> AsyncIterator[Connection]:
    """A connection to `database_url` that the test gives to what it tests."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@asynccontextmanager
async def reads_held_up(connection: Connection) -> AsyncIterator[None]:
    """Let all that read settings wait until the end of the block."""
    async with connection.transaction():
        await connection.execute("lock table meshhook.queue_config")
        yield


async def test_all_who_wait_go_on_together(own: Connection, connection: Connection) -> None:
    """No waiter is a turn of the event loop behind another."""
    cache = SettingsCache(Database(own), "jobs")
    turn, turns = 0, []

    async def wait() -> None:
        await cache.fresh()
        turns.append(turn)

    async with reads_held_up(connection):
        tasks = [asyncio.create_task(wait()) for _ in range(64)]
        await eventually(lambda: lock_waiters(connection))
    while not all(task.done() for task in tasks):
        turn += 1
        await asyncio.sleep(0)
    assert len(turns) == 64
    assert len(set(turns)) == 1


async def test_one_who_leaves_does_not_cost_the_others(
    own: Connection, connection: Connection
) -> None:
    """The one who came first is cancelled; the others get the settings."""
    cache = SettingsCache(Database(own), "jobs")
    async with reads_held_up(connection):
        first, *others = [asyncio.create_task(cache.fresh()) for _ in range(3)]
        await eventually(lambda: lock_waiters(connection))
        first.cancel()
        await asyncio.wait([first])
    assert first.cancelled()
    assert {config.queue for config in await asyncio.gather(*others)} == {"jobs"}


async def test_the_last_who_leaves_ends_the_read(own: Connection, connection: Connection) -> None:
    """Nobody waits for it any more, and the caller may use the connection for something else."""
    cache = SettingsCache(Database(own), "jobs")
    async with reads_held_up(connection):
        tasks = [asyncio.create_task(cache.fresh()) for _ in range(3)]
        await eventually(lambda: lock_waiters(connection))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert await own.fetchval("select 1") == 1
    assert (await cache.fresh()).queue == "jobs"


async def test_all_who_wait_are_told_of_an_error(own: Connection, connection: Connection) -> None:
    """The queue is dropped while they wait; the read that failed is not repeated by each."""
    cache = SettingsCache(Database(own), "jobs")
    statements: list[str] = []
    own.add_query_logger(lambda record: statements.append(record.query))
    async with reads_held_up(connection):
        tasks = [asyncio.create_task(cache.fresh()) for _ in range(8)]
        await eventually(lambda: lock_waiters(connection))
        await connection.execute("delete from meshhook.queue_config where queue = 'jobs'")
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {QueueNotFoundError}
    await eventually(lambda: statements)
    assert sum("queue_config" in sql for sql in statements) < 8


async def test_closing_waits_for_who_waits(database_url: str, connection: Connection) -> None:
    """A service that is closed while a job waits for settings stores the job."""
    service = QueueService[Any](database_url, "jobs")
    async with reads_held_up(connection):
        task = asyncio.create_task(service.enqueue({}))
        await eventually(lambda: lock_waiters(connection))
        closing = asyncio.create_task(service._settings.close())
        await asyncio.sleep(0)
        assert not closing.done()
    await closing
    assert await task == 1
    await service.close()
