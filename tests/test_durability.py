"""What must survive a promotion or logical replication, and wake-ups that never cost a message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import date
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.administration import create_queue, drop_queue, get_queue_snapshot
from meshhook.embedded import EmbeddedPostgres
from meshhook.postgres.database import Database
from meshhook.schema import available_migrations, migrate
from support.databases import TEST_SETTINGS, server_directory
from support.waiting import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

SOMEBODY_WAITS = "select setval('meshhook.waiting_jobs', 99999999999999)"
WAKE_CHANNEL = "meshhook_wake_jobs"


@pytest.fixture
async def heard(database_url: str) -> AsyncIterator[list[str]]:
    """The wake-ups of the queue `jobs` so far."""
    listener = await asyncpg.connect(database_url)
    wake_ups: list[str] = []
    await listener.add_listener(WAKE_CHANNEL, lambda *_: wake_ups.append("wake-up"))

    yield wake_ups
    await listener.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[EmbeddedPostgres]:
    """A server that prepares transactions, publishes, and has little room for notifications."""
    settings = {
        **TEST_SETTINGS,
        "max_prepared_transactions": "4",
        "wal_level": "logical",
        "max_notify_queue_pages": "64",
    }
    with server_directory(in_memory=True) as directory:
        server = EmbeddedPostgres(directory / "postgres", settings=settings)
        server.start()
        yield server
        server.stop()


@pytest.fixture
async def own(own_server: EmbeddedPostgres, today: date) -> AsyncIterator[Connection]:
    """A connection to a new, migrated database on that server, with the queue `jobs`."""

    async def administer(sql: str) -> None:
        # A test may restart the server.
        admin = await asyncpg.connect(own_server.start())
        await admin.execute(sql)
        await admin.close()

    await administer("create database own")
    connection = await asyncpg.connect(own_server.url("own"))
    await migrate(connection)
    await connection.execute("select meshhook.create_queue('jobs')")
    yield connection
    await connection.close()
    await administer("drop database own with (force)")


async def enqueue(connection: Connection) -> None:
    """Send a message as PGMQ does."""
    await connection.execute("select pgmq.send('jobs', '{}'::jsonb)")


async def test_nothing_of_a_queue_is_unlogged(connection: Connection, queue_name: str) -> None:
    """A standby that is promoted has all of it; only the reports of workers begin anew."""
    rows = await connection.fetch(
        "select relname from pg_class where relpersistence <> 'p' and relkind <> 't' and "
        "relnamespace in ('meshhook'::regnamespace, 'pgmq'::regnamespace) and relkind in ('r', 'S')"
    )
    assert {row["relname"] for row in rows} <= {"workers", "notify_insert_throttle"}


async def migrated_to(connection: Connection, version: int) -> None:
    """Bring an empty database up to an older version of the schema."""
    wanted = [each for each in available_migrations() if each.version <= version]
    await migrate(connection, migrations=wanted)


async def test_a_migration_makes_the_sequences_logged(
    empty_connection: Connection, databases: Any
) -> None:
    """Those of queues that are there keep their values and the rights on them."""
    await migrated_to(empty_connection, 8)
    await empty_connection.execute("select meshhook.create_queue('jobs')")
    await empty_connection.execute("select setval('meshhook.waiting_jobs', 42)")
    await empty_connection.execute("create role waiting_worker")
    await empty_connection.execute("grant update on meshhook.waiting_jobs to waiting_worker")
    try:
        await migrate(empty_connection)
        row = await empty_connection.fetchrow(
            "select c.relpersistence::text as kind, s.last_value as value, "
            "has_sequence_privilege('waiting_worker', c.oid, 'update') as may_update "
            "from pg_class c, meshhook.waiting_jobs s where c.relname = 'waiting_jobs'"
        )
        assert row is not None
        assert dict(row) == {"kind": "p", "value": 42, "may_update": True}
    finally:
        await empty_connection.execute("drop owned by waiting_worker; drop role waiting_worker")


async def test_a_sequence_in_use_does_not_hold_up_the_migration(
    empty_connection: Connection, empty_database_url: str
) -> None:
    """It is left as it is while a producer's transaction is open, and mended by the next run."""
    await migrated_to(empty_connection, 8)
    await empty_connection.execute("select meshhook.create_queue('jobs')")
    producer = await asyncpg.connect(empty_database_url)
    try:
        async with producer.transaction():
            await enqueue(producer)
            await migrate(empty_connection)
        assert (await migrate(empty_connection)).applied == ()
    finally:
        await producer.close()
    kind = "select relpersistence::text from pg_class where relname = 'waiting_jobs'"
    assert await empty_connection.fetchval(kind) == "p"


