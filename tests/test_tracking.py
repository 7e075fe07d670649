"""Where jobs are and what became of them: `get_job` and `find_jobs`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.administration import create_queue, describe_tables, drop_queue
from meshhook.dead_letters import DLQService
from meshhook.errors import (
    InvalidQueueNameError,
    InvalidSettingError,
    JobNotFoundError,
    QueueNotFoundError,
)
from meshhook.jobs import Job, WorkflowJob
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.database import Database
from meshhook.queues import QueueService
from meshhook.store import job_search
from meshhook.store.job_rows import JobLife, JobSummary
from meshhook.store.settlements import Settlement, settle
from meshhook.tracking import find_jobs, get_job

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
def database(pool: Pool, queue_name: str) -> Database:
    """A database with the queue `jobs`."""
    return Database(pool)


async def enqueue(
    database: Database,
    run_id: str = "r",
    *,
    workflow_id: str = "w",
    delay_seconds: float = 0,
    queue_name: str = "jobs",
) -> int:
    """Enqueue a job, and return its msg_id."""
    job = WorkflowJob(run_id=run_id, workflow_id=workflow_id, project_id="p", payload={"n": 1})
    return await QueueService[Any](database, queue_name).enqueue(job, delay_seconds)


async def claim(database: Database, queue_name: str = "jobs") -> Job[Any]:
    """Claim the oldest ready job."""
    job = await QueueService[Any](database, queue_name).dequeue()
    assert job is not None
    return job


async def end(
    database: Database, job: Job[Any], outcome: AttemptOutcome, delay_seconds: float = 0
) -> None:
    """Settle a job as a worker does."""
    failed = outcome in (AttemptOutcome.RETRIED, AttemptOutcome.DEAD_LETTERED)
    settlement = Settlement(
        msg_id=job.msg_id,
        read_ct=job.read_ct,
        enqueued=job.enqueued_timestamp,
        attempt=job.attempt,
        outcome=outcome,
        started_at=job.started_at.timestamp(),
        finished_at=time.time(),
        delay_seconds=delay_seconds,
        run_id=job.run_id,
        workflow_id=job.workflow_id,
        project_id=job.project_id,
        error_type="Broken" if failed else None,
        error_message="it broke" if failed else None,
        error_stack="Traceback" if failed else None,
        trace_id="trace",
    )
    tables = await describe_tables(database, job.queue)
    assert await settle(database, tables, "host-1", [settlement])


async def run(database: Database, *outcomes: AttemptOutcome, run_id: str = "r") -> int:
    """Enqueue a job, and let its attempts end in turn as given."""
    msg_id = await enqueue(database, run_id)
    for outcome in outcomes:
        await end(database, await claim(database), outcome)
    return msg_id


def ids(jobs: list[JobSummary]) -> list[tuple[int, str]]:
    """Return what tells the jobs of one queue apart, and their states."""
    return [(job.msg_id, job.state) for job in jobs]


async def test_a_job_that_was_never_tried(database: Database):
    """It is ready, with what its message says, and has no attempts."""
    msg_id = await enqueue(database)
    life = await get_job(database, "jobs", msg_id)
    assert (life.queue, life.msg_id, life.state, life.attempts_made) == ("jobs", msg_id, "ready", 0)
    assert (life.run_id, life.workflow_id, life.project_id) == ("r", "w", "p")
    assert (life.attempts, life.dead_letter_id, life.replayed_as) == ((), None, None)
    assert life.body is not None
    assert isinstance(life.enqueued_at, datetime)
    assert isinstance(life.ready_at, datetime)


async def test_the_states_of_a_live_job(database: Database, connection: Connection):
    """Scheduled, running, retrying and lost are told apart."""
    scheduled = await enqueue(database, delay_seconds=60)
    assert (await get_job(database, "jobs", scheduled)).state == "scheduled"
    msg_id = await enqueue(database)
    job = await claim(database)
    assert (await get_job(database, "jobs", msg_id)).state == "running"
    await end(database, job, AttemptOutcome.RETRIED, delay_seconds=60)
    assert (await get_job(database, "jobs", msg_id)).state == "retrying"
    await connection.execute(
        "update pgmq.q_jobs set vt = now(), read_ct = 2 where msg_id = $1", msg_id
    )
    assert (await get_job(database, "jobs", msg_id)).state == "lost"


async def test_the_unique_key_and_the_group_of_a_job(database: Database, connection: Connection):
    """While it is in its queue or a dead letter; a group only if the job is really one of it."""
    queue = QueueService[Any](database, "jobs")
    await queue.enqueue({}, unique_key="invoice-7", unique="until_started")
    await queue.enqueue_many([{}], group="import-7")

    async def seen(msg_id: int) -> tuple[str | None, str | None]:
        life = await get_job(database, "jobs", msg_id)
        return life.unique_key, life.group

    assert [await seen(1), await seen(2)] == [("invoice-7", None), (None, "import-7")]
    await connection.execute(
        """
        select pgmq.send('jobs', '{}', (select headers from pgmq.q_jobs where msg_id = 2));
        select pgmq.send('jobs', '{}', '{"meshhook-unique": 1, "meshhook-group": "mine"}'::jsonb);
        """
    )
    assert [await seen(3), await seen(4)] == [(None, None), (None, None)]
    unique, grouped = await claim(database), await claim(database)
    assert [await seen(1), await seen(2)] == [("invoice-7", None), (None, "import-7")]
    await end(database, unique, AttemptOutcome.DEAD_LETTERED)
    await end(database, grouped, AttemptOutcome.DEAD_LETTERED)
    assert [await seen(1), await seen(2)] == [("invoice-7", None), (None, "import-7")]
    (first, second) = await DLQService(database, "jobs").list_dead_letter_jobs()
    for letter in (first, second):
        await DLQService(database, "jobs").delete_dead_letter_job(letter.id)
    assert [await seen(1), await seen(2)] == [(None, None), (None, None)]


@pytest.mark.parametrize(
    "outcome", [AttemptOutcome.SUCCEEDED, AttemptOutcome.CANCELLED, AttemptOutcome.ARCHIVED]
)
async def test_a_job_that_has_ended(database: Database, outcome: AttemptOutcome):
    """Its state is its last outcome, and its attempts stand in order with all that is known."""
    msg_id = await run(database, AttemptOutcome.RETRIED, AttemptOutcome.SNOOZED, outcome)
    life = await get_job(database, "jobs", msg_id)
    assert (life.state, life.attempts_made, life.run_id) == (outcome, 2, "r")
    assert (life.body, life.ready_at) == (None, None)
    assert [(a.attempt, a.outcome) for a in life.attempts] == [
        (1, "retried"),
        (2, "snoozed"),
        (2, outcome),
    ]
    first, _, last = life.attempts
    assert (first.error_type, first.error_message, first.error_stack) == (
        "Broken",
        "it broke",
        "Traceback",
    )
    assert (first.worker, first.trace_id, last.error_type) == ("host-1", "trace", None)
    assert first.started_at is not None
    assert first.retry_at is not None
    assert first.started_at <= first.finished_at <= last.finished_at
    assert last.retry_at is None


async def test_a_job_that_died(database: Database):
    """It names the dead letter, whose body it shows; a deleted one leaves the outcome."""
    msg_id = await run(database, AttemptOutcome.RETRIED, AttemptOutcome.DEAD_LETTERED)
    service = DLQService(database, "jobs")
    (letter,) = await service.list_dead_letter_jobs()
    life = await get_job(database, "jobs", msg_id)
    assert (life.state, life.dead_letter_id, life.body) == ("dead_lettered", letter.id, letter.body)
    assert life.attempts_made == 2
    await service.delete_dead_letter_job(letter.id)
    life = await get_job(database, "jobs", msg_id)
    assert (life.state, life.dead_letter_id, life.body) == ("dead_lettered", None, None)


async def test_a_dead_letter_outlives_its_history(database: Database, connection: Connection):
    """Weeks later, when the attempts are gone, the dead letter still tells of the job."""
    msg_id = await run(database, AttemptOutcome.DEAD_LETTERED)
    before = await get_job(database, "jobs", msg_id)
    await connection.execute("delete from meshhook.job_attempts")
    life = await get_job(database, "jobs", msg_id)
    assert (life.state, life.dead_letter_id) == ("dead_lettered", before.dead_letter_id)
    assert (life.run_id, life.attempts_made, life.attempts) == ("r", 1, ())
    assert life.enqueued_at == before.enqueued_at


async def test_a_life_goes_on_with_the_job_it_was_replayed_as(database: Database):
    """Two replays later all three lives are there, each with its own attempts."""
    first = await run(database, AttemptOutcome.RETRIED, AttemptOutcome.DEAD_LETTERED)
    service = DLQService(database, "jobs")
    (second,) = await service.replay_multiple_jobs()
    await end(database, await claim(database), AttemptOutcome.DEAD_LETTERED)
    (third,) = await service.replay_multiple_jobs()
    await end(database, await claim(database), AttemptOutcome.SUCCEEDED)
    life: JobLife | None = await get_job(database, "jobs", first)
    assert life is not None
    assert life.last.state == "succeeded"
    seen = []
    while life is not None:
        seen.append((life.msg_id, life.state, len(life.attempts), life.replayed_as_id))
        assert (life.replayed_at is None) == (life.replayed_as_id is None)
        assert life.dead_letter_id is None
        life = life.replayed_as
    assert seen == [
        (first, "replayed", 2, second[1]),
        (second[1], "replayed", 1, third[1]),
        (third[1], "succeeded", 1, None),
    ]


async def test_a_replay_is_followed_to_another_queue(database: Database):
    """Also where the first queue has a job of the same id, which is somebody else's."""
    await create_queue(database, "other")
    first = await run(database, AttemptOutcome.DEAD_LETTERED)
    ((_, new_id),) = await DLQService(database, "jobs").replay_multiple_jobs(target_queue="other")
    assert new_id == first
    life = await get_job(database, "jobs", first)
    assert life.replayed_as is not None
    assert (life.replayed_as.queue, life.replayed_as.state) == ("other", "ready")
    await end(database, await claim(database, "other"), AttemptOutcome.SUCCEEDED)
    assert (await get_job(database, "jobs", first)).last.state == "succeeded"
    assert (await get_job(database, "other", new_id)).replayed_as is None


