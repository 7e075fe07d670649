"""A worker on each supported version of PGMQ."""

from __future__ import annotations

from typing import Any

import asyncpg

from meshhook import (
    DeadLetter,
    DLQService,
    Done,
    FinishedGroup,
    FollowUp,
    Job,
    QueueService,
    Snooze,
    create_queue,
    set_queue_config,
)
from meshhook.postgres.database import Database
from support.waiting import eventually
from support.workers import live, make_worker, outcomes


async def test_every_outcome_on_every_version(
    pgmq_database: asyncpg.Connection[Any], pgmq_database_url: str
) -> None:
    """Done, failed, snoozed, dead-lettered and replayed jobs, with PGMQ as old as 1.5.1."""
    database = await Database.connect(pgmq_database_url)
    await create_queue(database, "jobs")
    seen: list[tuple[str, int]] = []

    async def handler(job: Job[Any]) -> Snooze | None:
        seen.append((job.payload, job.attempt))
        if job.payload == "fails" and job.attempt == 1:
            raise ValueError
        if job.payload == "dies" and "meshhook-replayed-from" not in job.headers:
            raise DeadLetter("no")
        if job.payload == "snoozes" and seen.count(("snoozes", 1)) == 1:
            return Snooze(0.01)
        return None

    await pgmq_database.execute("update meshhook.queue_config set retry_backoff_base_ms = 10")
    queue = QueueService[Any](database, "jobs")
    payloads = ["works", "fails", "dies", "snoozes"]
    ids = dict(
        zip(payloads, await queue.enqueue_many([{"payload": p} for p in payloads]), strict=True)
    )
    # A message of another client, through PGMQ's own function.
    await pgmq_database.execute("select pgmq.send('jobs', '{\"payload\": \"foreign\"}'::jsonb)")
    async with make_worker(pgmq_database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 7)
        [dead] = await DLQService(database, "jobs").list_dead_letter_jobs()
        await DLQService(database, "jobs").replay_dead_letter_job(dead.id)
        await eventually(lambda: worker.get_stats().processed == 8)
    assert await live(pgmq_database) == {}
    assert await outcomes(pgmq_database, ids["fails"]) == [("retried", 1), ("succeeded", 2)]
    assert await outcomes(pgmq_database, ids["snoozes"]) == [("snoozed", 1), ("succeeded", 1)]
    assert await outcomes(pgmq_database, ids["dies"]) == [("dead_lettered", 1), ("replayed", 1)]
    assert ("foreign", 1) in seen
    await database.close()


async def test_stock_readers_and_our_workers_share_a_queue(
    pgmq_database: asyncpg.Connection[Any], pgmq_database_url: str
) -> None:
    """What `pgmq.read` has leased is not claimed, and what it deletes stays gone."""
    database = await Database.connect(pgmq_database_url)
    await create_queue(database, "jobs")
    queue = QueueService[Any](database, "jobs")
    await queue.enqueue_many([{"payload": n} for n in range(3)])
    stock = await pgmq_database.fetchrow("select msg_id from pgmq.read('jobs', 30, 1)")
    assert stock is not None
    job = await queue.dequeue()
    assert job is not None
    assert job.msg_id != stock["msg_id"]
    assert await pgmq_database.fetchval("select pgmq.delete('jobs', $1::bigint)", job.msg_id)
    assert await queue.acknowledge(job) is False
    assert (await queue.get_queue_metrics()).queue_length == 2
    await database.close()


async def test_groups_and_follow_ups_on_every_version(
    pgmq_database: asyncpg.Connection[Any], pgmq_database_url: str
) -> None:
    """A group with its callback, a job that follows, and a result."""
    database = await Database.connect(pgmq_database_url)
    await create_queue(database, "jobs")
    await set_queue_config(database, "jobs", results=True)
    callbacks: list[FinishedGroup | None] = []

    async def handler(job: Job[Any]) -> object:
        if job.finished_group is not None:
            callbacks.append(job.finished_group)
        elif job.payload == "dies":
            raise DeadLetter("no")
        elif job.payload == "first":
            return Done(then=FollowUp("jobs", "next"), result=1)
        return None

    async with QueueService[Any](database, "jobs") as queue:
        ids = await queue.enqueue_many(
            ["first", "dies"], group="g", on_complete=FollowUp("jobs", "all")
        )
        async with make_worker(pgmq_database_url, handler) as worker:
            await eventually(lambda: worker.get_stats().processed == 4)
        assert (await queue.wait(ids[0], timeout_seconds=30)).result == 1
    assert callbacks == [FinishedGroup("jobs", "g", 2, 1, 1, 0)]
    assert await live(pgmq_database) == {}
    await database.close()
