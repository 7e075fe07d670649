"""What becomes of a job for each way in which an attempt can end."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from concurrent import futures
from typing import Any

import asyncpg
import pytest
from pydantic import BaseModel, field_validator

from meshhook import (
    Cancel,
    DeadLetter,
    DLQService,
    Done,
    Job,
    QueueService,
    RetryAfter,
    Snooze,
    create_job_handler,
    set_queue_config,
)
from meshhook.errors import InvalidPayloadError
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


async def processed(worker: Any, count: int) -> None:
    """Wait until a worker has recorded `count` outcomes."""
    await eventually(lambda: worker.get_stats().processed >= count)


@pytest.mark.parametrize("result", [None, Done(), "anything else"])
async def test_returning_settles_as_done(
    pool: Pool[Any], connection: Connection[Any], database_url: str, result: object
) -> None:
    """A handler that returns leaves no message, and one attempt in the history."""

    async def handler(_: Job[Any]) -> object:
        return result

    msg_id = await QueueService(pool, "jobs").enqueue({"payload": 1})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    assert await live(connection) == {}
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]
    assert worker.get_stats().succeeded == 1


async def test_the_job_that_a_handler_sees(pool: Pool[Any], database_url: str) -> None:
    """A handler sees the identifiers, the payload as its model, the headers and the attempt."""
    seen: list[Job[Any]] = []

    class Order(BaseModel):
        number: int

    @create_job_handler(payload_model=Order)
    async def handler(job: Job[Order]) -> None:
        seen.append(job)

    body = {"run_id": "r", "workflow_id": 7, "payload": {"number": "12"}}
    await QueueService(pool, "jobs").enqueue(body, headers={"traceparent": "00-x"})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    job = seen[0]
    assert job.payload == Order(number=12)
    assert (job.run_id, job.workflow_id, job.project_id) == ("r", "7", None)
    assert job.headers == {"traceparent": "00-x"}
    assert (job.queue, job.attempt, job.max_attempts) == ("jobs", 1, 5)
    assert job.enqueued_at <= job.claimed_at <= job.started_at


async def test_the_history_names_the_trace(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """The trace id of the header `traceparent` stands in the history; nonsense does not."""

    async def handler(_: Job[Any]) -> None:
        """Do nothing."""

    queue = QueueService[Any](pool, "jobs")
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    await queue.enqueue({}, headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    await queue.enqueue({}, headers={"traceparent": ["odd"]})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 2)
    rows = await connection.fetch("select trace_id from meshhook.job_attempts order by msg_id")
    assert [row["trace_id"] for row in rows] == [trace_id, None]


async def test_a_failure_is_retried_and_then_a_dead_letter(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A job that always fails spends its attempts and ends in the dead letters with its error."""
    await set_queue_config(Database(pool), "jobs", max_retry_attempts=3, retry_backoff_base_ms=10)

    async def handler(_: Job[Any]) -> None:
        raise ValueError("no \x00 good \ud800")

    msg_id = await QueueService(pool, "jobs").enqueue(
        {"run_id": "r", "payload": [1]}, headers={"a": 1}
    )
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 3)
    assert await outcomes(connection, msg_id) == [
        ("retried", 1),
        ("retried", 2),
        ("dead_lettered", 3),
    ]
    assert await live(connection) == {}
    [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert (dead.error_type, dead.attempts, dead.msg_id) == ("ValueError", 3, msg_id)
    assert dead.error_message == "no \ufffd good \ufffd"
    assert "Traceback" in (dead.error_stack or "")
    # The stack begins in the handler: how the worker came to call it tells nothing.
    assert "test_outcomes.py" in (dead.error_stack or "").split("\n")[1]
    assert dead.payload == [1]
    assert dead.headers["a"] == 1
    stats = worker.get_stats()
    assert (stats.failed, stats.retried, stats.moved_to_dlq) == (3, 2, 1)


async def test_retry_after_takes_the_given_delay(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """`RetryAfter` makes the job retrying until its delay has passed, and spends the attempt."""

    async def handler(_: Job[Any]) -> None:
        raise RetryAfter(600, "busy", error_type="HTTP 429")

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    row = (await live(connection))[msg_id]
    assert (row["state"], row["read_ct"]) == ("retrying", 1)
    waits = await connection.fetchval(
        "select extract(epoch from vt - now()) from pgmq.q_jobs where msg_id = $1", msg_id
    )
    assert 500 < waits <= 600
    attempt = await connection.fetchrow("select * from meshhook.job_attempts")
    assert attempt is not None
    assert (attempt["error_type"], attempt["error_message"]) == ("HTTP 429", "busy")
    assert attempt["retry_at"] == row["vt"]


async def test_snooze_spends_no_attempt(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A snoozed job comes back with the attempt it had, as often as it likes."""
    seen: list[int] = []

    async def handler(job: Job[Any]) -> Snooze | None:
        seen.append(job.attempt)
        return Snooze(0.01) if len(seen) < 8 else None

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 8)
    assert seen == [1] * 8
    assert await outcomes(connection, msg_id) == [("snoozed", 1)] * 7 + [("succeeded", 1)]


async def test_dead_letter_now(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """`DeadLetter` needs no second attempt."""

    async def handler(_: Job[Any]) -> None:
        raise DeadLetter("gone", error_type="HTTP 410")

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    assert await outcomes(connection, msg_id) == [("dead_lettered", 1)]
    [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert (dead.error_type, dead.error_message) == ("HTTP 410", "gone")


async def test_cancel_keeps_no_dead_letter(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """`Cancel` removes the job and records why."""

    async def handler(_: Job[Any]) -> Cancel:
        return Cancel("not wanted")

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    assert await outcomes(connection, msg_id) == [("cancelled", 1)]
    assert await live(connection) == {}
    assert await DLQService(pool, "jobs").list_dead_letter_jobs() == []


async def test_without_dead_letters_the_message_is_archived(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """With dlq_enabled false a failed job is kept in PGMQ's archive: nothing is lost."""
    await set_queue_config(Database(pool), "jobs", dlq_enabled=False, max_retry_attempts=1)

    async def handler(_: Job[Any]) -> None:
        raise ValueError

    msg_id = await QueueService(pool, "jobs").enqueue({"payload": "kept"})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    assert await outcomes(connection, msg_id) == [("archived", 1)]
    assert await connection.fetchval("select message->>'payload' from pgmq.a_jobs") == "kept"


async def test_a_job_that_takes_too_long_is_cancelled_and_retried(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """The job timeout cancels the handler, and counts as a failure named JobTimeoutError."""
    await set_queue_config(Database(pool), "jobs", job_timeout_seconds=0.05)
    cancelled = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    assert cancelled.is_set()
    attempt = await connection.fetchrow("select * from meshhook.job_attempts")
    assert attempt is not None
    assert (attempt["outcome"], attempt["error_type"]) == ("retried", "JobTimeoutError")


class UnshowableError(Exception):
    """Fails even at being shown."""

    def __str__(self) -> str:
        raise OwnError

    __repr__ = __str__


class OwnError(BaseException):
    """Neither an Exception nor a request to exit."""


class OddMeta(type):
    """Its classes have no usable name."""

    def __getattribute__(cls, name: str) -> Any:
        if name in {"__name__", "__qualname__"}:
            raise ZeroDivisionError
        return super().__getattribute__(name)


class NamelessError(Exception, metaclass=OddMeta):
    """Fails at being named."""


class BrokenStackError(Exception):
    """Fails where somebody looks for its stack and its causes."""

    __traceback__ = __cause__ = __context__ = property(lambda _: 1 / 0)


class TextError(Exception):
    """Shown as a text that is no plain one."""

    class Text(str):
        """Cannot be cut, replaced or encoded."""

        __slots__ = ()
        replace = encode = __len__ = __getitem__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.Text("text")


class BareRetry(RetryAfter):
    """An outcome whose constructor leaves out what is asked of it."""

    def __init__(self) -> None:
        """Leave it out."""


class EndlessSnooze(Snooze):
    """An outcome with a delay that no database takes."""

    def __init__(self) -> None:
        super().__init__(1)
        self.delay_seconds = float("nan")


def own_cause() -> Exception:
    """Return an error that is its own cause."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    return first


def long_story() -> Exception:
    """Return an error with 50,000 causes: freed one by one in C, they would overflow the stack."""
    error = ValueError("first")
    for _ in range(50_000):
        later = ValueError("later")
        later.__context__ = error
        error = later
    return error


ERRORS: dict[str, tuple[BaseException, str]] = {
    "CancelledError": (asyncio.CancelledError(), "CancelledError"),
    "CancelledError of futures": (futures.CancelledError(), "CancelledError"),
    "SystemExit": (SystemExit(3), "SystemExit"),
    "KeyboardInterrupt": (KeyboardInterrupt(), "KeyboardInterrupt"),
    "GeneratorExit": (GeneratorExit(), "GeneratorExit"),
    "BaseException": (OwnError("own"), "OwnError"),
    "TimeoutError": (TimeoutError("own"), "TimeoutError"),
    # A coroutine cannot raise it; Python makes a RuntimeError of it.
    "StopIteration": (StopIteration("own"), "StopIteration|RuntimeError"),
    "StopAsyncIteration": (StopAsyncIteration("own"), "StopAsyncIteration"),
    "unshowable": (UnshowableError(), "UnshowableError"),
    "nameless": (NamelessError("odd"), r"\(a class that cannot be named\)"),
    "broken stack": (BrokenStackError("odd"), "BrokenStackError"),
    "odd text": (TextError("odd"), "TextError"),
    "cycle of causes": (own_cause(), "ValueError"),
    "group": (
        BaseExceptionGroup("several", [SystemExit(3), ValueError()]),
        "BaseExceptionGroup",
    ),
    "group with an outcome": (
        BaseExceptionGroup("several", [OwnError(), Snooze(1)]),
        "BaseExceptionGroup",
    ),
    "group of two outcomes": (
        ExceptionGroup("several", [Snooze(1), DeadLetter("no")]),
        "ExceptionGroup",
    ),
    "RetryAfter with a number": (
        RetryAfter(600, 42, error_type="RetryAfter"),  # type: ignore[arg-type]
        "RetryAfter",
    ),
    "RetryAfter without a delay": (BareRetry(), "AttributeError"),
    "Snooze without an end": (EndlessSnooze(), "InvalidSettingError"),
}


@pytest.mark.parametrize("handler_is", ["plain", "async", "async after a wait"])
async def test_whatever_a_handler_raises_is_a_failure_of_its_job_alone(
    pool: Pool[Any], connection: Connection[Any], database_url: str, *, handler_is: str
) -> None:
    """Also what ends a process or a task elsewhere, and what cannot be shown; the worker lives on.

    The next job in the same slot runs.
    """
    # None comes again while the test runs, however slow the machine is.
    await set_queue_config(
        Database(pool), "jobs", retry_backoff_base_ms=600_000, retry_backoff_max_ms=600_000
    )

    errors = dict(ERRORS)
    if handler_is == "async":  # once is enough, since it takes seconds to format
        errors["long chain of causes"] = (long_story(), "ValueError")

    def plain_handler(job: Job[Any]) -> None:
        if job.payload in errors:
            raise errors[job.payload][0]

    async def handler(job: Job[Any]) -> None:
        if handler_is == "async after a wait":
            await asyncio.sleep(0)
        plain_handler(job)

    queue = QueueService[Any](pool, "jobs")
    worker = make_worker(
        database_url, plain_handler if handler_is == "plain" else handler, concurrency=1
    )
    bad: dict[str, int] = {}
    good: dict[str, int] = {}
    async with worker:
        for name in errors:
            bad[name] = await queue.enqueue({"payload": name})
            await eventually(
                lambda: worker.get_stats().processed == 2 * len(bad) - 1, timeout=60, message=name
            )
            good[name] = await queue.enqueue({"payload": f"after {name}"})
            await eventually(lambda: worker.get_stats().processed == 2 * len(bad), message=name)
    for name, (_, recorded) in errors.items():
        assert await outcomes(connection, bad[name]) == [("retried", 1)], name
        assert await outcomes(connection, good[name]) == [("succeeded", 1)], name
        error_type = await connection.fetchval(
            "select error_type from meshhook.job_attempts where msg_id = $1", bad[name]
        )
        assert re.fullmatch(recorded, error_type), name


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ([Snooze(600)], "snoozed"),
        ([RetryAfter(600), RetryAfter(1)], "retried"),
        ([DeadLetter("one"), DeadLetter("two")], "dead_lettered"),
        ([ExceptionGroup("inner", [Cancel()])], "cancelled"),
        ([InvalidPayloadError("odd")], "dead_lettered"),
    ],
)
async def test_an_outcome_that_a_task_group_has_wrapped_counts(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    errors: list[Exception],
    outcome: str,
) -> None:
    """A task of a TaskGroup that raises one ends the handler with a group around it."""

    async def handler(_: Job[Any]) -> None:
        raise ExceptionGroup("unhandled errors in a TaskGroup", errors)

    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    assert await outcomes(connection, msg_id) == [(outcome, 1)]
    delay = await connection.fetchval("select extract(epoch from vt - now()) from pgmq.q_jobs")
    assert delay is None or delay > 500


@pytest.mark.usefixtures("late_retries")
async def test_a_validator_that_raises_a_base_exception_fails_its_job_alone(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """What a model raises while the payload is read is a failed attempt, whatever it is."""

    class Model(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def check(cls, _: int) -> int:
            raise OwnError

    async def handler(_: Job[Model]) -> None:
        """Never reached."""

    msg_id = await QueueService[Any](pool, "jobs").enqueue({"payload": {"number": 1}})
    worker = make_worker(database_url, create_job_handler(handler, payload_model=Model))
    async with worker:
        await processed(worker, 1)
    assert await outcomes(connection, msg_id) == [("retried", 1)]


async def test_plain_functions_run_in_threads(pool: Pool[Any], database_url: str) -> None:
    """Several plain functions run at once, none in the event loop's thread."""
    barrier = threading.Barrier(4, timeout=60)
    threads: set[int] = set()

    def handler(_: Job[Any]) -> None:
        threads.add(threading.get_ident())
        barrier.wait()

    await QueueService(pool, "jobs").enqueue_many([{}] * 4)
    async with make_worker(database_url, handler, concurrency=4) as worker:
        await processed(worker, 4)
    assert len(threads) == 4
    assert threading.get_ident() not in threads
    assert worker.get_stats().succeeded == 4


async def test_a_thread_that_outlives_its_timeout_is_not_run_twice_at_once(
    pool: Pool[Any], database_url: str
) -> None:
    """A job is not started again here while its thread, which cannot be stopped, runs."""
    # As many attempts as a busy machine takes for one that ends in time.
    await set_queue_config(
        Database(pool),
        "jobs",
        job_timeout_seconds=0.05,
        retry_backoff_base_ms=0,
        max_retry_attempts=1000,
    )
    go_on = threading.Event()
    at_once = [0, 0]
    lock = threading.Lock()

    def handler(_: Job[Any]) -> None:
        with lock:
            at_once[0] += 1
            at_once[1] = max(at_once)
        go_on.wait(60)
        with lock:
            at_once[0] -= 1

    await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler, concurrency=2) as worker:
        await eventually(lambda: worker.get_stats().released >= 1)
        assert worker.get_stats().retried == 1
        assert worker.has_stuck_jobs
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert at_once == [0, 1]


async def test_jobs_wait_for_threads_that_were_given_up(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A job that has no thread yet has not started, so its timeout does not run."""
    await set_queue_config(
        Database(pool), "jobs", job_timeout_seconds=2, retry_backoff_base_ms=300_000
    )
    go_on = threading.Event()
    ran: list[int] = []

    def handler(job: Job[Any]) -> None:
        ran.append(job.msg_id)
        if job.msg_id == stuck:
            go_on.wait(60)

    stuck, healthy = await QueueService(pool, "jobs").enqueue_many([{}, {}])
    async with make_worker(database_url, handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().retried == 1)
        # More than the time limit of the other one.
        await asyncio.sleep(3)
        assert ran == [stuck]
        assert worker.get_stats().processed == 1
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert ran == [stuck, healthy]
    assert await outcomes(connection, healthy) == [("succeeded", 1)]


async def test_a_payload_that_the_model_rejects_is_a_dead_letter_at_once(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """What another client sent wrongly becomes a dead letter that says what is wrong with it.

    The rest of its batch runs.
    """

    class Order(BaseModel):
        number: int

    ran: list[int] = []

    @create_job_handler(payload_model=Order)
    async def handler(job: Job[Order]) -> None:
        ran.append(job.payload.number)

    bodies = ['{"payload": {"number": 1}}', "null", '"text"', "[1]", '{"payload": {"number": {}}}']
    bodies += ['{"number": 2}', '{"run_id": {"odd": true}, "payload": {"number": 3}}', "1e400"]
    await connection.execute("select pgmq.send_batch('jobs', $1::text[]::jsonb[])", bodies)
    await connection.execute("select pgmq.send('jobs', null::jsonb)")
    await connection.execute("select pgmq.send('jobs', '{\"number\": 4}', '[1, 2]'::jsonb)")
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 10)
    assert sorted(ran) == [1, 2, 3, 4]
    dead = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert len(dead) == 6
    assert {letter.error_type for letter in dead} == {"InvalidPayload"}
    assert any("number" in (letter.error_message or "") for letter in dead)


@pytest.mark.usefixtures("late_retries")
async def test_a_model_whose_validator_breaks_fails_its_job_alone(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """An error in a validator that is no ValueError is a failed attempt; the worker lives on."""

    class Order(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def _must_divide(cls, value: int) -> int:
            return 1 // value

    @create_job_handler(payload_model=Order)
    async def handler(_: Job[Order]) -> None:
        """Do nothing."""

    queue = QueueService[Any](pool, "jobs")
    bad, good = await queue.enqueue_many([{"payload": {"number": n}} for n in (0, 1)])
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 2)
    assert await outcomes(connection, bad) == [("retried", 1)]
    assert await outcomes(connection, good) == [("succeeded", 1)]
    error_type = await connection.fetchval(
        "select error_type from meshhook.job_attempts where msg_id = $1", bad
    )
    assert error_type == "ZeroDivisionError"


async def test_nonsense_under_our_header_names_breaks_nothing(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Whatever another client writes into our headers, its job runs and settles."""
    attempts: list[int] = []

    async def handler(job: Job[Any]) -> None:
        attempts.append(job.attempt)
        raise ValueError

    await set_queue_config(Database(pool), "jobs", max_retry_attempts=3, retry_backoff_base_ms=0)
    headers = ["-5", "1", "2", "1e300", '"x"', "{}", "null", "1.5", "true"]
    for value in headers:
        await connection.execute(
            "select pgmq.send('jobs', '{}'::jsonb, $1::text::jsonb)",
            f'{{"meshhook-settled": {value}}}',
        )
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().moved_to_dlq == len(headers))
    assert await live(connection) == {}


async def test_complete_inside_the_handlers_transaction(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """The job is done if and only if the handler's own transaction commits."""
    await connection.execute("create table effects (msg_id bigint, attempt int)")
    await set_queue_config(Database(pool), "jobs", retry_backoff_base_ms=0)

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as own, own.transaction():
            await own.execute("insert into effects values ($1, $2)", job.msg_id, job.attempt)
            await job.complete(connection=own)
            if job.attempt == 1:
                raise ValueError("too late")

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 2)
    rows = await connection.fetch("select * from effects")
    assert [tuple(row) for row in rows] == [(msg_id, 2)]
    assert await outcomes(connection, msg_id) == [("retried", 1), ("succeeded", 2)]
    assert worker.get_stats().leases_lost == 0


async def test_a_completion_that_was_rolled_back_in_silence_is_found_out(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A handler that returns although its completing transaction was rolled back is retried."""
    await set_queue_config(Database(pool), "jobs", retry_backoff_base_ms=0)

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as own:
            transaction = own.transaction()
            await transaction.start()
            await job.complete(connection=own)
            if job.attempt == 1:
                await transaction.rollback()
            else:
                await transaction.commit()

    msg_id = await QueueService(pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 2)
    assert await outcomes(connection, msg_id) == [("retried", 1), ("succeeded", 2)]
    error = await connection.fetchval(
        "select error_type from meshhook.job_attempts where outcome = 'retried'"
    )
    assert error == "CompletionRolledBackError"


async def test_settings_are_followed_without_a_restart(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Pausing stops claims, resuming starts them, and a new limit holds for the next failure."""
    database = Database(pool)

    async def handler(_: Job[Any]) -> None:
        raise ValueError

    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, handler) as worker:

        async def change(**changes: Any) -> None:
            config = await set_queue_config(database, "jobs", **changes)
            await eventually(
                lambda: worker._parts is not None and worker._parts.lanes[0].config == config
            )

        await change(paused=True)
        assert worker._parts is not None
        # A claim may have been under way; at the next turn the claimer sees the pause.
        claimer = worker._parts.lanes[0].gauges.loops[0]
        before = claimer._turned_at
        await eventually(lambda: claimer._turned_at > before)
        msg_id = await queue.enqueue({})
        await change(visibility_timeout_seconds=31)
        await change(visibility_timeout_seconds=30)
        assert worker.get_stats().processed == 0
        await change(paused=False, max_retry_attempts=1)
        await processed(worker, 1)
    assert await outcomes(connection, msg_id) == [("dead_lettered", 1)]


async def test_jobs_are_started_oldest_first(pool: Pool[Any], database_url: str) -> None:
    """With one slot, jobs run in the order in which they were enqueued."""
    seen: list[int] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)

    await QueueService(pool, "jobs").enqueue_many([{"payload": i} for i in range(500)])
    async with make_worker(database_url, handler, concurrency=1) as worker:
        await processed(worker, 500)
    assert seen == list(range(500))


async def test_a_scheduled_job_runs_when_it_falls_due(pool: Pool[Any], database_url: str) -> None:
    """An idle worker wakes for the next due message rather than at its next poll."""
    started = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        started.set()

    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, handler):
        began_at = time.monotonic()
        await queue.enqueue({}, delay_seconds=0.3)
        await asyncio.wait_for(started.wait(), 60)
    assert time.monotonic() - began_at >= 0.3