async def test_a_replay_of_which_nothing_is_left(database: Database):
    """A replayed job that was purged before its first attempt leaves its id."""
    first = await run(database, AttemptOutcome.DEAD_LETTERED)
    ((_, new_id),) = await DLQService(database, "jobs").replay_multiple_jobs()
    await QueueService[Any](database, "jobs").purge_queue()
    life = await get_job(database, "jobs", first)
    assert (life.state, life.replayed_as_id, life.replayed_as) == ("replayed", new_id, None)
    assert life.last is life


async def test_of_two_jobs_with_one_id_it_is_the_newer(database: Database):
    """A queue that was dropped and made again counts from 1 again."""
    assert await run(database, AttemptOutcome.RETRIED, AttemptOutcome.DEAD_LETTERED) == 1
    await drop_queue(database, "jobs")
    assert (await get_job(database, "jobs", 1)).state == "dead_lettered"
    await create_queue(database, "jobs")
    assert await enqueue(database, "new") == 1
    life = await get_job(database, "jobs", 1)
    assert (life.state, life.run_id, life.attempts) == ("ready", "new", ())
    assert ids(await find_jobs(database)) == [(1, "ready"), (1, "dead_lettered")]


async def test_a_job_of_which_nothing_is_known(database: Database):
    """The error names the job; a queue that does not exist is another error."""
    with pytest.raises(JobNotFoundError, match="queue 'jobs': nothing is left of job 77"):
        await get_job(database, "jobs", 77)
    with pytest.raises(JobNotFoundError):
        await get_job(database, "jobs", 2**70)
    with pytest.raises(QueueNotFoundError):
        await get_job(database, "nowhere", 1)
    with pytest.raises(QueueNotFoundError):
        await find_jobs(database, queue="nowhere")
    with pytest.raises(InvalidQueueNameError):
        await get_job(database, "jobs_dlq", 1)


