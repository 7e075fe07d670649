"""Plans of deadlines, budgets, follow-ups, kept bodies and replays: few pages at every depth."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TypeAlias

import asyncpg
import pytest

from meshhook import create_queue, set_queue_config
from meshhook.postgres.connecting import connect
from meshhook.store import queries
from support.plans import buffers, explained

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEPTH = int(os.environ.get("MESHHOOK_PLAN_ROWS", "200000"))
"""How many rows the tables get. A million takes some minutes, and `--timeout 1500`."""
DAYS = 8
SETTLED = 100
"""How many jobs a settlement settles."""
FILL_QUEUE = """
    insert into pgmq.q_jobs (read_ct, vt, message)
    select 1, clock_timestamp() + interval '1 hour', '{"payload": 1}'
    from generate_series(1, $1::int)
"""
FILL_DEAD_LETTERS = """
    insert into pgmq.q_jobs_dlq (vt, message, headers)
    select clock_timestamp(), '{"payload": 1}', jsonb_build_object('meshhook-dead-letter',
        jsonb_build_object('queue', 'jobs', 'msg_id', n, 'error_type', 'E'))
    from generate_series(1, $1::int) n
"""
FILL_FINISHED = """
    insert into meshhook.finished_jobs (queue, msg_id, enqueued_at, finished_at, outcome, message)
    select case when n % 2 = 0 then 'jobs' else 'other' end, 10000000 + n, now(),
        now() - make_interval(days => n % $2::int), 'succeeded', '{"payload": 1}'
    from generate_series(1, $1::int) n
"""
FILL_HISTORY = """
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, enqueued_at, finished_at)
    select 'jobs', 10000000 + n, 1, case when n % $2::int = 0 then 'expired' else 'succeeded' end,
        now(), now()
    from generate_series(1, $1::int) n
"""
PARTITION = """
    create table meshhook.finished_jobs_{name} (like meshhook.finished_jobs including all);
    alter table meshhook.finished_jobs attach partition meshhook.finished_jobs_{name}
        for values from ('{first} 00:00+00') to ('{next} 00:00+00');
"""


def settlement(kind: str) -> str:
    """Return the text of a statement that settles jobs with all that queues may ask for."""
    is_linked = kind == "settle"
    return queries.load(kind, "jobs", has_links=is_linked, has_budget=is_linked, keeps_bodies=True)


def array(values: Iterable[object], of: str) -> str:
    """Return an array as SQL text."""
    return f"array[{', '.join(map(str, values))}]::{of}[]"


def statements(enqueued: str) -> dict[str, tuple[str, str]]:
    """Return the statements with arguments as an EXECUTE takes them.

    `enqueued` is when the first jobs were enqueued.
    """
    ids, ones = array(range(1, SETTLED + 1), "bigint"), array([1] * SETTLED, "int")
    times = array([1] * SETTLED, "float8")
    names = ("'retried'", "'dead_lettered'", "'expired'", "'succeeded'")
    outcomes = array([names[n % 4] for n in range(SETTLED)], "text")
    finished = array(range(10_000_002, 10_000_002 + 2 * SETTLED, 2), "bigint")
    return {
        "settle": (
            settlement("settle"),
            f"null, {ids}, {ones}, {enqueued}, null, {outcomes}, {times}, {times}, {times}, "
            + "null, " * 7
            + "'jobs'"
            + ", null" * 8,
        ),
        "settle_succeeded": (
            settlement("settle_succeeded"),
            f"null, {ids}, {ones}, {enqueued}, null, {times}, {times}" + ", null" * 4 + ", 'jobs'",
        ),
        "grant_retries": ("select meshhook.grant_retries($1, $2)", "'jobs', 100"),
        "replay_jobs": (
            queries.load("replay_jobs"),
            f"'jobs', {finished}, null, null, false, 0, false",
        ),
        "find_finished_job": (queries.load("find_finished_job"), "'jobs', 10000002, now()"),
        "find_expired_jobs": (
            queries.load("find_recorded_jobs_by_outcome"),
            "'jobs', 9223372036854775807, 1000, null, null, 'expired', 50, null, null, null",
        ),
        "delete_expired": ("select meshhook.delete_expired_finished(100)", ""),
        "lock_dead_letters": (queries.load("lock_dead_letters", "jobs"), f"100, {ids}"),
        "replay_dead_letters": (
            queries.load("replay_dead_letters", "jobs", target="jobs"),
            f"{ids}, 'jobs', true, null",
        ),
        "match_dead_letters": (
            queries.load("match_dead_letters", "jobs"),
            "9223372036854775807, 100, 'E', null, null, null, null, null, null, 0",
        ),
    }


async def make_days(connection: Connection) -> None:
    """Make the partitions of the last days."""
    days = await connection.fetch(
        "select to_char(d, 'YYYYMMDD') as name, d::date::text as first, (d::date + 1)::text "
        "as next "
        "from generate_series((now() at time zone 'UTC')::date - $1::int, "
        "(now() at time zone 'UTC')::date - 1, interval '1 day') d",
        DAYS,
    )
    for day in days:
        await connection.execute(PARTITION.format(**day))


async def fill(connection: Connection, count: int) -> None:
    """Add as much to every table, with no analyze since."""
    await connection.execute(FILL_QUEUE, count)
    await connection.execute(FILL_DEAD_LETTERS, count)
    await connection.execute(FILL_FINISHED, count, DAYS)
    await connection.execute(FILL_HISTORY, count, max(count // 40, 1))


async def rows_read(connection: Connection, name: str, arguments: str) -> int:
    """Run a prepared statement, undo it, and return how many rows of tables it has read."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f"execute {name} ({arguments})".removesuffix("()"))
        read: int = await connection.fetchval(
            "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint "
            "from pg_stat_xact_user_tables"
        )
    finally:
        await transaction.rollback()
    return read