async def test_a_sequence_that_cannot_be_read_refuses_no_message(
    own_server: EmbeddedPostgres, own: Connection
) -> None:
    """As after a promotion: an insert succeeds, and the sequence is made again with its rights."""
    await own.execute(
        "alter sequence meshhook.waiting_jobs set unlogged; create role own_worker; "
        "grant usage on schema meshhook to own_worker; "
        "grant update on meshhook.waiting_jobs to own_worker"
    )
    path = await own.fetchval("select pg_relation_filepath('meshhook.waiting_jobs')")
    own_server.stop()
    file = own_server.home / "data" / path
    file.write_bytes(bytes(file.stat().st_size))
    own_server.start()
    again = await asyncpg.connect(own_server.url("own"))
    try:
        with pytest.raises(asyncpg.PostgresError, match="bad magic number"):
            await again.fetchval("select setval('meshhook.waiting_jobs', 5)")
        await enqueue(again)
        assert await again.fetchval("select meshhook.mend_tables()") == 0
        await again.execute("set role own_worker; select setval('meshhook.waiting_jobs', 5)")
        await again.execute("reset role; drop owned by own_worker; drop role own_worker")
    finally:
        await again.close()


@pytest.mark.parametrize(
    "damage",
    [
        "drop sequence meshhook.waiting_jobs",
        "alter sequence meshhook.waiting_jobs rename to elsewhere",
        "alter sequence meshhook.waiting_jobs owner to sequence_owner",
        "drop function meshhook.may_notify()",
    ],
)
async def test_whatever_is_wrong_with_the_wake_up_refuses_no_message(
    connection: Connection, queue_name: str, damage: str
) -> None:
    """Not even that the trigger's owner may not read the sequence."""
    await connection.execute(SOMEBODY_WAITS)
    await connection.execute("create role sequence_owner; create role trigger_owner")
    await connection.execute(
        "grant create, usage on schema meshhook to sequence_owner, trigger_owner; "
        "alter function meshhook.wake_waiting_workers() owner to trigger_owner"
    )
    try:
        await connection.execute(damage)
        await enqueue(connection)
    finally:
        await connection.execute(
            "reassign owned by sequence_owner, trigger_owner to postgres; "
            "drop owned by sequence_owner, trigger_owner; "
            "drop role sequence_owner; drop role trigger_owner"
        )


async def test_a_queue_of_another_role_wakes_its_workers(
    connection: Connection, heard: list[str]
) -> None:
    """The sequence belongs to who made the queue; the trigger may read it all the same."""
    await connection.execute("create role queue_maker")
    await connection.execute(
        "grant create, usage on schema meshhook, pgmq to queue_maker; "
        "grant all on all tables in schema meshhook, pgmq to queue_maker; "
        "grant execute on function meshhook.wake_waiting_workers() to queue_maker; "
        "set role queue_maker"
    )
    try:
        await connection.execute("select meshhook.create_queue('jobs')")
        await connection.execute(SOMEBODY_WAITS)
        await enqueue(connection)
        await connection.execute("reset role")
        await connection.execute(f"notify {WAKE_CHANNEL}")
        assert await heard_count(heard, 2) == 2
    finally:
        await connection.execute("reset role; drop owned by queue_maker; drop role queue_maker")


