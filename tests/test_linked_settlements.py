"""Settlements of jobs on which something hangs: the unique keys that their end frees."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import Job, QueueService
from meshhook.jobs import UNIQUE_HEADER, has_links
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.store.settlements import Settlement, settle

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")


async def hold(connection: Connection, key: str, seconds: float | None = None) -> int:
    """Store a job that has a unique key, for some time or until it is done."""
    headers = json.dumps({UNIQUE_HEADER: {"key": key}})
    msg_id: int = await connection.fetchval("select pgmq.send('jobs', '{}', $1::jsonb)", headers)
    await connection.execute(
        "insert into meshhook.unique_keys (queue, key, msg_id, enqueued_at, expires_at) "
        "select 'jobs', $1, msg_id, enqueued_at, now() + make_interval(secs => $3) "
        "from pgmq.q_jobs where msg_id = $2",
        key,
        msg_id,
        seconds,
    )
    return msg_id


async def held(connection: Connection) -> list[str]:
    """Return the keys that have a row, in order."""
    keys: list[str] = await connection.fetchval(
        "select coalesce(array_agg(key order by key), '{}') from meshhook.unique_keys"
    )
    return keys


async def claimed(queue: QueueService[Any]) -> Job[Any]:
    """Claim the next job."""
    job = await queue.dequeue()
    assert job is not None
    return job


def settlement(job: Job[Any], outcome: AttemptOutcome) -> Settlement:
    """Return an outcome of a job as a worker settles it."""
    return Settlement(
        job.msg_id,
        job.read_ct,
        job.enqueued_timestamp,
        job.attempt,
        outcome,
        job.started_timestamp,
        job.started_timestamp + 1,
        delay_seconds=60,
        has_links=has_links(job.headers),
    )


@pytest.mark.parametrize(
    ("outcome", "is_final", "frees_time"),
    [
        (AttemptOutcome.SUCCEEDED, True, False),
        (AttemptOutcome.CANCELLED, True, True),
        (AttemptOutcome.DEAD_LETTERED, True, True),
        (AttemptOutcome.ARCHIVED, True, True),
        (AttemptOutcome.RETRIED, False, False),
        (AttemptOutcome.SNOOZED, False, False),
    ],
)
async def test_the_end_of_a_job_frees_its_key(
    connection: Connection,
    queue_name: str,
    outcome: AttemptOutcome,
    is_final: bool,
    frees_time: bool,
) -> None:
    """Each final outcome does; of a key that is kept for a time, each but success."""
    queue = QueueService[Any](connection, "jobs")
    await hold(connection, "a")
    await hold(connection, "b", 3600)
    await hold(connection, "c")
    settlements = [settlement(await claimed(queue), outcome) for _ in range(2)]
    assert await settle(connection, TABLES, "w", settlements) == {0, 1}
    freed = ["a"] * is_final + ["b"] * frees_time
    assert await held(connection) == [key for key in "abc" if key not in freed]
    recorded = await connection.fetchval(
        "select array_agg(distinct outcome) from meshhook.job_attempts"
    )
    assert recorded == [outcome]


async def test_a_lost_lease_frees_nothing(connection: Connection, queue_name: str) -> None:
    """Neither by itself nor beside one that holds."""
    queue = QueueService[Any](connection, "jobs")
    await hold(connection, "a")
    await hold(connection, "b")
    lost, kept = [settlement(await claimed(queue), AttemptOutcome.SUCCEEDED) for _ in range(2)]
    assert await settle(connection, TABLES, "w", [lost._replace(read_ct=2), kept]) == {1}
    assert await held(connection) == ["a"]


async def test_only_its_own_key_is_freed(connection: Connection, queue_name: str) -> None:
    """Not one that a later job has, nor one of another job with its id, nor another queue's."""
    await connection.execute("select meshhook.create_queue('others')")
    await hold(connection, "later")
    await hold(connection, "namesake")
    await hold(connection, "elsewhere")
    await connection.execute(
        """
        update meshhook.unique_keys set msg_id = 99 where key = 'later';
        update meshhook.unique_keys set enqueued_at = now() - interval '1 day'
            where key = 'namesake';
        update meshhook.unique_keys set queue = 'others' where key = 'elsewhere';
        """
    )
    queue = QueueService[Any](connection, "jobs")
    assert all(await queue.acknowledge_many([await claimed(queue) for _ in range(3)]))
    assert await held(connection) == ["elsewhere", "later", "namesake"]


async def test_a_key_that_a_sender_has_locked_is_not_waited_for(
    connection: Connection, pool: asyncpg.Pool[Any], queue_name: str
) -> None:
    """Its row stays, and holds nothing since its message is gone."""
    await hold(connection, "a")
    queue = QueueService[Any](pool, "jobs")
    job = await claimed(queue)
    async with connection.transaction():
        await connection.execute("select from meshhook.unique_keys for update")
        assert await queue.acknowledge(job)
    assert await held(connection) == ["a"]


@pytest.mark.parametrize(
    "header",
    ["text", 7, None, [], {}, {"key": 7}, {"key": None}, {"key": {}}, {"key": "unknown"}],
    ids=json.dumps,
)
async def test_a_header_of_another_client_does_no_harm(
    connection: Connection, queue_name: str, header: object
) -> None:
    """Whatever it holds, the job is settled beside others, and they free theirs."""
    await connection.execute(
        "select pgmq.send('jobs', '{}', $1::jsonb)", json.dumps({UNIQUE_HEADER: header})
    )
    await hold(connection, "a")
    queue = QueueService[Any](connection, "jobs")
    assert await queue.acknowledge_many([await claimed(queue), await claimed(queue)]) == [True] * 2
    assert await held(connection) == []


async def test_a_dropped_queue_forgets_its_keys(connection: Connection, queue_name: str) -> None:
    """Those of other queues stay."""
    await connection.execute("select meshhook.create_queue('others')")
    await hold(connection, "a", 3600)
    await connection.execute(
        "insert into meshhook.unique_keys (queue, key, msg_id, enqueued_at) "
        "values ('others', 'b', 1, now())"
    )
    await connection.execute("select meshhook.drop_queue('jobs')")
    assert await held(connection) == ["b"]
