"""The series of schedules: what they say, and that nothing else depends on them."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import QueueExporter, add_schedule, pause_schedule, run_schedule
from meshhook.observability import schedule_series
from meshhook.observability.metrics import METRICS
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from support.roles import Roles
from support.schedules import make_due, scheduler

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RARELY = "0 0 1 1 *"
EVERY = timedelta(hours=1)
# One reading, however long a busy machine takes.
PATIENT: Any = {"interval_seconds": 3_600, "statement_timeout_seconds": 60}
# Ends the newest job of the schedule.
END = """
    insert into meshhook.job_attempts
        (queue, msg_id, attempt, outcome, worker, enqueued_at, started_at, finished_at)
    select f.queue, f.msg_id, 1, $1, 'w', f.fired_at, now(), now()
    from meshhook.schedule_firings f
    where f.msg_id is not null order by f.due_at desc limit 1
"""


async def series(source: Any, schedule: str = "poll") -> dict[str, float]:
    """Return the values of all series of a schedule, by name and outcome."""
    registry = CollectorRegistry()
    async with QueueExporter(source, registry=registry, **PATIENT) as exporter:
        assert await exporter.collect()
        return {
            sample.name.removeprefix("meshhook_schedule_") + sample.labels.get("outcome", ""): (
                sample.value
            )
            for family in registry.collect()
            for sample in family.samples
            if sample.labels.get("schedule", schedule if "left_out" in sample.name else "")
            == schedule
        }


async def fire(connection: Connection, url: str, *, ago: timedelta = timedelta(0)) -> None:
    """Let a due time of the schedule pass, and fire it."""
    await make_due(connection, "poll", ago)
    async with scheduler(url) as firing:
        await firing.look()


async def test_without_schedules_there_are_none(connection: Connection) -> None:
    """Not even the number of those that are left out."""
    assert await series(connection) == {}


async def test_a_new_schedule_is_not_late(connection: Connection) -> None:
    """It has its next due time, and counts at 0; what it has not yet has no series."""
    await add_schedule(connection, "jobs", "poll", every=EVERY)
    found = await series(connection)
    next_at = await connection.fetchval(
        "select extract(epoch from next_at) from meshhook.schedules"
    )
    assert found.pop("next_due_timestamp_seconds") == float(next_at)
    assert found.pop("interval_seconds") == 3_600
    assert found == {
        "late_seconds": 0,
        "paused": 0,
        "left_out": 0,
        **{f"firings_total{outcome}": 0 for outcome in ("enqueued", "overlapped", "missed")},
        "firings_totalfailed": 0,
    }


async def test_late_is_what_no_worker_has_come_to(connection: Connection) -> None:
    """Also a schedule whose first due time nobody has worked out; a paused one is not."""
    await add_schedule(connection, "jobs", "poll", every=EVERY)
    await make_due(connection, "poll", timedelta(minutes=20))
    assert (await series(connection))["late_seconds"] == pytest.approx(1_200, abs=30)
    await pause_schedule(connection, "jobs", "poll")
    found = await series(connection)
    assert (found["late_seconds"], found["paused"]) == (0, 1)
    await connection.execute(
        "insert into meshhook.schedules (queue, name, cron, try_at) "
        "values ('jobs', 'unplanned', '0 0 * * *', now() - interval '10 minutes')"
    )
    assert (await series(connection, "unplanned"))["late_seconds"] == pytest.approx(600, abs=30)


async def test_due_times_are_counted_by_what_became_of_them(
    connection: Connection, database_url: str
) -> None:
    """Once each, also those that an outage swallowed; a job by hand is not one of them."""
    await add_schedule(connection, "jobs", "poll", RARELY, overlap="skip")
    await fire(connection, database_url, ago=timedelta(seconds=3))
    await run_schedule(connection, "jobs", "poll")
    await fire(connection, database_url)
    await add_schedule(connection, "jobs", "poll", every=EVERY, overlap="skip")
    await fire(connection, database_url, ago=3 * EVERY + timedelta(seconds=30))
    found = await series(connection)
    assert (found["firings_totalenqueued"], found["firings_totaloverlapped"]) == (1, 2)
    assert found["firings_totalmissed"] == await connection.fetchval(
        "select sum(missed) from meshhook.schedule_firings"
    )
    assert found["firings_totalmissed"] >= 2
    await connection.execute("update meshhook.schedules set cron = 'never', every_seconds = null")
    async with scheduler(database_url) as firing:
        await firing.look()
    assert (await series(connection))["firings_totalfailed"] == 1


async def test_skipped_due_times_are_missed(connection: Connection, database_url: str) -> None:
    """With missed=skip, one that nobody came to in time is noted without a job."""
    await add_schedule(connection, "jobs", "poll", RARELY, missed="skip")
    await fire(connection, database_url, ago=timedelta(minutes=2))
    found = await series(connection)
    assert (found["firings_totalmissed"], found["firings_totalenqueued"]) == (1, 0)


async def test_success_is_that_of_its_job(connection: Connection, database_url: str) -> None:
    """Since the first job after the last success, the schedule is without one."""
    await add_schedule(connection, "jobs", "poll", RARELY)
    await fire(connection, database_url, ago=timedelta(seconds=3))
    found = await series(connection)
    assert "last_success_timestamp_seconds" not in found
    assert found["unsucceeded_seconds"] == pytest.approx(0, abs=30)
    await connection.execute(END, "succeeded")
    found = await series(connection)
    assert found["unsucceeded_seconds"] == 0
    assert found["last_success_timestamp_seconds"] == pytest.approx(
        float(await connection.fetchval("select extract(epoch from now())")), abs=30
    )
    succeeded_at = found["last_success_timestamp_seconds"]
    await fire(connection, database_url)
    await connection.execute(END, "dead_lettered")
    moved = "update meshhook.schedule_firings set fired_at = fired_at - interval '1 hour'"
    await connection.execute(
        f"{moved} where due_at = (select max(due_at) from meshhook.schedule_firings)"
    )
    found = await series(connection)
    assert found["last_success_timestamp_seconds"] == succeeded_at
    assert found["unsucceeded_seconds"] == pytest.approx(3_600, abs=30)


async def test_another_queues_success_is_not_its_own(
    connection: Connection, database_url: str
) -> None:
    """A job of the same id, of the queue before it was made again, does not count."""
    await add_schedule(connection, "jobs", "poll", RARELY)
    await fire(connection, database_url)
    await connection.execute(END, "succeeded")
    await connection.execute(
        "update meshhook.job_attempts set enqueued_at = enqueued_at - interval '1 day'"
    )
    assert "last_success_timestamp_seconds" not in await series(connection)


async def test_each_role_sees_what_it_may(connection: Connection, database_url: str) -> None:
    """An operator's own role reads no history: it lacks the series about success, and no other."""
    await add_schedule(connection, "jobs", "poll", RARELY)
    await fire(connection, database_url)
    await connection.execute(END, "succeeded")
    names = {}
    async with Roles(database_url, connection) as roles:
        for kind in (RoleKind.READER, RoleKind.OPERATOR):
            names[kind] = set(await series(roles.url(await roles.make(kind))))
    assert names[RoleKind.READER] - names[RoleKind.OPERATOR] == {
        "last_success_timestamp_seconds",
        "unsucceeded_seconds",
    }
    families = {name for name in METRICS if name.startswith("meshhook_schedule_")}
    assert len(names[RoleKind.READER]) == len(families) + 3


