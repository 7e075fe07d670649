"""Unique keys in random histories: every kind of producer, rollbacks, lost connections, workers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DatabaseError,
    DuplicateJobError,
    EnqueuedId,
    Job,
    QueueService,
    SyncQueueService,
)
from meshhook.jobs import has_links
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.store.settlements import Settlement, settle
from support.callers import CALLERS, Caller

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Jobs: TypeAlias = list[dict[str, int]]

TABLES = queries.QueueTables("jobs")
KEYS = tuple("abcdefgh")
TRANSACTIONS = 12
"""How many each producer has."""
TERMINATE = "select pg_terminate_backend(pg_backend_pid())"
ENDINGS = ("commit", "commit", "commit", "rollback", "kill")
OUTCOMES = (
    *(AttemptOutcome.SUCCEEDED,) * 4,
    AttemptOutcome.DEAD_LETTERED,
    AttemptOutcome.CANCELLED,
    AttemptOutcome.RETRIED,
    AttemptOutcome.SNOOZED,
)
TWICE = """
    select headers #>> '{meshhook-unique,key}' as key, count(*) from pgmq.q_jobs
    where headers ? 'meshhook-unique' group by 1 having count(*) > 1
"""
NUMBERS = """
    select (message ->> 'n')::int as n from pgmq.q_jobs where message ? 'n'
    union all select (message ->> 'n')::int from pgmq.q_jobs_dlq where message ? 'n'
"""
ENQUEUE = """
    select * from meshhook.enqueue_unique(
        'jobs', $1::text[]::jsonb[], unique_keys => $2, on_conflict => $3)
