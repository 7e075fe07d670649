"""JobSchedules and the schedules in a real database: what is declared is there, and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import date
from typing import Any, TypeAlias, cast

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    add_schedule,
    delete_schedule,
    get_schedule,
    list_audit_entries,
    list_schedules,
    pause_schedule,
    resume_schedule,
    run_schedule,
)
from meshhook.role_kinds import RoleKind
from meshhook_operator.api.jobqueue import ObjectKey
from meshhook_operator.api.jobschedule import JobSchedule
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.errors import NotLeadingError
from meshhook_operator.reconciliation import queue_schedules
from meshhook_operator.reconciliation.jobschedules import JobScheduleTable
from meshhook_operator.reconciliation.queue_schedules import QueueSchedules
from meshhook_operator.reconciliation.schedule_orphans import ScheduleOrphans
from meshhook_operator.reconciliation.schedule_reporter import ScheduleReporter
from support.databases import Databases
from support.jobschedules import jobschedule, jobschedule_body
from support.recorded_cluster import RecordedCluster
from support.roles import Roles

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KEY = ObjectKey("shop", "jobs")
NIGHTLY = ObjectKey("shop", "nightly")
NOW = 1_800_000_000.0


def jobschedule_with(status: dict[str, Any], **changes: Any) -> JobSchedule:
    """Return a JobSchedule that has this status."""
    return JobSchedule.from_body(jobschedule_body(**changes) | {"status": status})


class Declared:
    """The JobSchedules of one JobQueue, and what the operator makes of them."""

    def __init__(self, database: QueueDatabase) -> None:
        self.database = database
        self.cluster = RecordedCluster()
        self.table = JobScheduleTable(on_change=lambda _: self.schedules.requeue())
        self.schedules = self.started()
        self.table.is_listed = True

    def started(self) -> QueueSchedules:
        """Return what an operator that has just started works with."""
        cluster = cast("Any", self.cluster)
        return QueueSchedules(
            KEY,
            table=self.table,
            reporter=ScheduleReporter(cluster=cluster, table=self.table, clock=lambda: NOW),
            check_may_write=self._check_may_write,
        )

    def _check_may_write(self, namespace: str) -> None:
        self.cluster.check_may_write(namespace)

    async def ensure(self) -> None:
        """Let the operator look."""
        await self.schedules.ensure("jobs", self.database)

    async def declare(self, name: str = "nightly", **changes: Any) -> None:
        """Create or change a JobSchedule, and let the operator look."""
        self.table.update(jobschedule(name, **changes))
        await self.ensure()

    def state(self, name: str = "nightly") -> str | None:
        """Return the reason of Ready."""
        condition = self.cluster.condition(ObjectKey("shop", name))
        return condition["reason"] if condition else None


def make(url: str) -> QueueDatabase:
    """Return the operator's view of a database."""
    return QueueDatabase(
        DatabaseAddress(url, pooled=False),
        on_wake=lambda _: None,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )


@pytest.fixture
async def declared(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Declared]:
    """The JobSchedules of queue `jobs`; the operator looks each time."""
    monkeypatch.setattr(queue_schedules, "LOOK_SECONDS", 0.0)
    database = make(database_url)
    yield Declared(database)
    await database.close()


@pytest.fixture
def other_url(
    databases: Databases, template_with_queue_of_day: Callable[[date], str], today: date
) -> Iterator[str]:
    """The URL of another database with a queue `jobs`."""
    url = databases.create(template=template_with_queue_of_day(today))
    yield url
    databases.drop(url)


async def test_what_is_declared_is_stored(declared: Declared, connection: Connection) -> None:
    """With its first due time; the status says when that is, and an event that it is there."""
    await declared.declare(timeZone="Europe/Berlin", payload={"n": 1}, overlap="skip")
    found = await get_schedule(connection, "jobs", "nightly")
    assert (found.cron, found.time_zone, found.overlap) == ("0 3 * * *", "Europe/Berlin", "skip")
    assert found.message == '{"n": 1}'
    assert found.next_at is not None
    status = declared.cluster.statuses[NIGHTLY]
    assert (status["state"], status["queue"]) == ("Scheduled", "jobs")
    assert status["nextScheduleTime"] == found.next_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [(event[0], event[1]) for event in declared.cluster.events] == [(NIGHTLY, "Scheduled")]
    await run_schedule(connection, "jobs", "nightly")
    await declared.ensure()
    assert "lastScheduleTime" in declared.cluster.statuses[NIGHTLY]


