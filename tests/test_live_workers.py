"""The list of live workers."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
import pytest

from meshhook import Database, list_workers
from meshhook.errors import InvalidQueueNameError
from meshhook.schema.migrations import schema_version
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def report(connection: Connection, queue: str, worker: str, seen_seconds_ago: int) -> None:
    """Write one row, as a worker does."""
    await connection.execute(
        """
        insert into meshhook.workers (queue, worker, host, concurrency, running, processed,
            busy_seconds, started_at, seen_at)
        values ($1, $2, 'pod', 10, 4, 1000, 250, now() - interval '100 seconds',
            now() - make_interval(secs => $3))
        """,
        queue,
        worker,
        seen_seconds_ago,
    )


async def test_workers_are_listed_by_queue(connection: Connection) -> None:
    """All queues, or one; what has not reported for 30 seconds is gone."""
    database = Database(connection)
    # In one transaction all of it happens at the same moment, however slow the machine is.
    async with connection.transaction():
        await report(connection, "jobs", "w1", 1)
        await report(connection, "jobs", "w2", 29)
        await report(connection, "jobs", "w3", 31)
        await report(connection, "other", "w1", 1)
        found = [(each.queue, each.worker) for each in await list_workers(database)]
        [only] = await list_workers(database, "other")
    assert found == [("jobs", "w1"), ("jobs", "w2"), ("other", "w1")]
    assert (only.host, only.concurrency, only.running, only.processed) == ("pod", 10, 4, 1000)
    assert only.busy_seconds == 250
    assert not only.draining


async def test_a_queue_that_cannot_be_is_an_error(connection: Connection) -> None:
    """It is not taken for one without workers."""
    with pytest.raises(InvalidQueueNameError):
        await list_workers(Database(connection), "Jobs")


async def test_a_worker_says_which_schema_it_was_made_for(
    connection: Connection, queue_name: str, database_url: str
) -> None:
    """A running worker tells the newest migration that it knows; one of long ago tells none."""
    await report(connection, "jobs", "old", 1)

    async def handle(_: object) -> None:
        """Do nothing."""

    worker = make_worker(database_url, handle)
    await worker.start()
    try:

        async def have_reported() -> dict[str, int | None]:
            found = {each.worker: each.schema_version for each in await list_workers(connection)}
            assert len(found) == 2
            return found

        found = await eventually(have_reported)
    finally:
        await worker.stop()
    assert found.pop("old") is None
    assert list(found.values()) == [schema_version()]
