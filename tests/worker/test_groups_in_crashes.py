"""Groups, follow-ups and results while workers are killed and disconnected."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import FollowUp, QueueService, create_queue, list_groups, repair_group
from meshhook.administration import set_queue_config
from support.waiting import eventually
from support.workers import ledger_lines, worker_process

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("queue_name")]

PROCESSES = 3
FAULTS = 12
GROUPS = 8
ENDS = ("succeeded", "succeeded", "retried", "dead_lettered", "cancelled")
JOBS_OF_GROUP = 40 * len(ENDS)


def has_more(ledger: Path, lines: int) -> bool:
    """Say whether a ledger has more lines than that."""
    return len(ledger_lines(ledger)) > lines


async def check(connection: Connection) -> None:
    """Balance the books: callbacks, their counts, results, and what follows."""
    for group in await list_groups(connection, "jobs"):
        if not group.is_finished:
            await repair_group(connection, "jobs", group.name)
    rows = await connection.fetch("select message, headers from pgmq.q_done")
    told = Counter(json.loads(row["message"])["group"] for row in rows)
    assert told == {str(number): 1 for number in range(GROUPS)}
    part = JOBS_OF_GROUP // len(ENDS)
    for row in rows:
        counts = json.loads(row["headers"])["meshhook-finished-group"]
        kinds = ("succeeded", "failed", "cancelled")
        assert [counts[kind] for kind in kinds] == [3 * part, part, part]
    rows = await connection.fetch(
        "select msg_id, result from meshhook.job_attempts where outcome = 'succeeded'"
    )
    assert {row["msg_id"]: int(row["result"]) for row in rows} == {
        row["msg_id"]: row["msg_id"] for row in rows
    }
    followed = await connection.fetch("select message from pgmq.q_next")
    after = Counter(json.loads(row["message"])["after"] for row in followed)
    assert after == {row["msg_id"]: 1 for row in rows}


@pytest.mark.timeout(300)
async def test_each_callback_and_follow_up_comes_once_whatever_dies_when(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    """With true counts, and the result that belongs to each job.

    Processes are killed between and in statements, and cut off from the database at their commits.
    """
    for name in ("done", "next"):
        await create_queue(connection, name)
    await set_queue_config(
        connection, "jobs", results=True, visibility_timeout_seconds=1, max_retry_attempts=100
    )
    async with QueueService[Any](database_url, "jobs") as service:
        for number in range(GROUPS):
            jobs = [{"payload": {"end": ENDS[n % len(ENDS)]}} for n in range(JOBS_OF_GROUP)]
            callback = FollowUp("done", {"group": str(number)})
            await service.enqueue_many(jobs, group=str(number), on_complete=callback)
    chances = random.Random(18)
    ledger = tmp_path / "ledger"

    async def is_empty() -> bool:
        return not await connection.fetchval("select count(*) from pgmq.q_jobs")

    async with AsyncExitStack() as stack:

        async def start() -> Any:
            context = worker_process(database_url, "followed", ledger=ledger, concurrency=5)
            return await stack.enter_async_context(context)

        processes = [await start() for _ in range(PROCESSES)]
        await eventually(lambda: len(ledger_lines(ledger)) > 20)
        for _ in range(FAULTS):
            if await is_empty():
                break
            place = chances.randrange(PROCESSES)
            if chances.random() < 0.5:
                os.killpg(processes[place].pid, signal.SIGKILL)
                processes[place] = await start()
            else:
                await connection.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name like 'meshhook worker%' "
                    "and datname = current_database() and pid % 2 = $1",
                    place % 2,
                )
            await eventually(partial(has_more, ledger, len(ledger_lines(ledger))))
        await eventually(is_empty, timeout=120)
    await check(connection)
    # It was worth it: jobs ran again.
    assert len(ledger_lines(ledger)) > GROUPS * JOBS_OF_GROUP
