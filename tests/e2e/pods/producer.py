"""Enqueues real webhooks at a steady rate, whatever becomes of the database meanwhile.

python producer.py QUEUE URL PREFIX COUNT A_SECOND

A batch that may or may not have been stored is sent again: a job then runs twice, under one id.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from typing import Any

from meshhook import Database, MeshHookError, QueueService, WorkflowJob
from meshhook.demo.scenario import load_webhooks

BATCHES_A_SECOND = 10


async def main(queue_name: str, url: str, prefix: str, count: int, rate: int) -> None:
    """Enqueue `count` jobs with the ids PREFIX-0, PREFIX-1 and so on."""
    jobs = [
        WorkflowJob(
            run_id=f"{prefix}-{number}",
            workflow_id=webhook["event"],
            project_id="e2e",
            payload={
                "url": url,
                "event": webhook["event"],
                "delivery_id": f"{prefix}-{number}",
                "body": webhook["payload"],
            },
        )
        for number, webhook in zip(range(count), itertools.cycle(load_webhooks()), strict=False)
    ]
    size = max(1, rate // BATCHES_A_SECOND)
    loop = asyncio.get_running_loop()
    due = loop.time()
    database = await Database.connect(os.environ["MESHHOOK_DATABASE_URL"])
    queue: QueueService[Any]
    async with QueueService(database, queue_name) as queue:
        for start in range(0, count, size):
            await enqueue(queue, jobs[start : start + size])
            due += size / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
    await database.close()
    print(f"enqueued {count}", flush=True)


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
    queue_name, url, prefix, count, rate = sys.argv[1:]
    asyncio.run(main(queue_name, url, prefix, int(count), int(rate)))
