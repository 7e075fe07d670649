"""Schedules: exactly one job for each due time, whatever becomes of workers, clocks and queues."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DatabaseError,
    InvalidJobError,
    InvalidSettingError,
    Job,
    JobTooLargeError,
    QueueNotFoundError,
    QueueService,
    ScheduleNotFoundError,
    add_schedule,
    create_queue,
    delete_schedule,
    drop_queue,
    get_schedule,
    list_schedule_firings,
    list_schedules,
    pause_schedule,
    resume_schedule,
    run_schedule,
    set_queue_config,
)
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from meshhook.worker.connections import WorkerConnection
from meshhook.worker.scheduler import LEAST_SECONDS, LOOK_SECONDS, Scheduler
from support.roles import Roles
from support.schedules import make_due, scheduler
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

RARELY = "0 0 1 1 *"


async def jobs(connection: Connection, queue: str = "jobs") -> list[asyncpg.Record]:
    """Return the messages of a queue, the oldest first."""
    return await connection.fetch(f"select * from pgmq.q_{queue} order by msg_id")


async def firings(connection: Connection, name: str) -> list[tuple[str, int]]:
    """Return the outcomes and missed counts of a schedule, the oldest first."""
    found = await list_schedule_firings(connection, "jobs", name)
    return [(each.outcome, each.missed) for each in reversed(found)]


async def test_a_due_schedule_is_fired_once_by_whoever_looks_first(
    connection: Connection, database_url: str
) -> None:
    """Ten workers look at once; one fires it, and it moves on to the next due time."""
    await add_schedule(connection, "jobs", "rare", RARELY, payload={"n": 1}, key="a")
    due_at = await make_due(connection, "rare")
    async with contexts(database_url, 10) as schedulers:
        await asyncio.gather(*(each.look() for each in schedulers))
        [message] = await jobs(connection)
        assert json.loads(message["message"]) == {"n": 1}
        found = await get_schedule(connection, "jobs", "rare")
        assert found.next_at is not None
        assert (found.next_at.month, found.next_at > found.read_at) == (1, True)
        assert (found.last_msg_id, found.late_seconds, found.error) == (message["msg_id"], 0, None)
        await asyncio.gather(*(each.look() for each in schedulers))
    assert len(await jobs(connection)) == 1
    async with QueueService[Any](database_url, "jobs") as service:
        job = await service.dequeue()
    assert job is not None
    assert job.payload == {"n": 1}
    assert job.headers["x-pgmq-group"] == "a"
    assert job.due_time is not None
    assert (job.due_time.schedule, job.due_time.due_at) == ("rare", due_at)


@asynccontextmanager
async def contexts(url: str, count: int) -> AsyncIterator[list[Scheduler]]:
    """Several of them, connected."""
    connections = [WorkerConnection(url, application_name="meshhook") for _ in range(count)]
    try:
        for each in connections:
            await each.open()
        yield [Scheduler(connection=each) for each in connections]
    finally:
        for each in connections:
            await each.close()


async def test_a_plan_from_before_a_change_is_not_carried_out(connection: Connection) -> None:
    """A worker that read a schedule before somebody changed it sends nothing and moves nothing."""
    await add_schedule(connection, "jobs", "a", RARELY)
    due_at = await make_due(connection, "a")
    await add_schedule(connection, "jobs", "a", "@daily")
    rows = "select next_at, try_at, cron from meshhook.schedules"
    before = await connection.fetch(rows)
    plan = ("jobs", "a", due_at, [due_at], "enqueued", 0, due_at + timedelta(hours=1))
    assert await connection.fetchval(queries.load("fire_schedule"), *plan) is None
    assert await connection.fetch(rows) == before
    assert await jobs(connection) == []
    assert await firings(connection, "a") == []


async def test_a_worker_fires_schedules(connection: Connection, database_url: str) -> None:
    """At their due times, and hands the jobs to its handler with these."""
    seen: asyncio.Queue[Job[Any]] = asyncio.Queue()

    async def handle(job: Job[Any]) -> None:
        await seen.put(job)

    await add_schedule(connection, "jobs", "often", every=1, missed="all", payload={"n": 1})
    async with make_worker(database_url, handle):
        found = [await seen.get() for _ in range(3)]
    times = [each.due_time.due_at for each in found if each.due_time]
    assert len(times) == 3
    assert sorted(times) == [min(times) + timedelta(seconds=n) for n in range(3)]


async def test_without_schedules_a_look_is_one_query_of_nothing(
    connection: Connection, database_url: str
) -> None:
    """It comes back in ten seconds; earlier if one is due then, but not before a second."""
    async with scheduler(database_url) as found:
        assert await found.look() == LOOK_SECONDS
        await add_schedule(connection, "jobs", "rare", RARELY)
        await make_due(connection, "rare", timedelta(seconds=-60))
        assert await found.look() == LOOK_SECONDS
        await make_due(connection, "rare", timedelta(seconds=-5))
        assert LEAST_SECONDS <= await found.look() <= 5
        await make_due(connection, "rare")
        assert await found.look() == LEAST_SECONDS


async def test_adding_again_changes_only_what_is_new(
    connection: Connection, database_url: str
) -> None:
    """A new message keeps the due time; other due times start from now; the same is no change."""
    assert await add_schedule(connection, "jobs", "a", RARELY, payload={"n": 1})
    assert not await add_schedule(connection, "jobs", "a", RARELY, payload={"n": 1})
    due_at = await make_due(connection, "a", timedelta(minutes=3))
    assert await add_schedule(connection, "jobs", "a", RARELY, payload={"n": 2})
    assert (await get_schedule(connection, "jobs", "a")).next_at == due_at
    assert await add_schedule(connection, "jobs", "a", "0 9 * * *", tz="Asia/Kolkata")
    found = await get_schedule(connection, "jobs", "a")
    assert found.next_at is not None
    assert (found.next_at.hour, found.next_at.minute) == (3, 30)
    assert found.next_at > found.read_at
    assert await add_schedule(connection, "jobs", "a", every=timedelta(hours=2), overlap="skip")
    found = await get_schedule(connection, "jobs", "a")
    assert (found.cron, found.every_seconds, found.overlap) == (None, 7200, "skip")
    assert json.loads(found.message or "") == {}
    assert [each.name for each in await list_schedules(database_url, "jobs")] == ["a"]
    assert await list_schedules(database_url, "other") == []


@pytest.mark.parametrize(
    ("missed", "expected"),
    [("once", [("enqueued", 9)]), ("skip", [("missed", 9)]), ("all", [("enqueued", 0)] * 10)],
)
async def test_due_times_that_nobody_was_there_for(
    connection: Connection, database_url: str, missed: str, expected: list[tuple[str, int]]
) -> None:
    """One job for all of them, none, or one each; then it goes on as if nothing had been."""
    now = await connection.fetchval("select now()")
    # The last one was half an hour ago, whatever the time.
    last = now.replace(minute=(now.minute + 30) % 60, second=0, microsecond=0)
    last -= timedelta(hours=1 if last > now else 0)
    await add_schedule(connection, "jobs", "a", f"{last.minute} * * * *", missed=missed)
    await connection.execute(
        "update meshhook.schedules set next_at = $1, try_at = $1", last - timedelta(hours=9)
    )
    async with scheduler(database_url) as found:
        await found.look()
        await found.look()
    assert await firings(connection, "a") == expected
    assert len(await jobs(connection)) == sum(outcome == "enqueued" for outcome, _ in expected)
    schedule = await get_schedule(connection, "jobs", "a")
    assert schedule.late_seconds == 0


async def test_no_job_while_one_is_in_the_queue(connection: Connection, database_url: str) -> None:
    """With overlap=skip; also a job that a change of the schedule or a run by hand left behind."""
    await add_schedule(connection, "jobs", "a", RARELY)
    async with scheduler(database_url) as found:
        await make_due(connection, "a", timedelta(seconds=4))
        await found.look()
        await run_schedule(connection, "jobs", "a")
        await connection.execute("delete from pgmq.q_jobs where msg_id = 2")
        await add_schedule(connection, "jobs", "a", RARELY, overlap="skip")
        await make_due(connection, "a", timedelta(seconds=3))
        await found.look()
        assert [each["msg_id"] for each in await jobs(connection)] == [1]
        await connection.execute("delete from pgmq.q_jobs")
        await make_due(connection, "a", timedelta(seconds=2))
        await found.look()
        assert len(await jobs(connection)) == 1
    found_outcomes = [
        each.outcome for each in await list_schedule_firings(database_url, "jobs", "a")
    ]
    assert sorted(found_outcomes) == ["enqueued", "enqueued", "enqueued", "overlapped"]


async def test_a_paused_schedule_lets_its_times_pass(
    connection: Connection, database_url: str
) -> None:
    """They are not missed: when it is resumed, it goes on at the next one."""
    await add_schedule(connection, "jobs", "a", RARELY, missed="all")
    await pause_schedule(connection, "jobs", "a")
    await make_due(connection, "a", timedelta(hours=5))
    async with scheduler(database_url) as found:
        assert await found.look() == LOOK_SECONDS
        assert (await get_schedule(connection, "jobs", "a")).late_seconds == 0
        assert await run_schedule(connection, "jobs", "a") == 1, "by hand it runs"
        await resume_schedule(connection, "jobs", "a")
        await found.look()
        # By SQL, too.
        await connection.execute("update meshhook.schedules set paused = true")
        await make_due(connection, "a", timedelta(hours=5))
        await connection.execute("update meshhook.schedules set paused = false")
        await found.look()
    schedule = await get_schedule(connection, "jobs", "a")
    assert schedule.next_at is not None
    assert schedule.next_at > schedule.read_at
    assert len(await jobs(connection)) == 1


async def test_a_due_time_right_after_a_change_is_not_lost(
    connection: Connection, database_url: str
) -> None:
    """One that falls due between resume, a new expression or SQL, and the next look."""
    await add_schedule(connection, "jobs", "resumed", RARELY)
    await pause_schedule(connection, "jobs", "resumed")
    await resume_schedule(connection, "jobs", "resumed")
    await add_schedule(connection, "jobs", "changed", RARELY)
    await add_schedule(connection, "jobs", "changed", "0 0 1 JAN *")
    await connection.execute("select meshhook.add_schedule('jobs', 'sql', cron => '0 0 1 1 *')")
    # Nobody looks before the turn of the year: it is as if they had been changed before.
    await connection.execute("update meshhook.schedules set try_at = try_at - interval '1 year'")
    async with scheduler(database_url) as found:
        await found.look()
        await found.look()
        assert {each.name for each in await list_schedules(connection) if each.last_msg_id} == {
            *("resumed", "changed", "sql")
        }
        await found.look()
    assert len(await jobs(connection)) == 3


async def test_what_catches_up_keeps_no_other_waiting(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more of them behind than are fired in a row; each is, at most once a second."""
    monkeypatch.setattr("meshhook.worker.scheduler.MAX_DUE", 2)
    monkeypatch.setattr("meshhook.due_times.MAX_FIRINGS", 3)
    for n in range(4):
        await add_schedule(connection, "jobs", f"behind{n}", every=1, missed="all")
        await make_due(connection, f"behind{n}", timedelta(hours=5))
    await add_schedule(connection, "jobs", "daily", RARELY)
    await make_due(connection, "daily", timedelta(seconds=3))
    async with scheduler(database_url) as found:
        for _ in range(3):
            await found.look()
        assert (await get_schedule(connection, "jobs", "daily")).last_msg_id is not None
        assert len(await jobs(connection)) == 4 * 3 + 1
        await connection.execute("update meshhook.schedules set try_at = try_at - interval '2 s'")
        await found.look()
    assert len(await jobs(connection)) == 6 * 3 + 1


