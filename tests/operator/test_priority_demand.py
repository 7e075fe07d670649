"""The demand of queues with priorities: what waits in each band."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import add_schedule
from meshhook.administration import set_queue_config
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, QueueProblem, read_demand
from support.plans import buffers
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SEND = """
    insert into pgmq.q_jobs (vt, message, headers, read_ct)
    select now() + make_interval(secs => $3::float8), '{"payload": 1}', $1::jsonb, $4::int
    from generate_series(1, $2::int)
"""
FOREIGN_SEARCH_PATH = """
    create schema hostile;
    create function hostile.priority_of(jsonb) returns integer language sql as 'select 1 / 0';
    create function hostile.now() returns timestamptz language sql as 'select null::timestamptz';
    create function hostile.count() returns bigint language sql as 'select 1 / 0';
    set search_path = hostile, pg_catalog;
"""


@pytest.fixture
async def database(pool: asyncpg.Pool[asyncpg.Record]) -> Database:
    """The database of the test."""
    return Database(pool)


@pytest.fixture
async def prioritized(connection: Connection, queue_name: str) -> Connection:
    """A connection to a database whose queue `jobs` has priorities."""
    await set_queue_config(
        connection, queue_name, prioritized=True, priority_target_seconds="5,15,60,600"
    )
    return connection


async def send(
    connection: Connection,
    priority: Any,
    jobs: int = 1,
    *,
    age_seconds: float = 1,
    read_ct: int = 0,
) -> None:
    """Enqueue jobs of a priority that have been due for so long; below 0 they fall due later."""
    headers = json.dumps({"meshhook-priority": priority})
    await connection.execute(SEND, headers, jobs, -age_seconds, read_ct)


async def demand(database: Database, lookahead_seconds: float = 5) -> QueueDemand:
    """Read the demand of queue `jobs`."""
    found = await read_demand(
        database, [DemandRequest("jobs", lookahead_seconds)], waiting_seconds=30
    )
    assert isinstance(found["jobs"], QueueDemand), found
    return found["jobs"]


def by_band(found: QueueDemand, name: str) -> list[Any]:
    """Return one number of each band."""
    return [getattr(band, name) for band in found.sample.bands]


async def test_a_queue_without_priorities_has_no_bands(
    database: Database, connection: Connection, queue_name: str
) -> None:
    """Whatever its headers say."""
    await send(connection, 0, 3)
    found = await demand(database)
    assert (found.sample.ready, found.sample.bands) == (3, ())
    assert found.status.priorities is None


async def test_each_band_is_counted(database: Database, prioritized: Connection) -> None:
    """What is ready, aged, running and due soon, and how long the oldest has waited."""
    targets = [1_000, 3_000, 10_000, 100_000]
    await set_queue_config(prioritized, "jobs", priority_target_seconds=",".join(map(str, targets)))
    await send(prioritized, 0, 2, age_seconds=500)
    await send(prioritized, "high", 4, age_seconds=2_600)
    await send(prioritized, "nonsense", 5, age_seconds=7_500)
    await send(prioritized, 3, 6, age_seconds=82_000)
    await send(prioritized, 3, 1, age_seconds=1)
    await send(prioritized, 0, 7, age_seconds=-400)
    await send(prioritized, 1, 8, age_seconds=-6_000)
    await send(prioritized, 0, 9, age_seconds=-2_000, read_ct=1)
    await send(prioritized, 2, 1, age_seconds=1, read_ct=1)
    found = await demand(database, lookahead_seconds=1_000)
    assert by_band(found, "target_seconds") == targets
    assert by_band(found, "ready") == [2, 4, 5, 7]
    assert by_band(found, "aged") == [0, 4, 0, 6]
    assert by_band(found, "running") == [9, 0, 0, 0]
    assert by_band(found, "due_soon") == [7, 0, 0, 0]
    oldest = by_band(found, "oldest_ready_seconds")
    assert oldest == pytest.approx([500, 2_600, 7_500, 82_000], abs=100)
    sample = found.sample
    assert (sample.ready, sample.lost, sample.leased, sample.due_soon) == (18, 1, 9, 7)
    assert sample.unfinished == 2 + 4 + 5 + 7 + 1 + 24
    assert sample.oldest_ready_seconds == max(oldest)
    assert found.status.priorities is not None
    shown = {name: each.ready for name, each in found.status.priorities.items()}
    assert shown == {"urgent": 2, "high": 4, "normal": 5, "low": 7}
    assert found.status.late_priorities == []
    await send(prioritized, 0, 1, age_seconds=1_400)
    assert (await demand(database)).status.late_priorities == ["urgent"]


async def test_an_empty_queue(database: Database, prioritized: Connection) -> None:
    """All bands are there, with nothing in them."""
    found = await demand(database)
    assert by_band(found, "ready") == [0, 0, 0, 0]
    assert by_band(found, "oldest_ready_seconds") == [0, 0, 0, 0]
    assert (found.sample.ready, found.sample.ready_is_capped) == (0, False)


async def test_a_flood_hides_no_urgent_job(database: Database, prioritized: Connection) -> None:
    """Each band is counted up to the cap of its own."""
    await send(prioritized, 3, 10_500, age_seconds=100)
    await send(prioritized, 0, 3, age_seconds=2)
    found = await demand(database)
    assert by_band(found, "ready") == [3, 0, 0, 10_000]
    assert by_band(found, "is_capped") == [False, False, False, True]
    assert (found.sample.ready, found.sample.ready_is_capped) == (10_003, True)


async def test_schedules_count_in_their_band(database: Database, prioritized: Connection) -> None:
    """A schedule that is due soon is a message of its priority that falls due."""
    await add_schedule(prioritized, "jobs", "a", every=60, priority="urgent")
    await add_schedule(prioritized, "jobs", "b", every=60, priority="low")
    await add_schedule(prioritized, "jobs", "c", every=60)
    found = await demand(database, lookahead_seconds=120)
    assert by_band(found, "due_soon") == [1, 0, 1, 1]
    assert found.sample.due_soon == 3


async def test_the_role_of_an_operator(
    database: Database, prioritized: Connection, database_url: str
) -> None:
    """A role of kind operator reads the bands, and no body."""
    await send(prioritized, 0, 3)
    async with Roles(database_url, prioritized) as roles:
        pool = await asyncpg.create_pool(
            roles.url(await roles.make(RoleKind.OPERATOR)), min_size=1, max_size=1
        )
        try:
            assert by_band(await demand(Database(pool)), "ready") == [3, 0, 0, 0]
        finally:
            await pool.close()


async def test_names_of_others_do_no_harm(
    prioritized: Connection, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    """A search path with functions and tables of the same names changes nothing."""
    await send(prioritized, 0, 3)
    await prioritized.execute(FOREIGN_SEARCH_PATH)
    row = await prioritized.fetchrow(
        "select * from meshhook.queue_demand('{jobs}', '{5}', '{}', 5, 1000)"
    )
    assert row is not None
    assert (row["problem"], json.loads(row["bands"])[0]["ready"]) == (None, 3)


async def test_an_answer_without_bands(database: Database, prioritized: Connection) -> None:
    """The operator beside a schema that is older than itself plans for the queue as a whole."""
    await send(prioritized, 0, 3)
    columns = (
        "queue_name text, problem text, problem_state text, config jsonb, sampled_at float8, "
        "ready bigint, ready_is_capped boolean, lost bigint, running bigint, scheduled bigint, "
        "retrying bigint, hidden_is_capped boolean, due_soon bigint, next_due_seconds float8, "
        "oldest_ready_seconds float8, enqueued_total bigint, dead_letters bigint, workers jsonb, "
        "kept_by_hold bigint, kept_by_key bigint, kept_by_queue bigint"
    )
    names = ", ".join(each.split()[0] for each in columns.split(", "))
    await prioritized.execute(
        "alter function meshhook.queue_demand(text[], float8[], text[], float8, int) "
        "rename to newer_demand; "
        "create function meshhook.queue_demand(text[], float8[], text[], float8, int) "
        f"returns table ({columns}) language sql as "
        f"'select {names} from meshhook.newer_demand($1, $2, $3, $4, $5)'"
    )
    found = await demand(database)
    assert (found.sample.ready, found.sample.bands) == (3, ())


@pytest.mark.parametrize("count", [3, 4])
async def test_a_malformed_answer_is_refused(
    database: Database, prioritized: Connection, count: int
) -> None:
    """The server may be anybody's: what are no four bands is a problem of the queue."""
    band = {"target_seconds": 5, "ready": 4 - count, "is_capped": False, "aged": 0, "running": 0}
    bands = [band | {"due_soon": 0, "oldest_ready_seconds": -1e15 if count > 3 else 0}] * count
    await prioritized.execute(
        "create or replace function meshhook.priority_demand(queue text, config jsonb, "
        "lookahead_seconds double precision, count_limit integer) returns table ("
        "sampled_at double precision, ready bigint, ready_is_capped boolean, lost bigint, "
        "running bigint, scheduled bigint, retrying bigint, hidden_is_capped boolean, "
        "due_soon bigint, next_due_seconds double precision, "
        "oldest_ready_seconds double precision, enqueued_total bigint, dead_letters bigint, "
        "bands jsonb) language sql as $$ select 1::float8, 0::bigint, false, 0::bigint, 0::bigint, "
        "0::bigint, 0::bigint, false, 0::bigint, null::float8, 0::float8, 0::bigint, 0::bigint, "
        f"'{json.dumps(bands)}'::jsonb $$"
    )
    found = await read_demand(database, [DemandRequest("jobs", 5)], waiting_seconds=1)
    problem = found["jobs"]
    assert isinstance(problem, QueueProblem)
    assert "malformed" in problem.message


@pytest.mark.parametrize("bands", [1, 4])
async def test_a_deep_queue_costs_no_more_than_its_cap(prioritized: Connection, bands: int) -> None:
    """Of 100,000 messages in one band or four as many are read as are counted."""
    await prioritized.execute(
        "insert into pgmq.q_jobs (vt, message, headers) "
        "select now() - interval '1 hour', '{\"payload\": 1}', "
        "jsonb_build_object('meshhook-priority', 3 - i % $1) from generate_series(1, 100000) i",
        bands,
    )
    read = "select * from meshhook.queue_demand('{jobs}', '{5}', '{}', 5, 1000)"
    await prioritized.execute(read)
    text = await prioritized.fetchval(f"explain (analyze, buffers, format json) {read}")
    # A page holds some eighty messages; with those of indexes and catalogs.
    assert buffers(json.loads(text)[0]["Plan"]) < 400 + bands * 1_100