async def test_the_audit_log_names_the_jobschedule(
    declared: Declared, connection: Connection
) -> None:
    """Of what it adds, changes and deletes."""
    await declared.declare()
    await declared.declare(generation=2, cron="0 4 * * *")
    declared.table.remove(NIGHTLY)
    await declared.ensure()
    entries = await list_audit_entries(connection, "jobs")
    found = [(each.action, each.actor, each.source) for each in entries]
    assert [each for each in reversed(found) if each[0].startswith("schedule.")] == [
        (f"schedule.{what}", "operator shop/nightly", "operator")
        for what in ("added", "changed", "deleted")
    ]


async def test_a_change_keeps_the_history(declared: Declared, connection: Connection) -> None:
    """Another expression begins from now on; the firings stay."""
    await declared.declare()
    await run_schedule(connection, "jobs", "nightly")
    await declared.declare(generation=2, cron=None, everySeconds=3_600)
    found = await get_schedule(connection, "jobs", "nightly")
    assert (found.cron, found.every_seconds) == (None, 3_600)
    assert found.last_msg_id is not None


async def test_what_somebody_changes_is_changed_back(
    declared: Declared, connection: Connection
) -> None:
    """Also what somebody deletes; nothing is written while all is as declared."""
    await declared.declare(payload={"n": 1})
    marked = "select xmin::text || ctid::text from meshhook.schedules"
    before = await connection.fetchval(marked)
    await declared.ensure()
    assert await connection.fetchval(marked) == before
    await connection.execute("update meshhook.schedules set message = '{}', cron = '* * * * *'")
    await declared.ensure()
    found = await get_schedule(connection, "jobs", "nightly")
    assert (found.cron, found.message) == ("0 3 * * *", '{"n": 1}')
    await delete_schedule(connection, "jobs", "nightly")
    await declared.ensure()
    assert (await get_schedule(connection, "jobs", "nightly")).cron == "0 3 * * *"


async def test_a_pause_by_hand_holds_unless_it_is_declared(
    declared: Declared, connection: Connection
) -> None:
    """Without spec.paused, on-call may pause it; with it, the spec decides."""
    await declared.declare()
    await pause_schedule(connection, "jobs", "nightly")
    await declared.ensure()
    assert (await get_schedule(connection, "jobs", "nightly")).paused
    assert declared.state() == "Paused"
    await declared.declare(generation=2, paused=False)
    assert not (await get_schedule(connection, "jobs", "nightly")).paused
    await declared.declare(generation=3, paused=True)
    await resume_schedule(connection, "jobs", "nightly")
    await declared.ensure()
    assert (await get_schedule(connection, "jobs", "nightly")).paused


async def test_a_schedule_goes_with_its_resource(
    declared: Declared, connection: Connection
) -> None:
    """Those made by hand stay, as do those of other namespaces and queues."""
    await add_schedule(connection, "jobs", "by-hand", "@daily")
    await add_schedule(connection, "jobs", "elsewhere", "@daily")
    await connection.execute(
        "update meshhook.schedules set resource = 'other/elsewhere' where name = 'elsewhere'"
    )
    await declared.declare()
    await declared.declare("weekly", second=6, cron="@weekly")
    declared.table.remove(NIGHTLY)
    await declared.ensure()
    names = [each.name for each in await list_schedules(connection)]
    assert names == ["by-hand", "elsewhere", "weekly"]


async def test_what_was_deleted_while_no_operator_ran_goes_too(
    declared: Declared, connection: Connection
) -> None:
    """The database says which resource a schedule is of; but not before all have been listed."""
    await declared.declare()
    declared.table.remove(NIGHTLY)
    declared.table.is_listed = False
    declared.schedules = declared.started()
    await declared.ensure()
    assert len(await list_schedules(connection)) == 1
    declared.table.list_all([], declared.table.uids())
    await declared.ensure()
    assert await list_schedules(connection) == []


