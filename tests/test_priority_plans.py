"""Plans of claims by priority: by their index, at every depth, whatever band the jobs are of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.administration import set_queue_config
from meshhook.postgres.connecting import connect
from meshhook.store import queries
from support.plans import buffers, explained, nodes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEPTH = 100_000
FILL = """
    insert into pgmq.q_jobs (vt, message, headers)
    select clock_timestamp() + make_interval(secs => $3::float8), '{"payload": 1}',
        jsonb_build_object('meshhook-priority', $2::int)
    from generate_series(1, $1::int)
"""
ARGUMENTS = (
    "30, array[null,null,null,null]::timestamptz[], 10, 5, "
    "array[null,null,null,null]::timestamptz[], 'jobs', array[4,12,48,480], {most_aged}, 3"
)


@pytest.fixture
async def steady(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection, on which the claim was planned while the queue was empty."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, prioritized=True)
    await connection.execute(f"prepare claim as {queries.load('claim_prioritized', queue_name)}")
    await connection.execute(f"execute claim ({ARGUMENTS.format(most_aged=2)})")
    yield connection
    await connection.close()


async def plan(connection: Connection, most_aged: int = 2) -> dict[str, Any]:
    """Return what a claim does."""
    return await explained(connection, "claim", ARGUMENTS.format(most_aged=most_aged))


def indexes(plan: dict[str, Any]) -> set[str]:
    """Return the indexes by which a plan reads the queue, and how it reads it otherwise."""
    return {
        node.get("Index Name", node["Node Type"])
        for node in nodes(plan)
        if node.get("Relation Name") == "q_jobs" and node["Node Type"] != "ModifyTable"
    }


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_a_claim_reads_by_its_indexes(
    database_url: str, steady: Connection, *, is_analyzed: bool
) -> None:
    """Each band is read by the index of priorities, with statistics or without."""
    await steady.execute(FILL, 5_000, 3, -1)
    if is_analyzed:
        await steady.execute("analyze pgmq.q_jobs")
    assert indexes(await plan(steady)) == {"q_jobs_pkey", "q_jobs_priority_idx"}
    other = await connect(database_url)
    try:
        await other.execute(f"prepare claim as {queries.load('claim_prioritized', 'jobs')}")
        assert indexes(await plan(other)) == {"q_jobs_pkey", "q_jobs_priority_idx"}
    finally:
        await other.close()


@pytest.mark.parametrize("band", [0, 2, 3])
@pytest.mark.parametrize("delay_seconds", [-1_000, -1, 3_600])
async def test_a_deep_queue_costs_no_more_than_a_shallow_one(
    steady: Connection, band: int, delay_seconds: int
) -> None:
    """With 100,000 messages of one band, aged, ready or delayed, a claim reads what it takes."""
    await steady.execute(FILL, DEPTH, band, delay_seconds)
    await steady.execute(FILL, 20, 1, -1)
    assert buffers(await plan(steady)) <= 400


@pytest.mark.parametrize("is_steady", [True, False])
async def test_a_search_for_a_rare_priority_reads_its_band(
    database_url: str, connection: Connection, queue_name: str, *, is_steady: bool
) -> None:
    """With 100,000 normal messages, a few urgent ones are found by the index of priorities.

    Of the band that has them all, no more are read than it was told to.
    """
    await set_queue_config(connection, queue_name, prioritized=True)
    sql = queries.load("find_live_jobs_by_priority", queue_name)
    session = await connect(database_url, steady_plans=is_steady)
    try:
        await session.execute(f"prepare search as {sql}")
        arguments = "null, null, null, 500, null, {}, 50, null, null, null, 9223372036854775807"
        await session.execute(f"execute search ({arguments.format(0)})")
        await connection.execute(FILL, 20, 0, -1)
        await connection.execute(FILL, DEPTH, 2, -1)
        await connection.execute(FILL, 20, 0, 3_600)
        for band, found, pages in ((0, 40, 200), (2, 50, 1_200)):
            assert len(await session.fetch(f"execute search ({arguments.format(band)})")) == found
            plan = await explained(session, "search", arguments.format(band))
            assert indexes(plan) == {"q_jobs_priority_idx"}
            assert buffers(plan) <= pages
    finally:
        await session.close()


async def test_dead_entries_of_one_band_cost_another_nothing(steady: Connection) -> None:
    """The entries of settled urgent messages lie below where the claim begins in that band."""
    await steady.execute(FILL, DEPTH, 0, -60)
    await steady.execute("delete from pgmq.q_jobs")
    await steady.execute(FILL, 20, 3, -1_000)
    bounded = ARGUMENTS.replace(
        "array[null,null", "array[now() - interval '1 second', null", 1
    ).format(most_aged=2)
    few = buffers(await explained(steady, "claim", bounded))
    assert few <= 400
