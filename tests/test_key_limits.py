"""Limits and weights of keys: exact among live leases, counted from the messages themselves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshhook import (
    QueueService,
    RetryAfter,
    Snooze,
    get_key,
    hold_key,
    list_keys,
    resume_key,
    set_key,
)
from meshhook.administration import get_queue_config, set_queue_config
from meshhook.errors import DatabaseError, InvalidSettingError, QueueNotFoundError
from meshhook.names import KEY_HEADER
from meshhook.outcomes import Outcome
from meshhook.postgres.connecting import connect
from meshhook.queue_config import KeyPlace
from meshhook.role_kinds import RoleKind
from meshhook.schema import available_migrations, migrate
from meshhook.store import queries
from meshhook.store.claims import Claim, claim
from support.roles import Roles
from support.waiting import eventually, lock_waiters
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
RUNNING = """
    select count(*) from pgmq.q_jobs q
    where vt > clock_timestamp() and read_ct > meshhook.settled_attempts(headers)
"""
PLAY = settings(
    max_examples=60,
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


async def take(connection: Connection, limit: int, *, is_limited: bool = True) -> Claim:
    """Claim up to so many jobs, as a worker that knows of limits or not."""
    return await claim(
        connection,
        TABLES,
        lease_seconds=600,
        limit=limit,
        max_attempts=5,
        keys=KeyPlace(),
        is_limited=is_limited,
        from_key="",
    )


def shares(claimed: Claim) -> Counter[str]:
    """Return how many jobs of each key were claimed."""
    return Counter(job.headers.get(KEY_HEADER, "") for job in claimed.jobs)


async def extend(connection: Connection, claimed: Claim) -> list[bool]:
    """Extend the leases of a claim in a queue with limits, and say which hold."""
    rows = await connection.fetch(
        queries.load("extend_in_turn"),
        "jobs",
        queries.load("extend", TABLES),
        [job.msg_id for job in claimed.jobs],
        [job.read_ct for job in claimed.jobs],
        [job.enqueued_timestamp for job in claimed.jobs],
        600.0,
    )
    held = {row["position"] - 1 for row in rows}
    return [position in held for position in range(len(claimed.jobs))]


async def test_a_weight_is_a_larger_share(keyed: Connection) -> None:
    """A key with weight 3 gets three jobs for each of another."""
    await set_key(keyed, "jobs", "heavy", weight=3)
    await send(keyed, "light", 20, age_seconds=60)
    await send(keyed, "heavy", 20)
    assert shares(await take(keyed, 8, is_limited=False)) == {"heavy": 6, "light": 2}


async def test_each_key_has_its_limit(keyed: Connection) -> None:
    """The queue says how many jobs of each key run, and a key may have a limit of its own."""
    await set_queue_config(keyed, "jobs", max_running_per_key=2)
    await set_key(keyed, "jobs", "b", max_running=5)
    for key in ("a", "b", "c"):
        await send(keyed, key, 10)
    assert shares(await take(keyed, 100)) == {"a": 2, "b": 5, "c": 2}
    assert (await take(keyed, 100)).jobs == []
    await keyed.execute("delete from pgmq.q_jobs where read_ct = 1")
    assert shares(await take(keyed, 100)) == {"a": 2, "b": 5, "c": 2}


async def test_a_limit_changes_while_jobs_run(keyed: Connection) -> None:
    """A larger limit takes effect with the next claim; a smaller one once jobs have ended."""
    await set_key(keyed, "jobs", "a", max_running=2)
    await send(keyed, "a", 10)
    assert len((await take(keyed, 100)).jobs) == 2
    await set_key(keyed, "jobs", "a", max_running=3)
    assert len((await take(keyed, 100)).jobs) == 1
    await set_key(keyed, "jobs", "a", max_running=1)
    assert (await take(keyed, 100)).jobs == []
    await set_key(keyed, "jobs", "a", max_running="none")
    assert len((await take(keyed, 100, is_limited=False)).jobs) == 7


async def test_the_queue_has_a_limit(keyed: Connection) -> None:
    """No more jobs of the queue run than that, of whatever keys, those without a key included."""
    await set_queue_config(keyed, "jobs", max_running=4)
    await send(keyed, "a", 10)
    await keyed.execute("select pgmq.send('jobs', '{}'::jsonb) from generate_series(1, 10)")
    assert shares(await take(keyed, 3)) == {"a": 2, "": 1}
    assert len((await take(keyed, 100)).jobs) == 1
    assert (await take(keyed, 100)).jobs == []


async def test_a_claim_that_knows_of_no_limits_takes_nothing(keyed: Connection) -> None:
    """A worker that has not read new settings yet breaks no limit."""
    await send(keyed, "a", 10)
    await set_key(keyed, "jobs", "b", max_running=1)
    assert (await take(keyed, 10, is_limited=False)).jobs == []
    assert (await get_queue_config(keyed, "jobs")).is_limited
    assert len((await take(keyed, 10)).jobs) == 10


async def test_a_job_that_waits_for_its_next_attempt_keeps_no_slot(keyed: Connection) -> None:
    """With a limit of 1 and a job that is retried in an hour, the key's other jobs go on."""
    await set_queue_config(keyed, "jobs", max_running_per_key=1)
    await send(keyed, "a", 3)
    claimed = await take(keyed, 10)
    await keyed.execute(
        "update pgmq.q_jobs set vt = now() + interval '1 hour', "
        "headers = headers || '{\"meshhook-settled\": 1}' where msg_id = $1",
        claimed.jobs[0].msg_id,
    )
    assert len((await take(keyed, 10)).jobs) == 1


