"""Batches: several jobs that one call of a handler runs."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    Cancel,
    DeadLetter,
    Done,
    FollowUp,
    Job,
    JobHandler,
    QueueService,
    RetryAfter,
    Snooze,
    Worker,
    create_job_handler,
    create_queue,
    set_queue_config,
)
from meshhook.store.claims import Claim, claim
from meshhook.worker import claim_size, queue_claims
from meshhook.worker.executor import BATCHES_TURN_SECONDS
from meshhook.worker.held_jobs import HeldJobs
from meshhook.worker.verdicts import JobTimeoutError
from support.waiting import eventually
from support.workers import extend_often, live, make_worker, stop_patiently

pytestmark = pytest.mark.usefixtures("queue_name")

Pool: TypeAlias = "asyncpg.Pool[Any]"
RETRY_LATE: Any = {"retry_backoff_base_ms": 3_600_000, "retry_backoff_max_ms": 3_600_000}
SLOW_SECONDS = 60
"""How long a batch waits for jobs that do not come before its test would fail."""


class Calls:
    """A handler of batches that notes what it was called with."""

    def __init__(self, **options: Any) -> None:
        self.batches: list[list[Job[Any]]] = []
        self.end: Any = None
        self.is_held = False
        self.go_on = asyncio.Event()

        async def handle(jobs: list[Job[Any]]) -> Any:
            self.batches.append(jobs)
            if self.is_held:
                await self.go_on.wait()
            if isinstance(self.end, BaseException) and not callable(self.end):
                raise self.end
            return self.end(jobs) if callable(self.end) else self.end

        self.handler: JobHandler[Any] = create_job_handler(handle, **({"batch": 100} | options))

    @property
    def sizes(self) -> list[int]:
        """How many jobs each batch had."""
        return [len(batch) for batch in self.batches]


def held_jobs_of(worker: Worker) -> HeldJobs:
    """Return what a started worker holds of its queue."""
    assert worker._parts is not None
    return worker._parts.lanes[0].held_jobs


async def history(pool: Pool) -> dict[int, list[tuple[str, int, str | None]]]:
    """Return the attempts of each job: outcome, number, error type."""
    rows = await pool.fetch(
        "select msg_id, outcome, attempt, error_type from meshhook.job_attempts "
        "order by msg_id, attempt, finished_at"
    )
    found: dict[int, list[tuple[str, int, str | None]]] = {}
    for msg_id, *rest in rows:
        found.setdefault(msg_id, []).append(tuple(rest))
    return found


async def test_a_batch_takes_what_is_ready(pool: Pool, database_url: str) -> None:
    """Up to as many jobs as it may have; one that returns nothing has done them all."""
    ids = await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(250)])
    calls = Calls()
    async with make_worker(database_url, calls.handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 250)
    assert calls.sizes == [100, 100, 50]
    assert sorted(job.msg_id for batch in calls.batches for job in batch) == ids
    assert [job.payload["n"] for job in calls.batches[0]] == list(range(100))
    assert all(each == [("succeeded", 1, None)] for each in (await history(pool)).values())
    assert await live(pool) == {}


async def test_the_next_claim_is_under_way_while_batches_run(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as there are free slots; so the database does not wait for the handler."""
    monkeypatch.setattr(claim_size, "MAX_CLAIM_MESSAGES", 4)
    service = QueueService[Any](pool, "jobs")
    claims = 0
    claim_of: dict[int, int] = {}
    newer_claims: list[int] = []

    async def noted_claim(*arguments: Any, **options: Any) -> Claim:
        nonlocal claims
        claims += 1
        number = claims
        claimed = await claim(*arguments, **options)
        claim_of.update(dict.fromkeys((job.msg_id for job in claimed.jobs), number))
        return claimed

    monkeypatch.setattr(queue_claims, "claim", noted_claim)

    @create_job_handler(batch=2)
    async def handle(jobs: list[Job[Any]]) -> None:
        newer_claims.append(claims - claim_of[jobs[0].msg_id])

    async with make_worker(database_url, handle, concurrency=4) as worker:
        # The first jobs wait for slots to be opened.
        await service.enqueue_many([{"n": n} for n in range(8)])
        await eventually(lambda: worker.get_stats().succeeded == 8)
        newer_claims.clear()
        await service.enqueue_many([{"n": n} for n in range(16)])
        await eventually(lambda: worker.get_stats().succeeded == 24)
    # After the first of these claims, inserts are told that they need not notify; then comes it.
    assert newer_claims[-1] == 1, newer_claims


