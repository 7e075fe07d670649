"""Processes that die: what they had comes back, and what killed them ends in the dead letters."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import DLQService, Job, QueueService, set_queue_config
from meshhook.errors import DatabaseError
from meshhook.postgres.database import Database
from meshhook.store import settlements
from meshhook.worker import completer
from support.waiting import eventually
from support.workers import ledger_lines, live, make_worker, outcomes, worker_process

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


async def test_a_killed_workers_job_comes_back_within_the_visibility_timeout(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """After SIGKILL, another worker starts the job as soon as its lease has run out."""
    await set_queue_config(Database(pool), "jobs", visibility_timeout_seconds=4)
    msg_id = await QueueService(pool, "jobs").enqueue({})
    ledger = tmp_path / "ledger"
    async with worker_process(database_url, "forever", ledger=ledger, concurrency=1) as process:
        await eventually(lambda: len(ledger_lines(ledger)) == 1)
        process.kill()
        await process.wait()
    ends_at = await connection.fetchval("select vt from pgmq.q_jobs")
    assert await connection.fetchval("select $1 <= now() + interval '4 s'", ends_at)
    # The second attempt does not end with a lease, however slow the machine is.
    await set_queue_config(Database(pool), "jobs", visibility_timeout_seconds=300)
    async with worker_process(database_url, "quick", ledger=ledger, concurrency=1):

        async def is_done() -> bool:
            return await outcomes(connection, msg_id) == [("lost", 1), ("succeeded", 2)]

        await eventually(is_done)
    assert [line[:3] for line in ledger_lines(ledger)] == [
        ["start", str(msg_id), "1"],
        ["start", str(msg_id), "2"],
    ]


@pytest.mark.timeout(300)
async def test_a_job_that_kills_its_process_takes_no_neighbour_along(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """The job that kills is dead-lettered as LeaseLost; every other job succeeds.

    After the first crash the killer runs beside other suspects, after that alone.
    """
    await set_queue_config(
        Database(pool), "jobs", visibility_timeout_seconds=4, max_retry_attempts=4
    )
    bodies = [{"payload": {"kill": number == 7}} for number in range(20)]
    ids = await QueueService(pool, "jobs").enqueue_many(bodies)
    killer = ids[7]
    ledger = tmp_path / "ledger"

    async def only_dead_letters_are_left() -> bool:
        return await live(connection) == {}

    ended = asyncio.create_task(
        eventually(only_dead_letters_are_left, timeout=240, message="an empty queue")
    )
    while not ended.done():
        async with worker_process(database_url, "killer", ledger=ledger, concurrency=20) as process:
            await asyncio.wait(
                [ended, asyncio.create_task(process.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
    await ended
    [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert (dead.msg_id, dead.error_type, dead.attempts) == (killer, "LeaseLost", 4)
    assert await outcomes(connection, killer) == [
        *(("lost", attempt) for attempt in (1, 2, 3, 4)),
        ("dead_lettered", 5),
    ]
    done = await connection.fetch(
        "select msg_id from meshhook.job_attempts where outcome = 'succeeded'"
    )
    assert sorted(row["msg_id"] for row in done) == sorted(set(ids) - {killer})
    starts = [line for line in ledger_lines(ledger) if line[0] == "start"]
    assert Counter(line[1] for line in starts)[str(killer)] == 4
    # From its third attempt on it was alone in its process.
    for attempt in ("3", "4"):
        [at] = [i for i, line in enumerate(starts) if line[1:3] == [str(killer), attempt]]
        lines = ledger_lines(ledger)
        before = lines[: lines.index(starts[at])]
        open_here = Counter(
            line[1] for line in before if line[3] == starts[at][3] and line[0] == "start"
        ) - Counter(line[1] for line in before if line[3] == starts[at][3] and line[0] == "end")
        assert not +open_here


async def test_a_crash_of_the_interpreter_is_survived_like_a_kill(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """A segmentation fault in a handler loses no job: it is lost once, and then tried again."""
    await set_queue_config(Database(pool), "jobs", visibility_timeout_seconds=4)
    msg_id = await QueueService(pool, "jobs").enqueue({})
    ledger = tmp_path / "ledger"
    async with worker_process(database_url, "crashing", ledger=ledger) as process:
        assert await asyncio.wait_for(process.wait(), 60) < 0
    await set_queue_config(Database(pool), "jobs", visibility_timeout_seconds=300)
    async with worker_process(database_url, "quick", ledger=ledger):

        async def is_done() -> bool:
            return await outcomes(connection, msg_id) == [("lost", 1), ("succeeded", 2)]

        await eventually(is_done)


async def test_suspects_do_not_wait_for_an_outcome_that_is_refused(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the database will not record, for whatever reason, holds up no other job."""
    queue = QueueService[Any](pool, "jobs")
    refused = await queue.enqueue({})
    is_refusing = True
    settle = settlements.settle

    async def refusing(
        database: Any, tables: Any, name: Any, batch: Any, *rest: Any, **options: Any
    ) -> set[int]:
        if is_refusing and refused in [settlement.msg_id for settlement in batch]:
            raise DatabaseError("refused")
        return await settle(database, tables, name, batch, *rest, **options)

    async def handler(_: Job[Any]) -> None:
        """Do nothing."""

    monkeypatch.setattr(completer, "settle", refusing)
    monkeypatch.setattr(completer, "REFUSED_RETRY_SECONDS", 1.0)
    async with make_worker(database_url, handler) as worker:
        assert worker._parts is not None
        ended = worker._parts.lanes[0].held_jobs.ended
        await eventually(lambda: len(ended._put_off) == 1)
        async with connection.transaction():
            suspect = await queue.enqueue({}, connection=connection)
            await connection.execute(
                "update pgmq.q_jobs set read_ct = 1 where msg_id = $1", suspect
            )
        await eventually(lambda: worker.get_stats().succeeded == 1)
        assert await outcomes(connection, suspect) == [("lost", 1), ("succeeded", 2)]
        assert await outcomes(connection, refused) == []
        is_refusing = False
        await eventually(lambda: worker.get_stats().succeeded == 2)
    assert await outcomes(connection, refused) == [("succeeded", 1)]


