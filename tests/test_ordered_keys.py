"""Ordered keys: of each key one job at a time, in the order in which they were stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    App,
    DLQService,
    Job,
    QueueService,
    create_queue,
    get_key,
    hold_key,
    list_keys,
    resume_key,
    set_key,
)
from meshhook.administration import get_queue_config, set_queue_config
from meshhook.errors import InvalidSettingError
from meshhook.names import KEY_HEADER
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook.queue_config import KeyPlace
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from meshhook.store.claims import claim
from meshhook.store.settlements import Settlement, settle
from support.roles import Roles
from support.waiting import eventually, lock_waiters
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")
INDEXES = "select indexname from pg_indexes where tablename = 'q_jobs' and indexname ~ '_order_'"


@pytest.fixture
async def ordered(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` has ordered keys."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, keyed=True, ordered=True)
    yield connection
    await connection.close()


@pytest.fixture
async def service(pool: Pool) -> AsyncIterator[QueueService[Any]]:
    """A producer of the queue."""
    async with QueueService[Any](pool, "jobs") as service:
        yield service


async def send(connection: Connection, key: str, jobs: int = 1) -> list[int]:
    """Enqueue jobs with a key, and return their ids."""
    rows = await connection.fetch(
        "select meshhook.enqueue_many('jobs', array_fill('1'::jsonb, array[$2::int]), key => $1)",
        *(key, jobs),
    )
    return [row[0] for row in rows]


async def take(connection: Connection, limit: int = 10, **arguments: Any) -> list[Job[Any]]:
    """Claim up to so many jobs."""
    known: dict[str, Any] = {"is_limited": True, "keys": KeyPlace(), "from_key": ""}
    claimed = await claim(
        connection, TABLES, lease_seconds=600, limit=limit, max_attempts=5, **known | arguments
    )
    return claimed.jobs


def ids(jobs: list[Job[Any]]) -> list[int]:
    """Return the ids of jobs in the order of their keys."""
    return [job.msg_id for job in sorted(jobs, key=lambda job: job.headers.get(KEY_HEADER, ""))]


async def end(
    connection: Connection,
    job: Job[Any],
    outcome: AttemptOutcome = AttemptOutcome.SUCCEEDED,
    delay_seconds: float = 3_600,
) -> None:
    """Record the outcome of a job."""
    settlement = Settlement(
        job.msg_id,
        job.read_ct,
        job.enqueued_timestamp,
        job.attempt,
        outcome,
        0.0,
        1.0,
        delay_seconds=delay_seconds,
    )
    await settle(connection, TABLES, "w", [settlement])


async def make_due(connection: Connection, msg_id: int) -> None:
    """Let the time of a message come, or its lease end."""
    await connection.execute(
        "update pgmq.q_jobs set vt = clock_timestamp() where msg_id = $1", msg_id
    )


async def test_one_job_of_each_key_at_a_time(ordered: Connection) -> None:
    """In the order of their ids, however much room there is; keys do not wait for each other."""
    a, b = await send(ordered, "a", 3), await send(ordered, "b", 2)
    for number in range(2):
        jobs = await take(ordered)
        assert ids(jobs) == [a[number], b[number]]
        assert await take(ordered) == []
        for job in jobs:
            await end(ordered, job)
    assert ids(await take(ordered)) == [a[2]]


async def test_messages_without_a_key_are_one_key(ordered: Connection) -> None:
    """They, too, run one at a time."""
    await ordered.execute("select pgmq.send('jobs', '{}'::jsonb) from generate_series(1, 3)")
    assert len(await take(ordered)) == 1
    assert await take(ordered) == []


@pytest.mark.parametrize("outcome", [AttemptOutcome.RETRIED, AttemptOutcome.SNOOZED])
async def test_a_job_that_waits_keeps_its_key_waiting(
    ordered: Connection, outcome: AttemptOutcome
) -> None:
    """Until its next attempt, and then it comes first."""
    first, second, other = [*await send(ordered, "a", 2), *await send(ordered, "b")]
    jobs = await take(ordered, 1)
    assert ids(jobs) == [first]
    await end(ordered, jobs[0], outcome)
    assert ids(await take(ordered)) == [other]
    assert await take(ordered) == []
    await make_due(ordered, first)
    [again] = await take(ordered)
    assert again.msg_id == first
    await end(ordered, again)
    assert ids(await take(ordered)) == [second]


async def test_a_delayed_job_delays_those_after_it(
    ordered: Connection, service: QueueService[Any]
) -> None:
    """The order is that in which they were enqueued, not that in which they fall due."""
    first = await service.enqueue({}, key="a", delay_seconds=3_600)
    second = await service.enqueue({}, key="a")
    assert await take(ordered) == []
    await make_due(ordered, first)
    [job] = await take(ordered)
    assert job.msg_id == first
    await end(ordered, job)
    assert ids(await take(ordered)) == [second]


async def test_a_released_job_comes_first_again(
    ordered: Connection, service: QueueService[Any]
) -> None:
    """What was given back unused has kept its place."""
    first, _ = await send(ordered, "a", 2)
    [job] = await take(ordered)
    await service.release(job)
    assert ids(await take(ordered)) == [first]


async def test_a_lost_job_comes_first_again(ordered: Connection) -> None:
    """Once its lease has ended, and nothing of its key before."""
    first, _ = await send(ordered, "a", 2)
    assert ids(await take(ordered)) == [first]
    assert await take(ordered) == []
    await make_due(ordered, first)
    assert ids(await take(ordered)) == [first]


async def test_a_dead_letter_frees_its_key(ordered: Connection) -> None:
    """The next job starts; so it does after one that was archived or cancelled."""
    jobs = await send(ordered, "a", 4)
    for number, outcome in enumerate(
        [AttemptOutcome.DEAD_LETTERED, AttemptOutcome.ARCHIVED, AttemptOutcome.CANCELLED]
    ):
        [job] = await take(ordered)
        assert job.msg_id == jobs[number]
        await end(ordered, job, outcome)
    assert ids(await take(ordered)) == [jobs[3]]


async def test_a_replay_keeps_its_place(ordered: Connection, pool: Pool) -> None:
    """It comes before all that was stored after the job that died, however often it dies."""
    dead_letters = DLQService(pool, "jobs")
    first, second, third = await send(ordered, "a", 3)
    for expected in (first, second):
        [job] = await take(ordered)
        assert job.msg_id == expected
        await end(ordered, job, AttemptOutcome.DEAD_LETTERED)
    for _ in range(2):
        found = await dead_letters.list_dead_letter_jobs(10)
        # The later one is replayed first.
        for each in sorted(found, key=lambda each: -(each.msg_id or 0)):
            await dead_letters.replay_dead_letter_job(each.id)
        for place in (first, second):
            [job] = await take(ordered)
            assert job.headers["meshhook-replayed-from"]["place"] == place
            await end(ordered, job, AttemptOutcome.DEAD_LETTERED)
    assert ids(await take(ordered)) == [third]


@pytest.fixture
async def blocking(ordered: Connection) -> Connection:
    """The same, where a dead letter blocks its key."""
    await set_queue_config(ordered, "jobs", on_dead_letter="block")
    return ordered


async def die(connection: Connection, jobs: int = 3) -> list[int]:
    """Enqueue jobs of key `a`, and let the first die."""
    sent = await send(connection, "a", jobs)
    [job] = await take(connection)
    await end(connection, job, AttemptOutcome.DEAD_LETTERED)
    return sent


async def test_a_dead_letter_blocks_its_key(blocking: Connection, pool: Pool) -> None:
    """If the queue says so: others go on, and once it is replayed it comes first."""
    dead_letters = DLQService(pool, "jobs")
    first, second, _ = await die(blocking)
    [other] = await send(blocking, "b")
    assert ids(await take(blocking)) == [other]
    found = await get_key(blocking, "jobs", "a")
    [dead] = await dead_letters.list_dead_letter_jobs(10)
    assert (found.blocked_by, found.blocked_reason) == (first, "dead_lettered")
    assert (found.dead_letter_id, found.held_by) == (dead.id, "dead_letter")
    assert found.blocked_since is not None
    assert found.blocked_until is None
    replayed = await dead_letters.replay_dead_letter_job(dead.id)
    [job] = await take(blocking)
    assert job.msg_id == replayed
    await end(blocking, job)
    assert ids(await take(blocking)) == [second]
    assert (await get_key(blocking, "jobs", "a")).blocked_by is None


@pytest.mark.parametrize("how", ["delete", "purge", "foreign", "truncate", "resume", "setting"])
async def test_a_blocked_key_goes_on(blocking: Connection, pool: Pool, how: str) -> None:
    """Once its dead letter is gone, by whatever way, or somebody says so."""
    dead_letters = DLQService(pool, "jobs")
    _, second, _ = await die(blocking)
    assert await take(blocking) == []
    [dead] = await dead_letters.list_dead_letter_jobs(10)
    if how == "delete":
        await dead_letters.delete_dead_letter_job(dead.id)
    elif how == "purge":
        await dead_letters.purge_dlq()
    elif how == "foreign":
        await blocking.execute("select pgmq.archive('jobs_dlq', $1::bigint)", dead.id)
    elif how == "truncate":
        await blocking.execute("truncate pgmq.q_jobs_dlq")
    elif how == "resume":
        await resume_key(blocking, "jobs", "a")
    else:
        await set_queue_config(blocking, "jobs", on_dead_letter="continue")
    assert ids(await take(blocking)) == [second]


async def test_a_queue_that_is_made_again_keeps_its_order(blocking: Connection, pool: Pool) -> None:
    """Its tables were dropped by PGMQ, its settings stayed: they hold for the new tables, too."""
    await die(blocking)
    await blocking.execute("select pgmq.drop_queue('jobs'), pgmq.drop_queue('jobs_dlq')")
    assert await create_queue(blocking, "jobs")
    assert (await get_key(blocking, "jobs", "a")).held_until is None, "its dead letter is gone"
    assert await blocking.fetch(INDEXES) != []
    assert (await get_queue_config(blocking, "jobs")).on_dead_letter == "block"
    first, second, _ = await die(blocking)
    assert await take(blocking) == []
    assert (await get_key(blocking, "jobs", "a")).blocked_by == first
    assert len(await DLQService(pool, "jobs").replay_multiple_jobs()) == 1
    [job] = await take(blocking)
    await end(blocking, job)
    assert ids(await take(blocking)) == [second]


async def test_a_hold_by_hand_stays_beside_a_dead_letter(blocking: Connection, pool: Pool) -> None:
    """Deleting the dead letter does not resume a key that somebody holds without an end."""
    await send(blocking, "a", 2)
    [job] = await take(blocking)
    await hold_key(blocking, "jobs", "a")
    await end(blocking, job, AttemptOutcome.DEAD_LETTERED)
    await DLQService(pool, "jobs").purge_dlq()
    assert await take(blocking) == []
    assert (await get_key(blocking, "jobs", "a")).held_by == "manual"


async def test_a_rolled_back_death_blocks_nothing(
    blocking: Connection, connection: Connection
) -> None:
    """The block is made in the transaction in which the job dies, or not at all."""
    first, _ = await send(blocking, "a", 2)
    [job] = await take(blocking)
    dying = connection.transaction()
    await dying.start()
    await end(connection, job, AttemptOutcome.DEAD_LETTERED)
    assert await take(blocking) == []
    await dying.rollback()
    await make_due(blocking, first)
    assert ids(await take(blocking)) == [first]


async def test_a_worker_of_a_role_blocks_keys(
    blocking: Connection, connection: Connection, database_url: str
) -> None:
    """A role of least privilege settles a job that dies."""
    async with Roles(database_url, connection) as roles:
        own = await asyncpg.connect(roles.url(await roles.make(RoleKind.WORKER, "jobs")))
        try:
            await send(blocking, "b", 2)
            [job] = await take(own)
            await end(own, job, AttemptOutcome.DEAD_LETTERED)
            assert await take(own) == []
        finally:
            await own.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"on_dead_letter": "stop"}, "'continue' or 'block'"),
        ({"ordered": False}, "on_dead_letter=continue"),
        ({"dlq_enabled": False}, "set dlq_enabled=true"),
    ],
)
async def test_a_wrong_block_is_refused(
    blocking: Connection, changes: dict[str, Any], said: str
) -> None:
    """With the value and the way out."""
    with pytest.raises(InvalidSettingError, match=said):
        await set_queue_config(blocking, "jobs", **changes)


async def test_sql_alone_cannot_block(ordered: Connection) -> None:
    """Without the triggers nothing would be held."""
    with pytest.raises(asyncpg.PostgresError, match="no triggers"):
        await ordered.execute("update meshhook.queue_config set on_dead_letter = 'block'")
    await set_queue_config(ordered, "jobs", on_dead_letter="block")
    await set_queue_config(ordered, "jobs", on_dead_letter="continue")
    triggers = "select count(*) from pg_trigger where tgrelid = 'pgmq.q_jobs_dlq'::regclass"
    assert await ordered.fetchval(triggers) == 0


async def test_a_replay_does_not_run_beside_another(ordered: Connection, pool: Pool) -> None:
    """A job of the key that runs already runs to its end first."""
    dead_letters = DLQService(pool, "jobs")
    await send(ordered, "a", 2)
    [job] = await take(ordered)
    await end(ordered, job, AttemptOutcome.DEAD_LETTERED)
    [running] = await take(ordered)
    [dead] = await dead_letters.list_dead_letter_jobs(10)
    replayed = await dead_letters.replay_dead_letter_job(dead.id)
    assert await take(ordered) == []
    await end(ordered, running)
    assert ids(await take(ordered)) == [replayed]


async def test_a_lease_that_has_ended_is_not_extended_beside_a_replay(
    ordered: Connection, pool: Pool
) -> None:
    """Its place may be another's by then: of a job that comes before it."""
    await send(ordered, "a", 2)
    [job] = await take(ordered)
    await end(ordered, job, AttemptOutcome.DEAD_LETTERED)
    [stopped] = await take(ordered)
    await make_due(ordered, stopped.msg_id)
    dead_letters = DLQService(pool, "jobs")
    [dead] = await dead_letters.list_dead_letter_jobs(10)
    replayed = await dead_letters.replay_dead_letter_job(dead.id)
    assert ids(await take(ordered)) == [replayed]
    extended = await ordered.fetch(
        queries.load("extend_in_turn"),
        *("jobs", queries.load("extend", TABLES)),
        *([stopped.msg_id], [stopped.read_ct], [stopped.enqueued_timestamp], 600.0),
    )
    assert extended == []


