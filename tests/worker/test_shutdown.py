"""Stopping: by signal, with jobs running, waiting, or taking no notice."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from support.waiting import eventually
from support.workers import ledger_lines, live, make_worker, outcomes, worker_process

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_leaves_unfinished_jobs_ready_at_once(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    """Jobs that run or wait when the grace period ends are ready again, with no attempt spent.

    The process exits with 0.
    """
    ids = await QueueService(pool, "jobs").enqueue_many([{}] * 10)
    ledger = tmp_path / "ledger"
    async with worker_process(
        database_url, "forever", ledger=ledger, concurrency=3, grace_seconds=6
    ) as process:
        await eventually(lambda: len(ledger_lines(ledger)) == 3)
        process.send_signal(number)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    rows = await live(connection)
    assert set(rows) == set(ids)
    assert {(row["state"], row["read_ct"]) for row in rows.values()} == {("ready", 0)}
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 0


async def test_jobs_that_take_no_notice_do_not_hold_up_the_end(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """A handler that swallows its cancellation cannot keep the worker from stopping in time."""
    await QueueService(pool, "jobs").enqueue({})
    ledger = tmp_path / "ledger"
    async with worker_process(database_url, "stubborn", ledger=ledger, grace_seconds=6) as process:
        await eventually(lambda: len(ledger_lines(ledger)) == 1)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    assert ["cancelled", "1"] in ledger_lines(ledger)
    [row] = (await live(connection)).values()
    assert (row["state"], row["read_ct"]) == ("ready", 0)


async def test_threads_that_jobs_have_blocked_do_not_hold_up_the_end(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """Handlers that have all threads of `asyncio.to_thread` at work are stopped in time, too."""
    count = min(32, (os.cpu_count() or 1) + 4)
    await QueueService(pool, "jobs").enqueue_many([{}] * count)
    ledger = tmp_path / "ledger"
    async with worker_process(database_url, "threaded", ledger=ledger, grace_seconds=6) as process:
        await eventually(lambda: len(ledger_lines(ledger)) == count)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    rows = (await live(connection)).values()
    assert [(row["state"], row["read_ct"]) for row in rows] == [("ready", 0)] * count


async def test_running_jobs_finish_within_the_grace_period(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Stopping waits for running jobs and records them; nothing new starts."""
    running = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        running.set()
        await go_on.wait()

    queue = QueueService[Any](pool, "jobs")
    first, second = await queue.enqueue_many([{}, {}])
    worker = make_worker(database_url, handler, concurrency=1)
    await worker.start()
    await asyncio.wait_for(running.wait(), 60)
    stopping = asyncio.create_task(worker.stop())

    async def second_is_given_back() -> bool:
        row = (await live(connection))[second]
        return bool(row["state"] == "ready" and row["read_ct"] == 0)

    await eventually(second_is_given_back)
    go_on.set()
    await stopping
    assert await outcomes(connection, first) == [("succeeded", 1)]
    assert await outcomes(connection, second) == []


async def test_outcomes_are_recorded_although_the_caller_is_cancelled(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Cancelling the task that runs the worker loses no outcome and leaves no lease."""

    async def handler(_: Job[Any]) -> None:
        await asyncio.sleep(0)

    ids = await QueueService(pool, "jobs").enqueue_many([{}] * 2000)
    worker = make_worker(database_url, handler)
    task = asyncio.create_task(worker.run(handle_signals=False))
    await eventually(lambda: worker.get_stats().processed > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    rows = await live(connection)
    done = await connection.fetch("select msg_id from meshhook.job_attempts")
    assert sorted([*rows, *(row["msg_id"] for row in done)]) == sorted(ids)
    assert {(row["state"], row["read_ct"]) for row in rows.values()} <= {("ready", 0)}


async def test_start_and_stop_are_idempotent(pool: Pool[Any], database_url: str) -> None:
    """Stopping before starting, starting twice and stopping twice do no harm; it starts again."""
    ran: list[int] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.msg_id)

    worker = make_worker(database_url, handler)
    await worker.stop()
    for _ in range(2):
        await worker.start()
        await worker.start()
        msg_id = await QueueService(pool, "jobs").enqueue({})

        def has_run(msg_id: int = msg_id) -> bool:
            return msg_id in ran

        await eventually(has_run)
        await worker.stop()
        await worker.stop()
    assert len(ran) == 2
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("meshhook")]


async def test_a_restarted_pod_of_the_same_name_is_a_new_worker(database_url: str) -> None:
    """Two workers with the same host name and process id have different names in the history."""

    async def handler(_: Job[Any]) -> None:
        """Do nothing."""

    assert make_worker(database_url, handler).name != make_worker(database_url, handler).name


async def test_a_stop_that_comes_while_the_worker_starts_is_not_forgotten(
    database_url: str,
) -> None:
    """A signal between the first line of `run` and the first claim stops the worker."""

    async def handler(_: Job[Any]) -> None:
        """Do nothing."""

    worker = make_worker(database_url, handler)
    worker.request_stop()
    await asyncio.wait_for(worker.run(handle_signals=False), 60)