async def test_a_lost_lease_frees_its_slot_and_is_never_revived(keyed: Connection) -> None:
    """Once a lease has ended another job may have its place: extending it says that it is lost."""
    await set_queue_config(keyed, "jobs", max_running_per_key=1)
    await send(keyed, "a", 1, age_seconds=60)
    first = await take(keyed, 10)
    assert await extend(keyed, first) == [True]
    await keyed.execute("update pgmq.q_jobs set vt = now() - interval '1 millisecond'")
    await send(keyed, "a", 1, age_seconds=120)
    second = await take(keyed, 10)
    assert len(second.jobs) == 1
    assert second.jobs[0].msg_id != first.jobs[0].msg_id
    assert await extend(keyed, first) == [False]
    assert await keyed.fetchval(RUNNING) == 1


async def test_a_claim_waits_for_another_that_has_not_committed(
    keyed: Connection, connection: Connection
) -> None:
    """What an open claim has leased counts: the next one looks only after it."""
    await set_queue_config(keyed, "jobs", max_running_per_key=1)
    await send(keyed, "a", 2)
    async with connection.transaction():
        assert len((await take(connection, 10)).jobs) == 1
        second = asyncio.create_task(take(keyed, 10))
        await eventually(lambda: lock_waiters(connection))
        assert not second.done()
    assert (await second).jobs == []


async def test_an_extension_waits_for_an_open_claim(
    keyed: Connection, connection: Connection
) -> None:
    """A lease that ends while a claim is under way is not extended behind the claim's back."""
    await set_queue_config(keyed, "jobs", max_running_per_key=1)
    await send(keyed, "a", 2)
    first = await take(keyed, 10)
    await keyed.execute(
        "update pgmq.q_jobs set vt = now() - interval '1 millisecond' where read_ct = 1"
    )
    async with connection.transaction():
        assert len((await take(connection, 1)).jobs) == 1
        extended = asyncio.create_task(extend(keyed, first))
        await eventually(lambda: lock_waiters(connection))
    assert await extended == [False]
    assert await keyed.fetchval(RUNNING) == 1


