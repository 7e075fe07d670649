"""What may be said of a worker's queues and handlers."""

from __future__ import annotations

from typing import Any

import pytest

from meshhook import Job, Worker, create_job_handler
from meshhook.errors import InvalidHandlerError, InvalidQueueNameError, InvalidSettingError
from meshhook.worker.assignments import assignments
from meshhook.worker.batch_options import BatchOptions

NOWHERE = "postgresql://nobody@127.0.0.1:1/none"


async def handle(_: Job[Any]) -> None:
    """Do nothing."""


@create_job_handler
async def other(_: Job[Any]) -> None:
    """Do nothing, too."""


@pytest.mark.parametrize(
    ("queues", "expected"),
    [
        ("a", {"a": 1}),
        (["a", "b"], {"a": 1, "b": 1}),
        ({"a": 3, "b": 1}, {"a": 3, "b": 1}),
        (iter(["a", "b"]), {"a": 1, "b": 1}),
    ],
)
def test_queues_may_be_named_in_several_ways(queues: Any, expected: dict[str, int]) -> None:
    """One name, several, or names with weights; the default weight is 1."""
    found = assignments(queues, handle)
    assert {each.queue_name: each.weight for each in found} == expected


def test_each_queue_may_have_its_own_handler() -> None:
    """A mapping gives every queue one; a handler that is made already stays as it is."""
    first, second = assignments(["a", "b"], {"a": handle, "b": other})
    assert first.handler.function is handle
    assert second.handler is other


@pytest.mark.parametrize(
    ("queues", "handler", "error", "message"),
    [
        ([], handle, InvalidSettingError, "1 to 100 queues, got 0"),
        ({}, handle, InvalidSettingError, "1 to 100 queues, got 0"),
        ([f"q{n}" for n in range(101)], handle, InvalidSettingError, "1 to 100 queues, got 101"),
        (["a", "b", "a"], handle, InvalidSettingError, "'a' is named twice"),
        ({"a": 0}, handle, InvalidSettingError, "weight of queue 'a' .* got 0"),
        ({"a": 1001}, handle, InvalidSettingError, "weight of queue 'a' .* got 1001"),
        ({"a": True}, handle, InvalidSettingError, "weight of queue 'a' .* got True"),
        ({"a": 1.5}, handle, InvalidSettingError, "weight of queue 'a' .* got 1.5"),
        (["a", "B"], handle, InvalidQueueNameError, "must be lower case"),
        (7, handle, InvalidQueueNameError, "must be a string"),
        (["a", "b"], {"a": handle}, InvalidHandlerError, "queue 'b' has no handler"),
        (["a"], {"a": handle, "c": handle}, InvalidHandlerError, "handler of 'c'"),
        (["a"], {"a": 7}, InvalidHandlerError, "got 7"),
        ("a", 7, InvalidHandlerError, "got 7"),
    ],
)
def test_what_does_not_fit_is_named(
    queues: Any, handler: Any, error: type[Exception], message: str
) -> None:
    """The error names the queue and the value received."""
    with pytest.raises(error, match=message):
        assignments(queues, handler)


def test_each_queue_needs_a_slot() -> None:
    """With fewer slots than queues one could wait for ever, so that is refused."""
    with pytest.raises(InvalidSettingError, match="concurrency is 1, but the worker has 2 queues"):
        Worker(NOWHERE, ["a", "b"], handle, concurrency=1)


def test_a_worker_without_queues_works_on_the_default_one() -> None:
    """Only the handler has to be named; by position the queues still come first."""
    assert Worker(NOWHERE, handler=handle).queues == ("workflow_jobs",)
    assert Worker(NOWHERE, "a", handle).queues == ("a",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"needs a handler.*Worker\(database_url, handler=\.\.\.\)"),
        (("a",), r"needs a handler"),
        ((handle,), r"second argument is its queues.*handler=\.\.\."),
        ((other,), r"second argument is its queues.*handler=\.\.\."),
    ],
)
def test_a_worker_without_a_handler_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    """The message shows how to name it, also where it stands in the place of the queues."""
    with pytest.raises(InvalidHandlerError, match=message):
        Worker(NOWHERE, *arguments)


def test_a_function_may_take_batches() -> None:
    """The worker says how many jobs it takes; a handler that is made already says it itself."""
    [found] = assignments("a", handle, BatchOptions(10, 0.5))
    assert found.handler.batch == BatchOptions(10, 0.5)
    with pytest.raises(InvalidHandlerError, match="other says itself what it takes"):
        assignments("a", other, BatchOptions(10))
    with pytest.raises(InvalidSettingError, match="batch is a whole number"):
        Worker(NOWHERE, "a", handle, batch=0)