async def heard_count(heard: list[str], at_least: int) -> int:
    """Wait for so many wake-ups, and return how many there are."""
    await eventually(lambda: len(heard) >= at_least)
    return len(heard)


async def test_nobody_is_woken_where_a_producer_says_so(
    connection: Connection, queue_name: str, heard: list[str]
) -> None:
    """`meshhook.notify` is off for a transaction: it commits without a notification."""
    await connection.execute(SOMEBODY_WAITS)
    async with connection.transaction():
        await connection.execute("set local meshhook.notify = off")
        await enqueue(connection)
    await enqueue(connection)
    assert await heard_count(heard, 1) == 1


async def test_a_message_can_be_sent_in_a_prepared_transaction(own: Connection) -> None:
    """Where transactions may be prepared nothing notifies; a poll finds the message."""
    await own.execute(SOMEBODY_WAITS)
    await own.execute("begin; select pgmq.send('jobs', '{}'::jsonb); prepare transaction 'sent'")
    await own.execute("commit prepared 'sent'")
    assert (await get_queue_snapshot(Database(own), "jobs")).ready == 1


async def test_settings_can_change_in_a_prepared_transaction(own: Connection) -> None:
    """Workers read settings every ten seconds, whether they were told or not."""
    await own.execute("begin; update meshhook.queue_config set paused = true")
    await own.execute("prepare transaction 'paused'")
    await own.execute("commit prepared 'paused'")
    assert (await get_queue_snapshot(Database(own), "jobs")).paused


async def test_a_server_with_prepared_transactions_can_be_told_to_notify(own: Connection) -> None:
    """`meshhook.notify` is on: for those that never prepare one which sends."""
    await own.execute(SOMEBODY_WAITS)
    async with own.transaction():
        await own.execute("set local meshhook.notify = on")
        await enqueue(own)
        # What has notified cannot be prepared.
        with pytest.raises(asyncpg.PostgresError, match="cannot PREPARE"):
            await own.execute("prepare transaction 'sent'")
        await own.execute("rollback; begin")


async def test_a_full_queue_of_notifications_refuses_no_message(
    own_server: EmbeddedPostgres, own: Connection
) -> None:
    """Above a half nothing of ours is added to it; somebody who never reads must not stop work."""
    await own.execute("set meshhook.notify = on")
    await own.execute(SOMEBODY_WAITS)
    deaf = await asyncpg.connect(own_server.url("own"))
    try:
        await deaf.execute("listen nothing_of_ours")
        await deaf.execute("begin; select 1")

        async def fill() -> None:
            # More than there is room for: 64 pages.
            for _ in range(70):
                await own.execute("select pg_notify('noise', repeat('x', 7900))")

        with pytest.raises(asyncpg.PostgresError, match="too many notifications"):
            await fill()
        await enqueue(own)
        await own.execute("update meshhook.queue_config set paused = true")
    finally:
        await deaf.close()


async def test_all_may_be_published(own: Connection) -> None:
    """With a publication of all tables, retention deletes and queues are dropped."""
    await own.execute("create publication everything for all tables")
    await own.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select 'jobs', n, 1, 'succeeded', d "
        "from generate_series(1, 3) n, unnest(array[now(), now() - interval '20 days']) d"
    )
    assert await own.fetchval("select meshhook.delete_expired_attempts()") == 3
    await own.execute(
        "update meshhook.job_attempts set worker = 'w'; delete from meshhook.job_attempts"
    )
    await own.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds) values ('jobs', 'w', 'h', 1, 0, 0, 0); delete from meshhook.workers"
    )
    service = QueueService[Any](own, "jobs")
    await service.enqueue({})
    job = await service.dequeue()
    assert job is not None
    await service.archive_job(job)
    await own.execute("delete from pgmq.a_jobs")
    assert await drop_queue(Database(own), "jobs")
    assert await own.fetchval("select meshhook.drop_expired_attempt_partitions()") == 0


