"""When a worker says that it is alive, and when that it is ready."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Database, Job, MonitoringServer, QueueService, Worker, create_queue
from meshhook.embedded import EmbeddedPostgres
from meshhook.errors import InvalidSettingError
from meshhook.schema import migrate
from meshhook.worker import queue_claims
from support.databases import server_directory
from support.scraping import Answer, ask, ask_aside
from support.waiting import eventually
from support.workers import make_worker

Pool = asyncpg.Pool


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


def monitored(worker: Any) -> MonitoringServer:
    """Return a server for a worker; not started."""
    return MonitoringServer(address="127.0.0.1", registry=CollectorRegistry(), health=[worker])


async def test_a_worker_that_works_is_alive_and_ready(queue_name: str, database_url: str) -> None:
    """Each loop is named; before the start and after the end it is alive, and not ready."""
    worker = make_worker(database_url, nothing)
    with monitored(worker) as server:
        assert ask(server.port, "/healthz").status == 200
        assert "worker: does not run" in ask(server.port, "/readyz").text
        async with worker:
            alive = await ask_aside(server.port, "/healthz")
            assert alive.status == 200
            assert set(alive.text.split("\n")) == {
                "jobs claimer: ok",
                "jobs settler: ok",
                "jobs slots: ok",
                "jobs leases: ok",
                "",
            }

            async def is_ready() -> bool:
                return (await ask_aside(server.port, "/readyz")).status == 200

            await eventually(is_ready)
        assert ask(server.port, "/healthz").status == 200
        assert ask(server.port, "/readyz").status == 503


async def test_it_answers_while_a_handler_blocks_the_event_loop(
    pool: Pool[Any], queue_name: str, database_url: str
) -> None:
    """A handler that blocks the loop for a moment neither delays nor fails the answer."""
    answers: list[Answer] = []

    async def handler(_: Job[Any]) -> None:
        # In the event loop itself: nothing else of the worker runs meanwhile.
        time.sleep(1)  # noqa: ASYNC251 - it is what the test is about
        answers.extend(ask(server.port, path) for path in ("/metrics", "/healthz", "/readyz"))

    worker = make_worker(database_url, handler)
    with monitored(worker) as server:
        async with worker:
            await eventually(lambda: all(check.fault is None for check in worker.readiness()))
            await QueueService[Any](pool, queue_name).enqueue({})
            await eventually(lambda: worker.get_stats().processed == 1)
    assert [answer.status for answer in answers] == [200, 200, 200]


async def test_a_claimer_that_is_dead_is_named(
    pool: Pool[Any], queue_name: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A claim that never returns fails the liveness, whatever else still turns."""
    is_stuck = asyncio.Event()

    async def claim(*_: object, **__: object) -> None:
        is_stuck.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(queue_claims, "claim", claim)
    worker = make_worker(database_url, nothing, grace_seconds=0)
    with monitored(worker) as server:
        async with worker:
            await is_stuck.wait()
            assert (await ask_aside(server.port, "/healthz")).status == 200
            assert worker._parts is not None
            claimer = worker._parts.lanes[0].gauges.loops[0]
            assert claimer.name == "claimer"
            claimer.stall_seconds = 2.0

            async def is_failing() -> Any:
                answer = await ask_aside(server.port, "/healthz")
                return answer.status == 503 and answer

            answer = await eventually(is_failing)
            assert answer.text.startswith("jobs claimer: has not turned for ")
            assert "jobs settler: ok" in answer.text


