"""Circuit breakers of keys in running workers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import BreakerState, DeadLetter, Job, QueueService, get_key, list_keys
from meshhook.administration import set_queue_config
from meshhook.names import KEY_HEADER
from support.waiting import eventually
from support.workers import ledger_lines, make_worker, worker_process

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[Any]"

PAUSE_OVER = "update meshhook.breakers set probe_at = now() - interval '1 ms'"


@pytest.fixture
async def keyed(connection: Connection, queue_name: str) -> Connection:
    """A connection to a database whose queue `jobs` has breakers that open after 2 failures."""
    await set_queue_config(
        connection, queue_name, keyed=True, breaker_failures=2, retry_backoff_base_ms=100
    )
    return connection


async def state(connection: Connection, key: str = "down") -> BreakerState | None:
    """Return the state of the breaker of a key."""
    return (await get_key(connection, "jobs", key)).breaker


async def test_a_receiver_is_down_and_comes_back(
    keyed: Connection, pool: Pool, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two attempts find out, a probe tries, and then all jobs run; the log and a counter tell."""
    is_up = False
    seen: list[str] = []

    async def only_failed_ones_are_left() -> bool:
        return bool(await keyed.fetchval("select count(*) = 5 from pgmq.q_jobs"))

    async def handler(job: Job[Any]) -> None:
        seen.append(job.headers[KEY_HEADER])
        if not is_up and seen[-1] == "down":
            raise ConnectionError("refused")

    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{}] * 5, key="down")
    registry = CollectorRegistry()

    def transitions(to: str) -> float | None:
        return registry.get_sample_value(
            "meshhook_worker_breaker_transitions_total", {"queue": "jobs", "state": to}
        )

    async with make_worker(database_url, handler, concurrency=1, registry=registry):
        assert (transitions("open"), transitions("closed")) == (0, 0)
        await eventually(lambda: transitions("open") == 1)
        await service.enqueue_many([{}] * 3, key="up")
        await eventually(lambda: seen.count("up") == 3)
        # The last of them has begun, and its message goes when its end is recorded.
        await eventually(only_failed_ones_are_left)
        failed = seen.count("down")
        await keyed.execute(PAUSE_OVER)
        await eventually(lambda: transitions("open") == 2)
        assert seen.count("down") == failed + 1
        is_up = True
        await keyed.execute(PAUSE_OVER)
        await eventually(lambda: seen.count("down") == failed + 1 + 5)
        await eventually(lambda: transitions("closed") == 1)
    assert await state(keyed) is BreakerState.CLOSED


async def test_a_handler_that_completes_its_job_closes_the_breaker(
    keyed: Connection, pool: Pool, database_url: str
) -> None:
    """After its transaction, whose commit nobody waits for."""
    await set_queue_config(keyed, "jobs", breaker_failures=1)
    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 2, key="down")
    await keyed.execute("select meshhook.record_key_failures('jobs', '{down}', '{1}', '{x}')")
    await keyed.execute(PAUSE_OVER)
    locked: list[int] = []

    async def handler(job: Job[Any]) -> None:
        async with pool.acquire() as own, own.transaction():
            await job.complete(connection=own)
            locked.append(
                await keyed.fetchval(
                    "select count(*) from pg_locks "
                    "where relation = 'meshhook.breakers'::regclass and mode like 'Row%' "
                    "and database = "
                    "(select oid from pg_database where datname = current_database())"
                )
            )

    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 2)

        async def is_closed() -> bool:
            return await state(keyed) is BreakerState.CLOSED

        await eventually(is_closed)
    assert locked == [0, 0]


@pytest.mark.parametrize("key", ["gone", None])
async def test_a_dead_letter_holds_its_key(
    keyed: Connection, pool: Pool, database_url: str, key: str | None
) -> None:
    """Until somebody resumes it, with the reason; a message without a key holds none."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({}, key=key)

    async def handler(_: Job[Any]) -> DeadLetter:
        return DeadLetter("the destination is gone", hold_key=True)

    async with make_worker(database_url, handler, concurrency=1) as worker:
        done = 1 if key else 3
        await eventually(lambda: worker.get_stats().processed == 1)
        # Jobs that a worker has claimed before still run: these come after the hold.
        await queue.enqueue_many([{}] * 2, key=key)
        await queue.enqueue({}, key="other")
        await eventually(lambda: worker.get_stats().processed == done + 1)
        found = await get_key(keyed, "jobs", key or "")
        assert found.ready == 3 - done
    if key is None:
        assert found.held_until is None
        return
    assert found.held_until is not None
    assert (found.held_until.year, found.held_by) == (9999, "handler")
    assert found.hold_reason == "the destination is gone"
    assert found.held_at is not None


async def test_the_key_in_the_body(keyed: Connection, pool: Pool, database_url: str) -> None:
    """Its failures are counted, too, and so is a job that its handler completes."""
    await set_queue_config(keyed, "jobs", keyed=False, breaker_failures=None)
    await set_queue_config(keyed, "jobs", keyed=True, key_path="to", breaker_failures=1)
    await QueueService[Any](pool, "jobs").enqueue_many([{"to": "a"}, {"to": "b"}])

    async def handler(job: Job[Any]) -> None:
        if job.payload["to"] == "a":
            raise ConnectionError("refused")
        async with pool.acquire() as own, own.transaction():
            await job.complete(connection=own)

    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 2)
        assert [(each.key, each.breaker) for each in await list_keys(keyed, "jobs")] == [
            ("a", BreakerState.OPEN)
        ]


@pytest.mark.chaos
async def test_a_probe_whose_worker_is_killed_makes_way(
    keyed: Connection, pool: Pool, database_url: str, tmp_path: Path
) -> None:
    """When its lease has ended, another one runs; never two at a time, until one succeeds."""
    await set_queue_config(keyed, "jobs", breaker_failures=1, visibility_timeout_seconds=1)
    go, ledger = tmp_path / "go", tmp_path / "ledger"
    await QueueService[Any](pool, "jobs").enqueue_many([{"until": str(go)}] * 6, key="down")
    await keyed.execute("select meshhook.record_key_failures('jobs', '{down}', '{1}', '{x}')")
    await keyed.execute(PAUSE_OVER)

    def starts() -> list[list[str]]:
        return [line for line in ledger_lines(ledger) if line[0] == "start"]

    async with (
        worker_process(database_url, "patient", ledger=ledger, concurrency=4) as first,
        worker_process(database_url, "patient", ledger=ledger, concurrency=4) as second,
    ):
        processes = {first.pid: first, second.pid: second}
        await eventually(lambda: len(starts()) == 1)
        victim = processes[int(starts()[0][-1])]
        os.killpg(victim.pid, signal.SIGKILL)
        await victim.wait()
        await eventually(lambda: len(starts()) == 2)
        assert await state(keyed) is BreakerState.HALF_OPEN
        assert (await get_key(keyed, "jobs", "down")).running == 1
        go.touch()
        await eventually(lambda: len(ledger_lines(ledger)) == 1 + 6 * 2)
    assert await state(keyed) is BreakerState.CLOSED