async def test_a_replay_into_another_queue_comes_last(
    ordered: Connection, pool: Pool, service: QueueService[Any]
) -> None:
    """Ids of another queue say nothing about the order of this one."""
    await create_queue(ordered, "other")
    [_] = await send(ordered, "a")
    [job] = await take(ordered)
    await end(ordered, job, AttemptOutcome.DEAD_LETTERED)
    dead_letters = DLQService(pool, "jobs")
    [dead] = await dead_letters.list_dead_letter_jobs(10)
    await dead_letters.replay_dead_letter_job(dead.id, "other")
    headers = await ordered.fetchval(
        "select headers ->> 'meshhook-replayed-from' from pgmq.q_other"
    )
    assert "place" not in headers


async def test_a_smaller_id_that_is_committed_later(
    ordered: Connection, connection: Connection
) -> None:
    """It waits while a later one runs, and comes next; they never run at the same time."""
    transaction = connection.transaction()
    await transaction.start()
    [early] = await send(connection, "a")
    late, later = await send(ordered, "a", 2)
    [job] = await take(ordered)
    assert job.msg_id == late
    await transaction.commit()
    assert await take(ordered) == []
    await end(ordered, job)
    assert ids(await take(ordered)) == [early]
    assert later > early


async def test_a_smaller_id_that_is_committed_while_another_is_claimed(
    ordered: Connection, connection: Connection, database_url: str
) -> None:
    """A claim that is not committed yet counts: two claims that see different jobs first."""
    producer = await asyncpg.connect(database_url)
    try:
        storing = producer.transaction()
        await storing.start()
        [early] = await send(producer, "a")
        [late] = await send(ordered, "a")
        claiming = connection.transaction()
        await claiming.start()
        assert ids(await take(connection)) == [late]
        await storing.commit()
        second = asyncio.create_task(take(ordered))
        await eventually(lambda: lock_waiters(producer))
        await claiming.commit()
        assert await second == []
    finally:
        await producer.close()
    assert early < late


