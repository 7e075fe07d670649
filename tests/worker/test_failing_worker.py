"""A worker that fails: what it holds is given back, and what has ended is recorded."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from meshhook.errors import WorkerFailedError
from meshhook.worker.housekeeping import Housekeeper
from support.waiting import eventually
from support.workers import ledger_lines, live, make_worker, outcomes, worker_process

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


async def test_a_worker_that_fails_gives_back_what_it_holds(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs that run and jobs that wait are ready at once, unspent; what has ended is recorded."""
    fails = asyncio.Event()
    go_on = asyncio.Event()

    async def run(_: Housekeeper) -> None:
        await fails.wait()
        raise ZeroDivisionError

    monkeypatch.setattr(Housekeeper, "run", run)
    running: list[int] = []

    async def handler(job: Job[Any]) -> None:
        running.append(job.msg_id)
        if job.payload == "quick":
            await go_on.wait()
            # In the same turn of the loop: nothing is recorded before the worker fails.
            fails.set()
        else:
            await asyncio.Event().wait()

    queue = QueueService[Any](pool, "jobs")
    quick = await queue.enqueue({"payload": "quick"})
    slow = await queue.enqueue_many([{"payload": "slow"}] * 5)
    worker = make_worker(database_url, handler, concurrency=3)
    await worker.start()
    await eventually(lambda: len(running) == 3)
    go_on.set()
    await eventually(lambda: any(check.fault for check in worker.liveness()))
    with pytest.raises(ExceptionGroup) as raised:
        await worker.stop()
    assert raised.value.subgroup(ZeroDivisionError) is not None
    assert await outcomes(connection, quick) == [("succeeded", 1)]
    rows = await live(connection)
    assert set(rows) == set(slow)
    assert {(row["state"], row["read_ct"]) for row in rows.values()} == {("ready", 0)}
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 1


@pytest.mark.parametrize("part", ["producer", "completer", "executor", "config"])
async def test_a_part_that_somebody_cancels_is_missed(
    pool: Pool[Any], connection: Connection[Any], database_url: str, part: str
) -> None:
    """A worker without its completer, say, fails at once instead of working on for nothing."""

    async def handler(_: Job[Any]) -> None:
        for task in asyncio.all_tasks():
            if task.get_name() == f"meshhook-{part}-jobs":
                task.cancel()

    await QueueService[Any](pool, "jobs").enqueue({})
    worker = make_worker(database_url, handler)
    await worker.start()
    await eventually(lambda: any(check.fault for check in worker.liveness()))
    with pytest.raises(ExceptionGroup) as raised:
        await worker.stop()
    assert raised.value.subgroup(WorkerFailedError) is not None
    # What the handler was done with is recorded all the same.
    assert await connection.fetchval("select outcome from meshhook.job_attempts") == "succeeded"


@pytest.mark.parametrize("handler", ["exiting_aside", "cancelling_all"])
async def test_a_process_that_a_handler_ends_gives_back_what_it_holds(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path, handler: str
) -> None:
    """`sys.exit()` in a task of a handler's own ends the process; other jobs lose no attempt."""
    ids = await QueueService[Any](pool, "jobs").enqueue_many([{}] * 5)
    ledger = tmp_path / "ledger"
    async with worker_process(database_url, handler, ledger=ledger, concurrency=2) as process:
        assert await asyncio.wait_for(process.wait(), 60) != 0
    assert ledger_lines(ledger)
    rows = await live(connection)
    assert set(rows) == set(ids)
    assert {(row["state"], row["read_ct"]) for row in rows.values()} == {("ready", 0)}
