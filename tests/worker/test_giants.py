"""Messages of any size and content: at most they end as dead letters, and no job waits for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService, set_queue_config
from meshhook.postgres.database import Database
from support import giants
from support.databases import server_directory
from support.pgbouncer import pgbouncer
from support.waiting import eventually
from support.workers import make_worker, outcomes, worker_process

SECONDS = 100
"""How long giants may take that the server unpacks, on a machine that does much else."""

pytestmark = [pytest.mark.usefixtures("queue_name"), pytest.mark.timeout(300)]

Pool = asyncpg.Pool
Connection = asyncpg.Connection


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the server unpack a giant for longer than usual: a slow one would have to try again."""
    monkeypatch.setattr("meshhook.worker.parts.READ_SECONDS", 28.0)


async def dead_letters(connection: Connection[Any]) -> dict[int, dict[str, Any]]:
    """Return the reasons of dead letters, by the id of the job that each was."""
    rows = await connection.fetch(
        "select d.* from pgmq.q_jobs_dlq q, jsonb_to_record(q.headers -> 'meshhook-dead-letter') "
        "d (msg_id bigint, attempts integer, error_type text, error_message text)"
    )
    return {row["msg_id"]: dict(row) for row in rows}


async def nothing(_: Job[Any]) -> None:
    """Do nothing."""


@pytest.mark.parametrize("name", giants.GIANTS)
async def test_a_giant_is_a_dead_letter_and_its_neighbours_run(
    pool: Pool[Any], connection: Connection[Any], database_url: str, name: str
) -> None:
    """It says why, at its first attempt; those before and behind it succeed at their first."""
    queue = QueueService[Any](pool, "jobs")
    neighbours = await queue.enqueue_many([{"n": n} for n in range(20)])
    [giant] = await giants.send(connection, giants.GIANTS[name])
    neighbours += await queue.enqueue_many([{"n": n} for n in range(20)])
    async with make_worker(database_url, nothing) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 40, timeout=SECONDS)
        await eventually(lambda: worker.get_stats().failed == 1, timeout=SECONDS)
    dead = (await dead_letters(connection))[giant]
    assert (dead["error_type"], dead["attempts"]) == ("MessageTooLargeError", 1)
    assert "max_message_bytes" in dead["error_message"]
    for neighbour in neighbours:
        assert await outcomes(connection, neighbour) == [("succeeded", 1)]
    assert await connection.fetchval("select message is not null from pgmq.q_jobs_dlq")


@pytest.mark.parametrize("concurrency", [1, 50])
async def test_giants_in_front_of_many_jobs_keep_none_waiting(
    pool: Pool[Any], connection: Connection[Any], database_url: str, concurrency: int
) -> None:
    """Fifty of each kind: the jobs behind them are done before all giants are."""
    kinds = ["numbers past a gigabyte", "numbers just below it", "numbers close to 0"]
    for kind in kinds:
        await giants.send(connection, giants.GIANTS[kind], count=50)
    await QueueService[Any](pool, "jobs").enqueue_many([{"n": n} for n in range(200)])
    seen: list[int] = []

    async with make_worker(database_url, nothing, concurrency=concurrency) as worker:

        async def are_done() -> bool:
            stats = worker.get_stats()
            seen.append(stats.failed)
            return stats.succeeded == 200

        await eventually(are_done, timeout=SECONDS)
        assert seen[-1] < 150
        await eventually(lambda: worker.get_stats().failed == 150, timeout=120)
    rows = await connection.fetch("select outcome, attempt from meshhook.job_attempts")
    assert Counter(map(tuple, rows)) == {("succeeded", 1): 200, ("dead_lettered", 1): 150}


@pytest.mark.parametrize("name", giants.ODDITIES)
async def test_an_odd_message_that_can_be_read_runs_or_is_refused_alone(
    pool: Pool[Any], connection: Connection[Any], database_url: str, name: str
) -> None:
    """Its handler gets all of it, or it becomes a dead letter that says what is wrong."""
    bodies: dict[int, int] = {}

    async def handler(job: Job[Any]) -> None:
        bodies[job.msg_id] = len(job.body)

    [odd] = await giants.send(connection, giants.ODDITIES[name])
    neighbour = await QueueService[Any](pool, "jobs").enqueue({})
    size = await connection.fetchval("select length(message::text) from pgmq.q_jobs limit 1")
    async with make_worker(database_url, handler) as worker:
        await eventually(
            lambda: worker.get_stats().succeeded + worker.get_stats().failed == 2, timeout=SECONDS
        )
    assert await outcomes(connection, neighbour) == [("succeeded", 1)]
    if odd in bodies:
        assert bodies[odd] == size
    else:
        assert (await dead_letters(connection))[odd]["error_type"] == "InvalidPayload"


