"""A process that enqueues jobs of several bands at random times, for `bench.priorities`."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

END_SECONDS = 60.0
"""How long the process may take beyond the time of its jobs."""
SEND = """
    insert into pgmq."q_{queue}" (vt, message, headers)
    select clock_timestamp(), jsonb_build_object('number', i, 'seconds', $3::float8),
        jsonb_build_object('meshhook-priority', $4::int)
    from generate_series($1::int, $2::int) i
"""


class Stream(NamedTuple):
    """Jobs of one band that come independently of each other."""

    queue: str
    band: int
    per_second: float
    jobs: int
    job_seconds: float
    """How long each runs."""
    rows: int = 1
    """How many are inserted at once. Default 1."""


@asynccontextmanager
async def streams_process(
    url: str, streams: Sequence[Stream]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the process, not in the worker's: a producer must not wait for its event loop."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.priority_streams", url, json.dumps(streams))
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def sent(process: asyncio.subprocess.Process, streams: Sequence[Stream]) -> None:
    """Wait until all is sent."""
    seconds = max(stream.jobs / stream.per_second for stream in streams)
    if code := await asyncio.wait_for(process.wait(), 2 * seconds + END_SECONDS):
        raise RuntimeError(f"the process that enqueues jobs ended with {code}")


async def _send(url: str, stream: Stream) -> None:
    connection = await asyncpg.connect(url)
    clock = asyncio.get_running_loop().time
    # The same times in each run, and others in each band.
    random_times = random.Random(stream.band)
    statement = await connection.prepare(SEND.format(queue=stream.queue))
    due = clock()
    for first in range(0, stream.jobs, stream.rows):
        last = min(first + stream.rows, stream.jobs) - 1
        due += random_times.expovariate(stream.per_second / stream.rows)
        await asyncio.sleep(due - clock())
        await statement.fetch(first, last, stream.job_seconds, stream.band)
    await connection.close()


async def _main(url: str, streams: list[Any]) -> None:
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(_send(url, Stream(*stream)))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], json.loads(sys.argv[2])))