async def test_the_list_has_live_and_ended_jobs(database: Database):
    """Newest first, each job once, whatever it has been through."""
    done = await run(database, AttemptOutcome.RETRIED, AttemptOutcome.SUCCEEDED)
    dead = await run(database, AttemptOutcome.DEAD_LETTERED)
    retrying = await enqueue(database)
    await end(database, await claim(database), AttemptOutcome.RETRIED, delay_seconds=60)
    ready = await enqueue(database)
    jobs = await find_jobs(database)
    assert ids(jobs) == [
        (ready, "ready"),
        (retrying, "retrying"),
        (dead, "dead_lettered"),
        (done, "succeeded"),
    ]
    assert (jobs[0].last_outcome, jobs[0].ready_at is None) == (None, False)
    assert (jobs[1].last_outcome, jobs[1].error_type, jobs[1].attempts) == ("retried", "Broken", 1)
    assert (jobs[2].error_type, jobs[2].error_message) == ("Broken", "it broke")
    assert (jobs[3].last_outcome, jobs[3].attempts, jobs[3].ready_at) == ("succeeded", 2, None)
    assert jobs[1].last_finished_at is not None
    assert await find_jobs(database, limit=2) == jobs[:2]


async def test_a_list_by_state(database: Database):
    """Every state finds the jobs that are in it, and only those."""
    succeeded = await run(database, AttemptOutcome.SUCCEEDED)
    replayed = await run(database, AttemptOutcome.DEAD_LETTERED)
    ((_, running),) = await DLQService(database, "jobs").replay_multiple_jobs()
    await claim(database)
    dead = await run(database, AttemptOutcome.DEAD_LETTERED)
    cancelled = await run(database, AttemptOutcome.CANCELLED)
    archived = await run(database, AttemptOutcome.ARCHIVED)
    retrying = await enqueue(database)
    await end(database, await claim(database), AttemptOutcome.RETRIED, delay_seconds=60)
    scheduled = await enqueue(database, delay_seconds=60)
    lost = await enqueue(database)
    await QueueService[Any](database, "jobs").dequeue(0.001)
    ready = await enqueue(database)
    expected = {
        "succeeded": succeeded,
        "replayed": replayed,
        "running": running,
        "dead_lettered": dead,
        "cancelled": cancelled,
        "archived": archived,
        "retrying": retrying,
        "scheduled": scheduled,
        "lost": lost,
        "ready": ready,
    }
    for state, msg_id in expected.items():
        assert ids(await find_jobs(database, state=state)) == [(msg_id, state)]
        by_run = await find_jobs(database, state=state, run_id="r")
        assert ids(by_run) == [(msg_id, state)]
        assert await find_jobs(database, state=state, run_id="another") == []


