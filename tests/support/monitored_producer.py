"""A producer as a process of its own, with its metrics: `python -m support.monitored_producer`.

It reads the plan of its work from standard input, see `Flow`, and ends when all is sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from meshhook import Database, MonitoringServer, QueueService, WorkflowJob
from meshhook.observability.logs import configure_logging
from meshhook.priorities import PRIORITY_NAMES

_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Flow:
    """What is sent to one queue.

    Args:
        queue: where to.
        phases: (seconds, messages a second, share of the messages that fail at first) in turn.
        seconds: how long a job takes on average.
        errors: what failing messages raise, in turn.
        gone_share: the share of messages that are given up at once.
        delayed_share: the share of messages that are due five seconds later.
    """

    queue: str
    phases: list[tuple[float, float, float]]
    seconds: float
    errors: list[str] = field(default_factory=lambda: ["TimeoutError"])
    gone_share: float = 0.0
    delayed_share: float = 0.0


def plan(flows: list[Flow]) -> bytes:
    """Return what the process reads."""
    return json.dumps([asdict(flow) for flow in flows]).encode()


async def _send(database: Database, flow: Flow) -> None:
    queue: QueueService[Any] = QueueService(database, flow.queue)
    chance = random.Random(flow.queue)  # the same messages in each run
    number = 0
    for seconds, per_second, failing in flow.phases:
        started = time.monotonic()
        sent = 0
        while sent < int(seconds * per_second):
            elapsed = min(time.monotonic() - started, seconds)
            due = int(elapsed * per_second) - sent
            jobs = [_job(flow, number + ahead, failing, chance) for ahead in range(due)]
            await asyncio.gather(
                *(
                    queue.enqueue(
                        job,
                        delay_seconds=5 * (chance.random() < flow.delayed_share),
                        priority=chance.choice(PRIORITY_NAMES),
                    )
                    for job in jobs
                )
            )
            number, sent = number + due, sent + due
            await asyncio.sleep(_TICK_SECONDS)


def _job(flow: Flow, number: int, failing: float, chance: random.Random) -> WorkflowJob:
    payload: dict[str, Any] = {"seconds": chance.expovariate(1 / flow.seconds)}
    if chance.random() < failing:
        error = flow.errors[number % len(flow.errors)]
        payload |= {"fails": chance.choice([1, 1, 2, 9]), "error": error}
    payload |= {"gone": chance.random() < flow.gone_share, "snoozes": number % 50 == 0}
    return WorkflowJob(
        run_id=f"{flow.queue}-{number}",
        workflow_id=flow.queue,
        project_id="preview",
        payload=payload,
    )


async def main() -> None:
    """Send what the plan says, and then wait to be stopped."""
    flows = [Flow(**each) for each in json.load(sys.stdin)]
    async with asyncio.TaskGroup() as tasks:
        database = await Database.connect(os.environ["MESHHOOK_DATABASE_URL"])
        for flow in flows:
            tasks.create_task(_send(database, flow), name=f"flow-{flow.queue}")
    await database.close()
    await asyncio.Event().wait()


if __name__ == "__main__":
    configure_logging("json")
    with MonitoringServer(0, address="127.0.0.1"):
        asyncio.run(main())
