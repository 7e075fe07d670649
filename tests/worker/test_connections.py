"""The database goes away, comes back, or never was what the worker needs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from meshhook import Job, QueueService, create_queue, drop_queue
from meshhook.embedded import EmbeddedPostgres
from meshhook.errors import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    QueueNotFoundError,
    SchemaMissingError,
)
from meshhook.postgres.database import Database
from meshhook.schema import migrate
from meshhook.worker.connections import WorkerConnection
from meshhook.worker.housekeeping import SchemaWatch
from support.databases import server_directory
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

Pool = asyncpg.Pool
Connection = asyncpg.Connection


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


@pytest.mark.usefixtures("queue_name")
async def test_terminated_connections_are_replaced(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """All jobs end although every connection of the worker is terminated again and again.

    No job is recorded twice, and none is lost.
    """
    queue = QueueService[Any](pool, "jobs")

    async def handler(_: Job[Any]) -> None:
        await asyncio.sleep(0.001)

    ids: list[int] = []
    async with make_worker(database_url, handler, concurrency=20) as worker:
        for _ in range(5):
            ids += await queue.enqueue_many([{}] * 200)
            before = worker.get_stats().processed

            def goes_on(before: int = before) -> bool:
                return worker.get_stats().processed > before

            await eventually(goes_on)
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name like 'meshhook % jobs' and datname = current_database()"
            )
        # What a broken claim had leased comes back when its lease has run out: not waited for.
        await connection.execute("update pgmq.q_jobs set vt = now() where vt > now()")

        async def is_empty() -> bool:
            return await live(connection) == {}

        await eventually(is_empty, timeout=60)
    done = await connection.fetch(
        "select msg_id from meshhook.job_attempts where outcome = 'succeeded'"
    )
    assert sorted(row["msg_id"] for row in done) == ids


@pytest.mark.usefixtures("queue_name")
async def test_a_dead_listening_connection_is_listened_on_again(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """When the listening connection dies, polling finds jobs and the worker listens again."""
    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, nothing) as worker:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'meshhook worker jobs' and datname = current_database()"
        )
        await queue.enqueue({})
        await eventually(lambda: worker.get_stats().processed == 1)
        assert worker._parts is not None
        assert worker._parts.main_connection.is_connected

        async def listens() -> bool:
            return bool(
                await connection.fetchval(
                    "select count(*) from pg_stat_activity where datname = current_database() "
                    "and application_name = 'meshhook worker jobs'"
                )
            )

        await eventually(listens)
        woken = asyncio.Event()
        worker._parts.lanes[0].notify = woken.set  # type: ignore[method-assign]
        await connection.execute("select pg_notify('meshhook_wake_jobs', '')")
        await asyncio.wait_for(woken.wait(), 60)


async def test_a_database_that_goes_away_is_waited_for() -> None:
    """Outcomes are recorded when a server that stopped under running jobs is back."""
    with server_directory() as directory:
        server = EmbeddedPostgres(directory / "postgres", settings={"fsync": "off"})
        url = server.start()
        try:
            connection = await asyncpg.connect(url)
            await migrate(connection)
            await connection.execute("select meshhook.create_queue('jobs')")
            await connection.close()
            running = asyncio.Event()
            go_on = asyncio.Event()

            async def handler(_: Job[Any]) -> None:
                running.set()
                await go_on.wait()

            database = await Database.connect(url, min_size=0)
            msg_id = await QueueService(database, "jobs").enqueue({})
            async with make_worker(url, handler, concurrency=1) as worker:
                await asyncio.wait_for(running.wait(), 60)
                await asyncio.to_thread(server.stop)
                go_on.set()
                await eventually(
                    lambda: (
                        worker._parts is not None
                        and worker._parts.lanes[0].held_jobs.unsettled == 1
                    )
                )
                with pytest.raises(DatabaseUnavailableError):
                    await Database.connect(url)
                assert await asyncio.to_thread(server.start) == url
                await eventually(lambda: worker.get_stats().succeeded == 1)
                connection = await asyncpg.connect(url)
                assert await outcomes(connection, msg_id) == [("succeeded", 1)]
                await connection.close()
                await QueueService(database, "jobs").enqueue({})
                await eventually(lambda: worker.get_stats().succeeded == 2)
            await database.close()
        finally:
            server.stop()


async def test_starting_without_the_queue_says_how_to_make_it(database_url: str) -> None:
    """An unknown queue is an error at the start that names the command."""
    with pytest.raises(QueueNotFoundError, match="meshhook queue create jobs"):
        await make_worker(database_url, nothing).start()


async def test_starting_without_migrations_says_so(empty_database_url: str) -> None:
    """A database without the schema is an error at the start that names the command."""
    with pytest.raises(SchemaMissingError, match="meshhook migrate"):
        await make_worker(empty_database_url, nothing).start()


@pytest.mark.usefixtures("queue_name")
async def test_starting_on_a_read_only_database_says_so(
    connection: Connection[Any], database_url: str
) -> None:
    """A read-only session is an error at the start, not at the first job."""
    name = await connection.fetchval("select current_database()")
    await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
    with pytest.raises(DatabaseReadOnlyError, match="primary"):
        await make_worker(database_url, nothing).start()


@pytest.mark.usefixtures("queue_name")
async def test_connections_to_a_primary_that_became_a_replica_are_replaced(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A connection that has become read-only is dropped; the next one may write."""
    running = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        running.set()
        await go_on.wait()

    queue = QueueService[Any](pool, "jobs")
    msg_id = await queue.enqueue({})
    async with make_worker(database_url, handler) as worker:
        await asyncio.wait_for(running.wait(), 60)
        assert worker._parts is not None
        read_only = "set session characteristics as transaction read only"
        await worker._parts.settle_connection.fetch(read_only)
        await worker._parts.main_connection.fetch(read_only)
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 1)
        assert await outcomes(connection, msg_id) == [("succeeded", 1)]
        await queue.enqueue({})
        await eventually(lambda: worker.get_stats().succeeded == 2)
        assert [check.fault for check in worker.readiness()] == [None] * 3


