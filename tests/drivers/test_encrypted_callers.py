"""Enqueuing with keys over the callers' connections: ciphertext is stored, and workers read it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    EncryptionRequiredError,
    FollowUp,
    KeyRing,
    QueueService,
    SyncQueueService,
    bind_topic,
    create_queue,
    set_queue_config,
)
from meshhook.dead_letters import DLQService
from support.callers import CALLERS, Caller

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

CANARY = "canary-4111"
KEYS = KeyRing({"k1": bytes(range(32))})
UNREACHABLE = "postgresql://nobody@127.0.0.1:1/none"


@pytest.fixture(params=CALLERS)
async def caller(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Caller]:
    """A program with a connection of each kind."""
    async with CALLERS[request.param](database_url) as caller:
        yield caller


async def enqueue_all(service: Any, caller: Caller) -> None:
    """Enqueue in every way, in the transaction of the caller."""
    over = caller.connection
    follow_up = FollowUp("after", {"card": CANARY})
    steps: list[Any] = [
        lambda: service.enqueue(
            {"run_id": "r", "card": CANARY, "n": 0}, on_dead_letter=follow_up, connection=over
        ),
        lambda: service.enqueue({"card": CANARY, "n": 1}, unique_key="u", connection=over),
        lambda: service.enqueue_many(
            [{"card": CANARY, "n": n} for n in (2, 3)],
            group="g",
            on_complete=follow_up,
            on_dead_letter=follow_up,
            connection=over,
        ),
        lambda: service.enqueue_many(
            [{"card": CANARY, "n": n} for n in (4, 5)], unique_keys=["v", "w"], connection=over
        ),
        lambda: service.publish("cards.new", {"card": CANARY, "n": 6}, connection=over),
    ]
    for step in steps:
        found = step()
        if hasattr(found, "__await__"):
            await found
    await caller.commit()


async def everything(connection: Connection) -> str:
    """Return each row of the tables that hold messages, as text."""
    tables = ("pgmq.q_jobs", "pgmq.q_after", "meshhook.job_groups", "meshhook.unique_keys")
    return "\n".join(
        [
            row[0]
            for table in tables
            for row in await connection.fetch(f"select t::text from {table} t")
        ]
    )


async def check(connection: Connection, pool: Pool) -> None:
    """What is stored is ciphertext; who has the keys reads it, and what follows it."""
    stored = await everything(connection)
    assert CANARY not in stored
    assert stored.count('""enc""') + stored.count('"enc"') >= 7
    messages = await connection.fetch("select message::text as m from pgmq.q_jobs order by msg_id")
    assert [json.loads(row["m"]).keys() - {"run_id"} for row in messages] == [{"enc"}] * 7
    async with (
        QueueService[Any](pool, "jobs", encryption=KEYS) as jobs,
        QueueService[Any](pool, "after", encryption=KEYS) as after,
    ):
        seen = []
        while (job := await jobs.dequeue()) is not None:
            seen.append((job.payload["card"], job.payload["n"], job.is_encrypted))
            if job.payload["n"] == 0:
                await DLQService(pool, "jobs").move_to_dead_letter(job, "no")
            else:
                await jobs.acknowledge(job)
        assert sorted(seen) == [(CANARY, n, True) for n in range(7)]
        followed = []
        while (job := await after.dequeue()) is not None:
            followed.append((job.payload, job.run_id, job.is_encrypted))
            await after.acknowledge(job)
        # That of the dead letter has its run; that of the group has none.
        assert sorted(followed, key=str) == [
            ({"card": CANARY}, "r", True),
            ({"card": CANARY}, None, True),
        ]


@pytest.fixture
async def prepared(pool: Pool) -> None:
    """The queues and the topic; the one of the follow-ups takes encrypted jobs only."""
    await create_queue(pool, "after")
    await set_queue_config(pool, "after", encryption="require")
    await set_queue_config(pool, "jobs", encryption="require")
    await bind_topic(pool, "jobs", "cards.*")


@pytest.mark.usefixtures("prepared")
async def test_a_caller_stores_ciphertext(
    caller: Caller, connection: Connection, pool: Pool
) -> None:
    """In each way to enqueue, with each driver."""
    async with QueueService[Any](UNREACHABLE, "jobs", encryption=KEYS) as service:
        await enqueue_all(service, caller)
    await check(connection, pool)


@pytest.mark.usefixtures("prepared")
async def test_the_sync_service_stores_ciphertext(
    caller: Caller, connection: Connection, pool: Pool
) -> None:
    """The same, by the service that blocks."""
    if not caller.is_sync:
        return
    with SyncQueueService[Any](UNREACHABLE, "jobs", encryption=KEYS) as service:
        await enqueue_all(service, caller)
    await check(connection, pool)


@pytest.mark.usefixtures("prepared")
async def test_without_keys_a_required_queue_refuses(caller: Caller) -> None:
    """Nothing is stored in plain by mistake."""
    async with QueueService[Any](UNREACHABLE, "jobs") as service:
        with pytest.raises(EncryptionRequiredError):
            await service.enqueue({"card": CANARY}, connection=caller.connection)
    await caller.rollback()
