"""run_batch: the outcomes of a batch, without a database."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from meshhook import (
    App,
    Done,
    FollowUp,
    InvalidHandlerError,
    InvalidSettingError,
    Job,
    Snooze,
    create_job_handler,
    get_current_job,
)
from meshhook.observability import tracebacks
from meshhook.testing import run_batch, run_job
from meshhook.worker import error_texts


class Reading(BaseModel):
    """The payload of these tests."""

    value: int


@create_job_handler(batch=10, payload_model=Reading)
async def store(jobs: list[Job[Reading]]) -> list[Any]:
    """End each job as its value says."""
    assert get_current_job() is None
    ends: dict[int, Any] = {1: Snooze(60), 2: ValueError("two"), 3: Done(result={"n": 3})}
    return [ends.get(job.payload.value) for job in jobs]


async def test_the_error_of_a_batch_is_read_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each job has all of it in its record; to show a deep trace for each blocked the loop."""
    read: list[BaseException] = []

    def trace_of(error: BaseException, tail: Any) -> str:
        read.append(error)
        return tracebacks.trace_of(error, tail)

    monkeypatch.setattr(error_texts, "trace_of", trace_of)
    error = RuntimeError("down")

    @create_job_handler(batch=100)
    async def fail(jobs: list[Job[Any]]) -> None:
        raise error

    with caplog.at_level("WARNING", logger="meshhook"):
        results = await run_batch(fail, [1] * 100)
    assert {(each.outcome, each.error_type, each.error_message) for each in results} == {
        ("retried", "RuntimeError", "down")
    }
    assert read == [error]
    assert len(caplog.records) == 100
    assert [bool(record.exc_info) for record in caplog.records] == [True] + [False] * 99


async def test_a_handler_may_sort_its_list() -> None:
    """Of jobs or of payloads: the end of each is that which stands where it stands."""
    app = App()

    @app.job("readings", batch=10)
    async def of_jobs(jobs: list[Job[int]]) -> list[str]:
        jobs.sort(key=lambda job: job.payload)
        return [f"end of {job.payload}" for job in jobs]

    @app.job("others", batch=10)
    def of_payloads(numbers: list[int]) -> tuple[str, ...]:
        numbers.sort()
        return tuple(f"end of {number}" for number in numbers)

    @app.job("words", batch=10)
    async def emptied(words: list[str]) -> list[str]:
        return [words.pop() for _ in range(len(words))]

    for handler in (of_jobs, of_payloads):
        results = await run_batch(handler, [30, 10, 20], settings={"results": True})
        assert [each.result for each in results] == ["end of 30", "end of 10", "end of 20"]
    for result in await run_batch(emptied, ["a", "b"], attempt=1):
        assert (result.outcome, result.error_type) == ("retried", "UnusableResultError")


async def test_each_job_has_its_result() -> None:
    """In the order of the payloads; one that does not fit is not passed to the handler."""
    results = await run_batch(
        store,
        [Reading(value=0), {"value": 1}, {"value": "x"}, {"value": 2}, {"value": 3}],
        settings={"results": True},
    )
    assert [result.outcome for result in results] == [
        *("succeeded", "snoozed", "dead_lettered", "retried", "succeeded")
    ]
    assert [result.job.msg_id for result in results] == [1, 2, 3, 4, 5]
    assert results[2].error_type == "InvalidPayload"
    assert isinstance(results[3].error, ValueError)
    assert results[4].result == {"n": 3}


async def test_an_error_fails_every_job() -> None:
    """By its own attempts."""

    @create_job_handler(batch=10)
    def fail(_: list[Job[Any]]) -> None:
        raise LookupError("nobody is there")

    results = await run_batch(fail, [1, 2], attempt=5)
    assert [(result.outcome, result.error_type) for result in results] == [
        ("dead_lettered", "LookupError"),
        ("dead_lettered", "LookupError"),
    ]


async def test_a_handler_completes_some_jobs() -> None:
    """What it raises afterwards is the end of the others."""

    @create_job_handler(batch=10)
    async def handle(jobs: list[Job[Any]]) -> list[Any]:
        await jobs[0].complete(connection=object(), then=FollowUp("others", {}))
        return [None, ValueError("not this one")]

    first, second = await run_batch(handle, [1, 2])
    assert (first.outcome, first.was_completed, len(first.then)) == ("succeeded", True, 1)
    assert (second.outcome, second.was_completed) == ("retried", False)


async def test_a_handler_of_an_app_takes_its_queue_along() -> None:
    """And its settings."""
    app = App()

    @app.job("readings", batch=2, max_retry_attempts=1)
    async def handle(readings: list[Reading]) -> None:
        raise ValueError(readings[0].value)

    results = await run_batch(handle, [Reading(value=7), Reading(value=8)])
    assert {result.job.queue for result in results} == {"readings"}
    assert {result.outcome for result in results} == {"dead_lettered"}


@pytest.mark.parametrize("payloads", [[], [1] * 11, "text", 7, None])
async def test_how_many_payloads(payloads: Any) -> None:
    """As many as the handler takes."""
    with pytest.raises(InvalidSettingError, match="payloads is a list of 1 to 10"):
        await run_batch(store, payloads)


async def test_each_kind_of_handler_has_its_function() -> None:
    """The error names the other one."""

    async def one(_: Job[Any]) -> None: ...

    with pytest.raises(InvalidHandlerError, match="run_job"):
        await run_batch(one, [1])
    with pytest.raises(InvalidHandlerError, match="run_batch"):
        await run_job(store, 1)
