"""Replaying finished jobs whose bodies are kept."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService, SyncQueueService, set_queue_config
from meshhook.dead_letters import DLQService
from meshhook.encryption.key_ring import KeyRing
from meshhook.errors import DatabaseError, InvalidSettingError, QueueNotFoundError
from meshhook.job_changes import CHUNK_JOBS, JobChange
from support.waiting import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

HOUR = timedelta(hours=1)


@pytest.fixture
async def service(pool: Pool) -> QueueService[Any]:
    """The queue `jobs`, which keeps bodies."""
    await set_queue_config(pool, "jobs", keep_bodies_days=7)
    return QueueService[Any](pool, "jobs")


async def finish(service: QueueService[Any], *bodies: Any, **options: Any) -> list[int]:
    """Enqueue jobs and let them succeed."""
    ids: list[int] = await service.enqueue_many(bodies, **options)
    jobs = [job for _ in ids if (job := await service.dequeue()) is not None]
    assert all(await service.acknowledge_many(jobs))
    return ids


async def messages(connection: Connection) -> list[tuple[Any, ...]]:
    """Return id, body and headers of the messages in the queue."""
    rows = await connection.fetch(
        "select msg_id, message::text, headers::text from pgmq.q_jobs order by 1"
    )
    return [tuple(row) for row in rows]


def pairs(jobs: list[JobChange]) -> list[tuple[int, str, int | None]]:
    """Return what became of jobs."""
    return [(job.msg_id, job.result.value, job.replayed_as) for job in jobs]


async def test_a_replay_is_a_new_job_with_the_same_body(
    service: QueueService[Any], connection: Connection
) -> None:
    """It has the body and the headers, all its attempts, and says which job it replays."""
    trace = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
    await finish(service, {"n": 1.50}, headers=trace, key="tenant-7")
    done = await service.replay_jobs(1)
    assert pairs(done.jobs) == [(1, "replayed", 2)]
    assert (done.changed, done.jobs[0].was) == (1, "succeeded")
    job = await service.dequeue()
    assert job is not None
    assert (job.msg_id, job.attempt, job.payload) == (2, 1, {"n": 1.50})
    origin = job.headers.pop("meshhook-replayed-from")
    assert (origin["queue"], origin["msg_id"], origin["replays"]) == ("jobs", 1, 1)
    assert job.headers.items() >= {**trace, "x-pgmq-group": "tenant-7"}.items()


async def test_what_belongs_to_the_first_job_is_left_out(
    service: QueueService[Any], connection: Connection
) -> None:
    """A replay is in no group, has spent no attempt, and no past deadline."""
    await service.enqueue_many([{}, {}], group="g")
    await connection.execute(
        "update pgmq.q_jobs set headers = coalesce(headers, '{}') || $1::jsonb, read_ct = 1",
        '{"meshhook-settled": 1, "meshhook-expires-at": "2099-01-01T00:00:00Z"}',
    )
    jobs = [job for _ in range(2) if (job := await service.dequeue()) is not None]
    assert await service.acknowledge_many(jobs) == [True, True]
    assert (await service.replay_jobs([1, 2])).changed == 2
    rows = await connection.fetch(
        "select array(select jsonb_object_keys(headers)) as names from pgmq.q_jobs"
    )
    assert [row["names"] for row in rows] == [["meshhook-replayed-from"]] * 2


@pytest.mark.parametrize("unique", ["until_done", "until_started"])
async def test_a_replay_takes_its_unique_key_again(service: QueueService[Any], unique: Any) -> None:
    """Who enqueues with the key finds the replay; once that is done, the key is free."""
    sent = await service.enqueue({}, unique_key="u", unique=unique)
    job = await service.dequeue()
    assert job is not None
    await service.acknowledge(job)
    done = await service.replay_jobs(sent)
    assert pairs(done.jobs) == [(1, "replayed", 2)]
    found = await service.enqueue({}, unique_key="u", unique=unique)
    assert (found.is_new, found) == (False, 2)
    job = await service.dequeue()
    assert job is not None
    await service.acknowledge(job)
    assert (await service.enqueue({}, unique_key="u")).is_new


async def test_a_replay_whose_unique_key_is_taken_is_left_alone(
    service: QueueService[Any], connection: Connection
) -> None:
    """The others are replayed; of two replays with one key, the first is."""
    ids: list[int] = []
    for key in ("a", "b", "b", "c"):
        ids.append(await service.enqueue({}, unique_key=key))
        job = await service.dequeue()
        assert job is not None
        await service.acknowledge(job)
    await service.enqueue({}, unique_key="a")
    for is_dry_run in (True, False):
        done = await service.replay_jobs(ids, dry_run=is_dry_run)
        assert [job.result.value for job in done.jobs] == [
            "key_taken",
            "replayed",
            "key_taken",
            "replayed",
        ]
        assert (done.changed, done.key_taken, done.unchanged) == (2, 2, 0)
    assert len(await messages(connection)) == 3
    rows = await connection.fetch("select result, was from meshhook.replay_jobs('jobs', array[1])")
    assert [tuple(row) for row in rows] == [("unchanged", "key_taken")]
    # Once the other job is done, it can be.
    job = await service.dequeue()
    assert job is not None
    await service.acknowledge(job)
    assert (await service.replay_jobs(ids[0])).changed == 1


async def test_a_sender_is_quicker_than_a_replay(
    service: QueueService[Any], database_url: str, connection: Connection
) -> None:
    """The replay waits for a sender's open transaction, and then sees its job."""
    sent = await service.enqueue({}, unique_key="u")
    job = await service.dequeue()
    assert job is not None
    await service.acknowledge(job)
    other = await asyncpg.connect(database_url)
    try:
        transaction = other.transaction()
        await transaction.start()
        await service.enqueue({}, unique_key="u", connection=other)
        replaying = asyncio.create_task(service.replay_jobs(sent))
        waiting = (
            "select exists (select from pg_stat_activity where wait_event_type = 'Lock' "
            "and datname = current_database())"
        )
        await eventually(lambda: connection.fetchval(waiting))
        await transaction.commit()
        done = await replaying
    finally:
        await other.close()
    assert [job.result.value for job in done.jobs] == ["key_taken"]
    assert len(await messages(connection)) == 1


async def test_a_job_is_replayed_once(service: QueueService[Any], connection: Connection) -> None:
    """A repeated call changes nothing and tells the replay's id, unless asked to do it again."""
    ids = await finish(service, {}, {})
    assert (await service.replay_jobs(ids)).changed == 2
    repeated = await service.replay_jobs(ids)
    assert pairs(repeated.jobs) == [(1, "unchanged", 3), (2, "unchanged", 4)]
    assert {job.was for job in repeated.jobs} == {"replayed"}
    assert repeated.jobs[0].at is not None
    once_more = await service.replay_jobs(ids, again=True)
    assert pairs(once_more.jobs) == [(1, "replayed", 5), (2, "replayed", 6)]
    assert len(await messages(connection)) == 4


async def test_concurrent_replays_of_a_job_make_one(
    database_url: str, service: QueueService[Any], connection: Connection
) -> None:
    """While one transaction replays it, others leave it alone; if that rolls back, it is theirs."""
    await finish(service, {})
    other = await asyncpg.connect(database_url)
    try:
        transaction = other.transaction()
        await transaction.start()
        assert (await service.replay_jobs(1, connection=other)).changed == 1
        refused = await service.replay_jobs(1)
        assert pairs(refused.jobs) == [(1, "unchanged", None)]
        assert refused.jobs[0].was == "succeeded"
        await transaction.rollback()
        assert (await service.replay_jobs(1)).changed == 1
    finally:
        await other.close()
    assert len(await messages(connection)) == 1


async def test_jobs_that_cannot_be_replayed(
    service: QueueService[Any], pool: Pool, connection: Connection
) -> None:
    """Each says why: not kept, waiting, a dead letter, or unknown."""
    await set_queue_config(pool, "jobs", keep_bodies_days=None)
    await service.close()
    service = QueueService[Any](pool, "jobs")
    await finish(service, {})
    await service.enqueue_many([{}, {}])
    job = await service.dequeue()
    assert job is not None
    await DLQService(pool, "jobs").move_to_dead_letter(job, "broken")
    done = await service.replay_jobs([1, 2, 3, 99])
    assert [(each.result.value, each.was) for each in done.jobs] == [
        ("not_kept", "succeeded"),
        ("unchanged", "dead_lettered"),
        ("unchanged", "ready"),
        ("not_found", None),
    ]
    assert (done.changed, done.unchanged, done.not_kept, done.not_found) == (0, 2, 1, 1)
    assert len(await messages(connection)) == 1


async def test_jobs_are_chosen_by_what_the_history_knows(
    service: QueueService[Any], connection: Connection
) -> None:
    """By run, workflow, project, time and state; those that succeeded unless told otherwise."""
    bodies = [
        {"run_id": f"r{n % 2}", "workflow_id": f"w{n % 3}", "project_id": "p", "n": n}
        for n in range(6)
    ]
    await finish(service, *bodies)
    await service.enqueue(bodies[0])
    await service.cancel(7)
    await connection.execute(
        "update meshhook.job_attempts set finished_at = finished_at - interval '2 hours' "
        "where msg_id <= 3"
    )
    now = datetime.now(UTC)

    async def chosen(**filters: Any) -> list[int]:
        done = await service.replay_jobs(dry_run=True, **filters)
        assert done.is_complete
        return sorted(job.msg_id for job in done.jobs if job.result == "replayed")

    assert await chosen(run_id="r0") == [1, 3, 5]
    assert await chosen(run_id="r0", since=now - HOUR) == [5]
    assert await chosen(workflow_id="w1") == [2, 5]
    assert await chosen(project_id="p", until=now - HOUR) == [1, 2, 3]
    assert await chosen(since=now - HOUR) == [4, 5, 6]
    assert await chosen(state="cancelled") == [7]
    assert await chosen(run_id="r0", state="cancelled") == [7]
    assert await chosen(run_id="other") == []
    assert await messages(connection) == [], "these were dry runs"
    assert (await service.replay_jobs(workflow_id="w1")).changed == 2
    assert await chosen(state="succeeded") == [1, 3, 4, 6]


async def test_jobs_are_chosen_by_key(
    service: QueueService[Any], pool: Pool, connection: Connection
) -> None:
    """By the key of kept bodies, in the header or where the queue has it in the body."""
    await finish(service, {"tenant": "a"}, key="x")
    await finish(service, {"tenant": "b"}, key="y")
    found = await service.replay_jobs(key="x", dry_run=True)
    assert pairs(found.jobs) == [(1, "replayed", None)]
    await set_queue_config(pool, "jobs", keyed=True, key_path="tenant")
    assert pairs((await service.replay_jobs(key="b")).jobs) == [(2, "replayed", 3)]


async def test_many_jobs_are_replayed_in_chunks(
    service: QueueService[Any], connection: Connection
) -> None:
    """More than one statement takes are replayed completely, each once, in their order."""
    count = 10 * CHUNK_JOBS
    await connection.execute(
        """with kept as (
            insert into meshhook.finished_jobs
                (queue, msg_id, enqueued_at, finished_at, outcome, message, headers)
            select 'jobs', n, now(), now(), 'succeeded', to_jsonb(n),
                meshhook.unique_header('key-' || n, false, null)
            from generate_series(1, $1) n
            returning *)
        insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, enqueued_at,
            finished_at)
        select queue, msg_id, 1, outcome, enqueued_at, finished_at from kept""",
        count,
    )
    await connection.execute("select setval('pgmq.q_jobs_msg_id_seq', $1)", count)
    # Nine living jobs have keys of theirs.
    for n in range(1_000, count, 1_000):
        assert (await service.enqueue({}, unique_key=f"key-{n}")).is_new
    done = await service.replay_jobs(state="succeeded")
    assert (done.changed, done.key_taken, done.matched) == (count - 9, 9, count)
    found = [int(body) for _, body, _ in await messages(connection) if body != "{}"]
    assert sorted(found) == [n for n in range(1, count + 1) if n % 1_000 or n == count]
    held = "select count(*) from meshhook.unique_keys"
    assert await connection.fetchval(held) == count


async def test_ids_of_a_queue_that_is_made_again(
    service: QueueService[Any], connection: Connection
) -> None:
    """An id names the newest of its jobs; a filter the one that fits."""
    await finish(service, {"run_id": "new"})
    await connection.execute(
        """with kept as (
            insert into meshhook.finished_jobs
                (queue, msg_id, enqueued_at, finished_at, outcome, message)
            select 'jobs', 1, now() - interval '1 day', now(), 'succeeded', '{"run_id": "old"}'
            returning *)
        insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, enqueued_at,
            finished_at)
        select queue, msg_id, 1, outcome, 'old', enqueued_at, finished_at from kept"""
    )
    assert (await service.replay_jobs(1)).changed == 1
    assert (await service.replay_jobs(run_id="old")).changed == 1
    assert [body for _, body, _ in await messages(connection)] == [
        '{"run_id": "new"}',
        '{"run_id": "old"}',
    ]


async def test_a_replay_can_be_delayed(service: QueueService[Any], connection: Connection) -> None:
    """It is scheduled, and falls due after the delay."""
    await finish(service, {})
    await service.replay_jobs(1, delay_seconds=3600)
    wait = await connection.fetchval("select vt - enqueued_at from pgmq.q_jobs")
    assert wait == HOUR


async def test_replays_are_ordered_by_their_new_id(
    service: QueueService[Any], pool: Pool, connection: Connection
) -> None:
    """A job that was a replay of a dead letter does not keep the place it had among its key's."""
    await set_queue_config(pool, "jobs", keyed=True, ordered=True)
    await service.enqueue_many([{}, {}], key="a")
    job = await service.dequeue()
    assert job is not None
    await DLQService(pool, "jobs").move_to_dead_letter(job, "broken")
    await DLQService(pool, "jobs").replay_multiple_jobs()
    job = await service.dequeue()
    assert job is not None
    assert "place" in job.headers["meshhook-replayed-from"]
    await service.acknowledge(job)
    await service.replay_jobs(job.msg_id)
    header = await connection.fetchval(
        "select headers -> 'meshhook-replayed-from' from pgmq.q_jobs order by msg_id desc limit 1"
    )
    assert "place" not in header
    assert '"replays": 2' in header


async def test_arguments_are_checked(service: QueueService[Any], pool: Pool) -> None:
    """Each wrong one is named with the value received."""
    now = datetime.now(UTC)
    for arguments, text in (
        ({}, "name the jobs"),
        ({"msg_ids": "17"}, "msg_id"),
        ({"msg_ids": 1, "run_id": "r"}, "not by both"),
        ({"state": "dead_lettered"}, "dead_lettered.*DLQService"),
        ({"run_id": 7}, "run_id"),
        ({"since": now.replace(tzinfo=None)}, "since"),
        ({"since": now, "until": now}, "since is before until"),
        ({"msg_ids": 1, "delay_seconds": -1}, "-1"),
        ({"msg_ids": 1, "again": 1}, "again"),
        ({"msg_ids": 1, "search_seconds": 0}, "search_seconds"),
    ):
        with pytest.raises(InvalidSettingError, match=text):
            await service.replay_jobs(**arguments)
    with pytest.raises(QueueNotFoundError):
        await QueueService[Any](pool, "missing").replay_jobs(1)


async def test_replay_in_sql(service: QueueService[Any], connection: Connection) -> None:
    """The function takes ids, and refuses a queue that is not there and a wrong delay."""
    await finish(service, {}, {})
    sql = "select r.msg_id, r.result, r.replayed_as from meshhook.replay_jobs({}) r"
    rows = await connection.fetch(sql.format("'jobs', array[2, 1, 1], delay => '1 minute'"))
    assert [tuple(row) for row in rows] == [(1, "replayed", 3), (2, "replayed", 4)]
    for arguments, code in (
        ("'missing', array[1]", "MHQ05"),
        ("'jobs', array[1], delay => '-1 s'", "MHQ08"),
    ):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.fetch(sql.format(arguments))
        assert caught.value.sqlstate == code


def test_replay_without_an_event_loop(database_url: str) -> None:
    """`SyncQueueService` replays as the other does."""
    with SyncQueueService[Any](database_url, "jobs") as queue:
        queue.enqueue({})
        done = queue.replay_jobs(1)
    assert [(job.result.value, job.was) for job in done.jobs] == [("unchanged", "ready")]


async def test_an_error_replays_nothing(service: QueueService[Any], connection: Connection) -> None:
    """If the queue's table refuses a message, no job counts as replayed."""
    await finish(service, {}, {"bad": 1})
    await connection.execute(
        "alter table pgmq.q_jobs add constraint no_bad check (not message ? 'bad')"
    )
    with pytest.raises(DatabaseError):
        await service.replay_jobs([1, 2])
    await connection.execute("alter table pgmq.q_jobs drop constraint no_bad")
    assert (await service.replay_jobs([1, 2])).changed == 2


async def test_a_replay_is_in_the_audit_log(
    service: QueueService[Any], connection: Connection
) -> None:
    """With what was asked for and how many jobs; neither a dry run nor a repeated call is."""
    await finish(service, {"run_id": "r"}, {"run_id": "r"})
    for is_dry_run in (True, False, False):
        await service.replay_jobs(run_id="r", dry_run=is_dry_run)
    rows = await connection.fetch(
        "select count, filter ->> 'run_id' as run from meshhook.audit_log "
        "where action = 'jobs.replayed'"
    )
    assert [tuple(row) for row in rows] == [(2, "r")]


async def test_an_encrypted_job_stays_encrypted(
    service: QueueService[Any], pool: Pool, connection: Connection
) -> None:
    """Its kept body and its replay are as it was sent; whoever has the key reads the replay."""
    queue = QueueService[Any](pool, "jobs", encryption=KeyRing({"k1": bytes(32)}))
    await finish(queue, {"run_id": "r", "payload": {"card": "4711"}})
    assert (await queue.replay_jobs(run_id="r")).changed == 1
    stored = await connection.fetch(
        "select message::text from meshhook.finished_jobs union all "
        "select message::text from pgmq.q_jobs"
    )
    assert len(stored) == 2
    assert not any("4711" in row[0] for row in stored)
    job = await queue.dequeue()
    assert job is not None
    assert job.payload == {"card": "4711"}
