"""Enqueuing by an app: what is stored, in which transaction, and into which queue."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import BaseModel

from meshhook import (
    App,
    Database,
    InvalidHandlerError,
    InvalidJobError,
    InvalidSettingError,
    Job,
    QueueNotFoundError,
    QueueService,
    WorkflowJob,
    create_queue,
    drop_queue,
    get_queue_config,
    set_queue_config,
)
from meshhook.role_kinds import RoleKind
from support.roles import Roles

Pool = asyncpg.Pool


class Order(BaseModel):
    """The payload of these tests."""

    order_id: int


async def stored(pool: Pool[Any], queue_name: str = "orders") -> list[Any]:
    """Return the bodies of a queue's messages, by id."""
    rows = await pool.fetch(f"select message from pgmq.q_{queue_name} order by msg_id")
    return [json.loads(row["message"]) for row in rows]


async def test_a_payload_is_stored_as_the_handler_reads_it(app: App, pool: Pool[Any]) -> None:
    """With the identifiers that are given, and in the queue of its handler."""

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    run = UUID(int=1)
    msg_ids = [
        await ship.enqueue(Order(order_id=1)),
        await ship.enqueue(Order(order_id=2), run_id="r1"),
        await ship.enqueue(Order(order_id=3), run_id=run, workflow_id="w", project_id="p"),
        await app.enqueue("orders", {"order_id": 4}, project_id="p"),
        *await ship.enqueue_many([Order(order_id=5), Order(order_id=6)], run_id="r2"),
    ]
    assert msg_ids == [1, 2, 3, 4, 5, 6]
    assert await stored(pool) == [
        {"order_id": 1},
        {"run_id": "r1", "payload": {"order_id": 2}},
        {"run_id": str(run), "workflow_id": "w", "project_id": "p", "payload": {"order_id": 3}},
        {"project_id": "p", "payload": {"order_id": 4}},
        {"run_id": "r2", "payload": {"order_id": 5}},
        {"run_id": "r2", "payload": {"order_id": 6}},
    ]
    async with QueueService[Any](pool, "orders", payload_model=Order) as queue:
        jobs = [await queue.dequeue() for _ in msg_ids]
    assert [job and (job.payload.order_id, job.run_id) for job in jobs] == [
        (1, None),
        (2, "r1"),
        (3, str(run)),
        (4, None),
        (5, "r2"),
        (6, "r2"),
    ]


async def test_a_payload_that_looks_like_an_envelope_is_put_into_one(
    app: App, pool: Pool[Any]
) -> None:
    """The handler gets all of it."""

    @app.job("orders")
    async def handle(payload: dict[str, Any]) -> None: ...

    payload = {"run_id": "mine", "payload": {"a": 1}}
    await handle.enqueue(payload)
    async with QueueService[Any](pool, "orders") as queue:
        job = await queue.dequeue()
    assert job is not None
    assert (job.payload, job.run_id) == (payload, None)


async def test_a_whole_workflow_job_is_taken(app: App, pool: Pool[Any]) -> None:
    """Its payload is checked against the handler's model; it has identifiers of its own."""

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    def job(payload: object) -> WorkflowJob:
        return WorkflowJob(run_id="r", workflow_id="w", project_id="p", payload=payload)

    await ship.enqueue(job({"order_id": 1}))
    assert [body["run_id"] for body in await stored(pool)] == ["r"]
    with pytest.raises(InvalidJobError, match="order_id"):
        await ship.enqueue(job({}))
    with pytest.raises(InvalidJobError, match="run_id was given with a WorkflowJob"):
        await ship.enqueue(job({"order_id": 1}), run_id="other")


@pytest.mark.parametrize("run_id", ["", "x" * 201, 3])
async def test_an_identifier_is_text_or_a_uuid(app: App, run_id: Any) -> None:
    """Of 1 to 200 characters."""
    with pytest.raises(
        InvalidJobError, match="run_id is a string of 1 to 200 characters or a UUID"
    ):
        await app.enqueue("orders", {}, run_id=run_id)


