"""Limits and order of keys in random histories: each way a message comes in, back, or is let go."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import DLQService, Job, QueueService
from meshhook.administration import set_queue_config
from meshhook.names import KEY_HEADER
from meshhook.outcomes import AttemptOutcome
from meshhook.postgres.connecting import connect
from meshhook.queue_config import KeyPlace
from meshhook.store import queries
from meshhook.store.claims import claim
from meshhook.store.settlements import Settlement, settle

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")
KEYS = ("a", "b", "c", "")
OF_KEY = 2
OF_QUEUE = 5
STEPS = 120
# The clock is read after the snapshot: what has ended by then was ended for every later claim.
STATE = """
    select coalesce(headers ->> 'x-pgmq-group', '') as key,
        count(*) filter (where vt > clock_timestamp()
            and meshhook.has_open_attempt(read_ct, headers)) as running,
        count(*) filter (where vt <= clock_timestamp()) as due
    from pgmq.q_jobs group by 1
"""


OUTCOMES = (
    AttemptOutcome.SUCCEEDED,
    AttemptOutcome.RETRIED,
    AttemptOutcome.SNOOZED,
    AttemptOutcome.DEAD_LETTERED,
    AttemptOutcome.CANCELLED,
)
MESSAGES = """
    select msg_id, coalesce(headers ->> 'x-pgmq-group', '') as key,
        vt > clock_timestamp() and meshhook.has_open_attempt(read_ct, headers) as is_running,
        vt <= clock_timestamp() as is_due
    from pgmq.q_jobs
