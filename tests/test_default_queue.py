"""The queue that is meant where none is named: `workflow_jobs`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshhook import (
    DLQService,
    QueueService,
    create_queue,
    get_queue_config,
    get_queue_snapshot,
    set_queue_config,
)
from meshhook.demo.scenario import QUEUE_NAME
from meshhook.demo.stage import demo_queue
from meshhook.postgres.database import Database

if TYPE_CHECKING:
    import asyncpg

QUICKSTART = Path(__file__).parent.parent / "examples" / "quickstart.py"


async def test_services_and_functions_without_a_name_mean_one_queue(
    pool: asyncpg.Pool[asyncpg.Record],
):
    """A job goes the whole way without a queue being named."""
    database = Database(pool)
    assert await create_queue(database)
    await set_queue_config(database, max_retry_attempts=3)
    assert (await get_queue_config(database)).max_retry_attempts == 3
    async with QueueService[Any](pool) as queue:
        await queue.enqueue({"n": 1})
        job = await queue.dequeue()
    assert job is not None
    assert job.queue == "workflow_jobs"
    dead_letter_id = await DLQService(pool).move_to_dead_letter(job, "broken")
    assert [each.id for each in await DLQService(pool).list_dead_letter_jobs()] == [dead_letter_id]
    assert (await get_queue_snapshot(database)).dead_letters == 1


async def test_the_quickstart_runs_after_the_demo(database_url: str):
    """It takes the queue that the demo leaves behind."""
    async with demo_queue(database_url, QUEUE_NAME):
        pass
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(QUICKSTART),
        env=os.environ | {"MESHHOOK_DATABASE_URL": database_url},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert b"hello Ada, attempt 1" in output