async def test_the_next_waits_while_the_first_is_locked(
    ordered: Connection, connection: Connection
) -> None:
    """What a transaction has locked, such as one in which it is settled, is not passed by."""
    first, second = await send(ordered, "a", 2)
    async with connection.transaction():
        await connection.execute("select from pgmq.q_jobs where msg_id = $1 for update", first)
        assert await take(ordered) == []
        await connection.execute("delete from pgmq.q_jobs where msg_id = $1", first)
        assert await take(ordered) == []
    assert ids(await take(ordered)) == [second]


async def test_a_lease_of_another_client_counts(ordered: Connection) -> None:
    """What PGMQ's own functions have read runs, though not in order; MeshHook waits for it."""
    first, second = await send(ordered, "a", 2)
    await ordered.execute(
        "update pgmq.q_jobs set vt = now() + interval '1 hour', read_ct = 1 where msg_id = $1",
        second,
    )
    assert await take(ordered) == []
    await ordered.execute("select pgmq.delete('jobs', $1::bigint)", second)
    assert ids(await take(ordered)) == [first]


async def test_the_first_is_found_below_the_low_water_mark(ordered: Connection) -> None:
    """A claim looks at what fell due lately; the first of a key may have fallen due before."""
    first, second = await send(ordered, "a", 2)
    await ordered.execute(
        "update pgmq.q_jobs set vt = now() - interval '1 hour' where msg_id = $1", first
    )
    mark = await ordered.fetchval("select now() - interval '1 minute'")
    assert ids(await take(ordered, from_vt=mark)) == [first]
    assert second


