"""Unique keys, groups, follow-ups, cancellations, replays and deletions at once, in crashes."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DeadLetterNotFoundError,
    DLQService,
    DuplicateJobError,
    FollowUp,
    QueueService,
    create_queue,
    get_group,
    list_groups,
    repair_group,
    set_queue_config,
)
from meshhook.job_changes import JobChanges
from meshhook.store import queries
from meshhook.store.job_rows import LIVE_STATES
from support.waiting import eventually
from support.workers import live, worker_process

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("queue_name")]

STEPS = 250
KEYS = [f"k{n}" for n in range(6)]
ACTS = ("end", "end", "end", "fail", "fail_once", "retry", "snooze", "swallow", "long", "kill")
ENDS = ("succeeded", "dead_lettered", "cancelled", "archived")
COUNTED_AS = {"succeeded": "succeeded", "cancelled": "cancelled"}
"""All others failed."""
LIVING_TWICE = """
    select meshhook.unique_key_of(headers) from pgmq.q_jobs
    where meshhook.unique_key_of(headers) is not null group by 1 having count(*) > 1
"""


class Mix:
    """What everybody does with the queue, and what must be true of it in the end."""

    def __init__(self, pool: Pool, connection: Connection, seed: int) -> None:
        self.pool = pool
        self.connection = connection
        self.queue = QueueService[Any](pool, "jobs")
        self.dead_letters = DLQService(pool, "jobs")
        self.dice = random.Random(seed)
        self.ids: list[int] = []
        self.numbers = count()
        self.members: dict[str, list[int]] = {}
        self.cancelled: set[int] = set()
        """Of which it was said that they are."""
        self.erased: dict[int, str | None] = {}
        """Of which nothing is left, and what they were."""
        self.requested = 0

    @property
    def steps(self) -> list[Callable[[], Awaitable[None]]]:
        """What may be done next."""
        return [
            *(self.enqueue_group,) * 4,
            *(self.enqueue_unique,) * 6,
            *(self.cancel,) * 3,
            *(self.cancel_running,) * 3,
            self.move,
            *(self.expire,) * 2,
            self.delete,
            self.delete_past_everything,
            self.archive_past_everything,
            *(self.replay,) * 2,
            self.bury,
            *(self.repair,) * 2,
        ]

    def job(self) -> dict[str, Any]:
        """A job of some kind."""
        return {"payload": {"act": self.dice.choice(ACTS), "seconds": self.dice.random() * 0.1}}

    def some(self, wanted: int) -> list[int]:
        """Some of the newest jobs."""
        return self.dice.sample(self.ids[-60:], min(wanted, len(self.ids[-60:])))

    async def enqueue_group(self) -> None:
        """A group with a callback, perhaps rolled back."""
        name = f"g{next(self.numbers)}"
        jobs = [self.job() for _ in range(self.dice.randrange(8))]
        is_kept = self.dice.random() < 0.8
        async with self.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            ids = await self.queue.enqueue_many(
                jobs, group=name, on_complete=FollowUp("done", name), connection=connection
            )
            await (transaction.commit() if is_kept else transaction.rollback())
        if is_kept:
            self.ids += ids
            self.members[name] = ids

    async def enqueue_unique(self) -> None:
        """A job with a key that another may have."""
        key = self.dice.choice(KEYS)
        replaces = self.dice.random() < 0.3
        found = await self.queue.enqueue(
            self.job(), unique_key=key, on_conflict="replace" if replaces else "existing"
        )
        if found.is_new:
            self.ids.append(found)
        assert await self.pool.fetch(LIVING_TWICE) == []

    async def cancel(self) -> None:
        """Some jobs, whatever they are at."""
        self._note(await self.queue.cancel(self.some(3)))

    async def cancel_running(self) -> None:
        """Some that run, or did a moment ago."""
        rows = await self.pool.fetch("select msg_id from pgmq.q_jobs where vt > now() limit 3")
        self._note(await self.queue.cancel([row["msg_id"] for row in rows]))

    def _note(self, changes: JobChanges) -> None:
        self.cancelled |= {each.msg_id for each in changes.jobs if each.result == "cancelled"}
        self.requested += changes.requested

    async def move(self) -> None:
        """Put some off, and let others run now."""
        await self.queue.reschedule(self.some(3), delay_seconds=0.1)
        await self.queue.run_now(self.some(3))

    async def expire(self) -> None:
        """Leases run out."""
        await self.pool.execute(
            "update pgmq.q_jobs set vt = now() where msg_id = any (array(select msg_id "
            "from pgmq.q_jobs where vt > now() order by random() limit 4 for update skip locked))"
        )

    async def delete(self) -> None:
        """With everything about them."""
        for each in (await self.queue.delete_jobs(self.some(2))).jobs:
            if each.result == "deleted":
                self.erased[each.msg_id] = each.was

    async def delete_past_everything(self) -> None:
        """As a client of PGMQ does that knows nothing of all this."""
        for msg_id in self.some(1):
            await self.pool.execute("select pgmq.delete('jobs', $1::bigint)", msg_id)

    async def archive_past_everything(self) -> None:
        """The same, with PGMQ's archive."""
        for msg_id in self.some(1):
            await self.pool.execute("select pgmq.archive('jobs', $1::bigint)", msg_id)

    async def purge(self) -> None:
        """Everything that waits goes."""
        await self.queue.purge_queue()

    async def replay(self) -> None:
        """Dead letters come back."""
        for letter in await self.dead_letters.list_dead_letter_jobs(limit=2):
            # Somebody else was faster, or another job has its key by now.
            with suppress(DeadLetterNotFoundError, DuplicateJobError):
                self.ids.append(await self.dead_letters.replay_dead_letter_job(letter.id))

    async def bury(self) -> None:
        """The dead letters go."""
        await self.dead_letters.purge_dlq()

    async def repair(self) -> None:
        """A worker looks at groups."""
        await self.pool.fetch(queries.load("repair_groups"), "jobs", 0.0, 100, None)

    async def is_over(self) -> bool:
        """Whether no job is left, and no request."""
        requests = "select count(*) from meshhook.cancellations where ended_at is null"
        return not await live(self.connection) and not await self.connection.fetchval(requests)

    async def check(self) -> None:
        """Balance the books."""
        rows = await self.connection.fetch(
            "select msg_id, array_agg(outcome) as outcomes from meshhook.job_attempts "
            "where queue = 'jobs' and outcome = any ($1) group by msg_id",
            list(ENDS),
        )
        ends = {row["msg_id"]: row["outcomes"] for row in rows}
        assert {msg_id: end for msg_id, end in ends.items() if len(end) != 1} == {}
        assert not ends.keys() & self.erased.keys()
        for msg_id in self.cancelled - self.erased.keys():
            assert ends[msg_id] == ["cancelled"]
        requests = await self.connection.fetch("select msg_id, outcome from meshhook.cancellations")
        for request in requests:
            assert [request["outcome"]] == ends.get(request["msg_id"], [None])
        await self._check_groups({msg_id: end[0] for msg_id, end in ends.items()})
        succeeded = {msg_id for msg_id, end in ends.items() if end == ["succeeded"]}
        succeeded |= {msg_id for msg_id, was in self.erased.items() if was == "succeeded"}
        rows = await self.connection.fetch("select message from pgmq.q_next")
        followed = Counter(json.loads(row["message"])["after"] for row in rows)
        assert followed == dict.fromkeys(succeeded, 1)
        for key in KEYS:
            assert (await self.queue.enqueue(0, unique_key=key)).is_new

    async def _check_groups(self, ends: dict[int, str]) -> None:
        for group in await list_groups(self.connection, "jobs", limit=1000):
            if not group.is_finished:
                await repair_group(self.connection, "jobs", group.name)
        rows = await self.connection.fetch("select message, headers from pgmq.q_done")
        assert Counter(json.loads(row["message"]) for row in rows) == dict.fromkeys(self.members, 1)
        for row in rows:
            told = json.loads(row["headers"])["meshhook-finished-group"]
            counts = Counter[str]()
            for msg_id in self.members[told["name"]]:
                if msg_id in self.erased:
                    was = self.erased[msg_id]
                    # Without a state: its message had gone before, past everything.
                    end = "cancelled" if was in LIVE_STATES else was or "lost"
                else:
                    end = ends.get(msg_id, "lost")
                counts[COUNTED_AS.get(str(end), "failed")] += 1
                counts["lost"] += end == "lost"
            names = ("succeeded", "failed", "cancelled")
            assert [told[each] for each in names] == [counts[each] for each in names], told
            group = await get_group(self.connection, "jobs", told["name"])
            assert [getattr(group, each) for each in names] == [told[each] for each in names]
            assert group.lost == counts["lost"]
            assert told["total"] == group.total == sum(told[each] for each in names)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(3))
