"""Claims of a queue whose messages have keys: fair shares, and all that other claims promise."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshhook import QueueService, set_key
from meshhook.administration import set_queue_config
from meshhook.names import KEY_HEADER
from meshhook.postgres.connecting import connect
from meshhook.queue_config import KeyPlace
from meshhook.store import queries
from meshhook.store.claims import EVERYTHING, Claim, ClaimClass, claim
from meshhook.worker import producer as producer_module
from meshhook.worker import queue_claims
from support.odd_rows import HEADERS, MESSAGES, MOMENTS, READ_COUNTS
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")
SEND = """
    insert into pgmq.q_jobs (vt, message, headers)
    select clock_timestamp() - make_interval(secs => $3::float8), '{"payload": 1}',
        jsonb_build_object('x-pgmq-group', $1::text)
    from generate_series(1, $2::int)
"""
RUN = """
    insert into pgmq.q_jobs (vt, message, headers, read_ct)
    select clock_timestamp() + interval '1 hour', '{"payload": 1}',
        jsonb_build_object('x-pgmq-group', $1::text), 1
    from generate_series(1, $2::int)
"""
PLAY = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
async def keyed(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` is keyed."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, keyed=True)
    yield connection
    await connection.close()


async def send(connection: Connection, key: str, jobs: int = 1, age_seconds: float = 0) -> None:
    """Enqueue jobs with a key, so long ago."""
    await connection.execute(SEND, key, jobs, age_seconds)


async def take(
    connection: Connection, limit: int, from_key: str | None = "", **options: Any
) -> Claim:
    """Claim up to so many jobs."""
    return await claim(
        connection,
        TABLES,
        lease_seconds=600,
        limit=limit,
        max_attempts=5,
        keys=KeyPlace(),
        from_key=from_key,
        **options,
    )


def shares(claimed: Claim) -> Counter[str]:
    """Return how many jobs of each key were claimed."""
    return Counter(job.headers.get(KEY_HEADER, "") for job in claimed.jobs)


def even(
    due: Mapping[str, int], running: Mapping[str, int], order: Sequence[str], limit: int
) -> Counter[str]:
    """Return what each key is to get: one job after the other to the key of which fewest run."""
    given: Counter[str] = Counter()
    for _ in range(limit if due else 0):
        given[min(order, key=lambda key: (running[key] + given[key], order.index(key)))] += 1
    return given


async def test_a_key_with_many_jobs_does_not_make_the_others_wait(keyed: Connection) -> None:
    """A key with a thousand old jobs and keys with one new job each get their turn."""
    await send(keyed, "flood", 1_000, age_seconds=60)
    await send(keyed, "quiet")
    await send(keyed, "calm")
    assert shares(await take(keyed, 6)) == {"flood": 4, "quiet": 1, "calm": 1}


async def test_what_runs_counts_against_a_key(keyed: Connection) -> None:
    """Of keys with waiting jobs, those come first of which fewer run; then the oldest job."""
    await send(keyed, "a", 10, age_seconds=60)
    await send(keyed, "b", 10, age_seconds=30)
    await send(keyed, "c", 10)
    await keyed.execute(RUN, "a", 4)
    await keyed.execute(RUN, "b", 1)
    assert shares(await take(keyed, 1)) == {"c": 1}
    assert shares(await take(keyed, 1)) == {"b": 1}
    assert shares(await take(keyed, 7)) == {"a": 1, "b": 3, "c": 3}


async def test_only_live_leases_count_as_running(keyed: Connection) -> None:
    """Jobs that were lost, that wait to be tried again, or that are delayed, are not running."""
    await send(keyed, "a", 4)
    await keyed.execute(RUN, "a", 9)
    await keyed.execute(
        "update pgmq.q_jobs set vt = vt - interval '2 hours' where read_ct = 1 and msg_id % 3 = 0"
    )
    await keyed.execute(
        "update pgmq.q_jobs set headers = headers || '{\"meshhook-settled\": 1}' "
        "where read_ct = 1 and msg_id % 3 = 1"
    )
    await keyed.execute("update pgmq.q_jobs set read_ct = 0 where read_ct = 1 and msg_id % 3 = 2")
    await send(keyed, "b", 4)
    await keyed.execute(RUN, "b", 1)
    claimed = await take(keyed, 1)
    assert shares(claimed) == {"a": 1}


@pytest.mark.parametrize("later_from", [None, EVERYTHING])
async def test_shares_are_even(keyed: Connection, later_from: datetime | None) -> None:
    """Whatever waits and runs, each key gets its share of what one claim takes, if it has so much.

    What keys with fewer jobs leave goes to the oldest jobs of all: a claim never comes back with
    fewer jobs than it may take while any is ready.
    """

    async def play(due: dict[str, int], running: dict[str, int], limit: int, from_key: str) -> None:
        await keyed.execute("delete from pgmq.q_jobs")
        order = sorted(due)
        for position, key in enumerate(order):
            await send(keyed, key, due[key], age_seconds=60 - position)
            await keyed.execute(RUN, key, running[key])
        expected = even(due, running, order, limit)
        got = shares(await take(keyed, limit, from_key, later_from=later_from))
        assert got.total() == min(limit, sum(due.values()))
        for key in order:
            assert got[key] >= min(due[key], expected[key]), (key, got, expected)

    keys = st.sampled_from(["a", "b", "c", "d", "e"])
    loop = asyncio.get_running_loop()

    @PLAY
    @given(
        due=st.dictionaries(keys, st.integers(1, 12)),
        running=st.fixed_dictionaries({key: st.integers(0, 5) for key in "abcde"}),
        limit=st.integers(1, 20),
        from_key=st.sampled_from(["", "b", "dd", "z"]),
    )
    def example(due: dict[str, int], running: dict[str, int], limit: int, from_key: str) -> None:
        asyncio.run_coroutine_threadsafe(play(due, running, limit, from_key), loop).result()

    await asyncio.to_thread(example)


async def test_of_many_keys_each_has_its_turn(keyed: Connection) -> None:
    """A claim of 256 looks at 32 keys; the next goes on after them, then from the beginning."""
    await keyed.execute(
        "insert into pgmq.q_jobs (vt, message, headers) select clock_timestamp(), '{}', "
        "jsonb_build_object('x-pgmq-group', 'key-' || n % 600) from generate_series(1, 6000) n"
    )
    served: Counter[str] = Counter()
    from_key: str | None = None
    for _ in range(19):
        claimed = await take(keyed, 256, from_key)
        served += shares(claimed)
        from_key = claimed.next_key
    assert len(served) == 600
    assert min(served.values()) == 8
    assert served.total() == 19 * 256


async def test_jobs_beyond_the_keys_looked_at_are_found(keyed: Connection) -> None:
    """Among 300 keys with delayed jobs, the one ready job is claimed at once."""
    await keyed.execute(
        "insert into pgmq.q_jobs (vt, message, headers) select now() + interval '1 hour', '{}', "
        "jsonb_build_object('x-pgmq-group', 'key-' || n) from generate_series(100, 399) n"
    )
    await send(keyed, "z")
    assert shares(await take(keyed, 10)) == {"z": 1}


async def test_messages_without_a_key_are_one_key(keyed: Connection, pool: Pool) -> None:
    """What is enqueued without a key shares, as one, with the keys."""
    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 10)
    await keyed.execute("select pgmq.send('jobs', '{}'::jsonb, 'null'::jsonb)")
    await send(keyed, "a", 10)
    assert shares(await take(keyed, 6)) == {"": 3, "a": 3}


async def test_a_key_that_is_no_text_is_what_it_looks_like(keyed: Connection) -> None:
    """The number 7 and the text "7" are one key; of a long text the beginning is the key."""
    for value in ("7", '"7"', f'"{"k" * 300}"', f'"{"k" * 301}"', '{"a": 1}'):
        await keyed.execute(
            "insert into pgmq.q_jobs (vt, message, headers) select now(), '{}', "
            "jsonb_build_object('x-pgmq-group', $1::jsonb) from generate_series(1, 5)",
            value,
        )
    claimed = await take(keyed, 3)
    assert {str(job.headers[KEY_HEADER])[:1] for job in claimed.jobs} == {"7", "k", "{"}


@pytest.mark.usefixtures("keyed")
async def test_the_key_may_stand_in_the_body(connection: Connection) -> None:
    """With a path, the header is not looked at."""
    await set_queue_config(connection, "jobs", keyed=False)
    await set_queue_config(connection, "jobs", keyed=True, key_path="payload.customer")
    for customer, jobs in (("a", 10), ("b", 2)):
        await connection.execute(
            "insert into pgmq.q_jobs (vt, message, headers) select now(), jsonb_build_object("
            "'payload', jsonb_build_object('customer', $1::text)), '{\"x-pgmq-group\": \"x\"}' "
            "from generate_series(1, $2::int)",
            customer,
            jobs,
        )
    claimed = await claim(
        connection,
        TABLES,
        lease_seconds=600,
        limit=4,
        max_attempts=5,
        keys=KeyPlace("payload.customer"),
    )
    assert Counter(job.body.count('"b"') for job in claimed.jobs) == {0: 2, 1: 2}


@pytest.mark.parametrize("keyed_now", [False, True])
async def test_a_claim_with_old_settings_takes_the_oldest(
    keyed: Connection, keyed_now: bool
) -> None:
    """While a worker does not know yet that keys were turned off or moved, jobs are claimed."""
    await set_queue_config(keyed, "jobs", keyed=False)
    if keyed_now:
        await set_queue_config(keyed, "jobs", keyed=True, key_path="customer")
    await send(keyed, "a", 5, age_seconds=60)
    await send(keyed, "b", 5)
    assert shares(await take(keyed, 4)) == {"a": 4}


async def test_a_suspect_is_claimed_alone(keyed: Connection) -> None:
    """A job that was lost twice comes alone, and its turn comes by its key."""
    await send(keyed, "flood", 10, age_seconds=60)
    await send(keyed, "quiet")
    await keyed.execute(
        "update pgmq.q_jobs set read_ct = 2, headers = headers || "
        '\'{"meshhook-claim": {"read_ct": 2, "attempt": 2, "lost": 1}}\' '
        'where headers @> \'{"x-pgmq-group": "quiet"}\''
    )
    first = await take(keyed, 4)
    assert (first.claim_class, shares(first)) == (ClaimClass.HEALTHY, {"flood": 3})
    second = await take(keyed, 4)
    assert (second.claim_class, shares(second)) == (ClaimClass.SUSPECT, {"quiet": 1})
    assert second.new_losses == 1


async def test_the_smallest_due_time_is_known(keyed: Connection) -> None:
    """A claim that leaves older jobs says so: no later claim may begin above them."""
    await send(keyed, "old", 1, age_seconds=60)
    await keyed.execute(RUN, "old", 5)
    await send(keyed, "new", 5)
    claimed = await take(keyed, 2)
    assert shares(claimed) == {"new": 2}
    oldest = await keyed.fetchval("select min(vt) from pgmq.q_jobs")
    assert claimed.oldest_due == oldest
    assert shares(await take(keyed, 1, from_vt=oldest)) == {"new": 1}


async def test_workers_that_claim_at_once_take_each_job_once(
    keyed: Connection, database_url: str
) -> None:
    """Claims at the same time leave nothing behind, and none comes back empty-handed."""
    for key in ("a", "b", "c"):
        await send(keyed, key, 400)
    connections = [await connect(database_url, steady_plans=True) for _ in range(4)]
    try:
        taken: list[int] = []
        while len(taken) < 1_200:
            claims = await asyncio.gather(*(take(each, 20) for each in connections))
            assert all(each.jobs for each in claims)
            taken += [job.msg_id for each in claims for job in each.jobs]
    finally:
        for each in connections:
            await each.close()
    assert len(set(taken)) == 1_200


async def test_odd_rows_are_claimed(keyed: Connection) -> None:
    """Whatever other clients and administrators leave in a row, its message comes to a worker."""
    rows = 0
    for moment in MOMENTS:
        for read_ct in READ_COUNTS:
            for headers in HEADERS:
                rows += 1
                await keyed.execute(
                    f"insert into pgmq.q_jobs (vt, read_ct, enqueued_at, message, headers) values "
                    f"('{moment}', {read_ct}, '{moment}', '{MESSAGES[rows % len(MESSAGES)]}', "
                    f"'{headers}')"
                )
    due = await keyed.fetchval("select count(*) from pgmq.q_jobs where vt <= now()")
    taken: set[int] = set()
    while jobs := (await take(keyed, 50)).jobs:
        taken.update(job.msg_id for job in jobs)
    assert len(taken) == due


async def test_a_worker_serves_keys_in_turn(
    keyed: Connection, pool: Pool, database_url: str
) -> None:
    """The single job of a key that comes last does not wait for the flood before it."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{"payload": "flood"}] * 500, key="flood")
    await service.enqueue({"payload": "quiet"}, key="quiet")
    done: list[str] = []

    async def handler(job: Any) -> None:
        done.append(job.payload)

    async with make_worker(database_url, handler, concurrency=2):
        await eventually(lambda: len(done) == 501)
    assert done.index("quiet") < 100


