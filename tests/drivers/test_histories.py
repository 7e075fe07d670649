"""Random histories of producers of every kind: the queue holds what was committed."""

from __future__ import annotations

import json
import random
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService, create_queue
from support.callers import CALLERS, Caller

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

UNREACHABLE = "postgresql://nobody@127.0.0.1:1/none"
STEPS = 120
KINDS = [*CALLERS, "asyncpg", "sql", "pgmq"]


@dataclass
class Producer:
    """One with a connection and what it has sent in its transaction."""

    kind: str
    caller: Caller
    stack: AsyncExitStack
    queue: QueueService[Any]
    pending: list[int] = field(default_factory=list)
    savepoint: int | None = None
    """How much was pending at its savepoint."""

    async def send(self, numbers: list[int]) -> None:
        """Enqueue one or several."""
        messages = [json.dumps(number) for number in numbers]
        if self.kind == "sql":
            array = ",".join(f"'{each}'" for each in messages)
            await self.caller.execute(
                f"select meshhook.enqueue_many('orders', array[{array}]::jsonb[])"
            )
        elif self.kind == "pgmq":
            for each in messages:
                await self.caller.execute(f"select pgmq.send('orders', '{each}'::jsonb)")
        elif len(numbers) == 1:
            await self.queue.enqueue(numbers[0], connection=self.caller.connection)
        else:
            await self.queue.enqueue_many(numbers, connection=self.caller.connection)
        self.pending += numbers


class AsyncpgCaller(Caller):
    """One with asyncpg."""

    async def commit(self) -> None:
        """Commit, and begin the next transaction."""
        await self.connection.execute("commit; begin")

    async def rollback(self) -> None:
        """Roll back, and begin the next transaction."""
        await self.connection.execute("rollback; begin")


async def opened(kind: str, url: str) -> Producer:
    """Return a new producer of a kind."""
    stack = AsyncExitStack()
    queue = await stack.enter_async_context(QueueService[Any](UNREACHABLE, "orders"))
    if kind == "asyncpg":
        own = await asyncpg.connect(url)
        stack.callback(own.terminate)
        await own.execute("begin")
        caller: Caller = AsyncpgCaller(own, own.execute)
    else:
        open_caller = CALLERS.get(kind, CALLERS["psycopg_async"])
        caller = await stack.enter_async_context(open_caller(url))
    return Producer(kind, caller, stack, queue)


async def closed(producer: Producer) -> None:
    """Let go of a producer, whatever its connection has come to."""
    with suppress(Exception):
        await producer.caller.rollback()
    with suppress(Exception):
        await producer.stack.aclose()


@pytest.mark.parametrize("seed", range(3))
async def test_the_queue_holds_what_was_committed(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Through rollbacks, savepoints, batches of several statements, and broken connections."""
    monkeypatch.setattr("meshhook.store.sending.MAX_BATCH_MESSAGES", 3)
    await create_queue(connection, "orders")
    chance = random.Random(seed)
    producers = [await opened(kind, database_url) for kind in KINDS]
    committed: list[int] = []
    number = 0
    for _ in range(STEPS):
        producer = chance.choice(producers)
        step = chance.choices(
            ["one", "several", "commit", "rollback", "savepoint", "back", "crash"],
            [8, 4, 6, 2, 2, 2, 0.3],
        )[0]
        if step in {"one", "several"}:
            count = 1 if step == "one" else chance.randint(2, 8)
            await producer.send(list(range(number, number + count)))
            number += count
        elif step == "commit":
            await producer.caller.commit()
            committed += producer.pending
            producer.pending, producer.savepoint = [], None
        elif step == "rollback":
            await producer.caller.rollback()
            producer.pending, producer.savepoint = [], None
        elif step == "savepoint":
            await producer.caller.execute("savepoint mine")
            producer.savepoint = len(producer.pending)
        elif step == "back" and producer.savepoint is not None:
            await producer.caller.execute("rollback to savepoint mine")
            del producer.pending[producer.savepoint :]
        elif step == "crash":
            await connection.execute(
                "select pg_terminate_backend(pid, 10000) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            for each in producers:
                await closed(each)
            producers = [await opened(kind, database_url) for kind in KINDS]
        rows = await connection.fetch("select message::text as m from pgmq.q_orders")
        assert sorted(int(row["m"]) for row in rows) == sorted(committed)
    for each in producers:
        await closed(each)
    assert committed