async def test_a_list_by_run_and_workflow(database: Database):
    """Both filters take live and ended jobs alike, in one queue or in all."""
    await create_queue(database, "other")
    await enqueue(database, "x", workflow_id="w2", queue_name="other")
    done = await run(database, AttemptOutcome.SUCCEEDED, run_id="x")
    await run(database, AttemptOutcome.SUCCEEDED, run_id="y")
    ready = await enqueue(database, "x")
    await enqueue(database, "y")
    jobs = await find_jobs(database, run_id="x")
    assert [(job.queue, job.state) for job in jobs] == [
        ("jobs", "ready"),
        ("jobs", "succeeded"),
        ("other", "ready"),
    ]
    jobs = await find_jobs(database, run_id="x", queue="jobs")
    assert ids(jobs) == [(ready, "ready"), (done, "succeeded")]
    jobs = await find_jobs(database, run_id="x", workflow_id="w2")
    assert [job.queue for job in jobs] == ["other"]
    assert [job.workflow_id for job in await find_jobs(database, workflow_id="w2")] == ["w2"]


async def test_a_tried_job_of_a_run_is_found_in_a_deep_queue(
    database: Database, connection: Connection
):
    """What the history knows of a run is looked up, however many newer messages there are."""
    msg_id = await enqueue(database, "old")
    await end(database, await claim(database), AttemptOutcome.RETRIED, delay_seconds=60)
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 10001)"
    )
    assert ids(await find_jobs(database, run_id="old")) == [(msg_id, "retrying")]
    assert ids(await find_jobs(database, state="retrying")) == [(msg_id, "retrying")]


