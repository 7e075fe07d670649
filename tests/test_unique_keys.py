"""Unique keys: at most one job of a queue has a key, whoever enqueues and however jobs end."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from meshhook import (
    DLQService,
    DuplicateJobError,
    EnqueuedId,
    InvalidJobError,
    InvalidSettingError,
    Job,
    QueueService,
    create_queue,
)
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.store.queries import QueueTables
from meshhook.store.settlements import Settlement, settle
from support.waiting import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def claimed(queue: QueueService[Any]) -> Job[Any]:
    """Claim the next job."""
    job = await queue.dequeue()
    assert job is not None
    return job


async def payloads(connection: Connection) -> list[str]:
    """Return the bodies of the messages of the queue, in order."""
    found: list[str] = await connection.fetchval(
        "select coalesce(array_agg(message::text order by msg_id), '{}') from pgmq.q_jobs"
    )
    return found


async def waits_for_a_lock(pool: asyncpg.Pool[Any]) -> None:
    """Wait until some session of this database waits for a lock."""

    async def waits() -> bool:
        found: bool = await pool.fetchval(
            "select exists (select from pg_stat_activity "
            "where datname = current_database() and wait_event_type = 'Lock')"
        )
        return found

    await eventually(waits)


@pytest.fixture
def queue(pool: asyncpg.Pool[Any], queue_name: str) -> QueueService[Any]:
    """The service of the queue."""
    return QueueService[Any](pool, queue_name)


# --- What conflicts ------------------------------------------------------------------------------


async def test_a_living_job_keeps_its_key(queue: QueueService[Any], connection: Connection) -> None:
    """While it waits, while it runs, and while it waits for a retry; not once it is done."""
    first = await queue.enqueue(1, unique_key="k")
    assert (first, first.is_new, first.was_replaced) == (1, True, False)
    assert await queue.enqueue(2, unique_key="k") == first
    job = await claimed(queue)
    second = await queue.enqueue(2, unique_key="k")
    assert (second, second.is_new, second.was_replaced) == (1, False, False)
    retry = Settlement(
        job.msg_id,
        job.read_ct,
        job.enqueued_timestamp,
        job.attempt,
        AttemptOutcome.RETRIED,
        job.started_timestamp,
        job.started_timestamp,
        has_links=True,
    )
    assert await settle(connection, QueueTables("jobs"), "w", [retry]) == {0}
    assert not (await queue.enqueue(2, unique_key="k")).is_new
    assert await queue.acknowledge(await claimed(queue))
    third = await queue.enqueue(3, unique_key="k")
    assert (third, third.is_new) == (2, True)
    assert await connection.fetchval("select count(*) from meshhook.unique_keys") == 1


async def test_keys_are_those_of_a_queue(queue: QueueService[Any], connection: Connection) -> None:
    """Another queue, another key, and a job without a key conflict with nothing."""
    await create_queue(connection, "others")
    others = QueueService[Any](connection, "others")
    assert (await queue.enqueue(1, unique_key="k")).is_new
    assert (await others.enqueue(1, unique_key="k")).is_new
    assert (await queue.enqueue(1, unique_key="K")).is_new
    assert await queue.enqueue(1) == 3


async def test_a_key_may_be_a_uuid(queue: QueueService[Any]) -> None:
    """It is the same as its text."""
    key = UUID(int=7)
    assert (await queue.enqueue(1, unique_key=key)).is_new
    assert not (await queue.enqueue(1, unique_key=str(key))).is_new


async def test_until_started(queue: QueueService[Any]) -> None:
    """A job that has started has the key no more, whether it runs or waits for a retry."""
    first = await queue.enqueue(1, unique_key="k", unique="until_started")
    assert await queue.enqueue(2, unique_key="k", unique="until_started") == first
    job = await claimed(queue)
    second = await queue.enqueue(2, unique_key="k", unique="until_started")
    assert second.is_new
    assert await queue.enqueue(3, unique_key="k", unique="until_started") == second
    # The end of the first frees nothing that the second has.
    assert await queue.acknowledge(job)
    assert await queue.enqueue(3, unique_key="k", unique="until_started") == second


async def test_a_released_job_has_its_key_again(queue: QueueService[Any]) -> None:
    """One that was given back unused has not started."""
    first = await queue.enqueue(1, unique_key="k", unique="until_started")
    await queue.release(await claimed(queue))
    assert await queue.enqueue(2, unique_key="k", unique="until_started") == first


async def test_for_a_time(queue: QueueService[Any], connection: Connection) -> None:
    """The key is kept however soon the job is done, and is free afterwards."""
    hour = timedelta(hours=1)
    first = await queue.enqueue(1, unique_key="k", unique=hour)
    await queue.acknowledge(await claimed(queue))
    found = await queue.enqueue(2, unique_key="k", unique=hour)
    assert (found, found.is_new) == (first, False)
    await connection.execute(
        "update meshhook.unique_keys set expires_at = expires_at - interval '1 hour'"
    )
    assert (await queue.enqueue(2, unique_key="k", unique=hour)).is_new


# --- What is done about it -----------------------------------------------------------------------


async def test_error(queue: QueueService[Any], connection: Connection) -> None:
    """The error names the job, and a transaction of the caller stays usable."""
    await queue.enqueue(1, unique_key="k")
    with pytest.raises(
        DuplicateJobError, match="job 1 of queue 'jobs' has the unique key 'k'"
    ) as e:
        await queue.enqueue(2, unique_key="k", on_conflict="error")
    assert (e.value.queue, e.value.msg_id, e.value.unique_key) == ("jobs", 1, "k")
    async with connection.transaction():
        with pytest.raises(DuplicateJobError):
            await queue.enqueue(2, unique_key="k", on_conflict="error", connection=connection)
        await queue.enqueue(3, connection=connection)
    assert await payloads(connection) == ["1", "3"]


async def test_replace(queue: QueueService[Any], connection: Connection) -> None:
    """Message, headers, delay and how long the key is held; the job keeps its id."""
    await queue.enqueue(1, unique_key="k", headers={"old": 1})
    found = await queue.enqueue(
        2,
        60,
        unique_key="k",
        unique=timedelta(hours=1),
        headers={"new": 1},
        on_conflict="replace",
    )
    assert (found, found.is_new, found.was_replaced) == (1, False, True)
    row = await connection.fetchrow(
        "select message::text, headers->'new' is not null and headers->'old' is null as has_new, "
        "vt > now() + interval '50 seconds' as is_later, q.msg_id, u.expires_at > now() as expires "
        "from pgmq.q_jobs q cross join meshhook.unique_keys u"
    )
    assert tuple(row or ()) == ("2", True, True, 1, True)


async def test_a_job_that_runs_is_not_replaced(
    queue: QueueService[Any], connection: Connection
) -> None:
    """Its id is returned, and nothing is stored."""
    await queue.enqueue(1, unique_key="k")
    await claimed(queue)
    found = await queue.enqueue(2, unique_key="k", on_conflict="replace")
    assert (found, found.is_new, found.was_replaced) == (1, False, False)
    assert await payloads(connection) == ["1"]


async def test_a_duplicate_takes_no_id(queue: QueueService[Any], connection: Connection) -> None:
    """Arrivals are read from the sequence: what was refused is none."""
    await queue.enqueue(1, unique_key="k")
    for how in ("existing", "error", "replace"):
        for keys in (["k"], ["k", "k"] if how != "error" else ["k", "free"]):
            with pytest.raises(DuplicateJobError) if how == "error" else nullcontext():
                await queue.enqueue_many([1] * len(keys), unique_keys=keys, on_conflict=how)
    assert await queue.enqueue(2) == 2


# --- Many at once --------------------------------------------------------------------------------


async def test_many(queue: QueueService[Any], connection: Connection) -> None:
    """Each key once, the ids in the order of the jobs, and duplicates have that of their job."""
    await queue.enqueue("old", unique_key="c")
    found = await queue.enqueue_many(list("zabcb"), unique_keys=list("zabcb"))
    assert found == [2, 3, 4, 1, 4]
    assert [each.is_new for each in found] == [True, True, True, False, False]
    assert await payloads(connection) == ['"old"', '"z"', '"a"', '"b"']


async def test_the_last_of_many_replaces(queue: QueueService[Any], connection: Connection) -> None:
    """As it would one after the other."""
    found = await queue.enqueue_many([1, 2, 3], unique_keys=list("aba"), on_conflict="replace")
    assert found == [1, 2, 1]
    assert [each.was_replaced for each in found] == [False, False, True]
    assert await payloads(connection) == ["3", "2"]


async def test_many_with_an_error_are_all_or_none(
    queue: QueueService[Any], connection: Connection
) -> None:
    """One that conflicts, or two that do among themselves, and nothing is stored."""
    await queue.enqueue(0, unique_key="b")
    with pytest.raises(DuplicateJobError):
        await queue.enqueue_many([1, 2], unique_keys=list("ab"), on_conflict="error")
    with pytest.raises(InvalidJobError, match="several jobs of the batch have the unique key 'x'"):
        await queue.enqueue_many([1, 2], unique_keys=list("xx"), on_conflict="error")
    assert await payloads(connection) == ["0"]
    assert await connection.fetchval("select array_agg(key) from meshhook.unique_keys") == ["b"]


async def test_more_than_one_statement_of_them(
    queue: QueueService[Any], connection: Connection
) -> None:
    """Each job has the id that is returned in its place."""
    keys = [f"k{n * 7919 % 2500}" for n in range(2500)]
    found = await queue.enqueue_many(range(2500), unique_keys=keys)
    rows = await connection.fetch("select msg_id, message::text::int as n from pgmq.q_jobs")
    assert {row["n"]: row["msg_id"] for row in rows} == dict(enumerate(found))


async def test_concurrent_calls_share_statements(
    queue: QueueService[Any], connection: Connection
) -> None:
    """Each is told what became of its own job, whatever the others asked for."""
    await queue.enqueue("held", unique_key="held")
    calls: list[Awaitable[Any]] = [
        *(queue.enqueue(n, unique_key=f"k{n % 20}") for n in range(100)),
        queue.enqueue("x", unique_key="held", on_conflict="error"),
        queue.enqueue("y", unique_key="k3", on_conflict="error"),
        queue.enqueue("z", unique_key="held"),
        queue.enqueue("new", unique_key="held", on_conflict="replace"),
    ]
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    *found, error, also, held, replaced = results
    assert len({int(each) for each in found}) == 20
    assert sum(each.is_new for each in found) == 20
    assert isinstance(error, DuplicateJobError)
    assert error.msg_id == 1
    assert isinstance(also, DuplicateJobError)
    assert also.msg_id == found[3]
    assert held == replaced == 1
    assert replaced.was_replaced
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 21


# --- Transactions --------------------------------------------------------------------------------


async def test_who_rolls_back_has_refused_nobody(
    queue: QueueService[Any], connection: Connection, pool: asyncpg.Pool[Any]
) -> None:
    """A second sender waits for the first, and then takes the key itself."""
    transaction = connection.transaction()
    await transaction.start()
    await queue.enqueue(1, unique_key="k", connection=connection)
    second = asyncio.create_task(queue.enqueue(2, unique_key="k"))
    await waits_for_a_lock(pool)
    await transaction.rollback()
    assert (await second).is_new
    assert await payloads(connection) == ["2"]


@pytest.mark.parametrize("how", ["existing", "error", "replace"])
async def test_who_commits_has_the_key(
    queue: QueueService[Any], connection: Connection, pool: asyncpg.Pool[Any], how: Any
) -> None:
    """A second sender waits for the first, and then sees its job."""
    transaction = connection.transaction()
    await transaction.start()
    first = await queue.enqueue(1, unique_key="k", connection=connection)
    second = asyncio.create_task(queue.enqueue(2, unique_key="k", on_conflict=how))
    await waits_for_a_lock(pool)
    await transaction.commit()
    with pytest.raises(DuplicateJobError) if how == "error" else nullcontext():
        found = await second
        assert (found, found.is_new) == (first, False)
    assert await payloads(connection) == ["2" if how == "replace" else "1"]


async def test_a_job_found_unstarted_sees_what_the_sender_commits(
    queue: QueueService[Any], connection: Connection
) -> None:
    """It is not claimed before the transaction of the sender that found it has ended."""
    await queue.enqueue(1, unique_key="k", unique="until_started")
    async with connection.transaction():
        found = await queue.enqueue(
            2, unique_key="k", unique="until_started", connection=connection
        )
        assert not found.is_new
        assert await queue.dequeue() is None
    assert (await claimed(queue)).msg_id == found


async def test_senders_in_opposite_orders_do_not_deadlock(
    pool: asyncpg.Pool[Any], queue_name: str
) -> None:
    """Keys are taken in their order, whatever that of the jobs, also over several statements."""
    keys = [f"k{n}" for n in range(1500)]
    one, two = QueueService[Any](pool, "jobs"), QueueService[Any](pool, "jobs")
    for how in ("existing", "replace"):
        calls = [
            each.enqueue_many(range(1500), unique_keys=order, on_conflict=how)
            for each in (one, two)
            for order in (keys, keys[::-1])
        ]
        found = await asyncio.gather(*calls)
        assert found[0] == found[1][::-1] == found[2] == found[3][::-1]
    deadlocks = await pool.fetchval(
        "select deadlocks from pg_stat_database where datname = current_database()"
    )
    assert deadlocks == 0


# --- Jobs that somebody else ends ----------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "select pgmq.delete('jobs', 1::bigint)",
        "select pgmq.archive('jobs', 1::bigint)",
        "select pgmq.purge_queue('jobs')",
        "delete from pgmq.q_jobs",
        "truncate pgmq.q_jobs",
        "select pgmq.drop_queue('jobs'); select pgmq.create('jobs')",
        "select meshhook.drop_queue('jobs'); select meshhook.create_queue('jobs')",
    ],
)
@pytest.mark.parametrize("unique", ["until_done", "until_started"])
async def test_a_message_that_somebody_deleted_has_no_key(
    queue: QueueService[Any], connection: Connection, sql: str, unique: Any
) -> None:
    """Not even if its id is given to another job since, after the queue was created anew."""
    await queue.enqueue(1, unique_key="k", unique=unique)
    await connection.execute(sql)
    await connection.execute("select pgmq.send('jobs', '\"with its id\"')")
    found = await queue.enqueue(2, unique_key="k", unique=unique)
    assert found.is_new
    assert await queue.enqueue(3, unique_key="k", unique=unique) == found


@pytest.mark.parametrize("dropped", ["meshhook.drop_queue('jobs')", "pgmq.drop_queue('jobs')"])
async def test_a_time_ends_with_its_queue(
    queue: QueueService[Any], connection: Connection, dropped: str
) -> None:
    """The first job of a queue that is created again is new, whatever the one before it had."""
    day = timedelta(days=1)
    await queue.enqueue(1, unique_key="k", unique=day)
    await connection.execute(f"select {dropped}")
    assert await create_queue(connection, "jobs")
    found = await queue.enqueue(2, unique_key="k", unique=day)
    assert found.is_new
    assert await payloads(connection) == ["2"]
    assert not await create_queue(connection, "jobs")
    assert not (await queue.enqueue(3, unique_key="k", unique=day)).is_new


async def test_an_older_worker_frees_no_key(
    queue: QueueService[Any], connection: Connection
) -> None:
    """It settles by the old statement: the key is free all the same."""
    await queue.enqueue(1, unique_key="k")
    job = await claimed(queue)
    old = Settlement(
        job.msg_id,
        job.read_ct,
        job.enqueued_timestamp,
        job.attempt,
        AttemptOutcome.SUCCEEDED,
        1.0,
        2.0,
    )
    assert await settle(connection, QueueTables("jobs"), "w", [old]) == {0}
    assert await connection.fetchval("select count(*) from meshhook.unique_keys") == 1
    assert (await queue.enqueue(2, unique_key="k")).is_new


async def test_many_who_find_a_dead_row_store_one_job(
    pool: asyncpg.Pool[Any], queue: QueueService[Any], connection: Connection
) -> None:
    """Senders of several processes find the same row, whose message is gone."""
    await queue.enqueue(1, unique_key="k")
    await connection.execute("delete from pgmq.q_jobs")
    services = [QueueService[Any](pool, "jobs") for _ in range(8)]
    found = await asyncio.gather(*(each.enqueue(2, unique_key="k") for each in services))
    assert sum(each.is_new for each in found) == 1
    assert len(set(found)) == 1


async def test_rows_that_hold_nothing_are_deleted(
    queue: QueueService[Any], connection: Connection
) -> None:
    """In chunks of keys, those whose message is gone or whose time is over; no others."""
    for key in "abcdef":
        await queue.enqueue(1, unique_key=key)
    await queue.enqueue(1, unique_key="g", unique=timedelta(hours=1))
    await queue.enqueue(1, unique_key="h", unique=timedelta(hours=1))
    await connection.execute(
        "update meshhook.unique_keys set expires_at = now() - interval '1 s' where key = 'h'"
    )
    # Of h the message is still there; of g it is not, but its time is not over.
    await connection.execute("delete from pgmq.q_jobs where msg_id in (1, 3, 6, 7)")
    sql = queries.load("delete_unused_unique_keys", QueueTables("jobs"))
    key, seen = "", []
    while key is not None:
        key = await connection.fetchval(sql, "jobs", key, 3)
        seen.append(key)
    assert seen == ["c", "f", None]
    left = await connection.fetchval("select array_agg(key order by key) from meshhook.unique_keys")
    assert left == ["b", "d", "e", "g"]


async def test_a_row_that_a_sender_takes_meanwhile_is_not_deleted(
    queue: QueueService[Any], connection: Connection, pool: asyncpg.Pool[Any]
) -> None:
    """It is not waited for either."""
    await queue.enqueue(1, unique_key="k")
    await connection.execute("delete from pgmq.q_jobs")
    sql = queries.load("delete_unused_unique_keys", QueueTables("jobs"))
    async with connection.transaction():
        found = await queue.enqueue(2, unique_key="k", connection=connection)
        assert await pool.fetchval(sql, "jobs", "", 10) is None
    assert await queue.enqueue(3, unique_key="k") == found
    assert await connection.fetchval("select count(*) from meshhook.unique_keys") == 1


# --- Dead letters --------------------------------------------------------------------------------


async def bury(pool: asyncpg.Pool[Any], queue: QueueService[Any]) -> int:
    """Let the next job die, and return the id of its dead letter."""
    found = await DLQService(pool, "jobs").move_to_dead_letter(
        await claimed(queue), "no", error_type="Boom"
    )
    assert found is not None
    return found


async def test_a_dead_letter_has_no_key(pool: asyncpg.Pool[Any], queue: QueueService[Any]) -> None:
    """Replayed, it takes its key again."""
    await queue.enqueue(1, unique_key="k")
    dead = await bury(pool, queue)
    replayed = await DLQService(pool, "jobs").replay_dead_letter_job(dead)
    assert await queue.enqueue(2, unique_key="k") == replayed


async def test_a_dead_letter_whose_key_another_job_has_stays(
    pool: asyncpg.Pool[Any], queue: QueueService[Any]
) -> None:
    """The error names that job; in a replay of many it is skipped, and those after it are not."""
    service = DLQService(pool, "jobs")
    dead = []
    for n, key in enumerate("kab"):
        await queue.enqueue(n, unique_key=key)
        dead.append(await bury(pool, queue))
    again = await queue.enqueue(9, unique_key="k")
    assert again.is_new
    with pytest.raises(DuplicateJobError, match=f"job {again} of queue 'jobs' has"):
        await service.replay_dead_letter_job(dead[0])
    replayed = await service.replay_multiple_jobs(limit=1)
    replayed += await service.replay_multiple_jobs(error_type="Boom")
    assert [each[0] for each in replayed] == dead[1:]
    assert [each.id for each in await service.list_dead_letter_jobs()] == [dead[0]]


async def test_of_two_dead_letters_with_one_key_one_is_replayed(
    pool: asyncpg.Pool[Any], queue: QueueService[Any]
) -> None:
    """The older one; the other stays."""
    dead = []
    for _ in range(2):
        await queue.enqueue(1, unique_key="k")
        dead.append(await bury(pool, queue))
    replayed = await DLQService(pool, "jobs").replay_multiple_jobs(dead)
    assert [each[0] for each in replayed] == dead[:1]


# --- Wrong arguments -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"unique_key": ""}, InvalidJobError, "unique_key is a string of 1 to 200 characters"),
        ({"unique_key": "x" * 201}, InvalidJobError, "unique_key is a string of 1 to 200"),
        ({"unique_key": 7}, InvalidJobError, "got 7"),
        ({"unique_key": "a\0b"}, InvalidJobError, "a character that PostgreSQL cannot store"),
        ({"unique_key": "\ud800"}, InvalidJobError, "a character that PostgreSQL cannot store"),
        ({"unique": "until_done"}, InvalidSettingError, "unique='until_done' needs a unique_key"),
        ({"on_conflict": "error"}, InvalidSettingError, "on_conflict='error' needs a unique_key"),
        ({"unique_key": "k", "unique": "done"}, InvalidSettingError, "unique is 'until_done', "),
        ({"unique_key": "k", "unique": []}, InvalidSettingError, "unique is 'until_done', "),
        ({"unique_key": "k", "unique": 60}, InvalidSettingError, "or a timedelta, got 60"),
        ({"unique_key": "k", "unique": timedelta(0)}, InvalidSettingError, "more than 0"),
        ({"unique_key": "k", "unique": timedelta(367)}, InvalidSettingError, "up to 366 days"),
        ({"unique_key": "k", "on_conflict": "skip"}, InvalidSettingError, "got 'skip'"),
        ({"unique_key": "k", "on_conflict": []}, InvalidSettingError, "on_conflict is one of"),
    ],
)
async def test_wrong_arguments_are_refused(
    queue: QueueService[Any], arguments: dict[str, Any], error: type[Exception], says: str
) -> None:
    """The error says which, what it was, and what it may be."""
    with pytest.raises(error, match=says):
        await queue.enqueue({}, **arguments)
    assert await queue.dequeue() is None


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("ab", "expected a list with a key for each job, got 'ab'"),
        (["a"], "got 1 keys and 2 jobs"),
        (["a", None], "a key for each job, got None"),
        (["a", ""], "unique_key is a string of 1 to 200 characters"),
    ],
)
async def test_wrong_lists_of_keys_are_refused(
    queue: QueueService[Any], keys: Any, says: str
) -> None:
    """As many as jobs, none left out."""
    with pytest.raises(InvalidJobError, match=says):
        await queue.enqueue_many([1, 2], unique_keys=keys)


async def test_the_header_is_the_queues_own(queue: QueueService[Any]) -> None:
    """A producer cannot set it."""
    with pytest.raises(InvalidJobError, match="meshhook-unique"):
        await queue.enqueue({}, headers={"meshhook-unique": {"key": "k"}})


@pytest.mark.parametrize("headers", [None, {"h": "é", "n": [1, {}]}])
@pytest.mark.parametrize("unique", [None, "until_started", timedelta(seconds=90.5)])
async def test_the_header_says_what_was_asked_for(
    queue: QueueService[Any], connection: Connection, headers: Any, unique: Any
) -> None:
    """Beside those of the producer, and as the functions of SQL store it."""
    key = 'é"\\\u2028\x01\x7f🚚'
    await queue.enqueue(1, unique_key=key, unique=unique, headers=headers)
    stored = await connection.fetchval("select headers::text from pgmq.q_jobs")
    expected = await connection.fetchval(
        "select (coalesce($1::jsonb, '{}') || meshhook.unique_header($2, $3, $4))::text",
        *(headers and json.dumps(headers), key, unique == "until_started"),
        unique.total_seconds() if isinstance(unique, timedelta) else None,
    )
    assert stored == expected


async def test_an_id_is_a_number(queue: QueueService[Any]) -> None:
    """It prints as one, and compares as one."""
    found = await queue.enqueue({}, unique_key="k")
    assert isinstance(found, EnqueuedId)
    assert (repr(found), str(found), f"{found}", found + 1) == ("1", "1", "1", 2)


# --- Plans ---------------------------------------------------------------------------------------


ASKED = {
    "enqueue_unique_new": (["{}"] * 2, ["{}"] * 2, None, ["x1", "free"], None, None, "jobs", False),
    **{
        f"enqueue_unique {how}": (
            *(["{}"] * 2, None, None, ["x1", "free"], None, None),
            *([how] * 2, "jobs", False),
        )
        for how in ("existing", "error", "replace")
    },
}
"""Each statement of a sender and its arguments, by a name that begins with that of the file."""


@pytest.mark.parametrize("name", ASKED)
async def test_many_keys_cost_no_more_than_few(
    connection: Connection, queue_name: str, name: str
) -> None:
    """A sender reads the keys of its own jobs; nothing has been analyzed since they came."""
    await connection.execute(
        "insert into meshhook.unique_keys (queue, key, msg_id, enqueued_at) "
        "select 'jobs', 'x' || n, -n, now() from generate_series(1, 100000) n"
    )
    sql = queries.load(name.partition(" ")[0], "jobs")
    await connection.execute("set plan_cache_mode = force_generic_plan")
    [row] = await connection.fetch(f"explain (analyze, buffers, format json) {sql}", *ASKED[name])
    plan = json.loads(row[0])[0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 200


async def test_a_sender_plans_its_statement_once(
    queue: QueueService[Any], connection: Connection
) -> None:
    """The plan is kept, though the first calls were for one job each."""
    service = QueueService[Any](connection, "jobs")
    for n in range(10):
        await service.enqueue(n, unique_key=f"k{n}")
    await service.enqueue_many(range(100), unique_keys=[f"m{n}" for n in range(100)])
    found = await connection.fetchrow(
        "select generic_plans, custom_plans from pg_prepared_statements "
        "where statement like '%unique_keys%' and generic_plans + custom_plans > 5"
    )
    assert tuple(found or ()) == (6, 5)


# --- The documentation ---------------------------------------------------------------------------


async def test_the_snippets_of_the_documentation_run(
    pool: asyncpg.Pool[Any], connection: Connection
) -> None:
    """Each function, and each block of SQL."""
    await create_queue(connection, "orders")
    text = (Path(__file__).parents[1] / "docs" / "unique.md").read_text("utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, names)  # noqa: S102 - it is ours
    queue = QueueService[Any](pool, "orders")
    await names["send_invoice"](queue)
    for _ in range(2):
        await names["customer_changed"](queue, 3)
        await names["remind_at_most_daily"](queue, 3)
    assert await names["send_invoices"](queue, [7, 8, 9]) == 2
    for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
        await connection.execute(block)
    assert await connection.fetchval("select count(*) from pgmq.q_orders") == 7
