"""Plans of lookups in a deep queue, generic and custom."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import asyncpg

from meshhook.administration import set_queue_config
from meshhook.postgres.connecting import connect
from meshhook.store import queries
from support.plans import buffers, explained, scans_of

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEPTH = 100_000
PER_ID = 100
"""How many messages each run and each project has."""
MANY = 9_223_372_036_854_775_807
LOOKED_UP = {
    "run_id": "'r77', null, null",
    "workflow_id": "null, 'w1', null",
    "project_id": "null, null, '77'",
}
FILL = """
    insert into pgmq.q_jobs (vt, message)
    select now(), jsonb_build_object('run_id', 'r' || n / $2::int, 'workflow_id', 'w' || n % 2,
        'project_id', n % ($1::int / $2::int))
    from generate_series(1, $1::int) n
"""


async def prepared(
    database_url: str, name: str, sql: str, mode: str, *, is_steady: bool
) -> Connection:
    """Return a connection with the statement, which it plans in one way."""
    connection = await connect(database_url, steady_plans=is_steady)
    await connection.execute(f"set plan_cache_mode = {mode}")
    await connection.execute(f"prepare {name} as {sql}")
    return connection


MODES = [("force_generic_plan", True), ("force_generic_plan", False), ("force_custom_plan", False)]


async def test_messages_are_found_by_index_in_a_deep_queue(
    database_url: str, connection: Connection, queue_name: str
) -> None:
    """A page by run, workflow or project reads the pages of its messages, from any id down.

    So it is with statistics and without, and where each second message has the id.
    """
    await connection.execute(FILL, DEPTH, PER_ID)
    await set_queue_config(connection, queue_name, lookup_by=",".join(LOOKED_UP))
    read: dict[tuple[str, ...], int] = {}
    for is_analyzed in (False, True):
        if is_analyzed:
            await connection.execute("vacuum analyze pgmq.q_jobs")
        for mode, is_steady in MODES:
            for name, values in LOOKED_UP.items():
                sql = queries.load("find_live_jobs_by_lookup", queue_name, lookup=name)
                session = await prepared(database_url, "page", sql, mode, is_steady=is_steady)
                try:
                    for up_to in (MANY, DEPTH // 2):
                        arguments = f"{up_to}, 50, {values}, null, 50, null, null, null, null"
                        plan = await explained(session, "page", arguments)
                        assert scans_of(plan) == {"Index Scan"}, json.dumps(plan)
                        case = (name, mode, str(is_steady), str(is_analyzed), str(up_to))
                        read[case] = buffers(plan)
                finally:
                    await session.close()
        for name, values in LOOKED_UP.items():
            sql = f"select meshhook.matching_messages('jobs', {values}, null, 'ready', 50)"
            read[name, "changes", str(is_analyzed)] = await pages_of(connection, sql)
    # Each message is a page of the table, twice, and three of the primary key.
    assert max(read.values()) < 1_500, read


async def test_without_an_index_a_search_reads_its_share(
    database_url: str, connection: Connection, queue_name: str
) -> None:
    """A part of a search reads as many messages as it was told to, by the primary key."""
    await connection.execute(FILL, DEPTH, PER_ID)
    sql = queries.load("find_live_jobs", queue_name)
    for mode, is_steady in MODES:
        session = await prepared(database_url, "page", sql, mode, is_steady=is_steady)
        plan = await explained(
            session, "page", f"{MANY}, 1000, 'gone', null, null, null, 50, null, null, null, null"
        )
        await session.close()
        assert "Seq Scan" not in scans_of(plan), json.dumps(plan)
        assert buffers(plan) < 1_500


async def pages_of(connection: Connection, sql: str) -> int:
    """Return how many pages a statement read, with the functions that it calls."""
    await connection.fetch(sql)
    text = await connection.fetchval(f"explain (analyze, buffers, format json) {sql}")
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return buffers(plan)