@pytest.mark.timeout(300)
async def test_a_batch_whose_process_is_killed_comes_back_job_by_job(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """After the crash each job of it runs alone: only the killer becomes a dead letter."""
    await set_queue_config(
        Database(pool), "jobs", visibility_timeout_seconds=4, max_retry_attempts=3
    )
    ids = await QueueService(pool, "jobs").enqueue_many([{"kill": n == 7} for n in range(20)])
    killer = ids[7]
    ledger = tmp_path / "ledger"

    async def only_dead_letters_are_left() -> bool:
        return await live(connection) == {}

    ended = asyncio.create_task(
        eventually(only_dead_letters_are_left, timeout=240, message="an empty queue")
    )
    while not ended.done():
        async with worker_process(
            database_url, "batch_killer", ledger=ledger, concurrency=4, batch=20
        ) as process:
            await asyncio.wait(
                [ended, asyncio.create_task(process.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
    await ended
    [dead] = await DLQService(pool, "jobs").list_dead_letter_jobs()
    assert (dead.error_type, dead.msg_id) == ("LeaseLost", killer)
    starts = [line for line in ledger_lines(ledger) if line[0] == "start"]
    assert [line[4] for line in starts if line[2] == "1"] == ["20"] * 20
    assert {line[4] for line in starts if line[2] != "1"} == {"1"}
    for msg_id in set(ids) - {killer}:
        found = await outcomes(connection, msg_id)
        assert found[0] == ("lost", 1)
        assert found[-1][0] == "succeeded"
        assert len(found) <= 3