async def test_a_sweep_takes_only_the_first(ordered: Connection) -> None:
    """Where the first fell due after the end of the part that is looked at, nothing is taken."""
    first, second = await send(ordered, "a", 2)
    await ordered.execute(
        "update pgmq.q_jobs set vt = now() - interval '1 hour' where msg_id = $1", second
    )
    edge = await ordered.fetchval("select now() - interval '1 minute'")
    assert await take(ordered, to_vt=edge) == []
    assert ids(await take(ordered)) == [first]


async def test_jobs_that_run_already_when_order_begins(ordered: Connection) -> None:
    """All of them end before the next one starts."""
    await set_queue_config(ordered, "jobs", ordered=False)
    await send(ordered, "a", 4)
    running = await take(ordered, 3, is_limited=False)
    assert len(running) == 3
    await set_queue_config(ordered, "jobs", ordered=True)
    for job in running:
        assert await take(ordered) == []
        await end(ordered, job)
    assert len(await take(ordered)) == 1


async def test_limits_and_holds_apply_as_well(ordered: Connection) -> None:
    """A key may be held, the queue may have a limit; that of a key is never more than one."""
    for key in "abc":
        await send(ordered, key, 2)
    await hold_key(ordered, "jobs", "a")
    await set_key(ordered, "jobs", "b", max_running=5)
    assert (await get_key(ordered, "jobs", "b")).max_running == 1
    await set_queue_config(ordered, "jobs", max_running=1)
    assert [job.headers[KEY_HEADER] for job in await take(ordered)] == ["b"]
    await set_queue_config(ordered, "jobs", max_running=None)
    assert [job.headers[KEY_HEADER] for job in await take(ordered)] == ["c"]


