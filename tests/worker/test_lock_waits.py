"""What hangs on a job may be locked, or refuse it: that job waits or fails, and no other."""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    Done,
    FollowUp,
    Job,
    QueueService,
    create_queue,
    get_group,
    set_queue_config,
)
from meshhook.outcomes import AttemptOutcome
from meshhook.store.messages import FollowUpMessage
from meshhook.store.settlements import Settlement
from meshhook.worker import ended_jobs
from meshhook.worker.ended_jobs import EndedJobs
from meshhook.worker.held_job import HeldJob
from meshhook.worker.lock_waits import MAX_PAUSE_SECONDS, NOTHING, Hanging, LockWaits, parts_of
from support.claimed_jobs import claimed_job
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture(autouse=True)
async def next_queue(database_url: str) -> None:
    """The queue that follow-ups and callbacks go to."""
    await create_queue(database_url, "next")


class Together:
    """A handler whose first jobs end at the same moment; later ones end at once."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._go_on = asyncio.Event()
        self.may_end = asyncio.Event()
        self.all_run = asyncio.Event()

    async def __call__(self, job: Job[Any]) -> object:
        """Wait for the others."""
        self._left -= 1
        if not self._left:
            self.all_run.set()
        await self.may_end.wait()
        if job.payload == "followed":
            return Done(then=FollowUp("next", {"of": job.msg_id}))
        return None


async def test_a_queue_that_is_locked_holds_up_only_what_goes_there(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """What ends beside it, and later, is recorded; so is its job when the lock is gone, once."""
    queue = QueueService[Any](pool, "jobs")
    together = Together(20)

    async def handler(job: Job[Any]) -> object:
        return await together(job)

    followed = await queue.enqueue("followed")
    await queue.enqueue_many(["plain"] * 19)
    async with make_worker(database_url, handler, concurrency=20) as worker:
        await together.all_run.wait()
        async with connection.transaction():
            await connection.execute("lock table pgmq.q_next in access exclusive mode")
            together.may_end.set()
            await eventually(lambda: worker.get_stats().succeeded == 19)
            await queue.enqueue_many(["plain"] * 50)
            await eventually(lambda: worker.get_stats().succeeded == 69)
            assert (await live(pool)).keys() == {followed}
        await eventually(lambda: worker.get_stats().succeeded == 70)
    assert await outcomes(connection, followed) == [("succeeded", 1)]
    assert await connection.fetchval("select count(*) from pgmq.q_next") == 1


async def test_a_group_that_is_locked_holds_up_no_other(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """As by a handler whose transaction is left open after `job.complete()`."""
    queue = QueueService[Any](pool, "jobs")
    together = Together(20)

    async def handler(job: Job[Any]) -> object:
        return await together(job)

    ends = FollowUp("next")
    locked = await queue.enqueue_many(["member"] * 8, group="locked", on_complete=ends)
    await queue.enqueue_many(["member"] * 8, group="free", on_complete=ends)
    await queue.enqueue_many(["plain"] * 4)
    async with make_worker(database_url, handler, concurrency=20) as worker:
        await together.all_run.wait()
        async with connection.transaction():
            await connection.execute(
                "select from meshhook.job_groups where name = 'locked' for update"
            )
            together.may_end.set()
            await eventually(lambda: worker.get_stats().succeeded == 12)
            assert (await get_group(pool, "jobs", "free")).callback_id is not None
            assert (await live(pool)).keys() == set(locked)
        await eventually(lambda: worker.get_stats().succeeded == 20)
    found = await get_group(connection, "jobs", "locked")
    assert (found.succeeded, found.callback_id is not None) == (8, True)
    assert await connection.fetchval("select count(*) from pgmq.q_next") == 2


REFUSALS = {
    "a trigger": """
        create function public.refuse() returns trigger language plpgsql
        as $$ begin raise exception 'not here'; end $$;
        create trigger refuse before insert on pgmq.q_next
        for each row execute function public.refuse()
    """,
    "a unique index": """
        create unique index on pgmq.q_next ((message ->> 'of'));
        insert into pgmq.q_next (vt, message) values (now(), '{"of": "7"}')
    """,
    "a check": "alter table pgmq.q_next add check (message ->> 'of' <> '7')",
}


@pytest.mark.parametrize("sql", REFUSALS.values(), ids=REFUSALS.keys())
async def test_whatever_refuses_a_follow_up_fails_its_job(
    pool: Pool, connection: Connection, database_url: str, sql: str
) -> None:
    """The attempt fails with the reason, instead of waiting for ever to be recorded."""
    await set_queue_config(connection, "jobs", max_retry_attempts=2, retry_backoff_base_ms=0)
    await connection.execute(sql)

    async def handler(job: Job[Any]) -> object:
        return Done(then=FollowUp("next", {"of": "7"})) if job.payload == 7 else None

    ids = await QueueService[Any](pool, "jobs").enqueue_many(list(range(20)))
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 21)
    assert await live(connection) == {}
    assert await outcomes(connection, ids[7]) == [("retried", 1), ("dead_lettered", 2)]
    row = await connection.fetchrow(
        "select error_type, error_message from meshhook.job_attempts "
        "where outcome = 'dead_lettered'"
    )
    assert row is not None
    assert row["error_type"] == "FollowUpRefusedError"
    assert 'queue "next" refuses it' in row["error_message"]


def held(**fields: Any) -> HeldJob:
    """Return a job that has ended."""
    made = HeldJob(claimed_job(), 0.0, 0.0)
    made.settlement = Settlement(1, 1, 0.0, 1, AttemptOutcome.SUCCEEDED, None, 0.0, **fields)
    return made


def follow_up(queue: str, body: str = "{}") -> FollowUpMessage:
    """Return the message of a follow-up."""
    return FollowUpMessage(queue, body, None, None, 0)


def test_a_batch_is_parted_by_what_hangs_on_its_jobs() -> None:
    """Those on which nothing hangs come first, whatever their keys unless these matter."""
    plain, member = held(), held(group_id="g")
    both = held(group_id="g", follow_ups=(follow_up("b"), follow_up("a"), follow_up("b")))
    assert parts_of([both, member, plain], with_keys=False) == {
        NOTHING: [plain],
        Hanging("g", ("a", "b")): [both],
        Hanging("g"): [member],
    }
    assert parts_of([member], with_keys=True) == {Hanging("g"): [member]}


def test_what_stays_locked_is_tried_more_and_more_seldom() -> None:
    """And like anything else once it was free."""
    waits, group = LockWaits(), Hanging("g")
    assert (bool(waits), waits.seconds_left(group, 0.0)) == (False, None)
    pauses = [waits.note_locked(group, 100.0) for _ in range(6)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0] == [*pauses[:3], *[MAX_PAUSE_SECONDS] * 3]
    assert waits.seconds_left(group, 103.0) == 5.0
    assert waits.seconds_left(group, 109.0) == 0.0
    assert waits.seconds_left(NOTHING, 109.0) is None
    waits.note_free(group)
    assert not waits


def test_large_follow_ups_are_not_recorded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that is too large would be refused, with all jobs in it."""
    monkeypatch.setattr(ended_jobs, "MAX_BATCH_CHARACTERS", 100)
    ended = EndedJobs()
    sizes = [60, 30, 0, 20, 500, 10]
    for size in sizes:
        ended.put(held(follow_ups=(follow_up("a", "x" * size),) if size else ()))
    taken = []
    while ended.has_waiting:
        taken.append(len(ended.take_batch()))
        ended.batch_done()
    assert taken == [3, 1, 1, 1]