async def measured(url: str, *, is_steady: bool) -> dict[str, tuple[int, int]]:
    """Return how many pages and rows each statement read, with the functions that it calls.

    That is on a connection of a worker, or on one of a program.
    """
    session = await connect(url, steady_plans=is_steady)
    try:
        found: dict[str, tuple[int, int]] = {}
        rows = await session.fetch(
            "select date_part('epoch', enqueued_at) from pgmq.q_jobs where msg_id <= $1 "
            "order by msg_id",
            SETTLED,
        )
        enqueued = array([repr(row[0]) for row in rows], "float8")
        for name, (sql, arguments) in statements(enqueued).items():
            await session.execute(f"prepare {name} as {sql}")
            plan = await explained(session, name, arguments)
            found[name] = buffers(plan), await rows_read(session, name, arguments)
        return found
    finally:
        await session.close()


@pytest.mark.parametrize("is_steady", [True, False])
async def test_a_deep_table_costs_no_more_than_a_shallow_one(
    database_url: str, connection: Connection, queue_name: str, *, is_steady: bool
) -> None:
    """However many rows each table has, no statement reads more than the rows that it is about.

    So it is with plans made before anything was analyzed, on connections of workers and programs.
    """
    for name in ("next", "other"):
        await create_queue(connection, name)
    await set_queue_config(connection, "other", keep_bodies_days=100)
    await set_queue_config(
        connection,
        queue_name,
        dead_letter_follow_up="next",
        max_retries_per_second=10,
        keep_bodies_days=DAYS,
    )
    await make_days(connection)
    await fill(connection, 2_000)
    shallow = await measured(database_url, is_steady=is_steady)
    await fill(connection, DEPTH)
    deep = await measured(database_url, is_steady=is_steady)
    for name, (pages, rows) in deep.items():
        few, _ = shallow[name]
        assert pages <= 2 * few + 1_000, f"{name}: {few} pages at 2,000 rows, {pages} at {DEPTH}"
        assert rows < DEPTH / 10, f"{name}: {rows} rows"


async def test_retention_reads_what_it_deletes(connection: Connection, queue_name: str) -> None:
    """Bodies that another queue keeps for longer are passed by, however many there are."""
    await create_queue(connection, "other")
    await set_queue_config(connection, "other", keep_bodies_days=100)
    await set_queue_config(connection, queue_name, keep_bodies_days=3)
    await make_days(connection)
    await connection.execute(FILL_FINISHED, DEPTH, DAYS)
    await connection.execute("prepare expire as select meshhook.delete_expired_finished(1000)")
    plan = await explained(connection, "expire", "")
    assert buffers(plan) <= 30_000
    gone = await connection.fetchval("select meshhook.delete_expired_finished(1000)")
    assert gone == 1_000
    kept = "select count(*) from meshhook.finished_jobs where queue = 'other'"
    assert await connection.fetchval(kept) == DEPTH // 2