async def test_a_database_that_comes_back_is_looked_at(
    declared: Declared, connection: Connection, other_url: str
) -> None:
    """What was deleted while the JobQueue had another database is deleted in this one too."""
    first = declared.database
    await declared.declare()
    second = declared.database = make(other_url)
    try:
        await declared.ensure()
        declared.table.remove(NIGHTLY)
        await declared.ensure()
        await declared.ensure()
        assert len(await list_schedules(connection)) == 1
    finally:
        await second.close()
    declared.database = first
    await declared.ensure()
    assert await list_schedules(connection) == []


async def test_an_invalid_spec_changes_nothing(declared: Declared, connection: Connection) -> None:
    """A typing error stops no schedule that runs; the status names it."""
    await declared.declare()
    await declared.declare(generation=2, cron="0 25 * * *")
    assert (await get_schedule(connection, "jobs", "nightly")).cron == "0 3 * * *"
    condition = declared.cluster.condition(NIGHTLY)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "InvalidSpec")
    assert "0 25 * * *" in condition["message"]
    assert condition["observedGeneration"] == 2


async def test_one_made_by_hand_is_not_overwritten(
    declared: Declared, connection: Connection
) -> None:
    """The resource is in conflict until somebody deletes it, or names another."""
    await add_schedule(connection, "jobs", "nightly", "@hourly")
    await declared.declare()
    assert declared.state() == "Conflict"
    assert (await get_schedule(connection, "jobs", "nightly")).cron == "0 * * * *"
    declared.table.remove(NIGHTLY)
    await declared.ensure()
    assert len(await list_schedules(connection)) == 1
    await delete_schedule(connection, "jobs", "nightly")
    await declared.declare()
    assert declared.state() == "Scheduled"


async def test_of_two_resources_the_older_one_has_the_schedule(
    declared: Declared, connection: Connection
) -> None:
    """The other one is in conflict, and takes it up when the first is gone."""
    await declared.declare("first", scheduleName="poll", second=5)
    await declared.declare("second", scheduleName="poll", second=6, cron="@hourly")
    assert (declared.state("first"), declared.state("second")) == ("Scheduled", "Conflict")
    assert (await get_schedule(connection, "jobs", "poll")).cron == "0 3 * * *"
    declared.table.remove(ObjectKey("shop", "first"))
    await declared.ensure()
    assert declared.state("second") == "Scheduled"
    assert (await get_schedule(connection, "jobs", "poll")).cron == "0 * * * *"


async def test_an_older_one_takes_over_what_it_declares_later(
    declared: Declared, connection: Connection
) -> None:
    """The younger one, which had the schedule, is in conflict from then on, and not both."""
    await declared.declare("first", second=5)
    await declared.declare("second", scheduleName="poll", second=6, cron="@hourly")
    await declared.declare("first", second=5, generation=2, scheduleName="poll")
    assert (declared.state("first"), declared.state("second")) == ("Scheduled", "Conflict")
    assert [each.cron for each in await list_schedules(connection)] == ["0 3 * * *"]
    assert (await get_schedule(connection, "jobs", "poll")).name == "poll"


async def test_two_may_exchange_their_schedules(declared: Declared, connection: Connection) -> None:
    """In one change of both, as a commit to a repository that is applied would."""
    await declared.declare("first", scheduleName="a", second=5)
    await declared.declare("second", scheduleName="b", second=6, cron="@hourly")
    declared.table.update(jobschedule("first", scheduleName="b", second=5, generation=2))
    await declared.declare("second", scheduleName="a", second=6, generation=2, cron="@hourly")
    assert (declared.state("first"), declared.state("second")) == ("Scheduled", "Scheduled")
    found = {each.name: each.cron for each in await list_schedules(connection)}
    assert found == {"a": "0 * * * *", "b": "0 3 * * *"}


async def test_an_invalid_spec_still_says_where_its_schedule_is(declared: Declared) -> None:
    """It goes on under the name that it has in the database."""
    await declared.declare(scheduleName="poll")
    await declared.declare(generation=2, scheduleName="poll", cron="0 25 * * *")
    status = declared.cluster.statuses[NIGHTLY]
    assert (status["state"], status["queue"]) == ("InvalidSpec", "jobs")
    assert status["nextScheduleTime"] is not None


