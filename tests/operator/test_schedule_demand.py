"""Schedules as demand: a queue without workers is woken ahead of a due time, since workers fire."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import add_schedule, create_queue, pause_schedule, set_queue_config
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, read_demand
from support.roles import Roles
from support.schedules import make_due, scheduler

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RARELY = "0 0 1 1 *"


async def due(source: Any, lookahead_seconds: float = 20) -> tuple[int, Any]:
    """Return how many are due soon, and when the next one is."""
    requests = [DemandRequest("jobs", lookahead_seconds)]
    found = (await read_demand(Database.of(source), requests, waiting_seconds=30))["jobs"]
    assert isinstance(found, QueueDemand), found
    assert found.status.scheduled == 0
    return found.sample.due_soon, found.sample.next_due_seconds


async def test_a_schedule_is_due_within_the_lead(connection: Connection) -> None:
    """It counts once its due time is as near as a pod takes to start, and until it is fired."""
    await add_schedule(connection, "jobs", "poll", RARELY)
    await make_due(connection, "poll", -timedelta(seconds=600))
    assert await due(connection) == (0, pytest.approx(600, abs=100))
    assert await due(connection, 1_200) == (1, pytest.approx(600, abs=100))
    await make_due(connection, "poll", timedelta(hours=1))
    assert await due(connection) == (1, 0)


async def test_firing_ends_the_demand(connection: Connection, database_url: str) -> None:
    """The job itself is ready then, and the next due time is far."""
    await add_schedule(connection, "jobs", "poll", RARELY)
    await make_due(connection, "poll")
    assert (await due(connection))[0] == 1
    async with scheduler(database_url) as firing:
        await firing.look()
    count, seconds = await due(connection)
    assert count == 0
    assert seconds > 60


async def test_a_schedule_that_is_not_planned_yet_needs_a_worker(connection: Connection) -> None:
    """The database reads no cron expressions: a worker works out the first due time."""
    await connection.execute("select meshhook.add_schedule('jobs', 'sql', cron => '0 0 * * *')")
    assert (await due(connection))[0] == 1


async def test_others_ask_for_nothing(connection: Connection) -> None:
    """Neither a paused schedule, nor one without further due times, nor that of another queue."""
    await create_queue(Database(connection), "others")
    for queue, name in (("jobs", "paused"), ("jobs", "over"), ("others", "poll")):
        await add_schedule(connection, queue, name, RARELY)
        await make_due(connection, name, queue=queue)
    await pause_schedule(connection, "jobs", "paused")
    await connection.execute(
        "update meshhook.schedules set next_at = null, try_at = null where name = 'over'"
    )
    assert await due(connection) == (0, None)


async def test_a_queue_with_limits_counts_them_too(connection: Connection) -> None:
    """Its numbers come from another function, which knows no schedules."""
    await set_queue_config(connection, "jobs", keyed=True, max_running=1)
    await add_schedule(connection, "jobs", "poll", RARELY)
    await make_due(connection, "poll")
    assert (await due(connection))[0] == 1


async def test_an_operators_role_sees_them(connection: Connection, database_url: str) -> None:
    """One that may not, of a database with roles made by hand, still reads the queue."""
    await add_schedule(connection, "jobs", "poll", RARELY)
    await make_due(connection, "poll")
    async with Roles(database_url, connection) as roles:
        name = await roles.make(RoleKind.OPERATOR)
        own = await asyncpg.connect(roles.url(name))
        try:
            assert (await due(own))[0] == 1
            await connection.execute(f"revoke select on meshhook.schedules from {name}")
            assert (await due(own))[0] == 0
        finally:
            await own.close()
