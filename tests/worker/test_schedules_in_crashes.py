"""Schedules while every worker is killed in the second that is due."""

from __future__ import annotations

import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import add_schedule, list_schedule_firings, pause_schedule
from support.waiting import eventually
from support.workers import ledger_lines, worker_process

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

PROCESSES = 3
ROUNDS = 3
IS_DUE = "select clock_timestamp() >= next_at from meshhook.schedules"
IS_WAITING = (
    "select exists (select from pg_stat_activity where datname = current_database() "
    "and wait_event_type = 'Lock' and query like '%fire_schedule%' and pid <> pg_backend_pid())"
)


def has_more(ledger: Path, lines: int) -> bool:
    """Say whether a ledger has more lines than that."""
    return len(ledger_lines(ledger)) > lines


@pytest.mark.timeout(300)
async def test_each_due_time_gets_one_job_when_all_workers_die_in_that_second(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    """No due time is left out, and none has two jobs; those that run note the same due times."""
    await add_schedule(connection, "jobs", "often", every=1, missed="all")
    ledger = tmp_path / "ledger"
    for _ in range(ROUNDS):
        async with AsyncExitStack() as stack:
            processes = [
                await stack.enter_async_context(
                    worker_process(database_url, "scheduled", ledger=ledger)
                )
                for _ in range(PROCESSES)
            ]
            await eventually(partial(has_more, ledger, len(ledger_lines(ledger))), timeout=60)
            await eventually(lambda: connection.fetchval(IS_DUE))
            for each in processes:
                os.killpg(each.pid, signal.SIGKILL)
            for each in processes:
                await each.wait()
    await pause_schedule(connection, "jobs", "often")
    # A statement of a worker that died may still be under way.
    await eventually(
        lambda: connection.fetchval(
            "select count(*) = 1 from pg_stat_activity where datname = current_database() "
            "and backend_type = 'client backend'"
        )
    )
    firings = await list_schedule_firings(connection, "jobs", "often", limit=10_000)
    times = [each.due_at for each in reversed(firings)]
    assert times == [times[0] + timedelta(seconds=n) for n in range(len(times))]
    assert {each.outcome for each in firings} == {"enqueued"}
    stored = await connection.fetchval("select last_value from pgmq.q_jobs_msg_id_seq")
    ids = {each.msg_id for each in firings}
    assert len(ids) == len(firings) <= stored
    known = await connection.fetch(
        "select msg_id from meshhook.job_attempts union select msg_id from pgmq.q_jobs"
    )
    assert {row["msg_id"] for row in known} == ids
    noted: Counter[str] = Counter()
    for _, msg_id, due_at in {tuple(line) for line in ledger_lines(ledger)}:
        noted[due_at] += 1
        assert int(msg_id) in ids
    assert set(noted.values()) == {1}


@pytest.mark.timeout(300)
async def test_the_statement_of_a_worker_that_dies_is_whole_or_nothing(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    """All workers die while one of them fires; the next one sends what that one did not."""
    await add_schedule(connection, "jobs", "rare", "0 0 1 1 *")
    due_at = await connection.fetchval("select date_trunc('second', now())")
    ledger = tmp_path / "ledger"
    async with AsyncExitStack() as stack:
        lock = connection.transaction()
        await lock.start()
        await connection.execute("lock table meshhook.schedule_firings in share mode")
        other = await asyncpg.connect(database_url)
        stack.push_async_callback(other.close)
        await other.execute("update meshhook.schedules set next_at = $1, try_at = $1", due_at)
        processes = [
            await stack.enter_async_context(
                worker_process(database_url, "scheduled", ledger=ledger)
            )
            for _ in range(2)
        ]
        await eventually(lambda: other.fetchval(IS_WAITING), timeout=60)
        for each in processes:
            os.killpg(each.pid, signal.SIGKILL)
        await lock.rollback()
    async with worker_process(database_url, "scheduled", ledger=ledger):
        await eventually(lambda: ledger_lines(ledger), timeout=60)
    [firing] = await list_schedule_firings(connection, "jobs", "rare")
    assert (firing.due_at, firing.outcome) == (due_at, "enqueued")
    rows: Any = await connection.fetch(
        "select msg_id from meshhook.job_attempts union select msg_id from pgmq.q_jobs"
    )
    assert [row["msg_id"] for row in rows] == [firing.msg_id]
