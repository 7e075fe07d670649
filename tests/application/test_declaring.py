"""Declaring handlers: what the decorator reads, and what it refuses."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, assert_type

import pytest
from pydantic import BaseModel, Field

from meshhook import (
    App,
    InvalidHandlerError,
    InvalidQueueNameError,
    InvalidSettingError,
    Job,
    JobHandler,
    QueueHandler,
    WorkflowJob,
    create_job_handler,
)
from meshhook.application.queue_options import QueueOptions
from meshhook.queue_config import SETTING_NAMES
from meshhook.worker.batch_options import BatchOptions
from support.claimed_jobs import claimed_job

if TYPE_CHECKING:
    from decimal import Decimal as Amount

URL = "postgresql://nobody@127.0.0.1:1/none"


class Order(BaseModel):
    """The payload of these tests."""

    order_id: int


def job_with(handler: QueueHandler[Any], body: str) -> Job[Any]:
    """Return a claimed job as the worker gives it to a handler."""
    job = claimed_job(body)
    handler.decoder.decode(job)
    return job


async def test_the_annotation_says_the_payloads_model() -> None:
    """A handler of `Job[Order]` is called with the job, whose payload is an Order."""
    app = App(URL)

    @app.job("orders")
    async def ship(job: Job[Order]) -> int:
        assert_type(job.payload, Order)
        return job.payload.order_id

    assert_type(ship, QueueHandler[Order])
    assert isinstance(ship, JobHandler)
    assert ship.is_async
    assert (ship.queue, ship.payload_model) == ("orders", Order)
    assert await ship.function(job_with(ship, '{"order_id": 7}')) == 7
    assert dict(app.handlers) == {"orders": ship}


async def test_a_handler_may_take_the_payload_alone() -> None:
    """It is called with the payload; by hand too."""
    app = App(URL)

    @app.job("orders")
    async def ship(order: Order) -> int:
        return order.order_id

    assert_type(ship, QueueHandler[Order])
    assert ship.is_async
    assert await ship.function(job_with(ship, '{"order_id": 7}')) == 7
    assert await ship(Order(order_id=8)) == 8


def test_a_plain_function_is_a_handler() -> None:
    """Of the job, or of its payload; it runs in a thread."""
    app = App(URL)

    @app.job("orders")
    def ship(order: Order) -> int:
        return order.order_id

    @app.job("mails")
    def send(job: Job[Any]) -> Any:
        return job.payload

    assert not ship.is_async
    assert not send.is_async
    assert ship.function(job_with(ship, '{"order_id": 7}')) == 7
    assert send.function(job_with(send, '{"a": 1}')) == {"a": 1}


@dataclass
class Mail:
    """A payload that is no pydantic model."""

    to: str


@pytest.mark.parametrize(
    ("annotation", "body", "payload"),
    [
        (Job, "[1]", [1]),
        (Job[Any], "[1]", [1]),
        (Job[list[int]], "[1]", [1]),
        (Annotated[Job[Order], "noted"], '{"order_id": 1}', Order(order_id=1)),
        (Job["Order"], '{"order_id": 1}', Order(order_id=1)),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Annotated[int, Field(gt=0)], "3", 3),
        (Mail, '{"to": "me"}', Mail("me")),
        (Order | Mail, '{"to": "me"}', Mail("me")),
    ],
)
def test_a_payload_may_be_whatever_pydantic_reads(annotation: Any, body: str, payload: Any) -> None:
    """Models, data classes, unions and plain types; `Job` alone is any JSON."""

    def handle(argument: Any) -> Any:
        return argument.payload if isinstance(argument, Job) else argument

    handle.__annotations__["argument"] = annotation
    handler = App(URL).job("jobs")(handle)
    assert handler.function(job_with(handler, body)) == payload


def test_what_can_be_called_with_one_argument_is_a_handler() -> None:
    """A part of a function, an object, and what `create_job_handler` made."""
    app = App(URL)

    def of_two(kind: str, order: Order) -> tuple[str, int]:
        return kind, order.order_id

    class Shipper:
        async def __call__(self, job: Job[Order]) -> int:
            return job.payload.order_id

    @create_job_handler(payload_model=Order)
    def made(job: Job[Order]) -> int:
        return job.payload.order_id

    part = app.job("a")(functools.partial(of_two, "fast"))
    assert part.function(job_with(part, '{"order_id": 1}')) == ("fast", 1)
    assert app.job("b")(Shipper()).is_async
    again = app.job("c")(made)
    assert again.function(job_with(again, '{"order_id": 1}')) == 1


def test_the_model_may_be_named_where_there_is_no_annotation() -> None:
    """The function then takes the job."""

    def handle(job):
        return job.payload

    handler = App(URL).job("jobs", payload_model=Order)(handle)
    assert handler.function(job_with(handler, '{"order_id": 1}')) == Order(order_id=1)


def of_hidden_type(job: Job[Amount]) -> None:
    """A handler whose type is imported for type checkers alone."""


def generator(job: Job[Order]) -> Any:
    """A handler that would never run."""
    yield job


@pytest.mark.parametrize(
    ("handle", "message"),
    [
        (lambda job: None, "<lambda>: its argument has no annotation.*`job: Job\\[Order\\]`"),
        (of_hidden_type, "cannot be read: name 'Amount' is not defined; import the model where"),
        (generator, "generator is a generator function"),
        (Order, "Order is a class"),
        (3, "a handler is a function of one job, got 3"),
        (lambda a, b: None, "cannot be called with one job.*missing a required argument"),
        (lambda: None, "cannot be called with one job.*too many positional arguments"),
    ],
)
def test_what_cannot_be_a_handler_is_refused(handle: Any, message: str) -> None:
    """The error names the function and the way out."""
    with pytest.raises(InvalidHandlerError, match=message):
        App(URL).job("jobs")(handle)


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (Any, "annotated with typing.Any; write `job: Job` to take the job"),
        (object, "annotated with object; write `job: Job`"),
        (App, "annotated with .*App, which pydantic cannot validate"),
        ("Missing", "name 'Missing' is not defined"),
        ("no type", "cannot be read"),
    ],
)
def test_an_annotation_that_says_no_model_is_refused(annotation: Any, message: str) -> None:
    """The error says what to write."""

    def handle(argument: Any) -> None:
        del argument

    handle.__annotations__["argument"] = annotation
    with pytest.raises(InvalidHandlerError, match=message):
        App(URL).job("jobs")(handle)


def test_a_model_that_is_named_twice_must_be_the_same() -> None:
    """Which of two would be meant is not guessed."""

    def handle(job: Job[Order]) -> None:
        del job

    with pytest.raises(InvalidHandlerError, match=r"with .*Order.*payload_model is .*Mail"):
        App(URL).job("jobs", payload_model=Mail)(handle)
    assert App(URL).job("jobs", payload_model=Order)(handle).payload_model is Order


def test_a_queue_has_one_handler() -> None:
    """The error names both."""
    app = App(URL)

    @app.job("orders")
    def ship(order: Order) -> None: ...

    def refund(order: Order) -> None: ...

    with pytest.raises(
        InvalidHandlerError,
        match=r"'orders' already has a handler, .*ship; .* so give .*refund another",
    ):
        app.job("orders")(refund)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queue": "A"}, InvalidQueueNameError, "must be lower case"),
        ({"queue": print}, InvalidHandlerError, "write @app.job\\('orders'\\) above"),
        ({"weight": 0}, InvalidSettingError, "weight is a whole number from 1 to 1000, got 0"),
        ({"max_attempts": 3}, InvalidSettingError, "unknown setting 'max_attempts'; a queue has"),
        ({"max_retry_attempts": 0}, InvalidSettingError, "max_retry_attempts=0"),
        (
            {"paused": True},
            InvalidSettingError,
            "paused; an operator can: meshhook queue pause jobs",
        ),
    ],
)
def test_wrong_options_are_refused_where_they_stand(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """Before there is a function, and before anything is asked of the database."""
    job: Any = App(URL).job
    with pytest.raises(error, match=message):
        job(**{"queue": "jobs", **arguments})


def test_every_setting_of_a_queue_may_stand_beside_its_handler() -> None:
    """But for the pause, which is an operator's."""
    assert {*QueueOptions.__annotations__, "paused"} == set(SETTING_NAMES)


