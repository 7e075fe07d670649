"""QueueDatabase: assertions on jobs and dead letters, and time that passes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import ANY

import asyncpg
import pytest
from pydantic import BaseModel

from meshhook import (
    InvalidSettingError,
    QueueNotFoundError,
    QueueService,
    WorkflowJob,
)
from meshhook.testing import QueueDatabase


class Greeting(BaseModel):
    """A payload."""

    name: str


@pytest.fixture
async def db(meshhook_database: QueueDatabase) -> QueueDatabase:
    """The database of the test, with the queue `jobs`."""
    await meshhook_database.create_queue("jobs", max_retry_attempts=2)
    return meshhook_database


async def fail(_: Any) -> None:
    """Fail."""
    raise ValueError("no such name")


async def test_what_is_enqueued_is_found_by_a_part_of_it(db: QueueDatabase) -> None:
    """Jobs are found by part of their payload and by identifiers, and are returned."""
    msg_id = await db.enqueue("jobs", {"name": "Ada", "times": 2}, run_id="run-1", workflow_id="w")
    await db.enqueue("jobs", Greeting(name="Grace"), run_id="run-2")

    [job] = await db.assert_enqueued("jobs", {"name": "Ada"}, run_id="run-1", count=1)

    assert (job.msg_id, job.state, job.attempts) == (msg_id, "ready", 0)
    assert (job.payload, job.workflow_id) == ({"name": "Ada", "times": 2}, "w")
    assert [each.msg_id for each in await db.assert_enqueued("jobs", count=2)] == [1, 2]
    await db.assert_enqueued("jobs", Greeting(name="Grace"))
    await db.assert_enqueued(payload={"name": ANY}, count=2)
    await db.refute_enqueued("jobs", {"name": "Barbara"})
    await db.refute_enqueued("jobs", {"name": "Ada"}, run_id="run-2")


async def test_messages_of_other_clients_are_seen(
    db: QueueDatabase, connection: asyncpg.Connection[Any]
) -> None:
    """A message of another PGMQ client is its own payload, as it is for a handler."""
    await connection.execute(
        'select pgmq.send(\'jobs\', \'{"run_id": "r", "x": 1}\', \'{"h": 2}\'::jsonb)'
    )
    [job] = await db.assert_enqueued("jobs", {"x": 1}, run_id="r", headers={"h": 2})
    assert job.payload == {"run_id": "r", "x": 1}


async def test_a_failure_shows_what_is_there_and_what_differs(db: QueueDatabase) -> None:
    """The message of a failed assertion lists the jobs, each with its first difference."""
    await db.enqueue("jobs", {"name": "Grace"}, run_id="run-1")
    await db.enqueue("jobs", {"names": []}, run_id="run-2", delay=3_600)
    with pytest.raises(AssertionError) as caught:
        await db.assert_enqueued("jobs", {"name": "Ada"}, count=1)
    lines = str(caught.value).split("\n")
    assert lines[:3] == [
        "expected 1 job in queue 'jobs' with payload={'name': 'Ada'}, found none",
        "There are 2 jobs in queue 'jobs':",
        "  1 (ready) run_id='run-1' {\"name\": \"Grace\"}  <- payload.name is 'Grace', not 'Ada'",
    ]
    assert lines[3].startswith("  2 (scheduled, due in 3")
    assert lines[3].endswith("<- payload.name is missing")


async def test_a_refutation_shows_what_should_not_be_there(db: QueueDatabase) -> None:
    """A failed refutation lists the matching jobs first."""
    await db.enqueue("jobs", {"name": "Eve"})
    await db.enqueue("jobs", {"name": "Ada"})
    with pytest.raises(AssertionError) as caught:
        await db.refute_enqueued(payload={"name": "Ada"})
    assert str(caught.value).split("\n") == [
        "expected no jobs in any queue with payload={'name': 'Ada'}, found 1",
        "There are 2 jobs in any queue:",
        '  jobs/2 (ready) {"name": "Ada"}  <- matches',
        "  jobs/1 (ready) {\"name\": \"Eve\"}  <- payload.name is 'Eve', not 'Ada'",
    ]


async def test_a_long_list_is_cut(db: QueueDatabase, pool: asyncpg.Pool[Any]) -> None:
    """The message lists at most twenty jobs, each in one short line."""
    async with QueueService[Any](pool, "jobs") as queue:
        await queue.enqueue_many([{"n": n, "text": "x" * 1_000} for n in range(25)])
    with pytest.raises(AssertionError, match="and 5 more") as caught:
        await db.assert_enqueued("jobs", {"n": 25})
    assert len(str(caught.value)) < 6_000


async def test_an_empty_queue_says_so(db: QueueDatabase) -> None:
    """The message says so if the queue is empty."""
    with pytest.raises(AssertionError, match="There is no job in queue 'jobs'"):
        await db.assert_enqueued("jobs")


async def test_the_tests_own_transaction_can_be_looked_into(
    db: QueueDatabase, connection: asyncpg.Connection[Any]
) -> None:
    """With `connection`, the jobs of an uncommitted transaction are seen, in their state now."""
    queue = QueueService[Any](connection, "jobs")
    transaction = connection.transaction()
    await transaction.start()
    job = WorkflowJob(run_id="r", workflow_id="w", project_id="p", payload={"name": "Ada"})
    await queue.enqueue(job, connection=connection)
    await queue.enqueue(job, 60, connection=connection)

    await db.assert_enqueued("jobs", {"name": "Ada"}, state="ready", count=1, connection=connection)
    await db.assert_enqueued("jobs", state="scheduled", count=1, connection=connection)
    assert len(await db.all_enqueued(connection=connection)) == 2
    await db.refute_enqueued("jobs")
    await transaction.rollback()
    await db.refute_enqueued("jobs", connection=connection)


async def test_a_delay_can_be_asserted(db: QueueDatabase) -> None:
    """delay_seconds is the time between enqueueing and the due time."""
    await db.enqueue("jobs", {}, delay=900)
    [job] = await db.assert_enqueued("jobs", state="scheduled")
    assert job.delay_seconds == pytest.approx(900, abs=1)
    assert 800 < job.due_in_seconds <= 900


async def test_time_that_passes_makes_delays_due(db: QueueDatabase) -> None:
    """Messages whose delay has passed become due, in their order."""
    for delay_seconds in (300, 60, 120):
        await db.enqueue("jobs", {"delay": delay_seconds}, delay=delay_seconds)

    assert await db.advance(30) == 0
    assert await db.advance(timedelta(minutes=2), "jobs") == 2

    ready = await db.all_enqueued("jobs", state="ready")
    ready.sort(key=lambda job: job.ready_at)
    assert [job.payload["delay"] for job in ready] == [60, 120]
    [waiting] = await db.all_enqueued("jobs", state="scheduled")
    assert waiting.due_in_seconds == pytest.approx(300 - 30 - 120, abs=29)


async def test_time_that_passes_leaves_leases_alone_unless_told(
    db: QueueDatabase, pool: asyncpg.Pool[Any]
) -> None:
    """Leases end earlier only if the test asks for it; their jobs are then lost."""
    await db.enqueue("jobs", {})
    async with QueueService[Any](pool, "jobs") as queue:
        assert await queue.dequeue() is not None
        assert await db.advance(3_600) == 0
        await db.assert_enqueued("jobs", state="running")
        assert await db.advance(3_600, with_leases=True) == 1
        await db.assert_enqueued("jobs", state="lost")
        job = await queue.dequeue()
    assert job is not None
    assert (job.attempt, job.lost_attempts) == (2, 1)


async def test_time_goes_forward(db: QueueDatabase) -> None:
    """A negative time is refused."""
    with pytest.raises(InvalidSettingError, match="a delay is 0 to"):
        await db.advance(-1)


async def test_dead_letters_are_values_that_can_be_asserted_and_replayed(
    db: QueueDatabase,
) -> None:
    """Dead letters can be found by payload, error and attempts, and be replayed."""
    await db.enqueue("jobs", {"name": "Ada"}, run_id="run-1")
    await db.enqueue("jobs", {"name": "Grace"}, run_id="run-2")
    await db.drain(fail, with_retries=True)

    [letter] = await db.assert_dead_lettered("jobs", {"name": "Ada"}, error_type="ValueError")
    assert (letter.run_id, letter.attempts, letter.error_message) == ("run-1", 2, "no such name")
    assert {each.run_id for each in await db.dead_letters("jobs")} == {"run-1", "run-2"}
    assert await db.dead_letters("jobs", error_type="KeyError") == []
    await db.refute_enqueued("jobs")

    msg_ids = await db.replay("jobs", error_type="ValueError")

    assert [job.msg_id for job in await db.assert_enqueued("jobs", count=2)] == msg_ids
    await db.assert_dead_lettered("jobs", count=0)


async def test_a_failed_assertion_shows_the_dead_letters(db: QueueDatabase) -> None:
    """The message of a failed assertion lists the dead letters with their errors."""
    await db.enqueue("jobs", {"name": "Ada"}, run_id="run-1")
    await db.drain(fail, with_retries=True)
    with pytest.raises(AssertionError) as caught:
        await db.assert_dead_lettered("jobs", run_id="run-2", attempts=1)
    lines = str(caught.value).split("\n")
    assert lines[0] == (
        "expected at least one dead letter in queue 'jobs' with run_id='run-2', attempts=1, "
        "found none"
    )
    assert lines[2].startswith("  1 (ValueError: no such name; 2 attempts) run_id='run-1'")
    assert lines[2].endswith("<- run_id is 'run-1', not 'run-2'")


async def test_a_queue_that_is_not_there_is_named(db: QueueDatabase) -> None:
    """A queue that does not exist is named in the error."""
    with pytest.raises(QueueNotFoundError, match="'other'"):
        await db.assert_enqueued("other")
    with pytest.raises(QueueNotFoundError, match="'other'"):
        await db.advance(1, "other")


async def test_the_database_shows_no_password(db: QueueDatabase) -> None:
    """The repr of the object shows host and database, but no password."""
    assert repr(db).startswith("<QueueDatabase database 'test_")
    assert "@" not in repr(db)
    with pytest.raises(InvalidSettingError):
        QueueDatabase("mysql://x")
