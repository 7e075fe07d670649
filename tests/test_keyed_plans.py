"""Plans of keyed claims: by their indexes, at every depth, whatever else is in the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.administration import set_queue_config
from meshhook.postgres.connecting import connect
from meshhook.queue_config import KeyPlace
from meshhook.store import queries
from meshhook.store.claims import EVERYTHING, claim
from support.plans import buffers, explained, nodes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEPTH = 100_000
FILL = """
    insert into pgmq.q_jobs (vt, message, headers)
    select clock_timestamp() + make_interval(secs => $3::float8), '{"payload": 1}',
        jsonb_build_object('x-pgmq-group', 'key-' || n % $2::int)
    from generate_series(1, $1::int) n
"""
PLANNED = """
    select sum(generic_plans + custom_plans)::int from pg_prepared_statements
    where statement like '%with recursive bounds%' and statement not like '%pg_prepared_statements%'
"""
CLAIMED = "select count(*) from pgmq.q_jobs where read_ct = 1"
DEALLOCATE = """
    select format('deallocate %I', name) from pg_prepared_statements
    where name like 'meshhook_claim_%'
"""
KEPT = "select name from pg_prepared_statements where name like 'meshhook_claim_%'"
ARGUMENTS = "30, '2000-01-01', {limit}, 5, null, 'jobs', '', null, {is_limited}"


@pytest.fixture
async def steady(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection, on which the claim was planned while the queue was empty."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, keyed=True)
    await connection.execute(f"prepare claim as {queries.load('claim_keyed', queue_name)}")
    await connection.execute(f"execute claim ({ARGUMENTS.format(limit=10, is_limited=False)})")
    yield connection
    await connection.close()


@pytest.fixture
async def ordered(steady: Connection) -> Connection:
    """The same with ordered keys, turned on after the claim was planned."""
    await set_queue_config(steady, "jobs", ordered=True)
    return steady


async def fill(connection: Connection, messages: int, keys: int, delay_seconds: float = 0) -> None:
    """Add messages, as many producers would, with no analyze since."""
    await connection.execute(FILL, messages, keys, delay_seconds)


async def plan(
    connection: Connection, limit: int = 10, *, is_limited: bool = False
) -> dict[str, Any]:
    """Return what a claim does."""
    arguments = ARGUMENTS.format(limit=limit, is_limited=str(is_limited).lower())
    return await explained(connection, "claim", arguments)


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


async def test_a_limit_that_leaves_room_costs_no_more(steady: Connection) -> None:
    """A large claim looks at many keys only where the limit leaves each little room."""
    await fill(steady, 20_000, 1_000)
    without = buffers(await plan(steady, 100))
    await set_queue_config(steady, "jobs", max_running_per_key=100)
    roomy = await plan(steady, 100, is_limited=True)
    assert startable(roomy) == 100
    assert buffers(roomy) <= without + 500
    await set_queue_config(steady, "jobs", max_running_per_key=1)
    assert startable(await plan(steady, 100, is_limited=True)) == 100


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


async def take(connection: Connection, *, is_limited: bool, from_vt: datetime = EVERYTHING) -> None:
    """Claim a job."""
    await claim(
        connection,
        queries.QueueTables("jobs"),
        lease_seconds=30,
        limit=1,
        max_attempts=5,
        keys=KeyPlace(None),
        is_limited=is_limited,
        from_vt=from_vt,
    )


@pytest.mark.parametrize("is_limited", [False, True])
async def test_a_session_of_a_worker_plans_its_claim_once(
    database_url: str, queue_name: str, is_limited: bool
) -> None:
    """The statement is long, and planning it takes longer than running it."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(
        connection, queue_name, keyed=True, max_running_per_key=2 if is_limited else None
    )
    await fill(connection, 10, 2)
    for _ in range(3):
        await take(connection, is_limited=is_limited)
    used = await connection.fetchval(PLANNED)
    claimed = await connection.fetchval(CLAIMED)
    await connection.close()
    assert (used, claimed) == (3, 3)


