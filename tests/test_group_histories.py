"""Groups, follow-ups and results in random histories: settled, lost, cancelled, replayed."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DLQService,
    FollowUp,
    Job,
    QueueService,
    create_queue,
    get_group,
    list_groups,
    repair_group,
)
from meshhook.jobs import has_links
from meshhook.outcomes import FINAL_OUTCOMES, AttemptOutcome
from meshhook.store import queries
from meshhook.store.messages import follow_up_message
from meshhook.store.settlements import Settlement, settle

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TABLES = queries.QueueTables("jobs")
STEPS = 60
OUTCOMES = (
    *(AttemptOutcome.SUCCEEDED,) * 6,
    AttemptOutcome.DEAD_LETTERED,
    AttemptOutcome.CANCELLED,
    AttemptOutcome.RETRIED,
    AttemptOutcome.SNOOZED,
)
COUNTED = {
    AttemptOutcome.SUCCEEDED: "succeeded",
    AttemptOutcome.CANCELLED: "cancelled",
    AttemptOutcome.DEAD_LETTERED: "failed",
}


class History:
    """What producers, workers of two versions and administrators do with one queue."""

    def __init__(self, pool: Pool, connection: Connection, seed: int) -> None:
        self.pool = pool
        self.connection = connection
        self.queue = QueueService[Any](pool, "jobs")
        self.dead_letters = DLQService(pool, "jobs")
        self.chances = random.Random(seed)
        self.held: list[Job[Any]] = []
        self.group_of: dict[int, str] = {}
        self.ends: dict[int, str] = {}
        """What became of each job of a group."""
        self.followed: Counter[int] = Counter()
        """How many jobs should follow each job."""
        self.results: dict[int, Any] = {}
        self.groups = 0

    async def enqueue_group(self) -> None:
        """Up to five jobs, perhaps in a transaction that is rolled back."""
        self.groups += 1
        name = f"g{self.groups}"
        callback = FollowUp("done", {"group": name})
        jobs: list[dict[str, Any]] = [{}] * self.chances.randrange(6)
        async with self.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            ids = await self.queue.enqueue_many(
                jobs, group=name, on_complete=callback, connection=connection
            )
            if self.chances.random() < 0.2:
                await transaction.rollback()
            else:
                await transaction.commit()
                self.group_of |= dict.fromkeys(ids, name)

    async def enqueue_others(self) -> None:
        """Jobs of no group, between those of groups."""
        await self.queue.enqueue_many([{}] * 2)

    async def claim(self) -> None:
        """A worker leases some jobs."""
        for _ in range(6):
            job = await self.queue.dequeue()
            if job is not None:
                self.held.append(job)

    async def settle(self) -> None:
        """Two workers settle at once; a third knows of no groups; statements may be lost."""
        self.chances.shuffle(self.held)
        batches = [self.held[start::3] for start in range(3)]
        self.held = []
        await asyncio.gather(
            *(self._settle(batch, as_old=worker == 2) for worker, batch in enumerate(batches))
        )

    async def _settle(self, batch: list[Job[Any]], *, as_old: bool) -> None:
        settlements = [self._settlement(job, as_old=as_old) for job in batch]
        is_lost = self.chances.random() < 0.3  # the connection breaks before the commit
        async with self.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            recorded = await settle(connection, TABLES, "w", settlements)
            await (transaction.rollback() if is_lost else transaction.commit())
        if is_lost:
            self.held += batch
            return
        # Asked again, as after a connection that broke at the commit: it changes nothing.
        assert await settle(self.pool, TABLES, "w", settlements) == set()
        for position in recorded:
            made = settlements[position]
            if made.outcome not in FINAL_OUTCOMES:
                continue
            if made.msg_id in self.group_of:
                self.ends[made.msg_id] = COUNTED[made.outcome]
            self.followed[made.msg_id] += len(made.follow_ups)
            if made.outcome is AttemptOutcome.SUCCEEDED:
                self.results[made.msg_id] = made.result and json.loads(made.result)

    def _settlement(self, job: Job[Any], *, as_old: bool) -> Settlement:
        outcome = self.chances.choice(OUTCOMES)
        follow_ups: tuple[Any, ...] = ()
        result = None
        if outcome is AttemptOutcome.SUCCEEDED and not as_old:
            wanted = self.chances.randrange(3)
            follow_ups = tuple(
                follow_up_message(FollowUp("next", {"after": job.msg_id})) for _ in range(wanted)
            )
            result = self.chances.choice([None, json.dumps({"of": job.msg_id})])
        return Settlement(
            job.msg_id,
            job.read_ct,
            job.enqueued_timestamp,
            job.attempt,
            outcome,
            job.started_timestamp,
            job.started_timestamp + 0.001,
            delay_seconds=0,
            has_links=not as_old
            and (has_links(job.headers) or bool(follow_ups) or result is not None),
            follow_ups=follow_ups,
            result=result,
        )

    async def lose_leases(self) -> None:
        """The leases of a worker that was killed run out; it is not heard of again."""
        self.held = []
        await self.connection.execute("update pgmq.q_jobs set vt = now() where vt > now()")

    async def cancel(self) -> None:
        """Somebody cancels jobs that wait."""
        rows = await self.connection.fetch("select msg_id from pgmq.q_jobs where vt <= now()")
        ids = [row["msg_id"] for row in rows][:3]
        if ids:
            changes = (await self.queue.cancel(ids)).jobs
            for change in changes:
                if str(change.result) == "cancelled" and change.msg_id in self.group_of:
                    self.ends[change.msg_id] = "cancelled"

    async def delete(self) -> None:
        """Somebody deletes messages past everything."""
        rows = await self.connection.fetch(
            "delete from pgmq.q_jobs where msg_id in "
            "(select msg_id from pgmq.q_jobs order by msg_id limit 2) returning msg_id"
        )
        for row in rows:
            if row["msg_id"] in self.group_of:
                self.ends[row["msg_id"]] = "failed"

    async def replay(self) -> None:
        """Dead letters come back as new jobs, which belong to no group."""
        letters = await self.dead_letters.list_dead_letter_jobs(limit=2)
        for letter in letters:
            await self.dead_letters.replay_dead_letter_job(letter.id)

    async def repair(self) -> None:
        """A worker looks at groups."""
        await self.connection.fetch(queries.load("repair_groups"), "jobs", 0.0, 10, None)

    async def finish(self) -> None:
        """Settle everything that is left."""
        await self.lose_leases()
        while True:
            await self.claim()
            if not self.held:
                break
            await self.settle()
            await self.lose_leases()


@pytest.mark.parametrize("seed", range(4))
async def test_each_callback_comes_once_with_true_counts(
    pool: Pool, connection: Connection, queue_name: str, seed: int
) -> None:
    """And each follow-up once for each success, with the results that were returned."""
    for name in ("done", "next"):
        await create_queue(connection, name)
    history = History(pool, connection, seed)
    steps = [
        *(history.enqueue_group,) * 3,
        history.enqueue_others,
        *(history.claim,) * 4,
        *(history.settle,) * 4,
        history.lose_leases,
        history.cancel,
        history.delete,
        history.replay,
        history.repair,
    ]
    for _ in range(STEPS):
        await history.chances.choice(steps)()
    await history.finish()
    # A job whose every attempt was lost is buried when it is claimed.
    for row in await connection.fetch(
        "select msg_id from meshhook.job_attempts "
        "where outcome = 'dead_lettered' and error_type = 'LeaseLost'"
    ):
        history.ends.setdefault(row["msg_id"], "failed")
    for group in await list_groups(connection, "jobs", limit=1000):
        if not group.is_finished:
            await repair_group(connection, "jobs", group.name)
    expected = {name: Counter[str]() for name in history.group_of.values()}
    for msg_id, name in history.group_of.items():
        expected[name][history.ends[msg_id]] += 1
    rows = await connection.fetch("select message, headers from pgmq.q_done")
    told = Counter(json.loads(row["message"])["group"] for row in rows)
    groups = await list_groups(connection, "jobs", limit=1000)
    assert told == {group.name: 1 for group in groups}
    for row in rows:
        counts = json.loads(row["headers"])["meshhook-finished-group"]
        wanted = expected.get(counts["name"], Counter())
        kinds = ("succeeded", "failed", "cancelled")
        assert [counts[kind] for kind in kinds] == [wanted[kind] for kind in kinds]
        group = await get_group(connection, "jobs", counts["name"])
        assert group.total == counts["total"] == wanted.total()
        assert group.pending == 0
    rows = await connection.fetch("select message from pgmq.q_next")
    followed = Counter(json.loads(row["message"])["after"] for row in rows)
    assert followed == +history.followed
    rows = await connection.fetch(
        "select msg_id, result from meshhook.job_attempts where outcome = 'succeeded'"
    )
    assert {
        row["msg_id"]: row["result"] and json.loads(row["result"]) for row in rows
    } == history.results
