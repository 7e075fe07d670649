"""Everything goes wrong at once, and every job is accounted for."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import QueueService, set_queue_config
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import ledger_lines, live, worker_process

JOBS = 2_000
ROUNDS = 8

TERMINATE = """
select pg_terminate_backend(pid) from pg_stat_activity
where application_name like 'meshhook % jobs' and datname = current_database()
"""


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("queue_name")
async def test_kills_and_lost_connections_lose_no_job(
    pool: asyncpg.Pool[Any],
    connection: asyncpg.Connection[Any],
    database_url: str,
    tmp_path: Path,
) -> None:
    """Workers are killed or stopped and their backends terminated while jobs are enqueued.

    Each job that was stored ends exactly once, and each one ran; the ledger proves it.
    """
    await set_queue_config(
        Database(pool), "jobs", visibility_timeout_seconds=1, max_retry_attempts=1000
    )
    chance = random.Random(7)
    ledger = tmp_path / "ledger"
    queue = QueueService[Any](pool, "jobs")
    ids: list[int] = []

    async def enqueue() -> None:
        share = JOBS // ROUNDS
        ids.extend(await asyncio.gather(*(queue.enqueue({"payload": {}}) for _ in range(share))))

    async with AsyncExitStack() as stack:
        for number in range(ROUNDS):
            process = await stack.enter_async_context(
                worker_process(database_url, "killer", ledger=ledger, concurrency=10)
            )
            enough = len(ledger_lines(ledger)) + 60
            await enqueue()

            def has_worked(enough: int = enough) -> bool:
                return len(ledger_lines(ledger)) >= enough

            await eventually(has_worked)
            if chance.random() < 0.5:
                await connection.execute(TERMINATE)
            if number % 3 == 2:
                process.terminate()
                assert await process.wait() == 0
            else:
                process.kill()
                await process.wait()
        await stack.enter_async_context(
            worker_process(database_url, "killer", ledger=ledger, concurrency=10)
        )

        async def is_empty() -> bool:
            return await live(connection) == {}

        await eventually(is_empty, timeout=200)
    assert len(set(ids)) == len(ids) == JOBS
    done = await connection.fetch(
        "select msg_id, count(*) as times from meshhook.job_attempts "
        "where outcome = 'succeeded' group by msg_id"
    )
    assert {row["msg_id"]: row["times"] for row in done} == dict.fromkeys(ids, 1)
    assert {int(line[1]) for line in ledger_lines(ledger)} == set(ids)
    assert await connection.fetchval("select count(*) from pgmq.q_jobs_dlq") == 0
