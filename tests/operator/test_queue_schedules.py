"""JobSchedules and the schedules in a real database: what is declared is there, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import TypeAlias

import asyncpg
import pytest

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
from meshhook_operator.reconciliation import queue_schedules
from support.databases import Databases
from support.declared_jobschedules import NIGHTLY, Declared, make
from support.jobschedules import jobschedule, jobschedule_with
from support.roles import Roles

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


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


async def test_who_changes_it_again_and_again_is_told_of(
    declared: Declared, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app with the same schedule stores it whenever a worker starts; after a while, no more."""
    await declared.declare()
    await add_schedule(connection, "jobs", "nightly", "@hourly")
    await declared.ensure()
    await declared.ensure()
    condition = declared.cluster.condition(NIGHTLY)
    assert condition is not None
    assert (condition["status"], condition["reason"]) == ("True", "Contested")
    assert "Declare it in one place only" in condition["message"]
    with monkeypatch.context() as patched:
        patched.setattr(queue_schedules, "CONTEST_SECONDS", 0.0)
        await declared.ensure()
    assert declared.state() == "Scheduled"
    await declared.declare(generation=2, cron="@weekly")
    assert declared.state() == "Scheduled", "a change of its own is no contest"


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


async def test_a_wrong_name_of_a_jobqueue_deletes_nothing(
    declared: Declared, connection: Connection
) -> None:
    """Nor does one that comes later: the schedule moves once the other JobQueue is there."""
    others = ObjectKey("shop", "others")
    await declared.declare()
    created_at = (await get_schedule(connection, "jobs", "nightly")).created_at
    await declared.declare(generation=2, jobQueueRef={"name": "others"})
    await declared.declare(generation=3, jobQueueRef={})
    assert (await get_schedule(connection, "jobs", "nightly")).created_at == created_at
    await declared.declare(generation=4)
    assert declared.state() == "Scheduled"
    assert (await get_schedule(connection, "jobs", "nightly")).created_at == created_at
    await declared.declare(generation=5, jobQueueRef={"name": "others"})
    await declared.ensure()
    declared.jobqueues.add(others)
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
    status = declared.cluster.statuses[NIGHTLY]
    changes = {"generation": 2, "scheduleName": "poll", "cron": "0 25 * * *"}
    declared.table.update(jobschedule_with(dict(status), **changes))
    await declared.ensure()
    assert (status["state"], status["queue"]) == ("InvalidSpec", "jobs")
    assert status["nextScheduleTime"] is not None


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