async def test_keys_at_their_limit_do_not_hide_others(
    keyed: Connection, pool: Pool, database_url: str
) -> None:
    """A worker finds the one key that is free among 600 that are at their limit."""
    await set_queue_config(keyed, "jobs", max_running_per_key=1)
    await keyed.execute(
        "insert into pgmq.q_jobs (vt, read_ct, message, headers) "
        "select case when n <= 600 then now() + interval '1 hour' else now() end, "
        "(n <= 600)::int, '{}', jsonb_build_object('x-pgmq-group', 'key-' || n % 600) "
        "from generate_series(1, 1200) n"
    )
    await QueueService[Any](pool, "jobs").enqueue({}, key="key-free")
    done = asyncio.Event()

    async def handler(job: Any) -> None:
        assert job.headers[KEY_HEADER] == "key-free"
        done.set()

    async with make_worker(database_url, handler):
        async with asyncio.timeout(60):
            await done.wait()


async def test_what_is_held_back_is_left_alone(
    keyed: Connection, pool: Pool, database_url: str
) -> None:
    """With 2,000 ready jobs, a limit of 4 and 50 slots, nothing is claimed to be given back."""
    await set_queue_config(keyed, "jobs", max_running_per_key=4)
    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 2_000, key="a")
    running: list[int] = []
    most = 0
    done = 0

    async def handler(_: Any) -> None:
        nonlocal most, done
        running.append(1)
        most = max(most, len(running))
        await asyncio.sleep(0.01)
        running.pop()
        done += 1

    async with make_worker(database_url, handler, concurrency=50):
        await eventually(lambda: done >= 40)
    assert most <= 4
    assert await keyed.fetchval("select count(*) from pgmq.q_jobs where read_ct > 0") <= 4
    lost = "select count(*) from meshhook.job_attempts where outcome <> 'succeeded'"
    assert await keyed.fetchval(lost) == 0


async def test_no_claim_breaks_a_limit(keyed: Connection) -> None:
    """Whatever waits, runs and is limited, claims stop at the limits, and use them up."""

    async def play(
        due: dict[str, int], limits: dict[str, int], of_queue: int | None, per_key: int | None
    ) -> None:
        await keyed.execute("delete from pgmq.q_jobs")
        await keyed.execute("delete from meshhook.keys")
        await set_queue_config(keyed, "jobs", max_running=of_queue, max_running_per_key=per_key)
        for key, limit in limits.items():
            await set_key(keyed, "jobs", key, max_running=limit)
        for key, jobs in due.items():
            await send(keyed, key, jobs)
        got: Counter[str] = Counter()
        for batch in (1, 3, 7, 20, 20, 20, 20):
            got += shares(await take(keyed, batch))
        most = {
            key: min(jobs, limits.get(key, jobs if per_key is None else per_key))
            for key, jobs in due.items()
        }
        expected = min(sum(most.values()), 91, of_queue or 91)
        assert got.total() == expected, (got, most)
        assert all(got[key] <= most[key] for key in due)

    keys = st.sampled_from(["a", "b", "c", ""])
    loop = asyncio.get_running_loop()

    @PLAY
    @given(
        due=st.dictionaries(keys, st.integers(1, 20), min_size=1),
        limits=st.dictionaries(keys, st.integers(1, 8)),
        of_queue=st.none() | st.integers(1, 30),
        per_key=st.none() | st.integers(1, 8),
    )
    def example(
        due: dict[str, int], limits: dict[str, int], of_queue: int | None, per_key: int | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(play(due, limits, of_queue, per_key), loop).result()

    await asyncio.to_thread(example)


async def test_a_held_key_is_left_alone(keyed: Connection) -> None:
    """Its jobs stay as they are until it is resumed, and those of other keys are claimed."""
    await send(keyed, "down", 5, age_seconds=60)
    await send(keyed, "up", 5)
    held = await hold_key(keyed, "jobs", "down")
    assert held.held_until is not None
    assert held.held_until.year == 9999
    assert (await take(keyed, 3, is_limited=False)).jobs == []
    assert shares(await take(keyed, 100)) == {"up": 5}
    assert await keyed.fetchval("select max(read_ct) from pgmq.q_jobs where vt < now()") == 0
    assert (await resume_key(keyed, "jobs", "down")).held_until is None
    assert not (await get_queue_config(keyed, "jobs")).is_limited
    assert shares(await take(keyed, 100, is_limited=False)) == {"down": 5}


async def test_a_hold_ends_by_itself(keyed: Connection) -> None:
    """A hold for some time is over after it, by the database's clock; a weight or limit stays."""
    await send(keyed, "a", 2)
    await set_key(keyed, "jobs", "a", max_running=1)
    await hold_key(keyed, "jobs", "a", 3600)
    assert (await take(keyed, 10)).jobs == []
    assert (await set_key(keyed, "jobs", "a", weight=2)).held_until is not None
    await keyed.execute("update meshhook.keys set held_until = now() - interval '1 second'")
    assert len((await take(keyed, 10)).jobs) == 1
    found = await resume_key(keyed, "jobs", "a")
    assert (found.weight, found.max_running, found.held_until) == (2, 1, None)


async def test_a_running_worker_follows_a_hold(
    keyed: Connection, pool: Pool, database_url: str
) -> None:
    """Held, a key waits while others run; resumed, its jobs run."""
    await hold_key(keyed, "jobs", "down")
    done: list[str] = []

    async def handler(job: Any) -> None:
        done.append(job.headers[KEY_HEADER])

    service = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, handler):
        await service.enqueue({}, key="down")
        await service.enqueue_many([{}] * 3, key="up")
        await eventually(lambda: done == ["up"] * 3)
        await resume_key(keyed, "jobs", "down")
        await eventually(lambda: done[3:] == ["down"])