async def test_a_claim_that_knows_of_no_order_takes_nothing(ordered: Connection) -> None:
    """A worker that has not read the settings yet breaks no order."""
    await send(ordered, "a", 2)
    assert await take(ordered, is_limited=False) == []


async def test_keys_in_the_body(database_url: str, queue_name: str, pool: Pool) -> None:
    """They are ordered as well."""
    connection = await connect(database_url, steady_plans=True)
    try:
        await set_queue_config(
            connection, queue_name, keyed=True, ordered=True, key_path="payload.tenant"
        )
        service = QueueService[Any](pool, queue_name)
        sent = [
            await service.enqueue({"payload": {"tenant": tenant}}) for tenant in ("a", "a", "b")
        ]
        jobs = await take(connection, keys=KeyPlace("payload.tenant"))
        assert sorted(job.msg_id for job in jobs) == [sent[0], sent[2]]
    finally:
        await connection.close()


async def test_a_worker_keeps_the_order(
    ordered: Connection, service: QueueService[Any], database_url: str
) -> None:
    """With room for 20 jobs, and with failures."""
    for number in range(10):
        await service.enqueue_many([{"number": number}] * 1, key="a")
        await service.enqueue_many([{"number": number}] * 1, key="b")
    await set_queue_config(ordered, "jobs", retry_backoff_base_ms=20, retry_jitter=0)
    seen: dict[str, list[int]] = {"a": [], "b": []}
    running: set[str] = set()

    async def handler(job: Any) -> None:
        key = job.headers[KEY_HEADER]
        assert key not in running
        running.add(key)
        await asyncio.sleep(0)
        running.remove(key)
        number = job.payload["number"]
        if number % 3 == 0 and job.attempt == 1:
            raise ValueError("once more")
        seen[key].append(number)

    async with make_worker(database_url, handler, concurrency=20):
        await eventually(lambda: sum(map(len, seen.values())) == 20)
    assert seen == {"a": list(range(10)), "b": list(range(10))}


