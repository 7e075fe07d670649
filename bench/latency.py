"""How long a job waits, in terms of a subject: idle pickup, and end to end under a steady load."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from typing import TYPE_CHECKING

from bench.measures import POOL_CONNECTIONS
from bench.messages import messages
from bench.meter import Result, percentiles

if TYPE_CHECKING:
    from bench.subject import BenchSubject

PICKUP_TIMEOUT_SECONDS = 30.0
PICKUP_PAUSE_SECONDS = (0.05, 0.15)
WARM_UP_PICKUPS = 3
SETTLE_TIMEOUT_SECONDS = 30.0
LOOK_SECONDS = 0.02


async def pick_up(subject: BenchSubject, *, jobs: int) -> Result:
    """Time jobs, one at a time, from before the enqueue until the handler begins."""
    await subject.open(1)
    job = subject.job(messages("small", 1)[0])
    load = random.Random(1)
    began = asyncio.Event()
    moments: list[float] = []

    def on_job(_: str) -> None:
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
        for _ in range(WARM_UP_PICKUPS):
            await latency()
        latencies = [await latency() for _ in range(jobs)]
        await _settled(subject, jobs + WARM_UP_PICKUPS)
    if len(moments) != jobs + WARM_UP_PICKUPS:
        raise RuntimeError(f"{len(moments)} jobs ran, not {jobs + WARM_UP_PICKUPS}")
    await subject.close()
    return {"jobs": jobs} | percentiles(latencies)


async def end_to_end(
    subject: BenchSubject,
    *,
    payload: str,
    per_second: int,
    seconds: float,
    timeout_seconds: float,
) -> Result:
    """Offer jobs at a fixed rate, one call each, and time them until their handler has run.

    Time counts from the moment at which a job was due to be enqueued: a subject that cannot keep
    up pays for the jobs that had to wait for their call. Producer and consumer share the process.
    Jobs that have not run when the time is up count as if they ran then.
    """
    await subject.open(POOL_CONNECTIONS)
    count = round(per_second * seconds)
    jobs = {m["run_id"]: subject.job(m) for m in messages(payload, count)}
    due: dict[str, float] = {}
    latencies: list[float] = []
    done = asyncio.Event()

    def on_job(run_id: str) -> None:
        latencies.append(time.perf_counter() - due.pop(run_id))
        if not due:
            done.set()

    async def offer() -> None:
        async with asyncio.TaskGroup() as calls:
            for run_id, job in jobs.items():
                wait = due[run_id] - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                calls.create_task(subject.enqueue(job))
            await done.wait()

    gc.collect()
    async with subject.consuming(on_job):
        began = time.perf_counter()
        due |= {run_id: began + number / per_second for number, run_id in enumerate(jobs)}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await offer()
        ended = time.perf_counter()
        unfinished = [ended - moment for moment in due.values()]
        ran = list(latencies)
        if not unfinished:
            await _settled(subject, count)
    await subject.close()
    return {
        "jobs": count,
        "unfinished": len(unfinished),
        "per_second": len(ran) / (ended - began),
    } | percentiles(ran + unfinished)


async def _settled(subject: BenchSubject, jobs: int) -> None:
    """Wait until the outcomes are stored, as `check` sees it, and fail if they never are."""
    until = time.perf_counter() + SETTLE_TIMEOUT_SECONDS
    while True:
        try:
            return await subject.check(jobs, 0)
        except RuntimeError:
            if time.perf_counter() > until:
                raise
        await asyncio.sleep(LOOK_SECONDS)
