"""`SyncQueueService`: enqueuing from threads, scripts and forked processes."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import asyncpg
import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from meshhook import (
    DatabaseUnavailableError,
    InvalidJobError,
    InvalidSettingError,
    JobTooLargeError,
    MeshHookError,
    QueueNotFoundError,
    SyncQueueService,
    create_queue,
    set_queue_config,
)
from meshhook.drivers.lending import sync_connection
from meshhook.sync.recent_settings import RecentSettings
from support import conformance
from support.callers import CALLERS, Caller
from support.conformance import Case
from support.waiting import eventually, lock_waiters

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Service: TypeAlias = "SyncQueueService[Any]"

pytestmark = pytest.mark.usefixtures("orders")

SYNC_CALLERS = ["django", "psycopg", "sqlalchemy_connection", "sqlalchemy_session"]


@pytest.fixture
async def orders(connection: Connection) -> None:
    """The queue `orders`."""
    await create_queue(connection, "orders")


@pytest.fixture
def service(database_url: str, orders: None) -> Iterator[Service]:
    """The service of queue `orders` over a URL."""
    with SyncQueueService[Any](database_url, "orders") as service:
        yield service


async def messages(connection: Connection) -> list[str]:
    """Return what others see in the queue."""
    rows = await connection.fetch("select message::text as m from pgmq.q_orders order by msg_id")
    return [row["m"] for row in rows]


async def sessions(connection: Connection) -> int:
    """Return how many sessions the library has."""
    number: int = await connection.fetchval(
        "select count(*) from pg_stat_activity "
        "where datname = current_database() and application_name = 'meshhook'"
    )
    return number


async def play(
    case: Case,
    connection: Connection,
    source: str | None = None,
    caller: Caller | None = None,
) -> None:
    """Enqueue what a case says, and check what came of it."""
    own = None if caller is None else caller.connection
    await conformance.prepare(connection, case)
    begun_at = await conformance.server_time(connection)

    def enqueue() -> list[int]:
        with SyncQueueService[Any](source, case.queue, encryption=case.ring) as queue:
            return conformance.enqueue_sync(
                queue, case, {"headers": case.headers, "key": case.key, "connection": own}
            )

    if case.error is None:
        msg_ids = enqueue()
        if caller is not None:
            await conformance.check_nothing_stored(connection)
            await caller.commit()
        await conformance.check_stored(connection, case, msg_ids, begun_at)
        return
    with pytest.raises(MeshHookError) as caught:
        enqueue()
    conformance.check_refusal(case, caught.value)
    if not case.is_several:
        assert not hasattr(caught.value, "__notes__")
    if caller is not None:
        await caller.commit()
    await conformance.check_nothing_stored(connection)


async def test_it_conforms_over_a_url(database_url: str, connection: Connection) -> None:
    """What is stored and what is refused is the same as everywhere."""
    for parameter in conformance.cases("library"):
        await play(parameter.values[0], connection, source=database_url)


@pytest.mark.parametrize("kind", SYNC_CALLERS)
async def test_it_conforms_over_a_callers_connection(
    database_url: str, connection: Connection, kind: str
) -> None:
    """In the caller's transaction, and with no connection of its own."""
    async with CALLERS[kind](database_url) as caller:
        for parameter in conformance.cases("library"):
            await play(parameter.values[0], connection, caller=caller)


# --- Over a URL --------------------------------------------------------------------------------


async def test_threads_share_a_service(service: Service, connection: Connection) -> None:
    """Their calls share few connections, and each gets the id of its own job."""
    with ThreadPoolExecutor(16) as threads:
        ids = list(await asyncio.to_thread(threads.map, service.enqueue, range(400)))
    rows = await connection.fetch("select msg_id, message::text as message from pgmq.q_orders")
    assert {row["msg_id"]: row["message"] for row in rows} == {
        msg_id: str(n) for n, msg_id in enumerate(ids)
    }
    assert 1 <= await sessions(connection) <= 4