async def test_what_blocks_a_key_is_shown(ordered: Connection) -> None:
    """Which job, why, since when and until when; a job that runs, or a lost one, blocks nothing."""
    first, _ = await send(ordered, "a", 2)

    async def blocked() -> tuple[Any, ...]:
        found = await get_key(ordered, "jobs", "a")
        [listed] = await list_keys(ordered, "jobs")
        assert listed.blocked_by == found.blocked_by
        return (
            found.blocked_by,
            found.blocked_reason,
            found.blocked_since is not None and found.blocked_since < datetime.now(UTC),
            found.blocked_until is not None and found.blocked_until > datetime.now(UTC),
        )

    assert await blocked() == (None, None, False, False)
    [job] = await take(ordered)
    assert await blocked() == (None, None, False, False)
    await end(ordered, job, AttemptOutcome.SNOOZED)
    assert await blocked() == (first, "scheduled", True, True)
    await make_due(ordered, first)
    assert await blocked() == (None, None, False, False)
    [job] = await take(ordered)
    await end(ordered, job, AttemptOutcome.RETRIED)
    assert await blocked() == (first, "retrying", True, True)
    await set_queue_config(ordered, "jobs", ordered=False)
    assert await blocked() == (None, None, False, False)


# The setting


async def test_the_setting_builds_and_drops_the_index(
    ordered: Connection, pool: Pool, connection: Connection
) -> None:
    """It is there while the keys are ordered."""
    database = Database(pool)
    assert await connection.fetchval(INDEXES) == "q_jobs_order_idx"
    await set_queue_config(database, "jobs", ordered="false")
    assert await connection.fetchval(INDEXES) is None
    await set_queue_config(database, "jobs", ordered=True)
    await set_queue_config(database, "jobs", max_retry_attempts=3, keyed=True)
    assert await connection.fetchval(INDEXES) == "q_jobs_order_idx"
    await set_queue_config(database, "jobs", keyed=False, ordered=False)
    assert await connection.fetchval(INDEXES) is None
    assert not (await get_queue_config(database, "jobs")).ordered


async def test_order_is_for_keyed_queues(connection: Connection, queue_name: str) -> None:
    """Elsewhere it is refused, with the way out, and so is turning the keys off under it."""
    with pytest.raises(InvalidSettingError, match="set keyed=true, or ordered=false"):
        await set_queue_config(connection, queue_name, ordered=True)
    with pytest.raises(asyncpg.PostgresError, match="no indexes for ordered keys"):
        await connection.execute("update meshhook.queue_config set keyed = true, ordered = true")
    await set_queue_config(connection, queue_name, keyed=True)
    with pytest.raises(asyncpg.PostgresError, match="no indexes for ordered keys"):
        await connection.execute("update meshhook.queue_config set ordered = true")
    await set_queue_config(connection, queue_name, ordered=True)
    with pytest.raises(InvalidSettingError, match="ordered=false"):
        await set_queue_config(connection, queue_name, keyed=False)


async def test_an_app_creates_a_queue_with_ordered_keys(pool: Pool, connection: Connection) -> None:
    """In the decorator, as other settings are."""
    app = App(pool)

    @app.job("orders", keyed=True, ordered=True)
    async def handle(job: Job[Any]) -> None: ...

    await app.create_missing_queues()
    await app.close()
    assert (await get_queue_config(connection, "orders")).ordered
