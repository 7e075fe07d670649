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
from meshhook.testing import run_batch, run_job


class Reading(BaseModel):
    """The payload of these tests."""

    value: int


@create_job_handler(batch=10, payload_model=Reading)
async def store(jobs: list[Job[Reading]]) -> list[Any]:
    """End each job as its value says."""
    assert get_current_job() is None
    ends: dict[int, Any] = {1: Snooze(60), 2: ValueError("two"), 3: Done(result={"n": 3})}
    return [ends.get(job.payload.value) for job in jobs]


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