async def test_a_session_with_other_plans_keeps_no_claim(
    connection: Connection, queue_name: str
) -> None:
    """Behind a pooler, a plan made for an empty queue would be used by whoever comes next."""
    await set_queue_config(connection, queue_name, keyed=True, max_running_per_key=2)
    await fill(connection, 10, 2)
    await take(connection, is_limited=True)
    assert await connection.fetchval(CLAIMED) == 1
    assert await connection.fetchval(KEPT) is None


async def test_a_limited_claim_needs_nothing_that_a_session_may_forget(
    steady: Connection, queue_name: str
) -> None:
    """Prepared statements may go, and times may be written in another way."""
    await set_queue_config(steady, queue_name, keyed=True, max_running=100)
    await fill(steady, 10, 2)
    await steady.execute("set datestyle = 'SQL, DMY'")
    for claimed in (1, 2):
        await take(steady, is_limited=True, from_vt=datetime(2020, 2, 1, 9, 8, 7, 6, UTC))
        assert await steady.fetchval(CLAIMED) == claimed
        await steady.execute(await steady.fetchval(DEALLOCATE))


BLOCK = """
    update pgmq.q_jobs q set vt = now() + interval '1 hour', read_ct = 1,
        headers = headers || '{"meshhook-settled": 1}'
    where msg_id in (select min(msg_id) from pgmq.q_jobs group by headers ->> 'x-pgmq-group')
"""
READS = "select count(*) filter (where read_ct > 0) as claimed, max(read_ct) from pgmq.q_jobs"


def startable(plan: dict[str, Any]) -> int:
    """Return how many messages a claim leased."""
    [update] = [
        node
        for node in nodes(plan)
        if node["Node Type"] == "ModifyTable" and node.get("Relation Name") == "q_jobs"
    ]
    return int(update["Actual Rows"])


async def test_an_ordered_claim_is_by_index(ordered: Connection) -> None:
    """The first message of each key is found by the index that has their order."""
    await fill(ordered, 2_000, 10)
    found = await plan(ordered, is_limited=True)
    assert indexes(found) >= {"q_jobs_pkey", "q_jobs_order_idx", "q_jobs_key_idx"}
    assert "Seq Scan" not in indexes(found)
    assert startable(found) == 10


@pytest.mark.parametrize("keys", [1, 200, 10_000])
async def test_a_deep_ordered_queue_costs_no_more(ordered: Connection, keys: int) -> None:
    """A claim reads the first message of each of its keys, and none that waits behind it."""
    await fill(ordered, 2_000, min(keys, 2_000))
    few = buffers(await plan(ordered, is_limited=True))
    await fill(ordered, DEPTH, keys)
    assert buffers(await plan(ordered, is_limited=True)) <= 2 * few + 300
    assert few <= 4_000


@pytest.mark.parametrize("keys", [1, 200])
async def test_what_waits_for_a_retry_is_not_read(ordered: Connection, keys: int) -> None:
    """Behind jobs that are retried in an hour, 100,000 wait: nothing of them is read or leased."""
    await fill(ordered, 2_000, keys)
    await ordered.execute(BLOCK)
    few = await plan(ordered, is_limited=True)
    assert startable(few) == 0
    await fill(ordered, DEPTH, keys)
    many = await plan(ordered, is_limited=True)
    assert startable(many) == 0
    assert buffers(many) <= buffers(few) + 300
    assert [tuple(row) for row in await ordered.fetch(READS)] == [(keys, 1)]


async def test_many_messages_that_fell_due_at_once(ordered: Connection) -> None:
    """A bulk send of another client gives all one time: the first of them is found all the same."""
    await fill(ordered, 2_000, 1)
    few = buffers(await plan(ordered, is_limited=True))
    await ordered.execute("update pgmq.q_jobs set vt = now() where msg_id % 7 > 0 and vt <= now()")
    await ordered.execute("delete from pgmq.q_jobs where vt > now()")
    found = await plan(ordered, is_limited=True)
    assert startable(found) == 1
    assert buffers(found) <= 2 * few + 100