def test_payloads_and_options_are_typed() -> None:
    """What a type checker refuses is refused: `make lint` reads the comments below."""
    app = App(URL)

    @app.job("orders")
    async def ship(job: Job[Order]) -> None: ...

    @app.job("mails")
    def send(mail: Mail) -> None: ...

    async def enqueue() -> None:
        await ship.enqueue(Order(order_id=1))
        await ship.enqueue(WorkflowJob(run_id="r", workflow_id="w", project_id="p"))
        await ship.enqueue(Mail("me"))  # type: ignore[call-overload]
        await send.enqueue(Mail("me"))
        await send.enqueue_many([Order(order_id=1)])  # type: ignore[list-item]

        app.job("other", max_attempts=3)  # type: ignore[call-overload]

    assert enqueue.__name__ == "enqueue"


async def test_a_handler_of_batches_takes_a_list_of_jobs() -> None:
    """Or of their payloads; the items' type is the payload's."""
    app = App(URL)

    @app.job("orders", batch=100, batch_wait_seconds=0.2)
    async def ship(jobs: list[Job[Order]]) -> list[int]:
        assert_type(jobs[0].payload, Order)
        return [job.payload.order_id for job in jobs]

    @app.job("mails", batch=10)
    def mail(orders: list[Order]) -> list[int]:
        return [order.order_id for order in orders]

    @app.job("any", batch=10)
    async def anything(jobs: list[Job[Any]]) -> None: ...

    assert_type(ship, QueueHandler[Order])
    assert (ship.batch, mail.batch) == (BatchOptions(100, 0.2), BatchOptions(10))
    assert (ship.payload_model, mail.payload_model, anything.payload_model) == (Order, Order, Any)
    jobs = [job_with(ship, '{"order_id": 7}'), job_with(ship, '{"order_id": 8}')]
    assert await ship.function(jobs) == mail.function(jobs) == [7, 8]
    assert mail([Order(order_id=1)]) == [1]


def test_a_list_of_jobs_needs_a_batch() -> None:
    """A function that takes a list is no handler of one job, and the other way round."""
    app = App(URL)

    async def several(jobs: list[Job[Order]]) -> None: ...
    async def one(job: Job[Order]) -> None: ...

    with pytest.raises(InvalidHandlerError, match="say how many"):
        app.job("orders")(several)
    with pytest.raises(InvalidHandlerError, match="with batch it takes a list"):
        app.job("orders", batch=10)(one)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="batch is a whole number"):
        app.job("orders", batch=0)


def test_an_app_takes_over_a_handler_of_batches() -> None:
    """What it says of itself holds."""

    @create_job_handler(batch=5, payload_model=Order)
    async def ship(jobs: list[Job[Order]]) -> None: ...

    handler = App(URL).job("orders")(ship)
    assert (handler.batch, handler.payload_model) == (BatchOptions(5), Order)
