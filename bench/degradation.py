"""How much slower a queue on the tables of PGMQ gets when something is in its way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from bench.messages import messages
from bench.meter import Meter, Result, resident_mib

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bench.subject import DegradationSubject

FILL_BATCH = 10_000
DELAY_SECONDS = 86_400
LOOK_SECONDS = 0.002
MEMORY_SECONDS = 0.05
FIRST_SECONDS = 300.0
"""The longest that the first outcome may take: without one there is no rate."""
# As in messages.py: about 256 bytes of payload. Made by the server, since a client of its own
# would take minutes for a million.
_FILL = """
select count(*) from pgmq.send_batch('bench', array(
    select jsonb_build_object('run_id', 'run-' || i, 'workflow_id', 'bench', 'project_id', 'bench',
        'payload', jsonb_build_object('i', i, 'text', left(repeat(md5(i::text), 8), 240)))
    from generate_series($1::bigint, $2::bigint) i), $3::integer)
"""
_SEND = "select pgmq.send_batch('bench', $1::jsonb[])"
_SEND_KEYED = """
insert into pgmq.q_bench (vt, message, headers)
select clock_timestamp(), body, jsonb_build_object('x-pgmq-group',
    'tenant-' || floor(random() * $2::int)::int)
from unnest($1::jsonb[]) as body
"""
WARM_UP_JOBS = 300
FEED_BATCH = 500
FEED_DEPTH = 4_000
FEED_SECONDS = 0.025
_SCRAPER = """
import sys, time, urllib.request
while True:
    urllib.request.urlopen(sys.argv[1], timeout=60).read()
    time.sleep(float(sys.argv[2]))
