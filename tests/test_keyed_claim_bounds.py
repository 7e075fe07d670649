"""Claims of keyed queues pass by the index entries of settled jobs, and leave nothing out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshhook.administration import set_queue_config
from meshhook.postgres.connecting import connect
from meshhook.queue_config import KeyPlace
from meshhook.store import queries
from meshhook.store.claims import EVERYTHING, Claim, claim
from support.plans import buffers, explained

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ADD = """
    insert into pgmq.q_jobs (vt, message, headers, read_ct)
    select clock_timestamp() + make_interval(secs => seconds), '{}',
        jsonb_build_object('x-pgmq-group', key), is_running::int
    from unnest($1::text[], $2::float8[], $3::boolean[]) as t (key, seconds, is_running)
"""
FILL = """
    insert into pgmq.q_jobs (vt, message, headers)
    select clock_timestamp() - make_interval(secs => $2::float8), '{}',
        jsonb_build_object('x-pgmq-group', 'key-' || n % 100)
    from generate_series(1, $1::int) n
"""
LEASE = "update pgmq.q_jobs set vt = clock_timestamp() + interval '10 minutes', read_ct = 1"
LEASE_SECONDS = 600


class Row(NamedTuple):
    """A message."""

    key: str
    seconds: float
    """When it falls due, or its lease ends, from now."""
    is_running: bool


@pytest.fixture
async def keyed(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` is keyed."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, keyed=True)
    yield connection
    await connection.close()


async def take(
    connection: Connection, limit: int, later_from: datetime | None, from_key: str = ""
) -> Claim:
    """Claim up to so many jobs, and undo it."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        return await claim(
            connection,
            queries.QueueTables("jobs"),
            lease_seconds=LEASE_SECONDS,
            limit=limit,
            max_attempts=5,
            keys=KeyPlace(),
            from_key=from_key,
            later_from=later_from,
        )
    finally:
        await transaction.rollback()


async def test_a_bound_leaves_nothing_out(keyed: Connection) -> None:
    """Whatever waits, runs, or falls due later, the bound changes nothing of what a claim takes."""

    async def play(rows: list[Row], limit: int, from_key: str) -> None:
        await keyed.execute("delete from pgmq.q_jobs")
        await keyed.execute(ADD, *map(list, zip(*rows, strict=True)))
        without = await take(keyed, limit, None, from_key)
        bounded = await take(keyed, limit, EVERYTHING, from_key)
        assert [job.msg_id for job in bounded.jobs] == [job.msg_id for job in without.jobs]
        assert bounded.next_key == without.next_key
        assert bounded.oldest_due == without.oldest_due
        if not bounded.jobs:
            return
        later = min((row.seconds for row in rows if row.seconds > 0), default=LEASE_SECONDS)
        assert bounded.first_later is not None
        again = await take(keyed, limit, bounded.first_later, from_key)
        assert [job.msg_id for job in again.jobs] == [job.msg_id for job in without.jobs]
        now = await keyed.fetchval("select clock_timestamp()")
        assert abs((bounded.first_later - now).total_seconds() - later) < LEASE_SECONDS / 60

    row = st.builds(
        Row,
        key=st.sampled_from(["", *(f"key-{number}" for number in range(30))]),
        seconds=st.sampled_from([-60.0, -30.0, 30.0, 300.0]),
        is_running=st.booleans(),
    ).filter(lambda row: row.seconds > 0 or not row.is_running)
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=100,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        rows=st.lists(row, min_size=1, max_size=150),
        limit=st.sampled_from([1, 3, 20, 65, 100]),
        from_key=st.sampled_from(["", "key-11", "key-2", "z"]),
    )
    def example(rows: list[Row], limit: int, from_key: str) -> None:
        asyncio.run_coroutine_threadsafe(play(rows, limit, from_key), loop).result()

    await asyncio.to_thread(example)


@pytest.mark.parametrize("seconds", [1, LEASE_SECONDS, 1_000_000])
async def test_a_bound_that_is_too_late_takes_what_is_due(
    keyed: Connection, seconds: float
) -> None:
    """What has fallen due before the bound after all is claimed, and new leases count at once."""
    await keyed.execute(ADD, ["a", "b", "c"], [-1.0, -0.5, 300.0], [False, False, False])
    await keyed.execute(ADD, ["a"] * 3, [LEASE_SECONDS + 10.0] * 3, [True] * 3)
    now = await keyed.fetchval("select clock_timestamp()")
    later_from = now + timedelta(seconds=seconds)
    assert len((await take(keyed, 100, later_from)).jobs) == 2
    [job] = (await take(keyed, 1, later_from)).jobs
    assert job.headers["x-pgmq-group"] == "b"


async def test_settled_jobs_are_passed_by(keyed: Connection, database_url: str) -> None:
    """While another session holds a transaction id, entries of settled jobs cost a claim nothing.

    They lie before all that waits, and where the leases of those jobs would end.
    """
    bounded = queries.load("claim_keyed", "jobs", has_later_bound=True)
    await keyed.execute(f"prepare bounded as {bounded}")
    await keyed.execute(f"prepare unbounded as {queries.load('claim_keyed', 'jobs')}")

    async def pages(name: str, limit: int) -> int:
        low = await keyed.fetchval("select min(vt) from pgmq.q_jobs where vt <= now()")
        later = (await take(keyed, limit, EVERYTHING)).first_later
        more = f", '{later}'" if name == "bounded" else ""
        arguments = f"{LEASE_SECONDS}, '{low}', {limit}, 5, null, 'jobs', '', null, false{more}"
        return buffers(await explained(keyed, name, arguments))

    await keyed.execute(FILL, 1_000, 0)
    few = {limit: await pages("bounded", limit) for limit in (10, 100)}
    holder = await connect(database_url)
    try:
        await holder.execute("begin")
        await holder.fetchval("select pg_current_xact_id()")
        await keyed.execute("delete from pgmq.q_jobs")
        await keyed.execute(FILL, 20_000, 60)
        await keyed.execute(LEASE)
        await keyed.execute("delete from pgmq.q_jobs")
        await keyed.execute(FILL, 1_000, 0)
        for limit in (10, 100):
            assert await pages("bounded", limit) <= few[limit] + 500
        assert await pages("unbounded", 100) > few[100] + 2_000
    finally:
        await holder.close()


async def test_the_bound_is_unknown_where_nothing_is_due(keyed: Connection) -> None:
    """A claim that finds nothing does not look for it."""
    await keyed.execute(ADD, ["a"], [300.0], [False])
    claimed: Any = await take(keyed, 100, EVERYTHING)
    assert (claimed.jobs, claimed.first_later) == ([], None)
