"""Claims of a queue with priorities: the most urgent first, none starved, and all else as ever."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshhook.administration import set_queue_config
from meshhook.postgres.connecting import connect
from meshhook.priorities import PRIORITY_NAMES, Priority, priority_of
from meshhook.store import queries
from meshhook.store.claims import EVERYTHING, Claim, ClaimClass, claim_by_priority

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")
AGED = (4.0, 12.0, 48.0, 480.0)
SEND = """
    insert into pgmq.q_jobs (vt, message, headers, read_ct)
    select clock_timestamp() - make_interval(secs => $3::float8), '{"payload": 1}',
        jsonb_build_object('meshhook-priority', $1::int), $4::int
    from generate_series(1, $2::int)
"""
PLAY = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
async def prioritized(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` has priorities."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, prioritized=True)
    yield connection
    await connection.close()


async def send(
    connection: Connection, band: int, jobs: int = 1, age_seconds: float = 0, read_ct: int = 0
) -> None:
    """Enqueue jobs of a band, so long ago."""
    await connection.execute(SEND, band, jobs, age_seconds, read_ct)


async def take(connection: Connection, limit: int, most_aged: int = 0, **options: Any) -> Claim:
    """Claim up to so many jobs."""
    return await claim_by_priority(
        connection,
        TABLES,
        lease_seconds=600,
        limit=limit,
        max_attempts=2,  # so that one lost attempt makes a suspect
        aged_seconds=AGED,
        most_aged=most_aged,
        **options,
    )


def bands(claimed: Claim) -> Counter[int]:
    """Return how many jobs of each band were claimed."""
    return Counter((claimed.bands or {}).values())


async def test_the_most_urgent_go_first(prioritized: Connection) -> None:
    """Bands come in their order, whatever their age, and within a band the oldest job."""
    await send(prioritized, Priority.LOW, 3, age_seconds=300)
    await send(prioritized, Priority.HIGH, 2, age_seconds=5)
    await send(prioritized, Priority.URGENT, 2)
    await send(prioritized, Priority.URGENT, 1, age_seconds=2)
    first = await take(prioritized, 1)
    assert [job.msg_id for job in first.jobs] == [8]
    assert bands(await take(prioritized, 3)) == {Priority.URGENT: 2, Priority.HIGH: 1}
    assert bands(await take(prioritized, 9)) == {Priority.HIGH: 1, Priority.LOW: 3}


async def test_aged_jobs_get_their_part(prioritized: Connection) -> None:
    """Aged jobs of other bands go before urgent ones, as many as are let, the latest first."""
    await send(prioritized, Priority.URGENT, 10)
    await send(prioritized, Priority.LOW, 10, age_seconds=481)
    await send(prioritized, Priority.HIGH, 10, age_seconds=14)
    await send(prioritized, Priority.NORMAL, 10, age_seconds=40)
    claimed = await take(prioritized, 10, most_aged=3)
    assert bands(claimed) == {Priority.URGENT: 7, Priority.HIGH: 3}
    assert len(claimed.aged) == 3


async def test_jobs_that_are_not_aged_wait(prioritized: Connection) -> None:
    """Before they are aged, less urgent jobs get nothing while urgent ones wait."""
    await send(prioritized, Priority.URGENT, 10)
    await send(prioritized, Priority.LOW, 10, age_seconds=470)
    claimed = await take(prioritized, 8, most_aged=2)
    assert bands(claimed) == {Priority.URGENT: 8}
    assert not claimed.aged


async def test_a_claim_takes_all_that_it_may(prioritized: Connection) -> None:
    """Whatever waits in which band and however old: a full claim, in the order of the bands.

    At most the part of aged jobs is taken out of that order.
    """

    async def play(waiting: dict[int, tuple[int, bool]], limit: int, most_aged: int) -> None:
        await prioritized.execute("delete from pgmq.q_jobs")
        for band, (jobs, is_aged) in waiting.items():
            await send(prioritized, band, jobs, age_seconds=AGED[band] + 1 if is_aged else 0)
        claimed = await take(prioritized, limit, most_aged)
        got = bands(claimed)
        assert got.total() == min(limit, sum(jobs for jobs, _ in waiting.values()))
        aged = sum(jobs for band, (jobs, is_aged) in waiting.items() if band and is_aged)
        assert len(claimed.aged) == min(aged, most_aged, limit)
        left = limit - len(claimed.aged)
        for band in Priority:
            jobs = waiting.get(band, (0, False))[0]
            assert got[band] >= min(jobs, max(left, 0)), (band, got)
            left -= jobs

    bands_of = st.dictionaries(
        st.sampled_from(list(Priority)), st.tuples(st.integers(1, 12), st.booleans())
    )
    loop = asyncio.get_running_loop()

    @PLAY
    @given(waiting=bands_of, limit=st.integers(1, 20), most_aged=st.integers(0, 5))
    def example(waiting: dict[int, tuple[int, bool]], limit: int, most_aged: int) -> None:
        aged = min(most_aged, limit)
        asyncio.run_coroutine_threadsafe(play(waiting, limit, aged), loop).result()

    await asyncio.to_thread(example)


@pytest.mark.parametrize(
    ("headers", "band"),
    [
        (None, 2),
        ("{}", 2),
        ("[]", 2),
        ('"meshhook-priority"', 2),
        *((f'{{"meshhook-priority": {band}}}', band) for band in range(4)),
        *((f'{{"meshhook-priority": "{name}"}}', band) for band, name in enumerate(PRIORITY_NAMES)),
        ('{"meshhook-priority": 1.0}', 1),
        ('{"meshhook-priority": 0.5}', 2),
        ('{"meshhook-priority": -1}', 2),
        ('{"meshhook-priority": 4}', 2),
        ('{"meshhook-priority": 1e999}', 2),
        ('{"meshhook-priority": null}', 2),
        ('{"meshhook-priority": true}', 2),
        ('{"meshhook-priority": "URGENT"}', 2),
        ('{"meshhook-priority": [0]}', 2),
    ],
)
async def test_what_is_no_priority_is_normal(
    connection: Connection, headers: str | None, band: int
) -> None:
    """The database gives each message one band; the library reads the same out of its headers."""
    assert await connection.fetchval("select meshhook.priority_of($1::jsonb)", headers) == band
    decoded = await connection.fetchval("select ($1::jsonb)::text", headers)
    if decoded is not None and decoded.startswith("{") and len(decoded) < 100:
        assert priority_of(json.loads(decoded)) == band


async def test_a_suspect_is_claimed_alone_in_its_band(prioritized: Connection) -> None:
    """The oldest message of the most urgent band decides the class; a suspect comes alone."""
    await send(prioritized, Priority.URGENT, 1, age_seconds=3, read_ct=1)
    await send(prioritized, Priority.URGENT, 3)
    await send(prioritized, Priority.LOW, 1)
    suspect = await take(prioritized, 10)
    assert (suspect.claim_class, len(suspect.jobs)) == (ClaimClass.SUSPECT, 1)
    assert suspect.new_losses == 1
    assert bands(await take(prioritized, 10)) == {Priority.URGENT: 3, Priority.LOW: 1}


async def test_a_suspect_of_a_low_band_is_not_starved(prioritized: Connection) -> None:
    """Once it is the latest of the aged, it comes before urgent jobs, where aged ones may."""
    await send(prioritized, Priority.LOW, 1, age_seconds=490, read_ct=1)
    await send(prioritized, Priority.LOW, 3, age_seconds=485)
    await send(prioritized, Priority.URGENT, 8)
    assert bands(await take(prioritized, 3, most_aged=0)) == {Priority.URGENT: 3}
    suspect = await take(prioritized, 4, most_aged=1)
    assert (suspect.claim_class, bands(suspect)) == (ClaimClass.SUSPECT, {Priority.LOW: 1})
    assert len(suspect.aged) == 1
    assert bands(await take(prioritized, 4, most_aged=1)) == {Priority.URGENT: 3, Priority.LOW: 1}


async def test_an_urgent_suspect_is_not_starved_by_aged_jobs(prioritized: Connection) -> None:
    """A flood of aged healthy jobs does not decide the class."""
    await send(prioritized, Priority.LOW, 9, age_seconds=1_000)
    await send(prioritized, Priority.URGENT, 1, read_ct=1)
    claimed = await take(prioritized, 4, most_aged=1)
    assert (claimed.claim_class, bands(claimed)) == (ClaimClass.SUSPECT, {Priority.URGENT: 1})


async def test_a_claim_looks_where_it_is_told(prioritized: Connection) -> None:
    """Each band has its own bounds, and bands behind the last one are not looked at."""
    for band in Priority:
        await send(prioritized, band, 1, age_seconds=60)
        await send(prioritized, band, 1, age_seconds=20)
    now = await prioritized.fetchval("select now()")
    before = now - timedelta(seconds=40)
    ranges = [(before, None), (EVERYTHING, before), (before, before), (EVERYTHING, None)]
    assert bands(await take(prioritized, 9, ranges=ranges, last=Priority.NORMAL)) == {
        Priority.URGENT: 1,
        Priority.HIGH: 1,
    }
    assert bands(await take(prioritized, 9)) == {0: 1, 1: 1, 2: 2, 3: 2}


async def test_claims_at_once_share_the_jobs(
    prioritized: Connection, pool: asyncpg.Pool[asyncpg.Record]
) -> None:
    """No message is leased twice, and none is left behind, by claims that run at once."""
    for band in Priority:
        await send(prioritized, band, 50, age_seconds=AGED[band] + 5)
    claims = await asyncio.gather(*(take(pool, 10, most_aged=3) for _ in range(12)))  # type: ignore[arg-type]
    ids = [job.msg_id for claimed in claims for job in claimed.jobs]
    while rest := (await take(prioritized, 50)).jobs:
        ids += [job.msg_id for job in rest]
    assert sorted(ids) == list(range(1, 201))


async def test_an_empty_queue_says_what_time_it_is(prioritized: Connection) -> None:
    """A claim that finds nothing says when it was made, by the database's clock."""
    claimed = await take(prioritized, 5)
    assert not claimed.jobs
    now = await prioritized.fetchval("select extract(epoch from now())::float8")
    assert now - 30 < claimed.asked_timestamp <= now