async def test_a_payload_that_the_handler_would_refuse_is_refused(
    app: App, pool: Pool[Any]
) -> None:
    """One of many refuses all."""

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    with pytest.raises(InvalidJobError, match="order_id"):
        await app.enqueue("orders", {"order": 1})
    with pytest.raises(InvalidJobError, match="order_id"):
        await app.enqueue_many("orders", [Order(order_id=1), {}], run_id="r")
    with pytest.raises(InvalidJobError, match="expected a list of jobs, got dict"):
        await app.enqueue_many("orders", {"order_id": 1})
    assert await stored(pool) == []


async def test_a_delay_is_in_seconds_or_a_timedelta(app: App, pool: Pool[Any]) -> None:
    """Anything else is refused."""

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    await ship.enqueue(Order(order_id=1), delay=3600)
    await ship.enqueue_many([Order(order_id=1)], delay=timedelta(hours=1))
    assert await pool.fetchval("select count(*) from pgmq.q_orders where vt > now()") == 2
    with pytest.raises(InvalidSettingError, match="a delay is 0 to"):
        await ship.enqueue(Order(order_id=1), delay=-1)


async def test_a_job_may_belong_to_the_callers_transaction(app: App, pool: Pool[Any]) -> None:
    """It is there if and only if that transaction commits, also in a queue that was missing."""

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    async with pool.acquire() as connection:
        undone = connection.transaction()
        await undone.start()
        await ship.enqueue(Order(order_id=1), connection=connection)
        await undone.rollback()
        async with connection.transaction():
            await ship.enqueue(Order(order_id=2), connection=connection, run_id="r")
            await ship.enqueue_many([Order(order_id=3)], connection=connection)
            assert await stored(pool) == []
    bodies = await stored(pool)
    assert [body.get("payload", body)["order_id"] for body in bodies] == [2, 3]


async def test_a_declared_queue_is_created_with_its_settings(app: App, pool: Pool[Any]) -> None:
    """At the first job; however many come at once, it is created once."""

    @app.job("orders", max_retry_attempts=9, job_timeout_seconds=None, visibility_timeout_seconds=5)
    async def ship(job: Job[Order]) -> None: ...

    await asyncio.gather(*(ship.enqueue(Order(order_id=i)) for i in range(20)))
    config = await get_queue_config(pool, "orders")
    assert config.max_retry_attempts == 9
    assert config.job_timeout_seconds is None
    assert config.visibility_timeout_seconds == 5
    assert config.retry_jitter == 0.5
    assert len(await stored(pool)) == 20


