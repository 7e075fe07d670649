"""Deadlines: a job that was not started in time expires, at whatever moment that is found."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    DLQService,
    Job,
    QueueService,
    RetryAfter,
    Snooze,
    get_group,
    set_queue_config,
)
from meshhook.statistics import job_statistics
from meshhook.testing import run_job
from meshhook.tracking import find_jobs
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Runs:
    """A handler that notes which jobs it ran."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    async def __call__(self, job: Job[Any]) -> None:
        """Note the job."""
        self.ids.append(job.msg_id)


async def work(url: str, handler: Any, count: int, **options: Any) -> None:
    """Run a worker until it has recorded `count` outcomes."""
    async with make_worker(url, handler, **options) as worker:
        await eventually(lambda: worker.get_stats().processed >= count)


async def archived(connection: Connection) -> list[int]:
    """Return the ids of the messages in the archive."""
    rows = await connection.fetch("select msg_id from pgmq.a_jobs order by msg_id")
    return [row["msg_id"] for row in rows]


async def test_a_job_whose_deadline_has_passed_is_not_started(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """It expires: history, metric, statistics and searches say so, and the archive has its body."""
    service = QueueService[Any](pool, queue_name)
    late = await service.enqueue({"n": 1}, expires_at=PAST)
    timely = await service.enqueue({"n": 2}, expires_in=timedelta(days=1))
    runs, registry = Runs(), CollectorRegistry()
    await work(database_url, runs, 2, registry=registry)
    assert runs.ids == [timely]
    assert await outcomes(connection, late) == [("expired", 1)]
    row = await connection.fetchrow(
        "select error_type, error_message, started_at from meshhook.job_attempts where msg_id = $1",
        late,
    )
    assert row is not None
    assert row["error_type"] == "JobExpired"
    assert "2020-01-01T00:00:00.000+00:00" in row["error_message"]
    assert row["started_at"] is None
    assert await archived(connection) == [late]
    assert await live(connection) == {}
    counted = {"queue": "jobs", "outcome": "expired"}
    assert registry.get_sample_value("meshhook_worker_messages_total", counted) == 1
    # Of two hours, if one has just begun.
    hours = await job_statistics(pool)
    assert sum(hour.expired for hour in hours) == sum(hour.succeeded for hour in hours) == 1
    view = await connection.fetchrow(
        "select sum(expired), sum(succeeded) from meshhook.job_statistics"
    )
    assert view is not None
    assert tuple(view) == (1, 1)
    found = await find_jobs(pool, queue=queue_name, state="expired")
    assert [job.msg_id for job in found] == [late]
    sql = "select msg_id from meshhook.find_jobs('jobs', state => 'expired')"
    assert await connection.fetchval(sql) == late
    state = "select state from meshhook.job_tracking where msg_id = $1"
    assert await connection.fetchval(state, late) == "expired"
    end = await service.wait(late, timeout_seconds=30)
    assert (end.outcome, end.has_succeeded) == ("expired", False)


@pytest.mark.parametrize(
    "at",
    [
        *("2019-12-31T24:00:00Z", "2019-12-31 24:00+02:00", "2016-12-31T23:59:60Z"),
        *("2020-01-01T00:00:00.000000-15:59", "2020-02-29T24:00:00.0+00:00"),
    ],
)
async def test_a_worker_understands_the_times_that_sql_takes(
    connection: Connection, database_url: str, queue_name: str, at: str
) -> None:
    """Such as the end of a day, and a leap second; it starts none of these jobs."""
    headers = json.dumps({"meshhook-expires-at": at})
    await connection.execute("select meshhook.enqueue('jobs', '{}', headers => $1)", headers)
    await QueueService[Any](connection, queue_name).enqueue({}, headers=json.loads(headers))
    runs = Runs()
    await work(database_url, runs, 2)
    assert runs.ids == []
    shown = f"{await connection.fetchval('select $1::text::timestamptz', at):%Y-%m-%d}"
    rows = await connection.fetch("select error_message from meshhook.job_attempts")
    assert [shown in row["error_message"] for row in rows] == [True, True]


async def test_the_setting_of_the_queue_counts_from_enqueuing(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """Jobs without a deadline of their own have the queue's; their own counts before it."""
    await set_queue_config(connection, queue_name, job_expiry_seconds=3600)
    service = QueueService[Any](pool, queue_name)
    old, own, fresh = [
        await service.enqueue({}),
        await service.enqueue({}, expires_in=3 * 3600),
        await service.enqueue({}),
    ]
    await connection.execute(
        "update pgmq.q_jobs set enqueued_at = enqueued_at - interval '2 hours' "
        "where msg_id = any ($1)",
        [old, own],
    )
    runs = Runs()
    await work(database_url, runs, 3)
    assert sorted(runs.ids) == [own, fresh]
    assert await outcomes(connection, old) == [("expired", 1)]


async def test_a_job_claimed_ahead_expires_before_it_starts(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """What counts is when it would start, not when it was claimed."""
    service = QueueService[Any](pool, queue_name)
    first = await service.enqueue({})
    second = await service.enqueue({}, expires_in=1)
    third = await service.enqueue({})
    ran: list[int] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.msg_id)
        # Until the deadline of the second has passed, by the clock of the database.
        at = "select enqueued_at + interval '1.1 seconds' from pgmq.q_jobs where msg_id = $1"
        if job.msg_id == first:
            await pool.execute("select pg_sleep_until($1)", await pool.fetchval(at, second))

    await work(database_url, handler, 3, concurrency=1)
    assert ran == [first, third]
    assert await outcomes(connection, second) == [("expired", 1)]


IDS = {"run_id": "r", "workflow_id": "w", "project_id": "p"}


async def recorded_ids(connection: Connection, msg_id: int) -> dict[str, str]:
    """Return the identifiers that the history has of a job."""
    row = await connection.fetchrow(
        "select run_id, workflow_id, project_id from meshhook.job_attempts where msg_id = $1",
        msg_id,
    )
    assert row is not None
    return dict(row)


@pytest.mark.parametrize("way", ["worker", "dequeue"])
async def test_the_history_of_an_expired_job_has_its_identifiers(
    pool: Pool, connection: Connection, database_url: str, queue_name: str, way: str
) -> None:
    """It is found by its run, although nobody has decoded its message."""
    service = QueueService[Any](pool, queue_name)
    late = await service.enqueue({**IDS, "payload": {}}, expires_at=PAST)
    if way == "worker":
        await work(database_url, Runs(), 1)
    else:
        assert await service.dequeue() is None
    assert await recorded_ids(connection, late) == IDS
    found = await find_jobs(pool, queue=queue_name, run_id="r")
    assert [(job.msg_id, job.state) for job in found] == [(late, "expired")]


async def test_a_job_that_runs_at_its_deadline_goes_on() -> None:
    """Only its start is limited: what it returns counts."""

    async def handler(job: Job[Any]) -> None:
        job.enqueued_timestamp -= 3600  # as if an hour went by

    result = await run_job(handler, headers={"meshhook-expires-in": 60})
    assert result.outcome == "succeeded"


async def test_a_retry_after_the_deadline_expires_at_once(
    connection: Connection, pool: Pool, database_url: str, queue_name: str
) -> None:
    """The last error is kept; a retry before the deadline is a retry."""
    await set_queue_config(connection, queue_name, retry_backoff_base_ms=60_000, retry_jitter=0)
    service = QueueService[Any](pool, queue_name)
    short = await service.enqueue({}, expires_in=30)
    long = await service.enqueue({}, expires_in=3600)

    async def handler(_: Job[Any]) -> None:
        raise ValueError("no luck")

    await work(database_url, handler, 2)
    assert await outcomes(connection, short) == [("expired", 1)]
    assert await outcomes(connection, long) == [("retried", 1)]
    row = await connection.fetchrow(
        "select error_type, error_message, error_stack from meshhook.job_attempts "
        "where msg_id = $1",
        short,
    )
    assert row is not None
    assert row["error_type"] == "ValueError"
    assert row["error_message"].endswith("the last one ended with: no luck")
    assert "no luck" in row["error_stack"]


@pytest.mark.parametrize("ended", [RetryAfter(60), Snooze(60)])
async def test_what_handlers_ask_for_ends_at_the_deadline_too(ended: Any) -> None:
    """A snooze or a retry of the handler's own that comes too late expires."""

    async def handler(_: Job[Any]) -> object:
        return ended

    headers = {"meshhook-expires-in": 30}
    assert (await run_job(handler, headers=headers)).outcome == "expired"
    headers = {"meshhook-expires-in": 90}
    assert (await run_job(handler, headers=headers)).outcome != "expired"


async def test_an_expired_job_becomes_a_dead_letter_and_is_replayed(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """With `on_expiry` dead_letter. A replay is wanted now: it has no deadline, or a fresh one."""
    await set_queue_config(connection, queue_name, on_expiry="dead_letter")
    service = QueueService[Any](pool, queue_name)
    at = await service.enqueue({}, expires_at=PAST)
    within = await service.enqueue({}, expires_in=3600)
    await connection.execute(
        "update pgmq.q_jobs set enqueued_at = enqueued_at - interval '2 hours' where msg_id = $1",
        within,
    )
    runs = Runs()
    await work(database_url, runs, 2)
    dead = DLQService(pool, queue_name)
    letters = await dead.list_dead_letter_jobs()
    assert {letter.error_type for letter in letters} == {"JobExpired"}
    assert await outcomes(connection, at) == [("dead_lettered", 1)]
    assert await archived(connection) == []
    await dead.replay_multiple_jobs([letter.id for letter in letters])
    await work(database_url, runs, 2)
    assert len(runs.ids) == 2
    assert await live(connection) == {}


async def test_without_dead_letters_expired_jobs_are_archived(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """`on_expiry` dead_letter needs them: nothing is lost without."""
    await set_queue_config(connection, queue_name, on_expiry="dead_letter", dlq_enabled=False)
    late = await QueueService[Any](connection, queue_name).enqueue({}, expires_at=PAST)
    await work(database_url, Runs(), 1)
    assert await outcomes(connection, late) == [("expired", 1)]
    assert await archived(connection) == [late]


async def test_what_hangs_on_an_expired_job_is_done(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """Its unique key is free, and its group counts it as failed and ends."""
    service = QueueService[Any](pool, queue_name)
    late = await service.enqueue({}, unique_key="k", expires_at=PAST)
    await service.enqueue_many([{}, {}], group="g", expires_at=PAST)
    await work(database_url, Runs(), 3)
    again = await service.enqueue({}, unique_key="k")
    assert again.is_new
    assert again != late
    group = await get_group(pool, queue_name, "g")
    assert (group.failed, group.succeeded, group.finished_at is None) == (2, 0, False)


async def test_ordered_keys_go_on(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """The next job of the key starts after one that has expired."""
    await set_queue_config(connection, queue_name, keyed=True, ordered=True)
    service = QueueService[Any](pool, queue_name)
    await service.enqueue({}, key="a", expires_at=PAST)
    following = await service.enqueue({}, key="a")
    runs = Runs()
    await work(database_url, runs, 2)
    assert runs.ids == [following]


async def test_a_program_that_claims_itself_gets_no_expired_job(
    connection: Connection, queue_name: str
) -> None:
    """`dequeue` settles it, and returns the next one."""
    service = QueueService[Any](connection, queue_name)
    late = await service.enqueue({}, expires_at=PAST)
    timely = await service.enqueue({})
    job = await service.dequeue()
    assert job is not None
    assert job.msg_id == timely
    assert await outcomes(connection, late) == [("expired", 1)]


async def test_a_deadline_that_makes_no_sense_is_none(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """Other clients may write anything: the job runs."""
    odd: tuple[Any, ...] = (
        None,
        5,
        [],
        "soon",
        "2020-01-01",
        "2020-01-01T00:00:00",
        "99999-01-01T00:00:00Z",
    )
    for value in odd:
        headers = json.dumps({"meshhook-expires-at": value})
        await connection.execute("select pgmq.send('jobs', '{}', $1::jsonb)", headers)
    for value in (None, -5, 0, "5", True, 10**300, []):
        headers = json.dumps({"meshhook-expires-in": value})
        await connection.execute("select pgmq.send('jobs', '{}', $1::jsonb)", headers)
    runs = Runs()
    await work(database_url, runs, 14)
    assert len(runs.ids) == 14


async def test_nothing_expires_while_nobody_claims(
    connection: Connection, database_url: str, queue_name: str
) -> None:
    """In a paused queue a job stays until the queue is resumed; then it expires."""
    await set_queue_config(connection, queue_name, paused=True)
    late = await QueueService[Any](connection, queue_name).enqueue({}, expires_at=PAST)
    async with make_worker(database_url, Runs()) as worker:
        assert list(await live(connection)) == [late]
        await set_queue_config(connection, queue_name, paused=False)
        await eventually(lambda: worker.get_stats().processed >= 1)
    assert await outcomes(connection, late) == [("expired", 1)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("meshhook-expires-at", "soon"),
        ("meshhook-expires-at", "2030-01-01T08:00:00"),
        ("meshhook-expires-at", "2030-13-01T08:00:00Z"),
        ("meshhook-expires-at", 1_900_000_000),
        ("meshhook-expires-at", None),
        ("meshhook-expires-in", 0),
        ("meshhook-expires-in", "60"),
        ("meshhook-expires-in", 31_622_401),
        ("meshhook-expires-in", None),
    ],
)
async def test_a_wrong_deadline_is_refused_by_the_library_and_by_sql(
    connection: Connection, queue_name: str, name: str, value: Any
) -> None:
    """Both name the header, and store nothing."""
    headers = {name: value}
    with pytest.raises(ValueError, match=name):
        await QueueService[Any](connection, queue_name).enqueue({}, headers=headers)
    with pytest.raises(asyncpg.PostgresError, match=name) as refused:
        await connection.execute(
            "select meshhook.enqueue('jobs', '{}', headers => $1)", json.dumps(headers)
        )
    assert refused.value.sqlstate == "MHQ07"
    assert await live(connection) == {}


async def test_arguments_that_make_no_deadline_are_named(
    connection: Connection, queue_name: str
) -> None:
    """A time without a zone, a negative time, and two deadlines at once."""
    service: Any = QueueService[Any](connection, queue_name)
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - that is what is refused
    for arguments in (
        {"expires_at": naive},
        {"expires_at": "2030-01-01T00:00:00Z"},
        {"expires_in": -1},
        {"expires_in": timedelta(days=367)},
        {"expires_in": 5, "expires_at": PAST},
    ):
        with pytest.raises(ValueError, match="expires_"):
            await service.enqueue({}, **arguments)
    both = {"meshhook-expires-in": 5, "meshhook-expires-at": "2030-01-01T00:00:00Z"}
    with pytest.raises(ValueError, match="both given"):
        await service.enqueue({}, headers=both)
    with pytest.raises(asyncpg.PostgresError, match="both given"):
        await connection.execute(
            "select meshhook.enqueue('jobs', '{}', headers => $1)", json.dumps(both)
        )
