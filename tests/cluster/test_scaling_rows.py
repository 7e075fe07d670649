"""What the operator writes into the database of how it scales, for people who look there."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import Database, list_queue_scaling
from meshhook.queue_scaling import QueueScaling
from support.cluster.api import Api
from support.cluster.objects import job_queue
from support.cluster.views import JobQueueView
from support.console import visiting
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("operator")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def row(sql: Connection) -> QueueScaling | None:
    """Return the only row; None if there is none."""
    found = await list_queue_scaling(Database(sql))
    assert len(found) <= 1
    return found[0] if found else None


async def test_the_console_shows_how_a_queue_is_scaled(api: Api, sql: Connection, database: str):
    """The row follows the JobQueue, the console shows it, and it goes with the JobQueue."""
    scaling: dict[str, Any] = {"minReplicas": 1, "maxReplicas": 5, "targetAgeSeconds": 42}
    await api.create(job_queue(scaling=scaling | {"targetLength": 10}))
    await JobQueueView(api).until_replicas(1)
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[30]))")

    async def has_scaled() -> QueueScaling:
        found = await row(sql)
        assert found is not None
        assert found.replicas == found.desired_replicas == 3, found
        return found

    # A write that takes too long is tried again after a minute.
    found = await eventually(has_scaled, 150)
    assert (found.target_age_seconds, found.min_replicas, found.max_replicas) == (42, 1, 5)
    assert found.jobqueue == f"{api.namespace}/emails"
    assert found.deployment == "emails-worker"
    assert found.reason
    assert "30" in found.reason
    assert found.decided_at is not None
    assert found.scaled_at is not None
    assert not found.is_stale
    async with visiting(database) as visitor:
        for path in ("/", "/queues/emails"):

            async def is_shown(path: str = path) -> bool:
                page = (await visitor.get(path)).text
                assert "of 1 to 5" in page
                assert "42 s" in page
                # The reason says how long jobs wait, and may have been written again meanwhile.
                latest = await row(sql)
                assert latest is not None
                assert latest.reason
                assert latest.reason[:60] in page
                return True

            await eventually(is_shown)
    await api.delete("JobQueue", "emails")

    async def is_gone() -> bool:
        return await row(sql) is None

    await eventually(is_gone, 60)


async def test_scaling_goes_on_without_the_row(api: Api, sql: Connection):
    """Where the row cannot be written, the JobQueue is Ready and scaled all the same."""
    await sql.execute("alter table meshhook.queue_scaling add check (jobqueue <> jobqueue)")
    await api.create(job_queue(scaling={"maxReplicas": 5, "targetLength": 10}))
    view = JobQueueView(api)
    await view.until_condition("Ready", "True")
    await sql.execute("select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[30]))")
    await view.until_replicas(3)
    assert await row(sql) is None
    await view.until_condition("Ready", "True")


async def test_a_locked_table_disturbs_no_scaling(api: Api, sql: Connection, database: str):
    """A row that takes too long is given up, while the queue is read and scaled."""
    own = await asyncpg.connect(database)
    try:
        async with own.transaction():
            await own.execute("lock table meshhook.queue_scaling in access exclusive mode")
            await api.create(job_queue(scaling={"maxReplicas": 5, "targetLength": 10}))
            view = JobQueueView(api)
            await view.until_condition("Ready", "True")
            await sql.execute(
                "select pgmq.send_batch('emails', array_fill('{}'::jsonb, array[30]))"
            )
            await view.until_replicas(3)
    finally:
        await own.close()
