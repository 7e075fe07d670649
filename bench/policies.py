"""What policies and kept bodies cost: running jobs with them beside the same without.

    python -m bench.policies --jobs 20000 --rounds 5

It makes its queues on a throw-away server. In each round every kind takes its turn, in the other
direction in every other round. It prints a JSON object a line: for each kind the medians of all
rounds, and the medians of its ratios to the kind that it is compared with, taken within a round.
The processor time is that of this process and of all processes of the server, so that what else
the machine does counts for little.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from bench.processor_time import ServerTime
from meshhook import FollowUp, Job, QueueService, RetryAfter, RetryPolicy, Worker
from meshhook.administration import create_queue, set_queue_config
from meshhook.embedded import EmbeddedPostgres
from meshhook.schema import migrate

CHUNK_JOBS = 1_000
CONCURRENCY = 200
UNSPENT_PER_SECOND = 1_000_000
"""A budget that puts nothing off: what is measured is the budget, not the wait for it."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to run jobs."""

    against: str
    """The kind that it is compared with."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the queue."""
    policies: dict[str, Any] = field(default_factory=dict)
    """Arguments of `enqueue_many`."""
    is_retried: bool = False
    """Whether each job fails once, and is retried at once."""


_RETRY = RetryPolicy(max_attempts=20, delays_ms=[1_000, 60_000], jitter=0)
KINDS = {
    "plain": Kind("plain"),
    "kept_bodies": Kind("plain", {"keep_bodies_days": 7}),
    "own_retries": Kind("plain", policies={"retry": _RETRY}),
    "own_deadline": Kind("plain", policies={"expires_in": 86_400}),
    "all_policies": Kind(
        "plain",
        policies={
            "retry": _RETRY,
            "expires_in": 86_400,
            "on_dead_letter": FollowUp("follow", {"failed": True}),
        },
    ),
    "retried": Kind("retried", is_retried=True),
    "budget": Kind("retried", {"max_retries_per_second": UNSPENT_PER_SECOND}, is_retried=True),
}


async def measure(url: str, server: ServerTime, jobs: int, rounds: int) -> None:
    """Run jobs of every kind in turns, and print what they cost."""
    connection = await asyncpg.connect(url)
    await migrate(connection)
    await create_queue(connection, "follow")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in KINDS}
    for turn in range(rounds):
        for name in list(KINDS)[:: 1 if turn % 2 == 0 else -1]:
            queue = f"{name}_{turn}"
            await create_queue(connection, queue)
            await set_queue_config(connection, queue, **KINDS[name].settings)
            found[name].append(await _round(url, server, queue, jobs, KINDS[name]))
    await connection.close()
    for name, kind in KINDS.items():
        figures = {
            what: round(statistics.median(each[what] for each in found[name]), 1)
            for what in found[name][0]
        }
        ratios = {
            f"{what}_ratio": round(
                statistics.median(
                    mine[what] / other[what]
                    for mine, other in zip(found[name], found[kind.against], strict=True)
                ),
                2,
            )
            for what in figures
        }
        more = {} if name == kind.against else {"against": kind.against} | ratios
        _print({"kind": name} | figures | more | {"jobs": jobs, "rounds": rounds})


async def _round(
    url: str, server: ServerTime, queue: str, jobs: int, kind: Kind
) -> dict[str, float]:
    payload = {"run_id": "run-1", "payload": {"text": "x" * 211}}
    service = QueueService[Any](url, queue)
    for _ in range(0, jobs, CHUNK_JOBS):
        await service.enqueue_many([payload] * CHUNK_JOBS, **kind.policies)
    connection = await asyncpg.connect(url)
    await connection.execute(f'vacuum analyze pgmq."q_{queue}"')
    await connection.execute("checkpoint")
    wal = await connection.fetchval("select pg_current_wal_insert_lsn()")

    async def handle(job: Job[Any]) -> None:
        if kind.is_retried and job.attempt == 1:
            raise RetryAfter(0, "once")

    settled = jobs * (2 if kind.is_retried else 1)
    client_began, server_began, began = time.process_time(), server.seconds(), time.monotonic()
    async with Worker(url, queue, handle, concurrency=CONCURRENCY) as worker:
        while worker.get_stats().processed < settled:
            await asyncio.sleep(0.002)
        took = time.monotonic() - began
        client, server_time = time.process_time() - client_began, server.seconds() - server_began
        wal_bytes = await connection.fetchval(
            "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)::float8", wal
        )
    left = await connection.fetchval(f'select count(*) from pgmq."q_{queue}"')
    if left:
        raise RuntimeError(f"{left:,} jobs are left in {queue}")
    await connection.close()
    await service.close()
    return {
        "cpu_us_per_job": (client + server_time) / jobs * 1e6,
        "wal_bytes_per_job": wal_bytes / jobs,
        "jobs_per_second": jobs / took,
    }


def _print(figures: dict[str, Any]) -> None:
    print(json.dumps(figures), flush=True)


def main() -> None:
    """Measure what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.policies", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=20_000, help="a multiple of 1,000")
    given = parser.parse_args()
    # Each retry is a warning.
    logging.getLogger("meshhook").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="meshhook-bench-") as directory:
        postgres = EmbeddedPostgres(Path(directory) / "postgres")
        url = postgres.start()
        try:
            server = ServerTime(postgres.pid or 0)
            asyncio.run(measure(url, server, given.jobs, given.rounds))
        finally:
            postgres.stop()


if __name__ == "__main__":
    main()
