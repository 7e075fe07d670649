"""run_job and make_job: the outcome of one attempt, without a database."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel

from meshhook import (
    Cancel,
    DeadLetter,
    Done,
    FollowUp,
    InvalidHandlerError,
    InvalidJobError,
    InvalidSettingError,
    Job,
    JobTooLargeError,
    QueueConfig,
    RetryAfter,
    Snooze,
    WorkflowJob,
    create_job_handler,
    get_current_job,
)
from meshhook.queue_config import QueueSettings
from meshhook.testing import AttemptOutcome, make_job, run_job


class Greeting(BaseModel):
    """The payload of these tests."""

    name: str
    times: int = 1


class GreetingError(Exception):
    """The error of these tests."""


@create_job_handler(payload_model=Greeting)
async def greet(job: Job[Greeting]) -> None:
    """Succeed, after a wait."""
    await asyncio.sleep(0)
    assert isinstance(job.payload, Greeting)


async def fail(_: Job[Any]) -> None:
    """Fail."""
    raise GreetingError("nobody is there")


async def test_a_handler_that_returns_has_succeeded() -> None:
    """The result has the outcome, no error, and the job that was passed to the handler."""
    result = await run_job(greet, {"name": "Ada"}, run_id="run-1", headers={"x": 1})
    assert result.outcome == "succeeded"
    assert result.outcome is AttemptOutcome.SUCCEEDED
    assert (result.delay_seconds, result.error, result.error_type) == (0, None, None)
    assert (result.job.payload, result.job.run_id) == (Greeting(name="Ada"), "run-1")
    assert result.job.headers == {"x": 1}


@pytest.mark.parametrize(
    ("end", "outcome", "delay_seconds"),
    [
        (Done(), "succeeded", 0),
        (RetryAfter(7), "retried", 7),
        (Snooze(8, "later"), "snoozed", 8),
        (DeadLetter("no"), "dead_lettered", 0),
        (Cancel("no more"), "cancelled", 0),
    ],
)
@pytest.mark.parametrize("is_raised", [True, False])
async def test_an_outcome_counts_returned_or_raised(
    end: Exception, outcome: str, delay_seconds: float, is_raised: bool
) -> None:
    """An outcome has the same effect whether it is returned or raised, and is not an error."""

    async def ask(_: Job[Any]) -> object:
        if is_raised:
            raise end
        return end

    result = await run_job(ask)
    assert (result.outcome, result.delay_seconds) == (outcome, delay_seconds)
    assert result.error is None


@pytest.mark.parametrize(("attempt", "delay_seconds"), [(1, 1), (2, 2), (3, 4), (4, 8)])
async def test_a_failure_is_retried_with_the_backoff_of_a_new_queue(
    attempt: int, delay_seconds: float
) -> None:
    """The delay has no jitter, so it can be asserted, and the result holds the exception."""
    result = await run_job(fail, attempt=attempt)
    assert (result.outcome, result.delay_seconds) == ("retried", delay_seconds)
    assert isinstance(result.error, GreetingError)
    assert (result.error_type, result.error_message) == ("GreetingError", "nobody is there")
    assert "in fail" in str(result.error_stack)
    assert "meshhook/testing" not in str(result.error_stack)


async def test_the_last_attempt_ends_in_a_dead_letter() -> None:
    """A failure in the last attempt makes the job a dead letter."""
    result = await run_job(fail, attempt=5)
    assert result.outcome == "dead_lettered"
    assert result.job.is_last_attempt


async def test_settings_are_those_that_differ_or_a_whole_set() -> None:
    """Settings can be changed one by one, or given as a complete set."""
    changed = {"max_retry_attempts": 1, "dlq_enabled": False}
    assert (await run_job(fail, settings=changed)).outcome == "archived"
    whole = QueueSettings(retry_backoff_base_ms=250, retry_jitter=0)
    assert (await run_job(fail, settings=whole)).delay_seconds == 0.25
    assert issubclass(QueueConfig, QueueSettings)
    with pytest.raises(InvalidSettingError, match="max_retries"):
        await run_job(fail, settings={"max_retries": 3})


async def test_a_payload_that_the_model_rejects_becomes_a_dead_letter() -> None:
    """A payload that the model rejects stops the handler from running; the field is named."""
    result = await run_job(greet, {"nam": "Ada"})
    assert (result.outcome, result.error_type) == ("dead_lettered", "InvalidPayload")
    assert "name: Field required" in str(result.error_message)


async def test_the_payload_goes_through_json() -> None:
    """The payload is written as JSON and read by the model; what is not JSON is refused."""
    result = await run_job(greet, Greeting(name="Ada", times=2))
    assert result.job.payload == Greeting(name="Ada", times=2)
    seen: list[Any] = []
    await run_job(lambda job: seen.append(job.payload), {"id": UUID(int=1)})
    assert seen == [{"id": "00000000-0000-0000-0000-000000000001"}]
    with pytest.raises(InvalidJobError, match=r"job\.what"):
        await run_job(greet, {"what": object()})
    with pytest.raises(JobTooLargeError):
        await run_job(greet, {"name": "x" * 2_000_000})


async def test_a_workflow_job_brings_its_identifiers() -> None:
    """The identifiers of a WorkflowJob are those of the job."""
    job = WorkflowJob(run_id="r", workflow_id="w", project_id="p", payload={"name": "Ada"})
    found = (await run_job(greet, job)).job
    assert (found.run_id, found.workflow_id, found.project_id) == ("r", "w", "p")


async def test_a_time_limit_holds() -> None:
    """An attempt that exceeds the time limit fails with JobTimeoutError."""

    async def wait(_: Job[Any]) -> None:
        await asyncio.Event().wait()

    result = await run_job(wait, settings={"job_timeout_seconds": 0.01})
    assert (result.outcome, result.error_type) == ("retried", "JobTimeoutError")


async def test_a_plain_function_runs_in_a_thread() -> None:
    """A plain function runs in a thread, and what it returns is awaited in the event loop."""
    seen: list[threading.Thread] = []

    async def rest() -> Done:
        seen.append(threading.current_thread())
        return Done()

    def start(_: Job[Any]) -> object:
        seen.append(threading.current_thread())
        return rest()

    assert (await run_job(start)).outcome == "succeeded"
    assert seen[0] is not threading.main_thread()
    assert seen[1] is threading.main_thread()


async def test_lost_attempts_can_be_told_of() -> None:
    """A job with too many lost attempts becomes a dead letter without a run."""
    seen: list[int] = []
    result = await run_job(lambda job: seen.append(job.lost_attempts), attempt=3, lost_attempts=2)
    assert (result.outcome, seen) == ("succeeded", [2])
    result = await run_job(lambda job: seen.append(job.lost_attempts), attempt=6, lost_attempts=5)
    assert (result.outcome, result.error_type, seen) == ("dead_lettered", "LeaseLost", [2])


async def test_completing_within_a_transaction_is_taken_at_its_word() -> None:
    """job.complete() accepts any connection; a handler that raises afterwards has rolled back."""

    async def complete(job: Job[Any]) -> None:
        await job.complete(connection=None)

    async def complete_and_fail(job: Job[Any]) -> None:
        await job.complete(connection=None)
        raise GreetingError

    done = await run_job(complete)
    assert (done.outcome, done.was_completed, done.error) == ("succeeded", True, None)
    failed = await run_job(complete_and_fail)
    assert (failed.outcome, failed.was_completed) == ("retried", True)
    assert isinstance(failed.error, GreetingError)


async def test_what_follows_a_completed_job_is_told() -> None:
    """With its result, where results are kept; what no worker would take is refused."""
    follow_ups = [FollowUp("mails", {"order": 7}), FollowUp("surveys")]

    async def complete(job: Job[Any]) -> None:
        await job.complete(connection=None, then=follow_ups, result={"sum": 3})

    async def complete_wrongly(job: Job[Any]) -> None:
        await job.complete(connection=None, then=FollowUp("mails", {"order": {1, 2}}))

    done = await run_job(complete, settings={"results": True})
    assert (done.was_completed, done.then) == (True, tuple(follow_ups))
    assert done.result == {"sum": 3}
    assert (await run_job(complete)).result is None
    failed = await run_job(complete_wrongly)
    assert (failed.outcome, failed.then) == ("retried", ())
    assert isinstance(failed.error, InvalidJobError)


async def test_what_several_tasks_say_follows_is_told() -> None:
    """Outcomes that tasks of a group raise are one outcome, as in a worker."""

    async def handler(_: Job[Any]) -> None:
        raise ExceptionGroup("tasks", [Done(then=FollowUp("a")), Done(then=FollowUp("b"))])

    found = await run_job(handler)
    assert found.then == (FollowUp("a"), FollowUp("b"))
    assert found.error is None


async def test_the_handler_has_its_job_and_a_context_of_its_own() -> None:
    """The handler sees the test's context variables, and its own changes stay with it."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("of the test")
    seen: list[object] = []

    async def look(job: Job[Any]) -> None:
        seen.extend([variable.get(), get_current_job() is job])
        variable.set("of the handler")

    await run_job(look)
    assert (seen, variable.get()) == (["of the test", True], "of the test")


