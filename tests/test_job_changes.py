"""Cancelling, rescheduling and deleting jobs that are in their queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import FollowUp, QueueService, get_group
from meshhook.dead_letters import DLQService
from meshhook.errors import InvalidSettingError, QueueNotFoundError
from meshhook.postgres.database import Database
from meshhook.tracking import get_job

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture
def service(pool: asyncpg.Pool[Any]) -> QueueService[Any]:
    """The queue `jobs`."""
    return QueueService[Any](pool, "jobs")


def job(run: str = "r1", workflow: str = "w1", project: str = "p1") -> dict[str, Any]:
    """Return a message."""
    return {"run_id": run, "workflow_id": workflow, "project_id": project, "payload": 1}


async def ids_in_queue(connection: Connection) -> list[int]:
    """Return the ids of the messages in the queue."""
    return [row[0] for row in await connection.fetch("select msg_id from pgmq.q_jobs order by 1")]


async def test_a_waiting_job_is_cancelled_at_once(
    service: QueueService[Any], pool: asyncpg.Pool[Any], connection: Connection
) -> None:
    """It leaves the queue, and the history says who cancelled it and why."""
    msg_id = await service.enqueue(job())
    done = await service.cancel(msg_id, reason="the order was withdrawn")
    assert (done.changed, done.matched, done.jobs[0].was) == (1, 1, "ready")
    assert await ids_in_queue(connection) == []
    life = await get_job(pool, "jobs", msg_id)
    assert (life.state, life.run_id, life.attempts_made) == ("cancelled", "r1", 0)
    assert life.attempts[0].error_message == "the order was withdrawn"
    again = await service.cancel(msg_id)
    assert (again.unchanged, again.jobs[0].was) == (1, "cancelled")
    assert again.jobs[0].at == life.attempts[0].finished_at


async def test_jobs_in_every_state_that_waits(
    service: QueueService[Any], connection: Connection
) -> None:
    """Scheduled, waiting for a retry, and lost: each is cancelled once, with its attempts."""
    scheduled = await service.enqueue(job(), 3600)
    retrying, lost = await service.enqueue_many([job(), job()])
    await connection.execute(
        """update pgmq.q_jobs set read_ct = 2, vt = now() + interval '1 hour',
            headers = '{"meshhook-settled": 2}' where msg_id = $1""",
        retrying,
    )
    await connection.execute("update pgmq.q_jobs set read_ct = 1 where msg_id = $1", lost)
    done = await service.cancel([scheduled, retrying, lost, 999])
    assert {each.msg_id: each.was for each in done.jobs} == {
        scheduled: "scheduled",
        retrying: "retrying",
        lost: "lost",
        999: None,
    }
    assert (done.changed, done.not_found) == (3, 1)
    rows = await connection.fetch("select msg_id, outcome, attempt from meshhook.job_attempts")
    assert {tuple(row) for row in rows} == {
        (scheduled, "cancelled", 0),
        (retrying, "cancelled", 2),
        (lost, "cancelled", 1),
    }


async def test_a_running_job_is_asked_for(
    service: QueueService[Any], connection: Connection
) -> None:
    """It stays with its lease, and the request is stored; the first one counts."""
    msg_id = await service.enqueue(job())
    claimed = await service.dequeue()
    assert claimed is not None
    assert (await service.cancel(msg_id, reason="one", requested_by="ann")).requested == 1
    assert (await service.cancel(msg_id, reason="two", requested_by="bob")).requested == 1
    row = await connection.fetchrow("select * from meshhook.cancellations")
    assert row is not None
    assert (row["msg_id"], row["reason"], row["requested_by"]) == (msg_id, "one", "ann")
    assert await service.acknowledge(claimed), "nothing has stopped it"
    await connection.fetch("select meshhook.carry_out_cancellations('jobs')")
    row = await connection.fetchrow("select * from meshhook.cancellations")
    assert row is not None
    assert row["outcome"] == "succeeded"
    done = await service.cancel(msg_id)
    assert (done.unchanged, done.jobs[0].was) == (1, "succeeded")


async def test_a_request_outlives_a_lost_lease(
    service: QueueService[Any], connection: Connection
) -> None:
    """Once the job waits again, the request is carried out, with its reason."""
    msg_id = await service.enqueue(job())
    await service.dequeue()
    await service.cancel(msg_id, reason="too late")
    assert await connection.fetchval("select meshhook.carry_out_cancellations('jobs')") == 0
    await connection.execute("update pgmq.q_jobs set vt = now()")
    assert await connection.fetchval("select meshhook.carry_out_cancellations('jobs')") == 1
    assert await ids_in_queue(connection) == []
    row = await connection.fetchrow("select outcome, error_message from meshhook.job_attempts")
    assert tuple(row or ()) == ("cancelled", "too late")
    assert await connection.fetchval("select outcome from meshhook.cancellations") == "cancelled"


async def test_a_locked_job_is_asked_for(
    service: QueueService[Any], connection: Connection, pool: asyncpg.Pool[Any]
) -> None:
    """What another transaction holds may be about to run: it is not waited for, and not lost."""
    msg_id = await service.enqueue(job())
    async with connection.transaction():
        await connection.fetch("select from pgmq.q_jobs for update")
        assert (await service.cancel(msg_id)).requested == 1
    assert await pool.fetchval("select meshhook.carry_out_cancellations('jobs')") == 1
    assert await ids_in_queue(connection) == []


@pytest.mark.parametrize(
    "filters",
    [{"run_id": "r2"}, {"workflow_id": "w2"}, {"project_id": "p2"}, {"key": "k2"}],
    ids=lambda each: next(iter(each)),
)
async def test_all_that_fit(
    service: QueueService[Any], connection: Connection, filters: dict[str, str]
) -> None:
    """By run, workflow, project or key; a dry run says what it would be."""
    other = await service.enqueue(job(), key="k1")
    fit = [await service.enqueue(job("r2", "w2", "p2"), n * 3600, key="k2") for n in range(3)]
    tried = await service.cancel(dry_run=True, **filters)  # type: ignore[arg-type]
    assert (tried.changed, tried.is_dry_run, tried.is_complete) == (3, True, True)
    assert await ids_in_queue(connection) == [other, *fit]
    done = await service.cancel(state="scheduled", **filters)  # type: ignore[arg-type]
    assert done.changed == 2
    assert (await service.cancel(**filters)).changed == 1  # type: ignore[arg-type]
    assert await ids_in_queue(connection) == [other]


async def test_several_chunks(service: QueueService[Any], connection: Connection) -> None:
    """All of 2,500, each with one row in the history."""
    await service.enqueue_many([job()] * 2_500)
    done = await service.cancel(run_id="r1")
    assert (done.changed, len(done.jobs), done.is_complete) == (2_500, 1_000, True)
    count = await connection.fetchval("select count(distinct msg_id) from meshhook.job_attempts")
    assert count == 2_500


async def test_reschedule(service: QueueService[Any], connection: Connection) -> None:
    """To a time or after a delay, whatever waits; what runs is left alone."""
    first, second = await service.enqueue_many([job(), job()])
    running = await service.dequeue()
    assert running is not None
    assert running.msg_id == first
    at = datetime.now(UTC) + timedelta(hours=2)
    done = await service.reschedule([first, second, 77], at=at)
    assert [(each.result, each.was) for each in done.jobs] == [
        ("unchanged", "running"),
        ("rescheduled", "ready"),
        ("not_found", None),
    ]
    assert done.jobs[1].at == at
    assert await service.dequeue() is None
    done = await service.reschedule(second, delay_seconds=timedelta(hours=1))
    assert done.jobs[0].was == "scheduled"
    assert (await service.run_now(second)).changed == 1
    assert (await service.run_now(second)).jobs[0].was == "ready"
    claimed = await service.dequeue()
    assert claimed is not None
    assert claimed.msg_id == second
    assert claimed.attempt == 1
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 0


async def test_a_retry_runs_now(service: QueueService[Any], connection: Connection) -> None:
    """A job that waits for its retry keeps its attempts."""
    msg_id = await service.enqueue(job())
    await connection.execute(
        """update pgmq.q_jobs set read_ct = 2, vt = now() + interval '1 hour',
            headers = '{"meshhook-settled": 2}'"""
    )
    assert (await service.run_now(state="retrying")).changed == 1
    claimed = await service.dequeue()
    assert claimed is not None
    assert (claimed.msg_id, claimed.attempt) == (msg_id, 3)


async def test_delete_leaves_nothing(
    service: QueueService[Any], connection: Connection, pool: asyncpg.Pool[Any]
) -> None:
    """Neither a message nor a dead letter nor history; what runs is left alone."""
    waiting = await service.enqueue(job())
    dead = await service.enqueue(job())
    await connection.execute(
        "update pgmq.q_jobs set vt = now() + interval '1 h' where msg_id = $1", waiting
    )
    claimed = await service.dequeue()
    assert claimed is not None
    assert (await service.delete_jobs(dead)).jobs[0].was == "running"
    await DLQService(pool, "jobs").move_to_dead_letter(claimed, "no")
    tried = await service.delete_jobs([waiting, dead, 55], dry_run=True)
    done = await service.delete_jobs([waiting, dead, 55])
    assert [(each.msg_id, each.result, each.was) for each in done.jobs] == [
        (waiting, "deleted", "scheduled"),
        (dead, "deleted", "dead_lettered"),
        (55, "not_found", None),
    ]
    assert [each.result for each in tried.jobs] == [each.result for each in done.jobs]
    for table in ("pgmq.q_jobs", "pgmq.q_jobs_dlq", "meshhook.job_attempts"):
        assert await connection.fetchval(f"select count(*) from {table}") == 0


async def test_delete_waits_for_nobody(
    service: QueueService[Any], connection: Connection, pool: asyncpg.Pool[Any]
) -> None:
    """What another transaction has locked is left: a dead letter with its history, keys, requests.

    A row that is left of a key or a request holds nothing, and goes later.
    """
    dead = await service.enqueue(job())
    claimed = await service.dequeue()
    assert claimed is not None
    await DLQService(pool, "jobs").move_to_dead_letter(claimed, "no")
    keyed = await service.enqueue(job(), unique_key="k")
    await connection.execute(
        """insert into meshhook.cancellations
            (queue, msg_id, enqueued_at, requested_at, requested_by)
        select 'jobs', msg_id, enqueued_at, now(), 'me' from pgmq.q_jobs"""
    )
    async with pool.acquire() as deleter, connection.transaction():
        for table in ("pgmq.q_jobs_dlq", "meshhook.unique_keys", "meshhook.cancellations"):
            assert await connection.fetch(f"select from {table} for update")
        await deleter.execute("set lock_timeout = '10s'")
        deleting = QueueService[Any](deleter, "jobs")
        done = await deleting.delete_jobs([dead, keyed])
        assert [(each.msg_id, each.result, each.was) for each in done.jobs] == [
            (dead, "unchanged", "dead_lettered"),
            (keyed, "deleted", "ready"),
        ]
        await deleter.execute("reset lock_timeout")
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 1
    assert (await service.enqueue({}, unique_key="k")).is_new
    assert (await service.delete_jobs(dead)).jobs[0].result == "deleted"
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 0


async def test_delete_says_how_jobs_have_ended_that_are_in_no_such_state(
    service: QueueService[Any], pool: asyncpg.Pool[Any]
) -> None:
    """Asked for jobs in a state, it leaves those that have ended, and says how they did."""
    await service.enqueue(job())
    ended = await service.dequeue()
    assert ended is not None
    await service.acknowledge(ended)
    done = await service.delete_jobs([ended.msg_id, 77], state="ready")
    assert [(each.result, each.was) for each in done.jobs] == [
        ("unchanged", "succeeded"),
        ("not_found", None),
    ]


async def test_a_unique_key_is_freed(service: QueueService[Any], connection: Connection) -> None:
    """Also one that is kept for a time: nothing was done under it."""
    ids = await service.enqueue_many([job(), job()])
    for msg_id in ids:
        await connection.execute(
            """with keyed as (
                update pgmq.q_jobs set headers = jsonb_build_object(
                    'meshhook-unique', jsonb_build_object('key', 'k' || msg_id))
                where msg_id = $1 returning msg_id, enqueued_at)
            insert into meshhook.unique_keys (queue, key, msg_id, enqueued_at, expires_at)
            select 'jobs', 'k' || msg_id, msg_id, enqueued_at, now() + interval '1 hour'
            from keyed""",
            msg_id,
        )
    await service.cancel(ids[0])
    assert await connection.fetchval("select array_agg(key) from meshhook.unique_keys") == [
        f"k{ids[1]}"
    ]
    await service.delete_jobs(ids[1])
    assert await connection.fetchval("select count(*) from meshhook.unique_keys") == 0


async def test_a_group_counts_it(service: QueueService[Any], connection: Connection) -> None:
    """Cancelled or deleted, a job of a group has ended; the last one enqueues the callback."""
    on_complete = FollowUp("jobs", {"all": "over"})
    ids = await service.enqueue_many([job(), job()], group="import", on_complete=on_complete)
    await service.cancel(ids[0])
    assert await ids_in_queue(connection) == ids[1:]
    await service.delete_jobs(ids[1])
    [callback] = await ids_in_queue(connection)
    group = await get_group(Database(connection), "jobs", "import")
    assert (group.cancelled, group.total, group.callback_id) == (2, 2, callback)


async def test_inside_a_transaction(service: QueueService[Any], connection: Connection) -> None:
    """A rollback takes it back."""
    msg_id = await service.enqueue(job())
    transaction = connection.transaction()
    await transaction.start()
    assert (await service.cancel(msg_id, connection=connection)).changed == 1
    await transaction.rollback()
    assert await ids_in_queue(connection) == [msg_id]
    async with connection.transaction():
        await service.cancel(run_id="r1", connection=connection)
    assert await ids_in_queue(connection) == []


async def test_from_psql(connection: Connection, service: QueueService[Any]) -> None:
    """The functions take the same, and refuse the same."""
    ids = await service.enqueue_many([job("a"), job("b"), job("b")])
    rows = await connection.fetch(
        "select * from meshhook.cancel('jobs', array[$1]::bigint[])", ids[0]
    )
    assert [tuple(row) for row in rows] == [(ids[0], "cancelled", "ready", None)]
    rows = await connection.fetch(
        "select * from meshhook.reschedule('jobs', run_id => 'b', delay => '1 hour')"
    )
    assert [(row["msg_id"], row["result"]) for row in rows] == [
        (each, "rescheduled") for each in ids[1:]
    ]
    rows = await connection.fetch("select * from meshhook.run_now('jobs', state => 'scheduled')")
    assert len(rows) == 2
    rows = await connection.fetch(
        "select * from meshhook.cancel('jobs', run_id => 'b', max_jobs => 1, reason => 'x')"
    )
    assert [row["msg_id"] for row in rows] == ids[1:2]
    for call in ("cancel('jobs')", "reschedule('jobs', array[1])", "cancel('nope', array[1])"):
        with pytest.raises(asyncpg.PostgresError):
            await connection.fetch(f"select * from meshhook.{call}")


async def test_what_is_refused(service: QueueService[Any], pool: asyncpg.Pool[Any]) -> None:
    """Each error names the argument and the value received."""
    with pytest.raises(InvalidSettingError, match="name the jobs"):
        await service.cancel()
    with pytest.raises(InvalidSettingError, match="not by both"):
        await service.cancel(1, run_id="r")
    with pytest.raises(InvalidSettingError, match=r"state is one of .* got 'gone'"):
        await service.cancel(state="gone")
    with pytest.raises(InvalidSettingError, match="msg_id is a whole number, got 'x'"):
        await service.cancel("x")  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="time zone"):
        await service.reschedule(1, at=datetime(2030, 1, 1))  # noqa: DTZ001
    with pytest.raises(InvalidSettingError, match="at= or delay_seconds="):
        await service.reschedule(1)
    with pytest.raises(InvalidSettingError, match="reason has at most 4000 characters, got 5000"):
        await service.cancel(1, reason="x" * 5_000)
    with pytest.raises(QueueNotFoundError):
        await QueueService[Any](pool, "nope").cancel(1)