async def test_claimed_jobs_have_the_key_and_its_weight(keyed: Connection) -> None:
    """Also where the claim did not look at the key, and where limits make claims take turns."""
    await set_key(keyed, "jobs", "heavy", weight=3)
    await send(keyed, "light", 2)
    await send(keyed, "heavy", 2)
    await keyed.execute("insert into pgmq.q_jobs (vt, message) values (now(), '{}')")
    assert weights(await take(keyed, 10, is_limited=False)) == {"heavy": 3, "light": 1, "": 1}
    await set_queue_config(keyed, "jobs", max_running=100)
    await send(keyed, "light", 2)
    await send(keyed, "heavy", 2)
    assert weights(await take(keyed, 10, is_limited=True)) == {"heavy": 3, "light": 1}
    await set_queue_config(keyed, "jobs", max_running=None)
    await keyed.execute("delete from pgmq.q_jobs")
    for number in range(300):
        await send(keyed, f"key-{number:03}")
    found = weights(await take(keyed, 300, from_key="key-100", is_limited=False))
    assert found == {f"key-{number:03}": 1 for number in range(300)}


def weights(claimed: Claim) -> dict[str | None, float]:
    """Return the weights of the keys of claimed jobs, each of which has one."""
    assert claimed.shares is not None
    assert claimed.shares.keys() == {job.key for job in claimed.jobs}
    for job in claimed.jobs:
        assert claimed.shares[job.key].key == job.headers.get(KEY_HEADER, "")
    return dict(claimed.shares.values())


