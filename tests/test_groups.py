"""Groups of jobs: what is counted, when the callback is enqueued, and what heals."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from meshhook import (
    DLQService,
    FollowUp,
    GroupExistsError,
    GroupNotFoundError,
    InvalidJobError,
    InvalidSettingError,
    Job,
    QueueNotFoundError,
    QueueService,
    SyncQueueService,
    create_queue,
    get_group,
    list_groups,
    repair_group,
    set_queue_config,
)
from meshhook.jobs import GROUP_HEADER, FinishedGroup
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.store.settlements import Settlement, settle
from support.callers import CALLERS

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")
ENDS = FollowUp("done", {"report": "import-7"})

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture(autouse=True)
async def done_queue(database_url: str) -> None:
    """The queue that callbacks go to."""
    await create_queue(database_url, "done")


async def claimed(queue: QueueService[Any], count: int = 1) -> list[Job[Any]]:
    """Claim jobs."""
    jobs = [await queue.dequeue() for _ in range(count)]
    assert None not in jobs
    return [job for job in jobs if job is not None]


def ended(job: Job[Any], outcome: AttemptOutcome, *, as_old: bool = False) -> Settlement:
    """Return an outcome of a job as a worker settles it, or one that knows of no groups."""
    return Settlement(
        job.msg_id,
        job.read_ct,
        job.enqueued_timestamp,
        job.attempt,
        outcome,
        job.started_timestamp,
        job.started_timestamp + 1,
        delay_seconds=0,
        error_type="Error" if outcome is AttemptOutcome.ARCHIVED else None,
        has_links=not as_old and GROUP_HEADER in job.headers,
    )


async def callbacks(connection: Any) -> list[dict[str, Any]]:
    """Return the counts that callbacks have, in order."""
    rows = await connection.fetch("select headers from pgmq.q_done order by msg_id")
    return [json.loads(row["headers"])["meshhook-finished-group"] for row in rows]


async def test_the_last_job_of_a_group_enqueues_its_callback(connection: Connection) -> None:
    """Not before; with the counts of how each ended; and once."""
    queue = QueueService[Any](connection, "jobs")
    ids = await queue.enqueue_many([{"n": n} for n in range(5)], group="import", on_complete=ENDS)
    assert len(ids) == 5
    jobs = await claimed(queue, 5)
    outcomes = [
        AttemptOutcome.DEAD_LETTERED,
        AttemptOutcome.CANCELLED,
        AttemptOutcome.SUCCEEDED,
        AttemptOutcome.ARCHIVED,
    ]
    first = [ended(job, outcome) for job, outcome in zip(jobs, outcomes, strict=False)]
    assert await settle(connection, TABLES, "w", first) == {0, 1, 2, 3}
    group = await get_group(connection, "jobs", "import")
    assert (group.pending, group.is_finished, group.callback_id) == (1, False, None)
    assert await callbacks(connection) == []
    last = [ended(jobs[-1], AttemptOutcome.SUCCEEDED)]
    assert await settle(connection, TABLES, "w", last) == {0}
    assert await settle(connection, TABLES, "w", last) == set()
    [counts] = await callbacks(connection)
    assert counts == {
        "queue": "jobs",
        "name": "import",
        "total": 5,
        "succeeded": 2,
        "failed": 2,
        "cancelled": 1,
    }
    [job] = await claimed(QueueService[Any](connection, "done"))
    assert job.payload == {"report": "import-7"}
    assert job.finished_group == FinishedGroup(**counts)
    group = await get_group(connection, "jobs", "import")
    assert (group.pending, group.is_finished, group.lost) == (0, True, 0)
    assert (group.callback_queue, group.callback_id) == ("done", job.msg_id)


async def test_a_retry_ends_nothing(connection: Connection) -> None:
    """Nor does a snooze, nor an outcome whose lease was lost."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}] * 3, group="g", on_complete=ENDS)
    retried, snoozed, lost = await claimed(queue, 3)
    await settle(
        connection,
        TABLES,
        "w",
        [
            ended(retried, AttemptOutcome.RETRIED),
            ended(snoozed, AttemptOutcome.SNOOZED),
            ended(lost, AttemptOutcome.SUCCEEDED)._replace(read_ct=9),
        ],
    )
    assert (await get_group(connection, "jobs", "g")).pending == 3


