"""`QueueService`: enqueuing, claiming and settling by hand."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias

import asyncpg
import pytest
from pydantic import BaseModel

from meshhook import QueueService, WorkflowJob, create_queue, drop_queue, set_queue_config
from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    InvalidJobError,
    InvalidPayloadError,
    InvalidQueueNameError,
    InvalidSettingError,
    JobTooLargeError,
    QueueNotFoundError,
)
from meshhook.jobs import Job
from meshhook.postgres.database import Database
from support.waiting import eventually, lock_waiters
from support.workers import live, outcomes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Service: TypeAlias = "QueueService[Any]"

pytestmark = pytest.mark.usefixtures("queue_name")


class Statements(list[str]):
    """The statements that the server has answered."""

    @property
    def inserts(self) -> int:
        """How many of them stored messages."""
        return sum("insert into pgmq" in sql for sql in self)

    @property
    def settings_reads(self) -> int:
        """How many of them read the settings of a queue."""
        return sum("meshhook.queue_config" in sql for sql in self)


@pytest.fixture
def statements() -> Statements:
    """The statements that the connections of `pool` have sent."""
    return Statements()


@pytest.fixture
async def pool(database_url: str, statements: Statements) -> AsyncIterator[Pool]:
    """A pool of 1 to 10 connections to `database_url` that note their statements."""

    async def listen(connection: Connection) -> None:
        connection.add_query_logger(lambda record: statements.append(record.query))

    async with asyncpg.create_pool(database_url, min_size=1, max_size=10, init=listen) as pool:
        yield pool


@asynccontextmanager
async def inserts_held_up(connection: Connection) -> AsyncIterator[None]:
    """Let all that store messages wait until the end of the block."""
    async with connection.transaction():
        await connection.execute("lock table pgmq.q_jobs")
        yield


@pytest.fixture
async def service(pool: Pool) -> AsyncIterator[Service]:
    """The service of queue `jobs`."""
    async with QueueService[Any](pool, "jobs") as service:
        yield service


async def count(connection: Connection) -> int:
    """Return how many messages the queue has."""
    number: int = await connection.fetchval("select count(*) from pgmq.q_jobs")
    return number


async def claimed(service: Service, *payloads: Any) -> list[Job[Any]]:
    """Enqueue jobs and claim them."""
    await service.enqueue_many([{"payload": payload} for payload in payloads])
    jobs = [await service.dequeue() for _ in payloads]
    return [job for job in jobs if job is not None]


async def expire(connection: Connection, job: Job[Any]) -> None:
    """Let the lease of a job run out."""
    await connection.execute(
        "update pgmq.q_jobs set vt = clock_timestamp() - interval '1 ms' where msg_id = $1",
        job.msg_id,
    )


# --- Enqueuing ---------------------------------------------------------------------------------


async def test_a_job_goes_in_and_comes_out(service: Service) -> None:
    """What was enqueued is what a claim gives: identifiers, payload, headers, first attempt."""
    job = WorkflowJob(run_id="r", workflow_id="w", project_id="p", payload={"n": [1, "é"]})
    msg_id = await service.enqueue(job, headers={"traceparent": "00-1"})
    received = await service.dequeue()
    assert received is not None
    assert (received.msg_id, received.queue, received.attempt) == (msg_id, "jobs", 1)
    assert (received.run_id, received.workflow_id, received.project_id) == ("r", "w", "p")
    assert received.payload == {"n": [1, "é"]}
    assert received.headers == {"traceparent": "00-1"}
    assert received.enqueued_at <= received.ready_at <= received.claimed_at


async def test_any_model_or_json_can_be_enqueued(service: Service, pool: Pool) -> None:
    """A body without an envelope is its own payload."""

    class Order(BaseModel):
        number: int

    typed = QueueService[Order](pool, "jobs", payload_model=Order)
    await service.enqueue(Order(number=7))
    job = await typed.dequeue()
    assert job is not None
    assert job.payload == Order(number=7)
    for value in (None, 7, "text", [1], {"payload": None}):
        await service.enqueue(value)
        received = await service.dequeue()
        assert received is not None
        assert received.payload == (None if value == {"payload": None} else value)


async def test_a_message_of_another_client_is_a_job(
    service: Service, connection: Connection
) -> None:
    """What pgmq.send stored, SQL null included, is claimed like any other."""
    await connection.execute("""select pgmq.send('jobs', '{"n": 1}', '[7]'::jsonb)""")
    job = await service.dequeue()
    assert job is not None
    assert (job.payload, job.headers) == ({"n": 1}, {"meshhook-foreign-headers": [7]})
    assert await service.acknowledge(job)
    await connection.execute("select pgmq.send('jobs', null::jsonb)")
    job = await service.dequeue()
    assert job is not None
    assert job.payload is None
    assert await service.acknowledge(job)


@pytest.mark.parametrize(
    ("delay", "seconds"), [(0, 0), (0.25, 0.25), (timedelta(days=366), 31622400)]
)
async def test_a_delay_is_kept(
    service: Service, connection: Connection, delay: Any, seconds: float
) -> None:
    """A job is ready its delay after it was written, to the fraction of a second."""
    before = await connection.fetchval("select clock_timestamp()")
    msg_id = await service.enqueue({}, delay)
    await service.enqueue_many([{}], delay)
    after = await connection.fetchval("select clock_timestamp()")
    for vt in await connection.fetch("select vt from pgmq.q_jobs"):
        assert before <= vt["vt"] - timedelta(seconds=seconds) <= after
    state = (await live(connection))[msg_id]["state"]
    assert state == ("ready" if seconds == 0 else "scheduled") or delay == 0.25


@pytest.mark.parametrize("delay", [-1, -0.001, math.nan, math.inf, 31_622_401, "5", None, True])
async def test_a_delay_out_of_range_stores_nothing(
    service: Service, connection: Connection, delay: Any
) -> None:
    """A negative or endless delay is an error that has the value received."""
    for call in (service.enqueue({}, delay), service.enqueue_many([{}], delay)):
        with pytest.raises(InvalidSettingError, match="a delay is"):
            await call
    assert await count(connection) == 0


async def test_a_delayed_job_is_not_claimed_early(service: Service, connection: Connection) -> None:
    """It is ready when it is due, and not before."""
    msg_id = await service.enqueue({}, 3600)
    assert await service.dequeue() is None
    await connection.execute("update pgmq.q_jobs set vt = now()")
    job = await service.dequeue()
    assert job is not None
    assert job.msg_id == msg_id


async def test_the_queues_size_limit_holds(service: Service, connection: Connection) -> None:
    """The limit is that of the queue, in bytes."""
    await set_queue_config(connection, "jobs", max_payload_bytes=1024)
    await service.enqueue("é" * 511)
    with pytest.raises(JobTooLargeError, match="1026 bytes of JSON; this queue takes at most 1024"):
        await service.enqueue("é" * 512)
    assert await count(connection) == 1


async def test_many_are_stored_in_order(service: Service, connection: Connection) -> None:
    """Batches of more than one statement keep their order, and return the ids in it."""
    ids = await service.enqueue_many(({"n": n} for n in range(2_500)), headers={"h": 1})
    assert ids == sorted(ids)
    assert len(set(ids)) == 2_500
    rows = await connection.fetch("select msg_id, message, headers from pgmq.q_jobs order by 1")
    assert [row["msg_id"] for row in rows] == ids
    assert [json.loads(row["message"])["n"] for row in rows] == list(range(2_500))
    assert {row["headers"] for row in rows} == {'{"h": 1}'}
    assert await service.enqueue_many([]) == []


async def test_one_bad_job_of_many_is_named_and_none_is_stored(
    service: Service, connection: Connection
) -> None:
    """All or none; the error says which one it was."""
    with pytest.raises(InvalidJobError) as caught:
        await service.enqueue_many([{}, {"x": [math.nan]}, {}])
    assert str(caught.value) == "job.x[0] is nan, which is not JSON"
    assert caught.value.__notes__ == ["job 1 of the batch, counted from 0"]
    assert await count(connection) == 0


async def test_many_are_all_or_none(service: Service, connection: Connection) -> None:
    """When the server refuses one of a later batch, the earlier batches are not stored either."""
    await connection.execute(
        "alter table pgmq.q_jobs add constraint small check ((message ->> 'n')::int < 1500)"
    )
    with pytest.raises(DatabaseError, match="small"):
        await service.enqueue_many([{"n": n} for n in range(1_600)])
    assert await count(connection) == 0


# --- The caller's transaction ------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
async def test_an_enqueue_joins_the_callers_transaction(
    service: Service, connection: Connection, pool: Pool, commits: bool
) -> None:
    """The jobs are there if and only if the transaction commits, and unseen before."""
    async with pool.acquire() as own:
        transaction = own.transaction()
        await transaction.start()
        await service.enqueue({"n": 1}, connection=own)
        await service.enqueue_many([{"n": 2}, {"n": 3}], connection=own)
        assert await count(connection) == 0
        await (transaction.commit() if commits else transaction.rollback())
    assert await count(connection) == (3 if commits else 0)


async def test_a_refused_job_leaves_the_callers_transaction_as_it_is(
    service: Service, connection: Connection
) -> None:
    """What is found before it is sent does not break the transaction."""
    async with connection.transaction():
        with pytest.raises(InvalidJobError):
            await service.enqueue("\x00", connection=connection)
        await service.enqueue({}, connection=connection)
    assert await count(connection) == 1


async def test_a_single_connection_serves_many_tasks(connection: Connection) -> None:
    """On one connection statements are put in line instead of failing."""
    service = QueueService[Any](connection, "jobs")
    ids = await asyncio.gather(*(service.enqueue({"n": n}) for n in range(20)))
    assert len(set(ids)) == 20
    jobs = await asyncio.gather(*(service.dequeue() for _ in range(20)))
    assert {job.msg_id for job in jobs if job} == set(ids)
    assert all(await service.acknowledge_many([job for job in jobs if job]))


# --- Coalescing --------------------------------------------------------------------------------


async def test_concurrent_enqueues_share_statements(
    service: Service, statements: Statements, connection: Connection
) -> None:
    """64 callers at once read the settings once, and insert together."""
    ids = await asyncio.gather(*(service.enqueue({"n": n}) for n in range(64)))
    assert len(set(ids)) == 64
    await eventually(lambda: statements.settings_reads == 1)
    await eventually(lambda: statements.inserts)
    # Those that the first one leaves behind gather while it commits.
    assert statements.inserts < 8
    rows = await connection.fetch("select msg_id, message from pgmq.q_jobs order by msg_id")
    assert [json.loads(row["message"])["n"] for row in rows] == list(range(64))
    assert [row["msg_id"] for row in rows] == ids


async def test_what_comes_during_a_commit_is_the_next_statement(
    service: Service, statements: Statements, connection: Connection
) -> None:
    """While one batch is being committed the rest gather, and go together."""
    await service.get_config()
    async with inserts_held_up(connection):
        first = asyncio.create_task(service.enqueue({"n": 0}))
        await eventually(lambda: lock_waiters(connection))
        rest = [asyncio.create_task(service.enqueue({"n": n})) for n in range(1, 64)]
        await asyncio.sleep(0)  # each of them hands its message over
    assert len(set(await asyncio.gather(first, *rest))) == 64
    await eventually(lambda: statements.inserts == 2)


async def test_one_message_that_the_server_refuses_does_not_cost_the_others(
    service: Service, connection: Connection
) -> None:
    """The others of its batch are stored; only its own caller gets the error."""
    await connection.execute(
        "alter table pgmq.q_jobs add constraint good check (not message ? 'bad')"
    )
    results = await asyncio.gather(
        *(service.enqueue({"bad" if n == 7 else "n": n}) for n in range(20)),
        return_exceptions=True,
    )
    refused = [n for n, result in enumerate(results) if isinstance(result, DatabaseError)]
    assert refused == [7]
    assert await count(connection) == 19


async def test_a_job_that_is_refused_before_does_not_cost_the_others(
    service: Service, connection: Connection
) -> None:
    """A job that is no JSON never reaches the batch."""
    results = await asyncio.gather(
        *(service.enqueue({"n": math.nan if n == 3 else n}) for n in range(8)),
        return_exceptions=True,
    )
    assert [type(result) for result in results if not isinstance(result, int)] == [InvalidJobError]
    assert await count(connection) == 7


async def test_a_caller_that_is_cancelled_early_takes_its_message_along(
    service: Service, connection: Connection
) -> None:
    """Before its batch has left, a message can be called back; the others go."""
    await service.get_config()
    async with inserts_held_up(connection):
        first = asyncio.create_task(service.enqueue({"n": 0}))
        await eventually(lambda: lock_waiters(connection))
        rest = [asyncio.create_task(service.enqueue({"n": n})) for n in range(1, 4)]
        await asyncio.sleep(0)  # each of them hands its message over
        rest[1].cancel()
        await asyncio.wait([rest[1]])
    await asyncio.gather(first, rest[0], rest[2])
    rows = await connection.fetch("select message from pgmq.q_jobs order by msg_id")
    assert [json.loads(row["message"])["n"] for row in rows] == [0, 1, 3]


async def test_a_caller_that_is_cancelled_late_does_not_stop_its_batch(
    service: Service, connection: Connection
) -> None:
    """Once the batch has left, all of it is stored, and the other callers get their ids."""
    await service.get_config()
    async with inserts_held_up(connection):
        tasks = [asyncio.create_task(service.enqueue({"n": n})) for n in range(3)]
        await eventually(lambda: lock_waiters(connection))
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
    assert len({await tasks[0], await tasks[2]}) == 2
    assert tasks[1].cancelled()
    assert await count(connection) == 3


async def test_closing_waits_for_what_is_under_way(
    service: Service, connection: Connection
) -> None:
    """When close returns, everything handed over is stored."""
    await service.get_config()
    async with inserts_held_up(connection):
        tasks = [asyncio.create_task(service.enqueue({"n": n})) for n in range(3)]
        await eventually(lambda: lock_waiters(connection))
        closing = asyncio.create_task(service.close())
    await closing
    assert await count(connection) == 3
    await asyncio.gather(*tasks)


async def test_a_large_batch_is_parted(service: Service, statements: Statements) -> None:
    """A statement carries at most a thousand messages, and some eight megabytes."""
    await service.get_config()
    await asyncio.gather(*(service.enqueue({"n": n}) for n in range(2_001)))
    await eventually(lambda: statements.inserts == 3)
    await asyncio.gather(*(service.enqueue("x" * 1_000_000) for _ in range(20)))
    await eventually(lambda: statements.inserts == 6)


# --- Claiming ----------------------------------------------------------------------------------


async def test_the_oldest_ready_job_comes_first(service: Service) -> None:
    """Jobs are claimed in the order in which they fell due; an empty queue gives None."""
    ids = await service.enqueue_many([{}] * 5)
    received = [await service.dequeue() for _ in range(6)]
    assert [job and job.msg_id for job in received] == [*ids, None]


async def test_no_job_is_claimed_twice(service: Service) -> None:
    """Many that claim at once share the jobs out."""
    ids = await service.enqueue_many([{}] * 50)
    jobs = await asyncio.gather(*(service.dequeue() for _ in range(60)))
    assert sorted(job.msg_id for job in jobs if job) == ids


@pytest.mark.parametrize("vt_seconds", [None, 0.5, 1, 43_200])
async def test_a_lease_lasts_as_asked(
    service: Service, connection: Connection, vt_seconds: float | None
) -> None:
    """By default it is the queue's visibility timeout."""
    await service.enqueue({})
    job = await service.dequeue(vt_seconds)
    assert job is not None
    end = await connection.fetchval("select vt from pgmq.q_jobs")
    assert end - job.claimed_at == timedelta(seconds=vt_seconds or 30)