async def test_headers_of_any_size_are_no_reason_to_stop(
    pool: Pool[Any], connection: Connection[Any], database_url: str
) -> None:
    """A giant there is a dead letter like any other, also where it stands under our own names."""
    big = giants.GIANTS
    made = [
        big["numbers past a gigabyte"],
        "'\"' || repeat('a', 20000000) || '\"'",
        '\'{"meshhook-settled": 1e131071, "a": \' || ' + big["numbers past a gigabyte"] + " || '}'",
        '\'{"meshhook-claim": {"read_ct": 1e131071, "attempt": \' || '
        + big["numbers just below it"]
        + " || '}}'",
        "'{\"traceparent\": \"' || repeat('a', 20000000) || '\"}'",
    ]
    odd = [(await giants.send(connection, "'{}'", headers_sql=sql))[0] for sql in made]
    small = await giants.send(
        connection, "'{}'", headers_sql="'{\"meshhook-settled\": 1e131071}'", count=100
    )
    neighbours = await QueueService[Any](pool, "jobs").enqueue_many([{}] * 20)
    async with make_worker(database_url, nothing) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 120, timeout=SECONDS)
        await eventually(lambda: worker.get_stats().failed == 5, timeout=SECONDS)
    reasons = await dead_letters(connection)
    assert set(reasons) == set(odd)
    assert {each["error_type"] for each in reasons.values()} == {"MessageTooLargeError"}
    assert "headers" in reasons[odd[0]]["error_message"]
    for msg_id in (*small, *neighbours):
        assert await outcomes(connection, msg_id) == [("succeeded", 1)]


async def test_a_queue_without_dead_letters_archives_them(
    connection: Connection[Any], database_url: str
) -> None:
    """With the reason in the history."""
    await set_queue_config(Database(connection), "jobs", dlq_enabled=False)
    [giant] = await giants.send(connection, giants.GIANTS["numbers past a gigabyte"])
    async with make_worker(database_url, nothing) as worker:
        await eventually(lambda: worker.get_stats().failed == 1, timeout=SECONDS)
    row = await connection.fetchrow("select * from meshhook.job_attempts where msg_id = $1", giant)
    assert row is not None
    assert (row["outcome"], row["error_type"]) == ("archived", "MessageTooLargeError")
    assert await connection.fetchval("select count(*) from pgmq.a_jobs") == 1


async def test_the_limit_is_the_workers_own_or_follows_that_of_the_queue(
    connection: Connection[Any], database_url: str
) -> None:
    """What the library enqueues is read, also where that is more than 16 MiB."""
    handled: list[int] = []

    async def handler(job: Job[Any]) -> None:
        handled.append(len(job.payload))

    await set_queue_config(Database(connection), "jobs", max_payload_bytes=20_000_000)
    queue = QueueService[Any](connection, "jobs")
    await queue.enqueue("x" * 18_000_000)
    async with make_worker(database_url, handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 1, timeout=SECONDS)
    assert handled == [18_000_000]
    await queue.enqueue("x" * 400_000)
    async with make_worker(database_url, handler, max_message_bytes=300_000) as worker:
        await eventually(lambda: worker.get_stats().failed == 1, timeout=SECONDS)
    [reason] = (await dead_letters(connection)).values()
    assert "400,002 bytes; at most 300,000" in reason["error_message"]


async def test_large_messages_are_held_a_few_at_a_time(
    connection: Connection[Any], database_url: str
) -> None:
    """Four of the largest size, however many slots there are; the rest wait unread."""
    go_on = asyncio.Event()
    held = 0

    async def handler(job: Job[Any]) -> None:
        nonlocal held
        held += len(job.body)
        await go_on.wait()
        held -= len(job.body)

    await giants.send(connection, "'\"' || repeat('x', 900000) || '\"'", count=12)
    async with make_worker(database_url, handler, max_message_bytes=1_000_000) as worker:
        await eventually(lambda: worker.get_stats().running == 4)
        await QueueService[Any](connection, "jobs").enqueue("small")
        await eventually(lambda: worker.get_stats().running == 5)
        assert held <= 4_000_000
        go_on.set()
        await eventually(lambda: worker.get_stats().succeeded == 13)


