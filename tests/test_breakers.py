"""Circuit breakers of keys: they open after failures in a row, and a probe closes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    BreakerState,
    InvalidSettingError,
    Job,
    QueueService,
    get_key,
    get_queue_config,
    hold_key,
    list_keys,
    resume_key,
)
from meshhook.administration import set_queue_config
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.connecting import connect
from meshhook.queue_config import KeyPlace
from meshhook.store import queries
from meshhook.store.claims import claim
from meshhook.store.settlements import BreakerCount, Settlement, settle

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[Any]"

TABLES = queries.QueueTables("jobs")
FAILURES = 3
RETRIED, SUCCEEDED = AttemptOutcome.RETRIED, AttemptOutcome.SUCCEEDED


@pytest.fixture
async def keyed(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` has breakers."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, keyed=True, breaker_failures=FAILURES)
    yield connection
    await connection.close()


async def send(connection: Connection, key: str, count: int = 1) -> None:
    """Enqueue jobs of a key."""
    await connection.execute(
        "select meshhook.enqueue_many('jobs', array_fill('{}'::jsonb, array[$1::int]), key => $2)",
        *(count, key or None),
    )


async def take(connection: Connection, limit: int) -> list[Job[Any]]:
    """Claim as a worker does that knows the settings, and say that the jobs start now."""
    config = await get_queue_config(connection, "jobs")
    claimed = await claim(
        connection,
        TABLES,
        lease_seconds=600,
        limit=limit,
        max_attempts=50,
        keys=KeyPlace(),
        is_limited=config.is_limited,
    )
    now = await connection.fetchval("select extract(epoch from clock_timestamp())::float8")
    for job in claimed.jobs:
        job.started_timestamp = now
    return claimed.jobs


async def end(
    connection: Connection,
    jobs: Sequence[Job[Any]],
    outcome: AttemptOutcome,
    *,
    is_failure: bool | None = None,
    delay_seconds: float = 0.0,
) -> BreakerCount:
    """Settle jobs as a worker does; by default retries are failures."""
    failed = outcome is RETRIED if is_failure is None else is_failure
    breakers = BreakerCount(None, [failed] * len(jobs))
    settlements = [
        Settlement(
            job.msg_id,
            job.read_ct,
            job.enqueued_timestamp,
            job.attempt,
            outcome,
            job.started_timestamp,
            job.started_timestamp,
            delay_seconds=delay_seconds,
            error_type=None if outcome is SUCCEEDED else "ReceiverError",
        )
        for job in jobs
    ]
    assert await settle(connection, TABLES, "w", settlements, breakers) == set(range(len(jobs)))
    return breakers


async def open_breaker(connection: Connection, key: str = "down") -> None:
    """Open the breaker of a key."""
    await send(connection, key, FAILURES)
    opened = await end(connection, await take(connection, FAILURES), RETRIED, delay_seconds=3600)
    assert [change.is_open for change in opened.changes] == [True]


async def let_pause_end(connection: Connection) -> None:
    """Let the pause of all breakers be over."""
    await connection.execute("update meshhook.breakers set probe_at = now() - interval '1 ms'")


async def test_opens_after_failures_in_a_row(keyed: Connection) -> None:
    """Not after fewer; then its jobs stay as they are, and those of other keys run."""
    await send(keyed, "down", FAILURES)
    jobs = await take(keyed, 10)
    for job in jobs[:-1]:
        assert (await end(keyed, [job], RETRIED, delay_seconds=3600)).changes == []
    found = await get_key(keyed, "jobs", "down")
    assert (found.breaker, found.failures_in_a_row) == (BreakerState.CLOSED, FAILURES - 1)
    assert not (await get_queue_config(keyed, "jobs")).is_limited
    (change,) = (await end(keyed, jobs[-1:], RETRIED, delay_seconds=3600)).changes
    assert (change.key, change.is_open, change.failures) == ("down", True, FAILURES)
    assert 24 <= change.pause_seconds <= 30
    found = await get_key(keyed, "jobs", "down")
    assert (found.breaker, found.last_error_type) == (BreakerState.OPEN, "ReceiverError")
    assert found.breaker_opened_at is not None
    await send(keyed, "down", 5)
    await send(keyed, "up", 2)
    assert [job.headers["x-pgmq-group"] for job in await take(keyed, 10)] == ["up", "up"]
    waiting = "select max(read_ct) from pgmq.q_jobs where vt <= now()"
    assert await keyed.fetchval(waiting) == 0


async def test_a_success_ends_the_row(keyed: Connection) -> None:
    """Failures before a success count no more."""
    await send(keyed, "a", 2 * FAILURES)
    jobs = await take(keyed, 10)
    await end(keyed, jobs[: FAILURES - 1], RETRIED, delay_seconds=3600)
    assert (await end(keyed, jobs[-1:], SUCCEEDED)).changes == []
    assert (await get_key(keyed, "jobs", "a")).failures_in_a_row == 0
    assert (await end(keyed, jobs[FAILURES - 1 : -2], RETRIED)).changes == []


@pytest.mark.parametrize(
    "outcome",
    [AttemptOutcome.SNOOZED, AttemptOutcome.CANCELLED, AttemptOutcome.DEAD_LETTERED],
)
async def test_what_is_no_failure_changes_nothing(
    keyed: Connection, outcome: AttemptOutcome
) -> None:
    """It neither counts nor ends the row."""
    await send(keyed, "a", FAILURES + 2)
    jobs = await take(keyed, 10)
    await end(keyed, jobs[:2], RETRIED, delay_seconds=3600)
    counted = await end(keyed, jobs[2:-1], outcome, is_failure=False, delay_seconds=3600)
    assert counted.changes == []
    assert (await get_key(keyed, "jobs", "a")).failures_in_a_row == 2
    assert [c.is_open for c in (await end(keyed, jobs[-1:], RETRIED)).changes] == [True]


async def test_one_probe_closes(keyed: Connection) -> None:
    """After the pause one job runs at a time; its success closes the breaker."""
    await open_breaker(keyed)
    await send(keyed, "down", 5)
    await let_pause_end(keyed)
    assert (await get_key(keyed, "jobs", "down")).breaker is BreakerState.HALF_OPEN
    probes = await take(keyed, 10)
    assert len(probes) == 1
    assert await take(keyed, 10) == []
    (change,) = (await end(keyed, probes, SUCCEEDED)).changes
    assert (change.key, change.is_open) == ("down", False)
    found = await get_key(keyed, "jobs", "down")
    assert (found.breaker, found.failures_in_a_row) == (BreakerState.CLOSED, 0)
    assert not (await get_queue_config(keyed, "jobs")).is_limited
    assert len(await take(keyed, 10)) == 4


async def test_a_failed_probe_doubles_the_pause_up_to_the_longest(keyed: Connection) -> None:
    """Each is up to a fifth shorter than that, so that keys do not probe together."""
    await set_queue_config(keyed, "jobs", breaker_pause_seconds=10, breaker_max_pause_seconds=35)
    await open_breaker(keyed)
    await send(keyed, "down", 5)
    for longest in (20, 35, 35):
        await let_pause_end(keyed)
        (change,) = (await end(keyed, await take(keyed, 10), RETRIED)).changes
        assert change.is_open
        assert longest * 0.8 <= change.pause_seconds <= longest
        assert await take(keyed, 10) == []


@pytest.mark.parametrize("way", ["snoozed", "released", "lost", "dead-lettered"])
async def test_a_probe_that_says_nothing_makes_way_for_the_next(
    keyed: Connection, pool: Pool, way: str
) -> None:
    """The breaker stays half-open, and nothing is stuck."""
    await open_breaker(keyed)
    await send(keyed, "down", 3)
    await let_pause_end(keyed)
    (probe,) = await take(keyed, 10)
    if way == "snoozed":
        await end(keyed, [probe], AttemptOutcome.SNOOZED, is_failure=False, delay_seconds=60)
    elif way == "released":
        await QueueService[Any](pool, "jobs").release(probe)
    elif way == "lost":
        await keyed.execute(
            "update pgmq.q_jobs set vt = now() - interval '1 ms' where msg_id = $1", probe.msg_id
        )
    else:
        await end(keyed, [probe], AttemptOutcome.DEAD_LETTERED, is_failure=False)
    assert (await get_key(keyed, "jobs", "down")).breaker is BreakerState.HALF_OPEN
    assert len(await take(keyed, 10)) == 1
    assert await take(keyed, 10) == []


async def test_what_started_before_the_opening_decides_nothing(keyed: Connection) -> None:
    """Its success does not close the breaker, and its failure does not lengthen the pause."""
    await send(keyed, "down", FAILURES + 3)
    jobs = await take(keyed, 10)
    await end(keyed, jobs[:FAILURES], RETRIED, delay_seconds=3600)
    before = await get_key(keyed, "jobs", "down")
    assert (await end(keyed, jobs[-1:], RETRIED, delay_seconds=3600)).changes == []
    assert (await end(keyed, jobs[-2:-1], SUCCEEDED)).changes == []
    await let_pause_end(keyed)
    assert await take(keyed, 10) == []  # one still runs
    assert (await end(keyed, jobs[-3:-2], RETRIED, delay_seconds=3600)).changes == []
    found = await get_key(keyed, "jobs", "down")
    assert found.breaker is BreakerState.HALF_OPEN
    assert found.failures_in_a_row == before.failures_in_a_row == FAILURES


async def test_resume_closes_and_a_hold_by_hand_is_independent(keyed: Connection) -> None:
    """A hold outlives the breaker's pause, and `resume` ends both."""
    await open_breaker(keyed)
    await send(keyed, "down", 2)
    held = await hold_key(keyed, "jobs", "down", 3600, reason="moves to another data centre")
    assert (held.breaker, held.held_by) == (BreakerState.OPEN, "manual")
    assert held.hold_reason == "moves to another data centre"
    await let_pause_end(keyed)
    assert await take(keyed, 10) == []
    found = await resume_key(keyed, "jobs", "down")
    assert (found.breaker, found.held_until, found.hold_reason) == (BreakerState.CLOSED, None, None)
    assert len(await take(keyed, 10)) == 2