async def test_a_purged_job_is_listed_with_its_last_outcome(database: Database):
    """It is in no queue any more, and no attempt was its end."""
    msg_id = await run(database, AttemptOutcome.RETRIED)
    await QueueService[Any](database, "jobs").purge_queue()
    assert ids(await find_jobs(database)) == [(msg_id, "retried")]
    assert (await get_job(database, "jobs", msg_id)).state == "retried"


async def test_a_half_dropped_queue_does_not_spoil_the_list(
    database: Database, connection: Connection
):
    """A queue that somebody dropped through PGMQ alone is listed by its history."""
    await run(database, AttemptOutcome.SUCCEEDED)
    await connection.execute("select pgmq.drop_queue('jobs')")
    assert ids(await find_jobs(database)) == [(1, "succeeded")]
    assert (await get_job(database, "jobs", 1)).state == "succeeded"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"limit": 0}, "limit is a whole number from 1 to 1000, got 0"),
        ({"limit": 1_001}, "limit"),
        ({"state": "dead"}, "state is one of ready, .*, got 'dead'"),
    ],
)
async def test_a_wrong_argument_is_named(
    database: Database, arguments: dict[str, Any], reason: str
):
    """The error says what would be right, and what came."""
    with pytest.raises(InvalidSettingError, match=reason):
        await find_jobs(database, **arguments)


@pytest.mark.parametrize(
    "headers", ["null", "[]", "7", '{"meshhook-dead-letter": {"msg_id": "1"}}']
)
async def test_strange_messages_break_nothing(
    database: Database, connection: Connection, headers: str
):
    """Whatever other clients put into the queue and beside it, jobs are found."""
    for table in ("q_jobs", "q_jobs_dlq"):
        await connection.execute(
            f"insert into pgmq.{table} (vt, message, headers) values (now(), '[7]', $1)", headers
        )
    await connection.execute("insert into pgmq.q_jobs (vt) values (now())")
    assert ids(await find_jobs(database)) == [(2, "ready"), (1, "ready")]
    assert (await get_job(database, "jobs", 1)).state == "ready"


@pytest.mark.parametrize(
    "filters",
    [
        {"run_id": "old"},
        {"workflow_id": "w"},
        {"project_id": "p"},
        {"run_id": "old", "state": "ready"},
        {"run_id": "old", "queue": "jobs"},
    ],
)
async def test_a_job_that_waits_is_found_wherever_it_is(
    database: Database, connection: Connection, filters: dict[str, Any]
):
    """Below a hundred thousand newer messages, though no index knows runs that were never tried."""
    msg_id = await enqueue(database, "old")
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 100000)"
    )
    found = await find_jobs(database, **filters)
    assert ids(found) == [(msg_id, "ready")]
    assert found.is_complete


@pytest.mark.parametrize("filters", [{"workflow_id": "w"}, {"state": "succeeded"}])
async def test_a_job_that_is_over_is_found_wherever_it_is(
    database: Database, connection: Connection, filters: dict[str, Any]
):
    """Below tens of thousands of newer attempts."""
    msg_id = await run(database, AttemptOutcome.SUCCEEDED)
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select 'jobs', n, 1, 'cancelled', now() from generate_series(10, 30010) n"
    )
    found = await find_jobs(database, **filters)
    assert ids(found) == [(msg_id, "succeeded")]
    assert found.is_complete