"""


class History:
    """A queue with limits, and what its producers, workers and administrators do with it."""

    def __init__(self, connection: Connection, pool: asyncpg.Pool[Any], seed: int) -> None:
        self.connection = connection
        self.service = QueueService[Any](pool, "jobs")
        self.dead_letters = DLQService(pool, "jobs")
        self.chances = random.Random(seed)
        self.held: list[Job[Any]] = []
        """Jobs under a lease, as far as their workers know."""
        self.most = 0

    def key(self) -> str | None:
        """Return a key; None for none."""
        return self.chances.choice(KEYS) or None

    # Ways in

    async def enqueue(self) -> None:
        """One job, over the coalescing sender."""
        await self.service.enqueue({}, key=self.key())

    async def enqueue_many(self) -> None:
        """Several at once."""
        await self.service.enqueue_many([{}] * 4, key=self.key())

    async def enqueue_in_transaction(self) -> None:
        """One in the caller's transaction."""
        async with self.connection.transaction():
            await self.service.enqueue({}, key=self.key(), connection=self.connection)

    async def enqueue_by_sql(self) -> None:
        """By the SQL function, delayed or not."""
        await self.connection.execute(
            "select meshhook.enqueue_many('jobs', array['1', '2']::jsonb[], key => $1)", self.key()
        )

    async def send(self) -> None:
        """By a foreign client, with PGMQ's own header."""
        key = self.key()
        headers = None if key is None else f'{{"{KEY_HEADER}": "{key}"}}'
        await self.connection.execute("select pgmq.send('jobs', '{}'::jsonb, $1::jsonb)", headers)

    async def replay(self) -> None:
        """Replay a dead letter."""
        found = await self.dead_letters.list_dead_letter_jobs(1)
        if found:
            await self.dead_letters.replay_dead_letter_job(found[0].id)

    # What workers do

    async def claim(self) -> None:
        """Claim; where a claim takes nothing, limits are used up or nothing is due."""
        claimed = await claim(
            self.connection,
            TABLES,
            lease_seconds=600,
            limit=self.chances.randint(1, 4),
            max_attempts=50,
            keys=KeyPlace(),
            is_limited=True,
            from_key=self.chances.choice(["", "b", None]),
        )
        self.held += claimed.jobs
        if not claimed.jobs:
            running, due = await self.counts()
            free = [key for key in due if due[key] and running[key] < OF_KEY]
            assert running.total() >= OF_QUEUE or not free, (running, due)

    async def end(self) -> None:
        """Record an outcome, perhaps too late."""
        outcome = self.chances.choice(
            [
                AttemptOutcome.SUCCEEDED,
                AttemptOutcome.RETRIED,
                AttemptOutcome.SNOOZED,
                AttemptOutcome.DEAD_LETTERED,
            ]
        )
        if job := self.take():
            settlement = Settlement(
                job.msg_id, job.read_ct, job.enqueued_timestamp, job.attempt, outcome, 0.0, 1.0
            )
            await settle(self.connection, TABLES, "w", [settlement])

    async def release(self) -> None:
        """Give a lease back."""
        if job := self.take():
            await self.service.release(job)

    async def extend(self) -> None:
        """Extend a lease, which may have ended."""
        if self.held:
            job = self.chances.choice(self.held)
            await self.connection.fetch(
                queries.load("extend_in_turn"),
                *("jobs", queries.load("extend", TABLES)),
                *([job.msg_id], [job.read_ct], [job.enqueued_timestamp], 600.0),
            )

    async def expire(self) -> None:
        """Let some leases end while their workers know nothing of it."""
        if self.held:
            job = self.chances.choice(self.held)
            await self.connection.execute(
                "update pgmq.q_jobs set vt = clock_timestamp() - interval '1 millisecond' "
                "where msg_id = $1 and vt > now()",
                job.msg_id,
            )

    def take(self) -> Job[Any] | None:
        """Return a job that its worker lets go; None if there is none."""
        return self.held.pop(self.chances.randrange(len(self.held))) if self.held else None

    # What must hold

    async def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Return what runs and what is due of each key."""
        rows = await self.connection.fetch(STATE)
        return (
            Counter({row["key"]: row["running"] for row in rows}),
            Counter({row["key"]: row["due"] for row in rows}),
        )

    async def check(self) -> None:
        """No key and not the queue has more live leases than its limit."""
        running, _ = await self.counts()
        assert all(each <= OF_KEY for each in running.values()), running
        assert running.total() <= OF_QUEUE, running
        self.most = max(self.most, running.total())

    @property
    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        """What may happen next; claims and their ends most often."""
        ways_in = [
            self.enqueue,
            self.enqueue_many,
            self.enqueue_in_transaction,
            self.enqueue_by_sql,
            self.send,
            self.replay,
        ]
        of_workers = [self.claim, self.claim, self.end, self.release, self.extend, self.expire]
        return [*ways_in, *of_workers, *of_workers]


class OrderedHistory(History):
    """The same with ordered keys: who comes first is kept in a ledger of its own."""

    def __init__(self, connection: Connection, pool: asyncpg.Pool[Any], seed: int) -> None:
        super().__init__(connection, pool, seed)
        self.places: dict[int, int] = {}
        """The places of replayed jobs: that of the job that died first."""
        self.served: Counter[str] = Counter()

    async def replay(self) -> None:
        """Replay a dead letter, the newest or the oldest."""
        found = await self.dead_letters.list_dead_letter_jobs(100)
        if found:
            dead = self.chances.choice(found)
            msg_id = await self.dead_letters.replay_dead_letter_job(dead.id)
            assert dead.msg_id is not None
            self.places[msg_id] = self.places.get(dead.msg_id, dead.msg_id)

    async def claim(self) -> None:
        """Claim: of each key what is first in the ledger, and nothing beside what runs."""
        may_start = await self.startable()
        claimed = await claim(
            self.connection,
            TABLES,
            lease_seconds=600,
            limit=self.chances.randint(1, 4),
            max_attempts=50,
            keys=KeyPlace(),
            is_limited=True,
            from_key=self.chances.choice(["", "b", None]),
        )
        self.held += claimed.jobs
        self.served.update(job.headers.get(KEY_HEADER, "") for job in claimed.jobs)
        assert {job.msg_id for job in claimed.jobs} <= may_start
        assert bool(claimed.jobs) == bool(may_start)

    async def startable(self) -> set[int]:
        """Return which jobs may start now."""
        rows = await self.connection.fetch(MESSAGES)
        firsts = {}
        # In Python, by the ledger: nothing here asks the database for the order.
        for row in sorted(rows, key=lambda row: -self.places.get(row["msg_id"], row["msg_id"])):
            firsts[row["key"]] = row
        running = {row["key"] for row in rows if row["is_running"]}
        return {
            first["msg_id"]
            for key, first in firsts.items()
            if first["is_due"] and key not in running
        }

    async def end(self) -> None:
        """Record an outcome, perhaps too late; a job may wait a while for its next attempt."""
        if job := self.take():
            outcome = self.chances.choice(OUTCOMES)
            settlement = Settlement(
                job.msg_id,
                job.read_ct,
                job.enqueued_timestamp,
                job.attempt,
                outcome,
                0.0,
                1.0,
                delay_seconds=self.chances.choice([0.0, 600.0]),
            )
            await settle(self.connection, TABLES, "w", [settlement])

    async def fall_due(self) -> None:
        """Let the time come of a job that waits for it."""
        await self.connection.execute(
            "update pgmq.q_jobs q set vt = clock_timestamp() where vt > now() "
            "and not meshhook.has_open_attempt(read_ct, headers)"
        )

    async def check(self) -> None:
        """Of no key more than one job runs."""
        running, _ = await self.counts()
        assert all(each <= 1 for each in running.values()), running
        self.most = max(self.most, running.total())

    @property
    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        """What may happen next."""
        return [*super().steps, self.fall_due]

    async def drain(self) -> None:
        """Work off all that is there."""
        while await self.connection.fetchval("select count(*) from pgmq.q_jobs"):
            await self.fall_due()
            await self.claim()
            await self.check()
            while self.held:
                await self.end()


@pytest.fixture
async def ordered(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` has ordered keys."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(connection, queue_name, keyed=True, ordered=True)
    yield connection
    await connection.close()


@pytest.mark.parametrize("seed", range(6))
async def test_order_holds_for_every_way_in_and_back(
    ordered: Connection, pool: asyncpg.Pool[Any], seed: int
) -> None:
    """One job of a key at a time, in order, whatever becomes of each; and every key is served."""
    history = OrderedHistory(ordered, pool, seed)
    for _ in range(STEPS):
        await history.chances.choice(history.steps)()
        await history.check()
    await history.drain()
    assert history.most == len(KEYS), "the keys never ran beside each other"
    assert history.served.keys() == set(KEYS)


@pytest.fixture
async def keyed(database_url: str, queue_name: str) -> AsyncIterator[Connection]:
    """A worker's own connection to a database whose queue `jobs` has limits."""
    connection = await connect(database_url, steady_plans=True)
    await set_queue_config(
        connection, queue_name, keyed=True, max_running=OF_QUEUE, max_running_per_key=OF_KEY
    )
    yield connection
    await connection.close()


@pytest.mark.parametrize("seed", range(4))
async def test_limits_hold_for_every_way_in_and_back(
    keyed: Connection, pool: asyncpg.Pool[Any], seed: int
) -> None:
    """Whatever comes in by whatever way, is retried, snoozed, released, lost or replayed."""
    history = History(keyed, pool, seed)
    for _ in range(STEPS):
        await history.chances.choice(history.steps)()
        await history.check()
    assert history.most == OF_QUEUE, "the limits were never used up"
