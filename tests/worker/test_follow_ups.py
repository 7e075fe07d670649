"""Follow-ups: jobs that are enqueued in the statement that settles another one."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    App,
    DeadLetter,
    Done,
    FollowUp,
    InvalidJobError,
    Job,
    QueueService,
    RetryPolicy,
    WorkflowJob,
    create_queue,
    get_group,
    set_queue_config,
)
from meshhook.errors import InvalidQueueNameError, InvalidSettingError
from support.waiting import eventually
from support.workers import live, make_worker, outcomes

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")


@pytest.fixture(autouse=True)
async def next_queue(database_url: str) -> None:
    """The queue that most follow-ups go to."""
    await create_queue(database_url, "next")


async def stored(connection: Connection, queue: str = "next") -> list[tuple[Any, Any]]:
    """Return body and headers of the messages of a queue, in order."""
    rows = await connection.fetch(f"select message, headers from pgmq.q_{queue} order by msg_id")
    return [
        (json.loads(row["message"]), row["headers"] and json.loads(row["headers"])) for row in rows
    ]


async def processed(worker: Any, count: int) -> None:
    """Wait until a worker has recorded `count` outcomes."""
    await eventually(lambda: worker.get_stats().processed >= count)


async def test_what_follows_is_enqueued_with_the_outcome(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """In order, into several queues, with the identifiers of the job where none are given."""

    async def handler(_: Job[Any]) -> object:
        return Done(
            then=[
                FollowUp("next", {"n": 1}),
                FollowUp("next", [2], run_id="other", key="acme", headers={"a": 1}),
                FollowUp("jobs", 3, delay=60),
                FollowUp("next", WorkflowJob(run_id="x", workflow_id="y", project_id="z")),
                FollowUp("next", {"n": 4}, delay=timedelta(hours=1)),
            ]
        )

    job = {"run_id": "r", "project_id": "p", "payload": {}}
    msg_id = await QueueService[Any](pool, "jobs").enqueue(job)
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    ids = {"run_id": "r", "project_id": "p"}
    assert await stored(connection) == [
        (ids | {"payload": {"n": 1}}, None),
        (ids | {"run_id": "other", "payload": [2]}, {"a": 1, "x-pgmq-group": "acme"}),
        ({"run_id": "x", "workflow_id": "y", "project_id": "z", "payload": {}}, None),
        (ids | {"payload": {"n": 4}}, None),
    ]
    assert await stored(connection, "jobs") == [(ids | {"payload": 3}, None)]
    late = "select count(*) from pgmq.q_next where vt > now() + interval '50 minutes'"
    assert await connection.fetchval(late) == 1
    assert await outcomes(connection, msg_id) == [("succeeded", 1)]


@pytest.mark.parametrize("how", ["raised", "raised in a group", "a plain function"])
async def test_ways_to_say_what_follows(
    pool: Pool, connection: Connection, database_url: str, how: str
) -> None:
    """An outcome may be raised, and two tasks of a handler may each raise one."""

    async def raises(_: Job[Any]) -> None:
        raise Done(then=FollowUp("next", 1))

    async def raises_group(_: Job[Any]) -> None:
        outcomes = [Done(then=FollowUp("next", 1)), Done(), Done(then=[FollowUp("next", 2)])]
        raise ExceptionGroup("tasks", outcomes)

    def returns(_: Job[Any]) -> Done:
        return Done(then=[FollowUp("next", 1)])

    handlers = {"raised": raises, "raised in a group": raises_group, "a plain function": returns}
    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handlers[how]) as worker:
        await processed(worker, 1)
    bodies = [body for body, _ in await stored(connection)]
    assert bodies == ([1, 2] if how == "raised in a group" else [1])


async def test_an_app_declares_where_its_jobs_go(database_url: str, connection: Connection) -> None:
    """QueueHandler.follow_up names the queue of the handler."""
    app = App(database_url)

    @app.job("next")
    async def second(order: dict[str, Any]) -> None:
        pass

    @app.job("jobs")
    async def first(order: dict[str, Any]) -> Done:
        return Done(then=second.follow_up({"seen": order["n"]}, delay=5))

    async with app:
        await first.enqueue_many([{"n": 1}], group="g", on_complete=second.follow_up({"all": 1}))
        async with app.workers(["jobs"]):
            await eventually(lambda: is_finished(connection, "g"))
    assert [body for body, _ in await stored(connection)] == [{"all": 1}, {"seen": 1}]


async def is_finished(connection: Connection, name: str) -> bool:
    """Return whether a group of queue `jobs` has finished."""
    return (await get_group(connection, "jobs", name)).is_finished


@pytest.mark.parametrize(
    ("follow_up", "says"),
    [
        (FollowUp("nowhere"), 'queue "nowhere" does not exist'),
        (FollowUp("next", "x" * 2_000_000), "2000002 bytes of JSON"),
        (FollowUp("keyed", {"a": 1}, key="acme"), "takes the key from the body"),
        (FollowUp("next", {"a": {1, 2}}), "of type set"),
        (FollowUp("next", {"a": "\0"}), "U\\+0000"),
        (FollowUp("next", headers={"meshhook-a": 1}), "meshhook-a"),
    ],
)
async def test_a_refused_follow_up_fails_its_job_and_no_other(
    pool: Pool, connection: Connection, database_url: str, follow_up: FollowUp, says: str
) -> None:
    """Nothing of it is enqueued, the history says why, and what ended beside it is recorded."""
    await create_queue(connection, "keyed")
    await set_queue_config(connection, "keyed", keyed=True, key_path="a")
    await set_queue_config(connection, "jobs", max_retry_attempts=2, retry_backoff_base_ms=0)
    begun = asyncio.Event()
    count = 0

    async def handler(job: Job[Any]) -> object:
        nonlocal count
        count += 1
        if count == 20:
            begun.set()
        await begun.wait()
        if job.payload == 7:
            return Done(then=[FollowUp("next", "first"), follow_up])
        return Done(then=FollowUp("next", job.payload))

    ids = await QueueService[Any](pool, "jobs").enqueue_many(list(range(20)))
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 21)
    assert await live(connection) == {}
    assert await outcomes(connection, ids[7]) == [("retried", 1), ("dead_lettered", 2)]
    bodies = [body for body, _ in await stored(connection)]
    assert sorted(bodies) == [n for n in range(20) if n != 7]
    row = await connection.fetchrow(
        "select error_type, error_message from meshhook.job_attempts "
        "where outcome = 'dead_lettered'"
    )
    assert row is not None
    assert row["error_type"] == "FollowUpRefusedError"
    assert re.search(says, row["error_message"])


async def test_a_lost_lease_enqueues_nothing(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """If the job was taken over while it ran, what its handler says counts for nothing."""
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handler(_: Job[Any]) -> object:
        running.set()
        await go_on.wait()
        return Done(then=FollowUp("next", 1))

    await QueueService[Any](pool, "jobs").enqueue({})
    async with make_worker(database_url, handler) as worker:
        await running.wait()
        await connection.execute(
            "update pgmq.q_jobs set read_ct = read_ct + 1, vt = now() + interval '1 hour'"
        )
        go_on.set()
        await eventually(lambda: worker.get_stats().leases_lost == 1)
    assert await stored(connection) == []


async def test_complete_enqueues_in_the_callers_transaction(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """With the outcome; of what the handler returns afterwards nothing is enqueued."""

    async def handler(job: Job[Any]) -> object:
        async with pool.acquire() as own, own.transaction():
            await job.complete(connection=own, then=[FollowUp("next", job.payload)])
            if job.payload == "rolled back" and job.attempt == 1:
                raise ValueError
        return Done(then=FollowUp("next", "too late"))

    await set_queue_config(connection, "jobs", retry_backoff_base_ms=0)
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue("committed")
    await queue.enqueue_many(["rolled back"], group="g", on_complete=FollowUp("next", "all"))
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 3)
    bodies = [body for body, _ in await stored(connection)]
    assert sorted(bodies) == ["all", "committed", "rolled back"]


def test_wrong_follow_ups_are_refused_where_they_are_made() -> None:
    """With an error that names the argument."""
    with pytest.raises(InvalidJobError, match="then takes FollowUp"):
        Done(then={"queue": "next"})  # type: ignore[arg-type]
    with pytest.raises(InvalidJobError, match="at most 1000 jobs, got 1001"):
        Done(then=[FollowUp("next")] * 1001)
    with pytest.raises(InvalidQueueNameError):
        FollowUp("No Name")
    with pytest.raises(InvalidSettingError, match="a delay is"):
        FollowUp("next", delay=-1)
    with pytest.raises(InvalidJobError, match="run_id is a string"):
        FollowUp("next", run_id="")
    job = WorkflowJob(run_id="x", workflow_id="y", project_id="z")
    with pytest.raises(InvalidJobError, match="run_id was given with a WorkflowJob"):
        FollowUp("next", job, run_id="r")
    with pytest.raises(InvalidSettingError, match="retry is a RetryPolicy"):
        FollowUp("next", retry={"max_attempts": 3})  # type: ignore[arg-type]
    with pytest.raises(InvalidSettingError, match="expires_in is"):
        FollowUp("next", expires_in=-1)
    with pytest.raises(InvalidSettingError, match="both given"):
        FollowUp("next", expires_in=1, expires_at=datetime(2030, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidJobError, match="meshhook-retry was given beside the argument"):
        FollowUp("next", retry=RetryPolicy(), headers={"meshhook-retry": {}})
    assert Done("a reason").then == ()


@pytest.mark.parametrize("way", ["then", "on_dead_letter"])
async def test_what_follows_has_policies_of_its_own(
    pool: Pool, connection: Connection, database_url: str, way: str
) -> None:
    """They are those that `enqueue` takes, and are stored as it stores them."""
    policy = RetryPolicy(max_attempts=3, delays_ms=[1_000])
    follow_up = FollowUp("next", {}, retry=policy, expires_in=60, headers={"a": 1})
    is_dead = way == "on_dead_letter"

    async def handler(_: Job[Any]) -> object:
        if is_dead:
            raise DeadLetter("no")
        return Done(then=follow_up)

    await QueueService[Any](pool, "jobs").enqueue({}, on_dead_letter=follow_up if is_dead else None)
    async with make_worker(database_url, handler) as worker:
        await processed(worker, 1)
    [(_, headers)] = await stored(connection)
    headers.pop("meshhook-failed-job", None)
    assert headers == {
        "a": 1,
        "meshhook-retry": {"max_attempts": 3, "delays_ms": [1_000]},
        "meshhook-expires-in": 60,
    }
