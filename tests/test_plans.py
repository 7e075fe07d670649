"""Plans that hold at every depth: a queue that was empty when they were made is deep later."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.postgres.connecting import connect
from meshhook.store import queries
from support import plans
from support.plans import buffers, scans_of

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEPTH = 200_000
FILL = """
    insert into pgmq.q_jobs (vt, message, headers)
    select clock_timestamp() + make_interval(secs => $2::float8), '{"payload": 1}', null
    from generate_series(1, $1::int)
"""
SETTLEMENT = (
    "array[1,2,3]::bigint[], array[1,1,1], array[0,0,0]::float8[], null, "
    "array['succeeded','retried','dead_lettered'], "
    "array[0,1,0]::float8[], array[null,null,null]::float8[], "
    "array[0,0,0]::float8[], null, null, null, null, null, null, null, 'jobs'"
)
STATEMENTS = {
    "claim": "30, '2000-01-01', 100, 5, null, 'jobs'",
    "settle": f"null, {SETTLEMENT}",
    "settle_with_links": f"null, {SETTLEMENT}" + ", null" * 8,
    "settle_with_kept": f"null, {SETTLEMENT}",
    "settle_succeeded": "null, array[1,2,3]::bigint[], array[1,1,1], array[0,0,0]::float8[], "
    "null, array[0,1,0]::float8[], array[1,1,1]::float8[], null, null, null, null, 'jobs'",
    "settle_succeeded_with_kept": "null, array[1,2,3]::bigint[], array[1,1,1], "
    "array[0,0,0]::float8[], null, array[0,1,0]::float8[], array[1,1,1]::float8[], null, null, "
    "null, null, 'jobs'",
    "settle_alike": "null, '{1,2,3}', 'a' || chr(31) || 'b' || chr(31) || 'c', array[1], array[3], "
    "array[1], array[0]::float8[], null, array[0]::float8[], array[1]::float8[], null, null, null, "
    "'jobs'",
    "extend": "array[1,2,3]::bigint[], array[1,1,1], array[0,0,0]::float8[], 30, false",
    "release": "array[1,2,3]::bigint[], array[1,1,1], array[0,0,0]::float8[], 0",
    "find_locked": "array[1,2,3]::bigint[], array[1,1,1], array[0,0,0]::float8[]",
    "wait": "2, 'meshhook.waiting_jobs'",
    "find_settled": "'jobs', 'w', array[1]::bigint[], array[1], array[0]::float8[], "
    "array[0]::float8[]",
    "find_ends": "'jobs', array[1,2,3]::bigint[]",
    "find_live_job": "5, 'jobs'",
    "find_live_jobs_by_id": "array[1,2,3]::bigint[]",
    "find_live_jobs": "9223372036854775807, 1000, null, null, null, null, 50, null, null, null, "
    "null",
    "find_live_jobs_by_state": "null, null, null, 1000, 'ready', true, 50, null, null, null, "
    "9223372036854775807, null",
    "find_job_states": "'jobs', array[1,2,3]::bigint[]",
    "purge_queue": "1000, -1, 1000000, 'jobs'",
}
"""Statements of a worker and of administration, with arguments as an EXECUTE takes them."""


def text_of(name: str, queue_name: str) -> str:
    """Return the text of one of `STATEMENTS`."""
    file, _, part = name.partition("_with_")
    return queries.load(file, queue_name, has_links=part == "links", keeps_bodies=part == "kept")


@pytest.fixture
async def steady(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection, on which every statement was planned for an empty queue."""
    connection = await connect(database_url, steady_plans=True)
    for name, arguments in STATEMENTS.items():
        await connection.execute(f"prepare {name} as {text_of(name, queue_name)}")
        # Once, so that the plan is made and kept: now, while the table is empty.
        await connection.execute(f"execute {name} ({arguments})")
    yield connection
    await connection.close()