@pytest.mark.parametrize("outcome", [RetryAfter(60, hold_key=True), Snooze(60, hold_key=True)])
async def test_a_handler_holds_the_key_of_its_job(
    keyed: Connection, pool: Pool, database_url: str, outcome: Outcome
) -> None:
    """One attempt finds out that a receiver is down; its other jobs spend none, and others run."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue({}, key="down")
    seen: list[str] = []

    async def handler(job: Any) -> Outcome | None:
        seen.append(job.headers[KEY_HEADER])
        return outcome if seen[-1] == "down" else None

    async with make_worker(database_url, handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
        # Jobs that a worker has claimed before still run: these come after the hold.
        await service.enqueue_many([{}] * 2, key="down")
        await service.enqueue_many([{}] * 3, key="up")
        await eventually(lambda: worker.get_stats().processed == 4)
        found = await get_key(keyed, "jobs", "down")
        assert found.held_until is not None
        assert (found.ready, found.running, found.waiting_for_later) == (2, 0, 1)
    assert sorted(seen) == ["down", "up", "up", "up"]


async def test_a_hold_is_not_shortened_by_another_job(keyed: Connection) -> None:
    """Of two jobs of a key that end one after the other, the longer hold counts."""
    await send(keyed, "a", 2)
    claimed = await take(keyed, 2, is_limited=False)
    for job, seconds in zip(claimed.jobs, (600.0, 5.0), strict=True):
        await keyed.fetch(
            queries.load("hold_keys_of_jobs", "jobs"),
            *("jobs", [job.msg_id], [job.read_ct], [job.enqueued_timestamp], [seconds], ["x"]),
        )
    left = "select extract(epoch from held_until - now()) from meshhook.keys"
    assert await keyed.fetchval(left) > 500


async def test_a_worker_of_a_role_holds_keys(
    keyed: Connection, connection: Connection, database_url: str
) -> None:
    """A role of least privilege may hold a key, and not set its limit or weight."""
    async with Roles(database_url, connection) as roles:
        own = await asyncpg.connect(roles.url(await roles.make(RoleKind.WORKER, "jobs")))
        try:
            await send(keyed, "a")
            (job,) = (await take(own, 1, is_limited=False)).jobs
            await own.fetch(
                queries.load("hold_keys_of_jobs", "jobs"),
                *("jobs", [job.msg_id], [job.read_ct], [job.enqueued_timestamp], [60.0], [None]),
            )
            assert (await get_key(keyed, "jobs", "a")).held_until is not None
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await own.execute("update meshhook.keys set max_running = 5")
        finally:
            await own.close()


@pytest.mark.usefixtures("queue_name")
async def test_a_queue_without_keys_holds_none(
    connection: Connection, pool: Pool, database_url: str
) -> None:
    """There the outcome is as without: the job is retried, and nothing else waits."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{}] * 3, key="down")

    async def handler(_: Any) -> Outcome:
        return RetryAfter(60, hold_key=True)

    async with make_worker(database_url, handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    assert await connection.fetch("select * from meshhook.keys") == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 10**9, "x"])
