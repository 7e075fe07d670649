"""Compares ways to run urgent jobs first: an index on the bands, a queue a band, or nothing.

Start it on an empty database: `python -m bench.priorities postgresql://localhost/empty`. It prints
a table for docs/decisions. Waits are measured beside a flood of low jobs and alone, drains with
jobs of all bands; each way takes its turn in each round, and figures are medians of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import asyncpg

from meshhook import Job, Worker, create_queue, migrate, set_queue_config
from meshhook.priorities import PRIORITY_HEADER, Priority
from meshhook.worker.process import leave_program_alone

WAYS = ("plain", "index", "queues")
BANDS = tuple(Priority)
WEIGHTS = (8, 4, 2, 1)
SLOTS = 20
FILL = """
    insert into pgmq."{table}" (vt, enqueued_at, message, headers)
    select now() - make_interval(secs => $3::float8), now() - make_interval(secs => $3::float8),
        jsonb_build_object('text', repeat(md5(i::text), 7)),
        jsonb_build_object('meshhook-priority', $2::int)
    from generate_series(1, $1::int) i
"""
SEND = """
    insert into pgmq."{table}" (vt, message, headers)
    values (clock_timestamp(), $1::jsonb, jsonb_build_object('meshhook-priority', $2::int))
"""


@dataclass(slots=True)
class Handler:
    """A handler that takes a fixed time, and notes when jobs start."""

    seconds: float
    sent: dict[int, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    started: dict[int, int] = field(default_factory=lambda: dict.fromkeys(BANDS, 0))
    first_at: float = 0.0
    last_at: float = 0.0

    async def __call__(self, job: Job[Any]) -> None:
        """Run a job."""
        now = time.perf_counter()
        self.started[job.headers[PRIORITY_HEADER]] += 1
        number = job.payload.get("number") if isinstance(job.payload, dict) else None
        if number in self.sent:
            self.waits.append(now - self.sent[number])
        self.first_at = self.first_at or now
        if self.seconds:
            await asyncio.sleep(self.seconds)
        self.last_at = now

    @property
    def total(self) -> int:
        """How many jobs have started."""
        return sum(self.started.values())


class Way:
    """One way to run urgent jobs first."""

    def __init__(self, name: str, url: str, connection: asyncpg.Connection[Any]) -> None:
        self.name = name
        self._url = url
        self._connection = connection

    def queue_of(self, band: int) -> str:
        """Return the queue of a band."""
        return f"queues-{band}" if self.name == "queues" else self.name

    async def open(self) -> None:
        """Create the queues, empty."""
        for band in BANDS:
            await create_queue(self._connection, self.queue_of(band))
            await self._connection.execute(f'truncate pgmq."q_{self.queue_of(band)}"')
        if self.name == "index":
            await set_queue_config(self._connection, self.name, prioritized=True)

    async def fill(self, band: int, jobs: int, age_seconds: float = 0) -> None:
        """Store jobs of a band that have been ready for so long."""
        sql = FILL.format(table=f"q_{self.queue_of(band)}")
        await self._connection.execute(sql, jobs, int(band), age_seconds)

    async def send(self, band: int, number: int) -> None:
        """Store one job."""
        sql = SEND.format(table=f"q_{self.queue_of(band)}")
        await self._connection.execute(sql, f'{{"number": {number}}}', int(band))

    def worker(self, handler: Handler) -> Worker:
        """Return a worker that serves all bands."""
        queues: Any = self.name
        if self.name == "queues":
            queues = {self.queue_of(band): WEIGHTS[band] for band in BANDS}
        return Worker(self._url, queues, handler, concurrency=SLOTS)


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


async def waits(way: Way, *, flood_jobs: int, job_seconds: float, urgent_jobs: int) -> list[float]:
    """Return how long urgent jobs wait, one after the other, beside a flood of low jobs."""
    await way.open()
    await way.fill(Priority.LOW, flood_jobs)
    handler = Handler(job_seconds)
    async with way.worker(handler):
        while handler.total < min(flood_jobs, SLOTS):
            await asyncio.sleep(0.01)
        for number in range(urgent_jobs):
            handler.sent[number] = time.perf_counter()
            await way.send(Priority.URGENT, number)
            await asyncio.sleep(0.04)
        while len(handler.waits) < urgent_jobs:
            await asyncio.sleep(0.01)
        if flood_jobs and handler.started[Priority.LOW] >= flood_jobs:
            raise RuntimeError("the flood has ended before the urgent jobs")
    return sorted(handler.waits)


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


async def compare(url: str, *, rounds: int, jobs: int, urgent_jobs: int) -> None:
    """Measure all ways, and print a table."""
    leave_program_alone()
    connection = await asyncpg.connect(url)
    await migrate(connection)
    ways = [Way(name, url, connection) for name in WAYS]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in WAYS}

    def note(way: Way, figure: str, value: float) -> None:
        found[way.name].setdefault(figure, []).append(value)

    for _ in range(rounds):
        for way in ways:
            note(way, "drain", await drain(way, jobs))
        for seconds in (0.005, 0.1):
            flood = int(SLOTS / seconds * urgent_jobs * 0.04 * 3)
            for way in ways:
                options = {"job_seconds": seconds, "urgent_jobs": urgent_jobs}
                alone = await waits(way, flood_jobs=0, **options)  # type: ignore[arg-type]
                # Without priorities, urgent jobs wait for the whole flood.
                size = flood if way.name != "plain" else 0
                beside = await waits(way, flood_jobs=size, **options) if size else alone  # type: ignore[arg-type]
                ms = f"{seconds * 1_000:g} ms"
                for title, values in (("alone", alone), ("beside", beside)):
                    note(way, f"{title} p50, {ms}", median(values) * 1_000)
                    note(way, f"{title} p99, {ms}", p99(values) * 1_000)
                note(way, f"p99 beside/alone, {ms}", p99(beside) / p99(alone))
        for way in ways[1:]:
            note(way, "low share", await share_of_low(way, jobs=4_000, job_seconds=0.002))
    for way in ways:
        rates = zip(found[way.name]["drain"], found["plain"]["drain"], strict=True)
        found[way.name]["drain against plain"] = [own / plain for own, plain in rates]
    figures = list(found["index"])
    print("| | " + " | ".join(WAYS) + " |\n|---|" + "---|" * len(WAYS))
    for figure in figures:
        rounds_of = [found[name].get(figure) for name in WAYS]
        cells = ["" if each is None else f"{median(each):.3g}" for each in rounds_of]
        print(f"| {figure} | " + " | ".join(cells) + " |")
    await connection.close()


def main() -> None:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="an empty database")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=40_000, help="how many jobs a drain has")
    parser.add_argument("--urgent-jobs", type=int, default=200)
    options = parser.parse_args()
    asyncio.run(
        compare(
            options.url,
            rounds=options.rounds,
            jobs=options.jobs,
            urgent_jobs=options.urgent_jobs,
        )
    )


if __name__ == "__main__":
    main()