def test_no_event_loop_is_left_in_the_callers_thread(service: Service) -> None:
    """Neither running nor set."""
    service.enqueue(1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()
    assert [each.name for each in threading.enumerate()].count("meshhook-enqueue-orders") == 1


async def test_it_may_be_called_in_a_running_event_loop(
    service: Service, connection: Connection
) -> None:
    """It blocks the loop for as long as the statement takes."""
    assert service.enqueue(1) == 1
    assert await messages(connection) == ["1"]


async def test_it_can_be_closed_and_used_again(service: Service, connection: Connection) -> None:
    """Closing ends its thread and its sessions; doing it twice changes nothing."""
    service.enqueue(1)
    service.close()
    service.close()
    assert "meshhook-enqueue-orders" not in [each.name for each in threading.enumerate()]
    await eventually(lambda: _none(connection))
    assert service.enqueue(2) == 2


async def _none(connection: Connection) -> bool:
    return not await sessions(connection)


async def test_closing_waits_for_other_threads(service: Service, connection: Connection) -> None:
    """What they enqueue is stored; nothing hangs, and nothing is lost."""
    service.enqueue(0)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("lock table pgmq.q_orders in exclusive mode")
    enqueuing = asyncio.create_task(asyncio.to_thread(service.enqueue, 1))
    await eventually(lambda: lock_waiters(connection))
    closing = asyncio.create_task(asyncio.to_thread(service.close))
    await transaction.commit()
    assert await enqueuing == 2
    await closing


def test_payloads_are_checked_against_the_model(database_url: str) -> None:
    """As in `QueueService`."""

    class Order(BaseModel):
        n: int

    with SyncQueueService[Order](database_url, "orders", payload_model=Order) as service:
        assert service.enqueue(Order(n=1)) == 1
        with pytest.raises(InvalidJobError, match="n: "):
            service.enqueue({"n": "one"})


def test_a_database_that_cannot_be_reached(orders: None) -> None:
    """It is an unavailable database, and the service can be closed."""
    with (
        SyncQueueService[Any]("postgresql://nobody@127.0.0.1:1/none", "orders") as service,
        pytest.raises(DatabaseUnavailableError),
    ):
        service.enqueue(1)


def test_a_span_of_the_callers_thread_is_the_parent(database_url: str) -> None:
    """Over a URL and over a connection, the job has the caller's trace."""
    provider = TracerProvider()
    with (
        SyncQueueService[Any](database_url, "orders", tracer_provider=provider) as service,
        provider.get_tracer("test").start_as_current_span("mine") as span,
        psycopg.connect(database_url) as own,
    ):
        service.enqueue(1)
        service.enqueue(2, connection=own)
        headers = own.execute("select headers ->> 'traceparent' from pgmq.q_orders").fetchall()
    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    assert [row[0].split("-")[1] for row in headers] == [trace_id] * 2


# --- Processes ---------------------------------------------------------------------------------


def run_script(url: str, text: str) -> subprocess.CompletedProcess[str]:
    """Run a script with a service `orders`; it must end within a minute."""
    start = "import os, sys\nfrom meshhook import SyncQueueService\n"
    start += f"orders = SyncQueueService({url!r}, 'orders')\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", start + text],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_a_script_that_does_not_close_it_ends(
    database_url: str, connection: Connection
) -> None:
    """At once, with nothing on standard error, and its sessions are gone."""
    done = run_script(database_url, "print(orders.enqueue(1))")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
    await eventually(lambda: _none(connection))
    assert await messages(connection) == ["1"]


