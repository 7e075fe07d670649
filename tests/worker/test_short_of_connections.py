"""A server with no room for another connection: what a worker cannot keep, it does not take."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from meshhook import Job, QueueService, set_queue_config
from meshhook.errors import DatabaseUnavailableError
from meshhook.postgres.database import Database
from meshhook.worker.connections import WorkerConnection
from meshhook.worker.lease_keeper import LeaseKeeper
from support.waiting import eventually
from support.workers import extend_often, live, make_worker, outcomes

pytestmark = pytest.mark.usefixtures("queue_name")

Pool = asyncpg.Pool
Connection = asyncpg.Connection

TERMINATE = (
    "select pg_terminate_backend(pid) from pg_stat_activity "
    "where application_name = $1 and datname = current_database()"
)
SESSIONS = (
    "select count(*) from pg_stat_activity "
    "where application_name = $1 and datname = current_database()"
)


@asynccontextmanager
async def no_new_connections(url: str) -> AsyncIterator[None]:
    """Let nobody connect to a database; those who are in it stay."""
    parts = urlsplit(url)
    name = parts.path.removeprefix("/")
    server = await asyncpg.connect(parts._replace(path="/postgres").geturl())
    try:
        await server.execute(f'alter database "{name}" with allow_connections false')
        yield
    finally:
        await server.execute(f'alter database "{name}" with allow_connections true')
        await server.close()


async def test_a_worker_that_cannot_have_its_connections_does_not_start(
    connection: Connection[Any], database_url: str
) -> None:
    """A limit of one connection is said at the start, not found when outcomes pile up."""
    role = f"limited_{secrets.token_hex(4)}"
    await connection.execute(f"create role {role} login password 'few' connection limit 1")
    await connection.execute(f"grant usage on schema meshhook, pgmq to {role}")
    await connection.execute(f"grant all on all tables in schema meshhook, pgmq to {role}")
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"{role}:few@{parts.hostname}:{parts.port}").geturl()

    async def nothing(_: Job[Any]) -> None:
        """Do nothing."""

    worker = make_worker(url, nothing)
    try:
        with pytest.raises(DatabaseUnavailableError, match="three connections"):
            await worker.start()
        await worker.stop()
    finally:
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")


async def test_leases_are_extended_over_another_connection(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without its own connection the keeper takes the one that settles; the job runs once."""
    extend_often(monkeypatch)
    starts: list[int] = []
    go_on = asyncio.Event()

    async def handler(job: Job[Any]) -> None:
        starts.append(job.attempt)
        await go_on.wait()

    async with (
        make_worker(database_url, handler) as worker,
        no_new_connections(database_url),
    ):
        msg_id = await QueueService(pool, "jobs").enqueue({})
        await eventually(lambda: starts == [1])
        assert await connection.fetchval(TERMINATE, "meshhook leases jobs")

        async def is_gone() -> bool:
            return not await connection.fetchval(SESSIONS, "meshhook leases jobs")

        await eventually(is_gone)
        before = (await live(connection))[msg_id]["vt"]

        async def is_extended() -> bool:
            return bool((await live(connection))[msg_id]["vt"] > before)

        await eventually(is_extended)
        go_on.set()
        await eventually(lambda: worker.get_stats().processed == 1)
    assert starts == [1]
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]


async def test_outcomes_are_recorded_over_another_connection(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """Where the connection that settles is gone, and no other let in, none waits."""

    async def nothing(_: Job[Any]) -> None:
        """Do nothing."""

    async with make_worker(database_url, nothing) as worker, no_new_connections(database_url):
        assert await connection.fetchval(TERMINATE, "meshhook settle jobs")
        await QueueService(pool, "jobs").enqueue_many([{}] * 100)
        await eventually(lambda: worker.get_stats().succeeded == 100)
        assert [check.fault for check in worker.readiness() if check.fault] == []
    assert await live(connection) == {}


async def test_a_worker_that_cannot_extend_leases_claims_no_more(
    pool: Pool[Any],
    connection: Connection[Any],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says so to the job that runs, and in its readiness, until extending works again."""
    await set_queue_config(Database(pool), "jobs", visibility_timeout_seconds=3)
    is_cut = False
    fetch = LeaseKeeper._fetch

    async def cut(self: LeaseKeeper, connection: WorkerConnection, limit: float, *rest: Any) -> Any:
        if is_cut:
            raise DatabaseUnavailableError("cut")
        return await fetch(self, connection, limit, *rest)

    monkeypatch.setattr(LeaseKeeper, "_fetch", cut)
    go_on = asyncio.Event()
    jobs: list[Job[Any]] = []

    async def handler(job: Job[Any]) -> None:
        jobs.append(job)
        await go_on.wait()

    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, handler) as worker:
        await queue.enqueue({})
        await eventually(lambda: len(jobs) == 1)
        assert not jobs[0].lease_expired
        is_cut = True
        await eventually(lambda: jobs[0].lease_expired)
        await eventually(lambda: any("leases" in c.name for c in worker.readiness()))
        second = await queue.enqueue({})
        go_on.set()
        await eventually(lambda: worker.get_stats().processed == 1)
        assert (await live(connection))[second]["read_ct"] == 0
        is_cut = False
        await eventually(lambda: worker.get_stats().succeeded == 2)
        assert [check.fault for check in worker.readiness() if check.fault] == []


@pytest.mark.parametrize("pooled", [False, True])
async def test_sessions_are_read_committed_whatever_the_database_says(
    connection: Connection[Any], database_url: str, pooled: bool
) -> None:
    """Claims and settlements of other workers are seen as they come, and cost no conflict."""
    name = urlsplit(database_url).path.removeprefix("/")
    await connection.execute(
        f"alter database \"{name}\" set default_transaction_isolation = 'repeatable read'"
    )
    own = WorkerConnection(database_url, application_name="test", pooled=pooled)
    assert await own.fetchval("select current_setting('transaction_isolation')") == "read committed"
    assert await own.fetchval("select current_setting('lock_timeout')") == "1s"
    await own.close()