@pytest.mark.parametrize("vt_seconds", [0, -1, 0.0001, 43_201, math.nan, math.inf, "5", True])
async def test_a_lease_out_of_range_claims_nothing(
    service: Service, connection: Connection, vt_seconds: Any
) -> None:
    """The error has the range and the value received."""
    await service.enqueue({})
    with pytest.raises(
        InvalidSettingError, match=f"vt_seconds is 0.001 to 43200, got {vt_seconds!r}"
    ):
        await service.dequeue(vt_seconds)
    assert await connection.fetchval("select read_ct from pgmq.q_jobs") == 0


async def test_a_lease_that_ran_out_is_another_attempt(
    service: Service, connection: Connection
) -> None:
    """The job comes back as the next attempt, and the loss is known."""
    (job,) = await claimed(service, 1)
    await expire(connection, job)
    again = await service.dequeue()
    assert again is not None
    assert (again.msg_id, again.attempt, again.lost_attempts) == (job.msg_id, 2, 1)


async def test_a_payload_that_the_model_rejects(pool: Pool, connection: Connection) -> None:
    """It is an error of the caller; the job stays leased and comes back."""
    service = QueueService[int](pool, "jobs", payload_model=int)
    msg_id = await QueueService[Any](pool, "jobs").enqueue({"payload": "text"})
    with pytest.raises(InvalidPayloadError, match="does not fit"):
        await service.dequeue()
    assert (await live(connection))[msg_id]["state"] == "running"


