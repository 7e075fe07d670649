"""The demand of queues with limits and held keys: what may start now, and what is kept back."""

from __future__ import annotations

import json
import random
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import hold_key, resume_key, set_key
from meshhook.administration import set_queue_config
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook.queue_config import KeyPlace
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from meshhook.store.claims import claim
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, read_demand
from support.plans import buffers
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SEND = """
    insert into pgmq.q_jobs (vt, message, headers, read_ct)
    select now() + make_interval(secs => $3::float8), '{"payload": {"tenant": "body"}}',
        jsonb_build_object('x-pgmq-group', $1::text), $4::int
    from generate_series(1, $2::int)
"""


@pytest.fixture
async def database(pool: asyncpg.Pool[asyncpg.Record]) -> Database:
    """The database of the test."""
    return Database(pool)


@pytest.fixture
async def keyed(connection: Connection, queue_name: str) -> Connection:
    """A connection to a database whose queue `jobs` is keyed, with no limit yet."""
    await set_queue_config(connection, queue_name, keyed=True)
    return connection


async def send(connection: Connection, key: str, jobs: int = 1, age_seconds: float = 1) -> None:
    """Enqueue jobs with a key that have been due for so long."""
    await connection.execute(SEND, key, jobs, -age_seconds, 0)


async def lease(connection: Connection, key: str, jobs: int = 1, seconds: float = 600) -> None:
    """Add jobs of a key that are leased for so long: nobody says by whom."""
    await connection.execute(SEND, key, jobs, seconds, 1)


async def report(connection: Connection) -> None:
    """Let a worker report that it is alive."""
    await connection.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, seen_at) values ('jobs', 'a', 'pod-a', 10, 4, 0, 0, now())"
    )


async def claim_all(database_url: str) -> int:
    """Claim as a worker does until nothing is left that may start, and return how many that was."""
    worker = await connect(database_url, steady_plans=True)
    count = 0
    try:
        while True:
            claimed = await claim(
                worker,
                queries.QueueTables("jobs"),
                lease_seconds=600,
                limit=1_000,
                max_attempts=5,
                keys=KeyPlace(),
                is_limited=True,
                from_key="",
            )
            if not claimed.jobs:
                return count
            count += len(claimed.jobs)
    finally:
        await worker.close()


async def demand(database: Database, lookahead_seconds: float = 300) -> QueueDemand:
    """Read the demand of queue `jobs`."""
    found = await read_demand(
        database, [DemandRequest("jobs", lookahead_seconds)], waiting_seconds=30
    )
    assert isinstance(found["jobs"], QueueDemand), found
    return found["jobs"]


def kept(found: QueueDemand) -> tuple[int, int, int]:
    """Return what is kept back by holds, by limits of keys and by that of the queue."""
    status = found.status
    return (
        status.kept_back_by_holds,
        status.kept_back_by_key_limits,
        status.kept_back_by_queue_limit,
    )


async def test_without_limits_all_that_is_due_may_start(database: Database, keyed: Connection):
    """Keys and weights alone keep nothing back."""
    await send(keyed, "a", 30)
    await set_key(keyed, "jobs", "a", weight=3)
    found = await demand(database)
    assert (found.sample.ready, found.sample.kept_back) == (30, 0)


async def test_a_limit_of_each_key(database: Database, keyed: Connection):
    """Of each key as many may start as its limit leaves room for beside what runs."""
    await set_queue_config(keyed, "jobs", max_running_per_key=4)
    await send(keyed, "full", 100)
    await lease(keyed, "full", 4)
    await send(keyed, "half", 100)
    await lease(keyed, "half", 2)
    await send(keyed, "few", 3)
    found = await demand(database)
    assert found.sample.ready == 2 + 3
    assert kept(found) == (0, 100 + 98, 0)
    assert (found.status.ready, found.status.running) == (5, 6)
    assert found.sample.unfinished == 5 + 6
    assert found.sample.behind_limits == 198


