"""One worker process with several queues."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Database, Job, QueueService, Worker, drop_queue, set_queue_config
from meshhook.errors import QueueNotFoundError
from meshhook.worker import producer
from support.waiting import eventually
from support.workers import extend_often, reports, stop_patiently

Pool = asyncpg.Pool
Connection = asyncpg.Connection

NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
async def _queues(connection: Connection[Any]) -> None:
    for name in NAMES:
        await connection.execute("select meshhook.create_queue($1)", name)


@pytest.fixture
async def queues(pool: Pool[Any]) -> dict[str, QueueService[Any]]:
    """Services of the queues a, b and c."""
    return {name: QueueService[Any](pool, name) for name in NAMES}


class Running:
    """A handler whose jobs run until they are let go, and the numbers of those that run."""

    def __init__(self) -> None:
        self.now: Counter[str] = Counter()
        self.most = 0
        self.begun: list[str] = []
        self._waiting: dict[str, list[asyncio.Event]] = {name: [] for name in NAMES}

    async def __call__(self, job: Job[Any]) -> None:
        """Run until let go."""
        go_on = asyncio.Event()
        self._waiting[job.queue].append(go_on)
        self.begun.append(job.queue)
        self.now[job.queue] += 1
        self.most = max(self.most, self.now.total())
        try:
            await go_on.wait()
        finally:
            self.now[job.queue] -= 1

    def let_go(self, queue: str, jobs: int = 1) -> None:
        """Let jobs of a queue end, the oldest first."""
        for _ in range(jobs):
            self._waiting[queue].pop(0).set()

    def counts(self, **expected: int) -> bool:
        """Say whether these, and no others, are running."""
        return {name: count for name, count in self.now.items() if count} == expected


def make(url: str, queues: Any, handler: Any, **options: Any) -> Worker:
    """Return a worker with metrics of its own; not started."""
    options.setdefault("registry", CollectorRegistry())
    options.setdefault("grace_seconds", 0)
    return Worker(url, queues, handler, **options)


async def test_each_queue_has_its_handler_its_metrics_and_its_statistics(
    queues: dict[str, QueueService[Any]], connection: Connection[Any], database_url: str
) -> None:
    """What happens in one queue is counted there and nowhere else."""
    registry = CollectorRegistry()

    async def succeed(job: Job[Any]) -> None:
        assert job.queue == "a"

    async def fail(job: Job[Any]) -> None:
        assert job.queue == "b"
        raise ValueError

    # None comes again while the test runs.
    await set_queue_config(
        connection, "b", retry_backoff_base_ms=600_000, retry_backoff_max_ms=600_000
    )
    await queues["a"].enqueue_many([{}] * 3)
    await queues["b"].enqueue_many([{}] * 2)
    async with make(
        database_url, ["a", "b"], {"a": succeed, "b": fail}, registry=registry, grace_seconds=5
    ) as worker:
        await eventually(lambda: worker.get_stats().processed >= 5)
        assert (worker.get_stats("a").succeeded, worker.get_stats("a").failed) == (3, 0)
        assert (worker.get_stats("b").succeeded, worker.get_stats("b").retried) == (0, 2)
        with pytest.raises(QueueNotFoundError):
            worker.get_stats("c")

        async def is_reported() -> bool:
            return set(await reports(connection)) == {"a", "b"}

        await eventually(is_reported)
    assert await reports(connection) == {}
    for queue, outcome, count in (("a", "succeeded", 3), ("b", "retried", 2), ("b", "lost", 0)):
        labels = {"queue": queue, "outcome": outcome}
        assert registry.get_sample_value("meshhook_worker_messages_total", labels) == count


async def test_each_queue_shows_all_the_slots_that_it_may_take(
    queues: dict[str, QueueService[Any]], database_url: str
) -> None:
    """The limit is the worker's: alone, a queue may take every slot."""
    registry = CollectorRegistry()

    def limits() -> list[float | None]:
        name = "meshhook_worker_concurrency_limit"
        return [registry.get_sample_value(name, {"queue": queue}) for queue in ("a", "b")]

    async with make(database_url, ["a", "b"], lambda _: None, registry=registry, concurrency=7):
        await eventually(lambda: limits() == [7, 7])


async def test_slots_are_shared_by_weight_while_all_have_work(
    queues: dict[str, QueueService[Any]], database_url: str
) -> None:
    """With weights 3 and 1, of 8 slots 6 and 2 are taken, and never more than 8."""
    running = Running()
    for name in ("a", "b"):
        await queues[name].enqueue_many([{}] * 50)
    async with make(database_url, {"a": 3, "b": 1}, running, concurrency=8):
        await eventually(lambda: running.counts(a=6, b=2))
        for begun in range(12, 52, 4):
            running.let_go("a", 3)
            running.let_go("b", 1)

            def others_run(begun: int = begun) -> bool:
                return len(running.begun) == begun and running.counts(a=6, b=2)

            await eventually(others_run)
        assert running.most == 8


