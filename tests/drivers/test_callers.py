"""Enqueuing over connections of other drivers than asyncpg: in the caller's transaction."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import psycopg
import pytest

from meshhook import (
    App,
    DatabaseError,
    DatabaseUnavailableError,
    Job,
    JobTooLargeError,
    MeshHookError,
    QueueNotFoundError,
    QueueService,
    SyncQueueService,
    create_queue,
    set_queue_config,
)
from meshhook.unique import ServiceOptions
from support import conformance
from support.callers import CALLERS, Caller
from support.conformance import Case
from support.django_databases import django_database

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Service: TypeAlias = "QueueService[Any]"

UNREACHABLE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture(params=CALLERS)
async def caller(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Caller]:
    """A program with a connection of each kind."""
    async with CALLERS[request.param](database_url) as caller:
        yield caller


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """The service of queue `orders`, with no other connection than its caller's."""
    async with QueueService[Any](UNREACHABLE, "orders") as service:
        yield service


@pytest.fixture
async def orders(connection: Connection) -> None:
    """The queue `orders`."""
    await create_queue(connection, "orders")


async def messages(connection: Connection) -> list[str]:
    """Return what others see in the queue."""
    rows = await connection.fetch("select message::text as m from pgmq.q_orders order by msg_id")
    return [row["m"] for row in rows]


async def test_a_caller_conforms(caller: Caller, connection: Connection) -> None:
    """What is stored and what is refused is the same with every driver, case by case."""
    for parameter in conformance.cases("library"):
        case: Case = parameter.values[0]
        try:
            await play(caller, connection, case)
        except BaseException as error:
            error.add_note(f"case: {parameter.id}")
            raise


async def play(caller: Caller, connection: Connection, case: Case) -> None:
    """Enqueue what a case says, and check what came of it."""
    await conformance.prepare(connection, case)
    begun_at = await conformance.server_time(connection)

    async def enqueue() -> list[int]:
        options: ServiceOptions = {
            "headers": case.headers,
            "key": case.key,
            "connection": caller.connection,
        }
        async with QueueService[Any](UNREACHABLE, case.queue, encryption=case.ring) as queue:
            return await conformance.enqueue(queue, case, options)

    if case.error is None:
        msg_ids = await enqueue()
        await conformance.check_nothing_stored(connection)
        await caller.commit()
        await conformance.check_stored(connection, case, msg_ids, begun_at)
        return
    with pytest.raises(MeshHookError) as caught:
        await enqueue()
    conformance.check_refusal(case, caught.value)
    await caller.commit()
    await conformance.check_nothing_stored(connection)


@pytest.mark.usefixtures("orders")
async def test_a_rollback_takes_the_jobs_back(
    caller: Caller, service: Service, connection: Connection
) -> None:
    """Also when the enqueue is the first statement of the transaction."""
    await service.enqueue(1, connection=caller.connection)
    await service.enqueue_many([2, 3], connection=caller.connection)
    await caller.rollback()
    assert await messages(connection) == []

    await service.enqueue(4, connection=caller.connection)
    await caller.commit()
    assert await messages(connection) == ["4"]


@pytest.mark.usefixtures("orders")
async def test_a_savepoint_takes_back_what_came_after_it(
    caller: Caller, service: Service, connection: Connection
) -> None:
    """And nothing else."""
    await service.enqueue(1, connection=caller.connection)
    await caller.execute("savepoint s")
    await service.enqueue(2, connection=caller.connection)
    await caller.execute("rollback to savepoint s")
    await service.enqueue(3, connection=caller.connection)
    await caller.commit()
    assert await messages(connection) == ["1", "3"]


