"""The budget for retries: however many settle at once, no more are let through than it says."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Job, QueueService, create_queue, drop_queue, set_queue_config
from meshhook.outcomes import AttemptOutcome
from meshhook.store.queries import QueueTables
from meshhook.store.settlements import RetryBudget, Settlement, settle
from support.waiting import eventually, lock_waiters
from support.workers import live, make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


async def failures(service: QueueService[Any], count: int, delay: float) -> list[Settlement]:
    """Claim jobs, and return how they fail, with the same delay."""
    found = []
    for _ in range(count):
        job = await service.dequeue()
        assert job is not None
        found.append(
            Settlement(
                job.msg_id,
                job.read_ct,
                job.enqueued_timestamp,
                job.attempt,
                AttemptOutcome.RETRIED,
                job.started_timestamp,
                job.started_timestamp,
                delay,
            )
        )
    return found


async def starts(connection: Connection) -> list[float]:
    """Return when the retries of the history start, in seconds, in order."""
    rows = await connection.fetch(
        "select extract(epoch from retry_at)::float8 as at from meshhook.job_attempts "
        "where outcome = 'retried' order by retry_at"
    )
    return [row["at"] for row in rows]


def check_rate(times: list[float], rate: float) -> None:
    """Check every window: in t seconds at most rate * t, and a second's worth at once."""
    burst = max(1, int(rate))
    for first in range(len(times)):
        for last in range(first, len(times)):
            window = times[last] - times[first]
            assert last - first + 1 <= rate * (window + 1e-3) + burst


@pytest.mark.parametrize("rate", [0.5, 5, 20])
async def test_several_settlers_never_exceed_the_budget(
    pool: Pool, connection: Connection, queue_name: str, rate: float
) -> None:
    """Four at once, in batches of several sizes: by the history, no window has more."""
    await set_queue_config(connection, queue_name, max_retries_per_second=rate)
    service = QueueService[Any](pool, queue_name)
    await service.enqueue_many([{}] * 48)
    tables = QueueTables(queue_name)
    parts = [await failures(service, 12, 60.0) for _ in range(4)]

    async def settler(part: list[Settlement]) -> int:
        budget = RetryBudget()
        for first, last in ((0, 1), (1, 4), (4, 12)):
            held = await settle(pool, tables, "w", part[first:last], budget=budget)
            assert len(held) == last - first
        return budget.delayed

    delayed = await asyncio.gather(*(settler(part) for part in parts))
    times = await starts(connection)
    assert len(times) == 48
    check_rate(times, rate)
    # Put off, but no further than needed.
    assert times[-1] - times[0] <= 48 / rate + 30
    assert 0 < sum(delayed) <= 48
    assert len(await live(connection)) == 48


async def test_without_a_budget_nothing_is_put_off(
    pool: Pool, connection: Connection, database_url: str, queue_name: str
) -> None:
    """Neither does a budget that is not spent put off anything; the metric says so."""
    await set_queue_config(
        connection,
        queue_name,
        max_retries_per_second=2,
        retry_backoff_base_ms=600_000,
        retry_backoff_max_ms=600_000,
        retry_jitter=0,
    )
    registry = CollectorRegistry()
    service = QueueService[Any](pool, queue_name)

    async def failing(_: Job[Any]) -> None:
        raise ValueError("no")

    def put_off() -> float:
        name = "meshhook_worker_retries_delayed_total"
        return registry.get_sample_value(name, {"queue": "jobs"}) or 0

    async with make_worker(database_url, failing, registry=registry) as worker:
        await service.enqueue({})
        await eventually(lambda: worker.get_stats().retried >= 1)
        assert put_off() == 0
        await service.enqueue_many([{}] * 20)
        await eventually(lambda: worker.get_stats().retried >= 21)
    assert put_off() > 0
    check_rate(await starts(connection), 2)
    assert (await connection.fetchval("select count(*) from meshhook.job_attempts")) == 21