"""


async def drain_behind(
    subject: DegradationSubject,
    *,
    jobs: int,
    seconds: float,
    delayed: int = 0,
    backlog: int = 0,
    finished: int = 0,
) -> Result:
    """Time one consumer until that many outcomes are stored, or until the time is up.

    Args:
        subject: whose.
        jobs: how many outcomes.
        seconds: the longest that it takes.
        delayed: messages that are due in a day, enqueued before the others.
        backlog: how many jobs are ready at least; those beyond `jobs` are left.
        finished: jobs that were run before, whose record is kept.
    """
    await subject.open(1)
    if finished:
        await _fill(subject.url, finished)
        await subject.finish(finished)
    await _fill(subject.url, delayed, DELAY_SECONDS)
    ready = max(jobs, backlog)
    await _fill(subject.url, ready)
    async with Meter(subject.url) as meter:
        memory = Memory()
        async with memory.sampled(), subject.working(1) as stored:
            await _until(lambda: stored() >= jobs, seconds)
            await _until(lambda: stored() > 0, FIRST_SECONDS)
            meter.stop()
            done = stored()
    await subject.check(stored() + finished, ready + delayed - stored())
    await subject.close()
    return meter.result(done) | memory.result()


async def connections(
    subject: DegradationSubject, *, jobs: int, consumers: int, seconds: float
) -> Result:
    """Time consumers that are warm and idle, from when jobs are there until all are done.

    Before, they run some jobs that do not count: a session is slow at first, since it has to read
    the catalog and to plan, and with many of them that would be most of what is timed.
    """
    await subject.open(1)
    async with subject.working(consumers) as stored, _connected(subject.url) as connection:
        warm_up = consumers * WARM_UP_JOBS
        async with connection.transaction():
            await _send(connection, warm_up)
        await _until(lambda: stored() >= warm_up, FIRST_SECONDS)
        gc.collect()
        async with connection.transaction():
            await _send(connection, jobs)
        began = time.perf_counter()
        await _until(lambda: stored() >= warm_up + jobs, seconds)
        await _until(lambda: stored() > warm_up, FIRST_SECONDS)
        taken = time.perf_counter() - began
        done = stored() - warm_up
    await subject.check(stored(), warm_up + jobs - stored())
    await subject.close()
    return {"jobs": done, "seconds": taken, "per_second": done / taken}


async def held_transaction(
    subject: DegradationSubject,
    *,
    per_second: int | None,
    baseline_seconds: float,
    held_seconds: float,
    window_seconds: float,
    keys: int | None = None,
) -> Result:
    """Compare the rate before and while another session holds a transaction id.

    Args:
        subject: whose.
        per_second: jobs offered; None means as many as it takes.
        baseline_seconds: how long it is watched before.
        held_seconds: how long the transaction is held.
        window_seconds: the length of what the lowest rate is that of.
        keys: how many keys the jobs have, in any order; None means that they have none.
    """
    await subject.open(1)
    async with (
        subject.working(1) as stored,
        _feeding(subject.url, per_second, stored, keys) as sent,
        _connected(subject.url) as other,
    ):
        # The first claims plan, which a busy machine makes longer than the baseline.
        await _until(lambda: stored() > 0, FIRST_SECONDS)
        await _rates(stored, baseline_seconds * 0.2, window_seconds)
        before = await _rates(stored, baseline_seconds, window_seconds)
        await other.execute("begin")
        await other.fetchval("select pg_current_xact_id()")
        held = await _rates(stored, held_seconds, window_seconds)
        await other.execute("rollback")
    await subject.check(stored(), sent() - stored())
    await subject.close()
    baseline = sum(before) / len(before)
    return {
        "jobs": stored(),
        "baseline_per_second": baseline,
        "per_second": sum(held) / len(held),
        "lowest_per_second": min(held),
        "lowest_share": min(held) / baseline,
        "windows": [round(rate, 1) for rate in held],
    }


async def drain_scraped(
    subject: DegradationSubject, *, jobs: int, seconds: float, scrape_seconds: float
) -> Result:
    """Time a drain while another process reads the metrics over HTTP, again and again."""
    url = await subject.serve_metrics()
    scraper = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _SCRAPER, url, str(scrape_seconds)
    )
    try:
        return await drain_behind(subject, jobs=jobs, seconds=seconds)
    finally:
        if scraper.returncode is not None:
            raise RuntimeError(f"the scraper of {url} ended with code {scraper.returncode}")
        scraper.kill()
        await scraper.wait()


class Memory:
    """The memory of this process while something runs."""

    def __init__(self) -> None:
        """Take the first look."""
        self._samples = [resident_mib()]

    @asynccontextmanager
    async def sampled(self) -> AsyncIterator[None]:
        """Look again and again."""

        async def look() -> None:
            while True:
                self._samples.append(resident_mib())
                await asyncio.sleep(MEMORY_SECONDS)

        task = asyncio.create_task(look(), name="memory")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def result(self) -> Result:
        """Return the figures."""
        return {
            "memory_start_mib": self._samples[0],
            "memory_peak_mib": max(self._samples),
            "memory_end_mib": self._samples[-1],
        }


async def _until(done: Callable[[], bool], seconds: float) -> None:
    until = time.perf_counter() + seconds
    while not done() and time.perf_counter() < until:
        await asyncio.sleep(LOOK_SECONDS)


async def _rates(stored: Callable[[], int], seconds: float, window_seconds: float) -> list[float]:
    """Return the rate in each window.

    If a busy machine stores nothing in all of them, it watches on: without an outcome there is no
    rate.
    """
    rates: list[float] = []
    until = time.perf_counter() + seconds
    last = until + FIRST_SECONDS
    while (now := time.perf_counter()) < until or (not any(rates) and now < last):
        count, moment = stored(), time.perf_counter()
        await asyncio.sleep(window_seconds)
        rates.append((stored() - count) / (time.perf_counter() - moment))
    return rates


@asynccontextmanager
async def _feeding(
    url: str, per_second: int | None, stored: Callable[[], int], keys: int | None
) -> AsyncIterator[Callable[[], int]]:
    """Enqueue at a fixed rate, or so that there is always something; gives how many were sent."""
    bodies = [json.dumps(message) for message in messages("small", FEED_BATCH)]
    sent = 0
    stopping = False

    async def feed(connection: asyncpg.Connection) -> None:
        nonlocal sent
        began = time.perf_counter()
        while not stopping:
            if per_second is None:
                wanted = FEED_BATCH if sent - stored() < FEED_DEPTH else 0
            else:
                wanted = round((time.perf_counter() - began) * per_second) - sent
            if wanted > 0:
                batch = bodies[: min(wanted, FEED_BATCH)]
                if keys is None:
                    await connection.fetch(_SEND, batch)
                else:
                    await connection.execute(_SEND_KEYED, batch, keys)
                sent += len(batch)
            await asyncio.sleep(LOOK_SECONDS if per_second is None else FEED_SECONDS)

    async with _connected(url) as connection:
        task = asyncio.create_task(feed(connection), name="feed")
        try:
            yield lambda: sent
        finally:
            # Not cancelled: it would be unknown whether the last batch was sent.
            stopping = True
            await task


async def _fill(url: str, count: int, delay_seconds: int = 0) -> None:
    async with _connected(url) as connection:
        await _send(connection, count, delay_seconds)


async def _send(connection: asyncpg.Connection, count: int, delay_seconds: int = 0) -> None:
    for first in range(0, count, FILL_BATCH):
        last = min(first + FILL_BATCH, count) - 1
        await connection.fetchval(_FILL, first, last, delay_seconds)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        with contextlib.suppress(OSError):
            await connection.close()