async def test_batches_that_never_wait_leave_the_loop_a_turn_after_a_millisecond(
    pool: Pool, database_url: str
) -> None:
    """Then claims and outcomes go on: the database need not wait for several batches."""
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(20)])
    turns = 0
    seen: list[int] = []

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    @create_job_handler(batch=2)
    async def handle(_: list[Job[Any]]) -> None:
        seen.append(turns)
        time.sleep(BATCHES_TURN_SECONDS)  # noqa: ASYNC251 - it is to keep the loop busy

    counting = asyncio.create_task(count_turns())
    async with make_worker(database_url, handle) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 20)
    counting.cancel()
    assert len(seen) == 10
    assert sorted(set(seen)) == seen, "each batch has a turn of the loop before it"


async def test_a_batch_waits_for_more_jobs(pool: Pool, database_url: str) -> None:
    """It starts at once when it is full, however long it might wait."""
    service = QueueService[Any](pool, "jobs")
    calls = Calls(batch=3, batch_wait_seconds=SLOW_SECONDS)
    async with make_worker(database_url, calls.handler) as worker:
        await service.enqueue({"n": 0})
        await eventually(lambda: held_jobs_of(worker).ready == 1)
        assert calls.sizes == []
        await service.enqueue_many([{"n": 1}, {"n": 2}])
        await eventually(lambda: worker.get_stats().succeeded == 3)
    assert calls.sizes == [3]


async def test_a_batch_waits_no_longer_than_it_may(pool: Pool, database_url: str) -> None:
    """Then it starts with the jobs that it has."""
    service = QueueService[Any](pool, "jobs")
    calls = Calls(batch=3, batch_wait_seconds=0.05)
    async with make_worker(database_url, calls.handler) as worker:
        await service.enqueue({"n": 0})
        await eventually(lambda: worker.get_stats().succeeded == 1)
        await service.enqueue({"n": 1})
        await eventually(lambda: worker.get_stats().succeeded == 2)
    assert calls.sizes == [1, 1]


async def test_a_batch_is_one_slot(pool: Pool, database_url: str) -> None:
    """`concurrency` counts batches; jobs beyond them wait in the queue, and are not claimed."""
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(10)])
    calls = Calls(batch=3)
    calls.is_held = True
    async with make_worker(database_url, calls.handler, concurrency=2) as worker:
        held_jobs = held_jobs_of(worker)
        await eventually(lambda: calls.sizes == [3, 3])
        assert (len(held_jobs.running), held_jobs.taken_slots, held_jobs.free) == (6, 2, 0)
        assert worker.get_stats().running == 6
        assert [each["state"] for each in (await live(pool)).values()].count("ready") == 4
        calls.go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 10)
        assert (held_jobs.taken_slots, held_jobs.free) == (0, 6)
    assert sorted(calls.sizes) == [1, 3, 3, 3]


