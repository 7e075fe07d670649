"""Throughput in terms of a subject: drain, bulk enqueue, single enqueue. Runs in its process."""

from __future__ import annotations

import asyncio
import time
from itertools import islice
from typing import TYPE_CHECKING

from bench.messages import messages, unique_keys
from bench.meter import Meter, Result, percentiles
from bench.subject import Work

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.subject import BenchSubject

BATCH = 1_000
POOL_CONNECTIONS = 16
WARM_UP_SHARE = 0.2


async def drain(
    subject: BenchSubject,
    *,
    payload: str,
    jobs: int,
    work_seconds: float = 0.0,
    grouped: bool = False,
    batch: int = 1,
) -> Result:
    """Time a consumer from connecting until the last outcome is stored.

    Jobs that are `grouped` are in groups of 1,000, each of which enqueues nothing when it ends.
    With `batch` a handler is called with that many jobs at once.
    """
    await subject.open(1)
    prepared = [subject.job(message) for message in messages(payload, jobs)]
    store = subject.enqueue_group if grouped else subject.enqueue_many
    for start in range(0, jobs, BATCH):
        await store(prepared[start : start + BATCH])
    prepared.clear()
    work = Work(work_seconds)
    async with Meter(subject.url) as meter:
        if batch > 1:
            await subject.drain_batches(jobs, batch, work, on_done=meter.stop)
        else:
            await subject.drain(jobs, work, on_done=meter.stop)
    if work.runs != jobs:
        raise RuntimeError(f"{work.runs:,} handlers ran, not {jobs:,}")
    await subject.check(jobs, 0)
    await subject.close()
    return meter.result(jobs)


async def enqueue_many(
    subject: BenchSubject, *, payload: str, jobs: int, unique: bool = False
) -> Result:
    """Time one producer that stores batches of 1,000, one after the other.

    With `unique` each job has a unique key that no other has, in no order.
    """
    await subject.open(1)
    prepared = [subject.job(message) for message in messages(payload, jobs)]
    keys = unique_keys()

    async def store(batch: Sequence[object]) -> None:
        if unique:
            await subject.enqueue_many_unique(batch, list(islice(keys, len(batch))))
        else:
            await subject.enqueue_many(batch)

    await store(prepared[:1])
    async with Meter(subject.url) as meter:
        for start in range(0, jobs, BATCH):
            await store(prepared[start : start + BATCH])
        meter.stop()
    await subject.check(0, jobs + 1)
    await subject.close()
    return meter.result(jobs)


async def enqueue(
    subject: BenchSubject, *, callers: int, seconds: float, unique: bool = False
) -> Result:
    """Time callers that each store one job after the other, for a while.

    With `unique` each job has a unique key that no other has, in no order.
    """
    await subject.open(POOL_CONNECTIONS)
    job = subject.job(messages("small", 1)[0])
    keys = unique_keys()

    async def call(until: float, latencies: list[float]) -> None:
        while (began := time.perf_counter()) < until:
            if unique:
                await subject.enqueue_unique(job, next(keys))
            else:
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
    return meter.result(len(latencies)) | percentiles(latencies)