# --- Settling ----------------------------------------------------------------------------------


async def test_acknowledging_ends_a_job(service: Service, connection: Connection) -> None:
    """The message is gone, and the history has its attempt, once."""
    (job,) = await claimed(service, 1)
    assert await service.acknowledge(job)
    assert not await service.acknowledge(job)
    assert await live(connection) == {}
    assert await outcomes(connection, job.msg_id) == [("succeeded", 1)]


async def test_acknowledging_a_live_and_a_gone_job(
    service: Service, connection: Connection
) -> None:
    """A job that is gone is a lost lease, not an exception; the live one is settled."""
    gone, retaken, alive = await claimed(service, 1, 2, 3)
    await connection.execute("delete from pgmq.q_jobs where msg_id = $1", gone.msg_id)
    await expire(connection, retaken)
    second = await service.dequeue()
    assert second is not None
    assert await service.acknowledge_many([gone, alive, retaken]) == [False, True, False]
    assert list(await live(connection)) == [retaken.msg_id]
    assert await outcomes(connection, alive.msg_id) == [("succeeded", 1)]
    assert await outcomes(connection, gone.msg_id) == []
    assert await service.acknowledge(second)
    assert await service.acknowledge_many([]) == []


async def test_a_job_named_twice_is_settled_once(service: Service, connection: Connection) -> None:
    """Of two acknowledgements of one job in a call, exactly one holds."""
    (job,) = await claimed(service, 1)
    assert sorted(await service.acknowledge_many([job, job])) == [False, True]
    assert await outcomes(connection, job.msg_id) == [("succeeded", 1)]