async def test_each_job_has_its_own_end(pool: Pool, database_url: str) -> None:
    """A list has the end of each job in their order: an outcome, an error, or nothing."""
    await create_queue(pool, "others")
    await set_queue_config(pool, "jobs", results=True, **RETRY_LATE)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(8)])
    calls = Calls()
    calls.end = lambda _: [
        None,
        Done(result={"sum": 3}, then=FollowUp("others", {"of": 2})),
        RetryAfter(3600),
        Snooze(3600),
        DeadLetter("no such address", error_type="Gone"),
        Cancel("not needed"),
        ValueError("broken"),
        {"any": "result"},
    ]
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 8)
    assert {key: each[0] for key, each in (await history(pool)).items()} == {
        1: ("succeeded", 1, None),
        2: ("succeeded", 1, None),
        3: ("retried", 1, "RetryAfter"),
        4: ("snoozed", 1, None),
        5: ("dead_lettered", 1, "Gone"),
        6: ("cancelled", 1, None),
        7: ("retried", 1, "ValueError"),
        8: ("succeeded", 1, None),
    }
    assert await pool.fetchval("select count(*) from pgmq.q_others") == 1
    assert set(await live(pool)) == {3, 4, 7}


async def test_a_dict_has_the_ends_of_some_jobs(pool: Pool, database_url: str) -> None:
    """By their msg_id; the others are done."""
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    calls = Calls()
    calls.end = lambda jobs: {jobs[1].msg_id: Snooze(3600)}
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    found = await history(pool)
    assert [found[n][0][0] for n in (1, 2, 3)] == ["succeeded", "snoozed", "succeeded"]


async def test_an_error_is_the_end_of_every_job(pool: Pool, database_url: str) -> None:
    """Each fails by its own attempts: one is retried, and one that has no more is a dead letter."""
    await set_queue_config(pool, "jobs", max_retry_attempts=2, retry_backoff_base_ms=100)
    service = QueueService[Any](pool, "jobs")
    await service.enqueue({"n": 0})
    calls = Calls()
    calls.end = ValueError("down")
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().retried == 1)
        await service.enqueue({"n": 1})
        await eventually(lambda: worker.get_stats().moved_to_dlq == 2)
    assert await history(pool) == {
        n: [("retried", 1, "ValueError"), ("dead_lettered", 2, "ValueError")] for n in (1, 2)
    }


@pytest.mark.parametrize(
    "end",
    [[None], [None] * 4, {17: None}, 3, "done", [asyncio.sleep], object()],
    ids=["short", "long", "unknown", "number", "text", "function", "object"],
)
async def test_what_a_handler_may_not_return(end: Any, pool: Pool, database_url: str) -> None:
    """It fails every job, which is retried, and says what to return."""
    await set_queue_config(pool, "jobs", **RETRY_LATE)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    calls = Calls()
    calls.end = lambda _: end
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    rows = await pool.fetch("select outcome, error_type, error_message from meshhook.job_attempts")
    assert {row["outcome"] for row in rows} == {"retried"}
    assert {row["error_type"] for row in rows} == {"UnusableResultError"}
    assert len(await live(pool)) == 3


async def test_a_payload_that_does_not_fit_fails_alone(pool: Pool, database_url: str) -> None:
    """The other jobs of its batch run."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([1, "two", 3])
    calls = Calls(payload_model=int)
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    assert [[job.payload for job in batch] for batch in calls.batches] == [[1, 3]]
    assert (await history(pool))[2] == [("dead_lettered", 1, "InvalidPayload")]
    assert worker.get_stats().succeeded == 2


async def test_a_payload_that_cannot_be_read_fails_alone(pool: Pool, database_url: str) -> None:
    """Although a plain payload is read only when the handler looks at it."""
    # Too long a number for Python. How deep it reads lists depends on its version.
    digits = "9" * 5_000
    ids = '"run_id": "r", "workflow_id": "w", "project_id": "p"'
    bodies = [f'{{"payload": {payload}, {ids}}}' for payload in ("1", digits, "3")]
    await pool.execute("select pgmq.send('jobs', m::jsonb) from unnest($1::text[]) m", bodies)
    calls = Calls()
    calls.end = lambda jobs: [Done(result=job.payload) for job in jobs]
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    assert calls.sizes == [2]
    assert (await history(pool))[2] == [("dead_lettered", 1, "InvalidPayload")]


async def test_a_batch_of_refused_jobs_calls_no_handler(pool: Pool, database_url: str) -> None:
    """Its slot is free again."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many(["one", "two"])
    calls = Calls(payload_model=int)
    async with make_worker(database_url, calls.handler, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().processed == 2)
        assert held_jobs_of(worker).taken_slots == 0
        await service.enqueue(3)
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert calls.sizes == [1]


