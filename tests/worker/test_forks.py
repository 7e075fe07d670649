"""Handlers that fork: the worker goes on in one process, and the other one leaves it alone."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import QueueService
from support.waiting import eventually
from support.workers import ledger_lines, outcomes, worker_process

pytestmark = pytest.mark.usefixtures("queue_name")

JOBS = 6


async def notes_of(
    connection: asyncpg.Connection[Any], url: str, handler: str, loop: str, ledger: Path
) -> list[list[str]]:
    """Run some jobs in a worker process, stop it, and return what the handler has noted.

    Each job has succeeded once, and the process ended in order.
    """
    ids = await QueueService[Any](connection, "jobs").enqueue_many([{}] * JOBS)
    async with worker_process(url, handler, ledger=ledger, loop=loop, concurrency=3) as process:

        async def all_settled() -> bool:
            count = await connection.fetchval("select count(*) from meshhook.job_attempts")
            return bool(count == JOBS)

        await eventually(all_settled)
        assert process.returncode is None
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    for msg_id in ids:
        assert await outcomes(connection, msg_id) == [("succeeded", 1)]
    return ledger_lines(ledger)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("handler", ["process_in_thread", "process_in_loop"])
async def test_a_process_of_a_handler_dies_of_a_signal_and_the_worker_does_not(
    connection: asyncpg.Connection[Any], database_url: str, tmp_path: Path, handler: str, loop: str
) -> None:
    """`terminate()` of a process of multiprocessing ends it, and it alone."""
    notes = await notes_of(connection, database_url, handler, loop, tmp_path / "ledger")
    ends = [line[2] for line in notes if line[0] == "end"]
    assert ends == [str(-signal.SIGTERM)] * JOBS


async def test_a_process_that_outlives_the_worker_keeps_no_connection_of_it(
    connection: asyncpg.Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """The server sees at once that a worker was killed, whatever its handlers have forked."""
    ledger = tmp_path / "ledger"
    await QueueService[Any](connection, "jobs").enqueue({})
    async with worker_process(database_url, "process_that_stays", ledger=ledger) as process:
        await eventually(lambda: ledger_lines(ledger))
        process.kill()
        await process.wait()

        async def has_no_session() -> bool:
            return not await connection.fetchval(
                "select count(*) from pg_stat_activity where datname = current_database() "
                "and application_name like 'meshhook %'"
            )

        await eventually(has_no_session)


@pytest.mark.parametrize(
    ("handler", "code", "loop"),
    [
        ("fork_returns", 0, "uvloop"),
        ("fork_raises", 1, "asyncio"),
        ("fork_returns_in_loop", 0, "asyncio"),
        ("fork_returns_after_wait", 0, "uvloop"),
        ("fork_raises_in_loop", 1, "uvloop"),
        ("fork_waits_in_loop", 1, "asyncio"),
        ("fork_in_loop_thread", 0, "asyncio"),
        ("fork_in_task", 1, "asyncio"),
        ("fork_in_task", 1, "uvloop"),
    ],
)
async def test_a_forked_process_ends_where_it_comes_back(
    connection: asyncpg.Connection[Any],
    database_url: str,
    tmp_path: Path,
    *,
    handler: str,
    code: int,
    loop: str,
) -> None:
    """It records nothing, runs no other job, and its exit code says how the handler ended there."""
    notes = await notes_of(connection, database_url, handler, loop, tmp_path / "ledger")
    assert sum(line[0] == "child" for line in notes) == JOBS
    assert [line[2] for line in notes if line[0] == "end"] == [str(code)] * JOBS
    assert not [line for line in notes if line[0] == "went"]
