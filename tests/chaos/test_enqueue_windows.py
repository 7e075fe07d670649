"""The moments in which an answer to a producer may get lost: what it is told is true."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from meshhook.errors import DatabaseUnavailableError, UncertainCommitError
from support.chaos.counts import CLEAN
from support.chaos.window import Window
from support.proxy import Proxy
from support.waiting import eventually

MANY = pytest.mark.parametrize("count", [1, 3])
INSERT = "insert into effects (run_id) values ($1)"


@pytest.fixture
async def pool(proxied_url: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    """A pool of one connection through the proxy."""
    settings = {"application_name": "producer"}
    pool = await asyncpg.create_pool(proxied_url, min_size=1, max_size=1, server_settings=settings)
    yield pool
    pool.terminate()


async def enqueue(
    window: Window, queue: QueueService[Any], count: int, prefix: str = "job"
) -> None:
    """Enqueue jobs, one by itself and several in one call, and note what the producer is told."""
    jobs = [{"run_id": f"{prefix}{number}", "payload": {}} for number in range(count)]
    for job in jobs:
        window.ledger.note("attempted", str(job["run_id"]), "ok")
    event = "confirmed"
    try:
        if count == 1:
            await queue.enqueue(jobs[0])
        else:
            await queue.enqueue_many(jobs)
    except UncertainCommitError:
        event = "uncertain"
    except DatabaseUnavailableError:
        event = "refused"
    for job in jobs:
        window.ledger.note(event, str(job["run_id"]))


async def warm_up(
    window: Window, queue: QueueService[Any], pool: asyncpg.Pool[Any], count: int
) -> None:
    """Enqueue something, and wait until the connection is back in its pool."""
    await enqueue(window, queue, count, "warm")
    await eventually(lambda: pool.get_idle_size() == 1)


async def run_all(window: Window) -> None:
    """Let a worker do what is there."""

    async def succeed(_: Job[Any]) -> None:
        """Do nothing."""

    async with window.worker(succeed):
        await window.all_ended()


@MANY
async def test_the_answer_of_an_enqueue_is_lost(
    window: Window, pool: asyncpg.Pool[Any], proxy: Proxy, count: int
) -> None:
    """The jobs are stored, once, and the producer is told that nobody knows."""
    async with QueueService[Any](pool, "jobs") as queue:
        await warm_up(window, queue, pool, count)
        assert proxy.lose_answers("producer") == 1
        asked = asyncio.create_task(enqueue(window, queue, count))
        await eventually(lambda: window.holds(2 * count))
        proxy.reset("producer")
        await asked
    assert len(window.noted("uncertain")) == count
    await run_all(window)
    assert len(window.ended()) == 2 * count
    assert window.counts() == CLEAN


@MANY
async def test_an_enqueue_is_cut_off_before_it_arrives(
    window: Window, pool: asyncpg.Pool[Any], proxy: Proxy, count: int
) -> None:
    """Nothing is stored; the producer is told that nobody knows, since it may have been."""
    async with QueueService[Any](pool, "jobs") as queue:
        await warm_up(window, queue, pool, count)
        assert proxy.swallow("producer") == 1
        asked = asyncio.create_task(enqueue(window, queue, count))
        await eventually(lambda: proxy.swallowed_bytes)
        proxy.reset("producer")
        await asked
    assert len(window.noted("uncertain")) == count
    await run_all(window)
    assert len(window.ended()) == count
    assert window.counts() == CLEAN


async def test_nothing_is_stored_while_the_database_is_away(
    window: Window, pool: asyncpg.Pool[Any], proxy: Proxy
) -> None:
    """An enqueue that could not begin is refused for certain, and may be repeated."""
    async with QueueService[Any](pool, "jobs") as queue:
        await warm_up(window, queue, pool, 1)
        proxy.refuse()
        await enqueue(window, queue, 1)
        proxy.accept()
    assert len(window.noted("refused")) + len(window.noted("uncertain")) == 1
    await run_all(window)
    assert window.counts() == CLEAN


@pytest.mark.parametrize("is_committed", [False, True])
async def test_the_answer_to_a_producers_commit_is_lost(
    window: Window, pool: asyncpg.Pool[Any], proxy: Proxy, is_committed: bool
) -> None:
    """A job and what was written with it are both there or neither is."""
    async with QueueService[Any](pool, "jobs") as queue:
        await warm_up(window, queue, pool, 1)
        window.ledger.note("attempted", "job", "with-effect")
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await connection.execute(INSERT, "job")
            await queue.enqueue({"run_id": "job", "payload": {}}, connection=connection)
            if is_committed:
                proxy.lose_answers("producer")
            else:
                proxy.swallow("producer")
            committing = asyncio.create_task(transaction.commit())
            if is_committed:
                await eventually(lambda: window.holds(2))
            proxy.reset("producer")
            with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
                await committing
        window.ledger.note("uncertain", "job")
    await run_all(window)
    assert len(window.ended()) == 1 + is_committed
    assert window.counts() == CLEAN
