"""The handler of the workers: it sleeps as long as its job says. Mounted into their pods.

With `SLEEPER_START_SECONDS=23-44` its import takes anything between these, as that of a model
would. A job that is interrupted, because its pod was stopped and did not wait for it, is noted in
`bench.interruptions`: the history holds no attempt of it.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time

import asyncpg
from pydantic import BaseModel

from meshhook import Job, RetryAfter, create_job_handler

NOTE = (
    "insert into bench.interruptions (run_id, host, started_at, ended_at)"
    " values ($1, $2, to_timestamp($3), to_timestamp($4))"
)


class Sleep(BaseModel):
    """The payload of a job."""

    run_seconds: float
    failures: int = 0
    retry_seconds: float = 1.0
    retry_at: float | None = None
    """A Unix time; it replaces `retry_seconds`."""


@create_job_handler(payload_model=Sleep)
async def sleep(job: Job[Sleep]) -> None:
    """Sleep, and fail as often as the job says."""
    started = time.time()
    try:
        await asyncio.sleep(job.payload.run_seconds)
    except asyncio.CancelledError:
        await _note_interruption(str(job.run_id), started)
        raise
    if job.attempt <= job.payload.failures:
        at = job.payload.retry_at
        raise RetryAfter(
            job.payload.retry_seconds if at is None else max(0.0, at - time.time()),
            "fails as it was told to",
        )


async def _note_interruption(run_id: str, started: float) -> None:
    connection = await asyncpg.connect(os.environ["MESHHOOK_DATABASE_URL"], timeout=2)
    try:
        await connection.execute(NOTE, run_id, socket.gethostname(), started, time.time())
    finally:
        await connection.close(timeout=1)


def _wait_as_a_slow_start_would() -> None:
    shortest, _, longest = os.environ.get("SLEEPER_START_SECONDS", "0-0").partition("-")
    time.sleep(random.uniform(float(shortest), float(longest)))


_wait_as_a_slow_start_would()