async def test_turned_off_nothing_is_held(keyed: Connection) -> None:
    """Without breaker_failures, breakers that were open hold nothing, and nothing is counted."""
    await open_breaker(keyed)
    await send(keyed, "down", FAILURES)
    await set_queue_config(keyed, "jobs", breaker_failures="none")
    jobs = await take(keyed, 10)
    assert len(jobs) == FAILURES
    assert (await end(keyed, jobs, RETRIED)).changes == []
    assert (await get_key(keyed, "jobs", "down")).breaker is None


async def test_a_job_claimed_by_hand_closes_it(keyed: Connection, pool: Pool) -> None:
    """`dequeue` takes the probe, and `acknowledge` is its success."""
    await open_breaker(keyed)
    await send(keyed, "down", 3)
    async with QueueService[Any](pool, "jobs") as service:
        assert await service.dequeue() is None
        await let_pause_end(keyed)
        job = await service.dequeue()
        assert job is not None
        assert await service.dequeue() is None
        assert await service.acknowledge(job)
    assert (await get_key(keyed, "jobs", "down")).breaker is BreakerState.CLOSED


async def test_breakers_that_nobody_needs_are_deleted(keyed: Connection) -> None:
    """Those that count nothing, and those whose key has had no job for a day."""
    await keyed.execute(
        "insert into meshhook.breakers (queue, key, failures, failed_at, opened_at, probe_at) "
        "select 'jobs', key, failures, now() - ago::interval, now() - opened::interval, "
        "now() - probe::interval from (values ('none', 0, null, null, null), "
        "('old', 1, '25 hours', null, null), ('new', 1, '23 hours', null, null), "
        "('idle', 3, '3 days', '3 days', '25 hours'), ('open', 3, '3 days', '3 days', '1 hour')) "
        "as b (key, failures, ago, opened, probe)"
    )
    sql = queries.load("delete_idle_breakers")
    assert [await keyed.fetchval(sql) for _ in range(2)] == [3, 0]
    rows = await keyed.fetch("select key from meshhook.breakers order by key")
    assert [row["key"] for row in rows] == ["new", "open"]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"keyed": False}, r"breaker_failures \(3\) is for keyed queues"),
        ({"breaker_failures": 0}, r"breaker_failures=0"),
        ({"breaker_pause_seconds": 700}, r"more than breaker_max_pause_seconds \(600\)"),
        ({"breaker_max_pause_seconds": "x"}, r"breaker_max_pause_seconds='x'"),
    ],
)
async def test_wrong_settings_are_refused(
    keyed: Connection, settings: dict[str, Any], error: str
) -> None:
    """The error names the setting and the value."""
    with pytest.raises(InvalidSettingError, match=error):
        await set_queue_config(keyed, "jobs", **settings)