async def fill(connection: Connection, messages: int, delay_seconds: float = 0) -> None:
    """Add messages, as many producers would, with no analyze since."""
    await connection.execute(FILL, messages, delay_seconds)


async def explained(
    connection: Connection, name: str, arguments: str | None = None
) -> dict[str, Any]:
    """Run a prepared statement, undo it, and return what it did."""
    return await plans.explained(
        connection, name, STATEMENTS[name] if arguments is None else arguments
    )


async def claim_buffers(connection: Connection, from_vt: str = "2000-01-01") -> int:
    """Return how many pages a claim of ten looks at."""
    plan = await explained(connection, "claim", f"30, '{from_vt}', 10, 5, null, 'jobs'")
    assert scans_of(plan) == {"Index Scan"}
    return buffers(plan)


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_plan_made_for_an_empty_queue_is_by_index(steady: Connection, name: str) -> None:
    """No statement of a worker reads the whole table of a queue."""
    await fill(steady, 2_000)
    plan = await explained(steady, name)
    assert scans_of(plan) <= {"Index Scan", "Index Only Scan", "Tid Scan"}, json.dumps(plan)
    assert scans_of(plan) or name == "find_settled"


async def test_a_deep_queue_costs_no_more_than_a_shallow_one(steady: Connection) -> None:
    """With 200,000 messages, each statement reads only the pages of its own messages."""
    await fill(steady, 2_000)
    shallow = {name: buffers(await explained(steady, name)) for name in STATEMENTS}
    await fill(steady, DEPTH)
    for name, few in shallow.items():
        deep = buffers(await explained(steady, name))
        assert deep <= 2 * few + 100, f"{name}: {few} pages at 2,000 messages, {deep} at {DEPTH}"


async def test_a_queue_that_was_emptied_and_vacuumed_costs_no_more(
    steady: Connection, connection: Connection
) -> None:
    """Planned again for a table known to be empty, each statement still uses its index."""
    await fill(steady, 2_000)
    await connection.execute("delete from pgmq.q_jobs")
    await connection.execute("vacuum analyze pgmq.q_jobs")
    for name, arguments in STATEMENTS.items():
        await steady.execute(f"execute {name} ({arguments})")
    await fill(steady, 2_000)
    shallow = {name: buffers(await explained(steady, name)) for name in STATEMENTS}
    await fill(steady, DEPTH)
    for name, few in shallow.items():
        deep = buffers(await explained(steady, name))
        assert deep <= 2 * few + 100, f"{name}: {few} pages at 2,000 messages, {deep} at {DEPTH}"


