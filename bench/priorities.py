"""Compares ways to run urgent jobs first: an index on the bands, a queue a band, or nothing.

Start it on an empty database: `python -m bench.priorities postgresql://localhost/empty`. It prints
two tables for docs/decisions. Each way takes its turn in each round; figures are medians of the
rounds.

- Drains: jobs of all bands.
- Waits of urgent jobs, beside a flood of low jobs and alone: the same jobs at the same random
  times, 25 a second. A wait is what `meshhook_worker_priority_wait_seconds` counts: from the insert
  until the handler begins. Those of the first 4 seconds do not count.
- The part of low jobs that have aged, while urgent jobs alone would fill all slots.
- Targets, with the index only: urgent, normal and low jobs that together take four fifths of
  the slots. Of each band the oldest ready job, looked at twice a second, and the longest wait.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import asyncpg

from bench.priority_streams import Stream, sent, streams_process
from meshhook import Job, Worker, create_queue, migrate, set_queue_config
from meshhook.priorities import PRIORITY_HEADER, PRIORITY_NAMES, Priority
from meshhook.priority_statistics import get_priority_statistics
from meshhook.worker.process import leave_program_alone

WAYS = ("plain", "index", "queues")
BANDS = tuple(Priority)
WEIGHTS = (8, 4, 2, 1)
SLOTS = 20
URGENT_PER_SECOND = 25.0
WARM_UP_SECONDS = 4.0
FLOODS = ((0.005, 0.005), (0.02, 0.005), (0.1, 0.005), (0.1, 0.1))
"""How long low jobs and urgent ones run, in seconds."""
MOST_PER_SECOND = 2_500
"""No worker is faster: so large a flood outlasts the urgent jobs."""
TARGETS = (1.0, 2.0, 4.0, 12.0)
STREAM_JOB_SECONDS = 0.5
STREAMS = {Priority.URGENT: 0.1, Priority.NORMAL: 0.3, Priority.LOW: 0.4}
"""Which part of the slots the jobs of each band take."""
FILL = """
    insert into pgmq."{table}" (vt, enqueued_at, message, headers)
    select now() - make_interval(secs => $3::float8), now() - make_interval(secs => $3::float8),
        jsonb_build_object('text', repeat(md5(i::text), 7)),
        jsonb_build_object('meshhook-priority', $2::int)
    from generate_series(1, $1::int) i