async def test_a_worker_that_stops_gives_back_what_it_has_not_read(
    connection: Connection[Any], database_url: str
) -> None:
    """Ready at once, and with the attempt unspent."""
    entered = asyncio.Event()
    go_on = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        entered.set()
        await go_on.wait()

    await giants.send(connection, "'\"' || repeat('x', 900000) || '\"'", count=12)
    worker = make_worker(database_url, handler, max_message_bytes=1_000_000)
    await worker.start()
    await entered.wait()
    await eventually(lambda: worker.get_stats().running == 4)
    worker.request_stop()
    await eventually(lambda: worker.get_stats().released == 8)
    go_on.set()
    await worker.stop()
    assert worker.get_stats().succeeded == 4
    states = await connection.fetch("select read_ct from pgmq.q_jobs")
    assert [row[0] for row in states] == [0] * 8


@pytest.mark.parametrize("max_message_bytes", [0, 268_435_456])
async def test_what_is_larger_than_the_memory_of_a_worker_ends_no_process(
    connection: Connection[Any], database_url: str, tmp_path: Path, max_message_bytes: int
) -> None:
    """Nor where the limit is set too high: then it is tried as often as any job."""
    await set_queue_config(
        Database(connection), "jobs", max_retry_attempts=2, retry_backoff_base_ms=0
    )
    await connection.execute("alter table pgmq.q_jobs alter column message set storage external")
    [giant] = await giants.send(connection, "'\"' || repeat('a', 180000000) || '\"'")
    neighbours = await QueueService[Any](connection, "jobs").enqueue_many([{}] * 5)
    options: dict[str, Any] = {"max_message_bytes": max_message_bytes} if max_message_bytes else {}
    async with worker_process(
        database_url, "quick", ledger=tmp_path / "ledger", memory_bytes=500_000_000, **options
    ) as process:

        async def are_settled() -> bool:
            return not await connection.fetchval("select exists (select from pgmq.q_jobs)")

        await eventually(are_settled, timeout=180)
        assert process.returncode is None
    for neighbour in neighbours:
        assert await outcomes(connection, neighbour) == [("succeeded", 1)]
    reason = (await dead_letters(connection))[giant]
    if max_message_bytes:
        assert (reason["error_type"], reason["attempts"]) == ("MessageUnreadableError", 2)
    else:
        assert (reason["error_type"], reason["attempts"]) == ("MessageTooLargeError", 1)


@pytest.fixture
def pooled_url(database_url: str) -> Iterator[str]:
    """The URL of `database_url` through a pooler in transaction mode."""
    with (
        server_directory() as folder,
        pgbouncer(folder, database_url, pool_size=3) as pooler,
    ):
        yield pooler.url(database_url)


async def test_giants_behind_a_pooler(
    pool: Pool[Any], connection: Connection[Any], pooled_url: str
) -> None:
    """It is the same there."""
    for name in giants.GIANTS:
        await giants.send(connection, giants.GIANTS[name])
    await QueueService[Any](pool, "jobs").enqueue_many([{}] * 20)
    async with make_worker(pooled_url, nothing, pooled=True) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 20, timeout=SECONDS)
        await eventually(lambda: worker.get_stats().failed == len(giants.GIANTS), timeout=SECONDS)
    found = {each["error_type"] for each in (await dead_letters(connection)).values()}
    assert found == {"MessageTooLargeError"}


async def test_dequeue_hands_out_what_can_be_read_and_buries_the_rest(
    pool: Pool[Any], connection: Connection[Any]
) -> None:
    """As a worker does it."""
    queue = QueueService[Any](pool, "jobs")
    [giant] = await giants.send(connection, giants.GIANTS["numbers past a gigabyte"])
    large = await queue.enqueue("x" * 500_000)
    found = await queue.dequeue()
    assert found is not None
    assert (found.msg_id, len(found.payload)) == (large, 500_000)
    assert (await dead_letters(connection))[giant]["error_type"] == "MessageTooLargeError"
