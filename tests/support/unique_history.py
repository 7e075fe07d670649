"""Random histories of unique keys: every kind of producer, rollbacks, lost connections, workers."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg

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
from meshhook.unique import UniqueFor
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
LONG, SHORT = timedelta(hours=1), timedelta(milliseconds=20)
"""Times for which a key is held: beyond the history, and over before the next job comes."""
KINDS: tuple[UniqueFor, ...] = ("until_done", "until_done", "until_started", LONG, SHORT)
HOWS = ("existing", "existing", "error", "replace")
TWICE = """
    select key, count(*) from (
        select h ->> 'key' as key
        from pgmq.q_jobs, jsonb_extract_path(headers, 'meshhook-unique') h
        where case when h ? 'until' then read_ct = 0
            when h ? 'seconds' then (h ->> 'seconds')::float8 > 60
            else h ? 'key' end
    ) held
    group by 1 having count(*) > 1
"""
"""Keys that two jobs have: as long as they are there, have not started, or for a long time."""
PASS_TIME = """
    update meshhook.unique_keys u set expires_at = now()
    where u.expires_at > now() and not exists (
        select from pgmq.q_jobs q where q.msg_id = u.msg_id and q.enqueued_at = u.enqueued_at)
"""
"""For jobs that are done the time is over for which they have their key."""
WAIT_UNTIL_SHORT_TIMES_ARE_OVER = """
    select pg_sleep_until(max(expires_at)) from meshhook.unique_keys
    where expires_at < now() + interval '1 minute'
"""
KEPT = "select key from meshhook.unique_keys where expires_at > now() + interval '1 minute'"
NUMBERS = """
    select (message ->> 'n')::int as n from pgmq.q_jobs where message ? 'n'
    union all select (message ->> 'n')::int from pgmq.q_jobs_dlq where message ? 'n'
"""
ENQUEUE = """
    select * from meshhook.enqueue_unique(
        'jobs', $1::text[]::jsonb[], unique_keys => $2, on_conflict => $3,
        unique_until => $4, unique_for => $5)
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

    def __init__(
        self, url: str, pool: Pool, seed: int, kinds: tuple[UniqueFor, ...] = KINDS
    ) -> None:
        """Take where the queue `jobs` is, and how long its jobs have their keys."""
        self.kinds = kinds
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
            pause = self.chances.choice([0, 0, 0.005])
            ending = self.chances.choice(ENDINGS)
            if ending == "kill" and kind.startswith(("sqlalchemy", "django")):
                ending = "rollback"  # their pools do not take it well, and that is not our subject
            asked = {"unique_keys": keys, **self._ask()}
            doing = self._run_transaction(kind, jobs, asked, pause, ending)
            self._note(jobs, await asyncio.to_thread(asyncio.run, doing))

    def _ask(self) -> dict[str, Any]:
        return {
            "on_conflict": self.chances.choice(HOWS),
            "unique": self.chances.choice(self.kinds),
        }

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
                unique = asked["unique"]
                rows = await caller.connection.fetch(
                    ENQUEUE,
                    list(map(json.dumps, jobs)),
                    asked["unique_keys"],
                    asked["on_conflict"],
                    None if isinstance(unique, timedelta) else unique.removeprefix("until_"),
                    unique if isinstance(unique, timedelta) else None,
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
                key = self.chances.choice(KEYS)
                msg_id = await self.queue.enqueue(job, unique_key=key, **self._ask())
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
                await self.pool.execute(PASS_TIME)
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
                outcome or self._outcome_of(job),
                job.started_timestamp,
                job.started_timestamp,
                has_links=not is_older and has_links(job.headers),
            )
            for job in held
        ]
        await settle(self.pool, TABLES, "w", settlements)

    def _outcome_of(self, job: Job[Any]) -> AttemptOutcome:
        outcome = self.chances.choice(OUTCOMES)
        unique = job.headers.get("meshhook-unique", {})
        if outcome is AttemptOutcome.SNOOZED and "until" in unique and job.read_ct == 1:
            # It would have its key again beside the job that has taken it.
            return AttemptOutcome.RETRIED
        return outcome

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

    async def check_end(self) -> None:
        """Check what is left once all jobs are done, and that keys are free that nobody holds."""
        await self.check()
        rows = await self.pool.fetch("select distinct msg_id from meshhook.job_attempts")
        assert self.stored <= {row["msg_id"] for row in rows} | self.deleted
        assert self.holders <= self.stored
        assert len(self.stored) > len(KEYS)
        assert self.holders
        # The keys of jobs that are done are free, but those that are kept for a time.
        kept = {row["key"] for row in await self.pool.fetch(KEPT)}
        assert not kept or LONG in self.kinds
        await self.pool.execute(WAIT_UNTIL_SHORT_TIMES_ARE_OVER)
        await self.pool.fetchval(queries.load("delete_unused_unique_keys", TABLES), "jobs", "", 100)
        left = await self.pool.fetch("select key from meshhook.unique_keys")
        assert {row["key"] for row in left} == kept
        ids = await self.queue.enqueue_many([{}] * len(KEYS), unique_keys=KEYS)
        assert {key for key, msg_id in zip(KEYS, ids, strict=True) if not msg_id.is_new} == kept
