"""A URL wherever a database is taken: opened when it is needed, and closed again."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    Database,
    DatabaseUnavailableError,
    DLQService,
    InvalidSettingError,
    QueueExporter,
    QueueService,
    create_queue,
    drop_queue,
    get_queue_config,
    get_queue_snapshot,
    list_queue_scaling,
    list_queues,
    list_workers,
    migrate,
    set_queue_config,
)
from support.waiting import eventually

AWAY = "postgresql://nobody@127.0.0.1:1/none"


async def sessions(connection: asyncpg.Connection[Any]) -> int:
    """Count the other connections to the database of the test."""
    count: int = await connection.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and application_name = 'meshhook'"
    )
    return count


async def are_closed(connection: asyncpg.Connection[Any]) -> bool:
    """Say whether no connection to the database of the test is left."""
    return await sessions(connection) == 0


async def test_every_function_takes_a_url(
    database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """By position or by name; nothing stays open."""
    assert (await migrate(database_url)).applied == ()
    assert await create_queue(database_url, "jobs")
    assert not await create_queue(database=database_url, queue="jobs")
    await set_queue_config(database_url, "jobs", max_retry_attempts=7)
    assert (await get_queue_config(database_url, "jobs")).max_retry_attempts == 7
    assert (await get_queue_snapshot(database_url, "jobs")).ready == 0
    assert [each.queue for each in await list_queues(database_url)] == ["jobs"]
    assert await list_workers(database_url) == []
    assert await list_queue_scaling(database_url) == []
    assert await drop_queue(database_url, "jobs")
    await eventually(lambda: are_closed(connection))


async def test_every_service_takes_a_url(
    database_url: str, connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """Its connections are opened when it needs them, and closed with it."""
    queue = QueueService[Any](database_url, queue_name)
    assert await sessions(connection) == 0
    async with queue, DLQService(database_url, queue_name) as dead_letters:
        await asyncio.gather(*(queue.enqueue({"n": n}) for n in range(20)))
        job = await queue.dequeue()
        assert job is not None
        assert await dead_letters.move_to_dead_letter(job, "no") == 1
        assert 2 <= await sessions(connection) <= 8
    await eventually(lambda: are_closed(connection))
    async with QueueExporter(database_url, registry=CollectorRegistry()) as exporter:
        await exporter.collect()
        assert [row["queue"] for row in exporter.rows] == [queue_name]
    await eventually(lambda: are_closed(connection))


async def test_a_database_of_a_url_is_opened_again_after_it_was_closed(
    database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """Closing it twice, or unopened, does no harm."""
    database = Database(database_url)
    await database.close()
    for _ in range(2):
        assert await database.fetchval("select 1") == 1
        assert await sessions(connection) == 1
        await database.close()
        await database.close()
        await eventually(lambda: are_closed(connection))


def test_a_database_of_a_url_may_serve_one_event_loop_after_the_other(database_url: str) -> None:
    """It can be made before any; at one time it is open in one."""
    database = Database(database_url)

    async def use() -> Any:
        try:
            return await database.fetchval("select 1")
        finally:
            await database.close()

    assert [asyncio.run(use()) for _ in range(2)] == [1, 1]

    async def use_twice() -> None:
        await database.fetchval("select 1")
        with pytest.raises(InvalidSettingError, match="is open in another event loop"):
            await asyncio.to_thread(asyncio.run, use_there())
        await database.close()

    async def use_there() -> None:
        await database.fetchval("select 1")

    asyncio.run(use_twice())


async def test_a_wrong_url_is_refused_and_an_unreachable_one_says_so() -> None:
    """The first where the object is made, the second at its first use."""
    for source in ("http://host/name", "jobs", "postgresql://host/name?sslmode=perhaps"):
        with pytest.raises(InvalidSettingError):
            DLQService(source)
        with pytest.raises(InvalidSettingError):
            await list_queues(source)
    with pytest.raises(DatabaseUnavailableError):
        await list_queues(AWAY)
    with pytest.raises(DatabaseUnavailableError):
        await QueueService[Any](AWAY).get_config()


async def test_a_database_made_of_a_url_is_shared(database_url: str, queue_name: str) -> None:
    """Services over it use its connections, also before the first of them is opened."""
    database = Database(database_url)
    assert await DLQService(database, "jobs").list_dead_letter_jobs() == []
    assert (await QueueService[Any](database, "jobs").get_config()).queue == "jobs"
    await database.close()