async def test_of_an_ordered_key_one_may_start(
    database: Database, keyed: Connection, database_url: str
):
    """Its first message, if nothing of the key runs and it does not wait for its retry."""
    await set_queue_config(keyed, "jobs", ordered=True, max_running_per_key=4)
    for key in ("free", "running", "retried", "late"):
        await send(keyed, key, 100)
    first = "(select min(msg_id) from pgmq.q_jobs where headers ->> 'x-pgmq-group' = $1)"
    for key, seconds, settled in (("running", 600, 0), ("retried", 600, 1), ("late", 200, 1)):
        await keyed.execute(
            "update pgmq.q_jobs set vt = now() + make_interval(secs => $2::float8), read_ct = 1, "
            "headers = headers || jsonb_build_object('meshhook-settled', $3::int) "
            f"where msg_id = {first}",
            *(key, seconds, settled),
        )
    # A later one that falls due soon waits for its turn all the same.
    await keyed.execute(SEND, "retried", 1, 200.0, 0)
    found = await demand(database)
    assert (found.sample.ready, found.sample.due_soon) == (1, 1)
    assert (found.status.kept_back_by_order, kept(found)) == (4 * 99, (0, 0, 0))
    await set_queue_config(keyed, "jobs", ordered=False)
    assert kept(await demand(database)) == (0, 100 - 4 + 99 - 3 + 99 - 4 + 99 - 4, 0)
    await set_queue_config(keyed, "jobs", ordered=True)
    assert await claim_all(database_url) == 1


async def test_many_ordered_keys(database: Database, keyed: Connection, database_url: str):
    """Each counts once, also those after the first 1,000; a claim takes as many."""
    await set_queue_config(keyed, "jobs", ordered=True)
    await keyed.execute(
        "insert into pgmq.q_jobs (vt, message, headers) select now(), '{}', "
        "jsonb_build_object('x-pgmq-group', 'key-' || n % 1500) from generate_series(1, 4500) n"
    )
    assert (await demand(database)).sample.ready == 1_500


async def test_a_key_with_a_limit_of_its_own(database: Database, keyed: Connection):
    """It is bounded by that, however low or high that of each key is; others are not bounded."""
    await set_key(keyed, "jobs", "slow", max_running=1)
    await send(keyed, "slow", 50)
    await send(keyed, "free", 70)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (71, (0, 49, 0))
    await set_queue_config(keyed, "jobs", max_running_per_key=4)
    await set_key(keyed, "jobs", "slow", max_running=20)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (24, (0, 30 + 66, 0))


async def test_a_limit_of_the_queue(database: Database, keyed: Connection):
    """All keys together may start no more than it leaves room for."""
    await set_queue_config(keyed, "jobs", max_running=10)
    for key in "abc":
        await send(keyed, key, 20)
    await lease(keyed, "d", 3)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (7, (0, 0, 53))
    await set_queue_config(keyed, "jobs", max_running_per_key=1)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (3, (0, 57, 0))


async def test_a_held_key_asks_for_nothing(database: Database, keyed: Connection):
    """Neither what is due of it counts, nor what was lost, nor what falls due soon."""
    await send(keyed, "down", 40)
    await lease(keyed, "down", 1, seconds=-10)
    await keyed.execute(SEND, "down", 5, 200.0, 0)
    await send(keyed, "up", 2)
    await hold_key(keyed, "jobs", "down")
    found = await demand(database)
    sample = found.sample
    assert (sample.ready, sample.lost, sample.due_soon) == (2, 0, 0)
    assert sample.next_due_seconds is None
    assert kept(found) == (41, 0, 0)
    assert sample.behind_limits == 0
    await resume_key(keyed, "jobs", "down")
    sample = (await demand(database)).sample
    assert (sample.ready, sample.lost, sample.due_soon) == (42, 1, 5)


async def test_an_open_breaker_asks_for_nothing_and_a_half_open_one_for_one(
    database: Database, keyed: Connection
):
    """Its probe is all that may start, and nothing while that runs."""
    await set_queue_config(keyed, "jobs", breaker_failures=1)
    await send(keyed, "down", 40)
    await send(keyed, "up", 2)
    await keyed.execute("select meshhook.record_key_failures('jobs', '{down}', '{1}', '{x}')")
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (2, (40, 0, 0))
    await keyed.execute("update meshhook.breakers set probe_at = now() - interval '1 ms'")
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (3, (0, 39, 0))
    await lease(keyed, "down", 1)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (2, (0, 40, 0))
    await set_queue_config(keyed, "jobs", breaker_failures=None)
    assert (await demand(database)).sample.ready == 42


async def test_a_hold_that_has_ended(database: Database, keyed: Connection):
    """It keeps nothing back from that moment on, though its row is still there."""
    await send(keyed, "down", 40)
    await keyed.execute(
        "insert into meshhook.keys (queue, key, held_until) "
        "values ('jobs', 'down', now() - interval '1 second')"
    )
    found = await demand(database)
    assert (found.sample.ready, found.sample.kept_back) == (40, 0)