async def test_a_forked_process_has_its_own_connections(
    database_url: str, connection: Connection
) -> None:
    """Parent and child use one service, before and after the fork, and disturb nobody."""
    done = run_script(
        database_url,
        """
orders.enqueue("before")
child = os.fork()
if not child:
    orders.enqueue_many(["child"] * 3)
    orders.close()
    orders.enqueue("child again")
    os._exit(0)
orders.enqueue("parent")
_, status = os.waitpid(child, 0)
orders.enqueue("parent again")
orders.close()
sys.exit(os.waitstatus_to_exitcode(status))
""",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(await messages(connection)) == sorted(
        ['"before"', *['"child"'] * 3, '"child again"', '"parent"', '"parent again"']
    )


async def test_an_interrupted_call_ends(database_url: str, connection: Connection) -> None:
    """Ctrl-C is not held up by a statement that waits."""
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("lock table pgmq.q_orders in exclusive mode")
    text = f"""
from meshhook import SyncQueueService
orders = SyncQueueService({database_url!r}, 'orders')
try:
    orders.enqueue(1)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", text, stdout=asyncio.subprocess.PIPE
    )
    await eventually(lambda: lock_waiters(connection))
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 60) == b"interrupted\n"
    await transaction.rollback()
    assert await asyncio.wait_for(process.wait(), 60) == 0


# --- Over a connection of the caller's ---------------------------------------------------------


@pytest.mark.parametrize("kind", SYNC_CALLERS)
async def test_a_connection_may_be_the_source(
    database_url: str, connection: Connection, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is part of the transaction on it, however many statements it takes."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    async with CALLERS[kind](database_url) as caller:
        service = SyncQueueService[Any](caller.connection, "orders")
        service.enqueue(1)
        await caller.rollback()
        assert service.enqueue_many([2, 3, 4, 5, 6]) == [2, 3, 4, 5, 6]
        await caller.commit()
    assert await messages(connection) == ["2", "3", "4", "5", "6"]


async def test_in_autocommit_mode_many_are_stored_all_or_none(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a transaction of their own, or within the caller's block."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 2)
    await connection.execute(
        "create function refuse() returns trigger language plpgsql as "
        "$$ begin if new.message = '9' then raise 'no'; end if; return new; end $$;"
        "create trigger refuse before insert on pgmq.q_orders "
        "for each row execute function refuse()"
    )
    with psycopg.connect(database_url, autocommit=True) as own:
        service = SyncQueueService[Any](own, "orders")
        service.enqueue_many([1, 2, 3])
        assert await messages(connection) == ["1", "2", "3"]
        with pytest.raises(MeshHookError, match="no"):
            service.enqueue_many([4, 5, 9])
        assert await messages(connection) == ["1", "2", "3"]
        with own.transaction():
            service.enqueue(6)
            with pytest.raises(MeshHookError, match="no"):
                service.enqueue_many([7, 8, 9])
            service.enqueue(10)
    assert await messages(connection) == ["1", "2", "3", "6", "10"]


async def test_an_asynchronous_session_can_run_it(
    database_url: str, connection: Connection
) -> None:
    """Code below `run_sync` of SQLAlchemy enqueues in the session that it is given."""
    service = SyncQueueService[Any](queue="orders")
    engine = create_async_engine(database_url.replace("://", "+asyncpg://", 1))
    async with AsyncSession(engine) as session:
        enqueue: Callable[[Session], int] = lambda own: service.enqueue(1, connection=own)  # noqa: E731
        assert await session.run_sync(enqueue) == 1
        assert await messages(connection) == []
        await session.commit()
    await engine.dispose()
    assert await messages(connection) == ["1"]


async def test_settings_are_followed(database_url: str, connection: Connection) -> None:
    """They are read over the caller's connection, at most once in five seconds."""
    now = 0.0
    settings = RecentSettings("orders", clock=lambda: now)
    engine = create_engine(database_url.replace("://", "+psycopg://", 1))
    with engine.connect() as own:
        lent = sync_connection(own)
        assert settings.read(lent).max_payload_bytes == 1_048_576
        own.commit()
        await set_queue_config(connection, "orders", max_payload_bytes=2048)
        now = 4.9
        assert settings.read(lent).max_payload_bytes == 1_048_576
        now = 5.0
        assert settings.read(lent).max_payload_bytes == 2048
    engine.dispose()


async def test_a_queue_that_is_dropped_is_noticed(
    database_url: str, connection: Connection
) -> None:
    """By name, though its settings are known."""
    with psycopg.connect(database_url, autocommit=True) as own:
        service = SyncQueueService[Any](own, "orders")
        service.enqueue(1)
        await connection.execute("select meshhook.drop_queue('orders')")
        for _ in range(2):
            with pytest.raises(QueueNotFoundError):
                service.enqueue(2)
        await create_queue(connection, "orders")
        await set_queue_config(connection, "orders", max_payload_bytes=1024)
        with pytest.raises(JobTooLargeError):
            service.enqueue("x" * 2000)


# --- What is refused ---------------------------------------------------------------------------


async def test_what_is_no_source_or_connection_is_refused(
    database_url: str, connection: Connection, service: Service
) -> None:
    """The error names what was received, and what takes it."""
    async with await psycopg.AsyncConnection.connect(database_url) as own:
        engine = create_async_engine("postgresql+asyncpg://nobody@127.0.0.1:1/none")
        for given in (own, connection, AsyncSession(engine)):
            takes_it = r"QueueService.enqueue\(\) takes it"
            with pytest.raises(InvalidSettingError, match=takes_it):
                SyncQueueService[Any](given, "orders")
            with pytest.raises(InvalidSettingError, match=takes_it):
                service.enqueue(1, connection=given)
        await engine.dispose()
    for other in (7, psycopg.Connection, b"postgresql://"):
        with pytest.raises(InvalidSettingError, match="expected one of psycopg, SQLAlchemy or"):
            SyncQueueService(other, "orders")
    with pytest.raises(InvalidSettingError, match="database URL"):
        SyncQueueService[Any]("mysql://x", "orders")
    with pytest.raises(InvalidSettingError, match="has no database: pass connection="):
        SyncQueueService[Any](queue="orders").enqueue(1)


def test_jobs_are_found_and_changed(service: Service) -> None:
    """A thread without an event loop looks up, moves, cancels and deletes jobs of its queue."""
    first, second, third = service.enqueue_many([{"run_id": f"r{n}"} for n in range(3)], 60)
    assert [job.msg_id for job in service.find_jobs(run_id="r1")] == [second]
    assert service.run_now(first).changed == 1
    assert service.find_jobs(state="ready")[0].msg_id == first
    assert service.reschedule(first, delay_seconds=60).changed == 1
    assert service.cancel(run_id="r1", reason="withdrawn", dry_run=True).changed == 1
    assert service.cancel(run_id="r1", reason="withdrawn").changed == 1
    assert [job.error_message for job in service.find_jobs(state="cancelled")] == ["withdrawn"]
    assert service.delete_jobs([first, third]).changed == 2
    assert [job.msg_id for job in service.find_jobs()] == [second]


@pytest.mark.parametrize("method", ["cancel", "reschedule", "run_now", "delete_jobs", "find_jobs"])
def test_changes_need_connections_of_their_own(method: str) -> None:
    """A service that is only called with connections of the caller says so."""
    arguments = {"delay_seconds": 1} if method == "reschedule" else {}
    with pytest.raises(InvalidSettingError, match=f"{method}.. needs connections of its own"):
        getattr(SyncQueueService[Any](None, "orders"), method)(**arguments)