async def test_a_wrong_time_to_hold_is_refused(keyed: Connection, seconds: Any) -> None:
    """The error names the argument and the value."""
    with pytest.raises(InvalidSettingError, match=r"seconds is 0\.001 to"):
        await hold_key(keyed, "jobs", "a", seconds)


async def test_each_key_has_its_rate(keyed: Connection) -> None:
    """So many jobs of a key start at once, then one each time a part of the period is over."""
    await set_queue_config(keyed, "jobs", max_starts_per_key=4, starts_period_seconds=3600)
    await set_key(keyed, "jobs", "b", max_starts=6)
    for key in ("a", "b"):
        await send(keyed, key, 20)
    assert shares(await take(keyed, 3)) == {"a": 2, "b": 1}
    assert shares(await take(keyed, 100)) == {"a": 2, "b": 5}
    assert (await take(keyed, 100)).jobs == []
    # Half of the period goes by.
    await keyed.execute("update meshhook.starts set full_at = full_at - interval '30 minutes'")
    assert shares(await take(keyed, 100)) == {"a": 2, "b": 3}
    # Pauses are not saved up beyond a full bucket.
    await keyed.execute("update meshhook.starts set full_at = full_at - interval '30 days'")
    assert shares(await take(keyed, 100)) == {"a": 4, "b": 6}


async def test_the_queue_has_a_rate(keyed: Connection) -> None:
    """Of whatever keys, in fair shares; jobs that have ended count as well."""
    await set_queue_config(keyed, "jobs", max_starts=5, starts_period_seconds=3600)
    for key in ("a", "b"):
        await send(keyed, key, 20)
    assert shares(await take(keyed, 4)) == {"a": 2, "b": 2}
    await keyed.execute("delete from pgmq.q_jobs where read_ct = 1")
    assert len((await take(keyed, 4)).jobs) == 1
    assert (await take(keyed, 4)).jobs == []
    await set_queue_config(keyed, "jobs", max_starts=None)
    assert len((await take(keyed, 4, is_limited=False)).jobs) == 4


async def test_a_rate_and_a_limit_hold_together(keyed: Connection) -> None:
    """What is less counts, for each key."""
    await set_queue_config(
        keyed, "jobs", max_starts_per_key=3, max_running_per_key=2, starts_period_seconds=3600
    )
    await send(keyed, "a", 20)
    assert len((await take(keyed, 10)).jobs) == 2
    await keyed.execute("delete from pgmq.q_jobs where read_ct = 1")
    assert len((await take(keyed, 10)).jobs) == 1
    await keyed.execute("delete from pgmq.q_jobs where read_ct = 1")
    assert (await take(keyed, 10)).jobs == []


async def test_only_what_is_claimed_counts_as_a_start(keyed: Connection) -> None:
    """A suspect comes alone, and the places of the others are not spent."""
    await set_queue_config(keyed, "jobs", max_starts_per_key=3, starts_period_seconds=3600)
    await send(keyed, "a", 5, age_seconds=60)
    await keyed.execute(
        "update pgmq.q_jobs set read_ct = 2, headers = headers || "
        '\'{"meshhook-claim": {"read_ct": 2, "attempt": 2, "lost": 1}}\' '
        "where msg_id = (select min(msg_id) from pgmq.q_jobs)"
    )
    assert len((await take(keyed, 10)).jobs) == 1
    assert len((await take(keyed, 10)).jobs) == 2
    assert (await take(keyed, 10)).jobs == []


