"""Priorities of jobs that are stored: changed by the library, by SQL and in each state."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DLQService,
    InvalidJobError,
    InvalidSettingError,
    QueueService,
    SyncQueueService,
    set_queue_config,
)
from meshhook.errors import DatabaseError
from meshhook.role_kinds import RoleKind
from meshhook.tracking import find_jobs, get_job
from support.roles import Roles

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def bands(connection: Any) -> dict[int, int]:
    """Return the band of each message of queue `jobs`."""
    rows = await connection.fetch(
        "select msg_id, meshhook.priority_of(headers) as band from pgmq.q_jobs order by msg_id"
    )
    return {row["msg_id"]: row["band"] for row in rows}


@pytest.fixture
async def service(connection: Connection) -> QueueService[Any]:
    """The queue `jobs`, which has priorities."""
    await set_queue_config(connection, "jobs", prioritized=True)
    return QueueService[Any](connection, "jobs")


async def test_jobs_that_wait_change_their_priority(
    service: QueueService[Any], connection: Connection
) -> None:
    """Ready, scheduled and retried ones; the last two are due when they were."""
    retried = await service.enqueue({}, delay_seconds=3_600)
    later = await service.enqueue({}, delay_seconds=3_600)
    await connection.execute(
        """update pgmq.q_jobs set read_ct = 1, headers = '{"meshhook-settled": 1}'
        where msg_id = $1""",
        retried,
    )
    ready = await service.enqueue({}, headers={"a": 1})
    before = await connection.fetch("select vt from pgmq.q_jobs where vt > now() order by msg_id")
    done = await service.set_priority([retried, later, ready, 99], priority="urgent")
    assert dict(done.counts) == {"reprioritized": 3, "not_found": 1}
    assert [each.was for each in done.jobs[:3]] == ["retrying", "scheduled", "ready"]
    assert set((await bands(connection)).values()) == {0}
    after = await connection.fetch("select vt from pgmq.q_jobs where vt > now() order by msg_id")
    assert before == after
    headers = await connection.fetchval(
        "select headers ->> 'a' from pgmq.q_jobs where msg_id = $1", ready
    )
    assert headers == "1"
    again = await service.set_priority(ready, priority=0)
    assert dict(again.counts) == {"unchanged": 1}


async def test_a_job_that_is_due_is_found_in_its_new_band(
    service: QueueService[Any], connection: Connection
) -> None:
    """It waits from now on, or it would lie below where claims look; else its time stays."""
    first = await service.enqueue({}, priority="low")
    await connection.execute("update pgmq.q_jobs set vt = now() - interval '1 h'")
    await service.set_priority(first, priority="urgent")
    assert await connection.fetchval("select vt > now() - interval '1 min' from pgmq.q_jobs")
    await set_queue_config(connection, "jobs", prioritized=False)
    await connection.execute("update pgmq.q_jobs set vt = now() - interval '1 h'")
    await service.set_priority(first, priority="low")
    assert await connection.fetchval("select vt < now() - interval '1 min' from pgmq.q_jobs")


async def test_a_running_job_is_left_alone(
    service: QueueService[Any], connection: Connection
) -> None:
    """Its lease is not touched either."""
    await service.enqueue({})
    job = await service.dequeue()
    assert job is not None
    row = await connection.fetchrow("select * from pgmq.q_jobs")
    done = await service.set_priority(job.msg_id, priority="high")
    assert [(each.result, each.was) for each in done.jobs] == [("unchanged", "running")]
    assert await connection.fetchrow("select * from pgmq.q_jobs") == row


async def test_a_dead_letter_keeps_its_new_priority_when_it_is_replayed(
    service: QueueService[Any], connection: Connection
) -> None:
    """It is named by the msg_id that the job had."""
    await service.enqueue({})
    job = await service.dequeue()
    assert job is not None
    dead = DLQService(connection, "jobs")
    await dead.move_to_dead_letter(job, "no", error_type="E")
    done = await service.set_priority(job.msg_id, priority="high")
    assert [(each.result, each.was) for each in done.jobs] == [("reprioritized", "dead_lettered")]
    assert (await get_job(connection, "jobs", job.msg_id)).priority == "high"
    await dead.replay_dead_letter_job(
        await connection.fetchval("select msg_id from pgmq.q_jobs_dlq")
    )
    assert list((await bands(connection)).values()) == [1]


async def test_all_that_fit_are_changed(service: QueueService[Any], connection: Connection) -> None:
    """By run; a dry run changes nothing."""
    await service.enqueue_many([{"run_id": "r"}, {"run_id": "r"}, {"run_id": "s"}])
    tried = await service.set_priority(run_id="r", priority="low", dry_run=True)
    assert (tried.changed, set((await bands(connection)).values())) == (2, {2})
    assert (await service.set_priority(run_id="r", priority="low")).changed == 2
    assert list((await bands(connection)).values()) == [3, 3, 2]
    found = await find_jobs(connection, queue="jobs")
    assert [job.priority for job in found] == ["normal", "low", "low"]


async def test_what_is_no_priority_is_refused(service: QueueService[Any]) -> None:
    """Before anything is looked for."""
    with pytest.raises(InvalidJobError, match="priority is urgent"):
        await service.set_priority(1, priority="fast")  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="name the jobs"):
        await service.set_priority(priority="low")


async def test_the_sync_service_changes_them(database_url: str, connection: Connection) -> None:
    """As the other does."""
    with SyncQueueService[Any](database_url, "jobs") as service:
        msg_id = service.enqueue({})
        assert service.set_priority(msg_id, priority="low").changed == 1
    assert await bands(connection) == {msg_id: 3}


async def test_sql_changes_them(service: QueueService[Any], connection: Connection) -> None:
    """By ids or by run; a missing priority and a wrong one are refused."""
    await service.enqueue_many([{"run_id": "r"}, {"run_id": "s"}])
    rows = await connection.fetch(
        "select * from meshhook.set_priority('jobs', priority => 'high', run_id => 's')"
    )
    assert [(row["msg_id"], row["result"], row["was"]) for row in rows] == [
        (2, "reprioritized", "ready")
    ]
    await connection.fetch("select * from meshhook.set_priority('jobs', array[1], '3')")
    assert await bands(connection) == {1: 3, 2: 1}
    for arguments, text in (("array[1]", "name a priority"), ("array[1], 'fast'", 'got "fast"')):
        with pytest.raises(asyncpg.PostgresError, match=text):
            await connection.fetch(f"select * from meshhook.set_priority('jobs', {arguments})")


async def test_whoever_is_on_call_may(
    database_url: str, service: QueueService[Any], connection: Connection
) -> None:
    """A producer may not: it cannot see jobs."""
    msg_id = await service.enqueue({})
    async with Roles(database_url, connection) as roles:
        async with QueueService[Any](roles.url(await roles.make(RoleKind.ONCALL)), "jobs") as own:
            assert (await own.set_priority(msg_id, priority="low")).changed == 1
        url = roles.url(await roles.make(RoleKind.READER))
        async with QueueService[Any](url, "jobs") as own:
            with pytest.raises(DatabaseError, match="permission denied"):
                await own.set_priority(msg_id, priority="high")


CALLS = {
    "enqueue": "meshhook.enqueue('jobs', '{}', %s)",
    "enqueue with a unique key": "meshhook.enqueue('jobs', '{}', unique_key => 'k', %s)",
    "enqueue_many": "meshhook.enqueue_many('jobs', array['{}', '{}']::jsonb[], %s)",
    "enqueue_unique": "meshhook.enqueue_unique('jobs', array['{}']::jsonb[], array['k'], %s)",
    "enqueue_group": "meshhook.enqueue_group('jobs', array['{}']::jsonb[], %s)",
    "publish": "meshhook.publish('news', '{}', %s)",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_each_function_that_enqueues_takes_a_priority(
    connection: Connection, call: str
) -> None:
    """By name or number, beside other headers; beside its own header and as nonsense it fails."""
    await connection.execute("select meshhook.bind_topic('jobs', 'news')")
    for said, band in (("'urgent'", 0), ("'3'", 3), ("null", 2)):
        await connection.execute(f"select {call % f'priority => {said}'}")
        assert set((await bands(connection)).values()) == {band}
        await connection.execute("delete from pgmq.q_jobs; delete from meshhook.unique_keys")
    headers = """headers => '{"a": 1}', priority => 'low'"""
    await connection.execute(f"select {call % headers}")
    assert set((await bands(connection)).values()) == {3}
    assert await connection.fetchval("select headers ->> 'a' from pgmq.q_jobs limit 1") == "1"
    await connection.execute("delete from pgmq.q_jobs; delete from meshhook.unique_keys")
    both = """headers => '{"meshhook-priority": 1}', priority => 'high'"""
    for arguments, text in (
        (both, "beside the header meshhook-priority"),
        (
            "priority => 'URGENT'",
            'urgent, high, normal or low, or 0 to 3, got "URGENT"',
        ),
        ("headers => '[]', priority => 'low'", "headers are a JSON object"),
    ):
        with pytest.raises(asyncpg.PostgresError, match=text) as refused:
            await connection.execute(f"select {call % arguments}")
        assert refused.value.sqlstate == "MHQ07"
    assert await bands(connection) == {}


async def test_schedules_take_a_priority(connection: Connection) -> None:
    """Each of its jobs has it."""
    await connection.execute(
        "select meshhook.add_schedule('jobs', 's', every => interval '1 h', priority => 'high')"
    )
    assert (
        await connection.fetchval("select headers ->> 'meshhook-priority' from meshhook.schedules")
        == "1"
    )


async def test_callers_by_position_and_by_name_still_work(connection: Connection) -> None:
    """With every argument that there was before, and with as few as there may be."""
    for call in (
        "enqueue('jobs', '{}')",
        "enqueue('jobs', '{}', null, null, null, null, null, null, null)",
        "enqueue('jobs', '{}', headers => '{\"meshhook-priority\": 0}', delay => interval '0')",
        "enqueue_many('jobs', array['{}']::jsonb[], null, null, null, null, null, null, null)",
        f"enqueue_unique('jobs', array['{{}}']::jsonb[], array['a']{', null' * 5}, 'existing')",
        f"enqueue_group('jobs', array['{{}}']::jsonb[]{', null' * 8})",
        "publish('news', '{}', null, null, null)",
        "add_schedule('jobs', 's', '@daily', null, 'UTC', '{}', null, null, 'once', 'allow', null)",
    ):
        await connection.execute(f"select meshhook.{call}")
    assert set((await bands(connection)).values()) == {0, 2}


@pytest.mark.parametrize("prioritized", [True, False])
@pytest.mark.parametrize("few", [True, False])
async def test_jobs_are_found_by_priority(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, *, prioritized: bool, few: bool
) -> None:
    """By the index of a queue with priorities, without it, and where a band has many."""
    if not few:
        monkeypatch.setattr("meshhook.store.job_search.FEW_SIDE_ROWS", 1)
        monkeypatch.setattr("meshhook.store.job_search.SMALL_SIDE_ROWS", 1)
        monkeypatch.setattr("meshhook.store.job_search.FIRST_CHUNK_ROWS", 2)
    await set_queue_config(connection, "jobs", prioritized=prioritized, lookup_by=["run_id"])
    service = QueueService[Any](connection, "jobs")
    for priority in ("urgent", "low", None):
        await service.enqueue_many([{"run_id": "r"}, {"run_id": "s"}, {}], priority=priority)
    later = await service.enqueue({"run_id": "r"}, priority=0, delay_seconds=3_600)

    async def found(**filters: Any) -> list[int]:
        jobs = await find_jobs(connection, **filters)
        assert jobs.is_complete
        return [each.msg_id for each in jobs]

    assert await found(priority="urgent") == [later, 3, 2, 1]
    assert await found(queue="jobs", priority="low") == [6, 5, 4]
    assert await found(queue="jobs", priority=2) == [9, 8, 7]
    assert await found(queue="jobs", priority="high") == []
    assert await found(queue="jobs", priority="urgent", run_id="r") == [later, 1]
    assert await found(priority="urgent", state="scheduled") == [later]
    assert await found(queue="jobs", priority="urgent", state="ready", before_id=3) == [2, 1]
    assert await found(queue="jobs", priority="urgent", limit=2) == [later, 3]


async def test_jobs_that_have_left_their_queue_have_no_priority(
    service: QueueService[Any], connection: Connection
) -> None:
    """A search for one finds none of them, and refuses to search the history only."""
    ended = await service.enqueue({"run_id": "r"}, priority="urgent")
    waiting = await service.enqueue({"run_id": "r"}, priority="urgent")
    await service.cancel(ended)
    for filters in ({}, {"run_id": "r"}, {"queue": "jobs"}):
        jobs = await find_jobs(connection, priority="urgent", **filters)  # type: ignore[arg-type]
        assert [each.msg_id for each in jobs] == [waiting]
    for wrong in ({"state": "cancelled"}, {"error_type": "E"}):
        with pytest.raises(InvalidSettingError, match="the history has no priorities"):
            await find_jobs(connection, priority="urgent", **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="priority is urgent, high, normal, low"):
        await find_jobs(connection, priority="soon")  # type: ignore[arg-type]


def test_they_are_found_without_an_event_loop(database_url: str) -> None:
    """As `find_jobs` does."""
    with SyncQueueService[Any](database_url, "jobs") as service:
        service.enqueue({}, priority="low")
        urgent = service.enqueue({}, priority="urgent")
        assert [each.msg_id for each in service.find_jobs(priority="urgent")] == [urgent]