async def test_a_queue_alone_takes_every_slot_until_another_has_work(
    queues: dict[str, QueueService[Any]], database_url: str
) -> None:
    """Jobs that run are not stopped; the next free slots are the other's, up to its part."""
    running = Running()
    await queues["a"].enqueue_many([{}] * 50)
    async with make(database_url, {"a": 3, "b": 1}, running, concurrency=8):
        await eventually(lambda: running.counts(a=8))
        await queues["b"].enqueue_many([{}] * 50)
        running.let_go("a")
        await eventually(lambda: running.counts(a=7, b=1))
        running.let_go("a")
        await eventually(lambda: running.counts(a=6, b=2))
        running.let_go("a")
        await eventually(lambda: len(running.begun) == 11)
        assert running.counts(a=6, b=2)
        assert running.most == 8


async def test_what_a_queue_leaves_the_others_take(
    queues: dict[str, QueueService[Any]], database_url: str
) -> None:
    """When one queue has no more jobs, or is paused, its slots are used by the other."""
    running = Running()
    await queues["a"].enqueue_many([{}] * 50)
    await queues["b"].enqueue_many([{}] * 3)
    async with make(database_url, ["a", "b"], running, concurrency=8):
        await eventually(lambda: running.counts(a=5, b=3))
        running.let_go("b", 3)
        await eventually(lambda: running.counts(a=8))


async def test_a_pause_is_one_queues_own(
    queues: dict[str, QueueService[Any]], pool: Pool[Any], database_url: str
) -> None:
    """The other queue goes on, with all the slots."""
    running = Running()
    await set_queue_config(Database(pool), "b", paused=True)
    for name in ("a", "b"):
        await queues[name].enqueue_many([{}] * 50)
    async with make(database_url, ["a", "b"], running, concurrency=8) as worker:
        await eventually(lambda: running.counts(a=8))
        await set_queue_config(Database(pool), "b", paused=False)
        await set_queue_config(Database(pool), "a", paused=True)
        assert worker._parts is not None
        a, _ = worker._parts.lanes
        await eventually(lambda: a.config.paused)
        running.let_go("a", 8)
        await eventually(lambda: running.now["b"] == 8)


async def test_a_small_queue_does_not_starve_beside_quick_jobs(
    queues: dict[str, QueueService[Any]], database_url: str
) -> None:
    """A job of a queue with a thousandth of the weight runs while the other has thousands."""
    left = 3_000

    async def handler(job: Job[Any]) -> None:
        nonlocal left
        await asyncio.sleep(0)
        left -= job.queue == "a"
        if job.queue == "b":
            seen.append(left)

    seen: list[int] = []
    await queues["a"].enqueue_many([{}] * left)
    await queues["b"].enqueue_many([{}] * 5)
    async with make(database_url, {"a": 1000, "b": 1}, handler, concurrency=2) as worker:
        await eventually(lambda: worker.get_stats().processed == 3_005, timeout=60)
    assert min(seen) > 500, f"jobs of the small queue waited for the large one: {seen}"


