"""Queues as a whole: created, adopted, listed, set and dropped."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService, migrate
from meshhook.administration import (
    create_queue,
    describe_tables,
    drop_queue,
    get_queue_config,
    get_queue_snapshot,
    list_queues,
    set_queue_config,
)
from meshhook.errors import (
    DatabaseReadOnlyError,
    InvalidSettingError,
    QueueNotFoundError,
    SchemaMissingError,
)
from meshhook.postgres.database import Database

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TABLES = "select tablename from pg_tables where schemaname = 'pgmq' and tablename ~ '^[qa]_jobs'"


@pytest.fixture
def database(pool: Pool) -> Database:
    """The migrated database of this test."""
    return Database(pool)


async def names(database: Database) -> list[str]:
    """Return the names of all queues."""
    return [snapshot.queue for snapshot in await list_queues(database)]


async def test_creating_says_whether_it_was_new(database: Database) -> None:
    """Creating a queue again changes nothing and is no error."""
    assert await create_queue(database, "jobs")
    before = await get_queue_config(database, "jobs")
    assert not await create_queue(database, "jobs")
    assert await get_queue_config(database, "jobs") == before
    assert await names(database) == ["jobs"]


async def test_a_queue_of_pgmq_is_adopted(database: Database, connection: Connection) -> None:
    """A queue that PGMQ has already keeps its messages, and gets what it lacks."""
    await connection.execute("select pgmq.create('jobs')")
    await connection.execute("""select pgmq.send('jobs', '{"n": 1}')""")
    with pytest.raises(QueueNotFoundError, match="meshhook queue create jobs"):
        await describe_tables(database, "jobs")
    assert await create_queue(database, "jobs")
    job = await QueueService[Any](database, "jobs").dequeue()
    assert job is not None
    assert job.payload == {"n": 1}
    assert not await create_queue(database, "jobs")


@pytest.mark.parametrize(
    "damage",
    [
        "select pgmq.drop_queue('jobs_dlq')",
        "drop sequence meshhook.waiting_jobs",
        "drop trigger meshhook_wake_waiting_workers on pgmq.q_jobs",
        "delete from meshhook.queue_config",
    ],
)
async def test_creating_repairs(database: Database, connection: Connection, damage: str) -> None:
    """What of a queue was lost is made again, and it counts as new."""
    await create_queue(database, "jobs")
    await connection.execute(damage)
    assert await create_queue(database, "jobs")
    assert not await create_queue(database, "jobs")
    assert await QueueService[Any](database, "jobs").enqueue({}) > 0


async def test_ten_create_a_queue_at_once(database: Database, connection: Connection) -> None:
    """All ten calls succeed, and exactly one of them made the queue."""
    created = await asyncio.gather(*(create_queue(database, "jobs") for _ in range(10)))
    assert sorted(created) == [False] * 9 + [True]
    assert len(await connection.fetch(TABLES)) == 4


async def test_ten_create_and_drop_at_once(database: Database, connection: Connection) -> None:
    """Whichever call comes last, the queue is there as a whole or not at all."""
    await asyncio.gather(
        *((create_queue, drop_queue)[n % 2](database, "jobs") for n in range(20)),
    )
    assert len(await connection.fetch(TABLES)) in (0, 4)
    await create_queue(database, "jobs")
    assert await names(database) == ["jobs"]


async def test_ten_install_and_create_at_once(empty_database_url: str) -> None:
    """Ten workers that start on an empty database migrate, create the queue and enqueue."""

    async def boot() -> bool:
        connection = await asyncpg.connect(empty_database_url)
        try:
            await migrate(connection)
            created = await create_queue(Database(connection), "jobs")
            await QueueService[Any](connection, "jobs").enqueue({})
        finally:
            await connection.close()
        return created

    created = await asyncio.gather(*(boot() for _ in range(10)))
    assert sorted(created) == [False] * 9 + [True]
    database = await Database.connect(empty_database_url)
    try:
        assert (await get_queue_snapshot(database, "jobs")).ready == 10
    finally:
        await database.close()


async def test_creating_goes_on_while_the_queue_is_used(
    database: Database, connection: Connection, queue_name: str
) -> None:
    """Creating a complete queue again does not wait for transactions that write to it."""
    async with connection.transaction():
        await QueueService[Any](connection, queue_name).enqueue({})
        async with database.transaction() as other:
            await other.execute("set local lock_timeout = '5s'")
            assert not await other.fetchval("select meshhook.create_queue('jobs')")


async def test_dropping_takes_everything_but_the_history(
    database: Database, connection: Connection
) -> None:
    """Messages, dead letters and settings go; the attempts stay until their time is over."""
    await create_queue(database, "jobs")
    service = QueueService[Any](database, "jobs")
    await service.enqueue({})
    job = await service.dequeue()
    assert job is not None
    await service.acknowledge(job)
    assert await drop_queue(database, "jobs")
    assert not await drop_queue(database, "jobs")
    assert await connection.fetch(TABLES) == []
    assert await names(database) == []
    assert await connection.fetchval("select to_regclass('meshhook.waiting_jobs')") is None
    assert await connection.fetchval("select outcome from meshhook.job_attempts") == "succeeded"


async def test_dropping_a_queue_of_pgmq_works_too(
    database: Database, connection: Connection
) -> None:
    """A queue that was never adopted is dropped all the same."""
    await connection.execute("select pgmq.create('jobs')")
    assert await drop_queue(database, "jobs")


async def test_a_half_dropped_queue_is_left_out_of_the_list(
    database: Database, connection: Connection
) -> None:
    """A queue whose tables were dropped behind our back does not spoil the others."""
    await create_queue(database, "jobs")
    await create_queue(database, "other")
    await connection.execute("select pgmq.drop_queue('jobs')")
    assert await names(database) == ["other"]
    for function in (get_queue_snapshot, describe_tables):
        with pytest.raises(QueueNotFoundError):
            await function(database, "jobs")
    assert await drop_queue(database, "jobs")


async def test_a_missing_queue_says_how_to_make_it(database: Database) -> None:
    """Each function that needs a queue names the command."""
    for function in (get_queue_config, get_queue_snapshot, describe_tables):
        with pytest.raises(QueueNotFoundError, match="meshhook queue create jobs"):
            await function(database, "jobs")
    with pytest.raises(QueueNotFoundError):
        await set_queue_config(database, "jobs", paused=True)


async def test_a_database_without_migrations_says_so(empty_database_url: str) -> None:
    """Every function names the command that is missing."""
    database = await Database.connect(empty_database_url)
    try:
        for function in (
            create_queue,
            drop_queue,
            get_queue_config,
            get_queue_snapshot,
            describe_tables,
        ):
            with pytest.raises(SchemaMissingError, match="run: meshhook migrate"):
                await function(database, "jobs")
        with pytest.raises(SchemaMissingError, match="run: meshhook migrate"):
            await list_queues(database)
    finally:
        await database.close()


async def test_a_database_that_is_read_only_says_so(database_url: str, queue_name: str) -> None:
    """A read-only database is reported before anything is claimed."""
    connection = await asyncpg.connect(
        database_url, server_settings={"default_transaction_read_only": "on"}
    )
    database = Database(connection)
    try:
        with pytest.raises(DatabaseReadOnlyError, match="primary server"):
            await describe_tables(database, queue_name)
        with pytest.raises(DatabaseReadOnlyError, match="primary server"):
            await create_queue(database, "other")
        with pytest.raises(DatabaseReadOnlyError, match="primary server"):
            await set_queue_config(database, queue_name, paused=True)
        assert (await get_queue_snapshot(database, queue_name)).queue == queue_name
    finally:
        await connection.close()


async def test_settings_are_changed_and_returned(database: Database, queue_name: str) -> None:
    """Values may be text; the rest stays; the time of the change is noted."""
    before = await get_queue_config(database, queue_name)
    after = await set_queue_config(
        database, queue_name, visibility_timeout_seconds="60", job_timeout_seconds="none"
    )
    assert (after.visibility_timeout_seconds, after.job_timeout_seconds) == (60, None)
    assert after.updated_at > before.updated_at
    changed = {"visibility_timeout_seconds", "job_timeout_seconds", "updated_at"}
    assert after.model_dump(exclude=changed) == before.model_dump(exclude=changed)
    assert await get_queue_config(database, queue_name) == after


async def test_a_wrong_setting_changes_nothing(database: Database, queue_name: str) -> None:
    """One wrong value, and none of the others is written."""
    before = await get_queue_config(database, queue_name)
    with pytest.raises(InvalidSettingError, match="max_retry_attempts=0"):
        await set_queue_config(database, queue_name, paused=True, max_retry_attempts=0)
    assert await get_queue_config(database, queue_name) == before


async def test_settings_changed_at_one_time_do_not_undo_each_other(
    database: Database, queue_name: str
) -> None:
    """Several people who each change one setting all get what they asked for."""
    changes: dict[str, Any] = {
        "visibility_timeout_seconds": 61,
        "max_retry_attempts": 7,
        "retry_backoff_base_ms": 17,
        "retry_jitter": 0.25,
        "job_timeout_seconds": 62.0,
        "dlq_retention_days": 63,
        "archive_retention_days": 65,
        "history_retention_days": 64,
        "paused": True,
    }
    await asyncio.gather(
        *(set_queue_config(database, queue_name, **{key: changes[key]}) for key in changes)
    )
    config = await get_queue_config(database, queue_name)
    assert {name: getattr(config, name) for name in changes} == changes


async def test_a_change_is_announced(database: Database, database_url: str) -> None:
    """Whoever listens is told which queue's settings changed, in the transaction that did it."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(database_url)
    try:
        await listener.add_listener("meshhook_config", lambda *words: heard.put_nowait(words[3]))
        await create_queue(database, "jobs")
        assert await heard.get() == "jobs"
        await set_queue_config(database, "jobs", paused=True)
        assert await heard.get() == "jobs"
        await drop_queue(database, "jobs")
        assert await heard.get() == "jobs"
    finally:
        await listener.close()


