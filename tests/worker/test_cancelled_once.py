"""Cancelling beside everything that may happen to a job: each ends once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService, RetryAfter, Snooze, set_queue_config
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import live, make_worker, worker_process

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection

JOBS = 300
REQUESTS = 10
FINAL = ("succeeded", "cancelled", "dead_lettered", "archived")


async def acts(job: Job[Any]) -> object:
    """Do what the payload says: end, fail, retry, snooze, hold on, or swallow a cancellation."""
    act = job.payload["act"]
    await asyncio.sleep(job.payload["seconds"])
    if act == "fail" or (act == "fail_once" and job.attempt == 1):
        raise ValueError("no")
    if act == "retry" and job.attempt == 1:
        return RetryAfter(0.05)
    if act == "snooze" and random.random() < 0.5:
        return Snooze(0.02)
    if act == "swallow":
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)
    return None


async def final_outcomes(connection: Connection[Any]) -> dict[int, list[str]]:
    """Return the final outcomes that the history has of each job."""
    rows = await connection.fetch(
        "select msg_id, array_agg(outcome) as outcomes from meshhook.job_attempts "
        "where outcome = any ($1) group by msg_id",
        list(FINAL),
    )
    return {row["msg_id"]: row["outcomes"] for row in rows}


@asynccontextmanager
async def interferences(
    service: QueueService[Any], pool: Pool[Any], ids: list[int], dice: random.Random
) -> AsyncIterator[None]:
    """Cancel, reschedule, let leases run out and look after requests, all at once and at random."""

    async def cancels() -> None:
        while True:
            await service.cancel(dice.sample(ids, 2))
            held = await pool.fetch("select msg_id from pgmq.q_jobs where vt > now()")
            await service.cancel([each["msg_id"] for each in dice.sample(held, min(2, len(held)))])
            await asyncio.sleep(dice.random() * 0.05)

    async def reschedules() -> None:
        while True:
            await service.run_now(dice.sample(ids, 5))
            await service.reschedule(dice.sample(ids, 3), delay_seconds=0.1)
            await asyncio.sleep(dice.random() * 0.05)

    async def expires() -> None:
        while True:
            await pool.execute(
                "update pgmq.q_jobs set vt = now() where msg_id = any (array(select msg_id from "
                "pgmq.q_jobs where msg_id = any ($1) for update skip locked))",
                dice.sample(ids, 5),
            )
            await asyncio.sleep(dice.random() * 0.05)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each()) for each in (cancels, cancels, reschedules, expires)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


@pytest.mark.parametrize("seed", range(2))
async def test_a_job_is_never_both_cancelled_and_done(
    service: QueueService[Any],
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    seed: int,
) -> None:
    """Claims, outcomes, retries, snoozes, lost leases and requests at once: each ends once."""
    dice = random.Random(seed)
    await set_queue_config(
        Database(connection),
        "jobs",
        visibility_timeout_seconds=1,
        retry_backoff_base_ms=20,
        max_retry_attempts=4,
    )
    acts_of = ["end", "end", "fail", "fail_once", "retry", "snooze", "swallow"]
    ids = await service.enqueue_many(
        [{"act": dice.choice(acts_of), "seconds": dice.random() * 0.3} for _ in range(JOBS)]
    )
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(make_worker(database_url, acts, concurrency=10))
        async with interferences(service, pool, ids, dice):

            async def has_met() -> bool:
                ended = await connection.fetchval(
                    "select count(*) from meshhook.cancellations where ended_at is not null"
                )
                return ended >= REQUESTS or not await live(connection)

            await eventually(has_met)

        async def has_ended() -> bool:
            open_ones = await connection.fetchval(
                "select count(*) from meshhook.cancellations where ended_at is null"
            )
            return not await live(connection) and not open_ones

        await eventually(has_ended)
    ends = await final_outcomes(connection)
    assert ends.keys() == set(ids)
    assert {each: outcomes for each, outcomes in ends.items() if len(outcomes) != 1} == {}
    counts = Counter(outcomes[0] for outcomes in ends.values())
    assert counts["cancelled"] > 0
    assert counts["succeeded"] > 0
    requests = await connection.fetch("select msg_id, outcome from meshhook.cancellations")
    assert requests
    for request in requests:
        assert ends[request["msg_id"]] == [request["outcome"]]


async def test_all_that_fit_while_workers_drain(
    service: QueueService[Any], connection: Connection[Any], database_url: str
) -> None:
    """Of 10,000, each is done or cancelled, and none is both or neither."""
    handled: Counter[int] = Counter()
    is_requested = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        handled[job.msg_id] += 1
        await asyncio.sleep(0)
        # However late the request comes, it finds jobs.
        if len(handled) > 5_000:
            await is_requested.wait()

    ids = await service.enqueue_many([{"run_id": "r", "payload": n} for n in range(10_000)])
    async with make_worker(database_url, handler, concurrency=20) as worker:
        await eventually(lambda: worker.get_stats().succeeded > 0)
        done = await service.cancel(run_id="r")
        is_requested.set()

        async def is_empty() -> bool:
            return not await live(connection)

        await eventually(is_empty)
    ends = await final_outcomes(connection)
    assert ends.keys() == set(ids)
    assert {len(outcomes) for outcomes in ends.values()} == {1}
    cancelled = {each for each, outcomes in ends.items() if outcomes == ["cancelled"]}
    assert len(cancelled) >= done.changed > 0
    assert handled.keys().isdisjoint(cancelled) or done.requested > 0


async def test_workers_that_are_killed(
    service: QueueService[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """Their jobs are to be cancelled, and are not run by those that come after."""
    await set_queue_config(Database(connection), "jobs", visibility_timeout_seconds=1)
    ids = await service.enqueue_many([{"n": n} for n in range(20)])
    ledger = tmp_path / "ledger"
    async with worker_process(database_url, "forever", ledger=ledger, concurrency=20):

        async def all_run() -> bool:
            found = await live(connection)
            return all(each["state"] == "running" for each in found.values())

        await eventually(all_run)
        await eventually(lambda: ledger.exists() and ledger.read_text().count("start") == len(ids))
    # It was killed just now.
    done = await service.cancel(ids)
    assert done.requested + done.changed == len(ids)
    ran: list[int] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.msg_id)

    async with make_worker(database_url, handler):

        async def is_empty() -> bool:
            return not await live(connection)

        await eventually(is_empty)
    assert ran == []
    assert set(map(tuple, (await final_outcomes(connection)).values())) == {("cancelled",)}


@pytest.fixture
def service(pool: Pool[Any]) -> QueueService[Any]:
    """The queue `jobs`."""
    return QueueService[Any](pool, "jobs")