async def test_a_refusal_disturbs_no_other(declared: Declared, connection: Connection) -> None:
    """A payload that the queue does not take is a condition of its own JobSchedule."""
    await connection.execute("update meshhook.queue_config set max_payload_bytes = 2000")
    await declared.declare("large", payload={"a": "x" * 5_000})
    await declared.declare("small", second=6)
    assert (declared.state("large"), declared.state("small")) == ("NotStored", "Scheduled")
    assert [each.name for each in await list_schedules(connection)] == ["small"]


async def test_why_a_schedule_cannot_be_fired(declared: Declared, connection: Connection) -> None:
    """What a worker has noted is in the status, once the expression is one that workers read."""
    await declared.declare()
    await connection.execute("update meshhook.schedules set error = 'no table', failed_at = now()")
    await declared.ensure()
    condition = declared.cluster.condition(NIGHTLY)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("False", "NotFired")
    assert "no table" in condition["message"]


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


async def test_a_listing_finds_what_the_watch_missed(declared: Declared) -> None:
    """Those that are not in it are gone, but not those that came while it was made."""
    declared.table.update(jobschedule("old"))
    known = declared.table.uids()
    declared.table.update(jobschedule("new", second=7))
    declared.table.list_all([jobschedule("missed", second=8)], known)
    assert {each.key.name for each in declared.table} == {"new", "missed"}


def test_a_deletion_that_is_reported_late_is_that_of_the_old_one() -> None:
    """One that was created again under the name stays, as does the history of its schedule."""
    changed: list[ObjectKey] = []
    table = JobScheduleTable(on_change=changed.append)
    table.update(jobschedule(second=5))
    table.update(jobschedule(second=7))
    changed.clear()
    table.remove(NIGHTLY, "nightly-5")
    assert [each.uid for each in table.of_jobqueue(KEY)] == ["nightly-7"]
    assert changed == []
    table.remove(NIGHTLY, "nightly-7")
    assert list(table) == []
    assert changed == [KEY]


def test_what_the_watch_reports_during_a_listing_is_newer() -> None:
    """A listing that takes long has versions of before, and those that are gone."""
    table = JobScheduleTable(on_change=lambda _: None)
    known = table.uids()
    table.update(jobschedule(generation=2))
    table.update(jobschedule("again", second=7))
    table.list_all([jobschedule(), jobschedule("again", second=6)], known)
    assert {(each.uid, each.generation) for each in table} == {("nightly-5", 2), ("again-7", 1)}


def test_one_that_moves_to_another_jobqueue_is_told_to_both() -> None:
    """The one that it had deletes its schedule, and the other one stores it."""
    changed: list[ObjectKey] = []
    table = JobScheduleTable(on_change=changed.append)
    table.update(jobschedule())
    changed.clear()
    table.update(jobschedule(generation=2, jobQueueRef={"name": "others"}))
    others = ObjectKey("shop", "others")
    assert set(changed) == {KEY, others}
    assert table.of_jobqueue(KEY) == []
    assert [each.key for each in table.of_jobqueue(others)] == [NIGHTLY]


async def test_an_operators_own_role_may_do_all_of_it(
    declared: Declared, connection: Connection, database_url: str
) -> None:
    """Storing, changing and deleting, with no more than the kind `operator` has."""
    async with Roles(database_url, connection) as roles:
        own = make(roles.url(await roles.make(RoleKind.OPERATOR)))
        try:
            declared.database = own
            await declared.declare()
            await declared.declare(generation=2, cron="@hourly", paused=True)
            assert declared.state() == "Paused"
            declared.table.remove(NIGHTLY)
            await declared.ensure()
            assert await list_schedules(connection) == []
        finally:
            await own.close()


def test_a_status_is_noted_for_its_version_only() -> None:
    """A version that came while a status was written has its own."""
    table = JobScheduleTable(on_change=lambda _: None)
    first = jobschedule()
    table.update(first)
    second = jobschedule(generation=2)
    table.update(second)
    table.note_status(first, first.status)
    assert [each.generation for each in table] == [2]