async def test_a_lease_that_ran_out_but_was_not_retaken_still_holds(
    service: Service, connection: Connection
) -> None:
    """A job's outcome can be recorded as long as nobody else has claimed the job."""
    (job,) = await claimed(service, 1)
    await expire(connection, job)
    assert await service.acknowledge(job)


async def test_archiving_keeps_the_message(service: Service, connection: Connection) -> None:
    """The message moves to PGMQ's archive with its id, and the history says so."""
    await service.enqueue({"payload": 7}, headers={"h": 1})
    job = await service.dequeue()
    assert job is not None
    assert await service.archive_job(job)
    assert not await service.archive_job(job)
    assert await live(connection) == {}
    row = await connection.fetchrow("select msg_id, read_ct, message, headers from pgmq.a_jobs")
    assert tuple(row or ()) == (job.msg_id, 1, '{"payload": 7}', '{"h": 1}')
    assert await outcomes(connection, job.msg_id) == [("archived", 1)]


async def test_releasing_gives_the_attempt_back(service: Service, connection: Connection) -> None:
    """The job is ready at once as the same attempt, and nothing is recorded."""
    (job,) = await claimed(service, 1)
    assert await service.release(job)
    assert not await service.release(job)
    row = (await live(connection))[job.msg_id]
    assert (row["state"], row["read_ct"]) == ("ready", 0)
    again = await service.dequeue()
    assert again is not None
    assert (again.msg_id, again.attempt, again.lost_attempts) == (job.msg_id, 1, 0)
    assert await outcomes(connection, job.msg_id) == []


