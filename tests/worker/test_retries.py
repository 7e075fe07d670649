"""Retries in a worker: a job's own policy, and the function of the app that decides."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    App,
    FailedAttempt,
    InvalidHandlerError,
    Job,
    QueueService,
    RetryPolicy,
    create_job_handler,
    set_queue_config,
)
from meshhook.outcomes import AttemptOutcome
from meshhook.retry import header_of_policy, policy_from_header
from meshhook.testing import run_job
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


async def failing(_: Job[Any]) -> None:
    """Fail."""
    raise ValueError("no")


async def delays_of(connection: Connection, msg_id: int) -> list[float]:
    """Return the delays before the retries of a job, in seconds."""
    rows = await connection.fetch(
        "select extract(epoch from retry_at - finished_at)::float8 as delay "
        "from meshhook.job_attempts where msg_id = $1 and outcome = 'retried' order by attempt",
        msg_id,
    )
    return [row["delay"] for row in rows]


async def test_jobs_with_policies_of_their_own_beside_others(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """More attempts, fewer, other delays: each job as its own header says, else as the queue."""
    await set_queue_config(connection, queue_name, max_retry_attempts=2, retry_backoff_base_ms=5)
    service = QueueService[Any](pool, queue_name)
    plain = await service.enqueue({})
    once = await service.enqueue({}, retry=RetryPolicy(max_attempts=1))
    listed = await service.enqueue(
        {}, retry=RetryPolicy(max_attempts=4, delays_ms=[1, 2], jitter=0)
    )
    slow = await service.enqueue({}, retry=RetryPolicy(backoff="fixed", base_ms=600_000, jitter=0))
    seen: dict[int, int] = {}

    async def handler(job: Job[Any]) -> None:
        seen[job.msg_id] = job.max_attempts
        raise ValueError("no")

    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed >= 8)
    assert await outcomes(connection, plain) == [("retried", 1), ("dead_lettered", 2)]
    assert await outcomes(connection, once) == [("dead_lettered", 1)]
    assert await outcomes(connection, listed) == [
        *[("retried", attempt) for attempt in (1, 2, 3)],
        ("dead_lettered", 4),
    ]
    assert await outcomes(connection, slow) == [("retried", 1)]
    assert seen == {plain: 2, once: 1, listed: 4, slow: 2}
    [delay] = await delays_of(connection, slow)
    assert delay == pytest.approx(600, abs=30)


async def test_a_policy_that_makes_no_sense_is_logged_once(
    pool: Pool,
    connection: Connection,
    database_url: str,
    queue_name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Other clients may write anything: the queue's settings apply, and the log says so once."""
    await set_queue_config(connection, queue_name, max_retry_attempts=1)
    for odd in ('"x"', "null", '{"max_attempts": "9"}', '{"more": 1}', '{"delays_ms": [[]]}'):
        headers = f'{{"meshhook-retry": {odd}}}'
        await connection.execute("select pgmq.send('jobs', '{}', $1::jsonb)", headers)
    async with make_worker(database_url, failing) as worker:
        await eventually(lambda: worker.get_stats().processed >= 5)
    assert await live(connection) == {}
    told = [each for each in caplog.records if "retry policy is unusable" in each.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize(("own", "outcome"), [(None, "LeaseLost"), (5, None)])
async def test_lost_attempts_count_against_the_own_policy(
    connection: Connection, database_url: str, queue_name: str, own: int | None, outcome: str | None
) -> None:
    """A job that lost as many attempts as the queue allows runs again if it has more of its own."""
    await set_queue_config(connection, queue_name, max_retry_attempts=2)
    policy = None if own is None else RetryPolicy(max_attempts=own)
    await QueueService[Any](connection, queue_name).enqueue({}, retry=policy)
    # Two leases that ran out.
    await connection.execute(
        """update pgmq.q_jobs set read_ct = 2, vt = now() - interval '1 second',
        headers = coalesce(headers, '{}') || '{"meshhook-claim": {
            "read_ct": 2, "attempt": 2, "lost": 1}}'"""
    )
    ran: list[int] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.attempt)

    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed >= 1)
    error = await connection.fetchval(
        "select error_type from meshhook.job_attempts where outcome <> 'lost'"
    )
    assert error == outcome
    assert ran == ([] if outcome else [3])


