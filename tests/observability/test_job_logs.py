"""Every line about a job says which: the worker's own, and those of the handler."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from meshhook import Job, QueueService, RetryAfter, get_current_job
from meshhook.observability.logs import JobFilter, add_job_fields, configure_logging
from support.logging_setup import logging_as_before
from support.waiting import eventually
from support.workers import make_worker

Pool = asyncpg.Pool

TRACE_ID = "a" * 32
HEADERS = {"traceparent": f"00-{TRACE_ID}-{'b' * 16}-01"}

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture(params=["json", "console"])
def stream(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """Where records go, in each form; what was set up before is restored."""
    stream = io.StringIO()
    with logging_as_before():
        configure_logging(request.param, stream=stream)
        yield stream


def lines(stream: io.StringIO, event: str) -> list[str]:
    """Return the lines of an event."""
    return [line for line in stream.getvalue().splitlines() if event in line]


def shows(line: str, **fields: object) -> bool:
    """Say whether a line has these fields, in either form."""
    if line.startswith("{"):
        record = json.loads(line)
        return all(record.get(name) == value for name, value in fields.items())
    return all(f"{name}={value}" in line for name, value in fields.items())


async def run(url: str, handler: Any, **options: Any) -> None:
    """Run a worker until it has recorded an outcome."""
    async with make_worker(url, handler, **options) as worker:
        await eventually(lambda: worker.get_stats().processed >= 1)


async def test_what_a_handler_logs_names_its_job(
    pool: Pool[Any], database_url: str, stream: io.StringIO
) -> None:
    """With structlog and the standard library, before and after a wait, and in tasks of its own."""

    async def handler(_: Job[Any]) -> None:
        structlog.get_logger("shop").info("charging", amount=5)
        await asyncio.sleep(0)
        logging.getLogger("shop").warning("charged %d", 5)
        task = asyncio.create_task(told_by_a_task())
        await task

    async def told_by_a_task() -> None:
        logging.getLogger("shop").warning("mailed")

    msg_id = await QueueService[Any](pool, "jobs").enqueue({"run_id": "r1"}, headers=HEADERS)
    await run(database_url, handler)
    for event in ("charging", "charged 5", "mailed"):
        (line,) = lines(stream, event)
        assert shows(line, queue="jobs", msg_id=msg_id, attempt=1, run_id="r1", trace_id=TRACE_ID)


async def test_what_a_plain_function_logs_names_its_job(
    pool: Pool[Any], database_url: str, stream: io.StringIO
) -> None:
    """A handler in a thread, too."""

    def handler(_: Job[Any]) -> None:
        logging.getLogger("shop").warning("charged")

    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    await run(database_url, handler)
    (line,) = lines(stream, "charged")
    assert shows(line, queue="jobs", msg_id=msg_id, attempt=1)


async def test_what_the_worker_logs_of_a_job_names_it(
    pool: Pool[Any], database_url: str, stream: io.StringIO
) -> None:
    """How an attempt ended is told with its job and trace; what is about no job names none."""

    async def handler(_: Job[Any]) -> None:
        raise RetryAfter(60)

    msg_id = await QueueService[Any](pool, "jobs").enqueue({}, headers=HEADERS)
    await run(database_url, handler)
    (line,) = lines(stream, "attempt retried")
    assert shows(line, queue="jobs", msg_id=msg_id, attempt=1, trace_id=TRACE_ID)
    for event in ("worker started", "worker stopped"):
        (line,) = lines(stream, event)
        assert shows(line, queue="jobs")
        assert "msg_id" not in line


async def test_the_trace_is_that_of_the_attempt_where_it_is_traced(
    pool: Pool[Any], database_url: str, stream: io.StringIO
) -> None:
    """A handler's lines carry the trace and the span that are current."""
    seen: list[Any] = []

    async def handler(_: Job[Any]) -> None:
        seen.append(trace.get_current_span().get_span_context())
        logging.getLogger("shop").warning("charged")

    await QueueService[Any](pool, "jobs").enqueue({}, headers=HEADERS)
    await run(database_url, handler, tracer_provider=TracerProvider())
    (line,) = lines(stream, "charged")
    assert shows(
        line,
        trace_id=trace.format_trace_id(seen[0].trace_id),
        span_id=trace.format_span_id(seen[0].span_id),
    )


async def test_the_current_job(pool: Pool[Any], database_url: str) -> None:
    """It is the handler's in a handler, the one job after the other, and none elsewhere."""
    seen: list[bool] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(get_current_job() is job)
        await asyncio.sleep(0)
        seen.append(get_current_job() is job)

    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 3)
    async with make_worker(database_url, handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    assert seen == [True] * 6
    assert get_current_job() is None


@pytest.mark.parametrize("waits", [True, False])
async def test_what_a_handler_binds_stays_with_its_job(
    pool: Pool[Any], database_url: str, waits: bool
) -> None:
    """A context variable that a handler sets is there after a wait, and not in the next job."""
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(dict(structlog.contextvars.get_contextvars()))
        structlog.contextvars.bind_contextvars(order=job.payload)
        if waits:
            await asyncio.sleep(0)
        seen.append(dict(structlog.contextvars.get_contextvars()))

    await QueueService[Any](pool, "jobs").enqueue_many([{"payload": n} for n in range(3)])
    async with make_worker(database_url, handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    assert seen == [{}, {"order": 0}, {}, {"order": 1}, {}, {"order": 2}]


async def test_a_program_with_logging_of_its_own(pool: Pool[Any], database_url: str) -> None:
    """The filter adds the fields to records of the standard library, the processor to events."""
    stream = io.StringIO()
    own = logging.StreamHandler(stream)
    own.addFilter(JobFilter())
    own.setFormatter(
        logging.Formatter("%(message)s of %(msg_id)s, %(queue)s", defaults={"msg_id": "no job"})
    )
    logger = logging.getLogger("shop.own")
    logger.addHandler(own)
    events: list[Any] = []

    async def handler(_: Job[Any]) -> None:
        logger.warning("charged", extra={"queue": "its own word"})
        events.append(add_job_fields(None, "info", {"event": "charged", "attempt": "mine"}))

    msg_id = await QueueService[Any](pool, "jobs").enqueue({})
    try:
        await run(database_url, handler)
        logger.warning("idle", extra={"queue": "-"})
    finally:
        logger.removeHandler(own)
    assert stream.getvalue().splitlines() == [
        f"charged of {msg_id}, its own word",
        "idle of no job, -",
    ]
    assert events == [{"event": "charged", "queue": "jobs", "msg_id": msg_id, "attempt": "mine"}]
