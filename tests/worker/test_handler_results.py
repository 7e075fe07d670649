"""What a handler may return: nothing counts as done whose body has not run."""

from __future__ import annotations

import asyncio
import functools
import io
import sqlite3
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any
from unittest.mock import MagicMock, Mock

import asyncpg
import pytest

from meshhook import (
    Cancel,
    DeadLetter,
    Done,
    Job,
    QueueService,
    RetryAfter,
    Snooze,
    create_job_handler,
    get_current_job,
    set_queue_config,
)
from meshhook.errors import InvalidHandlerError
from meshhook.postgres.database import Database
from meshhook.worker.process import LoopThreads
from meshhook.worker.results import end_of, is_awaitable
from support.waiting import eventually
from support.workers import make_worker, outcomes, stop_patiently

Pool = asyncpg.Pool
Connection = asyncpg.Connection

ran: list[Job[Any] | None] = []


async def real(_: Job[Any]) -> None:
    """Do the work, after a wait."""
    await asyncio.sleep(0)
    ran.append(get_current_job())


def decorated(function: Callable[[Job[Any]], Any]) -> Callable[[Job[Any]], Any]:
    """Hide what kind of function it is."""

    @functools.wraps(function)
    def wrapper(job: Job[Any]) -> Any:
        return function(job)

    return wrapper


class Work:
    """Has methods, and is awaitable itself."""

    def __init__(self, job: Job[Any]) -> None:
        self.job = job

    def __await__(self) -> Generator[Any, Any, None]:
        return real(self.job).__await__()


class Odd(BaseException):
    """Neither an Exception nor a request to exit."""


class Handlers:
    """Handlers that are objects and methods."""

    async def method(self, job: Job[Any]) -> None:
        """Do the work."""
        await real(job)

    def __call__(self, job: Job[Any]) -> Awaitable[None]:
        """Return the work."""
        return real(job)


async def forgets_to_await(job: Job[Any]) -> Awaitable[None]:
    """Return the work before it has waited."""
    return real(job)


async def forgets_to_await_later(job: Job[Any]) -> Awaitable[None]:
    """Return the work after it has waited."""
    await asyncio.sleep(0)
    return real(job)


async def returns_a_task(job: Job[Any]) -> Awaitable[None]:
    """Return a task that does the work."""
    return asyncio.create_task(real(job), name="work")


@types.coroutine
def old_coroutine(job: Job[Any]) -> Generator[Any, Any, None]:
    """Do the work as coroutines were written before async."""
    yield from real(job).__await__()


AWAITED: dict[str, Any] = {
    "lambda": lambda job: real(job),  # noqa: PLW0108 - a lambda is what it is about
    "partial": functools.partial(real),
    "partial of a lambda": functools.partial(lambda job: real(job)),  # noqa: PLW0108 - the same
    "method": Handlers().method,
    "callable": Handlers(),
    "decorated": decorated(real),
    "awaitable object": lambda job: Work(job),  # noqa: PLW0108 - the same
    "class": Work,
    "nested": lambda job: forgets_to_await_later(job),  # noqa: PLW0108 - the same
    "await forgotten": forgets_to_await,
    "await forgotten later": forgets_to_await_later,
    "task": returns_a_task,
    "types.coroutine": old_coroutine,
}


@pytest.mark.usefixtures("queue_name")
@pytest.mark.parametrize("handler", AWAITED.values(), ids=AWAITED)
async def test_what_a_handler_returns_is_awaited(
    pool: Pool[Any], connection: Connection[Any], database_url: str, handler: Any
) -> None:
    """Before the job counts as done, and in the context of its attempt."""
    ran.clear()
    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
    assert [job and job.msg_id for job in ran] == [msg_id]
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]


