"""Schedules that are due, and what fires them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import TypeAlias

import asyncpg

from meshhook.worker.connections import WorkerConnection
from meshhook.worker.scheduler import Scheduler

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@asynccontextmanager
async def scheduler(url: str) -> AsyncIterator[Scheduler]:
    """What fires schedules in a worker, on a connection of its own."""
    connection = WorkerConnection(url, application_name="meshhook worker jobs")
    try:
        yield Scheduler(connection=connection)
    finally:
        await connection.close()


async def make_due(
    connection: Connection, name: str, ago: timedelta = timedelta(0), *, queue: str = "jobs"
) -> datetime:
    """Put the next due time of a schedule into the past, to a full second, and return it."""
    moment: datetime = await connection.fetchval(
        "update meshhook.schedules set next_at = date_trunc('second', now() - $3::interval), "
        "try_at = date_trunc('second', now() - $3::interval) where queue = $1 and name = $2 "
        "returning next_at",
        queue,
        name,
        ago,
    )
    return moment
