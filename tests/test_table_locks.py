"""Changing tables in use: nobody is held up for long, and who is in the way is named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.administration import create_queue, drop_queue, list_queues
from meshhook.errors import DatabaseLockedError, QueueBusyError
from meshhook.postgres.database import Database
from support.waiting import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

WAITERS = (
    "select count(*) from pg_stat_activity where datname = current_database() "
    "and wait_event_type = 'Lock'"
)


@pytest.fixture
def database(pool: Pool) -> Database:
    """The migrated database of this test."""
    return Database(pool)


@pytest.fixture
async def holder(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A session of another program, in a transaction that wrote a message and a dead letter."""
    connection = await asyncpg.connect(
        database_url, server_settings={"application_name": "reports"}
    )
    transaction = connection.transaction()
    await transaction.start()
    await QueueService[Any](connection, queue_name).enqueue({}, connection=connection)
    await connection.execute("insert into pgmq.q_jobs_dlq (vt, message) values (now(), '{}')")
    yield connection
    await connection.close()


async def test_creating_again_waits_for_nobody(holder: Connection, connection: Connection) -> None:
    """A queue that is complete is only looked at, whatever writes to it or its dead letters."""
    await connection.execute("set lock_timeout = '1ms'")
    await connection.execute("set statement_timeout = '10s'")
    assert not await connection.fetchval("select meshhook.create_queue('jobs')")


@pytest.mark.parametrize(
    "change",
    ["drop_queue('jobs')", "drop_queue_if_empty('jobs')", "create_queue('jobs')"],
)
async def test_who_comes_later_is_held_up_for_a_second_at_the_most(
    holder: Connection, connection: Connection, pool: Pool, change: str
) -> None:
    """A change that waits for a lock gives up, and those who wait behind it go on."""
    if change.startswith("create"):
        await holder.execute("rollback")
        await connection.execute("drop trigger meshhook_wake_waiting_workers on pgmq.q_jobs")
        await holder.execute("begin; insert into pgmq.q_jobs (vt, message) values (now(), '{}')")
    if "if_empty" in change:
        await holder.execute("rollback; begin; lock table pgmq.q_jobs in share mode")
    changing = asyncio.create_task(connection.fetchval(f"select meshhook.{change}"))
    # It waits for a second only, in which this process may stand still.
    await eventually(lambda: changing.done() or pool.fetchval(WAITERS))
    # Waits behind the change, and not behind the holder.
    reading = asyncio.create_task(pool.fetchval("select count(*) from pgmq.q_jobs"))
    with pytest.raises(asyncpg.LockNotAvailableError):
        await changing
    assert await reading >= 0


async def test_a_change_comes_back_when_the_table_is_free(
    holder: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropping a queue that is in use for a while succeeds."""
    seen: list[object] = []
    fetch = Database.fetch

    async def end_the_transaction(self: Database, *arguments: Any) -> Any:
        rows = await fetch(self, *arguments)
        seen.extend(rows)
        await holder.execute("rollback")
        return rows

    monkeypatch.setattr(Database, "fetch", end_the_transaction)
    assert await drop_queue(database, "jobs")
    assert len(seen) == 1


async def test_who_holds_the_tables_is_named(holder: Connection, database: Database) -> None:
    """The error has the process, its program and for how long it has been there, and no query."""
    with pytest.raises(QueueBusyError) as caught:
        await drop_queue(database, "jobs", wait_seconds=0)
    message = str(caught.value)
    pid = await holder.fetchval("select pg_backend_pid()")
    assert f"process {pid} (reports): idle in transaction, its statement began" in message
    assert "insert into" not in message
    assert isinstance(caught.value, DatabaseLockedError)
    assert [each.queue for each in await list_queues(database)] == ["jobs"]


async def test_another_who_makes_the_same_queue_is_named(
    database: Database, connection: Connection
) -> None:
    """A transaction that created a queue and stays open is waited for, but not for ever."""
    async with connection.transaction():
        await connection.execute("select meshhook.create_queue('jobs')")
        pid = await connection.fetchval("select pg_backend_pid()")
        with pytest.raises(QueueBusyError, match=f"process {pid}"):
            await create_queue(database, "jobs", wait_seconds=0)


async def test_in_a_transaction_of_the_callers_it_is_tried_once(
    holder: Connection, connection: Connection
) -> None:
    """What failed there cannot be tried again; the error says so at once."""
    async with Database(connection).transaction():
        with pytest.raises(QueueBusyError):
            await drop_queue(Database(connection), "jobs")
        await connection.execute("rollback; begin")


async def test_a_drop_that_does_not_get_all_tables_keeps_none_of_them(
    holder: Connection, connection: Connection, pool: Pool
) -> None:
    """All tables together are waited for a second, not each of them."""
    await holder.execute("rollback; begin; lock table pgmq.a_jobs_dlq in access share mode")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await connection.execute("select meshhook.drop_queue('jobs')")
    assert await pool.fetchval("select count(*) from pgmq.q_jobs") == 0