async def test_leases_of_others_take_room(database: Database, keyed: Connection):
    """A message that another client of PGMQ has read counts as running until its lease ends."""
    await set_queue_config(keyed, "jobs", max_running_per_key=3)
    await send(keyed, "a", 10)
    await keyed.execute("select pgmq.read('jobs', 600, 2)")
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (1, (0, 7, 0))
    await keyed.execute("update pgmq.q_jobs set vt = now() - interval '1 second' where read_ct > 0")
    found = await demand(database)
    assert found.sample.ready + found.sample.lost == 3


async def test_more_run_than_a_limit_allows(database: Database, keyed: Connection):
    """A limit that was lowered leaves no room, and not less than none."""
    await lease(keyed, "a", 5)
    await send(keyed, "a", 10)
    await send(keyed, "b", 10)
    await set_key(keyed, "jobs", "a", max_running=2)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (10, (0, 10, 0))
    await set_queue_config(keyed, "jobs", max_running=3)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (0, (0, 10, 10))


async def test_what_falls_due_soon_needs_room_too(database: Database, keyed: Connection):
    """Of 30 messages that fall due at once, as many count as their key can start then."""
    await set_queue_config(keyed, "jobs", max_running_per_key=4)
    await keyed.execute(SEND, "a", 30, 200.0, 0)
    await lease(keyed, "a", 1)
    await send(keyed, "a", 1)
    assert (await demand(database)).sample.due_soon == 2
    await set_queue_config(keyed, "jobs", max_running=3)
    assert (await demand(database)).sample.due_soon == 1


async def test_what_waits_for_its_limit_is_not_late(database: Database, keyed: Connection):
    """While workers report, a message that may start only now has no age; that of others counts."""
    await set_queue_config(keyed, "jobs", max_running_per_key=4)
    await send(keyed, "flood", 20, age_seconds=3_000)
    await send(keyed, "quiet", 2, age_seconds=500)
    await lease(keyed, "flood", 3)
    await report(keyed)
    found = await demand(database)
    assert found.sample.ready == 1 + 2
    assert found.sample.oldest_ready_seconds == pytest.approx(500, abs=100)
    await set_queue_config(keyed, "jobs", max_running=4)
    assert (await demand(database)).sample.oldest_ready_seconds == 0


async def test_what_waits_for_a_first_worker_is_late(database: Database, keyed: Connection):
    """Where no worker is alive, the age of what may start is told whatever the limit is."""
    await set_queue_config(keyed, "jobs", max_running_per_key=4)
    await send(keyed, "flood", 20, age_seconds=3_000)
    found = await demand(database)
    assert found.sample.ready == 4
    assert found.sample.oldest_ready_seconds == pytest.approx(3_000, abs=100)


async def test_a_rate_of_starts(database: Database, keyed: Connection):
    """Of each key, and of the queue, as many may start as their buckets hold now."""
    await set_queue_config(keyed, "jobs", max_starts_per_key=10, starts_period_seconds=3_600)
    await set_key(keyed, "jobs", "b", max_starts=2)
    await keyed.execute(
        "insert into meshhook.starts (queue, is_of_queue, key, full_at) values "
        "('jobs', false, 'a', now() + interval '1800 seconds'), "
        "('jobs', false, 'c', now() + interval '1 day')"
    )
    for key in "abc":
        await send(keyed, key, 20)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (5 + 2, (0, 15 + 18 + 20, 0))
    await set_queue_config(keyed, "jobs", max_starts=4)
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (4, (0, 53, 3))


async def test_the_key_in_the_body(database: Database, connection: Connection, queue_name: str):
    """Keys are read from where the setting says."""
    await set_queue_config(
        connection, queue_name, keyed=True, key_path="payload.tenant", max_running_per_key=2
    )
    await send(connection, "ignored", 10)
    await hold_key(connection, queue_name, "ignored")
    found = await demand(database)
    assert (found.sample.ready, kept(found)) == (2, (0, 8, 0))


