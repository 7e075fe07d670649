"""A cordoned worker claims no more of a queue, finishes what it runs, and claims again after it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Database, Job, QueueService, create_queue
from meshhook.worker import reporting
from meshhook.worker.cordon import Cordon
from support.waiting import eventually
from support.workers import (
    ledger_lines,
    live,
    make_worker,
    outcomes,
    reports,
    worker_process,
)

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection


class Gate:
    """A handler whose jobs wait until they are let go."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.open = asyncio.Event()

    async def __call__(self, job: Job[Any]) -> None:
        """Note the job, and wait."""
        self.begun.append(job.msg_id)
        await self.open.wait()


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


@pytest.fixture
def _reports_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.02)


async def cordon(connection: Connection[Any], worker: str, *, seconds: float = 600) -> None:
    """Cordon one worker for queue `jobs`; several of a test share a host."""
    await connection.execute(
        "update meshhook.workers set cordoned_until = now() + make_interval(secs => $2) "
        "where worker = $1 and queue = 'jobs'",
        worker,
        seconds,
    )


async def uncordon(connection: Connection[Any]) -> None:
    """Uncordon all workers."""
    await connection.execute("update meshhook.workers set cordoned_until = null")


async def obeys(connection: Connection[Any], worker: str) -> bool:
    """Return whether a worker says that it is cordoned."""
    return bool(
        await connection.fetchval(
            "select cordoned from meshhook.workers where worker = $1 and queue = 'jobs'", worker
        )
    )


async def test_a_cordoned_process_finishes_its_job_and_leaves_the_rest_to_others(
    pool: Pool[Any], connection: Connection[Any], database_url: str, tmp_path: Path
) -> None:
    """Uncordoned, it claims again within seconds."""
    queue = QueueService[Any](pool, "jobs")
    ledger, done, gone = tmp_path / "ledger", tmp_path / "done", tmp_path / "gone"

    async def first_report() -> Any:
        return (await reports(connection)).get("jobs")

    async with worker_process(database_url, "patient", ledger=ledger, concurrency=1):
        [first, *_] = await queue.enqueue_many([{"until": str(done)}] * 20)
        await eventually(lambda: ledger_lines(ledger))
        name = (await eventually(first_report))["worker"]
        await cordon(connection, name)
        await eventually(lambda: obeys(connection, name))

        async def all_but_one_are_ready() -> bool:
            states = [row["state"] for row in (await live(connection)).values()]
            return states.count("ready") == 19

        await eventually(all_but_one_are_ready)
        async with make_worker(database_url, nothing) as other:
            await eventually(lambda: other.get_stats().succeeded == 19)
            assert len(await live(connection)) == 1
            done.touch()

            async def is_idle() -> bool:
                row = await connection.fetchrow(
                    "select running, processed, cordoned from meshhook.workers where worker = $1",
                    name,
                )
                return row is not None and tuple(row) == (0, 1, True)

            await eventually(is_idle)
            assert await outcomes(connection, first) == [("succeeded", 1)]
            last = await queue.enqueue({"until": str(gone)})
            await eventually(lambda: other.get_stats().succeeded == 20)
            assert await outcomes(connection, last) == [("succeeded", 1)]
        assert [line[:2] for line in ledger_lines(ledger)] == [
            ["start", str(first)],
            ["end", str(first)],
        ]
        waiting = await queue.enqueue({"until": str(done)})
        await uncordon(connection)
        end = ["end", str(waiting), "1"]
        await eventually(lambda: end in [line[:3] for line in ledger_lines(ledger)])


