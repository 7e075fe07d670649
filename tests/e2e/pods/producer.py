"""Enqueues real webhooks at a steady rate, whatever becomes of the database meanwhile.

python producer.py QUEUE URL PREFIX A_SECOND [COUNT]

The ids are PREFIX-0, PREFIX-1 and so on; the last line printed says how many are stored. Without a
count it goes on until SIGTERM. A batch that may or may not have been stored is sent again: a job
then runs twice, under one id.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sys
from typing import Any

from meshhook import Database, MeshHookError, QueueService, WorkflowJob
from meshhook.demo.scenario import load_webhooks

BATCHES_A_SECOND = 10


async def main(queue_name: str, url: str, prefix: str, rate: int, count: int | None) -> None:
    """Enqueue `count` jobs, `rate` a second, or as many as there are until SIGTERM."""
    jobs = (
        WorkflowJob(
            run_id=f"{prefix}-{number}",
            workflow_id=webhook["event"],
            project_id="e2e",
            payload={
                "url": url,
                "id": f"{prefix}-{number}",
                "headers": {"x-github-event": webhook["event"]},
                "body": webhook["payload"],
            },
        )
        for number, webhook in enumerate(itertools.cycle(load_webhooks()))
    )
    size = max(1, rate // BATCHES_A_SECOND)
    stored = 0
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    due = loop.time()
    database = await Database.connect(os.environ["MESHHOOK_DATABASE_URL"])
    queue: QueueService[Any]
    async with QueueService(database, queue_name) as queue:
        while not told.is_set() and (count is None or stored < count):
            batch = list(
                itertools.islice(jobs, size if count is None else min(size, count - stored))
            )
            await enqueue(queue, batch)
            stored += len(batch)
            print(f"enqueued {stored}", flush=True)
            due += size / rate
            await asyncio.sleep(due - loop.time())
    await database.close()


async def enqueue(queue: QueueService[Any], jobs: list[WorkflowJob]) -> None:
    """Enqueue jobs, and again until it is certain that they are stored."""
    while True:
        try:
            await queue.enqueue_many(jobs)
        except MeshHookError as error:
            print(f"again in a second: {error}", flush=True)
            await asyncio.sleep(1)
        else:
            return


if __name__ == "__main__":
    queue_name, url, prefix, rate, *counts = sys.argv[1:]
    asyncio.run(main(queue_name, url, prefix, int(rate), int(counts[0]) if counts else None))
