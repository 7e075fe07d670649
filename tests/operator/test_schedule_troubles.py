"""What keeps a JobSchedule from the database is told to it, and holds up nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, TypeAlias, cast

import asyncpg
import pytest

from meshhook import list_schedules
from meshhook.role_kinds import RoleKind
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.databases import database as database_module
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.reconciliation import queue_schedules
from meshhook_operator.reconciliation.schedule_orphans import ScheduleOrphans
from meshhook_operator.reconciliation.schedule_reporter import EVENTS_AT_ONCE
from support.declared_jobschedules import NIGHTLY, NOW, Declared, make
from support.jobschedules import jobschedule, jobschedule_with
from support.reconciled import Reconciled
from support.roles import Roles
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest.fixture
async def held_row(
    declared: Declared, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Connection]:
    """A session that keeps the schedule `nightly` locked until it ends its transaction."""
    monkeypatch.setattr(database_module, "SCHEDULE_TIMEOUT_SECONDS", 1.0)
    await declared.declare()
    other = await asyncpg.connect(database_url)
    await other.execute("begin; select from meshhook.schedules for update")
    yield other
    await other.close()


async def test_a_refusal_disturbs_no_other(declared: Declared, connection: Connection) -> None:
    """A payload that the queue does not take is a condition of its own JobSchedule."""
    await connection.execute("update meshhook.queue_config set max_payload_bytes = 2000")
    await declared.declare("large", payload={"a": "x" * 5_000})
    await declared.declare("small", second=6)
    assert (declared.state("large"), declared.state("small")) == ("NotStored", "Scheduled")
    assert [each.name for each in await list_schedules(connection)] == ["small"]


async def test_a_locked_schedule_holds_up_no_other(
    declared: Declared, held_row: Connection
) -> None:
    """It comes last the next time, and is stored once nobody holds it."""

    async def are(nightly: str, weekly: str) -> bool:
        await declared.ensure()
        return (declared.state(), declared.state("weekly")) == (nightly, weekly)

    declared.table.update(jobschedule(generation=2, cron="@hourly"))
    declared.table.update(jobschedule("weekly", second=6, cron="@weekly"))
    await eventually(lambda: are("NotStored", "Scheduled"))
    condition = declared.cluster.condition(NIGHTLY)
    assert condition is not None
    assert "did not answer within 1 seconds" in condition["message"]
    await held_row.execute("rollback")
    await eventually(lambda: are("Scheduled", "Scheduled"))


async def test_a_locked_schedule_holds_up_no_deletion(
    declared: Declared, held_row: Connection, connection: Connection
) -> None:
    """Nor does one that is to be deleted hold up one that is to be stored."""
    await declared.declare("gone", second=6)
    declared.table.remove(NIGHTLY)
    declared.table.remove(ObjectKey("shop", "gone"))
    declared.table.update(jobschedule("weekly", second=7))

    async def are(*names: str) -> bool:
        await declared.ensure()
        return [each.name for each in await list_schedules(connection)] == list(names)

    await eventually(lambda: are("nightly", "weekly"))
    await held_row.execute("rollback")
    await eventually(lambda: are("weekly"))


async def test_a_locked_schedule_does_not_stop_the_scaling(
    declared: Declared, held_row: Connection
) -> None:
    """The JobQueue stays Ready, and a decision is made; the JobSchedule says what is wrong."""
    declared.table.update(jobschedule(generation=2, cron="@hourly"))
    found = Reconciled(
        declared.database, name="jobs", cluster=declared.cluster, jobschedules=declared.table
    )

    async def is_told() -> bool:
        assert await found.reason() == ("True", "Operating")
        return declared.state() == "NotStored"

    await eventually(is_told)
    assert found.reconciler._workers.decision is not None


async def test_one_that_comes_while_its_jobqueue_is_deleted_is_told(declared: Declared) -> None:
    """A finalizer may keep the JobQueue for as long as its database is away."""
    found = Reconciled(
        declared.database, name="jobs", cluster=declared.cluster, jobschedules=declared.table
    )
    await found.reason()
    deleting = replace(found.declared, is_deleting=True)
    found.reconciler.on_jobqueue_changed(deleting)
    declared.table.update(jobschedule())
    await found.reason()
    condition = declared.cluster.condition(NIGHTLY)
    assert condition is not None
    assert condition["reason"] == "JobQueueNotReady"
    assert "it is being deleted" in condition["message"]


async def test_a_role_that_may_not_delete_still_stores(
    declared: Declared, connection: Connection, database_url: str
) -> None:
    """A role made by hand may lack one right; what it may do is done, and the rest is told."""
    await declared.declare()
    async with Roles(database_url, connection) as roles:
        name = await roles.make(RoleKind.OPERATOR)
        own = make(roles.url(name))
        try:
            await connection.execute(f"revoke delete on meshhook.schedules from {name}")
            declared.database = own
            declared.table.remove(NIGHTLY)
            await declared.declare("weekly", second=6)
            assert declared.state("weekly") == "Scheduled"
            await connection.execute(f"revoke select on meshhook.schedules from {name}")
            await declared.declare("monthly", second=7)
            condition = declared.cluster.condition(ObjectKey("shop", "monthly"))
            assert condition is not None
            assert condition["reason"] == "JobQueueNotReady"
            assert "its schedules cannot be read" in condition["message"]
            assert declared.state("weekly") == "Scheduled"
        finally:
            await own.close()
    assert {each.name for each in await list_schedules(connection)} == {"nightly", "weekly"}


async def test_a_change_during_a_look_is_not_forgotten(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JobSchedule that comes while another one is being stored is stored with the next tick."""
    monkeypatch.setattr(queue_schedules, "LOOK_SECONDS", 3_600.0)
    patch = declared.cluster.patch_schedule_status

    async def patch_late(key: ObjectKey, status: dict[str, Any]) -> None:
        if key == NIGHTLY:
            declared.table.update(jobschedule("weekly", second=6))
        await patch(key, status)

    monkeypatch.setattr(declared.cluster, "patch_schedule_status", patch_late)
    await declared.declare()
    await declared.ensure()
    assert declared.state("weekly") == "Scheduled"


