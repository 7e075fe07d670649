"""When an app opens its database, when it closes it, and in which event loop."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest

from meshhook import (
    App,
    Database,
    DatabaseUnavailableError,
    DLQService,
    InvalidSettingError,
    SchemaMissingError,
)
from support.waiting import eventually


async def sessions(pool: asyncpg.Pool[Any]) -> int:
    """Count the connections that apps have to the database of the test."""
    count: int = await pool.fetchval(
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and application_name = 'meshhook'"
    )
    return count


async def is_closed(pool: asyncpg.Pool[Any]) -> bool:
    """Return whether the app has no session left."""
    return await sessions(pool) == 0


@pytest.fixture
def other_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def test_it_is_opened_when_it_is_needed_and_closed_when_told(
    app: App, pool: asyncpg.Pool[Any], queue_name: str
) -> None:
    """Closing twice does no harm; the next use opens it again."""
    await app.close()
    assert await sessions(pool) == 0
    await app.enqueue(queue_name, {})
    assert await sessions(pool) == 1
    await app.close()
    await app.close()
    assert await sessions(pool) == 0
    await app.enqueue(queue_name, {})
    assert await sessions(pool) == 1


async def test_blocks_that_overlap_share_it(
    app: App, pool: asyncpg.Pool[Any], queue_name: str
) -> None:
    """The end of the last one closes it, after what is being enqueued."""
    async with app:
        async with app:
            await app.enqueue(queue_name, {})
        assert await sessions(pool) == 1
        sending = asyncio.create_task(app.enqueue(queue_name, {}))
        await asyncio.sleep(0)
    assert await sessions(pool) == 0
    assert await sending == 2


async def test_what_comes_while_it_closes_is_stored_or_refused(
    app: App, pool: asyncpg.Pool[Any], queue_name: str
) -> None:
    """Nothing opens a database that nobody would close."""
    await app.enqueue(queue_name, {})
    closing = asyncio.create_task(app.close())
    done = await asyncio.gather(
        *(app.enqueue(queue_name, {}) for _ in range(5)), return_exceptions=True
    )
    await closing
    refused = [each for each in done if isinstance(each, BaseException)]
    assert all("another task has closed the app" in str(each) for each in refused)
    await app.close()
    assert await sessions(pool) == 0
    stored = await pool.fetchval(f"select count(*) from pgmq.q_{queue_name}")
    assert stored == 6 - len(refused)


async def test_a_block_begins_only_where_the_database_can_be_used(
    empty_database_url: str,
) -> None:
    """It may be away, or without the tables; the app is closed again."""
    for url, error in (
        (empty_database_url, SchemaMissingError),
        ("postgresql://nobody@127.0.0.1:1/none", DatabaseUnavailableError),
    ):
        app = App(url)
        with pytest.raises(error):
            await app.__aenter__()
        app.use_database(empty_database_url)  # refused while it is open


def test_the_end_of_the_event_loop_closes_it(database_url: str) -> None:
    """Nobody has to: a program may enqueue one job by `asyncio.run`, again and again."""
    app = App(database_url, create_queues=True)
    app.job("orders", payload_model=int)(lambda _: None)
    ids = [asyncio.run(app.enqueue("orders", number)) for number in range(3)]
    assert ids == [1, 2, 3]

    async def until_closed() -> None:
        async with asyncpg.create_pool(database_url) as pool:
            await eventually(lambda: is_closed(pool))

    asyncio.run(until_closed())


async def test_another_event_loop_is_refused_while_it_is_open(
    app: App, queue_name: str, other_loop: asyncio.AbstractEventLoop
) -> None:
    """Whatever is asked of it there; closed here, it may be opened there."""
    await app.enqueue(queue_name, {})
    for work in (app.enqueue(queue_name, {}), app.open(), app.close(), app.__aenter__()):
        there = asyncio.run_coroutine_threadsafe(work, other_loop)
        with pytest.raises(InvalidSettingError, match="the app is open in another event loop"):
            await asyncio.wrap_future(there)
    await app.close()
    there_too = asyncio.run_coroutine_threadsafe(app.enqueue(queue_name, {}), other_loop)
    assert await asyncio.wrap_future(there_too) == 2
    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(app.close(), other_loop))


async def test_the_open_database_serves_for_the_rest(app: App, queue_name: str) -> None:
    """Dead letters and queues are asked over the app's own connections."""
    database = await app.open()
    assert isinstance(database, Database)
    assert await DLQService(database, queue_name).list_dead_letter_jobs() == []
    assert await app.open() is database


async def test_another_database_may_be_named_while_it_is_closed(
    app: App, database_url: str, queue_name: str
) -> None:
    """Not while it is open: its connections lead to the old one."""
    other = App("postgresql://nobody@127.0.0.1:1/none")
    other.use_database(database_url)
    await other.enqueue(queue_name, {})
    with pytest.raises(InvalidSettingError, match="the app is open; close it first"):
        other.use_database(None)
    await other.close()


async def test_an_app_that_is_forgotten_is_closed(
    database_url: str, pool: asyncpg.Pool[Any], queue_name: str
) -> None:
    """Its connections go when nothing refers to it any more."""
    app = App(database_url)
    await app.enqueue(queue_name, {})
    assert await sessions(pool) == 1
    del app
    gc.collect()

    await eventually(lambda: is_closed(pool))