@pytest.mark.parametrize("function", ["queue_snapshot", "list_queue_snapshots", "queue_metrics"])
@pytest.mark.parametrize("is_steady", [True, False])
async def test_a_snapshot_reads_no_more_than_its_limit(
    steady: Connection, database_url: str, function: str, is_steady: bool
) -> None:
    """Counting is bounded, on a worker's connection as on any other, before any analyze."""
    sql = queries.load(function).replace("$1::pg_catalog.text", "'jobs'")
    sql = re.sub(r"\$[12]::int\b", "1000", sql)
    connection = await connect(database_url, steady_plans=is_steady)
    try:
        await connection.execute(f"prepare snapshot as {sql}")
        await connection.execute("execute snapshot")
        await fill(steady, DEPTH // 2)
        await fill(steady, DEPTH // 2, delay_seconds=3_600)
        assert buffers(await explained(connection, "snapshot", "")) < 3_500
    finally:
        await connection.close()


async def test_finished_jobs_do_not_slow_polling(
    steady: Connection, connection: Connection
) -> None:
    """After 350,000 jobs have come and gone, a claim still reads only a few pages."""
    empty = await claim_buffers(steady)
    await fill(steady, 350_000)
    await connection.execute("delete from pgmq.q_jobs")
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select 'jobs', n, 1, 'succeeded', now() from generate_series(1, 350000) n"
    )
    # Before any vacuum: the first claim meets the dead entries, and marks them for all others.
    await claim_buffers(steady)
    assert await claim_buffers(steady) <= empty + 1_500
    await connection.execute("vacuum pgmq.q_jobs")
    assert await claim_buffers(steady) <= empty + 20
    await fill(steady, 10)
    assert await claim_buffers(steady) <= empty + 200
    assert buffers(await explained(steady, "wait")) <= 20


async def test_delayed_jobs_do_not_slow_claims(steady: Connection) -> None:
    """A claim skips 100,000 jobs that fall due later."""
    await fill(steady, 10)
    few = await claim_buffers(steady)
    await fill(steady, 100_000, delay_seconds=3_600)
    assert await claim_buffers(steady) <= few + 100
    assert buffers(await explained(steady, "wait")) <= 20


async def test_an_old_transaction_does_not_slow_claims(
    steady: Connection, connection: Connection
) -> None:
    """With a low-water mark, a claim costs the same however many jobs were settled."""
    holder = connection.transaction(isolation="repeatable_read")
    await holder.start()
    await connection.fetchval("select pg_current_xact_id()")
    bounded, unbounded = [], []
    for _ in range(10):
        mark = await steady.fetchval("select clock_timestamp()")
        await fill(steady, 5_000)
        bounded.append(await claim_buffers(steady, str(mark)))
        unbounded.append(await claim_buffers(steady))
        # All of them settled, and none can be cleaned up: the old transaction might look.
        await steady.execute("delete from pgmq.q_jobs")
    await holder.rollback()
    assert max(bounded[1:]) <= 2 * bounded[0] + 50, bounded
    assert unbounded[-1] > 5 * bounded[-1], "there was nothing to bound"


async def test_without_the_settings_the_plan_goes_stale(
    database_url: str, queue_name: str, connection: Connection
) -> None:
    """The settings are needed: a plan kept from an empty queue reads the whole table without."""
    await connection.execute("vacuum analyze pgmq.q_jobs")
    stale = await asyncpg.connect(database_url)
    try:
        for name, arguments in STATEMENTS.items():
            await stale.execute(f"prepare {name} as {text_of(name, queue_name)}")
            for _ in range(6):
                await stale.execute(f"execute {name} ({arguments})")
        await fill(stale, 2_000)
        scans = {name: scans_of(await explained(stale, name)) for name in STATEMENTS}
        assert "Seq Scan" in set().union(*scans.values()), scans
    finally:
        await stale.close()


@pytest.mark.parametrize(
    ("statement", "filters"),
    [
        ("find_recorded_jobs_by_error", "null, 50, 'Rare'"),
        ("find_recorded_jobs_by_outcome", "'cancelled', 50, null"),
    ],
)
@pytest.mark.parametrize("is_steady", [True, False])
async def test_failures_are_found_without_reading_successes(
    database_url: str,
    queue_name: str,
    connection: Connection,
    *,
    statement: str,
    filters: str,
    is_steady: bool,
) -> None:
    """Among 200,000 attempts, a page of jobs by error or by outcome reads some hundred pages."""
    await connection.execute(
        """insert into meshhook.job_attempts
            (queue, msg_id, attempt, outcome, enqueued_at, finished_at, error_type)
        select $1, n, 1, case when n % 5000 = 0 then 'cancelled' else 'succeeded' end, now(), now(),
            case when n % 5000 = 0 then 'Rare' end
        from generate_series(1, $2::int) n""",
        queue_name,
        DEPTH,
    )
    await connection.execute("analyze meshhook.job_attempts")
    steady = await connect(database_url, steady_plans=is_steady)
    try:
        await steady.execute(f"prepare found as {queries.load(statement)}")
        arguments = (
            f"'{queue_name}', 9223372036854775807, 1000, null, null, {filters}, "
            "now() - interval '2 hours', null"
        )
        plan = await plans.explained(steady, "found", arguments)
        assert plan["Actual Rows"] == 40
        assert buffers(plan) < 1_500, json.dumps(plan)
    finally:
        await steady.close()