async def test_outcomes_that_cannot_be_recorded_are_a_fault(
    pool: Pool[Any], connection: Connection[Any], queue_name: str, database_url: str
) -> None:
    """A worker that can claim but not settle is not ready, and says why."""
    name = await connection.fetchval("select current_database()")
    queue = QueueService[Any](pool, queue_name)
    async with make_worker(database_url, nothing) as worker:
        await queue.enqueue({})
        await eventually(lambda: worker.get_stats().succeeded == 1)
        assert worker._parts is not None
        # Those that are open write on, but for the one that settles.
        await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
        await worker._parts.settle_connection.close()
        await queue.enqueue({})

        def fault() -> str:
            return str(worker.readiness()[0].fault)

        await eventually(lambda: "takes no writes" in fault())
        await connection.execute(f'alter database "{name}" reset default_transaction_read_only')
        await eventually(lambda: worker.get_stats().succeeded == 2)
        assert worker.readiness()[0].fault is None


async def test_a_start_that_is_cancelled_leaves_no_connection(
    pool: Pool[Any], queue_name: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at its last step, when everything is open."""
    reached = asyncio.Event()

    async def wait(_: SchemaWatch) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def is_connected() -> bool:
        return bool(
            await pool.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database() "
                "and application_name in ('meshhook worker jobs', 'meshhook settle jobs')"
            )
        )

    async def has_left() -> bool:
        return not await is_connected()

    monkeypatch.setattr(SchemaWatch, "check", wait)
    starting = asyncio.create_task(make_worker(database_url, nothing).start(), name="starting")
    await reached.wait()
    assert await is_connected()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(has_left)


async def test_an_unreachable_database_says_so() -> None:
    """A refused connection is an error at the start."""
    with pytest.raises(DatabaseUnavailableError, match="cannot be reached"):
        await make_worker("postgresql://nobody@127.0.0.1:1/none", nothing).start()


@pytest.mark.usefixtures("queue_name")
async def test_a_queue_that_is_dropped_and_made_again_is_worked_on(
    pool: Pool[Any], database_url: str
) -> None:
    """A worker survives its queue being dropped, and goes on when it is there again."""
    database = Database(pool)
    async with make_worker(database_url, nothing) as worker:
        await drop_queue(database, "jobs")
        assert worker._parts is not None
        worker._parts.lanes[0].notify()
        await create_queue(database, "jobs")
        await QueueService(pool, "jobs").enqueue({})
        await eventually(lambda: worker.get_stats().processed == 1)


async def test_a_url_that_cannot_be_read_is_not_shown() -> None:
    """No part of a password that spoils its URL stands in the message."""
    with pytest.raises(InvalidSettingError, match="database URL is not valid") as caught:
        await make_worker("postgresql://me:pass/secret@127.0.0.1:x/name", nothing).start()
    assert "secret" not in str(caught.value)


async def test_a_file_that_goes_while_it_works_is_waited_for(
    database_url: str, tmp_path: Path
) -> None:
    """What was good once, such as a service file, is not taken for a wrong URL when it is away."""
    file = tmp_path / "services"
    parts = urlsplit(database_url)
    service = (
        f"[shop]\nhost={parts.hostname}\nport={parts.port}\ndbname={parts.path[1:]}\n"
        f"user={parts.username}\npassword={parts.password}\n"
    )
    file.write_text(service)
    found = WorkerConnection(
        f"postgresql://?service=shop&servicefile={file}", application_name="test"
    )
    try:
        assert await found.fetchval("select 1") == 1
        await found.close()
        file.unlink()
        with pytest.raises(DatabaseUnavailableError, match="there is no file"):
            await found.fetchval("select 1")
        assert "there is no file" in (found.fault or "")
        file.write_text(service)
        assert await found.fetchval("select 1") == 1
    finally:
        await found.close()
