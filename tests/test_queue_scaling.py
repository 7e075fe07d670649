"""How operators scale queues, as it stands in the database."""

from __future__ import annotations

from typing import TypeAlias

import asyncpg
import pytest

from meshhook import Database, create_queue, drop_queue, list_queue_scaling, set_queue_config
from meshhook.queue_scaling import known_queue_scaling
from meshhook.role_kinds import RoleKind
from support.roles import Roles
from support.scaling_rows import write_scaling

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def test_each_jobqueue_has_a_row(connection: Connection, queue_name: str) -> None:
    """Also two of one name in two clusters; a decision keeps its time until it is another one."""
    await write_scaling(connection, uid="a", desired_replicas=3)
    await write_scaling(connection, uid="b", desired_replicas=1)
    first, _ = before = await list_queue_scaling(connection)
    assert [each.jobqueue_uid for each in before] == ["a", "b"]
    assert (first.target_age_seconds, first.min_replicas, first.max_replicas) == (30, 1, 20)
    assert not first.is_stale
    await connection.execute(
        "update meshhook.queue_scaling set decided_at = decided_at - interval '1 hour'"
    )
    await write_scaling(connection, uid="a", desired_replicas=3, replicas=3)
    await write_scaling(connection, uid="b", desired_replicas=2)
    same, other = await list_queue_scaling(connection, "jobs")
    assert first.decided_at is not None
    assert same.decided_at is not None
    assert other.decided_at is not None
    assert same.decided_at < first.decided_at < other.decided_at
    assert same.replicas == 3


async def test_priorities_are_what_is_planned_for(connection: Connection, queue_name: str) -> None:
    """While a queue has priorities, their targets count, and not the target age."""
    await create_queue(connection, "others")
    await write_scaling(connection, uid="a", target_age_seconds=30.0)
    await write_scaling(connection, uid="b", queue="others", target_age_seconds=30.0)
    targets = (1.0, 2.0, 90.0, 3600.0)
    await set_queue_config(connection, queue_name, priority_target_seconds=targets)
    before, _ = await list_queue_scaling(connection)
    assert (before.priority_target_seconds, before.longest_target_seconds) == ((), 30)
    await set_queue_config(connection, queue_name, prioritized=True)
    with_priorities, without = await list_queue_scaling(connection)
    assert with_priorities.priority_target_seconds == targets
    assert with_priorities.longest_target_seconds == 3600
    assert (without.priority_target_seconds, without.longest_target_seconds) == ((), 30)


async def test_a_row_goes_stale_and_then_away(connection: Connection, queue_name: str) -> None:
    """After three minutes it is stale; after a week it is not listed, and a write deletes it."""
    await write_scaling(connection, uid="a")
    await connection.execute(
        "update meshhook.queue_scaling set written_at = now() - interval '3 min 1 s'"
    )
    [only] = await list_queue_scaling(connection)
    assert only.is_stale
    await connection.execute(
        "update meshhook.queue_scaling set written_at = now() - interval '8 days'"
    )
    assert await list_queue_scaling(connection) == []
    await write_scaling(connection, uid="b")
    rows = await connection.fetch("select jobqueue_uid from meshhook.queue_scaling")
    assert [row["jobqueue_uid"] for row in rows] == ["b"]


async def test_a_jobqueue_has_one_queue(connection: Connection, queue_name: str) -> None:
    """One that serves another queue from now on leaves no row behind; nor does a dropped queue."""
    await create_queue(connection, "others")
    await write_scaling(connection, uid="a")
    await write_scaling(connection, uid="a", queue="others")
    [only] = await list_queue_scaling(connection)
    assert only.queue == "others"
    await drop_queue(connection, "others")
    assert await list_queue_scaling(connection) == []


@pytest.mark.parametrize("kind", [RoleKind.READER, RoleKind.ONCALL, RoleKind.PRODUCER])
async def test_a_role_sees_what_it_may(
    kind: RoleKind, database_url: str, connection: Connection, queue_name: str
) -> None:
    """A reader of one queue sees its rows only; a producer none, and is not refused for that."""
    await create_queue(connection, "others")
    await write_scaling(connection, uid="a")
    await write_scaling(connection, uid="b", queue="others")
    async with Roles(database_url, connection) as roles:
        database = Database(roles.url(await roles.make(kind, "jobs")))
        found = await known_queue_scaling(database)
        await database.close()
    wanted = [] if kind is RoleKind.PRODUCER else ["a"]
    assert [each.jobqueue_uid for each in found] == wanted
