"""Limits of keys while workers are killed, stopped and disconnected."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService, set_queue_config
from support.faulty_fleet import faulty_fleet
from support.waiting import eventually
from support.workers import ledger_lines

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("queue_name")]

OF_KEY = 2
OF_QUEUE = 9
LEASE_SECONDS = 1
FAULTS = 16
JOBS = {"flood": 900} | {f"quiet-{number}": 12 for number in range(8)}
SECONDS = 0.04
# The clock is read after the snapshot: what has ended by then was ended for every later claim.
RUNNING = """
    select headers ->> 'x-pgmq-group' as key, count(*) as running from pgmq.q_jobs
    where vt > clock_timestamp() and meshhook.has_open_attempt(read_ct, headers) group by key
"""


class Watch:
    """Counts, from outside of all workers, what runs of each key, as often as it can."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.looks = 0
        self.most: Counter[str] = Counter()
        self.most_of_queue = 0

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            rows = await self._connection.fetch(RUNNING)
            self.looks += 1
            self.most_of_queue = max(self.most_of_queue, sum(row["running"] for row in rows))
            for row in rows:
                self.most[row["key"]] = max(self.most[row["key"]], row["running"])


@pytest.mark.timeout(300)
async def test_limits_hold_whatever_dies_when(
    connection: Connection, database_url: str, tmp_path: Path
) -> None:
    """Of no key, and not of the queue, more leases are live than allowed, and each key is served.

    Eight processes are killed, stopped for longer than their leases, and cut off from the database
    while they work; those that were stopped then settle late, and extend what they have lost.
    """
    await set_queue_config(
        connection,
        "jobs",
        keyed=True,
        max_running_per_key=OF_KEY,
        max_running=OF_QUEUE,
        visibility_timeout_seconds=LEASE_SECONDS,
        max_retry_attempts=100,
    )
    async with QueueService[Any](database_url, "jobs") as service:
        for key, jobs in JOBS.items():
            payload = {"key": key, "seconds": SECONDS}
            await service.enqueue_many([{"payload": payload}] * jobs, key=key)
    ledger = tmp_path / "ledger"
    own = await asyncpg.connect(database_url)
    watch = Watch(own)

    async def is_empty() -> bool:
        return not await connection.fetchval("select count(*) from pgmq.q_jobs")

    async with AsyncExitStack() as stack:
        stack.push_async_callback(own.close)
        fleet = await stack.enter_async_context(
            faulty_fleet(database_url, "of_key", ledger=ledger, lease_seconds=LEASE_SECONDS)
        )
        looking = asyncio.create_task(watch.run())
        stack.callback(looking.cancel)
        for _ in range(FAULTS):
            await fleet.suffer(connection)
        await eventually(is_empty, timeout=120)
        assert not looking.done()
    ended = [line[1] for line in ledger_lines(ledger)]
    assert Counter(ended).keys() == JOBS.keys()
    assert watch.looks > 500
    assert {key: most for key, most in watch.most.items() if most > OF_KEY} == {}
    assert watch.most_of_queue <= OF_QUEUE
    # It was worth watching: the limits were used.
    assert watch.most["flood"] == OF_KEY
    # What is quiet does not wait until the flood is over.
    last_of_quiet = max(place for place, key in enumerate(ended) if key != "flood")
    assert last_of_quiet < len(ended) / 2