async def test_why_a_schedule_cannot_be_fired(declared: Declared, connection: Connection) -> None:
    """What a worker has noted is in the status, once the expression is one that workers read."""
    await declared.declare()
    await connection.execute("update meshhook.schedules set error = 'no table', failed_at = now()")
    await declared.ensure()
    condition = declared.cluster.condition(NIGHTLY)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "NotFired")
    assert "no table" in condition["message"]


async def test_what_flickers_floods_the_cluster_with_no_events(
    declared: Declared, connection: Connection
) -> None:
    """The status follows, and some changes have no event: a database may be anybody's."""
    await declared.declare()
    for number in range(40):
        error = "no table" if number % 2 == 0 else None
        await connection.execute("update meshhook.schedules set error = $1", error)
        await declared.ensure()
        assert declared.state() == ("NotFired" if error else "Scheduled")
    assert len(declared.cluster.events) == EVENTS_AT_ONCE


async def test_nothing_is_changed_without_the_lead(
    declared: Declared, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process whose Lease has run out neither stores nor deletes."""
    await declared.declare()

    def refuse(_: str) -> None:
        raise NotLeadingError("not leading")

    monkeypatch.setattr(declared.cluster, "check_may_write", refuse)
    await declared.declare("weekly", second=6)
    declared.table.remove(NIGHTLY)
    await declared.ensure()
    assert [each.name for each in await list_schedules(connection)] == ["nightly"]


async def test_a_jobqueue_that_is_not_ready_is_told_to_new_ones(declared: Declared) -> None:
    """Those that are stored already keep their status: their schedules go on."""
    await declared.declare()
    declared.table.update(jobschedule("weekly", second=6))
    await declared.schedules.hold("the database does not answer")
    condition = declared.cluster.condition(ObjectKey("shop", "weekly"))
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("Unknown", "JobQueueNotReady")
    assert declared.state() == "Scheduled"


async def test_one_that_had_no_jobqueue_is_told_of_it(declared: Declared) -> None:
    """It exists now, though its database cannot be read: the message must not deny it."""
    orphans = ScheduleOrphans(
        cluster=cast("Any", declared.cluster), table=declared.table, clock=lambda: NOW
    )
    declared.table.update(jobschedule())
    for _ in range(2):
        await orphans.tell({}, lambda _: True)
    assert declared.state() == "JobQueueNotFound"
    await declared.schedules.hold("the database does not answer")
    assert declared.state() == "JobQueueNotReady"


async def test_another_reason_of_a_jobqueue_is_told_later(
    declared: Declared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once: a server may say something else with each tick."""
    declared.table.update(jobschedule())

    def told() -> str:
        condition = declared.cluster.condition(NIGHTLY)
        assert condition is not None
        message: str = condition["message"]
        return message

    monkeypatch.setattr(queue_schedules, "LOOK_SECONDS", 3_600.0)
    await declared.schedules.hold("the first reason")
    await declared.schedules.hold("the second reason")
    assert "the first reason" in told()
    monkeypatch.setattr(queue_schedules, "LOOK_SECONDS", 0.0)
    await declared.schedules.hold("the second reason")
    assert "the second reason" in told()
    assert [each[1] for each in declared.cluster.events] == ["JobQueueNotReady"]


async def test_what_is_wrong_with_a_spec_is_told_without_a_database(declared: Declared) -> None:
    """Whoever made a typing error need not wait for the database to learn of it."""
    declared.table.update(jobschedule(cron="0 25 * * *"))
    declared.table.update(jobschedule("first", scheduleName="poll", second=6))
    declared.table.update(jobschedule("second", scheduleName="poll", second=7))
    await declared.schedules.hold("the database does not answer")
    found = (declared.state(), declared.state("first"), declared.state("second"))
    assert found == ("InvalidSpec", "JobQueueNotReady", "Conflict")


async def test_a_change_that_waits_keeps_the_known_times(declared: Declared) -> None:
    """The schedule goes on as it is stored, whatever has changed since."""
    await declared.declare()
    before = dict(declared.cluster.statuses[NIGHTLY])
    declared.table.update(jobschedule_with(before, generation=2, cron="@hourly"))
    await declared.schedules.hold("the database does not answer")
    after = declared.cluster.statuses[NIGHTLY]
    assert after["state"] == "JobQueueNotReady"
    assert (after["queue"], after["nextScheduleTime"]) == ("jobs", before["nextScheduleTime"])


async def test_one_without_a_jobqueue_is_told(declared: Declared) -> None:
    """Not at once: at the start, its JobQueue may come later than it."""
    orphans = ScheduleOrphans(
        cluster=cast("Any", declared.cluster), table=declared.table, clock=lambda: NOW
    )
    declared.table.update(jobschedule())
    await orphans.tell({}, lambda _: True)
    assert declared.state() is None
    await orphans.tell({}, lambda _: True)
    assert declared.state() == "JobQueueNotFound"
    writes = len(declared.cluster.events)
    await orphans.tell({}, lambda _: True)
    assert len(declared.cluster.events) == writes