async def test_only_so_many_schedules_have_series(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first by queue and name; how many are left out is a series of its own."""
    monkeypatch.setattr("meshhook.exporter.queue_exporter.MAX_SCHEDULES", 2)
    for name in ("a", "b", "c", "d", "poll"):
        await add_schedule(connection, "jobs", name, every=EVERY)
    assert await series(connection) == {"left_out": 3}
    assert (await series(connection, "b"))["paused"] == 0
    assert schedule_series.MAX_SCHEDULES == 1_000


async def test_other_figures_do_not_depend_on_schedules(connection: Connection) -> None:
    """If they cannot be read, the other series stay, and the error is counted."""
    await add_schedule(connection, "jobs", "poll", every=EVERY)
    await connection.execute("alter function meshhook.schedule_results(text, text) rename to gone")
    registry = CollectorRegistry()
    async with QueueExporter(connection, registry=registry, **PATIENT) as exporter:
        assert await exporter.collect()
        assert [row["queue"] for row in exporter.rows] == ["jobs"]
        assert not exporter.schedule_rows
    name = "meshhook_exporter_collection_errors_total"
    assert registry.get_sample_value(name, {"error_type": "SchemaMissingError"}) in {1, 2}


async def test_it_reads_few_pages_of_a_long_history(connection: Connection) -> None:
    """With 100,000 attempts and a thousand due times, it reads hardly more than with few."""
    await add_schedule(connection, "jobs", "poll", every=EVERY)
    fill = (
        "with f as (insert into meshhook.schedule_firings (queue, name, due_at, is_manual) "
        "select 'jobs', 'poll', now() - make_interval(secs => n), false "
        "from generate_series($1::int, $2::int) n returning msg_id, fired_at) "
        "insert into meshhook.job_attempts "
        "(queue, msg_id, attempt, outcome, worker, enqueued_at, started_at, finished_at) "
        "select 'jobs', f.msg_id, n, 'dead_lettered', 'w', f.fired_at, now(), now() "
        "from f, generate_series(1, $3::int) n"
    )
    sizes = []
    for first, last, attempts in ((1, 100, 1), (101, 1_000, 100)):
        await connection.execute(fill, first, last, attempts)
        await connection.execute("analyze meshhook.job_attempts; analyze meshhook.schedule_firings")
        for _ in range(2):
            text = await connection.fetchval(
                "explain (analyze, buffers, format json) "
                + queries.load("schedule_metrics").replace("$1", "1000")
            )
        plan = json.loads(text)[0]["Plan"]
        sizes.append(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
    few, many = sizes
    assert many <= 2 * few + 100