async def test_new_partitions_of_the_history_may_be_published(own: Connection) -> None:
    """A replica identity is not inherited: each new partition is given one."""
    await own.execute("create publication everything for all tables")
    assert await own.fetchval("select meshhook.create_attempt_partitions(9)") == 2
    await own.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "values ('jobs', 1, 1, 'succeeded', now() + interval '9 days')"
    )
    await own.execute("delete from meshhook.job_attempts")


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "4700-01-01 BC", "290000-01-01"])
async def test_times_that_no_calendar_has_fail_no_figure(
    connection: Connection, pool: Pool, queue_name: str, moment: str
) -> None:
    """Messages, dead letters and attempts with any time are counted by everything that counts."""
    for table in ("q_jobs", "q_jobs_dlq"):
        await connection.execute(
            f"insert into pgmq.{table} (vt, enqueued_at, message) "
            f"values ('{moment}', '{moment}', '{{}}')"
        )
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, enqueued_at, "
        f"started_at, finished_at) values ('jobs', 9, 1, 'succeeded', '{moment}', '{moment}', "
        f"now()), ('jobs', 8, 1, 'succeeded', now(), now(), '{moment}')"
    )
    snapshot = await get_queue_snapshot(Database(pool), "jobs")
    is_due = moment in ("-infinity", "4700-01-01 BC")
    assert (snapshot.ready, snapshot.scheduled) == ((1, 0) if is_due else (0, 1))
    assert snapshot.dead_letters == 1
    [row] = await connection.fetch("select * from meshhook.queue_metrics()")
    assert row["problem"] is None
    [row] = await connection.fetch("select * from meshhook.queue_demand('{jobs}', '{9}', '{}', 1)")
    assert row["problem"] is None
    for view in ("queue_monitoring", "job_tracking", "job_statistics", "live_jobs()"):
        assert await connection.fetchval(f"select count(*) from meshhook.{view}") >= 1


async def test_a_time_that_is_infinite_has_no_age(
    connection: Connection, pool: Pool, queue_name: str
) -> None:
    """Servers before version 17 cannot subtract it."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, enqueued_at, message) values ('-infinity', '-infinity', '{}')"
    )
    snapshot = await get_queue_snapshot(Database(pool), "jobs")
    assert snapshot.oldest_ready_seconds == 0
    assert snapshot.oldest_message_seconds is None
    assert snapshot.newest_message_seconds is None


@pytest.mark.parametrize("moment", ["1970-01-01", "-infinity", "4700-01-01 BC"])
async def test_a_message_due_long_ago_is_claimed(
    connection: Connection, pool: Pool, queue_name: str, moment: str
) -> None:
    """Whatever `vt` another client gave it."""
    await connection.execute(
        f"insert into pgmq.q_jobs (vt, message) values ('{moment}', '{{\"n\": 1}}')"
    )
    job = await QueueService[Any](pool, "jobs").dequeue()
    assert job is not None


async def test_the_history_of_a_run_is_looked_up_by_index(
    connection: Connection, queue_name: str
) -> None:
    """`job_tracking where run_id = …` reads the attempts of that run, not all."""
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, enqueued_at, "
        "finished_at) select 'jobs', n, a, 'retried', 'run-' || n, now(), now() + a * interval "
        "'1 ms' from generate_series(1, 20000) n, generate_series(1, 2) a"
    )
    await connection.execute("analyze meshhook.job_attempts")
    query = "select msg_id, attempts from meshhook.job_tracking where run_id = 'run-77'"
    assert [tuple(row) for row in await connection.fetch(query)] == [(77, 2)]
    plan = "\n".join(row[0] for row in await connection.fetch(f"explain {query}"))
    assert "run_id_idx" in plan
    today = await connection.fetchval("select meshhook.job_attempts_partition_name(current_date)")
    assert f"Seq Scan on {today}" not in plan


async def test_a_queue_that_was_created_keeps_waking(
    pool: Pool, connection: Connection, heard: list[str]
) -> None:
    """A waiting worker is told of a message."""
    await create_queue(Database(pool), "jobs")
    await connection.execute(SOMEBODY_WAITS)
    await enqueue(connection)
    assert await heard_count(heard, 1) == 1
