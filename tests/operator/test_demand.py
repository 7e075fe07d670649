"""The demand of all queues in one statement, against a real PostgreSQL."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from meshhook.postgres.database import Database
from meshhook_operator.databases.demand import (
    MAX_COUNTED,
    DemandRequest,
    QueueDemand,
    QueueProblem,
    read_demand,
)


@pytest.fixture
async def database(pool: asyncpg.Pool[asyncpg.Record]) -> Database:
    """The database of the test."""
    return Database(pool)


async def look(
    database: Database, *queue_names: str, lookahead_seconds: float = 5, waiting: bool = False
) -> dict[str, QueueDemand | QueueProblem]:
    """Read the demand of these queues."""
    requests = [DemandRequest(name, lookahead_seconds, waiting) for name in queue_names]
    return await read_demand(database, requests, waiting_seconds=30)


async def demand_of(
    database: Database, queue_name: str, lookahead_seconds: float = 5
) -> QueueDemand:
    """Read the demand of one queue that can be read."""
    found = (await look(database, queue_name, lookahead_seconds=lookahead_seconds))[queue_name]
    assert isinstance(found, QueueDemand), found
    return found


async def send(connection: asyncpg.Connection[asyncpg.Record], **columns: str) -> None:
    """Put a message into queue `jobs`, with these columns as SQL."""
    columns = {"message": "'{}'", "vt": "now()"} | columns
    await connection.execute(
        f"insert into pgmq.q_jobs ({', '.join(columns)}) values ({', '.join(columns.values())})"
    )


async def test_an_empty_queue_asks_for_nothing(database, queue_name):
    """All numbers are zero, and the settings are those of a new queue."""
    found = await demand_of(database, queue_name)
    assert (found.sample.ready, found.sample.leased, found.sample.lost) == (0, 0, 0)
    assert found.sample.unfinished == 0
    assert found.sample.next_due_seconds is None
    assert found.sample.oldest_ready_seconds == 0
    assert found.settings["visibility_timeout_seconds"] == 30
    assert found.settings["paused"] is False


async def test_states(database, connection, queue_name):
    """Each message counts in its state, and those that fall due soon are counted apart."""
    await send(connection, vt="now() - interval '100 seconds'")
    await send(connection, vt="now() - interval '1 second'", read_ct="1")
    await send(connection, vt="now() + interval '30 minutes'", read_ct="1")
    await send(connection, vt="now() + interval '3 minutes'")
    await send(connection, vt="now() + interval '1 hour'")
    await send(
        connection,
        vt="now() + interval '4 minutes'",
        read_ct="1",
        headers="""'{"meshhook-settled": 1}'""",
    )
    found = await demand_of(database, queue_name, lookahead_seconds=300)
    sample, status = found.sample, found.status
    assert (sample.ready, sample.lost, sample.leased) == (1, 1, 1)
    assert (status.ready, status.scheduled, status.retrying, status.running) == (2, 2, 1, 1)
    assert sample.due_soon == 2
    assert sample.unfinished == 6
    assert sample.enqueued_total == 6
    assert sample.next_due_seconds == pytest.approx(180, abs=60)
    assert sample.oldest_ready_seconds == pytest.approx(100, abs=60)


async def test_jobs_that_run_behind_a_long_schedule_are_not_overlooked(
    database, connection, queue_name
):
    """Their leases may expire after so many scheduled messages that the count stops before them."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now() + interval '10 minutes', '{}' "
        "from generate_series(1, $1)",
        MAX_COUNTED + 1,
    )
    await send(connection, vt="now() + interval '30 minutes'", read_ct="1")
    await connection.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, seen_at) values ('jobs', 'a', 'pod-a', 10, 1, 0, 0, now())"
    )
    found = await demand_of(database, queue_name)
    assert found.sample.leased == found.status.running == 1
    assert found.sample.unfinished is None


async def test_lost_messages_do_not_age_the_queue(database, connection, queue_name):
    """A message that kills its workers must not ask for more of them because of its age."""
    await send(connection, vt="now() - interval '1 hour'", read_ct="1")
    found = await demand_of(database, queue_name)
    assert found.sample.oldest_ready_seconds == 0


async def test_a_message_at_the_end_of_time(database, connection, queue_name):
    """A distant or infinite time does not break the read."""
    await send(connection, vt="'infinity'")
    await send(connection, vt="'-infinity'")
    await send(connection, vt="'294276-01-01'")
    found = await demand_of(database, queue_name)
    assert (found.sample.ready, found.status.scheduled) == (1, 2)


async def test_workers_report(database, connection, queue_name):
    """Reports of live workers are included, those of dead workers are not."""
    await connection.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, seen_at) values "
        "('jobs', 'a', 'pod-a', 10, 3, 100, 7.5, now()), "
        "('jobs', 'a2', 'pod-a', 10, 2, 50, 2.5, now()), "
        "('jobs', 'b', 'pod-b', 10, 0, 0, 0, now() - interval '31 seconds'), "
        "('other', 'c', 'pod-c', 10, 0, 0, 0, now())"
    )
    found = await demand_of(database, queue_name)
    assert [report.worker for report in found.sample.workers] == ["a", "a2"]
    assert found.sample.workers[0].busy_seconds == 7.5
    assert [report.host for report in found.sample.workers] == ["pod-a", "pod-a"]