"""


@asynccontextmanager
async def _asyncpg(url: str) -> AsyncIterator[Caller]:
    connection = await asyncpg.connect(url)
    transaction = connection.transaction()
    await transaction.start()
    caller = Caller(connection, connection.execute)
    caller.commit = transaction.commit  # type: ignore[method-assign]
    caller.rollback = transaction.rollback  # type: ignore[method-assign]
    try:
        yield caller
    finally:
        connection.terminate()


class History:
    """What producers, workers and others do with one queue, at the same time."""

    def __init__(self, url: str, pool: Pool, seed: int) -> None:
        self.url = url
        self.pool = pool
        self.queue = QueueService[Any](pool, "jobs")
        self.chances = random.Random(seed)
        self.last = 0
        self.stored: set[int] = set()
        """The ids of jobs that were stored by transactions that committed."""
        self.undone: set[int] = set()
        """The numbers of jobs that nobody may ever see."""
        self.holders: set[int] = set()
        """The ids of jobs that were said to have a key."""
        self.deleted: set[int] = set()
        """The ids of messages that others deleted."""
        self.is_over = False

    async def produce(self, kind: str) -> None:
        """Enqueue jobs in transactions of a driver, each in a thread and a loop of its own."""
        for _ in range(TRANSACTIONS):
            keys = self.chances.sample(KEYS, self.chances.choice([1, 1, 2, 3]))
            jobs = [{"n": self.last + 1 + n} for n in range(len(keys))]
            self.last += len(jobs)
            how = self.chances.choice(["existing", "existing", "error", "replace"])
            pause = self.chances.choice([0, 0, 0.005])
            ending = self.chances.choice(ENDINGS)
            if ending == "kill" and kind.startswith(("sqlalchemy", "django")):
                ending = "rollback"  # their pools do not take it well, and that is not our subject
            asked = {"unique_keys": keys, "on_conflict": how}
            doing = self._run_transaction(kind, jobs, asked, pause, ending)
            self._note(jobs, await asyncio.to_thread(asyncio.run, doing))

    async def _run_transaction(
        self, kind: str, jobs: Jobs, asked: dict[str, Any], pause: float, ending: str
    ) -> list[EnqueuedId] | None:
        opened = CALLERS.get(kind.removesuffix(" by a SyncQueueService"), _asyncpg)(self.url)
        ids: list[EnqueuedId] | None = None
        # What the end of a killed connection raises is up to its driver.
        with suppress(*((Exception,) if ending == "kill" else ())):
            async with opened as caller:
                try:
                    ids = await self._enqueue(kind, caller, jobs, asked)
                except DuplicateJobError as error:
                    self.holders.add(error.msg_id)
                    ending = "rollback"
                except DatabaseError:  # of two that deadlock one is undone
                    ending = "rollback"
                await asyncio.sleep(pause)
                if ending == "kill":
                    await caller.execute(TERMINATE)
                await (caller.commit() if ending == "commit" else caller.rollback())
        return ids if ending == "commit" else None

    async def _enqueue(
        self, kind: str, caller: Caller, jobs: Jobs, asked: dict[str, Any]
    ) -> list[EnqueuedId]:
        options = {**asked, "connection": caller.connection}
        if kind.endswith("SyncQueueService"):
            return SyncQueueService[Any](queue="jobs").enqueue_many(jobs, **options)
        if kind == "sql":
            try:
                rows = await caller.connection.fetch(
                    ENQUEUE, list(map(json.dumps, jobs)), *asked.values()
                )
            except asyncpg.PostgresError as error:
                raise DatabaseError(str(error)) from error
            return [
                EnqueuedId(msg_id, is_new=outcome == "new", was_replaced=outcome == "replaced")
                for msg_id, outcome in rows
            ]
        async with QueueService[Any](self.url, "jobs") as queue:
            found: list[EnqueuedId] = await queue.enqueue_many(jobs, **options)
            return found

    def _note(self, jobs: Jobs, ids: list[EnqueuedId] | None) -> None:
        if ids is None:
            self.undone |= {job["n"] for job in jobs}
            return
        for job, msg_id in zip(jobs, ids, strict=True):
            if msg_id.is_new:
                self.stored.add(msg_id)
            else:
                self.holders.add(msg_id)
                if not msg_id.was_replaced:
                    self.undone.add(job["n"])

    async def produce_alone(self) -> None:
        """Enqueue single jobs over the pool, coalesced; and messages of others, without keys."""
        for _ in range(TRANSACTIONS * 3):
            self.last += 1
            job = {"n": self.last}
            try:
                msg_id = await self.queue.enqueue(job, unique_key=self.chances.choice(KEYS))
            except DuplicateJobError as error:
                self.holders.add(error.msg_id)
                self._note([job], None)
            else:
                self._note([job], [msg_id])
            await self.pool.execute("select pgmq.send('jobs', '{}')")

    async def work(self) -> None:
        """Claim, and settle as a worker does, or as an older one; or delete as others do."""
        while not self.is_over:
            found = [await self.queue.dequeue() for _ in range(self.chances.randrange(1, 5))]
            held = [job for job in found if job is not None]
            if not held:
                await asyncio.sleep(0.002)
            elif self.chances.random() < 0.1:
                ids = [job.msg_id for job in held]
                self.deleted |= set(ids)
                await self.pool.fetch("select pgmq.delete('jobs', $1::bigint[])", ids)
            else:
                await self.settle(held, is_older=self.chances.random() < 0.3)

    async def settle(
        self, held: list[Job[Any]], *, is_older: bool, outcome: AttemptOutcome | None = None
    ) -> None:
        """Settle jobs; an older worker knows nothing of unique keys."""
        settlements = [
            Settlement(
                job.msg_id,
                job.read_ct,
                job.enqueued_timestamp,
                job.attempt,
                outcome or self.chances.choice(OUTCOMES),
                job.started_timestamp,
                job.started_timestamp,
                has_links=not is_older and has_links(job.headers),
            )
            for job in held
        ]
        await settle(self.pool, TABLES, "w", settlements)

    async def watch(self) -> None:
        """Look all the time whether two jobs have one key, or one is there that must not be."""
        while not self.is_over:
            await self.check()
            await asyncio.sleep(0.01)

    async def check(self) -> None:
        """Look once."""
        undone = self.undone.copy()
        assert await self.pool.fetch(TWICE) == []
        assert {row["n"] for row in await self.pool.fetch(NUMBERS)} & undone == set()

    async def run(self) -> None:
        """Let all of them do what they do, and then work off what is left."""
        kinds = [*CALLERS, "asyncpg", "sql", "psycopg by a SyncQueueService"]
        async with asyncio.TaskGroup() as others:
            for doing in (self.work(), self.work(), self.watch()):
                others.create_task(doing)
            try:
                await asyncio.gather(self.produce_alone(), *(self.produce(kind) for kind in kinds))
            finally:
                self.is_over = True
        while (job := await self.queue.dequeue()) is not None:
            await self.settle([job], is_older=False, outcome=AttemptOutcome.SUCCEEDED)


@pytest.mark.parametrize("seed", [1])
@pytest.mark.usefixtures("queue_name")
async def test_a_key_has_one_job_whatever_happens(database_url: str, pool: Pool, seed: int) -> None:
    """None without a committed transaction, none lost, none refused for one that never was."""
    history = History(database_url, pool, seed)
    await history.run()
    await history.check()
    rows = await pool.fetch("select distinct msg_id from meshhook.job_attempts")
    assert history.stored <= {row["msg_id"] for row in rows} | history.deleted
    assert history.holders <= history.stored
    assert len(history.stored) > len(KEYS)
    assert history.holders
    # The keys of jobs that are done are free, and their rows go.
    await pool.fetchval(queries.load("delete_unused_unique_keys", TABLES), "jobs", "", 1000)
    assert await pool.fetchval("select count(*) from meshhook.unique_keys") == 0
    ids = await history.queue.enqueue_many([{}] * len(KEYS), unique_keys=KEYS)
    assert all(msg_id.is_new for msg_id in ids)
