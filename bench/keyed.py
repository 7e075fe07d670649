"""How a queue with keys does: claimers, floods, shares, limits, a transaction id held."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from statistics import fmean
from typing import TYPE_CHECKING

from bench.degradation import held_transaction
from bench.meter import Meter, Result, percentiles
from bench.subject import Work

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.subject import KeyedSubject

LOOK_SECONDS = 0.02
QUIET = "quiet"
WARM_UP_JOBS = 20


async def drain_keyed(
    subject: KeyedSubject,
    *,
    jobs: int,
    keys: int,
    max_running_per_key: int | None = None,
    is_ordered: bool = False,
) -> Result:
    """Time a consumer of a queue whose jobs have so many keys; with 0 it is not keyed."""
    await subject.open(1)
    await subject.set_keys(
        is_keyed=keys > 0, is_ordered=is_ordered, max_running_per_key=max_running_per_key
    )
    await subject.fill_keyed(jobs, max(keys, 1))
    work = Work()
    async with Meter(subject.url) as meter:
        await subject.drain(jobs, work, on_done=meter.stop)
    await subject.check(jobs, 0)
    await subject.close()
    return meter.result(jobs)


async def claim_keyed(
    subject: KeyedSubject, *, jobs: int, keys: int, claimers: int, batch: int
) -> Result:
    """Time claimers without a worker, each on a connection: claim a batch, delete it, and again."""
    await subject.open(1)
    await subject.set_keys(is_keyed=keys > 0)
    warm_up = claimers * WARM_UP_JOBS
    await subject.fill_keyed(jobs + warm_up, max(keys, 1))
    async with subject.claiming(claimers) as claim_and_delete:
        done = 0

        async def warm(number: int) -> None:
            # A session is slow at first, since it has to read the catalog and to plan. Claims that
            # come at the same time look at the same messages and skip them, here and below.
            left = WARM_UP_JOBS
            while left:
                left -= await claim_and_delete(number, left)

        async def claim_all(number: int) -> None:
            nonlocal done
            while done < jobs:
                claimed = await claim_and_delete(number, batch)
                done += claimed

        await asyncio.gather(*(warm(each) for each in range(claimers)))
        began = time.perf_counter()
        await asyncio.gather(*(claim_all(each) for each in range(claimers)))
        seconds = time.perf_counter() - began
    if done != jobs:
        raise RuntimeError(f"{done:,} jobs were claimed, not {jobs:,}")
    await subject.close()
    return {"jobs": jobs, "seconds": seconds, "per_second": jobs / seconds}


async def flood(
    subject: KeyedSubject,
    *,
    flood_jobs: int,
    quiet_per_second: float,
    seconds: float,
    work_seconds: float,
) -> Result:
    """Compare how long the jobs of a quiet tenant wait alone, and beside the flood of another."""
    await subject.open(2)
    await subject.set_keys(is_keyed=True)
    waits: list[float] = []
    sent: dict[str, float] = {}
    finished = 0
    count = max(3, round(seconds * quiet_per_second))

    async def run(run_id: str, _: str) -> None:
        nonlocal finished
        if run_id in sent:
            waits.append(time.perf_counter() - sent[run_id])
        await asyncio.sleep(work_seconds)
        finished += 1

    async def offer(title: str, count: int) -> Result:
        """Enqueue so many jobs in time, and return the waits once all have started."""
        waits.clear()
        for number in range(count):
            run_id = f"{title}-{number}"
            sent[run_id] = time.perf_counter()
            await subject.enqueue_keyed(run_id, QUIET)
            await asyncio.sleep(1 / quiet_per_second)
        while len(waits) < count:
            await asyncio.sleep(LOOK_SECONDS)
        return percentiles(waits)

    async with subject.running(1, None, run):
        await offer("warm-up", 3)
        alone = await offer("alone", count)
        await subject.fill_keyed(flood_jobs, 1)
        start = finished
        await _until(lambda: finished > start)
        beside = await offer("beside", count)
        left = flood_jobs - (finished - start)
    await subject.close()
    if left <= 0:
        raise RuntimeError("the flood was over before the quiet tenant's last job")
    return {
        "p50_ms": beside["p50_ms"],
        "p99_ms": beside["p99_ms"],
        "alone_p50_ms": alone["p50_ms"],
        "alone_p99_ms": alone["p99_ms"],
        "p99_to_alone": beside["p99_ms"] / alone["p99_ms"],
    }


async def shares(
    subject: KeyedSubject,
    *,
    tenants: int,
    flood_jobs: int,
    jobs: int,
    seconds: float,
    work_seconds: float,
) -> Result:
    """Look at which tenants hold the slots while one has far more jobs waiting than the others."""
    await subject.open(1)
    await subject.set_keys(is_keyed=True)
    await subject.fill_keyed(flood_jobs, 1)
    await subject.fill_keyed(jobs * tenants, tenants)
    running: Counter[str] = Counter()
    held: Counter[str] = Counter()

    async def run(_: str, key: str) -> None:
        running[key] += 1
        await asyncio.sleep(work_seconds)
        running[key] -= 1

    async with subject.running(1, None, run):
        await _until(lambda: len(running) == tenants)
        await asyncio.sleep(seconds / 5)
        until = time.perf_counter() + seconds
        # A machine that does something else may run none for as long.
        while time.perf_counter() < until or not held.total():
            held.update(running)
            await asyncio.sleep(LOOK_SECONDS / 4)
    await subject.close()
    slots = [held[f"tenant-{number}"] for number in range(tenants)]
    if len(held) != tenants or not sum(slots):
        raise RuntimeError(f"slots were held by {sorted(held)}, not by {tenants} tenants")
    return {"jain": sum(slots) ** 2 / (tenants * sum(share**2 for share in slots))}


async def binding_limit(
    subject: KeyedSubject,
    *,
    max_running: int,
    workers: int,
    slots: int,
    keys: int,
    work_seconds: float,
    periods: int,
) -> Result:
    """Look at how many jobs run at once where a limit of the queue binds."""
    await subject.open(1)
    await subject.set_keys(is_keyed=True, max_running=max_running)
    await subject.fill_keyed(max_running * (periods + 5), keys)
    running = 0
    most_running = 0

    async def run(_: str, __: str) -> None:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        await asyncio.sleep(work_seconds)
        running -= 1

    seen: list[int] = []
    leased: list[int] = []
    async with subject.running(workers, slots, run):
        await _until(lambda: running > 0)
        await asyncio.sleep(2 * work_seconds)
        until = time.perf_counter() + work_seconds * periods
        while time.perf_counter() < until:
            seen.append(running)
            leased.append(await subject.leased())
            await asyncio.sleep(LOOK_SECONDS)
    await subject.close()
    most = max(most_running, *leased)
    if most > max_running:
        raise RuntimeError(f"{most} jobs ran at once, where {max_running} may")
    return {"used_share": fmean(seen) / max_running, "most_running": most}


async def held_keyed(
    subject: KeyedSubject,
    *,
    keys: int,
    baseline_seconds: float,
    held_seconds: float,
    window_seconds: float,
) -> Result:
    """As `held_transaction` at full speed, of a queue with so many keys."""
    await subject.open(1)
    await subject.set_keys(is_keyed=True)
    await subject.close()
    return await held_transaction(
        subject,
        per_second=None,
        baseline_seconds=baseline_seconds,
        held_seconds=held_seconds,
        window_seconds=window_seconds,
        keys=keys,
    )


async def _until(done: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.perf_counter() + seconds
    while not done():
        if time.perf_counter() > until:
            raise RuntimeError(f"nothing began to run in {seconds:g} s")
        await asyncio.sleep(LOOK_SECONDS)