async def test_a_search_that_runs_out_of_time_says_so(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    """What was not looked at may hold the job: the result is not complete."""
    msg_id = await enqueue(database, "old")
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 5000)"
    )
    with monkeypatch.context() as patched:
        patched.setattr(
            job_search, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 60)
        )
        found = await find_jobs(database, run_id="old")
    assert ids(found) == []
    assert not found.is_complete
    assert found.seen == 250
    assert found.unread_below == {"jobs": 4_752}
    found = await find_jobs(database, queue="jobs", run_id="old", before_id=4_752)
    assert ids(found) == [(msg_id, "ready")]
    assert (found.is_complete, found.unread_below) == (True, {})
    assert ids(await find_jobs(database, run_id="old")) == [(msg_id, "ready")]


async def test_a_search_of_the_history_says_how_far_it_got(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch
):
    """No index knows the workflow or the project of what has ended: it is read part by part."""
    await connection.execute(
        """insert into meshhook.job_attempts
            (queue, msg_id, attempt, outcome, workflow_id, project_id, enqueued_at, finished_at)
        select 'jobs', n, 1, 'succeeded', 'w' || n % 5000, 'p', now(), now()
        from generate_series(1, 6000) n"""
    )
    await enqueue(database, "r")
    monkeypatch.setattr(job_search, "FIRST_CHUNK_ROWS", 1_000)
    monkeypatch.setattr(job_search, "MAX_CHUNK_ROWS", 1_000)
    with monkeypatch.context() as patched:
        patched.setattr(
            job_search, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 60)
        )
        found = await find_jobs(database, queue="jobs", workflow_id="w7")
    assert ids(found) == [(5_007, "succeeded")]
    assert (found.is_complete, found.unread_below) == (False, {"jobs": 5_001})
    found = await find_jobs(database, queue="jobs", workflow_id="w7", before_id=5_001)
    assert (ids(found), found.is_complete) == ([(7, "succeeded")], True)
    found = await find_jobs(database, queue="jobs", workflow_id="w7")
    assert ids(found) == [(5_007, "succeeded"), (7, "succeeded")]


