"""Results: what handlers return is kept where the queue says so, and can be waited for."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeAlias

import asyncpg
import orjson
import pytest
from pydantic import BaseModel

from meshhook import (
    App,
    Cancel,
    Database,
    DeadLetter,
    Done,
    FollowUp,
    InvalidSettingError,
    Job,
    JobNotFoundError,
    QueueNotFoundError,
    QueueService,
    SyncQueueService,
    WaitTimeoutError,
    create_queue,
    set_queue_config,
)
from meshhook.store import queries
from meshhook.testing import run_job
from meshhook.tracking import get_job
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")


class Receipt(BaseModel):
    """A result that is a model."""

    number: int


RESULTS: dict[str, Any] = {
    "text": "done",
    "number": 7,
    "model": Receipt(number=3),
    "list": [1, None, {"a": 1.5}],
    "nothing": None,
    "outcome": Done(result={"b": True}),
    "followed": Done(then=FollowUp("jobs", "nothing", delay=3600), result="then"),
    "largest": "x" * 65_534,
}


async def handler(job: Job[Any]) -> Any:
    """Return what the payload names."""
    if job.payload == "dead":
        return DeadLetter("no")
    if job.payload == "cancelled":
        return Cancel("not wanted")
    if job.payload == "set":
        return {1, 2}
    if job.payload == "too large":
        return "x" * 65_535
    return RESULTS[job.payload]


@pytest.fixture
async def keeps_results(connection: Connection) -> None:
    """Queue `jobs` keeps results."""
    await set_queue_config(connection, "jobs", results=True)


@pytest.mark.usefixtures("keeps_results")
async def test_results_are_kept_and_waited_for(pool: Pool, database_url: str) -> None:
    """Each value comes back as JSON has it, whether its waiter came before or after the end."""
    async with QueueService[Any](pool, "jobs") as queue:
        ids = await queue.enqueue_many([*RESULTS])
        waiting = [asyncio.create_task(queue.wait(n, timeout_seconds=30)) for n in ids]
        await asyncio.sleep(0)
        async with make_worker(database_url, handler):
            early = await asyncio.gather(*waiting)
        late = [await queue.wait(n, timeout_seconds=30) for n in ids]
    assert early == late
    assert all(end.has_succeeded and end.attempts == 1 for end in early)
    assert [end.result for end in early] == [
        "done",
        7,
        {"number": 3},
        [1, None, {"a": 1.5}],
        None,
        {"b": True},
        "then",
        "x" * 65_534,
    ]
    life = await get_job(pool, "jobs", ids[3])
    assert json.loads(life.attempts[0].result or "") == RESULTS["list"]


@pytest.mark.usefixtures("keeps_results")
async def test_a_result_that_cannot_be_kept_fails_no_job(pool: Pool, database_url: str) -> None:
    """The work is done; the history and whoever waits are told what is wrong."""
    async with QueueService[Any](pool, "jobs") as queue:
        ids = await queue.enqueue_many(["set", "too large"])
        async with make_worker(database_url, handler):
            ends = [await queue.wait(n, timeout_seconds=30) for n in ids]
    assert [end.outcome for end in ends] == ["succeeded"] * 2
    assert [end.result for end in ends] == [None] * 2
    assert {end.error_type for end in ends} == {"ResultRefusedError"}
    assert "set" in str(ends[0].error_message)
    assert "65537 bytes of JSON, at most 65536 are kept" in str(ends[1].error_message)


@pytest.mark.usefixtures("keeps_results")
async def test_a_result_that_only_the_database_refuses_fails_no_job(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """A fragment of JSON is passed on unread. Its job, and those beside it, are recorded."""
    await create_queue(pool, "next")

    async def returns_fragment(job: Job[Any]) -> Any:
        fragment = orjson.Fragment(b'{"no": ') if job.payload == 3 else orjson.Fragment(b"[1]")
        return Done(then=FollowUp("next", job.payload), result=fragment)

    async with QueueService[Any](pool, "jobs") as queue:
        ids = await queue.enqueue_many(list(range(6)))
        async with make_worker(database_url, returns_fragment):
            ends = [await queue.wait(n, timeout_seconds=30) for n in ids]
    assert [end.outcome for end in ends] == ["succeeded"] * 6
    refused = ends.pop(3)
    assert [(end.result, end.error_type) for end in ends] == [([1], None)] * 5
    assert (refused.result, refused.error_type) == (None, "ResultRefusedError")
    assert "the database does not take the result" in str(refused.error_message)
    assert await connection.fetchval("select count(*) from pgmq.q_next") == 6


async def test_other_ends_are_told(pool: Pool, database_url: str) -> None:
    """A dead letter and a cancelled job; and without results, that a job has succeeded."""
    async with QueueService[Any](pool, "jobs") as queue:
        ids = await queue.enqueue_many(["dead", "cancelled", "number"])
        async with make_worker(database_url, handler):
            ends = [await queue.wait(n, timeout_seconds=30) for n in ids]
    assert [(end.outcome, end.error_message, end.result) for end in ends] == [
        ("dead_lettered", "no", None),
        ("cancelled", "not wanted", None),
        ("succeeded", None, None),
    ]
    assert not ends[0].has_succeeded


async def test_waiting_ends_in_time(pool: Pool, connection: Connection) -> None:
    """With an error that says the job goes on; what is not there is not waited for."""
    async with QueueService[Any](pool, "jobs") as queue:
        msg_id = await queue.enqueue({})
        with pytest.raises(WaitTimeoutError, match=f"meshhook jobs show jobs {msg_id}"):
            await queue.wait(msg_id, timeout_seconds=0.05)
        with pytest.raises(JobNotFoundError, match="nothing is left of job 999"):
            await queue.wait(999, timeout_seconds=30)
        waiting = asyncio.create_task(queue.wait(msg_id, timeout_seconds=30))
        await asyncio.sleep(0)
        await connection.execute("delete from pgmq.q_jobs")
        with pytest.raises(JobNotFoundError):
            await waiting
        for timeout_seconds in (0, -1, 86_401, "1"):
            with pytest.raises(InvalidSettingError, match="timeout_seconds"):
                await queue.wait(msg_id, timeout_seconds=timeout_seconds)  # type: ignore[arg-type]
    with pytest.raises(QueueNotFoundError):
        await QueueService[Any](pool, "nowhere").wait(1, timeout_seconds=30)


@pytest.mark.usefixtures("keeps_results")
async def test_settlements_notify_only_while_somebody_waits(
    pool: Pool, connection: Connection, database_url: str
) -> None:
    """Without a waiter there is no notification; with one, it comes with the end."""
    heard: list[str] = []
    await connection.add_listener("meshhook_ends", lambda *told: heard.append(str(told[-1])))
    queue = QueueService[Any](pool, "jobs")
    async with make_worker(database_url, handler) as worker:
        await queue.enqueue("number")
        await eventually(lambda: worker.get_stats().processed == 1)
        await connection.fetchval("select 1")
        assert heard == []
        await connection.execute(queries.load("await_ends"))
        await queue.enqueue("number")
        await eventually(lambda: heard == ["jobs"])
    await queue.close()


@pytest.mark.usefixtures("keeps_results")
@pytest.mark.parametrize("source", ["one connection", "a pool of one", "a URL", "without a loop"])
async def test_ways_to_wait(database_url: str, source: str) -> None:
    """A pool of one connection is not kept busy; a service that blocks waits as well."""
    async with make_worker(database_url, handler):
        if source == "without a loop":
            with SyncQueueService[Any](database_url, "jobs") as service:
                msg_id = await asyncio.to_thread(service.enqueue, "text")
                end = await asyncio.to_thread(service.wait, msg_id, timeout_seconds=30)
        elif source == "a URL":
            async with QueueService[Any](database_url, "jobs") as queue:
                end = await queue.wait(await queue.enqueue("text"), timeout_seconds=30)
        elif source == "a pool of one":
            database = await Database.connect(database_url, max_size=1)
            async with QueueService[Any](database, "jobs") as queue:
                end = await queue.wait(await queue.enqueue("text"), timeout_seconds=30)
            await database.close()
        else:
            connection = await asyncpg.connect(database_url)
            async with QueueService[Any](connection, "jobs") as queue:
                end = await queue.wait(await queue.enqueue("text"), timeout_seconds=30)
            await connection.close()
    assert end.result == "done"


async def test_an_app_declares_and_waits(database_url: str, pool: Pool) -> None:
    """The decorator takes the setting, and the handler's object waits."""
    app = App(database_url)

    @app.job("sums", results=True)
    async def add(numbers: list[int]) -> int:
        return sum(numbers)

    async with app.workers():
        end = await add.wait(await add.enqueue([1, 2, 4]), timeout_seconds=30)
    assert end.result == 7
    with pytest.raises(InvalidSettingError, match="make the service with a URL"):
        SyncQueueService[Any](None, "jobs").wait(1, timeout_seconds=1)


async def test_results_without_a_database() -> None:
    """run_job returns what a worker would keep and enqueue."""

    async def returns(_: Job[Any]) -> Done:
        return Done(then=FollowUp("next", 1), result=Receipt(number=1))

    kept = await run_job(returns, settings={"results": True})
    assert (kept.result, kept.then) == ({"number": 1}, (FollowUp("next", 1),))
    assert (await run_job(returns)).result is None


@pytest.mark.usefixtures("keeps_results")
async def test_complete_takes_a_result(pool: Pool, database_url: str) -> None:
    """It is kept with the caller's transaction."""

    async def completes(job: Job[Any]) -> None:
        async with pool.acquire() as own, own.transaction():
            await job.complete(connection=own, result=[job.payload])

    async with QueueService[Any](pool, "jobs") as queue:
        msg_id = await queue.enqueue("a")
        async with make_worker(database_url, completes):
            end = await queue.wait(msg_id, timeout_seconds=30)
    assert end.result == ["a"]