async def test_the_settings_of_a_queue_that_exists_are_left_alone(
    app: App, pool: Pool[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The log says where they differ from what stands beside the handler."""

    @app.job("orders", max_retry_attempts=9, retry_jitter=0.5)
    async def ship(job: Job[Order]) -> None: ...

    await create_queue(pool, "orders")
    await set_queue_config(pool, "orders", max_retry_attempts=3)
    caplog.set_level("INFO", logger="meshhook")
    await app.create_missing_queues()
    await ship.enqueue(Order(order_id=1))
    assert (await get_queue_config(pool, "orders")).max_retry_attempts == 3
    [said] = [each.getMessage() for each in caplog.records if "settings" in each.getMessage()]
    assert said.endswith("queue=orders max_retry_attempts=3")


async def test_apps_that_start_at_once_create_a_queue_once(
    database_url: str, pool: Pool[Any]
) -> None:
    """The settings of one of them hold; nobody fails."""
    apps = [App(database_url) for _ in range(4)]
    for number, app in enumerate(apps):
        app.job("orders", payload_model=Order, max_retry_attempts=6 + number)(lambda _: None)
    await asyncio.gather(*(app.create_missing_queues() for app in apps))
    for app in apps:
        await app.close()
    assert (await get_queue_config(pool, "orders")).max_retry_attempts in range(6, 10)


async def test_a_queue_that_is_dropped_meanwhile_stays_away(app: App, pool: Pool[Any]) -> None:
    """A producer that runs does not bring it back; an operator meant it."""

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    await ship.enqueue(Order(order_id=1))
    await drop_queue(pool, "orders")
    with pytest.raises(QueueNotFoundError, match="'orders'"):
        await ship.enqueue(Order(order_id=2))
    await app.create_missing_queues()
    assert await ship.enqueue(Order(order_id=3)) == 1


async def test_a_queue_that_nobody_declares_must_be_there(app: App, pool: Pool[Any]) -> None:
    """A name that is misspelt makes no queue."""
    with pytest.raises(QueueNotFoundError, match="'ordres'"):
        await app.enqueue("ordres", {})
    await create_queue(pool, "others")
    assert await app.enqueue("others", {"any": "JSON"}) == 1


async def test_an_app_may_leave_queues_to_others(database_url: str) -> None:
    """With create_queues=False a missing queue is an error."""
    app = App(database_url, create_queues=False)
    app.job("orders", payload_model=Order)(lambda _: None)
    async with app:
        with pytest.raises(QueueNotFoundError):
            await app.enqueue("orders", Order(order_id=1))


async def test_a_role_that_may_not_create_queues_is_told_of_the_missing_one(
    database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """With the command for whoever may; where the queue is there, the role enqueues."""
    async with Roles(database_url, connection) as roles:
        app = App(roles.url(await roles.make(RoleKind.PRODUCER)))
        app.job("orders", payload_model=Order)(lambda _: None)
        async with app:
            with pytest.raises(QueueNotFoundError, match="meshhook queue create orders"):
                await app.enqueue("orders", Order(order_id=1))
            await connection.execute("select meshhook.create_queue('orders')")
            assert await app.enqueue("orders", Order(order_id=1)) == 1


async def test_what_the_caller_has_opened_serves_to_enqueue(
    pool: Pool[Any], queue_name: str
) -> None:
    """A pool, a connection or a Database; it stays open, and no worker can be made of it."""
    async with pool.acquire() as connection:
        for source in (pool, connection, Database(pool)):
            app = App(source)
            app.job(queue_name, payload_model=Order)(lambda _: None)
            async with app:
                await app.enqueue(queue_name, Order(order_id=1))
            with pytest.raises(InvalidSettingError, match="a worker opens its own connections"):
                app.worker()
    assert len(await stored(pool, queue_name)) == 3


def test_an_app_without_handlers_has_no_worker() -> None:
    """The error says what is missing; another queue's name is an error too."""
    app = App("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(InvalidHandlerError, match="has no handlers; declare one with"):
        app.worker()
    app.job("orders", payload_model=Order)(lambda _: None)
    with pytest.raises(InvalidHandlerError, match="no handler of queue 'mails'; it has: orders"):
        app.worker("mails")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"database": "http://host/name"}, "must start with postgresql://"),
        ({"database": 3}, "expected an asyncpg pool or connection, got int"),
        ({"concurrency": 0}, "concurrency is a whole number from 1 to 10000, got 0"),
        ({"pool_size": 0}, "pool_size is a whole number from 1 to 1000, got 0"),
        ({"create_queues": "yes"}, "create_queues"),
    ],
)
def test_a_wrong_argument_of_an_app_is_named(arguments: dict[str, Any], message: str) -> None:
    """Where the app is made."""
    with pytest.raises(InvalidSettingError, match=message):
        App(**arguments)


async def test_without_a_database_the_error_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes when the database is needed: importing the app needs none."""
    monkeypatch.delenv("MESHHOOK_DATABASE_URL", raising=False)
    app = App()
    with pytest.raises(InvalidSettingError, match="set MESHHOOK_DATABASE_URL, or pass a URL: App"):
        await app.enqueue("orders", {})


async def test_the_environment_names_the_database(
    monkeypatch: pytest.MonkeyPatch, database_url: str, pool: Pool[Any], queue_name: str
) -> None:
    """As it is when the database is first needed."""
    app = App()
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", database_url)
    async with app:
        assert await app.enqueue(queue_name, {"a": 1}) == 1
    assert await stored(pool, queue_name) == [{"a": 1}]
