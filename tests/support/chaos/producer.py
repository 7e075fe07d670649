"""Enqueues a fixed number of jobs, and notes each before and after: `-m support.chaos.producer`.

Arguments: a name, the number of jobs, jobs a second, a seed, and a mix of `MIXES`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import asyncpg

from meshhook import QueueService, WorkflowJob
from meshhook.errors import UncertainCommitError
from support.chaos.chances import chance_of
from support.chaos.ledger import Ledger

LATEST_SECONDS = 60.0
ACQUIRE_SECONDS = 10.0
BULK = 10

# The upper bounds of a random number from 0 to 1; what is above the last one is `ok`.
MIXES: dict[str, tuple[tuple[float, str], ...]] = {
    "plain": (),
    "mixed": (
        (0.15, "complete"),
        (0.23, "retry"),
        (0.25, "dead"),
        (0.27, "cancel"),
        (0.28, "snooze"),
        (0.30, "long"),
    ),
    "deadly": (
        (0.004, "exit"),
        (0.008, "eat"),
        (0.02, "exit_once"),
        (0.03, "block"),
        (0.04, "swallow"),
        (0.06, "fork"),
    ),
    "endurance": ((0.10, "retry"), (0.11, "dead"), (0.16, "complete")),
}


class RolledBackError(Exception):
    """The producer's own reason to roll back."""


class Producer:
    """Enqueues single jobs, bulks, and jobs in transactions of which some are rolled back."""

    def __init__(self, *, name: str, seed: int, mix: str, ledger: Ledger, queue_name: str) -> None:
        self._name = name
        self._mix = MIXES[mix]
        self._is_plain = not self._mix
        self._chance = chance_of(seed)
        self._ledger = ledger
        self._queue_name = queue_name
        self._made = 0

    async def run(self, pool: asyncpg.Pool[Any], count: int, per_second: float) -> None:
        """Enqueue `count` jobs at an even pace, whatever becomes of each."""
        queue = QueueService[Any](pool, self._queue_name)
        began_at = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while self._made < count:
                behind = began_at + self._made / per_second - time.monotonic()
                if behind > 0:
                    await asyncio.sleep(behind)
                group.create_task(self._next(queue, pool, count - self._made))

    def _next(
        self, queue: QueueService[Any], pool: asyncpg.Pool[Any], left: int
    ) -> Coroutine[Any, Any, None]:
        choice = 0.0 if self._is_plain else self._chance.random()
        if choice < 0.7:
            return self._single(queue, self._job())
        if choice < 0.8:
            return self._bulk(queue, [self._job() for _ in range(min(BULK, left))])
        is_to_fail = self._chance.random() < 0.25
        return self._in_transaction(queue, pool, self._job(), is_to_fail=is_to_fail)

    def _job(self) -> WorkflowJob:
        self._made += 1
        run_id = f"{self._name}.{self._made}"
        share = self._chance.random()
        kind = next((kind for limit, kind in self._mix if share < limit), "ok")
        payload: dict[str, Any] = {"kind": kind, "ms": self._chance.choice([1, 2, 5, 10, 20])}
        if kind == "snooze":
            payload["until"] = time.monotonic() + 1
        if kind in ("block", "swallow"):
            payload["seconds"] = 2
        if kind == "long":
            payload |= {"kind": "ok", "ms": self._chance.choice([1000, 2000, 3000])}
        return WorkflowJob(run_id=run_id, workflow_id="chaos", project_id="chaos", payload=payload)

    async def _single(self, queue: QueueService[Any], job: WorkflowJob) -> None:
        with self._noted([job]) as ids:
            ids.append(await queue.enqueue(job))

    async def _bulk(self, queue: QueueService[Any], jobs: Sequence[WorkflowJob]) -> None:
        with self._noted(jobs) as ids:
            ids.extend(await queue.enqueue_many(jobs))

    async def _in_transaction(
        self,
        queue: QueueService[Any],
        pool: asyncpg.Pool[Any],
        job: WorkflowJob,
        *,
        is_to_fail: bool,
    ) -> None:
        with self._noted([job]) as ids:
            async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                transaction = connection.transaction()
                await transaction.start()
                try:
                    msg_id = await queue.enqueue(job, connection=connection)
                except BaseException:
                    await _roll_back(transaction)
                    raise
                if is_to_fail:
                    await _roll_back(transaction)
                    raise RolledBackError
                try:
                    await transaction.commit()
                except Exception as error:
                    raise UncertainCommitError(str(error)) from error
                ids.append(msg_id)

    @contextlib.contextmanager
    def _noted(self, jobs: Sequence[WorkflowJob]) -> Iterator[list[int]]:
        """Note what becomes of jobs; the block adds the ids that they were given."""
        for job in jobs:
            self._ledger.note("attempted", job.run_id, job.payload["kind"])
        ids: list[int] = []
        event, detail = "confirmed", ""
        try:
            yield ids
        except UncertainCommitError as error:
            event, detail = "uncertain", str(error)
        except RolledBackError:
            event = "rolled_back"
        except Exception as error:  # noqa: BLE001 - whatever the library raises is noted
            # What breaks while the connection is given back changes nothing any more.
            if not ids:
                event, detail = "refused", f"{type(error).__name__}: {error}"
        for position, job in enumerate(jobs):
            self._ledger.note(event, job.run_id, ids[position] if ids else detail)


async def _roll_back(transaction: Any) -> None:
    # Where this fails the connection is gone, and the transaction with it.
    with contextlib.suppress(Exception):
        await transaction.rollback()


async def connect(url: str, *, pooled: bool) -> asyncpg.Pool[Any]:
    """Open a pool as soon as the database can be reached."""
    options: dict[str, Any] = (
        {"statement_cache_size": 0}
        if pooled
        else {"server_settings": {"application_name": "chaos producer"}}
    )
    deadline = time.monotonic() + LATEST_SECONDS
    while True:
        try:
            return await asyncpg.create_pool(url, min_size=1, max_size=8, timeout=5, **options)
        except (OSError, asyncpg.PostgresError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.3)


async def main(name: str, count: str, per_second: str, seed: str, mix: str) -> None:
    """Do it, with a minute and a fifth of the time to spare; SIGTERM ends it sooner."""
    ledger = Ledger.from_environment(f"producer-{name}")
    pool = await connect(os.environ["PRODUCER_URL"], pooled="PRODUCER_POOLED" in os.environ)
    producer = Producer(
        name=name, seed=int(seed), mix=mix, ledger=ledger, queue_name=os.environ["QUEUE"]
    )
    seconds = 1.2 * int(count) / float(per_second) + LATEST_SECONDS
    try:
        async with asyncio.timeout(seconds):
            await producer.run(pool, int(count), float(per_second))
    finally:
        pool.terminate()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    asyncio.run(main(*sys.argv[1:]))