async def test_suspects_run_alone(pool: Pool, database_url: str) -> None:
    """Jobs that came back with no outcome are batches of one, and wait for no other."""
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(5)])
    await pool.execute("update pgmq.q_jobs set read_ct = 1 where msg_id <= 3")
    calls = Calls(batch_wait_seconds=SLOW_SECONDS)
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 3)
    assert calls.sizes == [1, 1, 1]
    assert {job.msg_id for batch in calls.batches for job in batch} == {1, 2, 3}


async def test_a_suspect_of_another_queue_does_not_wait_for_a_batch_to_fill(
    pool: Pool, database_url: str
) -> None:
    """While it waits nothing is claimed, so that the batch could not fill either."""
    await create_queue(pool, "others")
    calls, suspects = Calls(batch_wait_seconds=SLOW_SECONDS), Calls()
    worker = Worker(
        database_url,
        ["jobs", "others"],
        {"jobs": calls.handler, "others": suspects.handler},
        registry=CollectorRegistry(),
    )
    async with worker:
        await QueueService[Any](pool, "jobs").enqueue({"n": 0})
        await eventually(lambda: calls.sizes or held_jobs_of(worker).ready == 1)
        await QueueService[Any](pool, "others").enqueue({"n": 1}, delay_seconds=3600)
        await pool.execute("update pgmq.q_others set read_ct = 1, vt = now()")
        await eventually(lambda: worker.get_stats().succeeded == 2)
    assert (calls.sizes, suspects.sizes) == ([1], [1])


