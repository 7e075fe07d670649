"""Draining: a real worker runs a test's jobs to their end, without waiting for delays."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel

from meshhook import (
    Cancel,
    DeadLetter,
    InvalidHandlerError,
    InvalidSettingError,
    Job,
    QueueNotFoundError,
    QueueService,
    RetryAfter,
    Snooze,
    create_job_handler,
)
from meshhook.testing import DrainError, JobFailedError, QueueDatabase


class Greeting(BaseModel):
    """A payload."""

    name: str


class GreetingError(Exception):
    """The error of these tests."""


@pytest.fixture
async def db(meshhook_database: QueueDatabase) -> QueueDatabase:
    """The database of the test, with the queue `jobs`."""
    await meshhook_database.create_queue("jobs", max_retry_attempts=3)
    return meshhook_database


async def obey(job: Job[Any]) -> object:
    """End with the outcome that the payload names."""
    match job.payload["end"]:
        case "done":
            return None
        case "retry":
            raise RetryAfter(60)
        case "snooze":
            return Snooze(60)
        case "dead":
            return DeadLetter("no")
        case "cancel":
            raise Cancel
        case other:
            raise GreetingError(other)


async def test_what_is_ready_is_run_and_counted(db: QueueDatabase) -> None:
    """All ready jobs run, outcomes are counted, and messages that are not due stay."""
    for end in ("done", "done", "retry", "snooze", "dead", "cancel"):
        await db.enqueue("jobs", {"end": end})
    await db.enqueue("jobs", {"end": "done"}, delay=60)

    drained = await db.drain(obey)

    assert drained.counts == {
        "succeeded": 2,
        "retried": 1,
        "snoozed": 1,
        "dead_lettered": 1,
        "cancelled": 1,
    }
    assert drained.left == {"retrying": 1, "scheduled": 2}
    assert drained.errors == ()
    assert [each.msg_id for each in drained.attempts] == [1, 2, 3, 4, 5, 6]
    assert (await db.drain(obey)).counts == {}


async def test_jobs_that_jobs_enqueue_are_run_as_well(
    db: QueueDatabase, pool: asyncpg.Pool[Any]
) -> None:
    """Jobs that are enqueued by jobs run too, whichever queue they go to."""
    await db.create_queue("another")
    order: list[str] = []

    async def go_on(job: Job[Any]) -> None:
        order.append(f"{job.queue} {job.payload}")
        if job.payload:
            other = "another" if job.queue == "jobs" else "jobs"
            async with QueueService[Any](pool, other) as queue:
                await queue.enqueue(job.payload - 1)

    await db.enqueue("jobs", 3)
    drained = await db.drain({"another": go_on, "jobs": go_on})
    assert order == ["jobs 3", "another 2", "jobs 1", "another 0"]
    assert (drained.counts, drained.left) == ({"succeeded": 4}, {})


async def test_an_error_is_raised_as_it_is(db: QueueDatabase) -> None:
    """A handler's exception is recorded, and raised at the end with a note that names the job."""
    await db.enqueue("jobs", {"end": "of the world"})
    await db.enqueue("jobs", {"end": "of the day"})
    with pytest.raises(GreetingError, match="of the world") as caught:
        await db.drain(obey)
    assert caught.value.__notes__ == [
        "raised by job 1 of queue 'jobs' in attempt 1, which ended as retried",
        "attempts that failed in this drain: 2",
    ]
    await db.assert_enqueued("jobs", state="retrying", count=2)


async def test_errors_can_be_looked_at_instead(db: QueueDatabase) -> None:
    """With raise_errors=False the result has the exceptions and the recorded errors."""
    await db.enqueue("jobs", {"end": "of the world"}, run_id="run-1")
    drained = await db.drain(obey, raise_errors=False)
    [error] = drained.errors
    [attempt] = drained.attempts
    assert isinstance(error, GreetingError)
    assert (attempt.run_id, attempt.error_type, attempt.outcome) == (
        *("run-1", "GreetingError", "retried"),
    )
    assert str(attempt.error_stack).splitlines()[1].strip().startswith(f'File "{__file__}"')
    assert repr(drained) == (
        "<Drained {'retried': 1}, left {'retrying': 1}, "
        "['jobs/1 attempt 1 retried: GreetingError: of the world']>"
    )


