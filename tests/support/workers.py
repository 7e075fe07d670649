"""Workers for tests: in this process with handy defaults, and as processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Worker
from meshhook.worker import lease_keeper, shutdown
from meshhook.worker.connections import WorkerConnection

TESTS = Path(__file__).parent.parent


def make_worker(url: str, handler: Any, **options: Any) -> Worker:
    """Return a worker on queue `jobs` with metrics of its own; not started."""
    options.setdefault("registry", CollectorRegistry())
    options.setdefault("grace_seconds", 5)
    return Worker(url, options.pop("queue_name", "jobs"), handler, **options)


def extend_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers of this process extend all leases many times a second, however long they are.

    A test that waits for an extension needs no leases of a second then, which end by themselves on
    a machine that stands still for a moment.
    """
    monkeypatch.setattr(lease_keeper, "EXTEND_AFTER", 0.0)
    monkeypatch.setattr(lease_keeper, "MAX_PAUSE_SECONDS", 0.05)


def stop_patiently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers of this process wait longer than their grace period until all is given back.

    A short one leaves a fraction of a second for that, which a machine may stand still.
    """
    monkeypatch.setattr(shutdown, "LEAST_SECONDS", 30.0)


def wait_long_for_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let statements of workers of this process wait for a lock until the test gives it back.

    Else they give up after a second at most, in which the test may stand still between the moment
    at which it sees that one waits and what it does to it.
    """
    make = WorkerConnection.__init__

    def make_patient(self: WorkerConnection, *arguments: Any, **options: Any) -> None:
        make(self, *arguments, **options | {"lock_timeout_seconds": 60.0})

    monkeypatch.setattr(WorkerConnection, "__init__", make_patient)


async def outcomes(connection: asyncpg.Connection[Any], msg_id: int) -> list[tuple[str, int]]:
    """Return the (outcome, attempt) rows of a job's history, by attempt."""
    rows = await connection.fetch(
        "select outcome, attempt from meshhook.job_attempts where msg_id = $1 "
        "order by attempt, finished_at",
        msg_id,
    )
    return [(row["outcome"], row["attempt"]) for row in rows]


async def live(
    connection: asyncpg.Connection[Any] | asyncpg.Pool[Any],
) -> dict[int, asyncpg.Record]:
    """Return the messages of queue `jobs` by id, with their state and read_ct."""
    rows = await connection.fetch(
        "select msg_id, read_ct, vt, meshhook.message_state(vt, read_ct, headers) as state "
        "from pgmq.q_jobs"
    )
    return {row["msg_id"]: row for row in rows}


async def reports(connection: asyncpg.Connection[Any]) -> dict[str, asyncpg.Record]:
    """Return the rows of `meshhook.workers` by queue; for tests with one worker."""
    return {row["queue"]: row for row in await connection.fetch("select * from meshhook.workers")}


@asynccontextmanager
async def worker_process(
    url: str, handler: str, *, ledger: Path, loop: str = "asyncio", **options: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `support.worker_process` on queue `jobs`; killed at the end if it still runs.

    Args:
        url: the database.
        handler: the name of a handler in `support.worker_process`.
        ledger: the file to which the handler writes a line for each event.
        loop: which event loop it has, `asyncio` or `uvloop`. Default asyncio.
        options: further arguments of `Worker`.
    """
    environment = os.environ | {
        "MESHHOOK_DATABASE_URL": url,
        "PYTHONPATH": str(TESTS),
        "LEDGER": str(ledger),
        "HANDLER": handler,
        "LOOP": loop,
    }
    for name, value in options.items():
        environment[f"OPTION_{name}"] = str(value)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "support.worker_process"),
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        # With all that its handlers have forked.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def ledger_lines(ledger: Path) -> list[list[str]]:
    """Return the complete lines of a ledger, split into words."""
    if not ledger.exists():
        return []
    return [line.split() for line in ledger.read_text().split("\n")[:-1]]
