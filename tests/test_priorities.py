"""Priorities of jobs: every way to say one, and the setting of a queue."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    App,
    FollowUp,
    InvalidJobError,
    InvalidSettingError,
    Job,
    Priority,
    QueueService,
    SyncQueueService,
    add_schedule,
    get_queue_config,
    run_schedule,
    set_queue_config,
)
from meshhook.errors import DatabaseError
from meshhook.priorities import PRIORITY_HEADER

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

INDEX = "select to_regclass('pgmq.q_jobs_priority_idx') is not null"


async def bands(connection: Connection | Pool) -> dict[int, int]:
    """Return the band of each message of queue `jobs`."""
    rows = await connection.fetch(
        "select msg_id, meshhook.priority_of(headers) as band from pgmq.q_jobs order by msg_id"
    )
    return {row["msg_id"]: row["band"] for row in rows}


@pytest.mark.parametrize("priority", [*Priority, "urgent", "high", "normal", "low", None])
async def test_each_way_to_enqueue_takes_a_priority(
    pool: Pool, queue_name: str, priority: Any
) -> None:
    """One job or several, with a unique key, a group or a transaction of the caller."""
    service = QueueService[Any](pool, queue_name)
    await service.enqueue({}, priority=priority)
    await service.enqueue_many([{}, {}], priority=priority, group="g")
    await service.enqueue({}, priority=priority, unique_key="u", headers={"a": 1})
    async with pool.acquire() as connection, connection.transaction():
        await service.enqueue({}, priority=priority, key="k", connection=connection)
    if isinstance(priority, str):
        band = ["urgent", "high", "normal", "low"].index(priority)
    else:
        band = 2 if priority is None else priority
    assert set((await bands(pool)).values()) == {band}


@pytest.mark.parametrize("priority", ["URGENT", "", 4, -1, True, 1.5, [], {}, b"low"])
async def test_what_is_no_priority_is_refused(pool: Pool, queue_name: str, priority: Any) -> None:
    """An error names what was given, as an argument or as a header, and nothing is stored."""
    service = QueueService[Any](pool, queue_name)
    for options in ({"priority": priority}, {"headers": {PRIORITY_HEADER: priority}}):
        with pytest.raises(InvalidJobError, match=r"priority is urgent, high, normal, low, or 0"):
            await service.enqueue({}, **options)
    with pytest.raises(InvalidJobError, match="priority is urgent"):
        FollowUp(queue_name, priority=priority)
    assert await bands(pool) == {}


async def test_a_priority_is_given_once(pool: Pool, queue_name: str) -> None:
    """Beside the header, the argument is refused."""
    service = QueueService[Any](pool, queue_name)
    with pytest.raises(InvalidJobError, match="leave one of them out"):
        await service.enqueue({}, priority="low", headers={PRIORITY_HEADER: 0})
    await service.enqueue({}, headers={PRIORITY_HEADER: 0})
    assert await bands(pool) == {1: 0}


async def test_the_handler_of_a_queue_says_the_usual_priority(
    database_url: str, pool: Pool, queue_name: str
) -> None:
    """`App.job` has a priority for jobs for which none is said, and each call may say another."""
    async with App(database_url) as app:

        @app.job(queue_name, priority="low")
        def handle(job: Job[Any]) -> None: ...

        await app.enqueue(queue_name, {})
        await handle.enqueue({})
        await handle.enqueue_many([{}], priority="urgent")
        await handle.enqueue({}, headers={PRIORITY_HEADER: "high"})
        assert handle.follow_up({}).priority == Priority.LOW
        assert handle.follow_up({}, priority=1).priority == Priority.HIGH
    assert [*(await bands(pool)).values()] == [3, 3, 0, 1]


def test_an_app_refuses_what_is_no_priority() -> None:
    """The error comes with the line that declares the handler."""
    with pytest.raises(InvalidJobError, match="priority is urgent"):
        App().job("jobs", priority="fast")  # type: ignore[call-overload]


async def test_a_schedule_has_a_priority(pool: Pool, queue_name: str) -> None:
    """Its jobs have it."""
    await add_schedule(pool, queue_name, "nightly", "@daily", priority="low")
    await run_schedule(pool, queue_name, "nightly")
    assert await bands(pool) == {1: 3}


def test_the_blocking_service_takes_a_priority(database_url: str, queue_name: str) -> None:
    """As the other one does."""
    bad: Any = "fast"
    with SyncQueueService[Any](database_url, queue_name) as service:
        service.enqueue({}, priority="urgent")
        service.enqueue_many([{}], priority="low")
        with pytest.raises(InvalidJobError, match="priority is urgent"):
            service.enqueue({}, priority=bad)


async def test_sql_takes_a_priority_among_the_headers(
    connection: Connection, queue_name: str
) -> None:
    """A number or a name; anything else is refused, as is any other name of ours."""
    for value in ("0", '"high"', "2", '"low"'):
        await connection.execute(
            f"select meshhook.enqueue('jobs', '1', headers => '{{\"meshhook-priority\": {value}}}')"
        )
    assert [*(await bands(connection)).values()] == [0, 1, 2, 3]
    for headers, reason in (
        ('{"meshhook-priority": 4}', "meshhook-priority.* is 0 to 3"),
        ('{"meshhook-priority": 0, "meshhook-claim": 1}', "meshhook-claim.*queue's own"),
    ):
        with pytest.raises(asyncpg.PostgresError, match=reason) as refusal:
            await connection.execute("select meshhook.enqueue('jobs', '1', $1)", headers)
        assert refusal.value.sqlstate == "MHQ07"


async def test_the_setting_builds_and_drops_its_index(
    connection: Connection, queue_name: str
) -> None:
    """Turning priorities on builds the index beside producers; turning them off drops it."""
    config = await set_queue_config(connection, queue_name, prioritized="true")
    assert config.prioritized
    assert await connection.fetchval(INDEX)
    # Again is nothing.
    await set_queue_config(connection, queue_name, prioritized=True)
    await set_queue_config(connection, queue_name, prioritized=False)
    assert not await connection.fetchval(INDEX)


async def test_an_index_that_was_left_half_built_is_built_anew(
    connection: Connection, queue_name: str
) -> None:
    """One that is not valid, or is another's of that name, is dropped first."""
    await connection.execute("create index q_jobs_priority_idx on pgmq.q_jobs (vt)")
    with pytest.raises(asyncpg.PostgresError, match="has no index of priorities yet"):
        await connection.execute("update meshhook.queue_config set prioritized = true")
    await set_queue_config(connection, queue_name, prioritized=True)
    assert "priority_of" in await connection.fetchval(
        "select pg_get_indexdef('pgmq.q_jobs_priority_idx'::regclass)"
    )