@pytest.mark.parametrize("way", ["acknowledge", "archive_job", "unreadable"])
async def test_every_way_to_settle_counts(connection: Connection, way: str) -> None:
    """By hand, and of a message that cannot be read."""
    queue = QueueService[Any](connection, "jobs")
    [msg_id] = await queue.enqueue_many([{}], on_complete=ENDS)
    if way == "unreadable":
        await set_queue_config(connection, "jobs", max_retry_attempts=1)
        await connection.execute("update pgmq.q_jobs set read_ct = 1 where msg_id = $1", msg_id)
        assert await QueueService[Any](connection, "jobs").dequeue() is None
    else:
        [job] = await claimed(queue)
        assert await getattr(queue, way)(job)
    [counts] = await callbacks(connection)
    assert (counts["succeeded"], counts["failed"]) == (0, 1) if way == "unreadable" else (1, 0)


async def test_a_group_without_jobs_has_ended(connection: Connection) -> None:
    """Its callback is enqueued at once, with a delay and a key of its own."""
    queue = QueueService[Any](connection, "jobs")
    callback = FollowUp("done", {}, delay=60, key="acme", run_id=uuid4(), headers={"a": 1})
    assert await queue.enqueue_many([], group="none", on_complete=callback) == []
    [row] = await connection.fetch(
        "select vt - now() > interval '50 seconds' as is_late, message, headers from pgmq.q_done"
    )
    headers = json.loads(row["headers"])
    assert headers.pop("meshhook-finished-group")["total"] == 0
    assert (row["is_late"], headers) == (True, {"a": 1, "x-pgmq-group": "acme"})
    assert json.loads(row["message"]) == {"run_id": str(callback.run_id), "payload": {}}
    assert (await get_group(connection, "jobs", "none")).is_finished


async def test_a_name_is_used_once_in_a_queue(connection: Connection) -> None:
    """A second group of the same name is refused whole; in another queue it is welcome."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}], group="a")
    with pytest.raises(GroupExistsError, match="meshhook groups show jobs a"):
        await queue.enqueue_many([{}], group="a")
    await QueueService[Any](connection, "done").enqueue_many([{}], group="a")
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 1
    found = await list_groups(connection)
    assert sorted((group.queue, group.name) for group in found) == [("done", "a"), ("jobs", "a")]


@pytest.mark.parametrize(
    ("group", "on_complete", "error", "says"),
    [
        ("", None, InvalidJobError, "1 to 200 characters"),
        ("x" * 201, None, InvalidJobError, "1 to 200 characters"),
        (7, None, InvalidJobError, "got 7"),
        ("g", {"queue": "done"}, InvalidJobError, "FollowUp"),
        ("g", FollowUp("nowhere"), QueueNotFoundError, "nowhere"),
        ("g", FollowUp("done", {"a": float("nan")}), InvalidJobError, "on_complete: job.a is nan"),
        ("g", FollowUp("done", "x" * 2_000_000), InvalidJobError, "2000002 bytes"),
        ("g", FollowUp("done", headers={"meshhook-x": 1}), InvalidJobError, "meshhook-x"),
    ],
)
async def test_a_wrong_group_stores_nothing(
    connection: Connection, group: Any, on_complete: Any, error: type[Exception], says: str
) -> None:
    """The error names what is wrong with it."""
    queue = QueueService[Any](connection, "jobs")
    with pytest.raises(error, match=says):
        await queue.enqueue_many([{}], group=group, on_complete=on_complete)
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 0
    assert await list_groups(connection) == []


async def test_a_rollback_leaves_no_group(connection: Connection) -> None:
    """A group that was made in the caller's transaction is part of it."""
    queue = QueueService[Any](connection, "jobs")
    transaction = connection.transaction()
    await transaction.start()
    await queue.enqueue_many([{}], group="g", on_complete=ENDS, connection=connection)
    await transaction.rollback()
    with pytest.raises(GroupNotFoundError, match="meshhook groups list --queue jobs"):
        await get_group(connection, "jobs", "g")
    with pytest.raises(QueueNotFoundError):
        await get_group(connection, "nowhere", "g")


@pytest.mark.parametrize("driver", CALLERS)
async def test_groups_over_the_connections_of_other_drivers(
    connection: Connection, database_url: str, driver: str
) -> None:
    """In their transaction, with 1,500 jobs in two statements."""
    async with CALLERS[driver](database_url) as caller:
        if caller.is_sync:
            service = SyncQueueService[Any](caller.connection, "jobs")
            ids = service.enqueue_many([{}] * 1500, group="g", on_complete=ENDS)
            assert service.enqueue_many([], group="none", on_complete=ENDS) == []
        else:
            queue = QueueService[Any](connection, "jobs")
            ids = await queue.enqueue_many(
                [{}] * 1500, group="g", on_complete=ENDS, connection=caller.connection
            )
        assert await list_groups(connection) == []
        await caller.commit()
    assert (await get_group(connection, "jobs", "g")).total == len(ids) == 1500


async def test_a_group_from_sql(connection: Connection) -> None:
    """meshhook.enqueue_group stores what the library does."""
    rows = await connection.fetch(
        "select * from meshhook.enqueue_group('jobs', array['{}', '{}']::jsonb[], name => 'g', "
        "callback_queue => 'done', callback_message => '{}', callback_delay => '1 minute', "
        "headers => '{\"a\": 1}', key => 'acme')"
    )
    queue = QueueService[Any](connection, "jobs")
    jobs = await claimed(queue, 2)
    assert [row[0] for row in rows] == [job.msg_id for job in jobs]
    assert jobs[0].headers["x-pgmq-group"] == "acme"
    assert await queue.acknowledge_many(jobs) == [True, True]
    assert (await callbacks(connection))[0]["succeeded"] == 2
    await connection.execute("select meshhook.enqueue_group('jobs', '{}')")
    for arguments, sqlstate in (
        ("'jobs', '{}', name => ''", "MHQ07"),
        ("'jobs', '{}', callback_queue => 'done'", "MHQ07"),
        ("'jobs', '{}', callback_queue => 'no', callback_message => '{}'", "MHQ05"),
        ("'jobs', '{}', name => 'g'", "MHQ10"),
    ):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await connection.execute(f"select meshhook.enqueue_group({arguments})")
        assert caught.value.sqlstate == sqlstate


async def test_settlements_at_the_same_time_count_each_job(pool: Pool) -> None:
    """Batches that touch the same groups in different orders neither deadlock nor lose a count."""
    queue = QueueService[Any](pool, "jobs")
    for name in range(4):
        await queue.enqueue_many([{}] * 50, group=str(name), on_complete=ENDS)
    jobs = await claimed(queue, 200)
    batches = [jobs[start::10] for start in range(10)]
    await asyncio.gather(
        *(
            settle(
                pool, TABLES, "w", [ended(job, AttemptOutcome.SUCCEEDED) for job in batch[::way]]
            )
            for batch, way in zip(batches, [1, -1] * 5, strict=True)
        )
    )
    async with pool.acquire() as connection:
        found = await callbacks(connection)
    assert sorted(each["name"] for each in found) == ["0", "1", "2", "3"]
    assert {each["succeeded"] for each in found} == {50}


async def test_jobs_that_older_workers_settle_are_counted_later(connection: Connection) -> None:
    """The repair takes what they were from the history, once no message is left."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}] * 4, group="g", on_complete=ENDS)
    jobs = await claimed(queue, 4)
    ends = [AttemptOutcome.SUCCEEDED, AttemptOutcome.DEAD_LETTERED, AttemptOutcome.CANCELLED]
    for job, outcome in zip(jobs, ends, strict=False):
        await settle(connection, TABLES, "old", [ended(job, outcome, as_old=True)])
    group = await repair_group(connection, "jobs", "g")
    assert (group.pending, group.is_finished) == (4, False)
    await settle(connection, TABLES, "w", [ended(jobs[3], AttemptOutcome.SUCCEEDED)])
    group = await repair_group(connection, "jobs", "g")
    assert (group.succeeded, group.failed, group.cancelled, group.lost) == (2, 1, 1, 0)
    assert (await repair_group(connection, "jobs", "g")).callback_id == group.callback_id
    assert [counts["succeeded"] for counts in await callbacks(connection)] == [2]


async def test_deleted_messages_are_lost(connection: Connection) -> None:
    """They count as failed; those that were counted before stay counted without a history."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}] * 3, group="g", on_complete=ENDS)
    [job] = await claimed(queue)
    await queue.acknowledge(job)
    await connection.execute("truncate meshhook.job_attempts")
    await queue.purge_queue()
    group = await repair_group(connection, "jobs", "g")
    assert (group.succeeded, group.failed, group.lost) == (1, 2, 2)
    [counts] = await callbacks(connection)
    assert (counts["succeeded"], counts["failed"]) == (1, 2)


async def test_jobs_of_a_queue_that_was_made_again_are_no_jobs_of_the_group(
    connection: Connection,
) -> None:
    """Another client drops the queue, so ids start again: the group's own jobs are lost."""
    await QueueService[Any](connection, "jobs").enqueue_many([{}] * 2, group="g", on_complete=ENDS)
    await connection.execute("select pgmq.drop_queue('jobs')")
    await create_queue(connection, "jobs")
    queue = QueueService[Any](connection, "jobs")
    assert await queue.enqueue_many([{}] * 2) == [1, 2]
    [job] = await claimed(queue)
    await queue.acknowledge(job)
    group = await repair_group(connection, "jobs", "g")
    assert (group.succeeded, group.failed, group.lost) == (0, 2, 2)
    assert [counts["failed"] for counts in await callbacks(connection)] == [2]


async def test_a_job_that_is_being_settled_is_not_lost(pool: Pool) -> None:
    """A repair beside a settlement that has not committed leaves the count to it."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue_many([{}], group="g", on_complete=ENDS)
    [job] = await claimed(queue)
    async with pool.acquire() as settling, pool.acquire() as connection:
        transaction = settling.transaction()
        await transaction.start()
        await settling.execute("delete from pgmq.q_jobs")
        group = await repair_group(connection, "jobs", "g")
        assert not group.is_finished
        await transaction.rollback()
        await settle(settling, TABLES, "w", [ended(job, AttemptOutcome.SUCCEEDED)])
        assert [counts["succeeded"] for counts in await callbacks(connection)] == [1]


async def test_a_replay_is_no_job_of_the_group(connection: Connection) -> None:
    """It counts for nothing: neither while the group goes on nor after its callback."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}] * 2, group="g", on_complete=ENDS)
    dead, other = await claimed(queue, 2)
    await settle(connection, TABLES, "w", [ended(dead, AttemptOutcome.DEAD_LETTERED)])
    dlq = DLQService(connection, "jobs")
    [letter] = await dlq.list_dead_letter_jobs()
    await dlq.replay_dead_letter_job(letter.id)
    [again] = await claimed(queue)
    assert await queue.acknowledge(again)
    assert (await get_group(connection, "jobs", "g")).pending == 1
    await queue.acknowledge(other)
    [counts] = await callbacks(connection)
    assert (counts["succeeded"], counts["failed"]) == (1, 1)


async def test_a_header_alone_makes_no_member(connection: Connection) -> None:
    """Whatever other clients put under our header's name is not counted, and refuses nothing."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}], group="g")
    group_id = await connection.fetchval("select id from meshhook.job_groups")
    for value in (str(group_id), str(uuid4()), "x", 7, {"a": 1}, None, [str(group_id)]):
        await connection.execute(
            "select pgmq.send('jobs', '{}', $1::jsonb)", json.dumps({GROUP_HEADER: value})
        )
    [member, *others] = await claimed(queue, 8)
    assert await queue.acknowledge_many(others) == [True] * 7
    assert (await get_group(connection, "jobs", "g")).pending == 1
    await queue.acknowledge(member)
    assert (await get_group(connection, "jobs", "g")).is_finished


async def test_a_callback_that_is_refused_is_tried_again(connection: Connection) -> None:
    """The jobs are settled all the same, and the group says what is wrong."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}], group="g", on_complete=ENDS)
    await connection.execute("select meshhook.drop_queue('done')")
    [job] = await claimed(queue)
    assert await queue.acknowledge(job)
    group = await get_group(connection, "jobs", "g")
    assert group.is_finished
    assert group.callback_error == 'queue "done" does not exist in this database'
    await create_queue(connection, "done")
    group = await repair_group(connection, "jobs", "g")
    assert group.callback_error is None
    [counts] = await callbacks(connection)
    assert counts["succeeded"] == 1


async def test_a_dropped_queue_takes_its_groups_along(connection: Connection) -> None:
    """There is nothing left that could end."""
    await QueueService[Any](connection, "jobs").enqueue_many([{}], group="g", on_complete=ENDS)
    await connection.execute("select meshhook.drop_queue('jobs')")
    assert await list_groups(connection) == []
    assert await callbacks(connection) == []


async def test_a_queue_that_owes_a_callback_is_not_empty(connection: Connection) -> None:
    """The operator keeps it until the callback is enqueued, as it does for a message."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}], group="g", on_complete=ENDS)
    await queue.enqueue_many([{}], group="without a callback")
    await connection.execute("select meshhook.drop_queue('done')")
    for job in await claimed(queue, 2):
        assert await queue.acknowledge(job)
    drop = "select meshhook.drop_queue_if_empty('jobs')"
    assert not await connection.fetchval(drop)
    await create_queue(connection, "done")
    assert (await repair_group(connection, "jobs", "g")).callback_id is not None
    assert await connection.fetchval(drop)
    assert len(await callbacks(connection)) == 1


async def test_finished_groups_are_kept_as_long_as_the_history(connection: Connection) -> None:
    """Those that go on stay, and so do those whose callback is still to be enqueued."""
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue_many([{}], group="going on")
    for name in ("old", "new", "owed"):
        await queue.enqueue_many([], group=name, on_complete=ENDS)
    await connection.execute(
        "update meshhook.job_groups set finished_at = finished_at - interval '8 days' "
        "where name in ('old', 'owed')"
    )
    await connection.execute(
        "update meshhook.job_groups set callback_id = null where name = 'owed'"
    )
    assert await connection.fetchval(queries.load("delete_expired_groups")) == 1
    found = await list_groups(connection, "jobs")
    assert sorted(group.name for group in found) == ["going on", "new", "owed"]
    [unfinished] = await list_groups(connection, unfinished=True)
    assert unfinished.name == "going on"
    with pytest.raises(InvalidSettingError, match="limit"):
        await list_groups(connection, limit=0)


def test_what_a_foreign_header_says_is_no_group() -> None:
    """A value under our header's name that has another form is left alone."""
    from meshhook.testing import make_job  # noqa: PLC0415 - a plugin of pytest has imported it

    job = make_job({})
    assert job.finished_group is None
    for value in (7, {}, {"queue": 1, "name": "n"}, {"queue": "q", "name": "n", "total": "1"}):
        job.headers["meshhook-finished-group"] = value
        assert job.finished_group is None