@pytest.mark.parametrize("limits", [{}, {"max_running_per_key": 2}])
async def test_more_keys_than_are_looked_at(
    database: Database, keyed: Connection, limits: dict[str, Any]
):
    """Messages of keys after the first 1,000 count as well; a hold or a limit of one holds."""
    await set_queue_config(keyed, "jobs", **limits)
    await keyed.execute(
        "insert into pgmq.q_jobs (vt, message, headers) select now(), '{}', "
        "jsonb_build_object('x-pgmq-group', 'key-' || lpad(n::text, 5, '0')) "
        "from generate_series(1, 2000) n"
    )
    await send(keyed, "key-01500", 300, age_seconds=100)
    await send(keyed, "key-01600", 300, age_seconds=100)
    await hold_key(keyed, "jobs", "key-01500")
    await set_key(keyed, "jobs", "key-01600", max_running=1)
    found = await demand(database)
    assert found.sample.ready == 2_000 - 2 + 1
    assert kept(found) == (301, 300, 0)


async def test_what_is_kept_back_hides_nothing(database: Database, keyed: Connection):
    """Behind 12,000 older messages of a held key, a few others are found."""
    await send(keyed, "down", 12_000, age_seconds=1_000)
    await hold_key(keyed, "jobs", "down")
    await send(keyed, "above", 2)
    await send(keyed, "zone", 3, age_seconds=500)
    found = await demand(database)
    assert (found.sample.ready, found.sample.ready_is_capped) == (5, False)
    assert found.sample.oldest_ready_seconds == pytest.approx(500, abs=100)
    assert kept(found) == (10_000, 0, 0)
    assert found.sample.kept_back_is_capped
    assert found.sample.unfinished is None


@pytest.mark.parametrize("seed", range(20))
async def test_what_may_start_is_what_claims_take(
    database: Database, database_url: str, keyed: Connection, seed: int
):
    """Whatever limits, rates, holds, weights and leases there are, both come to the same number."""
    draw = random.Random(seed)

    def maybe(most: int) -> int | None:
        return draw.choice([None, draw.randint(1, most)])

    await set_queue_config(
        keyed,
        "jobs",
        max_running=maybe(30),
        max_running_per_key=draw.randint(1, 9),
        max_starts=maybe(30),
        max_starts_per_key=maybe(9),
        starts_period_seconds=3_600,
    )
    for key in "abcdef":
        await send(keyed, key, draw.randint(0, 15))
        await lease(keyed, key, draw.randint(0, 3))
        if draw.random() < 0.5:
            await set_key(
                keyed, "jobs", key, max_running=maybe(12), max_starts=maybe(12), weight=maybe(3)
            )
        if draw.random() < 0.2:
            await hold_key(keyed, "jobs", key)
    found = await demand(database)
    assert await claim_all(database_url) == found.sample.ready
    left = await demand(database)
    assert left.sample.ready == 0
    assert left.sample.kept_back == found.sample.kept_back


async def test_a_role_that_reads_no_bodies(
    database_url: str, keyed: Connection, connection: Connection
):
    """An operator's role sees keys in headers; where they are in bodies, only the queue's limit."""
    await send(keyed, "a", 10)
    await lease(keyed, "a", 1)
    await hold_key(keyed, "jobs", "a")
    async with Roles(database_url, connection) as roles:
        await roles.make(RoleKind.OPERATOR, name="test_operator")
        database = await Database.connect(roles.url("test_operator"))
        assert kept(await demand(database)) == (10, 0, 0)
        await set_queue_config(keyed, "jobs", keyed=False)
        await set_queue_config(keyed, "jobs", keyed=True, key_path="payload.tenant")
        await set_key(keyed, "jobs", "body", max_running=1)
        found = await demand(database)
        assert (found.sample.ready, kept(found)) == (10, (0, 0, 0))
        await set_queue_config(keyed, "jobs", max_running=4)
        found = await demand(database)
        assert (found.sample.ready, kept(found)) == (3, (0, 0, 7))
        await database.close()


async def test_what_is_kept_back_is_not_walked(connection: Connection, keyed: Connection):
    """With 60,000 more messages of a held and of a limited key, no more pages are read."""
    read = "select * from meshhook.queue_demand('{jobs}', '{5}', '{}', 5, 1000)"
    await hold_key(keyed, "jobs", "down")
    await set_key(keyed, "jobs", "slow", max_running=4)

    async def pages() -> int:
        await keyed.fetch(read)
        text = await keyed.fetchval(f"explain (analyze, buffers, format json) {read}")
        return buffers(json.loads(text)[0]["Plan"])

    for key in ("down", "slow", "free"):
        await send(keyed, key, 1_000)
    few = await pages()
    for key in ("down", "slow"):
        await send(keyed, key, 30_000)
    assert await pages() <= 2 * few + 100