"""


@dataclass(slots=True)
class Handler:
    """A handler that takes some time, and notes how long jobs have waited."""

    seconds: float
    """How long a job runs that does not say it, on average: from half to one and a half of it."""
    warm_up: int = 0
    """How many jobs of each stream do not count."""
    waits: dict[int, list[float]] = field(default_factory=lambda: {band: [] for band in BANDS})
    streamed: int = 0
    started: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BANDS, 0))
    first_at: float = 0.0
    last_at: float = 0.0

    async def __call__(self, job: Job[Any]) -> None:
        """Run a job."""
        now = time.perf_counter()
        band = job.headers[PRIORITY_HEADER]
        self.started[band] += 1
        self.first_at = self.first_at or now
        if "number" in job.payload:
            self.streamed += 1
            if job.payload["number"] >= self.warm_up:
                self.waits[band].append(time.time() - job.ready_timestamp)
            await asyncio.sleep(job.payload["seconds"])
        elif self.seconds:
            spread = random.uniform(0.5, 1.5)
            await asyncio.sleep(self.seconds * spread)
        self.last_at = now

    @property
    def total(self) -> int:
        """How many jobs have started."""
        return sum(self.started.values())


class Way:
    """One way to run urgent jobs first."""

    def __init__(self, name: str, url: str, connection: asyncpg.Connection[Any]) -> None:
        self.name = name
        self.url = url
        self.connection = connection

    def queue_of(self, band: int) -> str:
        """Return the queue of a band."""
        return f"queues-{band}" if self.name == "queues" else self.name

    async def open(self) -> None:
        """Create the queues, empty."""
        for band in BANDS:
            await create_queue(self.connection, self.queue_of(band))
            await self.connection.execute(f'truncate pgmq."q_{self.queue_of(band)}"')
        if self.name == "index":
            await set_queue_config(self.connection, self.name, prioritized=True)

    async def fill(self, band: int, jobs: int, age_seconds: float = 0) -> None:
        """Store jobs of a band that have been ready for so long."""
        sql = FILL.format(table=f"q_{self.queue_of(band)}")
        await self.connection.execute(sql, jobs, int(band), age_seconds)

    def worker(self, handler: Handler) -> Worker:
        """Return a worker that serves all bands."""
        queues: Any = self.name
        if self.name == "queues":
            queues = {self.queue_of(band): WEIGHTS[band] for band in BANDS}
        return Worker(self.url, queues, handler, concurrency=SLOTS)


async def drain(way: Way, jobs: int) -> float:
    """Return how many jobs that do nothing a worker runs per second, of all bands in turn."""
    await way.open()
    for band in BANDS:
        await way.fill(band, jobs // len(BANDS))
    handler = Handler(0.0)
    async with way.worker(handler):
        while handler.total < jobs:
            await asyncio.sleep(0.01)
    return jobs / (handler.last_at - handler.first_at)


async def waits(
    way: Way, *, low_seconds: float, urgent_seconds: float, urgent_jobs: int, has_flood: bool
) -> list[float]:
    """Return how long urgent jobs wait, in seconds: beside a flood of low jobs, or alone."""
    warm_up = int(WARM_UP_SECONDS * URGENT_PER_SECOND)
    jobs = warm_up + urgent_jobs
    queue = way.queue_of(Priority.URGENT)
    streams = [Stream(queue, Priority.URGENT, URGENT_PER_SECOND, jobs, urgent_seconds)]
    flood_jobs = 0
    if has_flood:
        per_second = min(SLOTS / low_seconds, MOST_PER_SECOND)
        flood_jobs = int(per_second * jobs / URGENT_PER_SECOND * 1.5)
    await way.open()
    await way.fill(Priority.LOW, flood_jobs)
    handler = Handler(low_seconds, warm_up)
    async with way.worker(handler):
        while handler.total < min(flood_jobs, SLOTS // 2):
            await asyncio.sleep(0.01)
        async with streams_process(way.url, streams) as process:
            await sent(process, streams)
        while handler.streamed < jobs:
            await asyncio.sleep(0.01)
        if has_flood and handler.started[Priority.LOW] >= flood_jobs:
            raise RuntimeError("the flood has ended before the urgent jobs")
    return sorted(handler.waits[Priority.URGENT])


async def compare_waits(way: Way, low: float, urgent: float, jobs: int) -> dict[str, float]:
    """Return how long urgent jobs wait alone and beside a flood, in milliseconds."""
    options: dict[str, Any] = {"low_seconds": low, "urgent_seconds": urgent, "urgent_jobs": jobs}
    alone = await waits(way, **options, has_flood=False)
    beside = await waits(way, **options, has_flood=True)
    title = f"low {low * 1_000:g} ms, urgent {urgent * 1_000:g} ms"
    return {
        f"{title}: alone p50, ms": median(alone) * 1_000,
        f"{title}: alone p99, ms": p99(alone) * 1_000,
        f"{title}: beside p50, ms": median(beside) * 1_000,
        f"{title}: beside p99, ms": p99(beside) * 1_000,
        f"{title}: p99 beside/alone": p99(beside) / p99(alone),
    }


async def keep_targets(way: Way, seconds: float) -> dict[str, list[float]]:
    """Run streams that fit. Return each band's target, oldest age and longest wait, in seconds."""
    await way.open()
    await set_queue_config(way.connection, way.name, priority_target_seconds=TARGETS)
    streams = []
    for band, part in STREAMS.items():
        rate = SLOTS * part / STREAM_JOB_SECONDS
        rows = 1 if band == Priority.URGENT else 5
        queue = way.queue_of(band)
        streams.append(Stream(queue, band, rate, int(rate * seconds), STREAM_JOB_SECONDS, rows))
    handler = Handler(0.0)
    oldest = dict.fromkeys(STREAMS, 0.0)
    jobs = sum(stream.jobs for stream in streams)
    async with way.worker(handler), streams_process(way.url, streams) as process:
        sending = asyncio.create_task(sent(process, streams))
        while not sending.done() or handler.streamed < jobs:
            for found in await get_priority_statistics(way.connection, way.name):
                band = Priority(PRIORITY_NAMES.index(found.priority))
                if band in oldest:
                    oldest[band] = max(oldest[band], found.oldest_ready_seconds)
            await asyncio.sleep(0.5)
        await sending
    return {
        PRIORITY_NAMES[band]: [TARGETS[band], oldest[band], max(handler.waits[band])]
        for band in STREAMS
    }