async def test_a_large_queue_is_not_built_in_a_transaction(
    connection: Connection, queue_name: str
) -> None:
    """There nobody could write to it; the error says how to do it outside of one."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), to_jsonb(repeat('x', 1900)) "
        "from generate_series(1, 5000)"
    )
    with pytest.raises(DatabaseError, match="meshhook queue set jobs prioritized=true"):
        async with connection.transaction():
            await set_queue_config(connection, queue_name, prioritized=True)
    assert not (await get_queue_config(connection, queue_name)).prioritized


@pytest.mark.parametrize("first", ["keyed", "prioritized"])
async def test_keys_and_priorities_do_not_go_together(
    connection: Connection, queue_name: str, first: str
) -> None:
    """The error names both settings and the way out; a change of both at once is taken."""
    second = "prioritized" if first == "keyed" else "keyed"
    await set_queue_config(connection, queue_name, **{first: True})
    with pytest.raises(InvalidSettingError, match="set keyed=false, or prioritized=false"):
        await set_queue_config(connection, queue_name, **{second: True})
    config = await set_queue_config(connection, queue_name, **{first: False, second: True})
    assert getattr(config, second)


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        ("1,2,3", "four numbers"),
        ("4,3,2,1", "less urgent"),
        ("0,1,2,3", "greater than or equal to 0.1"),
        ("1,2,3,nan", "finite|greater|less"),
        ("a,b,c,d", "valid number"),
        (5, "four numbers"),
    ],
)
async def test_wrong_targets_are_refused(
    connection: Connection, queue_name: str, targets: Any, reason: str
) -> None:
    """The error names the setting and the rule; the database refuses what is written past it."""
    with pytest.raises(InvalidSettingError, match=f"priority_target_seconds.*({reason})"):
        await set_queue_config(connection, queue_name, priority_target_seconds=targets)


@pytest.mark.parametrize(
    "targets",
    ["{}", "{1,2,3}", "{4,3,2,1}", "{0,1,2,3}", "{1,2,3,NaN}", "{1,2,3,null}", "[0:3]={1,2,3,4}"],
)
async def test_the_table_refuses_wrong_targets(
    connection: Connection, queue_name: str, targets: str
) -> None:
    """Whoever writes it with SQL gets an error, too."""
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute(
            "update meshhook.queue_config set priority_target_seconds = $1::text::float8[]", targets
        )


async def test_a_service_claims_by_priority(pool: Pool, queue_name: str) -> None:
    """Programs without a worker get the most urgent job."""
    await set_queue_config(pool, queue_name, prioritized=True)
    service = QueueService[Any](pool, queue_name)
    for priority in ("low", "normal", "urgent", "high"):
        await service.enqueue(priority, priority=priority)
    found = []
    while (job := await service.dequeue()) is not None:
        found.append(job.payload)
    assert found == ["urgent", "high", "normal", "low"]