@pytest.mark.parametrize("is_async", [True, False])
async def test_errors_of_plain_functions_and_of_what_they_return(
    db: QueueDatabase, is_async: bool
) -> None:
    """Exceptions of plain functions, and of awaitables they return, are raised as well."""

    async def fail_later(_: Job[Any]) -> None:
        raise GreetingError("later")

    def fail(job: Job[Any]) -> object:
        if is_async:
            return fail_later(job)
        raise GreetingError("at once")

    await db.enqueue("jobs", {})
    with pytest.raises(GreetingError, match="later" if is_async else "at once"):
        await db.drain(fail)


async def test_a_group_of_outcomes_is_no_error(db: QueueDatabase) -> None:
    """An exception group that consists of outcomes is an outcome, not an error."""

    async def ask(_: Job[Any]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(obey_one())

    async def obey_one() -> None:
        raise DeadLetter("no")

    await db.enqueue("jobs", {})
    assert (await db.drain(ask)).counts == {"dead_lettered": 1}


async def test_a_payload_that_is_rejected_is_an_error(db: QueueDatabase) -> None:
    """A rejected payload raises JobFailedError, since no handler has raised anything."""
    await db.enqueue("jobs", {"nam": "Ada"})

    @create_job_handler(payload_model=Greeting)
    async def greet(_: Job[Greeting]) -> None:
        pytest.fail("it must not run")

    with pytest.raises(JobFailedError, match=r"InvalidPayload: .*name: Field required"):
        await db.drain(greet)


async def test_an_attempt_that_runs_too_long_is_an_error(db: QueueDatabase) -> None:
    """An attempt that exceeds the time limit raises JobFailedError, not CancelledError."""
    await db.create_queue("slow", job_timeout_seconds=0.05)
    await db.enqueue("slow", {})

    async def wait(_: Job[Any]) -> None:
        await asyncio.Event().wait()

    with pytest.raises(JobFailedError, match="JobTimeoutError"):
        await db.drain({"slow": wait})


async def test_retries_are_run_to_their_end_without_waiting(db: QueueDatabase) -> None:
    """With with_retries a job goes through all its retries without waiting for the backoff."""
    await db.create_queue(
        "patient", retry_backoff_base_ms=3_600_000, retry_backoff_max_ms=36_000_000
    )
    await db.enqueue("patient", {"end": "never"}, run_id="run-1")

    drained = await db.drain({"patient": obey}, with_retries=True)

    assert drained.counts == {"retried": 4, "dead_lettered": 1}
    assert [each.attempt for each in drained.attempts] == [1, 2, 3, 4, 5]
    assert len(drained.errors) == 5
    await db.assert_dead_lettered("patient", run_id="run-1", attempts=5)


async def test_a_job_may_get_through_at_a_later_attempt(db: QueueDatabase) -> None:
    """With with_retries, errors of attempts are not raised by default."""

    async def fail_once(job: Job[Any]) -> None:
        if job.attempt == 1:
            raise GreetingError

    await db.enqueue("jobs", {})
    assert (await db.drain(fail_once, with_retries=True)).counts == {"retried": 1, "succeeded": 1}


async def test_errors_can_be_raised_where_retries_are_run(db: QueueDatabase) -> None:
    """With raise_errors=True they are raised after the last attempt."""
    await db.enqueue("jobs", {"end": "never"})
    with pytest.raises(GreetingError):
        await db.drain(obey, with_retries=True, raise_errors=True)
    await db.assert_dead_lettered("jobs", attempts=3)


async def test_what_is_scheduled_is_run_in_its_order_if_asked_for(db: QueueDatabase) -> None:
    """With with_scheduled, delayed jobs run in the order of their due times."""
    for delay_seconds in (7_200, 3_600):
        await db.enqueue("jobs", delay_seconds, delay=delay_seconds)
    order: list[int] = []

    async def note(job: Job[Any]) -> None:
        order.append(job.payload)
        if job.payload == 3_600:
            await db.enqueue("jobs", 1_800, delay=1_800)

    assert (await db.drain(note)).counts == {}
    drained = await db.drain(note, with_scheduled=True)
    assert (drained.counts, order) == ({"succeeded": 3}, [3_600, 1_800, 7_200])


async def test_jobs_that_never_end_are_given_up(db: QueueDatabase) -> None:
    """A drain that exceeds max_attempts is given up, and lists the jobs that are left."""
    await db.enqueue("jobs", {"end": "snooze"}, run_id="run-1")
    with pytest.raises(DrainError, match="max_attempts is 20") as caught:
        await db.drain(obey, with_scheduled=True, max_attempts=20)
    assert "jobs/1 (" in str(caught.value)
    assert "run_id='run-1'" in str(caught.value)


async def test_a_handler_that_hangs_is_given_up(db: QueueDatabase) -> None:
    """A drain that exceeds its time limit is given up, and its running job is released."""
    await db.enqueue("jobs", {})

    async def wait(_: Job[Any]) -> None:
        await asyncio.Event().wait()

    with pytest.raises(DrainError, match=r"did not end within 0\.2 seconds") as caught:
        await db.drain(wait, timeout_seconds=0.2)
    assert "Jobs left in the queues: 1\n  jobs/1 (" in str(caught.value)
    [job] = await db.assert_enqueued("jobs", state="ready")
    assert job.attempts == 0


async def test_what_others_have_leased_is_not_waited_for(
    db: QueueDatabase, pool: asyncpg.Pool[Any]
) -> None:
    """A drain does not wait for jobs that others have leased."""
    for end in ("leased", "done"):
        await db.enqueue("jobs", {"end": end})
    async with QueueService[Any](pool, "jobs") as queue:
        leased = await queue.dequeue()
        drained = await db.drain(obey)
        assert (drained.counts, drained.left) == ({"succeeded": 1}, {"running": 1})
        assert leased is not None
        assert await queue.acknowledge(leased)


async def test_a_lost_job_is_taken_up(db: QueueDatabase, pool: asyncpg.Pool[Any]) -> None:
    """A job whose lease was lost is claimed and run."""
    await db.enqueue("jobs", {})
    async with QueueService[Any](pool, "jobs") as queue:
        await queue.dequeue()
    await db.advance(60, with_leases=True)
    lost: list[int] = []
    await db.drain(lambda job: lost.append(job.lost_attempts))
    assert lost == [1]


async def test_several_jobs_may_run_at_once(db: QueueDatabase) -> None:
    """With `concurrency`, jobs run at the same time."""
    both = asyncio.Barrier(2)
    for _ in range(2):
        await db.enqueue("jobs", {})

    async def meet(_: Job[Any]) -> None:
        await both.wait()

    assert (await db.drain(meet, concurrency=2)).counts == {"succeeded": 2}


async def test_a_job_may_settle_itself(db: QueueDatabase, pool: asyncpg.Pool[Any]) -> None:
    """A job that its handler completes in a transaction is counted."""

    async def complete(job: Job[Any]) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await job.complete(connection=connection)

    await db.enqueue("jobs", {})
    drained = await db.drain(complete)
    assert (drained.counts, drained.left) == ({"succeeded": 1}, {})


async def test_a_paused_queue_is_not_waited_for(db: QueueDatabase) -> None:
    """Draining a paused queue is an error, since its jobs are not claimed."""
    await db.create_queue("idle", paused=True)
    with pytest.raises(DrainError, match="queue 'idle' is paused"):
        await db.drain({"idle": obey})


async def test_wrong_arguments_are_named(
    db: QueueDatabase, meshhook_database_url: str, connection: asyncpg.Connection[Any]
) -> None:
    """Wrong handlers and queues are refused with a message that names them."""
    wrong: Any = 3
    with pytest.raises(InvalidHandlerError):
        await db.drain(wrong)
    with pytest.raises(QueueNotFoundError, match="'other'"):
        await db.drain(obey, "other")
    with pytest.raises(QueueNotFoundError, match="'other'"):
        await db.drain({"other": obey})
    with pytest.raises(InvalidHandlerError, match="no handler for queue 'other'; there are: jobs"):
        await db.drain({"jobs": obey}, "other")
    await connection.execute("select meshhook.drop_queue('jobs')")
    with pytest.raises(InvalidSettingError, match="there is no queue to drain"):
        await QueueDatabase(meshhook_database_url).drain(obey)


async def test_a_drain_runs_batches(db: QueueDatabase) -> None:
    """Each attempt has the error of its job."""

    @create_job_handler(batch=10)
    async def handle(jobs: list[Job[Any]]) -> dict[int, Exception]:
        return {job.msg_id: GreetingError("no") for job in jobs if job.payload["n"] == 1}

    for number in range(3):
        await db.enqueue("jobs", {"n": number})
    drained = await db.drain(handle, raise_errors=False)
    assert drained.counts == {"succeeded": 2, "retried": 1}
    assert [type(error) for error in drained.errors] == [GreetingError]