async def test_a_long_job_that_runs_alone_stalls_nothing(
    pool: Pool[Any], queue_name: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claimer waits for a suspect to end, and turns meanwhile."""
    monkeypatch.setattr("meshhook.observability.loops.WAIT_SECONDS", 0.05)
    runs = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        runs.set()
        await go_on.wait()

    await QueueService[Any](pool, queue_name).enqueue({})
    await pool.execute("update pgmq.q_jobs set read_ct = 2")
    async with make_worker(database_url, handler) as worker:
        await asyncio.wait_for(runs.wait(), 60)
        assert worker._parts is not None
        claimer = worker._parts.lanes[0].gauges.loops[0]
        before = claimer._turned_at
        await eventually(lambda: claimer._turned_at > before)
        go_on.set()


async def test_migrations_that_are_missing_are_named(
    pool: Pool[Any], queue_name: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on a database that lacks a migration is not ready until it is there."""
    monkeypatch.setattr("meshhook.worker.housekeeping.RECHECK_SECONDS", 0.05)
    row = await pool.fetchrow(
        "delete from meshhook.migrations where version = 5 returning migrations.*"
    )
    assert row is not None
    worker = make_worker(database_url, nothing)
    with monitored(worker) as server:
        async with worker:
            answer = await ask_aside(server.port, "/readyz")
            assert answer.status == 503
            assert "migrations: the database lacks migration 0005_workers" in answer.text
            await pool.execute(
                f"insert into meshhook.migrations ({', '.join(row.keys())}) "
                f"values ({', '.join(f'${n + 1}' for n in range(len(row)))})",
                *row.values(),
            )

            async def is_ready() -> bool:
                return (await ask_aside(server.port, "/readyz")).status == 200

            await eventually(is_ready)


async def test_a_worker_that_drains_is_alive_and_not_ready(
    pool: Pool[Any], queue_name: str, database_url: str
) -> None:
    """While it waits for its jobs, it says that it stops; a claimer that has ended is no fault."""
    runs = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        runs.set()
        await go_on.wait()

    await QueueService[Any](pool, queue_name).enqueue({})
    worker = make_worker(database_url, handler)
    with monitored(worker) as server:
        await worker.start()
        await asyncio.wait_for(runs.wait(), 60)
        stopping = asyncio.create_task(worker.stop())
        await eventually(worker._stop_requested.is_set)
        answer = await ask_aside(server.port, "/readyz")
        assert answer.status == 503
        assert "draining: the worker stops" in answer.text
        alive = await ask_aside(server.port, "/healthz")
        assert alive.status == 200
        assert "claimer" not in alive.text
        go_on.set()
        await stopping


async def test_a_database_that_is_away_makes_a_worker_unready_and_not_dead() -> None:
    """An outage is told by /readyz; /healthz stays well, since a restart would not help."""
    with server_directory(in_memory=True) as directory:
        server = EmbeddedPostgres(directory / "postgres", settings={"fsync": "off"})
        url = server.start()
        try:
            connection = await asyncpg.connect(url)
            await migrate(connection)
            await connection.execute("select meshhook.create_queue('jobs')")
            await connection.close()
            registry = CollectorRegistry()
            worker = make_worker(url, nothing, registry=registry)
            with monitored(worker) as port:

                async def ready() -> Answer:
                    return await ask_aside(port.port, "/readyz")

                async def is_away() -> bool:
                    answer = await ready()
                    return answer.status == 503 and answer.text.startswith("database: ")

                async def is_back() -> bool:
                    return (await ready()).status == 200

                def connected() -> float | None:
                    return registry.get_sample_value(
                        "meshhook_worker_db_connected", {"queue": "jobs"}
                    )

                async with worker:
                    await asyncio.to_thread(server.stop)
                    await eventually(is_away)
                    assert connected() == 0
                    assert (await ask_aside(port.port, "/healthz")).status == 200
                    await asyncio.to_thread(server.start)
                    await eventually(is_back)
                    assert connected() == 1
        finally:
            server.stop()


@pytest.mark.parametrize(
    ("name", "limits", "value"),
    [
        *(("stall_seconds", "10 to 86400", value) for value in (0, 9, 86_401, "60")),
        *(("grace_seconds", "0 to 3600", value) for value in (-1, 3_601, True, float("nan"))),
    ],
)
def test_a_duration_out_of_its_range(name: str, limits: str, value: Any) -> None:
    """The error gives the range and the value."""
    with pytest.raises(InvalidSettingError, match=f"{name} is {limits} seconds, got {value!r}"):
        make_worker("postgresql://localhost/x", nothing, **{name: value})


async def test_every_loop_of_several_queues_is_watched(
    pool: Pool[Any], queue_name: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each queue has its claimer and settler, and all turn while a suspect of one runs alone."""
    monkeypatch.setattr("meshhook.observability.loops.WAIT_SECONDS", 0.05)
    runs = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        runs.set()
        await go_on.wait()

    await create_queue(Database(pool), "other")
    await QueueService[Any](pool, queue_name).enqueue({})
    await pool.execute("update pgmq.q_jobs set read_ct = 2")
    worker = Worker(
        database_url, ["jobs", "other"], handler, registry=CollectorRegistry(), grace_seconds=5
    )
    async with worker:
        await asyncio.wait_for(runs.wait(), 60)
        names = {check.name for check in worker.liveness()}
        assert {"jobs claimer", "jobs settler", "other claimer", "other settler"} < names
        assert worker._parts is not None
        loops = [loop for lane in worker._parts.lanes for loop in lane.loops]
        before = [loop._turned_at for loop in loops]
        await eventually(
            lambda: all(loop._turned_at > at for loop, at in zip(loops, before, strict=True))
        )
        go_on.set()