@pytest.mark.usefixtures("orders")
async def test_many_jobs_are_part_of_the_transaction(
    caller: Caller, service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many statements they take."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    ids = await service.enqueue_many(range(7), connection=caller.connection)
    assert await messages(connection) == []
    await caller.commit()
    assert (ids, await messages(connection)) == (list(range(1, 8)), [str(n) for n in range(7)])


@pytest.mark.usefixtures("orders")
async def test_what_is_refused_before_it_is_sent_leaves_the_transaction_usable(
    caller: Caller, service: Service, connection: Connection
) -> None:
    """A job that is too large, and a queue that does not exist."""
    await set_queue_config(connection, "orders", max_payload_bytes=1024)
    await service.enqueue(1, connection=caller.connection)
    with pytest.raises(JobTooLargeError):
        await service.enqueue("x" * 2000, connection=caller.connection)
    async with QueueService[Any](UNREACHABLE, "missing") as missing:
        with pytest.raises(QueueNotFoundError):
            await missing.enqueue(1, connection=caller.connection)
    await service.enqueue(2, connection=caller.connection)
    await caller.commit()
    assert await messages(connection) == ["1", "2"]


@pytest.mark.usefixtures("orders")
async def test_a_failed_transaction_is_left_to_the_caller(
    caller: Caller, service: Service, connection: Connection
) -> None:
    """An enqueue says so, and works again after the caller's rollback."""
    with pytest.raises(Exception, match="division by zero"):
        await caller.execute("select 1 / 0")
    with pytest.raises(DatabaseError, match="this transaction has failed already"):
        await service.enqueue(1, connection=caller.connection)
    await caller.rollback()
    await service.enqueue(2, connection=caller.connection)
    await caller.commit()
    assert await messages(connection) == ["2"]


@pytest.mark.usefixtures("orders")
async def test_a_connection_that_breaks_is_an_unavailable_database(
    caller: Caller, service: Service, connection: Connection
) -> None:
    """As with asyncpg, at the statement that notices and at those that follow."""
    await service.enqueue(1, connection=caller.connection)
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    for _ in range(2):
        with pytest.raises(DatabaseUnavailableError):
            await service.enqueue(2, connection=caller.connection)
    assert await messages(connection) == []


@pytest.mark.usefixtures("orders")
async def test_an_app_takes_the_connection_too(caller: Caller, connection: Connection) -> None:
    """`App.enqueue` and the handler's, with all that they do."""
    app = App(UNREACHABLE)

    @app.job("orders")
    async def handle(job: Job[Any]) -> None: ...

    await app.enqueue("orders", 1, run_id="run-1", connection=caller.connection)
    await handle.enqueue_many([2], connection=caller.connection)
    await caller.commit()
    assert await messages(connection) == ['{"run_id": "run-1", "payload": 1}', "2"]
    await app.close()


async def test_the_documentation_enqueues(
    database_url: str, connection: Connection, service: Service
) -> None:
    """Each function that docs/producers.md shows stores its job with its invoice."""
    await create_queue(connection, "orders")
    await connection.execute("create table invoices (n int)")
    text = (Path(__file__).parents[2] / "docs" / "producers.md").read_text()
    shown: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, shown)  # noqa: S102
    async with await psycopg.AsyncConnection.connect(database_url) as own:
        await shown["create_invoice"](service, own)
    async with CALLERS["sqlalchemy_async_session"](database_url) as caller:
        await shown["create_invoice_in_session"](service, caller.connection)
        await caller.commit()
    shown["create_invoice_in_script"](database_url)
    with psycopg.connect(database_url) as blocking:
        shown["create_invoice_in_thread"](SyncQueueService[Any](queue="orders"), blocking)

    def in_django() -> None:
        with django_database(database_url):
            shown["create_invoice_in_django"]()

    await asyncio.to_thread(in_django)
    assert await messages(connection) == [f'{{"invoice": {n}}}' for n in (12, 13, 14, 15, 16)]
    assert await connection.fetchval("select array_agg(n) from invoices") == [12, 13, 15, 16]


@pytest.mark.parametrize("name", ["psycopg", "sqlalchemy", "django"])
def test_a_driver_is_imported_only_by_its_user(name: str) -> None:
    """Neither the library nor an enqueue over another driver's connection loads it."""
    code = f"""
import asyncio, sys
sys.modules[{name!r}] = None  # an import of it fails
import meshhook
from meshhook import App, QueueService, Worker
from meshhook.drivers.lending import driver_connection
assert asyncio.run(driver_connection(object())) is None
print([each for each in sys.modules if each.startswith("meshhook.drivers.{name}")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