async def share_of_low(way: Way, *, jobs: int, job_seconds: float) -> float:
    """Return the part that aged low jobs get while urgent jobs alone would fill all slots."""
    await way.open()
    await way.fill(Priority.LOW, jobs, age_seconds=3_600)
    await way.fill(Priority.URGENT, jobs)
    handler = Handler(job_seconds)
    async with way.worker(handler):
        while handler.total < jobs:
            await asyncio.sleep(0.01)
        return handler.started[Priority.LOW] / handler.total


def p99(values: list[float]) -> float:
    """Return the 99th percentile."""
    return values[min(int(len(values) * 0.99), len(values) - 1)]


async def compare(url: str, *, rounds: int, jobs: int, urgent_jobs: int, seconds: float) -> None:
    """Measure all ways, and print the tables."""
    leave_program_alone()
    connection = await asyncpg.connect(url)
    await migrate(connection)
    ways = [Way(name, url, connection) for name in WAYS]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in WAYS}
    kept: list[dict[str, list[float]]] = []

    def note(way: Way, figure: str, value: float) -> None:
        found[way.name].setdefault(figure, []).append(value)

    for _ in range(rounds):
        for way in ways:
            note(way, "drain", await drain(way, jobs))
        for low, urgent in FLOODS:
            for way in ways[1:]:  # without priorities, urgent jobs wait for the whole flood
                figures = await compare_waits(way, low, urgent, urgent_jobs)
                for figure, value in figures.items():
                    note(way, figure, value)
        for way in ways[1:]:
            note(way, "low share", await share_of_low(way, jobs=4_000, job_seconds=0.002))
        kept.append(await keep_targets(ways[1], seconds))
    print_tables(found, kept)
    await connection.close()


def print_tables(
    found: dict[str, dict[str, list[float]]], kept: list[dict[str, list[float]]]
) -> None:
    """Print medians of the rounds."""
    plain = found["plain"]["drain"]
    for figures in found.values():
        rates = zip(figures["drain"], plain, strict=True)
        figures["drain against plain"] = [own / other for own, other in rates]
    print("| | " + " | ".join(WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for figure in found["index"]:
        rounds_of = [found[name].get(figure) for name in WAYS]
        cells = ["" if each is None else f"{median(each):.3g}" for each in rounds_of]
        print(f"| {figure} | " + " | ".join(cells) + " |")
    print("\n| band | target, s | oldest ready job, s | longest wait, s |\n|---|---|---|---|")
    for name in kept[0]:
        medians = [median(each) for each in zip(*[one[name] for one in kept], strict=True)]
        print(f"| {name} | " + " | ".join(f"{each:.3g}" for each in medians) + " |")


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="an empty database")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=40_000, help="how many jobs a drain has")
    parser.add_argument("--urgent-jobs", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=45.0, help="how long the targets take")
    options = parser.parse_args()
    asyncio.run(
        compare(
            options.url,
            rounds=options.rounds,
            jobs=options.jobs,
            urgent_jobs=options.urgent_jobs,
            seconds=options.seconds,
        )
    )


if __name__ == "__main__":
    main()
