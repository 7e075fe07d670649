"""Plans of keyed claims: by their indexes, at every depth, whatever else is in the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.administration import set_queue_config
from meshhook.postgres.database import connect
from meshhook.store import queries
from support.plans import buffers, explained, nodes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEPTH = 100_000
FILL = """
    insert into pgmq.q_jobs (vt, message, headers)
    select clock_timestamp() + make_interval(secs => $3::float8), '{"payload": 1}',
        jsonb_build_object('x-pgmq-group', 'key-' || n % $2::int)
    from generate_series(1, $1::int) n
"""
ARGUMENTS = "30, '2000-01-01', {limit}, 5, null, 'jobs', '', null, false"


@pytest.fixture
async def steady(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection, on which the claim was planned while the queue was empty."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, keyed=True)
    await connection.execute(f"prepare claim as {queries.load('claim_keyed', queue_name)}")
    await connection.execute(f"execute claim ({ARGUMENTS.format(limit=10)})")
    yield connection
    await connection.close()


async def fill(connection: Connection, messages: int, keys: int, delay_seconds: float = 0) -> None:
    """Add messages, as many producers would, with no analyze since."""
    await connection.execute(FILL, messages, keys, delay_seconds)


async def plan(connection: Connection, limit: int = 10) -> dict[str, Any]:
    """Return what a claim does."""
    return await explained(connection, "claim", ARGUMENTS.format(limit=limit))


def indexes(plan: dict[str, Any]) -> set[str]:
    """Return the indexes by which a plan reads the queue, and how it reads it otherwise."""
    return {
        node.get("Index Name", node["Node Type"])
        for node in nodes(plan)
        if node.get("Relation Name") == "q_jobs" and node["Node Type"] != "ModifyTable"
    }


async def test_a_plan_made_for_an_empty_queue_is_by_index(steady: Connection) -> None:
    """Each part of a claim reads by the index that is there for it."""
    await fill(steady, 2_000, 10)
    assert indexes(await plan(steady)) == {
        "q_jobs_pkey",
        "q_jobs_vt_idx",
        "q_jobs_key_idx",
        "q_jobs_running_idx",
    }


@pytest.mark.parametrize("keys", [1, 200, 10_000])
async def test_a_deep_queue_costs_no_more_than_a_shallow_one(steady: Connection, keys: int) -> None:
    """With 100,000 messages, a claim reads only the pages of its keys and of its messages."""
    await fill(steady, 2_000, min(keys, 2_000))
    few = buffers(await plan(steady))
    await fill(steady, DEPTH, keys)
    assert buffers(await plan(steady)) <= 2 * few + 300
    assert few <= 3_000


async def test_delayed_jobs_do_not_slow_claims(steady: Connection) -> None:
    """A claim skips 100,000 jobs that fall due later, of its own keys and of others."""
    await fill(steady, 10, 2)
    few = buffers(await plan(steady))
    await fill(steady, DEPTH, 2, delay_seconds=3_600)
    assert buffers(await plan(steady)) <= few + 100
    await fill(steady, DEPTH, 200, delay_seconds=3_600)
    assert buffers(await plan(steady)) <= few + 2_000


async def test_a_key_alone_is_not_counted(steady: Connection) -> None:
    """Where only one key has jobs that are due, what runs of it is not read."""
    await fill(steady, 1_000, 1)
    few = buffers(await plan(steady))
    await steady.execute(
        "insert into pgmq.q_jobs (vt, message, headers, read_ct) select now() + interval '1 hour', "
        "'{}', '{\"x-pgmq-group\": \"key-0\"}', 1 from generate_series(1, 20000)"
    )
    assert buffers(await plan(steady)) <= few + 50


async def test_settled_jobs_do_not_slow_polling(steady: Connection, connection: Connection) -> None:
    """After 100,000 jobs have come and gone, a claim reads only a few pages."""
    empty = buffers(await plan(steady))
    await fill(steady, DEPTH, 100)
    await connection.execute("delete from pgmq.q_jobs")
    # Before any vacuum: the first claim meets the dead entries, and marks them for all others.
    await plan(steady)
    assert buffers(await plan(steady)) <= empty + 2_000
    await connection.execute("vacuum pgmq.q_jobs")
    assert buffers(await plan(steady)) <= empty + 20
