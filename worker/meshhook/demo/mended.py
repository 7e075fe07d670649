"""What the jobs of the last demo need to succeed: its receivers, mended, and a worker."""

from __future__ import annotations

import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from meshhook.demo.processes import (
    DemoError,
    program_environment,
    start_program,
    start_receivers,
    worker_arguments,
)
from meshhook.demo.scenario import QUEUE_NAME
from meshhook.demo.stage import is_demo_queue
from meshhook.postgres.database import Database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_URL_SQL = """
select d.message #>> '{{payload,url}}'::pg_catalog.text[]
from pgmq."q_{0}_dlq" d order by d.msg_id desc limit 1
"""


@asynccontextmanager
async def mended_demo(database_url: str, queue_name: str = QUEUE_NAME) -> AsyncIterator[None]:
    """Run the receivers of the last demo, which now accept everything, and a worker of its queue.

    Dead letters that are replayed succeed. The programs end with the context.

    Args:
        database_url: the database on which the demo ran.
        queue_name: its queue. Default `workflow_jobs`.

    Raises:
        DemoError: if there is no queue of the demo, or a program does not start.
        DatabaseError: if the database cannot be used.
    """
    database = await Database.connect(database_url, min_size=0, max_size=1)
    try:
        if not await is_demo_queue(database, queue_name):
            raise DemoError(
                f"there is no queue {queue_name} of a demo in this database: run meshhook demo "
                "before, or leave out --demo"
            )
        url = await database.fetchval(_URL_SQL.format(queue_name))
    finally:
        await database.close()
    environment = program_environment(database_url)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="meshhook-")))
        # Where the webhooks go is in the messages.
        port = 0 if url is None else urlsplit(url).port or 0
        receivers, _ = await start_receivers(
            *("--mended", "--port", str(port)), environment=environment, directory=directory
        )
        stack.push_async_callback(receivers.kill)
        worker = await start_program(
            "worker", worker_arguments(queue_name), environment=environment, directory=directory
        )
        stack.push_async_callback(worker.stop)
        yield