async def test_every_queue_wakes_the_worker(
    queues: dict[str, QueueService[Any]], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An insert into any queue is heard; no poll is waited for."""
    monkeypatch.setattr(producer, "POLL_SECONDS", 600.0)
    monkeypatch.setattr(producer, "WAITING_SECONDS", 600.0)
    ran: list[str] = []

    async def handler(job: Job[Any]) -> None:
        ran.append(job.queue)

    async with make(database_url, NAMES, handler) as worker:
        assert worker._parts is not None
        lanes = worker._parts.lanes
        await eventually(lambda: all(lane.producer._waiting_until for lane in lanes))
        for name in ("c", "a", "b"):
            await queues[name].enqueue({})

            def has_run(name: str = name) -> bool:
                return name in ran

            await eventually(has_run)


async def test_settings_are_each_queues_own(
    queues: dict[str, QueueService[Any]], pool: Pool[Any], database_url: str
) -> None:
    """A change reaches the lane of its queue."""
    running = Running()
    async with make(database_url, NAMES, running) as worker:
        await set_queue_config(Database(pool), "b", max_retry_attempts=17)
        assert worker._parts is not None
        a, b, c = worker._parts.lanes
        await eventually(lambda: b.config.max_retry_attempts == 17)
        assert a.config.max_retry_attempts == c.config.max_retry_attempts == 5


async def test_each_queue_has_its_loops_looked_at(database_url: str) -> None:
    """Health names a claimer, a settler and the slots of each queue, and the leases of all."""
    async with make(database_url, ["a", "b"], Running()) as worker:
        names = {check.name for check in worker.liveness() if check.fault is None}
        loops = {f"{queue} {loop}" for queue in "ab" for loop in ("claimer", "settler", "slots")}
        assert names == loops | {"a, b leases"}
        assert [check.fault for check in worker.readiness()] == [None] * 3


async def test_leases_of_all_queues_are_kept(
    queues: dict[str, QueueService[Any]],
    pool: Pool[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Leases are extended again and again, in every queue, and each job runs once."""
    extend_often(monkeypatch)
    for name in NAMES:
        await queues[name].enqueue({})
    running = Running()
    async with make(database_url, NAMES, running, grace_seconds=5) as worker:
        await eventually(lambda: running.counts(a=1, b=1, c=1))
        seen: dict[str, set[Any]] = {name: set() for name in NAMES}

        async def leases_were_renewed_often() -> bool:
            for name in NAMES:
                row = await pool.fetchrow(f"select vt, read_ct from pgmq.q_{name}")
                assert row is not None
                assert row["read_ct"] == 1
                seen[name].add(row["vt"])
            return all(len(ends) > 3 for ends in seen.values())

        await eventually(leases_were_renewed_often)
        for name in NAMES:
            running.let_go(name)
        await eventually(lambda: worker.get_stats().succeeded == 3)
    assert len(running.begun) == 3


async def test_a_suspect_runs_while_no_other_queue_runs_anything(
    queues: dict[str, QueueService[Any]], connection: Connection[Any], database_url: str
) -> None:
    """It could kill the process: jobs of all queues end first, and begin again after it."""
    running = Running()
    [suspect] = await queues["b"].enqueue_many([{}])
    await connection.execute("update pgmq.q_b set read_ct = 3 where msg_id = $1", suspect)
    await queues["a"].enqueue_many([{}] * 6)
    async with make(database_url, ["a", "b"], running, concurrency=4, grace_seconds=5) as worker:
        await eventually(lambda: running.now.total() > 0)
        while "b" not in running.begun:
            if running.now["a"]:
                running.let_go("a")
            await asyncio.sleep(0)
        await eventually(lambda: running.now["b"] == 1)
        assert running.counts(b=1)
        running.let_go("b")

        async def all_done() -> bool:
            while running.now["a"]:
                running.let_go("a")
                await asyncio.sleep(0)
            return worker.get_stats().succeeded == 7

        await eventually(all_done)


async def test_stopping_gives_back_what_waits_in_every_queue(
    queues: dict[str, QueueService[Any]],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs that run or wait when the grace period ends are ready, their attempts unspent."""
    stop_patiently(monkeypatch)
    running = Running()
    for name in NAMES:
        await queues[name].enqueue_many([{}] * 10)
    async with make(database_url, NAMES, running, concurrency=6, grace_seconds=0.5):
        await eventually(lambda: running.counts(a=2, b=2, c=2))
    for name in NAMES:
        rows = await connection.fetch(f"select read_ct, vt <= now() as ready from pgmq.q_{name}")
        assert [tuple(row) for row in rows] == [(0, True)] * 10


async def test_stopping_gives_back_a_suspect_that_waits_for_others(
    queues: dict[str, QueueService[Any]], connection: Connection[Any], database_url: str
) -> None:
    """It does not run beside them, and is ready at once."""
    running = Running()
    await queues["a"].enqueue({})
    worker = make(database_url, ["a", "b"], running, grace_seconds=600)
    await worker.start()
    await eventually(lambda: running.counts(a=1))
    await connection.execute(
        "insert into pgmq.q_b (vt, read_ct, message) values (now(), 3, '{\"payload\": 1}')"
    )

    async def is_claimed() -> bool:
        return bool(await connection.fetchval("select read_ct = 4 from pgmq.q_b"))

    await eventually(is_claimed)
    stopping = asyncio.create_task(worker.stop())

    async def is_given_back() -> bool:
        return bool(await connection.fetchval("select vt <= now() from pgmq.q_b"))

    await eventually(is_given_back)
    running.let_go("a")
    await stopping
    assert running.begun == ["a"]


async def test_three_connections_serve_any_number_of_queues(
    queues: dict[str, QueueService[Any]], connection: Connection[Any], database_url: str
) -> None:
    """Claims, settling and leases have one each."""
    running = Running()
    for name in NAMES:
        await queues[name].enqueue_many([{}] * 5)
    async with make(database_url, NAMES, running, concurrency=9):
        await eventually(lambda: running.counts(a=3, b=3, c=3))
        for name in NAMES:
            running.let_go(name)
        await eventually(lambda: len(running.begun) == 12)
        counted = await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and application_name like 'meshhook % a, b, c'"
        )
        assert counted in {2, 3}  # the thread connects when the first lease is due


async def test_a_queue_that_is_not_there_is_an_error_at_the_start(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """One of several is enough, and no connection is left behind."""
    await drop_queue(Database(pool), "b")
    with pytest.raises(QueueNotFoundError, match="'b'"):
        await make(database_url, NAMES, Running()).start()

    async def nothing_is_left() -> bool:
        return not await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() "
            "and application_name like 'meshhook % a, b, c'"
        )

    await eventually(nothing_is_left)


async def test_a_queue_that_is_dropped_does_not_stop_the_others(
    queues: dict[str, QueueService[Any]], pool: Pool[Any], database_url: str
) -> None:
    """The others go on, and may have its slots."""
    running = Running()
    async with make(database_url, ["a", "b"], running, concurrency=4):
        await drop_queue(Database(pool), "b")
        await queues["a"].enqueue_many([{}] * 10)
        await eventually(lambda: running.counts(a=4))