async def test_a_worker_keeps_to_a_rate(keyed: Connection, pool: Pool, database_url: str) -> None:
    """Jobs start as the bucket allows, and none is claimed only to be given back."""
    await set_queue_config(keyed, "jobs", max_starts_per_key=5, starts_period_seconds=0.5)
    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 20, key="a")
    started: list[float] = []

    async def handler(job: Any) -> None:
        started.append(job.claimed_timestamp)

    async with make_worker(database_url, handler, concurrency=20):
        await eventually(lambda: len(started) == 20)
    # Five at once, and the other fifteen no faster than one each tenth of a second.
    assert max(started) - min(started) >= 1.5 - 0.01
    assert await keyed.fetchval("select count(*) from meshhook.job_attempts") == 20


@pytest.mark.usefixtures("queue_name")
async def test_limits_are_for_keyed_queues(connection: Connection) -> None:
    """Elsewhere they are refused, with the way out, and so is turning the keys off under them."""
    with pytest.raises(InvalidSettingError, match="set keyed=true"):
        await set_queue_config(connection, "jobs", max_running=3)
    with pytest.raises(InvalidSettingError, match="not keyed"):
        await set_key(connection, "jobs", "a", max_running=3)
    with pytest.raises(InvalidSettingError, match="not keyed"):
        await list_keys(connection, "jobs")
    await set_queue_config(connection, "jobs", keyed=True, max_running=3)
    with pytest.raises(InvalidSettingError, match="max_running=none"):
        await set_queue_config(connection, "jobs", keyed=False)
    with pytest.raises(QueueNotFoundError):
        await set_key(connection, "other", "a", max_running=3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_running": 0}, "max_running=0"),
        ({"max_running": "many"}, "max_running='many'"),
        ({"weight": 0}, "weight=0"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"limit": 4}, "a key has: weight, max_running"),
    ],
)
async def test_a_wrong_setting_of_a_key_is_refused(
    keyed: Connection, changes: dict[str, Any], said: str
) -> None:
    """The error names the setting and the value."""
    with pytest.raises(InvalidSettingError, match=said):
        await set_key(keyed, "jobs", "a", **changes)


async def test_keys_are_listed(keyed: Connection) -> None:
    """With what waits and runs, the fullest first; keys with settings even if they are empty."""
    await set_queue_config(keyed, "jobs", max_running_per_key=3)
    await set_key(keyed, "jobs", "idle", weight=2)
    await send(keyed, "b", 5, age_seconds=60)
    await send(keyed, "a", 2)
    await take(keyed, 2)
    await keyed.execute(
        "insert into pgmq.q_jobs (vt, message) select now() + interval '1 hour', '{}'"
    )
    found = await list_keys(keyed, "jobs")
    assert [(each.key, each.ready, each.running, each.waiting_for_later) for each in found] == [
        ("b", 4, 1, 0),
        ("a", 1, 1, 0),
        ("", 0, 0, 1),
        ("idle", 0, 0, 0),
    ]
    assert [(each.weight, each.max_running) for each in found] == [(1, 3), (1, 3), (1, 3), (2, 3)]
    assert found[0].oldest_ready_seconds >= 60
    assert (await get_key(keyed, "jobs", "b")).ready == 4
    assert (await get_key(keyed, "jobs", "nobody")).ready == 0
    assert len(await list_keys(keyed, "jobs", max_keys=1)) == 1
    await set_key(keyed, "jobs", "idle", weight=None)
    assert "idle" not in {each.key for each in await list_keys(keyed, "jobs")}