async def test_each_job_ends_once_and_everything_hangs_on_that(
    pool: Pool, connection: Connection, database_url: str, tmp_path: Path, seed: int
) -> None:
    """Callbacks once with true counts, follow-ups once for each success, and keys that are free."""
    for name in ("done", "next"):
        await create_queue(connection, name)
    await set_queue_config(
        connection,
        "jobs",
        results=True,
        visibility_timeout_seconds=1,
        retry_backoff_base_ms=20,
        max_retry_attempts=4,
    )
    mix = Mix(pool, connection, seed)
    purge_at = mix.dice.randrange(STEPS)
    async with AsyncExitStack() as stack:
        processes: list[asyncio.subprocess.Process] = []

        async def start_missing() -> None:
            processes[:] = [each for each in processes if each.returncode is None]
            while len(processes) < 3:
                started = worker_process(
                    database_url, "mixed", ledger=tmp_path / "ledger", concurrency=4
                )
                processes.append(await stack.enter_async_context(started))

        async def is_over() -> bool:
            await start_missing()
            return await mix.is_over()

        for step in range(STEPS):
            await start_missing()
            await asyncio.gather(*(mix.dice.choice(mix.steps)() for _ in range(2)))
            if step == purge_at:
                await mix.purge()
            if mix.dice.random() < 0.02:
                with suppress(ProcessLookupError):  # one that has just killed itself
                    os.killpg(mix.dice.choice(processes).pid, signal.SIGKILL)
            await asyncio.sleep(mix.dice.random() * 0.04)
        await eventually(is_over, timeout=90)
    await mix.check()
    assert mix.cancelled
    assert mix.requested