async def test_a_quiet_key_does_not_wait_for_what_was_claimed_before(
    keyed: Connection, pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its job starts in the next free slot of a worker that holds many of another key."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{"payload": number} for number in range(10)], key="flood")
    claimed: list[int] = []
    quiet_id: int | None = None
    is_quiet_held = asyncio.Event()

    async def claim_and_note(*arguments: Any, **options: Any) -> Claim:
        if quiet_id in claimed:
            is_quiet_held.set()  # an earlier claim has handed it over
        found = await claim(*arguments, **options)
        claimed.extend(job.msg_id for job in found.jobs)
        return found

    # Ten are claimed ahead, however quick the jobs are.
    monkeypatch.setattr(queue_claims, "claim", claim_and_note)
    monkeypatch.setattr(producer_module, "claim_size", lambda **_: 10)
    started: list[Any] = []
    go_on = asyncio.Event()

    async def handler(job: Any) -> None:
        nonlocal quiet_id
        started.append(job.payload)
        if job.payload == 0:
            quiet_id = await service.enqueue({"payload": "quiet"}, key="quiet")
            await is_quiet_held.wait()
        elif job.payload == 1:
            await go_on.wait()
        elif job.payload == "quiet":
            go_on.set()

    async with make_worker(database_url, handler, concurrency=2):
        await eventually(lambda: len(started) == 11)
    assert started[:3] == [0, 1, "quiet"]


def test_both_claims_lease_alike() -> None:
    """From the choice of a class on, the two statements are the same text but for the key."""
    start = "), chosen as materialized ("
    keyed, plain = queries.load("claim_keyed", "jobs"), queries.load("claim", "jobs")
    keyed = re.sub(r"(as headers, c\.mark), .* as key\n", r"\1\n", keyed)
    tail = plain[plain.index(start) :].removesuffix("\nfrom claimed c\n")
    assert keyed[keyed.index(start) :].startswith(tail)
    assert len(tail) > 2_000