async def test_cordons_are_read(database, connection, queue_name):
    """Of each worker: its host, how long it is asked to claim nothing, and whether it obeys."""
    await connection.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, oldest_running_seconds, cordoned, cordoned_until) values "
        "('jobs', 'a', 'pod-a', 10, 1, 0, 7.5, 7.5, true, now() + interval '20 minutes'), "
        "('jobs', 'b', 'pod-b', 10, 0, 0, 0, 0, false, now() + interval '20 minutes'), "
        "('jobs', 'c', 'pod-c', 10, 0, 0, 0, 0, true, now() - interval '1 second'), "
        "('jobs', 'd', 'pod-d', 10, 0, 0, 0, 0, true, null)"
    )
    found = await demand_of(database, queue_name)
    workers = sorted(found.sample.workers, key=lambda each: each.host)
    assert [each.host for each in workers] == ["pod-a", "pod-b", "pod-c", "pod-d"]
    assert [each.cordoned for each in workers] == [True, False, False, False]
    assert [each.cordon_seconds > 0 for each in workers] == [True, True, False, False]
    assert workers[0].cordon_seconds == pytest.approx(1_200, abs=60)
    assert workers[0].oldest_running_seconds == 7.5


async def test_dead_letters(database, connection, queue_name):
    """Dead letters are counted, but are not demand."""
    await connection.execute("insert into pgmq.q_jobs_dlq (vt, message) values (now(), '{}')")
    found = await demand_of(database, queue_name)
    assert found.status.dead_letters == 1
    assert found.sample.unfinished == 0


@pytest.mark.parametrize(
    "damage",
    [
        "select pgmq.drop_queue('jobs')",
        "select pgmq.drop_queue('jobs_dlq')",
        "delete from meshhook.queue_config",
        "drop sequence meshhook.waiting_jobs",
    ],
)
async def test_a_queue_that_is_missing_in_part(database, connection, queue_name, damage):
    """A dropped queue is noticed, so that it can be created again."""
    await connection.execute(damage)
    found = (await look(database, queue_name))[queue_name]
    assert isinstance(found, QueueProblem)
    assert found.is_missing


async def test_a_queue_that_cannot_be_read_disturbs_no_other(database, connection, queue_name):
    """A locked or damaged table affects only its own queue."""
    await connection.execute("select meshhook.create_queue('locked')")
    await connection.execute("select meshhook.create_queue('damaged')")
    await connection.execute("alter table pgmq.q_damaged rename column vt to gone")
    await send(connection)
    async with connection.transaction():
        await connection.execute("lock table pgmq.q_locked in access exclusive mode")
        found = await look(database, "locked", "damaged", "never", queue_name)
    assert isinstance(found["locked"], QueueProblem)
    assert "lock timeout" in found["locked"].message
    assert isinstance(found["damaged"], QueueProblem)
    assert not found["damaged"].is_missing
    assert isinstance(found["never"], QueueProblem)
    jobs = found[queue_name]
    assert isinstance(jobs, QueueDemand)
    assert jobs.sample.ready == 1


async def test_hundreds_of_queues_keep_no_locks(database, connection):
    """The locks of a queue are released before the next is read: a server has few thousand."""
    names = [f"queue_{number}" for number in range(3)]
    for name in names:
        await connection.execute("select meshhook.create_queue($1)", name)
    async with database.transaction() as own:
        await own.fetch(
            "select * from meshhook.queue_demand($1, $2, '{}', 5)", names, [5.0] * len(names)
        )
        held = await own.fetchval(
            "select count(*) from pg_locks l join pg_class c on c.oid = l.relation "
            "where l.pid = pg_backend_pid() and c.relname like 'q\\_queue%'"
        )
    assert held == 0


async def test_a_waiting_queue_notifies(database, connection, queue_name):
    """Only after a read that announces a waiting operator does the next insert notify."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(database.source._connect_args[0])
    try:
        await listener.add_listener(
            "meshhook_wake_jobs", lambda *arguments: heard.put_nowait(arguments[2])
        )
        await look(database, queue_name)
        await send(connection)
        await look(database, queue_name, waiting=True)
        await connection.execute("select pg_notify('meshhook_wake_jobs', '')")
        assert await heard.get() == "meshhook_wake_jobs"
        await send(connection)
        assert await heard.get() == "meshhook_wake_jobs"
        assert heard.empty()
    finally:
        await listener.close()


async def test_counts_stop_somewhere(database, connection, queue_name):
    """A long queue is counted up to a limit, and the result says so."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 10001)"
    )
    found = await demand_of(database, queue_name)
    assert found.sample.ready == 10_000
    assert found.sample.ready_is_capped
    assert found.sample.unfinished is None
    assert found.sample.enqueued_total == 10_001


async def test_nothing_to_look_at(database):
    """Without queues, no statement is run."""
    assert await look(database) == {}


async def test_drop_if_empty(database, connection, queue_name):
    """Only a queue that holds neither messages nor dead letters is dropped."""
    drop = "select meshhook.drop_queue_if_empty('jobs')"
    await send(connection)
    assert await connection.fetchval(drop) is False
    await connection.execute("delete from pgmq.q_jobs")
    await connection.execute("insert into pgmq.q_jobs_dlq (vt, message) values (now(), '{}')")
    assert await connection.fetchval(drop) is False
    await connection.execute("delete from pgmq.q_jobs_dlq")
    assert await connection.fetchval(drop) is True
    assert isinstance((await look(database, queue_name))[queue_name], QueueProblem)
    assert await connection.fetchval(drop) is True
