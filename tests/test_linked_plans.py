"""Plans around unique keys and groups: they read few pages, whenever they were made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.postgres.connecting import connect
from meshhook.store import queries
from support.plans import buffers, explained

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

JOBS = 6
GROW = """
    insert into pgmq.q_jobs (vt, message, headers)
        select clock_timestamp(), '{"payload": 1}',
            jsonb_build_object('meshhook-unique', jsonb_build_object('key', 'many-' || n))
        from generate_series(1, 100000) n;
    insert into meshhook.unique_keys (queue, key, msg_id, enqueued_at)
        select 'jobs', 'many-' || n, n + 6, now() from generate_series(1, 100000) n;
    insert into meshhook.job_groups (id, queue, name, msg_ids, total, checked_at)
        select gen_random_uuid(), 'jobs', 'many-' || n, int8multirange(int8range(n + 6, n + 7)), 1,
            now() + interval '1 hour'
        from generate_series(1, 20000) n;
    insert into meshhook.job_attempts
            (queue, msg_id, attempt, outcome, enqueued_at, started_at, finished_at)
        select 'jobs', n + 1000000, 1, 'succeeded', now(), now(), now()
        from generate_series(1, 50000) n;
"""
"""What others add, with no analyze since."""
ANALYZE = """
    analyze pgmq.q_jobs, pgmq.q_jobs_dlq, meshhook.unique_keys, meshhook.job_groups,
        meshhook.job_attempts
"""
SETTLEMENT = (
    "null, array[1,2,3]::bigint[], array[1,1,1], array[{enqueued}]::float8[], null, "
    "array['succeeded','cancelled','dead_lettered'], array[0,0,0]::float8[], "
    "array[null,null,null]::float8[], array[0,0,0]::float8[], "
    "null, null, null, null, null, null, null, 'jobs'"
)
STATEMENTS = {
    "settle": SETTLEMENT,
    "settle_linked": SETTLEMENT + ", null" * 8,
    "delete_unused_unique_keys": "'jobs', '', 10",
    "find_group_of_job": "'00000000-0000-0000-0000-000000000001', 'jobs', 1",
}
"""With arguments as an EXECUTE takes them."""


@pytest.fixture
async def enqueued(connection: Connection, queue_name: str) -> str:
    """A queue with a handful of claimed jobs, each with a unique key or in a group; analyzed."""
    queue = QueueService[Any](connection, queue_name)
    await queue.enqueue_many([{}] * (JOBS // 2), unique_keys=["a", "b", "c"])
    await queue.enqueue_many([{}] * (JOBS // 2), group="import")
    await connection.execute("update pgmq.q_jobs set read_ct = 1")
    await connection.execute(ANALYZE)
    rows = await connection.fetch(
        "select date_part('epoch', enqueued_at) from pgmq.q_jobs order by msg_id limit 3"
    )
    return ", ".join(repr(row[0]) for row in rows)


@pytest.fixture
async def planner(database_url: str) -> AsyncIterator[Connection]:
    """A worker's own connection."""
    connection = await connect(database_url, steady_plans=True)
    yield connection
    await connection.close()


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_plan_made_for_tiny_tables_is_good_for_large_ones(
    connection: Connection, enqueued: str, planner: Connection, name: str
) -> None:
    """Also if they were analyzed just then, when reading all of one is cheap."""
    arguments = STATEMENTS[name].format(enqueued=enqueued)
    query = name.removesuffix("_linked")
    statement = queries.load(query, "jobs", has_links=query != name)
    await planner.execute(f"prepare {name} as {statement}")
    for _ in range(10):  # from the sixth time on the plan is kept
        few = buffers(await explained(planner, name, arguments))
    await connection.execute(GROW)
    many = buffers(await explained(planner, name, arguments))
    assert many <= 2 * few + 150, f"{few} pages at {JOBS} messages, {many} at 100,000"