@pytest.mark.usefixtures("queue_name")
async def test_the_future_of_another_pool_is_waited_for(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """What a pool of threads makes of the job is the end of the attempt."""

    def work() -> None:
        raise DeadLetter("no good")

    with ThreadPoolExecutor(1) as threads:

        def handler(_: Job[Any]) -> Future[None]:
            return threads.submit(work)

        msg_id = await QueueService[Any](pool, "jobs").enqueue({})
        async with make_worker(database_url, handler) as worker:
            await eventually(lambda: worker.get_stats().processed == 1)
    assert await outcomes(connection, msg_id) == [("dead_lettered", 1)]


@pytest.mark.usefixtures("queue_name")
@pytest.mark.parametrize(
    ("error", "recorded"),
    [(StopIteration(), "StopIteration"), (CancelledError(), "CancelledError"), (Odd(), "Odd")],
    ids=lambda each: each if isinstance(each, str) else "",
)
@pytest.mark.usefixtures("late_retries")
async def test_the_error_of_another_pool_fails_the_attempt(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    error: BaseException,
    recorded: str,
) -> None:
    """Whatever it is: also one that a future of asyncio does not take."""
    future: Future[None] = Future()
    future.set_exception(error)
    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, lambda _: future) as worker:
        await eventually(lambda: worker.get_stats().retried == 1)
    assert await connection.fetchval("select error_type from meshhook.job_attempts") == recorded


async def test_a_thread_of_the_event_loop_that_raises_stop_iteration_is_not_waited_for() -> None:
    """`asyncio.to_thread` of a worker process raises what it becomes in a coroutine, too."""
    threads = LoopThreads.install()
    try:
        with pytest.raises(RuntimeError, match="StopIteration"):
            await asyncio.wait_for(asyncio.to_thread(next, iter(())), 60)
    finally:
        threads.shutdown()


variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.mark.usefixtures("queue_name")
async def test_what_a_thread_sets_in_its_context_holds_in_what_it_returns(
    pool: Pool[Any], database_url: str
) -> None:
    """A context variable set by a plain function reaches the coroutine that it returns."""
    seen: list[str] = []

    async def work() -> None:
        await asyncio.sleep(0)
        seen.append(variable.get())

    def handler(_: Job[Any]) -> Awaitable[None]:
        variable.set("set")
        return work()

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert seen == ["set"]


@pytest.mark.usefixtures("queue_name")
@pytest.mark.usefixtures("late_retries")
async def test_the_time_limit_holds_for_what_is_returned(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A coroutine returned by a plain function is cancelled at the job's timeout."""
    await set_queue_config(Database(pool), "jobs", job_timeout_seconds=0.2)
    cancelled = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, lambda _: work()) as worker:
        await eventually(lambda: worker.get_stats().retried == 1)
    assert cancelled.is_set()
    recorded = await connection.fetchval("select error_type from meshhook.job_attempts")
    assert recorded == "JobTimeoutError"