async def test_a_batch_of_large_jobs_does_not_wait_for_memory_that_it_has(
    pool: Pool, database_url: str
) -> None:
    """It starts once no more messages fit beside those that it has."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many(["x" * 300_000] * 10)
    calls = Calls(batch_wait_seconds=SLOW_SECONDS)
    async with make_worker(database_url, calls.handler, max_message_bytes=310_000) as worker:
        await eventually(lambda: worker.get_stats().succeeded >= 8)
    assert sum(calls.sizes) >= 8


async def test_jobs_of_an_ordered_key_are_never_in_one_batch(pool: Pool, database_url: str) -> None:
    """A batch has one job of each key, and they run in their order."""
    await set_queue_config(pool, "jobs", keyed=True, ordered=True)
    service = QueueService[Any](pool, "jobs")
    for number in range(4):
        for key in ("a", "b", "c"):
            await service.enqueue({"n": number, "key": key}, key=key)
    calls = Calls()
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 12)
    payloads = [[job.payload for job in batch] for batch in calls.batches]
    assert all(len({each["key"] for each in batch}) == len(batch) for batch in payloads)
    for key in ("a", "b", "c"):
        numbers = [each["n"] for batch in payloads for each in batch if each["key"] == key]
        assert numbers == [0, 1, 2, 3]


async def test_the_limit_of_a_queue_holds_for_the_jobs_of_batches(
    pool: Pool, database_url: str
) -> None:
    """It counts jobs, not batches."""
    await set_queue_config(pool, "jobs", keyed=True, max_running=4)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(10)])
    calls = Calls()
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 10)
    assert max(calls.sizes) <= 4


async def test_the_time_limit_is_that_of_the_batch(pool: Pool, database_url: str) -> None:
    """Every job of it fails."""
    await set_queue_config(pool, "jobs", job_timeout_seconds=1, **RETRY_LATE)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    calls = Calls()
    calls.is_held = True
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
        assert held_jobs_of(worker).taken_slots == 0
    name = JobTimeoutError.__name__
    assert all(each == [("retried", 1, name)] for each in (await history(pool)).values())


@pytest.mark.usefixtures("late_retries")
async def test_a_plain_function_runs_in_a_thread(pool: Pool, database_url: str) -> None:
    """It takes a list and returns the ends, as an async one does."""
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    threads: list[str] = []

    @create_job_handler(batch=10)
    def handle(jobs: list[Job[Any]]) -> Any:
        threads.append(threading.current_thread().name)
        return [None, Snooze(3600), ValueError("broken")][: len(jobs)]

    async with make_worker(database_url, handle) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    assert len(threads) == 1
    assert threads[0].startswith("meshhook-job")
    found = await history(pool)
    assert [found[n][0][0] for n in (1, 2, 3)] == ["succeeded", "snoozed", "retried"]


async def test_a_thread_that_is_given_up_keeps_one_slot(pool: Pool, database_url: str) -> None:
    """None of its jobs runs again here before it has ended."""
    await set_queue_config(pool, "jobs", job_timeout_seconds=1, retry_backoff_base_ms=100)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    go_on = threading.Event()
    sizes: list[int] = []

    @create_job_handler(batch=10)
    def handle(jobs: list[Job[Any]]) -> None:
        sizes.append(len(jobs))
        if len(sizes) == 1:
            go_on.wait(60)

    async with make_worker(database_url, handle, concurrency=2) as worker:
        held_jobs = held_jobs_of(worker)
        await eventually(lambda: worker.get_stats().retried == 3)
        assert (held_jobs.taken_slots, held_jobs.share.free) == (1, 1)
        assert sizes == [3]
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 3)
        assert held_jobs.taken_slots == 0


async def test_a_job_of_a_batch_is_completed_in_a_transaction(
    pool: Pool, database_url: str
) -> None:
    """It is done if that is committed, whatever becomes of the others."""
    await set_queue_config(pool, "jobs", **RETRY_LATE)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])

    @create_job_handler(batch=10)
    async def handle(jobs: list[Job[Any]]) -> None:
        async with pool.acquire() as connection, connection.transaction():
            await jobs[0].complete(connection=connection)
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await jobs[1].complete(connection=connection)
            await transaction.rollback()
        raise ValueError("after both")

    async with make_worker(database_url, handle) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    found = await history(pool)
    assert found[1] == [("succeeded", 1, None)]
    assert found[2] == found[3] == [("retried", 1, "ValueError")]


async def test_a_cancelled_job_stops_no_batch(pool: Pool, database_url: str) -> None:
    """The handler sees the request, and its word on the job counts."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{"n": n} for n in range(3)])
    calls = Calls()
    calls.is_held = True
    calls.end = lambda jobs: {
        job.msg_id: ValueError("stopped") for job in jobs if job.cancellation is not None
    }
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: calls.sizes == [3])
        await service.cancel(2, reason="a mistake")
        await eventually(lambda: calls.batches[0][1].cancellation is not None)
        assert worker.get_stats().running == 3
        calls.go_on.set()
        await eventually(lambda: worker.get_stats().processed == 3)
    found = await history(pool)
    assert [found[n][0][0] for n in (1, 2, 3)] == ["succeeded", "cancelled", "succeeded"]


async def test_a_batch_of_cancelled_jobs_is_stopped(pool: Pool, database_url: str) -> None:
    """Once every job of it is to be cancelled, nobody wants what its handler does."""
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{"n": n} for n in range(2)])
    calls = Calls()
    calls.is_held = True
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: calls.sizes == [2])
        await service.cancel([1, 2])
        await eventually(lambda: worker.get_stats().cancelled == 2)
    assert {key: each[0][0] for key, each in (await history(pool)).items()} == {
        1: "cancelled",
        2: "cancelled",
    }