@pytest.mark.usefixtures("_reports_often")
async def test_what_waits_for_a_slot_is_given_back_unspent(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The running job goes on; those claimed ahead are ready at once, with no attempt spent."""
    caplog.set_level("INFO", logger="meshhook")
    gate, registry = Gate(), CollectorRegistry()
    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 10)
    async with make_worker(database_url, gate, concurrency=2, registry=registry) as worker:
        await eventually(lambda: len(gate.begun) == 2)

        def is_cordoned() -> bool:
            return bool(registry.get_sample_value("meshhook_worker_cordoned", {"queue": "jobs"}))

        assert not is_cordoned()
        await eventually(lambda: reports(connection))
        await cordon(connection, worker.name)
        await eventually(lambda: obeys(connection, worker.name))

        async def eight_are_ready() -> bool:
            rows = [(row["state"], row["read_ct"]) for row in (await live(connection)).values()]
            return rows.count(("ready", 0)) == 8

        await eventually(eight_are_ready)
        assert is_cordoned()
        assert [check.name for check in worker.readiness() if check.fault] == []
        assert [check.name for check in worker.liveness() if check.fault] == []
        gate.open.set()
        await eventually(lambda: worker.get_stats().succeeded == 2)
        assert await eight_are_ready()
        await uncordon(connection)
        await eventually(lambda: worker.get_stats().succeeded == 10)
        assert not is_cordoned()
    told = [
        (record.__dict__["event"], record.__dict__["queue"])
        for record in caplog.records
        if "cordoned" in record.__dict__.get("event", "")
    ]
    assert told == [
        ("cordoned: no more jobs are claimed", "jobs"),
        ("uncordoned: jobs are claimed again", "jobs"),
    ]


@pytest.mark.usefixtures("_reports_often")
async def test_a_cordon_stops_one_queue_of_a_worker(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """The other queue goes on, with all the slots."""
    await create_queue(Database(pool), "others")
    gates = {"jobs": Gate(), "others": Gate()}

    async def handler(job: Job[Any]) -> None:
        await gates[job.queue](job)

    worker = make_worker(database_url, handler, queue_name=["jobs", "others"], concurrency=4)
    async with worker:
        await eventually(lambda: reports(connection))
        await cordon(connection, worker.name)
        await eventually(lambda: obeys(connection, worker.name))
        for name in gates:
            await QueueService[Any](pool, name).enqueue_many([{}] * 8)
        await eventually(lambda: len(gates["others"].begun) == 4)
        assert gates["jobs"].begun == []
        await uncordon(connection)
        gates["others"].open.set()
        await eventually(lambda: gates["jobs"].begun)
        gates["jobs"].open.set()
        await eventually(lambda: worker.get_stats().succeeded == 16)


@pytest.mark.usefixtures("_reports_often")
async def test_a_suspect_that_waits_for_others_is_given_back(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """It would wait here for jobs that run long; other workers may have it at once."""
    await create_queue(Database(pool), "others")
    gate = Gate()
    worker = make_worker(database_url, gate, queue_name=["jobs", "others"])
    async with worker:
        await QueueService[Any](pool, "others").enqueue({})
        await eventually(lambda: len(gate.begun) == 1)
        assert worker._parts is not None
        lane = next(lane for lane in worker._parts.lanes if lane.queue_name == "jobs")
        # It has handed it back for a minute: it waits until it is alone.
        lane.producer._suspects._hand_backs.may_hand_back = (  # type: ignore[method-assign]
            lambda *_: False
        )
        await connection.execute(
            "insert into pgmq.q_jobs (vt, read_ct, message) values (now(), 3, '{\"payload\": 1}')"
        )
        suspect = "select read_ct = 4 from pgmq.q_jobs"
        await eventually(lambda: connection.fetchval(suspect))
        await cordon(connection, worker.name)
        given_back = "select vt <= now() from pgmq.q_jobs"
        await eventually(lambda: connection.fetchval(given_back))
        assert len(gate.begun) == 1
        gate.open.set()


@pytest.mark.usefixtures("_reports_often")
async def test_a_worker_that_learns_no_more_takes_jobs_again(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Its reports fail from then on; the cordon ends when the time that it was told has passed."""
    async with make_worker(database_url, nothing) as worker:
        await eventually(lambda: reports(connection))

        async def obeys_a_short_one() -> bool:
            if await obeys(connection, worker.name):
                return True
            # Again, if it was over before the worker looked.
            await cordon(connection, worker.name, seconds=2)
            return False

        await eventually(obeys_a_short_one)
        await connection.execute("alter table meshhook.workers rename to away")
        try:
            await QueueService[Any](pool, "jobs").enqueue({})
            await eventually(lambda: worker.get_stats().succeeded == 1)
        finally:
            await connection.execute("alter table meshhook.away rename to workers")


class _Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_cordon_lasts_as_long_as_was_told() -> None:
    """From when the database was asked, however late the answer came; each answer renews it."""
    clock = _Clock()
    cordon = Cordon("jobs", clock=clock)
    assert not cordon.is_on
    assert cordon.note(30, asked_at=99.0)
    clock.now = 128.9
    assert cordon.is_on
    assert not cordon.note(30, asked_at=128.0)
    clock.now = 157.9
    assert cordon.is_on
    clock.now = 158.0
    assert not cordon.is_on
    assert cordon.note(30, asked_at=158.0)
    assert not cordon.note(0, asked_at=158.0)
    assert not cordon.is_on


def test_an_answer_that_came_too_late_cordons_nothing() -> None:
    """The time it gives has passed already."""
    clock = _Clock()
    cordon = Cordon("jobs", clock=clock)
    assert not cordon.note(3, asked_at=90.0)
    assert not cordon.is_on