@pytest.mark.usefixtures("queue_name")
async def test_a_coroutine_that_is_returned_ends_with_the_worker(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is stopped at the end of the grace period, and its job given back unspent."""
    stop_patiently(monkeypatch)
    runs = asyncio.Event()

    async def work() -> None:
        runs.set()
        await asyncio.Event().wait()

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, lambda _: work(), grace_seconds=1):
        await asyncio.wait_for(runs.wait(), 60)
    assert await connection.fetchval("select read_ct from pgmq.q_jobs") == 0
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 0


def generator() -> Iterator[None]:
    """Never started."""
    yield


async def async_generator() -> AsyncIterator[None]:
    """Never started."""
    yield


class Feed:
    """Iterated asynchronously."""

    def __aiter__(self) -> Feed:
        return self

    async def __anext__(self) -> None:
        raise StopAsyncIteration


class Undecided(Snooze):
    """Has to be made with a delay."""


def nothing_to_await() -> Any:
    """Return awaitables within awaitables, without end."""

    async def again() -> Any:
        return again()

    return again()


UNUSABLE: dict[str, tuple[Callable[[], Any], str]] = {
    "generator": (generator, "a generator"),
    "async generator": (async_generator, "an async generator"),
    "iterator": (lambda: map(str, [1]), r"an iterator \(map\)"),
    "async iterator": (Feed, r"an asynchronous iterator \(Feed\)"),
    "context manager": (contextmanager(generator), "a context manager that was not entered"),
    "async context manager": (
        asynccontextmanager(async_generator),
        "a context manager that was not entered",
    ),
    "function": (lambda: nothing_to_await, "the function nothing_to_await and did not call it"),
    "partial": (lambda: functools.partial(print), "and did not call it"),
    "another handler": (lambda: create_job_handler(real), "the function real and did not call it"),
    "list of coroutines": (lambda: [real(None), real(None)], "a list that holds an awaitable"),  # type: ignore[arg-type]
    "dict of coroutines": (lambda: {1: real(None)}, "a dict that holds an awaitable"),  # type: ignore[arg-type]
    "list of generators": (lambda: [generator()], "a list that holds a generator"),
    "awaitables without end": (nothing_to_await, "whose result is again one"),
    "Snooze": (lambda: Snooze, r"the class Snooze; return an instance of it: Snooze\(30\)"),
    "RetryAfter": (lambda: RetryAfter, r"RetryAfter\(30\)"),
    "DeadLetter": (lambda: DeadLetter, r'DeadLetter\("why"\)'),
    "subclass": (lambda: Undecided, r"Undecided\(\.\.\.\)"),
    "exception class": (lambda: ValueError, "the class ValueError, which is no outcome"),
}


@pytest.mark.usefixtures("queue_name")
@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
@pytest.mark.parametrize(("result", "message"), UNUSABLE.values(), ids=UNUSABLE)
async def test_what_has_not_run_fails_the_attempt(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    *,
    result: Callable[[], Any],
    message: str,
    is_async: bool,
) -> None:
    """The history says what was returned, and what to write instead."""

    async def async_handler(_: Job[Any]) -> Any:
        return result()

    def handler(_: Job[Any]) -> Any:
        return result()

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, async_handler if is_async else handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
    row = await connection.fetchrow("select * from meshhook.job_attempts")
    assert row is not None
    assert (row["outcome"], row["error_type"]) == ("retried", "UnusableResultError")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row["error_message"])


@pytest.mark.parametrize(
    "result",
    [
        [1, 2],
        range(3),
        {"a": 1},
        io.StringIO(),
        sqlite3.connect(":memory:").execute("select 1"),
        MagicMock(),
        Mock(),
    ],
    ids=lambda result: type(result).__name__,
)
def test_any_other_value_is_done(result: object) -> None:
    """A cursor or a file can be iterated, too, but the work is done; a mock is anything."""
    assert not is_awaitable(result)
    assert end_of(result) is result


class Later(Snooze):
    """Knows its own delay."""

    def __init__(self) -> None:
        super().__init__(600)


@pytest.mark.usefixtures("queue_name")
@pytest.mark.parametrize(
    ("outcome", "recorded"), [(Done, "succeeded"), (Cancel, "cancelled"), (Later, "snoozed")]
)
async def test_the_class_of_an_outcome_that_needs_no_arguments_is_the_outcome(
    pool: Pool[Any], connection: Connection[Any], database_url: str, outcome: Any, recorded: str
) -> None:
    """`return Cancel` means `return Cancel()`."""

    async def handler(_: Job[Any]) -> Any:
        return outcome

    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
    assert await outcomes(connection, msg_id) == [(recorded, 1)]


@pytest.mark.usefixtures("queue_name")
@pytest.mark.usefixtures("late_retries")
async def test_an_exception_that_is_returned_fails_the_attempt(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """As if it were raised."""

    async def handler(_: Job[Any]) -> Exception:
        return ValueError("no good")

    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 1)
    assert await outcomes(connection, msg_id) == [("retried", 1)]


def generator_handler(_: Job[Any]) -> Iterator[None]:
    """Never started."""
    yield


async def async_generator_handler(_: Job[Any]) -> AsyncIterator[None]:
    """Never started."""
    yield


class GeneratorHandler:
    """Its call makes a generator."""

    def __call__(self, _: Job[Any]) -> Iterator[None]:
        """Never started."""
        yield

    def method(self, _: Job[Any]) -> Iterator[None]:
        """Never started."""
        yield


class NoHandler:
    """A class whose instance is no work."""

    def __init__(self, job: Job[Any]) -> None:
        self.job = job


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (generator_handler, "is a generator function"),
        (functools.partial(generator_handler), "is a generator function"),
        (GeneratorHandler(), "is a generator function"),
        (GeneratorHandler().method, "is a generator function"),
        (async_generator_handler, "is an async generator function"),
        (NoHandler, "is a class; pass a function"),
        (Done, "is a class; pass a function"),
    ],
)
def test_what_would_not_run_is_no_handler(handler: Any, kind: str) -> None:
    """It is refused where the handler is made, and where the worker is."""
    with pytest.raises(InvalidHandlerError, match=kind):
        create_job_handler(handler)
    with pytest.raises(InvalidHandlerError, match=kind):
        make_worker("postgresql://localhost/x", handler)