async def test_a_lost_lease_stops_no_batch(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler sees that another worker may run the job, and no outcome of it is recorded."""
    extend_often(monkeypatch)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    calls = Calls()
    calls.is_held = True
    async with make_worker(database_url, calls.handler) as worker:
        await eventually(lambda: calls.sizes == [3])
        await pool.execute(
            "update pgmq.q_jobs set read_ct = 7, vt = now() + interval '1 hour' where msg_id = 2"
        )
        await eventually(lambda: calls.batches[0][1].lease_expired)
        assert worker.get_stats().running == 3
        calls.go_on.set()
        await eventually(lambda: worker.get_stats().processed == 2)
        assert held_jobs_of(worker).taken_slots == 0
    assert set(await history(pool)) == {1, 3}
    assert set(await live(pool)) == {2}


async def test_a_batch_whose_leases_are_all_lost_is_stopped(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its slot takes other jobs."""
    extend_often(monkeypatch)
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([{"n": n} for n in range(2)])
    calls = Calls()
    calls.is_held = True
    async with make_worker(database_url, calls.handler, concurrency=1) as worker:
        await eventually(lambda: calls.sizes == [2])
        await pool.execute("update pgmq.q_jobs set read_ct = 7, vt = now() + interval '1 hour'")
        await eventually(lambda: worker.get_stats().running == 0)
        calls.is_held = False
        await service.enqueue({"n": 2})
        await eventually(lambda: worker.get_stats().succeeded == 1)
    assert set(await history(pool)) == {3}


async def test_a_waiting_batch_delays_no_shutdown(pool: Pool, database_url: str) -> None:
    """Its jobs are given back at once, and the attempts do not count."""
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(2)])
    calls = Calls(batch_wait_seconds=SLOW_SECONDS)
    async with make_worker(database_url, calls.handler, grace_seconds=SLOW_SECONDS) as worker:
        await eventually(lambda: held_jobs_of(worker).ready == 2)
    assert calls.sizes == []
    assert [(each["state"], each["read_ct"]) for each in (await live(pool)).values()] == [
        ("ready", 0),
        ("ready", 0),
    ]


async def test_a_batch_that_does_not_finish_is_given_back(
    pool: Pool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of the grace period, all its jobs are ready for another worker."""
    stop_patiently(monkeypatch)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    calls = Calls()
    calls.is_held = True
    async with make_worker(database_url, calls.handler, grace_seconds=0.2):
        await eventually(lambda: calls.sizes == [3])
    assert [each["state"] for each in (await live(pool)).values()] == ["ready"] * 3
    assert await history(pool) == {}


async def test_a_handler_that_cancels_its_own_task(pool: Pool, database_url: str) -> None:
    """Its jobs fail, another slot takes the next batch, and no slot is lost."""
    await set_queue_config(pool, "jobs", retry_backoff_base_ms=100)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(3)])
    sizes: list[int] = []

    @create_job_handler(batch=10)
    async def handle(jobs: list[Job[Any]]) -> None:
        sizes.append(len(jobs))
        if len(sizes) == 1:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)

    async with make_worker(database_url, handle, concurrency=1) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 3)
        assert held_jobs_of(worker).taken_slots == 0
    assert all(
        each == [("retried", 1, "CancelledError"), ("succeeded", 2, None)]
        for each in (await history(pool)).values()
    )


async def test_a_slot_that_is_kept_for_urgent_jobs_takes_a_batch_of_them(
    pool: Pool, database_url: str
) -> None:
    """Others run in the other slots, in batches of all priorities."""
    await set_queue_config(pool, "jobs", prioritized=True, urgent_slots=1)
    service = QueueService[Any](pool, "jobs")
    for number in range(12):
        await service.enqueue({"n": number}, priority="low" if number % 2 else "normal")
    calls = Calls(batch=4)
    calls.is_held = True
    async with make_worker(database_url, calls.handler, concurrency=2) as worker:
        await eventually(lambda: calls.sizes == [4])
        assert held_jobs_of(worker).free == 0
        await service.enqueue_many([{"n": n} for n in range(100, 106)], priority="urgent")
        await eventually(lambda: len(calls.sizes) == 2)
        assert {job.payload["n"] >= 100 for job in calls.batches[1]} == {True}
        assert held_jobs_of(worker).taken_slots == 2
        calls.go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 18)
        assert held_jobs_of(worker).taken_slots == 0
    assert max(calls.sizes) == 4
