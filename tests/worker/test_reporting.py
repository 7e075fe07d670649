"""A worker reports what it does, and takes its report back when it stops."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from meshhook.worker import reporting
from support.waiting import eventually
from support.workers import make_worker, reports, worker_process

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection

OLD = "update meshhook.workers set seen_at = seen_at - interval '6 minutes' where worker = $1"


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


@pytest.fixture
def _reports_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "REPORT_SECONDS", 0.02)
    monkeypatch.setattr(reporting, "FORGET_EVERY_SECONDS", 0.02)


async def test_a_worker_reports_at_its_start(
    connection: Connection[Any], database_url: str
) -> None:
    """Its row is there at once, under the name that stands in the history."""
    async with make_worker(database_url, nothing, concurrency=7) as worker:
        row = await eventually(lambda: _report(connection))
        assert (row["worker"], row["host"]) == (worker.name, socket.gethostname())
        assert (row["concurrency"], row["running"], row["processed"]) == (7, 0, 0)
        assert not row["draining"]
        age = row["seen_at"] - row["started_at"]
        assert timedelta(0) <= age < timedelta(minutes=1)


@pytest.mark.usefixtures("_reports_often")
async def test_a_report_follows_the_work(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Running and recorded jobs are counted; the time of a job that still runs is in it."""
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        await go_on.wait()

    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 3)
    async with make_worker(database_url, handler, concurrency=2):

        async def is_busy() -> bool:
            row = (await reports(connection)).get("jobs")
            return row is not None and row["running"] == 2 and row["busy_seconds"] > 0

        await eventually(is_busy)
        first = (await reports(connection))["jobs"]
        assert first["processed"] == 0
        go_on.set()

        async def is_done() -> bool:
            row = (await reports(connection))["jobs"]
            return bool(row["running"] == 0 and row["processed"] == 3)

        await eventually(is_done)
        last = (await reports(connection))["jobs"]
        assert last["busy_seconds"] > first["busy_seconds"]
        assert last["seen_at"] > first["seen_at"]


async def test_a_worker_that_stops_says_so_and_then_takes_its_row_back(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """While running jobs finish the row says draining; afterwards there is none."""
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        running.set()
        await go_on.wait()

    await QueueService[Any](pool, "jobs").enqueue({})
    worker = make_worker(database_url, handler)
    await worker.start()
    await asyncio.wait_for(running.wait(), 60)
    stopping = asyncio.create_task(worker.stop())

    async def is_draining() -> bool:
        row = (await reports(connection)).get("jobs")
        return row is not None and row["draining"] and row["running"] == 1

    await eventually(is_draining)
    go_on.set()
    await stopping
    assert await reports(connection) == {}


@pytest.mark.usefixtures("_reports_often")
async def test_rows_of_killed_workers_are_deleted_by_others(
    connection: Connection[Any], database_url: str, tmp_path: Any
) -> None:
    """A killed worker leaves its row; after five minutes any other worker deletes it."""
    async with worker_process(database_url, "quick", ledger=tmp_path / "ledger") as process:
        killed = (await eventually(lambda: _report(connection)))["worker"]
        process.kill()
        await process.wait()
    async with make_worker(database_url, nothing) as worker:

        async def both_are_there() -> bool:
            rows = await connection.fetch("select worker from meshhook.workers")
            return {row["worker"] for row in rows} == {killed, worker.name}

        await eventually(both_are_there)
        await connection.execute(OLD, killed)

        async def only_this_one_is_left() -> bool:
            rows = await connection.fetch("select worker from meshhook.workers")
            return [row["worker"] for row in rows] == [worker.name]

        await eventually(only_this_one_is_left)


@pytest.mark.usefixtures("_reports_often")
async def test_a_report_that_fails_stops_nothing(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without the table the worker says so once, works on, and reports when it is back."""
    await connection.execute("alter table meshhook.workers rename to away")
    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, nothing) as worker:
        await queue.enqueue({})
        await eventually(lambda: worker.get_stats().processed == 1)
        await eventually(lambda: "worker not reported" in caplog.text)
        await connection.execute("alter table meshhook.away rename to workers")
        await eventually(lambda: _report(connection))
    warnings = [each for each in caplog.records if each.__dict__["event"] == "worker not reported"]
    assert len([record for record in warnings if record.levelname == "WARNING"]) == 1


@pytest.mark.usefixtures("_reports_often")
async def test_a_row_that_a_crash_of_the_server_took_away_comes_back(
    connection: Connection[Any], database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table is not logged; a new row still has the time of the worker's start."""
    begin = reporting.Reporter.__init__

    def begin_early(self: reporting.Reporter, **options: Any) -> None:
        begin(self, **options)
        self._began_at -= 3600

    monkeypatch.setattr(reporting.Reporter, "__init__", begin_early)
    async with make_worker(database_url, nothing):
        await eventually(lambda: _report(connection))
        await connection.execute("truncate meshhook.workers")
        again = await eventually(lambda: _report(connection))
        age = again["seen_at"] - again["started_at"]
        assert timedelta(hours=1) <= age < timedelta(hours=1, minutes=2)


async def _report(connection: Connection[Any]) -> asyncpg.Record | None:
    return (await reports(connection)).get("jobs")