async def test_a_snapshot_of_an_empty_queue(database: Database, queue_name: str) -> None:
    """Ages of what is not there are None, and counts are 0."""
    snapshot = await get_queue_snapshot(database, queue_name)
    assert snapshot.queue_length == snapshot.enqueued_total == snapshot.dead_letters == 0
    assert snapshot.oldest_ready_seconds == 0
    assert snapshot.oldest_message_seconds is None
    assert snapshot.newest_message_seconds is None
    assert snapshot.oldest_dead_letter_seconds is None
    assert not snapshot.capped
    assert not snapshot.paused


async def test_counts_stop_at_the_limit(database: Database, queue_name: str) -> None:
    """A count that stopped says so, for ready and for delayed messages alike."""
    service = QueueService[Any](database, queue_name)
    await service.enqueue_many([{}] * 5)
    assert (await get_queue_snapshot(database, queue_name, count_limit=5)).capped
    exact = await get_queue_snapshot(database, queue_name, count_limit=6)
    assert (exact.ready, exact.capped) == (5, False)
    await service.enqueue_many([{}] * 7, 3600)
    (capped,) = await list_queues(database, count_limit=6)
    assert (capped.ready, capped.scheduled, capped.capped) == (5, 6, True)


async def test_the_list_is_in_order_and_of_one_moment(database: Database) -> None:
    """All queues are listed by name, sampled by one statement."""
    for name in ("b", "a", "c"):
        await create_queue(database, name)
    snapshots = await list_queues(database)
    assert [snapshot.queue for snapshot in snapshots] == ["a", "b", "c"]
    assert len({snapshot.sampled_at for snapshot in snapshots}) == 1
    assert all(snapshot.enqueued_total == 0 for snapshot in snapshots)


@pytest.mark.parametrize("count_limit", [-1, 0, 10**12, "5", None])
async def test_a_count_limit_out_of_range_is_refused(
    database: Database, queue_name: str, count_limit: Any
) -> None:
    """The error names the argument and its range."""
    with pytest.raises(InvalidSettingError, match="count_limit is a whole number from 1 to"):
        await get_queue_snapshot(database, queue_name, count_limit=count_limit)
    with pytest.raises(InvalidSettingError, match="count_limit is a whole number from 1 to"):
        await list_queues(database, count_limit=count_limit)
