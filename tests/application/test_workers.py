"""Workers of an app inside another program: one process, all queues, one set of slots."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from meshhook import (
    App,
    DatabaseUnavailableError,
    InvalidHandlerError,
    InvalidSettingError,
    Job,
    QueueNotFoundError,
    create_queue,
    get_queue_config,
)


class Order(BaseModel):
    """The payload of these tests."""

    order_id: int


class Mail(BaseModel):
    """Another payload."""

    to: str


async def test_one_worker_serves_all_queues(app: App, pool: asyncpg.Pool[Any]) -> None:
    """Handlers of jobs, of payloads, and plain ones; a handler may enqueue for another."""
    done: asyncio.Queue[object] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    @app.job("orders", weight=3, max_retry_attempts=2)
    async def ship(job: Job[Order]) -> None:
        await send.enqueue(Mail(to=f"order {job.payload.order_id}"), run_id=job.run_id)

    @app.job("mails")
    def send(mail: Mail) -> None:
        loop.call_soon_threadsafe(done.put_nowait, mail)

    async with app.workers(concurrency=8, registry=CollectorRegistry()) as worker:
        assert worker.queues == ("orders", "mails")
        await ship.enqueue(Order(order_id=1), run_id="r1")
        assert await done.get() == Mail(to="order 1")
    assert (await get_queue_config(pool, "orders")).max_retry_attempts == 2
    rows = await pool.fetch("select queue, run_id, outcome from meshhook.job_attempts order by 1")
    assert [tuple(row) for row in rows] == [
        ("mails", "r1", "succeeded"),
        ("orders", "r1", "succeeded"),
    ]
    assert worker.get_stats().running == 0


async def test_some_queues_may_be_chosen(app: App, pool: asyncpg.Pool[Any]) -> None:
    """Only these are created and worked on."""
    app.job("orders", payload_model=Order)(lambda _: None)
    app.job("mails", payload_model=Mail)(lambda _: None)
    async with app.workers("mails", registry=CollectorRegistry()) as worker:
        assert worker.queues == ("mails",)
    assert await pool.fetchval("select array_agg(queue) from meshhook.queue_config") == ["mails"]
    assert app.weights({"orders": 5}) == {"orders": 5}
    with pytest.raises(InvalidSettingError, match="'orders' is named twice"):
        app.worker(["orders", "orders"])
    with pytest.raises(InvalidHandlerError, match="no handler of queue 'others'"):
        async with app.workers(["orders", "others"]):
            pass


async def test_workers_do_not_start_where_they_cannot_work(database_url: str) -> None:
    """A queue is missing, or the database is; the block does not begin."""
    app = App(database_url, create_queues=False)
    app.job("orders", payload_model=Order)(lambda _: None)
    for url, error in (
        (database_url, QueueNotFoundError),
        ("postgresql://nobody@127.0.0.1:1/none", DatabaseUnavailableError),
    ):
        app.use_database(url)
        with pytest.raises(error):
            async with app.workers(registry=CollectorRegistry()):
                pytest.fail("the block began")


async def test_jobs_that_run_finish_before_the_app_closes(app: App, queue_name: str) -> None:
    """A handler may enqueue until it ends."""
    started = asyncio.Event()
    may_end = asyncio.Event()

    @app.job(queue_name)
    async def handle(number: int) -> None:
        started.set()
        await may_end.wait()
        if number:
            await handle.enqueue(number - 1, delay=60)

    async with app.workers(registry=CollectorRegistry()) as worker:
        await handle.enqueue(1)
        await started.wait()
        asyncio.get_running_loop().call_later(0.05, may_end.set)
    stats = worker.get_stats()
    assert (stats.succeeded, stats.running) == (1, 0)


async def test_a_web_server_enqueues_and_works(app: App, pool: asyncpg.Pool[Any]) -> None:
    """FastAPI's lifespan holds the workers; a request enqueues for them."""
    shipped: asyncio.Queue[int] = asyncio.Queue()

    @app.job("orders")
    async def ship(job: Job[Order]) -> None:
        shipped.put_nowait(job.payload.order_id)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with app.workers(concurrency=10, registry=CollectorRegistry()):
            yield

    web = FastAPI(lifespan=lifespan)

    @web.post("/orders")
    async def create(order: Order) -> dict[str, int]:
        return {"msg_id": await ship.enqueue(order)}

    transport = httpx.ASGITransport(app=web)
    for number in (1, 2):  # a server that is started again
        async with (
            web.router.lifespan_context(web),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        ):
            answer = await client.post("/orders", json={"order_id": number})
            assert (answer.status_code, answer.json()) == (200, {"msg_id": number})
            assert await shipped.get() == number
    assert await pool.fetchval("select count(*) from pgmq.q_orders") == 0


async def test_a_web_server_may_enqueue_alone(app: App, pool: asyncpg.Pool[Any]) -> None:
    """`async with app` opens the database; the workers are elsewhere."""
    await create_queue(pool, "orders")

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with app:
            yield

    web = FastAPI(lifespan=lifespan)

    @web.post("/orders")
    async def create(order: Order) -> dict[str, int]:
        return {"msg_id": await ship.enqueue(order)}

    async with (
        web.router.lifespan_context(web),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=web), base_url="http://shop") as client,
    ):
        answers = await asyncio.gather(
            *(client.post("/orders", json={"order_id": number}) for number in range(10))
        )
    assert sorted(answer.json()["msg_id"] for answer in answers) == list(range(1, 11))
    assert await pool.fetchval("select count(*) from pgmq.q_orders") == 10