@pytest.mark.parametrize("deep", [0, 20_000])
async def test_jobs_in_a_state_are_listed_the_newest_first(
    database: Database, connection: Connection, deep: int
):
    """As the list of all jobs, whether few jobs are in that state or many."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, $1)", deep
    )
    newest = [await enqueue(database) for _ in range(3)][::-1]
    assert ids(await find_jobs(database, state="ready", limit=2)) == [
        (msg_id, "ready") for msg_id in newest[:2]
    ]


@pytest.mark.parametrize("text", ["a\0b", "\udc80"])
async def test_an_id_that_no_database_can_hold_is_refused(database: Database, text: str):
    """It is an argument of the wrong kind, and no error of the database."""
    with pytest.raises(InvalidSettingError, match="workflow_id: no text that a database can hold"):
        await find_jobs(database, workflow_id=text)


async def test_jobs_of_a_queue_that_was_made_again_are_the_newest(
    database: Database, connection: Connection
):
    """Its ids begin anew, and the many of the queue before are higher."""
    await connection.execute(
        "insert into meshhook.job_attempts "
        "(queue, msg_id, attempt, outcome, run_id, enqueued_at, finished_at) "
        "select 'jobs', n, 1, 'succeeded', 'before', now() - interval '1 hour', now() "
        "from generate_series(10, 20000) n"
    )
    await run(database, AttemptOutcome.CANCELLED, run_id="after")
    found = await find_jobs(database, limit=2)
    assert [(job.msg_id, job.run_id) for job in found] == [(1, "after"), (20_000, "before")]
    found = await find_jobs(database, queue="jobs", limit=1)
    assert [job.run_id for job in found] == ["after"]


async def test_jobs_by_key_and_by_error_page_by_page(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """A key finds what is in the queue, an error type what had it last; both from an id down."""
    service = QueueService[Any](pool, queue_name)
    ids = [await service.enqueue({"n": n}, key=f"k{n % 2}") for n in range(6)]
    found = await find_jobs(pool, queue=queue_name, key="k1", limit=2)
    assert [job.msg_id for job in found] == [ids[5], ids[3]]
    found = await find_jobs(pool, queue=queue_name, key="k1", before_id=ids[3])
    assert [job.msg_id for job in found] == [ids[1]]
    await connection.execute(
        """insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, enqueued_at,
            finished_at, error_type)
        select $1, q.msg_id, 1, 'retried', 'r', q.enqueued_at, now(), 'E' || (q.msg_id % 3)
        from pgmq.q_jobs q""",
        queue_name,
    )
    wanted = [each for each in reversed(ids) if each % 3 == 1]
    for run_id in (None, "r"):
        found = await find_jobs(pool, queue=queue_name, run_id=run_id, error_type="E1")
        assert [job.msg_id for job in found] == wanted
        found = await find_jobs(
            pool, queue=queue_name, run_id=run_id, error_type="E1", before_id=wanted[0]
        )
        assert [job.msg_id for job in found] == wanted[1:]
    for wrong in ({"key": "k"}, {"before_id": 3}, {"key": "k", "queue": "jobs", "error_type": "E"}):
        with pytest.raises(InvalidSettingError):
            await find_jobs(pool, **wrong)


async def test_jobs_of_a_time(database: Database, connection: Connection) -> None:
    """Jobs that ended then, and those in their queue that were enqueued then; ends are left out."""
    await connection.execute(
        """insert into meshhook.job_attempts
            (queue, msg_id, attempt, outcome, run_id, enqueued_at, finished_at, error_type)
        select 'jobs', n, 1, case n % 3 when 0 then 'succeeded' when 1 then 'dead_lettered'
            else 'retried' end, 'r', '2026-01-01Z', '2026-01-01Z'::timestamptz + n * interval '1h',
            case when n % 3 > 0 then 'Broken' end
        from generate_series(1, 60) n"""
    )
    await connection.execute(
        """insert into pgmq.q_jobs (msg_id, vt, enqueued_at, message) overriding system value
        select n, now(), '2026-01-01Z'::timestamptz + (n - 100) * interval '1h', '{"run_id": "r"}'
        from generate_series(101, 160) n"""
    )
    since, until = datetime(2026, 1, 1, 20, tzinfo=UTC), datetime(2026, 1, 2, 6, tzinfo=UTC)

    async def found(**filters: Any) -> list[int]:
        jobs = await find_jobs(database, queue="jobs", since=since, until=until, **filters)
        assert jobs.is_complete
        return sorted(job.msg_id for job in jobs)

    ended, waiting = list(range(20, 30)), list(range(120, 130))
    assert await found() == ended + waiting
    assert await found(run_id="r") == ended + waiting
    assert await found(state="ready") == waiting
    assert await found(state="succeeded") == [21, 24, 27]
    assert await found(state="dead_lettered") == [22, 25, 28]
    assert await found(error_type="Broken") == [n for n in ended if n % 3]
    assert await found(error_type="Broken", run_id="r") == [n for n in ended if n % 3]
    # A later attempt is the last one: at the edge it is no longer of that time.
    await connection.execute(
        """insert into meshhook.job_attempts
            (queue, msg_id, attempt, outcome, enqueued_at, finished_at)
        values ('jobs', 22, 2, 'succeeded', '2026-01-01Z', $1)""",
        until,
    )
    assert await found(state="dead_lettered") == [25, 28]
    assert 22 not in await found(error_type="Broken")
    assert 22 not in await found()


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        ({"since": datetime(2026, 1, 1)}, "since is a datetime with a time zone"),  # noqa: DTZ001
        ({"until": "2h"}, "until is a datetime with a time zone, got '2h'"),
        (
            {"since": datetime.max.replace(tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)},
            "since is before until",
        ),
    ],
)
async def test_a_time_range_that_is_none_is_refused(
    database: Database, times: dict[str, Any], reason: str
) -> None:
    """The error names the argument."""
    with pytest.raises(InvalidSettingError, match=reason):
        await find_jobs(database, **times)
