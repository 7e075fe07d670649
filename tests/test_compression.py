"""The compression of large bodies: lz4 where the server has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, TypeAlias

import asyncpg
import pytest
import trustme

from meshhook import DLQService, QueueService, create_queue, set_queue_config
from meshhook.store.sending import MAX_BATCH_MESSAGES, insert_messages
from support.tls_server import TlsServer, tls_server

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.database  # a server of its own

LARGE = {"text": "abcdefgh" * 1_000}
METHODS = "select distinct pg_column_compression(message) from pgmq.{} order by 1"
SETTING = "select current_setting('default_toast_compression')"


@pytest.fixture(scope="module")
def lz4_server() -> Iterator[TlsServer]:
    """A server of Debian, which is built with lz4; the embedded one is not."""
    authority = trustme.CA()
    with tls_server() as found:
        asyncio.run(found.start(authority.issue_cert("127.0.0.1"), authority))
        yield found


@pytest.fixture
async def lz4(lz4_server: TlsServer) -> AsyncIterator[Connection]:
    """A connection to a database of it, with a queue `jobs` that keeps bodies."""
    connection = await lz4_server.connect(await lz4_server.create_database())
    await create_queue(connection, "jobs")
    await set_queue_config(connection, "jobs", keep_bodies_days=1)
    yield connection
    await connection.close()


async def methods(connection: Connection, table: str = "q_jobs") -> list[str | None]:
    """Return how the bodies in a table are compressed."""
    return [row[0] for row in await connection.fetch(METHODS.format(table))]


async def test_a_server_without_lz4_stores_large_bodies(
    queue_name: str, pool: asyncpg.Pool[Any], connection: Connection
) -> None:
    """They are stored and read as ever, with the method that there is."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue(LARGE)
    await queue.enqueue_many([LARGE] * 2)
    has_lz4 = await connection.fetchval("select meshhook.prefer_lz4()")
    assert await methods(connection) == ["lz4" if has_lz4 else "pglz"]
    job = await queue.dequeue()
    assert job is not None
    assert job.payload == LARGE


async def test_large_bodies_are_compressed_with_lz4(lz4: Connection) -> None:
    """One, many, and more than one statement takes; the session's setting is as before."""
    queue = QueueService[Any](lz4, "jobs")
    await queue.enqueue(LARGE)
    await queue.enqueue_many([LARGE] * 2)
    await queue.enqueue_many([LARGE] * (MAX_BATCH_MESSAGES + 1))
    assert await methods(lz4) == ["lz4"]
    assert await lz4.fetchval(SETTING) == "pglz"


async def test_they_are_run_and_moved_like_any_others(lz4: Connection) -> None:
    """A job sees its body, and dead letters and kept bodies stay compressed with lz4."""
    queue = QueueService[Any](lz4, "jobs")
    await queue.enqueue_many([LARGE] * 2)
    jobs = [job for _ in range(2) if (job := await queue.dequeue()) is not None]
    assert [job.payload for job in jobs] == [LARGE] * 2
    await DLQService(lz4, "jobs").move_to_dead_letter(jobs[0], "broken")
    await queue.acknowledge(jobs[1])
    assert await methods(lz4, "q_jobs_dlq") == ["lz4"]
    kept = "select pg_column_compression(message) from meshhook.finished_jobs"
    assert await lz4.fetchval(kept) == "lz4"


async def test_settings_of_a_callers_transaction_are_left_alone(lz4: Connection) -> None:
    """Its own large values are compressed as it says, and so are the bodies in it."""
    queue = QueueService[Any](lz4, "jobs")
    async with lz4.transaction():
        await queue.enqueue(LARGE, connection=lz4)
        await queue.enqueue_many([LARGE] * (MAX_BATCH_MESSAGES + 1), connection=lz4)
        await queue.enqueue(LARGE)
        assert await lz4.fetchval(SETTING) == "pglz"
    assert await methods(lz4) == ["pglz"]


async def test_lz4_can_be_turned_off(lz4: Connection) -> None:
    """`meshhook.lz4` is off, for standbys that are built without it."""
    await lz4.execute("set meshhook.lz4 = off")
    await QueueService[Any](lz4, "jobs").enqueue(LARGE)
    assert await methods(lz4) == ["pglz"]


@pytest.mark.parametrize(("length", "is_set"), [(1_999, False), (2_000, True)])
async def test_short_bodies_pay_nothing(length: int, is_set: bool) -> None:
    """The method is set only where a body may be compressed at all."""
    sent: list[str] = []

    class Recorder:
        """Takes statements."""

        async def fetch(self, sql: str, *_: object) -> list[tuple[int]]:
            """Note the statement."""
            sent.append(sql)
            return [(1,), (2,)]

    await insert_messages(Recorder(), "jobs", [("1", None, 0.0), ("1" * length, None, 0.0)])
    assert ["prefer_lz4" in sql for sql in sent] == [is_set]