async def test_snoozes_and_successes_spend_nothing(
    pool: Pool, connection: Connection, queue_name: str
) -> None:
    """Only retries do, also in one batch with others."""
    await set_queue_config(connection, queue_name, max_retries_per_second=0.001)
    service = QueueService[Any](pool, queue_name)
    await service.enqueue_many([{}] * 6)
    part = await failures(service, 6, 30.0)
    part[0] = part[0]._replace(outcome=AttemptOutcome.SUCCEEDED)
    for i in (1, 2, 3):
        part[i] = part[i]._replace(outcome=AttemptOutcome.SNOOZED)
    budget = RetryBudget()
    await settle(pool, QueueTables(queue_name), "w", part, budget=budget)
    assert budget.delayed == 1
    first, second = await starts(connection)
    assert second - first == pytest.approx(1_000, abs=0.01)


@pytest.mark.parametrize("way", ["settled before", "claimed by another", "deleted"])
async def test_lost_leases_spend_nothing(
    pool: Pool, connection: Connection, queue_name: str, way: str
) -> None:
    """Retries of jobs that their worker no longer has leave the budget to those that it has."""
    await set_queue_config(connection, queue_name, max_retries_per_second=0.001)
    tables = QueueTables(queue_name)
    service = QueueService[Any](pool, queue_name)
    await service.enqueue_many([{}] * 5)
    lost = await failures(service, 4, 30.0)
    [held] = await failures(service, 1, 30.0)
    if way == "settled before":
        # Without the budget, so that only what follows can spend it.
        assert len(await settle(pool, tables, "w", lost)) == 4
    elif way == "claimed by another":
        await connection.execute(
            "update pgmq.q_jobs set read_ct = read_ct + 1 where msg_id <> $1", held.msg_id
        )
    else:
        await connection.execute("delete from pgmq.q_jobs where msg_id <> $1", held.msg_id)
    budget = RetryBudget()
    # One statement of nothing but lost ones, and one with a job that is held.
    assert await settle(pool, tables, "w", lost[:2], budget=budget) == set()
    assert await settle(pool, tables, "w", [*lost[2:], held], budget=budget) == {2}
    assert budget.delayed == 0


async def test_a_lease_that_is_lost_meanwhile_spends_nothing(
    pool: Pool, connection: Connection, queue_name: str
) -> None:
    """A retry that waits for another claim of its message sees that it has lost it."""
    await set_queue_config(connection, queue_name, max_retries_per_second=0.001)
    tables = QueueTables(queue_name)
    service = QueueService[Any](pool, queue_name)
    await service.enqueue_many([{}] * 2)
    lost, held = await failures(service, 2, 30.0)
    budget = RetryBudget()
    async with connection.transaction():
        await connection.execute(
            "update pgmq.q_jobs set read_ct = read_ct + 1 where msg_id = $1", lost.msg_id
        )
        waiting = asyncio.create_task(settle(pool, tables, "w", [lost], budget=budget))
        await eventually(lambda: lock_waiters(connection))
    assert await waiting == set()
    assert len(await settle(pool, tables, "w", [held], budget=budget)) == 1
    assert budget.delayed == 0


@pytest.mark.parametrize("way", ["changed", "made again"])
async def test_a_budget_that_is_changed_begins_anew(
    pool: Pool, connection: Connection, queue_name: str, way: str
) -> None:
    """What was put off for hours at the former rate does not keep back retries to come."""
    await set_queue_config(connection, queue_name, max_retries_per_second=0.001)
    grant = (
        "select extract(epoch from max(t.at) - clock_timestamp())::float8 "
        "from meshhook.grant_retries('jobs', 50) as g (times), unnest(g.times) as t (at)"
    )
    assert await connection.fetchval(grant) > 40_000
    if way == "changed":
        await set_queue_config(connection, queue_name, max_retries_per_second=100)
    else:
        await drop_queue(connection, queue_name)
        await create_queue(connection, queue_name)
        await set_queue_config(connection, queue_name, max_retries_per_second=100)
    assert await connection.fetchval(grant) < 1