async def test_whoever_is_on_call_sets_limits(
    keyed: Connection, connection: Connection, database_url: str
) -> None:
    """A worker reads them and cannot; a role for another queue does not see these keys."""
    await connection.execute("select meshhook.create_queue('other')")
    await set_key(keyed, "jobs", "secret-tenant", max_running=3)
    async with Roles(database_url, connection) as roles:

        async def own(kind: RoleKind, *queues: str) -> Connection:
            return await asyncpg.connect(roles.url(await roles.make(kind, *queues)))

        oncall, worker, others = (
            await own(RoleKind.ONCALL),
            await own(RoleKind.WORKER, "jobs"),
            await own(RoleKind.WORKER, "other"),
        )
        try:
            assert (await set_key(oncall, "jobs", "a", max_running=2)).max_running == 2
            await set_queue_config(oncall, "jobs", max_running=9)
            with pytest.raises(DatabaseError, match="denied"):
                await set_key(worker, "jobs", "a", max_running=3)
            await send(keyed, "a", 10)
            assert len((await take(worker, 10)).jobs) == 2
            assert await others.fetch("select * from meshhook.keys") == []
        finally:
            for each in (oncall, worker, others):
                await each.close()


async def test_who_read_settings_by_a_grant_to_public_reads_limits(
    empty_database_url: str,
) -> None:
    """An upgrade takes nothing from programs whose rights were granted to everybody."""
    connection = await asyncpg.connect(empty_database_url)
    try:
        await migrate(connection, migrations=available_migrations()[:18])
        await connection.execute("grant select on meshhook.queue_config to public")
        await migrate(connection)
        granted = (
            "select count(*) from pg_class c, aclexplode(c.relacl) a "
            "where c.relname = 'keys' and a.grantee = 0"
        )
        assert await connection.fetchval(granted) == 1
    finally:
        await connection.close()


async def test_roles_made_before_get_what_keys_need(empty_database_url: str) -> None:
    """After an upgrade workers claim with limits and hold keys, and on-call roles set them."""
    connection = await asyncpg.connect(empty_database_url)
    kinds = ("worker", "oncall", "producer")
    try:
        await migrate(connection, migrations=available_migrations()[:18])
        for kind in kinds:
            # As `meshhook roles` of the version before made them.
            await connection.execute(f"""
                create role before_{kind};
                grant select on meshhook.queue_config to before_{kind};
                insert into meshhook.roles (role, kind) values ('before_{kind}', '{kind}');
            """)
        await connection.execute("""
            grant update (paused) on meshhook.queue_config to before_oncall;
            insert into meshhook.role_grants (role, kind, object, privilege, columns) values
                ('before_oncall', 'oncall', 'table meshhook.queue_config', 'update', '{paused}');
        """)
        await migrate(connection)

        async def may(kind: str, privilege: str, table: str, column: str) -> bool:
            found: bool = await connection.fetchval(
                "select has_column_privilege($1::name, $2::text, $3::text, $4::text)",
                *(f"before_{kind}", f"meshhook.{table}", column, privilege),
            )
            return found

        for kind in kinds:
            assert await may(kind, "select", "keys", "max_running")
        assert await may("worker", "update", "keys", "held_until")
        assert not await may("worker", "update", "keys", "max_running")
        assert await may("worker", "update", "starts", "full_at")
        assert await may("worker", "insert", "starts", "queue")
        assert not await may("producer", "select", "starts", "queue")
        assert await may("oncall", "update", "keys", "max_running")
        assert await may("oncall", "update", "queue_config", "max_starts")
        assert not await may("oncall", "update", "queue_config", "keyed")
        columns = await connection.fetchval(
            "select columns from meshhook.role_grants "
            "where kind = 'oncall' and 'paused' = any (columns)"
        )
        assert {"max_running", "max_starts", "starts_period_seconds"} <= set(columns)
    finally:
        for kind in kinds:
            await connection.execute(
                f"drop owned by before_{kind} cascade; drop role before_{kind}"
            )
        await connection.close()