async def test_keys_with_breakers_are_listed(keyed: Connection) -> None:
    """Also those without messages."""
    await open_breaker(keyed)
    await keyed.execute("delete from pgmq.q_jobs")
    (found,) = await list_keys(keyed, "jobs")
    assert (found.key, found.breaker) == ("down", BreakerState.OPEN)


async def test_settlements_at_the_same_time_open_exactly_once(
    keyed: Connection, database_url: str
) -> None:
    """Eight workers whose batches hold jobs of the same keys in any order wait for no deadlock."""
    keys = [f"key-{i}" for i in range(6)]
    await set_queue_config(keyed, "jobs", breaker_failures=8 * 5)
    for key in keys:
        await send(keyed, key, 8 * 5)
    jobs = await take(keyed, 1000)
    connections = [await connect(database_url) for _ in range(8)]
    try:
        changes = []
        for round_ in range(5):
            # Of each key one job a worker, in turning orders.
            of_key = {k: [j for j in jobs if j.headers["x-pgmq-group"] == k] for k in keys}
            batches = [
                [of_key[keys[(i + n) % len(keys)]][8 * round_ + n] for i in range(len(keys))]
                for n in range(8)
            ]
            counts = await asyncio.gather(
                *(
                    end(own, batch, RETRIED, delay_seconds=3600)
                    for own, batch in zip(connections, batches, strict=True)
                )
            )
            changes += [change for count in counts for change in count.changes]
            assert len(changes) == (0 if round_ < 4 else len(keys))
        assert sorted(change.key for change in changes) == keys
        assert {change.failures for change in changes} == {8 * 5}
    finally:
        for each in connections:
            await each.close()