async def test_the_function_decides() -> None:
    """Seconds, a timedelta or a dead letter, as the error is; it sees the attempt."""
    seen: list[FailedAttempt] = []

    def decide(failed: FailedAttempt) -> float | timedelta | None:
        seen.append(failed)
        if isinstance(failed.error, KeyError):
            return None
        return timedelta(minutes=2) if failed.attempt == 1 else 7

    app = App("postgresql://localhost/nowhere")

    @app.job("orders", retry=decide)
    async def handler(payload: str) -> None:
        raise KeyError("gone") if payload == "gone" else ValueError("later")

    first = await run_job(handler, "x", run_id="r", msg_id=7)
    assert (first.outcome, first.delay_seconds) == (AttemptOutcome.RETRIED, 120)
    second = await run_job(handler, "x", attempt=2, settings={"retry_jitter": 0})
    assert second.delay_seconds == 7
    gone = await run_job(handler, "gone")
    assert (gone.outcome, gone.error_type) == (AttemptOutcome.DEAD_LETTERED, "KeyError")
    jittered = await run_job(handler, "x", attempt=2, settings={"retry_jitter": 1})
    assert 0 <= jittered.delay_seconds <= 7
    failed = seen[0]
    assert (failed.queue, failed.msg_id, failed.attempt, failed.max_attempts, failed.run_id) == (
        "orders",
        7,
        1,
        5,
        "r",
    )


async def test_the_function_is_not_asked_after_the_last_attempt() -> None:
    """The limit of attempts holds, whatever the function would say."""
    asked: list[object] = []

    def decide(failed: FailedAttempt) -> float:
        asked.append(failed)
        return 1

    handler = create_job_handler(failing, retry=decide)
    last = await run_job(handler, settings={"max_retry_attempts": 2}, attempt=2)
    assert last.outcome is AttemptOutcome.DEAD_LETTERED
    own = {"meshhook-retry": header_of_policy(RetryPolicy(max_attempts=1))}
    assert (await run_job(handler, headers=own)).outcome is AttemptOutcome.DEAD_LETTERED
    assert asked == []


@pytest.mark.parametrize("returned", [-1, "soon", float("inf"), 10**9, ZeroDivisionError()])
async def test_a_function_that_fails_loses_no_job(
    returned: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """What it raises or returns amiss is logged, and the job is retried as its queue says."""

    def decide(_: FailedAttempt) -> Any:
        if isinstance(returned, Exception):
            raise returned
        return returned

    handler = create_job_handler(failing, retry=decide)
    result = await run_job(handler, settings={"retry_backoff_base_ms": 3_000})
    assert (result.outcome, result.delay_seconds) == (AttemptOutcome.RETRIED, 3)
    assert "the retry function failed" in caplog.text


def test_a_function_that_cannot_be_asked_is_refused() -> None:
    """At the declaration, where the handler is named."""

    async def later(_: FailedAttempt) -> float:
        return 1

    odd: list[Any] = [5, later, lambda: 1]
    for each in odd:
        with pytest.raises(InvalidHandlerError, match=r"failing: retry .*FailedAttempt"):
            create_job_handler(failing, retry=each)


async def test_a_policy_that_follows_a_job_in_json(connection: Connection, queue_name: str) -> None:
    """The header is plain JSON, which any client can write."""
    await connection.execute(
        "select meshhook.enqueue('jobs', '{}', headers => '{\"meshhook-retry\": "
        '{"max_attempts": 3, "backoff": "fixed", "base_ms": 1000}}\')'
    )
    text = await connection.fetchval("select headers from pgmq.q_jobs")
    assert policy_from_header(json.loads(text)["meshhook-retry"]) == RetryPolicy(
        max_attempts=3, backoff="fixed", base_ms=1_000
    )
