"""The handler of the fleet: it does what the payload says, and notes it in the ledger."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from meshhook import Cancel, DeadLetter, Job, Snooze
from support.chaos.ledger import Ledger

EFFECT_SECONDS = 15.0

_ledgers: dict[int, Ledger] = {}
_pools: dict[int, asyncpg.Pool[Any]] = {}


def ledger() -> Ledger:
    """Return the ledger of this process; one that a handler forked has its own."""
    pid = os.getpid()
    if pid not in _ledgers:
        _ledgers[pid] = Ledger.from_environment("handler")
    return _ledgers[pid]


async def handle(job: Job[Any]) -> None:
    """Do a job, and note its start and its end."""
    run_id = str(job.run_id)
    ledger().note("started", run_id, job.attempt)
    try:
        await do(job, run_id)
    except BaseException as error:
        ledger().note("failed", run_id, type(error).__name__)
        raise
    ledger().note("ended", run_id, job.attempt)


async def do(job: Job[Any], run_id: str) -> None:
    """Do what the payload says."""
    kind = job.payload["kind"]
    if job.payload.get("ms"):
        await asyncio.sleep(job.payload["ms"] / 1000)
    if kind in ENDINGS:
        ENDINGS[kind](job)
    elif kind == "complete":
        await complete(job, run_id)
    elif kind == "block":
        time.sleep(job.payload["seconds"])  # noqa: ASYNC251 - that is the point
    elif kind == "eat":
        await eat()
    elif kind == "swallow":
        await swallow(job.payload["seconds"])


def fail_at_first(job: Job[Any]) -> None:
    """Fail the first attempt."""
    if job.attempt == 1:
        raise ValueError("as the payload says")


def bury(_: Job[Any]) -> None:
    """Ask for the dead letters."""
    raise DeadLetter("as the payload says", error_type="Asked")


def cancel(_: Job[Any]) -> None:
    """Ask for no more attempts."""
    raise Cancel("as the payload says")


def snooze(job: Job[Any]) -> None:
    """Come again later, until a moment has passed."""
    if time.monotonic() < job.payload["until"]:
        raise Snooze(0.2)


def die(_: Job[Any]) -> None:
    """Take the process along."""
    os._exit(7)


def die_at_first(job: Job[Any]) -> None:
    """Take the process along, once."""
    if job.attempt == 1:
        os._exit(7)


def fork(_: Job[Any]) -> None:
    """Leave a child behind that lives for a while, as a library might."""
    pid = os.fork()
    if pid == 0:
        time.sleep(2)
        os._exit(0)
    ledger().note("forked", "", pid)


ENDINGS: Mapping[str, Callable[[Job[Any]], None]] = {
    "retry": fail_at_first,
    "dead": bury,
    "cancel": cancel,
    "snooze": snooze,
    "exit": die,
    "exit_once": die_at_first,
    "fork": fork,
}


async def complete(job: Job[Any], run_id: str) -> None:
    """Settle the job in one transaction with its effect."""
    async with effect() as connection:
        await connection.execute(
            "insert into effects (run_id, msg_id, attempt, pid) values ($1, $2, $3, $4)",
            run_id,
            job.msg_id,
            job.attempt,
            os.getpid(),
        )
        await job.complete(connection=connection)


@asynccontextmanager
async def effect() -> AsyncIterator[Any]:
    """Yield a connection within a transaction."""
    pid = os.getpid()
    if pid not in _pools:
        _pools[pid] = asyncpg.create_pool(
            os.environ["EFFECT_URL"],
            min_size=0,
            max_size=4,
            timeout=5,
            command_timeout=10,
            statement_cache_size=0,
        )
    pool = await _pools[pid]
    async with (
        asyncio.timeout(EFFECT_SECONDS),
        pool.acquire() as connection,
        connection.transaction(),
    ):
        yield connection


async def eat() -> None:
    """Take memory until there is none left."""
    hoard = []
    while True:
        hoard.append(os.urandom(8 << 20))
        await asyncio.sleep(0.005)


async def swallow(seconds: float) -> None:
    """Take no notice of being cancelled."""
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue
