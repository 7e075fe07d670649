"""JobSchedules on a real API server: what it refuses, and what the operator makes of the others."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import add_schedule, list_schedules
from support.cluster.api import Api, ApiError, Object
from support.cluster.objects import SECRET, job_queue, job_schedule
from support.cluster.operator_process import StartOperator
from support.cluster.views import TIMEOUT_SECONDS, JobQueueView
from support.schedules import make_due, scheduler
from support.waiting import eventually

pytestmark = pytest.mark.usefixtures("job_queues_are_known")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def until_state(api: Api, state: str, name: str = "nightly") -> Object:
    """Wait until a JobSchedule is in a state, and return its status."""

    async def holds() -> Object:
        found: Object = (await api.get("JobSchedule", name)).get("status", {})
        assert found.get("state") == state, found
        return found

    status: Object = await eventually(holds, TIMEOUT_SECONDS, message=f"{name} is {state}")
    return status


async def until_schedules(sql: Connection, *names: str) -> None:
    """Wait until the database has these schedules and no others."""

    async def holds() -> bool:
        found = [each.name for each in await list_schedules(sql)]
        assert found == sorted(names), found
        return True

    await eventually(holds, TIMEOUT_SECONDS, message=f"schedules {names}")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"everySeconds": 60}, "give exactly one of cron and everySeconds"),
        ({"cron": None}, "give exactly one of cron and everySeconds"),
        ({"cron": None, "everySeconds": 60, "timeZone": "UTC"}, "timeZone belongs to cron"),
        ({"scheduleName": "a b"}, "spec.scheduleName"),
        ({"cron": None, "everySeconds": 0}, "spec.everySeconds"),
        ({"missed": "never"}, "spec.missed"),
        ({"payload": [1]}, "spec.payload"),
        ({"jobQueueRef": None}, "spec.jobQueueRef"),
    ],
)
async def test_the_api_server_refuses(api: Api, spec: dict[str, Any], reason: str) -> None:
    """What can never be stored is refused with a message that names the field or the rule."""
    with pytest.raises(ApiError, match=reason):
        await api.create(job_schedule(**spec))


async def test_a_long_name_needs_another_for_the_schedule(api: Api) -> None:
    """Names of schedules have at most 100 characters, those of objects 253."""
    name = "a" * 101
    with pytest.raises(ApiError, match="at most 100 characters"):
        await api.create(job_schedule(name))
    created = await api.create(job_schedule(name, scheduleName="A_1", payload={"a": {"b": [1]}}))
    assert created["spec"]["payload"] == {"a": {"b": [1]}}
    assert (created["spec"]["missed"], created["spec"]["overlap"]) == ("once", "allow")


async def test_the_life_of_a_schedule(
    api: Api, sql: Connection, database: str, start_operator: StartOperator
) -> None:
    """Stored, changed, in conflict, fired, and deleted also while no operator runs."""
    operator = await start_operator()
    await api.create(job_schedule())
    await until_state(api, "JobQueueNotFound")
    await api.create(job_queue())
    await JobQueueView(api).until_condition("Ready", "True")
    status = await until_state(api, "Scheduled")
    assert (status["queue"], status["observedGeneration"]) == ("emails", 1)
    assert status["nextScheduleTime"].endswith("-01-01T00:00:00Z")
    await until_schedules(sql, "nightly")

    await api.patch("JobSchedule", "nightly", {"spec": {"timeZone": "Europe/Berlin"}})

    async def is_moved() -> bool:
        found = (await api.get("JobSchedule", "nightly"))["status"]
        assert found["nextScheduleTime"].endswith("-12-31T23:00:00Z"), found
        return True

    await eventually(is_moved, TIMEOUT_SECONDS)
    await api.create(job_schedule("second", scheduleName="nightly"))
    await until_state(api, "Conflict", "second")
    # None but `nightly` is due while the test runs, also around midnight.
    await add_schedule(sql, "emails", "by-hand", "@yearly")
    await api.create(job_schedule("by-hand"))
    await until_state(api, "Conflict", "by-hand")
    await api.patch("JobSchedule", "nightly", {"spec": {"cron": "61 * * * *"}})
    await until_state(api, "InvalidSpec")
    await api.patch("JobSchedule", "nightly", {"spec": {"cron": "0 0 1 1 *", "paused": True}})
    await until_state(api, "Paused")
    await api.patch("JobSchedule", "nightly", {"spec": {"paused": False}})
    await until_state(api, "Scheduled")

    await make_due(sql, "nightly", queue="emails")
    async with scheduler(database) as firing:
        await firing.look()

    async def is_fired() -> bool:
        return "lastScheduleTime" in (await api.get("JobSchedule", "nightly"))["status"]

    await eventually(is_fired, TIMEOUT_SECONDS)
    assert await sql.fetchval("select count(*) from pgmq.q_emails") == 1
    found = await api.get("JobSchedule", "nightly")
    assert "finalizers" not in found["metadata"]

    await api.delete("JobSchedule", "second")
    operator.kill()
    await api.delete("JobSchedule", "nightly")
    await operator.start()
    await until_schedules(sql, "by-hand")
    events = await api.list("Event")
    told = {(each["regarding"]["name"], each["reason"]) for each in events}
    assert {
        ("nightly", "JobQueueNotFound"),
        ("nightly", "Scheduled"),
        ("nightly", "InvalidSpec"),
        ("second", "Conflict"),
    } <= told


async def test_the_status_follows_what_others_do(
    api: Api, sql: Connection, start_operator: StartOperator
) -> None:
    """A JobQueue that comes late and waits for its Secret, a name that is taken, a second life."""
    await start_operator()
    await api.create(job_schedule())
    await until_state(api, "JobQueueNotFound")
    await api.create(job_queue(database={"secretRef": {"name": "missing"}}))
    status = await until_state(api, "JobQueueNotReady")
    assert "Secret 'missing' does not exist" in status["conditions"][0]["message"]
    await api.patch("JobQueue", "emails", {"spec": {"database": {"secretRef": {"name": SECRET}}}})
    await until_state(api, "Scheduled")

    await api.create(job_schedule("second", scheduleName="poll"))
    await until_state(api, "Scheduled", "second")
    await api.patch("JobSchedule", "nightly", {"spec": {"scheduleName": "poll"}})
    await until_state(api, "Conflict", "second")
    await until_state(api, "Scheduled")
    await until_schedules(sql, "poll")

    await api.delete("JobSchedule", "second")
    for _ in range(5):
        await api.delete("JobSchedule", "nightly")
        await api.create(job_schedule())
    await until_state(api, "Scheduled")
    await until_schedules(sql, "nightly")
    await api.delete("JobQueue", "emails")
    status = await until_state(api, "JobQueueNotFound")
    assert "queue" not in status
    assert "nextScheduleTime" not in status