async def test_releasing_does_not_take_a_lease_that_is_lost(
    service: Service, connection: Connection
) -> None:
    """Whoever has lost a job cannot give it back."""
    (job,) = await claimed(service, 1)
    await expire(connection, job)
    again = await service.dequeue()
    assert not await service.release(job)
    assert again is not None
    assert (await live(connection))[job.msg_id]["state"] == "running"
    assert await service.acknowledge(again)


@pytest.mark.parametrize("method", ["acknowledge", "archive_job", "release"])
async def test_a_job_of_another_queue_is_refused(service: Service, pool: Pool, method: str) -> None:
    """Two queues have the same ids: settling in the wrong one would hit a stranger."""
    await create_queue(Database(pool), "other")
    (job,) = await claimed(service, 1)
    other = QueueService[Any](pool, "other")
    with pytest.raises(InvalidJobError, match="belongs to queue 'jobs', not to 'other'"):
        await getattr(other, method)(job)


async def test_the_name_of_who_settles_is_kept(pool: Pool, connection: Connection) -> None:
    """`worker_name` stands in the history."""
    service = QueueService[Any](pool, "jobs", worker_name="by hand")
    (job,) = await claimed(service, 1)
    await service.acknowledge(job)
    assert await connection.fetchval("select worker from meshhook.job_attempts") == "by hand"