async def test_many_schedules_at_one_time_are_fired_in_a_row(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that may have left some is followed by another at once."""
    monkeypatch.setattr("meshhook.worker.scheduler.MAX_DUE", 2)
    for n in range(5):
        await add_schedule(connection, "jobs", f"s{n}", RARELY, missed="skip")
        await make_due(connection, f"s{n}", timedelta(seconds=2))
    async with scheduler(database_url) as found:
        assert [await found.look() for _ in range(2)] == [0, 0]
        assert await found.look() == LEAST_SECONDS
        assert len(await jobs(connection)) == 5


async def test_locked_schedules_hide_no_others(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that was left open has locked more of them than are tried in a row."""
    monkeypatch.setattr("meshhook.worker.scheduler.MAX_DUE", 2)
    for n in range(6):
        await add_schedule(connection, "jobs", f"s{n}", RARELY)
        await make_due(connection, f"s{n}", timedelta(seconds=9 - n))
    async with scheduler(database_url) as found:
        other = await asyncpg.connect(database_url)
        try:
            async with other.transaction():
                await other.execute("select from meshhook.schedules where name < 's5' for update")
                for _ in range(3):
                    assert await found.look() == LEAST_SECONDS
                assert (await get_schedule(connection, "jobs", "s5")).last_msg_id == 1
        finally:
            await other.close()
        while await found.look() != LOOK_SECONDS:
            pass
    assert len(await jobs(connection)) == 6


async def test_a_job_that_stays_long_is_not_forgotten(
    connection: Connection, database_url: str
) -> None:
    """With overlap=skip: neither for the history that was deleted, nor for runs by hand since."""
    await add_schedule(connection, "jobs", "a", RARELY, overlap="skip")
    async with scheduler(database_url) as found:
        await make_due(connection, "a", timedelta(seconds=9))
        await found.look()
        for _ in range(12):
            done = await run_schedule(connection, "jobs", "a")
            await connection.execute("delete from pgmq.q_jobs where msg_id = $1", done)
        await connection.execute(
            "insert into meshhook.schedule_firings (queue, name, due_at, outcome) "
            "select 'jobs', 'a', now() + n * interval '1 second', 'missed' "
            "from generate_series(1, 10200) n"
        )
        await connection.execute(
            "update meshhook.schedule_firings set fired_at = fired_at - interval '300 days'"
        )
        await connection.execute(
            "update pgmq.q_jobs set enqueued_at = enqueued_at - interval '300 days'"
        )
        sweep = queries.load("delete_expired_firings")
        while await connection.fetchval(sweep):
            pass
        assert len(await list_schedule_firings(connection, "jobs", "a", limit=10_000)) == 113
        await make_due(connection, "a", timedelta(seconds=3))
        await found.look()
    assert [each["msg_id"] for each in await jobs(connection)] == [1]
    newest = await list_schedule_firings(connection, "jobs", "a", limit=1000)
    assert [each.outcome for each in newest].count("overlapped") == 1


async def test_missed_times_are_counted_once(connection: Connection, database_url: str) -> None:
    """Also if none of several that are in time gets a job, because an earlier one is there."""
    await add_schedule(connection, "jobs", "a", every=1, overlap="skip")
    await run_schedule(connection, "jobs", "a")
    await make_due(connection, "a", timedelta(minutes=1))
    async with scheduler(database_url) as found:
        await found.look()
    told = [each for each in await firings(connection, "a") if each[0] == "overlapped"]
    assert len(told) >= 5
    total = await connection.fetchval("select missed_total from meshhook.schedules")
    assert 50 <= sum(missed for _, missed in told) == total <= 60


async def test_a_schedule_that_takes_too_long_stops_no_other(
    connection: Connection,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As by a trigger of its queue: nobody waits for it, and the log says what to look for."""
    await create_queue(connection, "slow")
    await connection.execute(
        """create function public.sleep() returns trigger language plpgsql as $$
        begin perform pg_sleep(600); return new; end $$;
        create trigger sleep before insert on pgmq.q_slow
            for each row execute function public.sleep()"""
    )
    monkeypatch.setattr("meshhook.worker.scheduler.FIRE_SECONDS", 1)
    for queue, seconds in (("slow", 5), ("jobs", 2)):
        await add_schedule(connection, queue, "a", RARELY)
        await make_due(connection, "a", timedelta(seconds=seconds), queue=queue)
    async with scheduler(database_url) as found:
        assert await found.look() == LEAST_SECONDS
        await found.look()
    assert len(await jobs(connection)) == 1
    assert await jobs(connection, "slow") == []
    assert "it takes longer than 1 s to fire: look for what slows inserts into pgmq.q_slow" in str(
        [each.getMessage() for each in caplog.records]
    )


async def test_a_schedule_that_nobody_plans_is_late(connection: Connection) -> None:
    """One that was added in SQL, where no worker may enqueue; not one that is paused or new."""
    await connection.execute("select meshhook.add_schedule('jobs', 'a', cron => '0 9 * * *')")
    assert (await get_schedule(connection, "jobs", "a")).late_seconds == 0
    await connection.execute("update meshhook.schedules set try_at = try_at - interval '1 hour'")
    late = await get_schedule(connection, "jobs", "a")
    assert late.next_at is None
    assert late.late_seconds == pytest.approx(3_590, abs=60)
    await pause_schedule(connection, "jobs", "a")
    assert (await get_schedule(connection, "jobs", "a")).late_seconds == 0


async def test_a_clock_that_is_set_back_repeats_nothing(
    connection: Connection, database_url: str
) -> None:
    """Due times only move forward; and one that the history has is not sent again."""
    await add_schedule(connection, "jobs", "a", RARELY, missed="all")
    due_at = await make_due(connection, "a", timedelta(seconds=3))
    async with scheduler(database_url) as found:
        await found.look()
        # What a clock looks like that was set back by two hours.
        await connection.execute(
            "update meshhook.schedules set next_at = next_at + interval '2 hours', "
            "try_at = now() - interval '1 second'"
        )
        await found.look()
        assert len(await jobs(connection)) == 1
        # Somebody lets it go on from now, and it comes to the same time again.
        await connection.execute("update meshhook.schedules set next_at = $1, try_at = $1", due_at)
        await found.look()
    assert len(await jobs(connection)) == 1
    assert await firings(connection, "a") == [("enqueued", 0)]
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(
            "insert into meshhook.schedule_firings (queue, name, due_at) values ('jobs', 'a', $1)",
            due_at,
        )
    assert len(await jobs(connection)) == 1, "what sends the job is undone with it"


async def test_a_faulty_schedule_stops_no_other(connection: Connection, database_url: str) -> None:
    """What is wrong stands in the list; it is left alone for a minute, and mended by adding."""
    await create_queue(connection, "gone")
    await create_queue(connection, "small")
    await add_schedule(connection, "gone", "c", RARELY)
    await add_schedule(connection, "small", "d", RARELY, payload={"text": "x" * 2000})
    await set_queue_config(connection, "small", max_payload_bytes=1024)
    await connection.execute("select pgmq.drop_queue('gone')")
    await connection.execute(
        "insert into meshhook.schedules (queue, name, cron, time_zone) values "
        "('jobs', 'a', 'every day', 'UTC'), ('jobs', 'b', '0 9 * * *', 'Mars/Olympus')"
    )
    await add_schedule(connection, "jobs", "well", RARELY)
    for queue, name in (("gone", "c"), ("small", "d"), ("jobs", "well")):
        await make_due(connection, name, timedelta(seconds=2), queue=queue)
    async with scheduler(database_url) as found:
        await found.look()
        assert len(await jobs(connection)) == 1
        states = {each.name: each.error or "" for each in await list_schedules(connection)}
        assert "cron='every day': it has 2 fields" in states["a"]
        assert "the time zone 'Mars/Olympus' is not known" in states["b"]
        assert 'queue "gone" does not exist' in states["c"]
        assert "this queue takes at most 1024" in states["d"]
        assert states["well"] == ""
        assert await found.look() == LOOK_SECONDS, "nobody spins on them"
        assert await add_schedule(connection, "jobs", "a", RARELY)
        await make_due(connection, "a", timedelta(seconds=2))
        await found.look()
    assert (await get_schedule(connection, "jobs", "a")).error is None
    assert len(await jobs(connection)) == 2


async def test_a_locked_queue_holds_up_no_other(connection: Connection, database_url: str) -> None:
    """It is waited for a second, and tried again some seconds later."""
    await create_queue(connection, "busy")
    for queue in ("busy", "jobs"):
        await add_schedule(connection, queue, "a", RARELY)
        await make_due(connection, "a", timedelta(seconds=2 if queue == "busy" else 1), queue=queue)
    async with scheduler(database_url) as found:
        async with connection.transaction():
            await connection.execute("lock table pgmq.q_busy in share mode")
            await found.look()
            assert len(await jobs(connection)) == 1
        assert "lock" in ((await get_schedule(connection, "busy", "a")).error or "")
        await make_due(connection, "a", timedelta(seconds=2), queue="busy")
        await found.look()
    assert len(await jobs(connection, "busy")) == 1


async def test_a_dropped_queue_takes_its_schedules_along(connection: Connection) -> None:
    """Also their history; a queue that is made again has none."""
    await create_queue(connection, "other")
    await add_schedule(connection, "other", "a", RARELY)
    await run_schedule(connection, "other", "a")
    await drop_queue(connection, "other")
    await create_queue(connection, "other")
    assert await list_schedules(connection) == []
    assert await connection.fetchval("select count(*) from meshhook.schedule_firings") == 0


async def test_schedules_from_sql(connection: Connection, database_url: str) -> None:
    """A worker works out the first due time; other due times count from now on."""
    add = "select meshhook.add_schedule('jobs', 'a', cron => $1, message => '{\"n\": 1}')"
    assert await connection.fetchval(add, RARELY)
    assert not await connection.fetchval(add, RARELY)
    assert (await get_schedule(connection, "jobs", "a")).next_at is None
    async with scheduler(database_url) as found:
        await found.look()
        assert await jobs(connection) == []
        first = (await get_schedule(connection, "jobs", "a")).next_at
        assert first is not None
        await connection.execute("update meshhook.schedules set cron = '30 4 * * *'")
        await found.look()
        second = (await get_schedule(connection, "jobs", "a")).next_at
        assert second is not None
        assert (second.hour, second.minute) == (4, 30)
    assert await jobs(connection) == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("'none', 'a', cron => '* * * * *'", 'queue "none" does not exist'),
        ("'jobs', '', cron => '* * * * *'", "the name of a schedule is"),
        ("'jobs', null, cron => '* * * * *'", "the name of a schedule is"),
        ("'jobs', 'a'", "either cron or every"),
        ("'jobs', 'a', cron => ''", "1 to 200 characters"),
        ("'jobs', 'a', every => '1.5 seconds'", "whole seconds"),
        ("'jobs', 'a', every => '367 days'", "whole seconds"),
        ("'jobs', 'a', every => '1 day', time_zone => null", "time_zone is a name"),
        ("'jobs', 'a', every => '1 day', missed => 'twice'", "missed is skip, once or all"),
        ("'jobs', 'a', every => '1 day', overlap => null", "overlap is allow or skip"),
        ("'jobs', 'a', every => '1 day', headers => '{\"meshhook-schedule\": 1}'", "own"),
    ],
)
async def test_mistakes_in_sql_are_named(connection: Connection, arguments: str, text: str) -> None:
    """Each with the value received."""
    with pytest.raises(asyncpg.PostgresError, match=text):
        await connection.execute(f"select meshhook.add_schedule({arguments})")


async def test_mistakes_are_named(connection: Connection) -> None:
    """The expression, the zone, the name, the policy, and what is not there."""
    for keywords, text in (
        ({"cron": "61 * * * *"}, "cron='61 \\* \\* \\* \\*': bad minute"),
        ({"cron": RARELY, "tz": "Europe/Atlantis"}, "'Europe/Atlantis' is not known"),
        ({"cron": RARELY, "every": 60}, "leave one of them out"),
        ({}, "a cron expression"),
        ({"cron": RARELY, "missed": "never"}, "missed is one of skip, once, all, got 'never'"),
        ({"cron": RARELY, "overlap": True}, "overlap is one of allow, skip"),
    ):
        with pytest.raises(InvalidSettingError, match=text):
            await add_schedule(connection, "jobs", "a", **keywords)
    with pytest.raises(InvalidSettingError, match="the name of a schedule"):
        await add_schedule(connection, "jobs", "a b", RARELY)
    with pytest.raises(QueueNotFoundError, match="'none'"):
        await add_schedule(connection, "none", "a", RARELY)
    with pytest.raises(InvalidJobError):
        await add_schedule(connection, "jobs", "a", RARELY, payload=float("nan"))
    await set_queue_config(connection, "jobs", max_payload_bytes=1024)
    with pytest.raises(InvalidJobError, match="at most 1024"):
        await add_schedule(connection, "jobs", "a", RARELY, payload="x" * 2000)
    with pytest.raises(JobTooLargeError):
        await add_schedule(connection, "jobs", "a", RARELY, payload="x" * 105_000_000)
    for call in (
        get_schedule,
        pause_schedule,
        resume_schedule,
        run_schedule,
        delete_schedule,
        list_schedule_firings,
    ):
        with pytest.raises(ScheduleNotFoundError, match="meshhook schedule list --queue jobs"):
            await call(connection, "jobs", "none")


async def test_the_history_is_bounded(connection: Connection) -> None:
    """The newest hundred of a schedule stay; older ones as long as the queue keeps its history."""
    await add_schedule(connection, "jobs", "a", RARELY)
    await connection.execute(
        "insert into meshhook.schedule_firings (queue, name, due_at, outcome) "
        "select 'jobs', 'a', now() - n * interval '1 hour', 'missed' from generate_series(1, 150) n"
    )
    sweep = queries.load("delete_expired_firings")
    assert await connection.fetchval(sweep) == 0
    await connection.execute(
        "update meshhook.schedule_firings set fired_at = due_at - interval '30 days'"
    )
    assert await connection.fetchval(sweep) == 50
    assert len(await list_schedule_firings(connection, "jobs", "a", limit=1000)) == 100


async def test_who_may_enqueue_fires(connection: Connection, database_url: str) -> None:
    """A worker that may not leaves it alone, without a word and without spinning."""
    await create_queue(connection, "other")
    async with Roles(database_url, connection) as roles:
        worker = await roles.make(RoleKind.WORKER, "jobs")
        producer = await roles.make(RoleKind.PRODUCER, "jobs")
        for queue in ("jobs", "other"):
            await add_schedule(connection, queue, "a", RARELY)
            await make_due(connection, "a", timedelta(seconds=2), queue=queue)
        async with scheduler(roles.url(worker)) as found:
            assert await found.look() == LOOK_SECONDS
            assert await jobs(connection) == []
        own = await asyncpg.connect(roles.url(producer))
        try:
            assert await add_schedule(own, "jobs", "b", RARELY)
            assert [each.queue for each in await list_schedules(own)] == ["jobs", "jobs"]
            with pytest.raises(DatabaseError, match="permission denied"):
                await delete_schedule(own, "jobs", "b")
            with pytest.raises(QueueNotFoundError):
                await add_schedule(own, "other", "b", RARELY)
        finally:
            await own.close()
        async with scheduler(roles.url(producer)) as found:
            await found.look()
    assert len(await jobs(connection)) == 1
    assert await jobs(connection, "other") == []


async def test_odd_headers_are_no_due_time(connection: Connection, database_url: str) -> None:
    """Another client's value under our header's name is passed over."""
    await add_schedule(connection, "jobs", "a", RARELY)
    await run_schedule(connection, "jobs", "a")
    async with QueueService[Any](database_url, "jobs") as service:
        job = await service.dequeue()
    assert job is not None
    assert job.due_time is not None
    assert abs(job.due_time.due_at - datetime.now(UTC)) < timedelta(minutes=10)
    for value in (1, {}, {"name": "a"}, {"name": 1, "due_at": "x"}, {"name": "a", "due_at": "x"}):
        job.headers["meshhook-schedule"] = value
        assert job.due_time is None
    del job.headers["meshhook-schedule"]
    assert job.due_time is None


async def test_a_worker_lives_through_whatever_a_look_finds(
    connection: Connection, database_url: str
) -> None:
    """Without its table, jobs run on, and the look is tried again."""
    done = asyncio.Event()

    async def handle(_: Job[Any]) -> None:
        done.set()

    await connection.execute("alter table meshhook.schedules rename to away")
    async with make_worker(database_url, handle) as worker, scheduler(database_url) as found:
        assert await found.look() == LOOK_SECONDS
        async with QueueService[Any](database_url, "jobs") as service:
            await service.enqueue({})
        await done.wait()
        await eventually(lambda: worker.get_stats().processed == 1)
        assert all(each.fault is None for each in worker.liveness())
