"""The measures, in terms of a subject. They run in the subject's process."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import time
from typing import TYPE_CHECKING, Any, Self

import asyncpg
from messages import messages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from subject import BenchSubject

Result = dict[str, Any]

BATCH = 1_000
POOL_CONNECTIONS = 16
WARM_UP_SHARE = 0.2
PICKUP_TIMEOUT_SECONDS = 30.0
PICKUP_PAUSE_SECONDS = (0.05, 0.15)
DELAY_SECONDS = 86_400


class Meter:
    """Takes the time, this process's CPU time and the server's WAL between enter and exit."""

    def __init__(self, url: str) -> None:
        """Take the URL of the database; any database of the server will do."""
        self._url = url

    async def __aenter__(self) -> Self:
        """Begin."""
        self._connection = await asyncpg.connect(self._url)
        # No measure pays for the pages that its preparation left to be written.
        await self._connection.execute("checkpoint")
        gc.collect()
        self._wal = await self._wal_bytes()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        return self

    def stop(self) -> None:
        """Take the time; what comes until the exit is not counted."""
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = time.process_time() - self._cpu

    async def __aexit__(self, *_: object) -> None:
        """Read what the server wrote, and disconnect."""
        self.wal = await self._wal_bytes() - self._wal
        await self._connection.close()

    async def _wal_bytes(self) -> int:
        return int(
            await self._connection.fetchval("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        )

    def result(self, jobs: int) -> Result:
        """Return the figures for that many jobs."""
        return {
            "jobs": jobs,
            "seconds": self.seconds,
            "per_second": jobs / self.seconds,
            "client_cpu_us_per_job": self.cpu_seconds / jobs * 1e6,
            "wal_bytes_per_job": self.wal / jobs,
        }


async def drain(subject: BenchSubject, *, payload: str, jobs: int, delayed: int = 0) -> Result:
    """Time a consumer from connecting until the last outcome is stored."""
    await subject.open(1)
    await _fill(subject, "small", delayed, DELAY_SECONDS)
    await _fill(subject, payload, jobs)
    async with Meter(subject.url) as meter:
        await subject.drain(jobs, on_done=meter.stop)
    await subject.check(jobs, delayed)
    await subject.close()
    return meter.result(jobs)


async def enqueue_many(subject: BenchSubject, *, payload: str, jobs: int) -> Result:
    """Time one producer that stores batches of 1,000, one after the other."""
    await subject.open(1)
    prepared = [subject.job(message) for message in messages(payload, jobs)]
    await subject.enqueue_many(prepared[:1])
    async with Meter(subject.url) as meter:
        for start in range(0, jobs, BATCH):
            await subject.enqueue_many(prepared[start : start + BATCH])
        meter.stop()
    await subject.check(0, jobs + 1)
    await subject.close()
    return meter.result(jobs)


async def enqueue(subject: BenchSubject, *, callers: int, seconds: float) -> Result:
    """Time callers that each store one job after the other, for a while."""
    await subject.open(POOL_CONNECTIONS)
    job = subject.job(messages("small", 1)[0])

    async def call(until: float, latencies: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            await subject.enqueue(job)
            latencies.append(time.perf_counter() - began)

    async def calls(for_seconds: float) -> list[float]:
        latencies: list[float] = []
        until = time.perf_counter() + for_seconds
        await asyncio.gather(*[call(until, latencies) for _ in range(callers)])
        return latencies

    warm_up = await calls(seconds * WARM_UP_SHARE)
    async with Meter(subject.url) as meter:
        latencies = await calls(seconds)
        meter.stop()
    await subject.check(0, len(warm_up) + len(latencies))
    await subject.close()
    return meter.result(len(latencies)) | _percentiles(latencies)


async def pick_up(subject: BenchSubject, *, jobs: int) -> Result:
    """Time jobs, one at a time, from before the enqueue until the handler begins."""
    await subject.open(1)
    job = subject.job(messages("small", 1)[0])
    load = random.Random(1)
    began = asyncio.Event()
    moments: list[float] = []

    def on_job() -> None:
        moments.append(time.perf_counter())
        began.set()

    async def latency() -> float:
        # Long enough to be idle again, and at no fixed distance from what polls.
        await asyncio.sleep(load.uniform(*PICKUP_PAUSE_SECONDS))
        began.clear()
        moment = time.perf_counter()
        await subject.enqueue(job)
        async with asyncio.timeout(PICKUP_TIMEOUT_SECONDS):
            await began.wait()
        return moments[-1] - moment

    async with subject.consuming(on_job):
        await latency()
        latencies = [await latency() for _ in range(jobs)]
    if len(moments) != jobs + 1:
        raise RuntimeError(f"{len(moments)} jobs ran, not {jobs + 1}")
    await subject.close()
    return {"jobs": jobs} | _percentiles(latencies)


async def _fill(subject: BenchSubject, kind: str, count: int, delay_seconds: int = 0) -> None:
    prepared = [subject.job(message) for message in messages(kind, count)]
    for start in range(0, count, BATCH):
        await subject.enqueue_many(prepared[start : start + BATCH], delay_seconds)


def _percentiles(latencies: Sequence[float]) -> Result:
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1e3

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1)}


MEASURES = {
    "drain": drain,
    "enqueue_many": enqueue_many,
    "enqueue": enqueue,
    "pick_up": pick_up,
}