async def test_the_times_of_an_attempt_are_in_order(
    service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client whose clock is wrong records no attempt that ended before it began, or later."""
    for offset in (-3600.0, 3600.0):
        (job,) = await claimed(service, 1)
        wrong = job.claimed_at.timestamp() + offset
        monkeypatch.setattr("meshhook.queues.consumer.time.time", partial(float, wrong))
        await service.acknowledge(job)
    rows = await connection.fetch(
        "select enqueued_at <= started_at and started_at <= finished_at "
        "and finished_at <= clock_timestamp() as ok from meshhook.job_attempts"
    )
    assert [row["ok"] for row in rows] == [True, True]


# --- The queue as a whole ----------------------------------------------------------------------


async def test_metrics_by_state(service: Service, connection: Connection) -> None:
    """Each message is counted in one state: ready, scheduled, running, retrying or lost."""
    await service.enqueue_many([{}] * 9)
    await service.enqueue_many([{}] * 2, 3600)
    running, retrying, lost, released = [await service.dequeue() for _ in range(4)]
    assert running
    assert retrying
    assert lost
    assert released
    await connection.execute(
        """update pgmq.q_jobs set vt = now() + interval '1 hour',
           headers = '{"meshhook-settled": 1}' where msg_id = $1""",
        retrying.msg_id,
    )
    await expire(connection, lost)
    await service.release(released)
    metrics = await service.get_queue_metrics()
    assert metrics.queue == "jobs"
    assert metrics.queue_length == 11
    assert (metrics.ready, metrics.scheduled, metrics.running) == (6, 2, 1)
    assert (metrics.retrying, metrics.lost) == (1, 1)
    assert not metrics.capped
    capped = await service.get_queue_metrics(count_limit=3)
    assert capped.capped


async def test_metrics_of_an_empty_queue(service: Service) -> None:
    """Ages of what is not there are None."""
    metrics = await service.get_queue_metrics()
    assert metrics.queue_length == 0
    assert metrics.oldest_message_seconds is None
    assert metrics.newest_message_seconds is None
    assert metrics.oldest_ready_seconds == 0


async def test_ages_are_since_the_enqueue(service: Service, connection: Connection) -> None:
    """The oldest and the newest message have ages; what was never ready has not waited."""
    await service.enqueue_many([{}] * 2, 3600)
    await connection.execute(
        "update pgmq.q_jobs set enqueued_at = now() - make_interval(hours => 3 - msg_id::int)"
    )
    metrics = await service.get_queue_metrics()
    assert metrics.oldest_message_seconds == pytest.approx(7200, abs=60)
    assert metrics.newest_message_seconds == pytest.approx(3600, abs=60)
    assert metrics.oldest_ready_seconds == 0
    await connection.execute("update pgmq.q_jobs set vt = now() - interval '10 min'")
    metrics = await service.get_queue_metrics()
    assert metrics.oldest_ready_seconds == pytest.approx(600, abs=60)


async def test_purging_counts_what_went(service: Service, connection: Connection) -> None:
    """Ready, delayed and leased messages go; the lease of a purged job is lost."""
    await service.enqueue_many([{}] * 3, 3600)
    (job,) = await claimed(service, 1)
    await service.enqueue_many([{}] * 4)
    assert await service.purge_queue() == 8
    assert await service.purge_queue() == 0
    assert await count(connection) == 0
    assert not await service.acknowledge(job)


async def test_purging_goes_in_chunks(
    service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one chunk is deleted by more than one statement, and all are counted."""
    monkeypatch.setattr("meshhook.administration.purges.PURGE_CHUNK_MESSAGES", 4)
    await service.enqueue_many([{}] * 11)
    assert await service.purge_queue() == 11


async def test_a_purge_leaves_what_is_enqueued_meanwhile(
    service: Service, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends, and takes what was there when it was asked for: in chunks, the rest included."""
    monkeypatch.setattr("meshhook.administration.purges.PURGE_CHUNK_MESSAGES", 2)
    assert await service.purge_queue() == 0
    await service.enqueue_many([{}] * 5)
    await connection.execute(
        """
        create function public.enqueue_meanwhile() returns trigger language plpgsql as
        $$ begin perform pgmq.send('jobs', '{"payload": "meanwhile"}'); return null; end $$;
        create trigger enqueue_meanwhile after delete on pgmq.q_jobs
        for each statement execute function public.enqueue_meanwhile();
        """
    )
    assert await service.purge_queue() == 5
    left = await connection.fetch("select message->>'payload' as payload from pgmq.q_jobs")
    assert {row["payload"] for row in left} == {"meanwhile"}
    assert len(left) >= 3


async def test_purging_leaves_dead_letters_and_history(
    service: Service, connection: Connection
) -> None:
    """What is over is not purged."""
    (job,) = await claimed(service, 1)
    await service.acknowledge(job)
    await connection.execute("select pgmq.send('jobs_dlq', '{}')")
    await service.purge_queue()
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 1
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 1


async def test_settings_are_read_now_and_then(
    service: Service,
    statements: Statements,
    connection: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are at most five seconds old, and not read at every call."""
    assert not (await service.get_config()).paused
    await set_queue_config(connection, "jobs", paused=True)
    assert not (await service.get_config()).paused
    await eventually(lambda: statements.settings_reads == 1)
    monkeypatch.setattr("meshhook.settings_cache.FRESH_SECONDS", 0)
    assert (await service.get_config()).paused
    await eventually(lambda: statements.settings_reads == 2)


# --- Errors ------------------------------------------------------------------------------------

CALLS: dict[str, Callable[[Service], Any]] = {
    "enqueue": lambda service: service.enqueue({}),
    "enqueue_many": lambda service: service.enqueue_many([{}]),
    "dequeue": lambda service: service.dequeue(),
    "get_queue_metrics": lambda service: service.get_queue_metrics(),
    "purge_queue": lambda service: service.purge_queue(),
    "get_config": lambda service: service.get_config(),
}


@pytest.mark.parametrize("call", CALLS)
async def test_a_queue_that_is_not_there(pool: Pool, call: str) -> None:
    """Every method names the command that makes it."""
    with pytest.raises(QueueNotFoundError, match="meshhook queue create none"):
        await CALLS[call](QueueService[Any](pool, "none"))


@pytest.mark.parametrize("call", [call for call in CALLS if call != "get_config"])
async def test_a_queue_that_was_dropped_meanwhile(service: Service, pool: Pool, call: str) -> None:
    """A service that has used the queue before says that it is gone, not that a schema lacks."""
    await service.enqueue({})
    await service.dequeue()
    await drop_queue(Database(pool), "jobs")
    with pytest.raises(QueueNotFoundError, match="meshhook queue create jobs"):
        await CALLS[call](service)


async def test_a_dropped_queue_in_the_callers_transaction(service: Service, pool: Pool) -> None:
    """Joining a transaction gives the same error."""
    await service.enqueue({})
    await drop_queue(Database(pool), "jobs")
    async with pool.acquire() as own:
        with pytest.raises(QueueNotFoundError, match="meshhook queue create jobs"):
            await service.enqueue({}, connection=own)


async def test_settling_in_a_dropped_queue(service: Service, pool: Pool) -> None:
    """Settling says that the queue is gone, too."""
    (job,) = await claimed(service, 1)
    assert await service.purge_queue() == 1
    await drop_queue(Database(pool), "jobs")
    for settle in (service.acknowledge, service.archive_job, service.release):
        with pytest.raises(QueueNotFoundError):
            await settle(job)


async def test_a_queue_that_was_made_again_is_used(service: Service, pool: Pool) -> None:
    """Dropped and created again, the queue works without a new service."""
    (job,) = await claimed(service, 1)
    await drop_queue(Database(pool), "jobs")
    await create_queue(Database(pool), "jobs")
    (again,) = await claimed(service, 2)
    assert again.payload == 2
    assert await service.acknowledge(again)
    assert not await service.acknowledge(job)


async def test_a_read_only_database_takes_no_jobs(database_url: str) -> None:
    """Enqueuing and claiming name the cause and the remedy, and are not repeated."""
    connection = await asyncpg.connect(
        database_url, server_settings={"default_transaction_read_only": "on"}
    )
    service = QueueService[Any](connection, "jobs")
    try:
        for call in ("enqueue", "enqueue_many", "dequeue", "purge_queue"):
            with pytest.raises(DatabaseReadOnlyError, match="primary server"):
                await CALLS[call](service)
    finally:
        await connection.close()


def test_a_wrong_source_or_name_is_refused_at_once(pool: Pool) -> None:
    """What cannot work is an error when the service is made."""
    with pytest.raises(
        InvalidSettingError, match="expected an asyncpg pool or connection, got int"
    ):
        QueueService[Any](3, "jobs")
    with pytest.raises(InvalidSettingError, match="must start with postgresql://"):
        QueueService[Any]("http://localhost/jobs", "jobs")
    with pytest.raises(InvalidQueueNameError):
        QueueService[Any](pool, "Jobs")


@pytest.mark.parametrize(("dlq_enabled", "outcome"), [(True, "dead_lettered"), (False, "archived")])
async def test_a_job_whose_attempts_are_used_up_is_not_handed_out(
    service: Service, pool: Pool, connection: Connection, dlq_enabled: bool, outcome: str
) -> None:
    """By hand as by a worker: after the last lost attempt it is a dead letter, or is archived."""
    await set_queue_config(Database(pool), "jobs", max_retry_attempts=2, dlq_enabled=dlq_enabled)
    msg_id = await service.enqueue({"payload": "kills"})
    for attempt in (1, 2):
        job = await service.dequeue()
        assert job is not None
        assert (job.msg_id, job.attempt) == (msg_id, attempt)
        await expire(connection, job)
    healthy = await service.enqueue({"payload": "healthy"})
    job = await service.dequeue()
    assert job is not None
    assert job.msg_id == healthy
    assert await service.acknowledge(job)
    assert await service.dequeue() is None
    assert await live(connection) == {}
    assert await outcomes(connection, msg_id) == [("lost", 1), ("lost", 2), (outcome, 3)]
    if dlq_enabled:
        died = await connection.fetchval(
            "select headers -> 'meshhook-dead-letter' ->> 'error_type' from pgmq.q_jobs_dlq"
        )
        assert died == "LeaseLost"