async def test_a_handler_that_cancels_its_task_fails_alone() -> None:
    """If a handler cancels its own task, its attempt fails and the test continues."""

    async def cancel(_: Job[Any]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    result = await run_job(cancel)
    assert (result.outcome, result.error_type) == ("retried", "CancelledError")


async def test_a_test_that_is_cancelled_cancels_the_handler() -> None:
    """If the test is cancelled, so is the handler."""
    started, ended = asyncio.Event(), asyncio.Event()

    async def wait(_: Job[Any]) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(run_job(wait))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_the_result_says_what_a_failed_assertion_has_to() -> None:
    """The repr of a result shows outcome, delay and error."""
    assert repr(await run_job(greet, {"name": "Ada"})) == "<AttemptResult succeeded>"
    assert repr(await run_job(fail, attempt=2)) == (
        "<AttemptResult retried in 2 s: GreetingError: nobody is there>"
    )


async def test_no_handler_and_no_attempt_are_refused() -> None:
    """Wrong arguments are refused with a message that names them."""
    handler: Any = 3
    with pytest.raises(InvalidHandlerError):
        await run_job(handler)
    with pytest.raises(InvalidSettingError, match="attempt is a whole number from 1, got 0"):
        await run_job(greet, attempt=0)
    with pytest.raises(InvalidSettingError, match=r"lost_attempts \(2\) must be less than attempt"):
        await run_job(greet, attempt=2, lost_attempts=2)


def test_a_job_can_be_made_for_the_function_itself() -> None:
    """make_job keeps the payload as given, and has the body that a producer would store."""
    job = make_job(Greeting(name="Ada"), run_id="r", attempt=2, max_attempts=3)
    assert (job.payload, job.run_id, job.is_last_attempt) == (Greeting(name="Ada"), "r", False)
    assert job.body == '{"run_id":"r","payload":{"name":"Ada","times":1}}'
    assert make_job().payload == {}


def test_neither_pytest_nor_a_database_is_imported() -> None:
    """run_job imports neither pytest nor the embedded PostgreSQL."""
    code = """
import asyncio, sys
from meshhook.testing import run_job
assert asyncio.run(run_job(lambda job: None)).outcome == "succeeded"
print(sorted(set(sys.modules) & {"pytest", "_pytest", "meshhook.embedded", "typer", "psutil"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
