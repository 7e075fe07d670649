"""Dead letters: what is kept of a job that failed for good, and how it is replayed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from itertools import chain
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.administration import create_queue, set_queue_config
from meshhook.dead_letters import DLQService
from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DeadLetterNotFoundError,
    InvalidJobError,
    InvalidPayloadError,
    InvalidQueueNameError,
    InvalidSettingError,
    MeshHookError,
    QueueNotFoundError,
)
from meshhook.jobs import Job, WorkflowJob
from meshhook.postgres.database import Database
from meshhook.queues import QueueService
from meshhook.store import queries

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

STRANGE_HEADERS = [
    None,
    "null",
    "[]",
    "7",
    '"text"',
    "true",
    '{"meshhook-dead-letter": null}',
    '{"meshhook-dead-letter": [1, {"queue": 5}]}',
    '{"meshhook-dead-letter": "meshhook"}',
    '{"meshhook-dead-letter": {}, "meshhook-replayed-from": 5, "meshhook-settled": "x"}',
    """{"meshhook-dead-letter": {"queue": {}, "msg_id": 1.5, "attempts": -1, "error_type": 5,
        "error_message": [], "error_stack": {}, "worker": true, "first_enqueued_at": "yesterday",
        "last_started_at": 7, "dead_at": null}, "meshhook-replayed-from": {"replays": "many"}}""",
    """{"meshhook-dead-letter": {"queue": null, "msg_id": 1e40, "attempts": 99999999999,
        "first_enqueued_at": "2026-02-30T00:00:00+00:00"},
        "meshhook-replayed-from": {"replays": 1e9}}""",
    """{"meshhook-dead-letter": {"msg_id": true, "attempts": true,
        "first_enqueued_at": "99999-01-01T00:00:00.5+00:00"}}""",
    '{"meshhook-dead-letter": {"msg_id": 12345, "first_enqueued_at": "2026-01-01T00:00:00"}}',
]


async def claimed(pool: Pool, payload: Any = None, queue_name: str = "jobs") -> Job[Any]:
    """Enqueue a job and claim it."""
    service = QueueService[Any](pool, queue_name)
    await service.enqueue(
        WorkflowJob(run_id="r", workflow_id="w", project_id="p", payload=payload or {}),
        headers={"tenant": "acme"},
    )
    job = await service.dequeue()
    assert job is not None
    return job


async def dead(pool: Pool, error_type: str = "Broken", message: str = "it broke") -> int:
    """Make a dead letter, and return its id."""
    service = DLQService(pool, "jobs")
    assert await service.move_to_dead_letter(await claimed(pool), message, error_type=error_type)
    return (await service.list_dead_letter_jobs(1))[0].id


async def send_foreign(connection: Connection, headers: str | None, body: str = "{}") -> int:
    """Put a message among the dead letters as some other PGMQ client may."""
    sql = (
        "insert into pgmq.q_jobs_dlq (vt, message, headers) values (now(), $1, $2) returning msg_id"
    )
    msg_id: int = await connection.fetchval(sql, body, headers)
    return msg_id


async def send_many(connection: Connection, messages: int) -> None:
    """Put many messages without headers among the dead letters."""
    sql = "insert into pgmq.q_jobs_dlq (vt, message) select now(), '{}' from generate_series(1, $1)"
    await connection.execute(sql, messages)


async def count(connection: Connection, table: str = "q_jobs_dlq") -> int:
    """Count the messages of a table."""
    rows: int = await connection.fetchval(f"select count(*) from pgmq.{table}")
    return rows


async def test_a_dead_letter_keeps_all_there_is_to_know(pool: Pool, queue_name: str):
    """Body, headers, identifiers, attempts, error and times are those of the job."""
    job = await claimed(pool, {"order": 17})
    service = DLQService(pool, queue_name, worker_name="host-1")
    assert await service.move_to_dead_letter(job, "no such order", "Traceback …", error_type="Gone")
    (letter,) = await service.list_dead_letter_jobs()
    assert letter == await service.get_dead_letter_job(letter.id)
    assert letter.payload == {"order": 17}
    assert letter.body is not None
    assert json.loads(letter.body)["run_id"] == "r"
    assert letter.headers == {"tenant": "acme"}
    assert (letter.run_id, letter.workflow_id, letter.project_id) == ("r", "w", "p")
    assert (letter.queue, letter.msg_id, letter.attempts) == ("jobs", job.msg_id, 1)
    assert (letter.error_type, letter.error_message) == ("Gone", "no such order")
    assert (letter.error_stack, letter.worker) == ("Traceback …", "host-1")
    assert (letter.first_enqueued_at, letter.last_started_at) == (job.enqueued_at, job.started_at)
    assert job.started_at <= letter.dead_at <= datetime.now(UTC)


async def test_moving_leaves_nothing_in_the_queue(
    pool: Pool, connection: Connection, queue_name: str
):
    """The message is gone from its queue, and the history says that it died."""
    await dead(pool)
    assert await count(connection, "q_jobs") == 0
    assert await connection.fetchval("select outcome from meshhook.job_attempts") == "dead_lettered"


async def test_a_lost_lease_makes_no_dead_letter(
    pool: Pool, connection: Connection, queue_name: str
):
    """A job that another has claimed meanwhile is left alone, and the caller told."""
    job = await claimed(pool)
    await connection.execute("update pgmq.q_jobs set read_ct = read_ct + 1")
    assert await DLQService(pool, queue_name).move_to_dead_letter(job, "late") is None
    assert (await count(connection, "q_jobs"), await count(connection)) == (1, 0)


async def test_moving_returns_the_dead_letters_id(pool: Pool, queue_name: str):
    """With it the dead letter can be read at once, also where others died before."""
    await dead(pool)
    job = await claimed(pool, {"order": 2})
    service = DLQService(pool, queue_name)
    dead_letter_id = await service.move_to_dead_letter(job, "broken")
    await dead(pool)
    assert dead_letter_id is not None
    assert (await service.get_dead_letter_job(dead_letter_id)).payload == {"order": 2}


@pytest.mark.parametrize(
    ("received", "shown"), [(17, "int 17"), ("17", "str '17'"), (None, "NoneType"), ({}, "dict")]
)
@pytest.mark.parametrize("error", [InvalidJobError, TypeError, ValueError])
async def test_what_is_no_job_is_refused(
    pool: Pool, queue_name: str, received: Any, shown: str, error: type[Exception]
):
    """An id in place of a job is a library error and a TypeError, and says what to give."""
    with pytest.raises(error, match=rf"a job that dequeue\(\) returned .*, got {shown}:"):
        await DLQService(pool, queue_name).move_to_dead_letter(received, "wrong")


async def test_the_queue_to_replay_into_may_stand_second(pool: Pool, queue_name: str):
    """Without its name, as the first argument of both is the dead letter."""
    await create_queue(Database(pool), "other")
    msg_id = await DLQService(pool, queue_name).replay_dead_letter_job(await dead(pool), "other")
    replayed = await QueueService[Any](pool, "other").dequeue()
    assert replayed is not None
    assert replayed.msg_id == msg_id


async def test_moving_holds_where_dead_letters_are_off(
    pool: Pool, connection: Connection, queue_name: str
):
    """Who asks for a dead letter gets one, whatever `dlq_enabled` says of failures."""
    await set_queue_config(Database(pool), queue_name, dlq_enabled=False)
    await dead(pool)
    assert await count(connection) == 1


async def test_a_job_of_another_queue_is_refused(pool: Pool, queue_name: str):
    """Ids are unique in one queue only: a stranger with the same id must not die instead."""
    await create_queue(Database(pool), "other")
    job = await claimed(pool, queue_name="other")
    with pytest.raises(InvalidJobError, match=r"queue 'other'.*for 'jobs'"):
        await DLQService(pool, queue_name).move_to_dead_letter(job, "wrong")


async def test_errors_that_cannot_be_stored_are_made_storable(pool: Pool, queue_name: str):
    """U+0000, half surrogates and megabytes in an error do not keep a job from dying."""
    service = DLQService(pool, queue_name)
    job = await claimed(pool)
    assert await service.move_to_dead_letter(
        job, "a\x00b\ud800" + "m" * 9_000, "s" * 99_000, error_type="T\x00" * 500
    )
    (letter,) = await service.list_dead_letter_jobs()
    assert letter.error_message is not None
    assert letter.error_message.startswith("a\ufffdb")
    assert 3_900 < len(letter.error_message) <= 4_000
    assert 15_900 < len(letter.error_stack or "") <= 16_000
    assert await service.list_dead_letter_jobs(error_type="T\x00" * 500) == [letter]


@pytest.mark.parametrize("headers", STRANGE_HEADERS)
async def test_strange_headers_break_nothing(
    pool: Pool, connection: Connection, queue_name: str, headers: str | None
):
    """A message of some other client is listed, grouped, measured and replayed like any other."""
    service = DLQService(pool, queue_name)
    letter_id = await send_foreign(connection, headers, '{"run_id": {"no": "id"}, "n": 1}')
    (letter,) = await service.list_dead_letter_jobs()
    assert (letter.id, letter.queue, letter.run_id) == (letter_id, "jobs", None)
    assert (letter.error_stack, letter.worker, letter.last_started_at) == (None, None, None)
    assert letter.first_enqueued_at is None
    assert letter.payload == {"run_id": {"no": "id"}, "n": 1}
    (group,) = await service.get_jobs_by_error_type()
    assert (group.count, group.sample_id) == (1, letter_id)
    assert (await service.get_dlq_metrics()).newest_errors[0].id == letter_id
    msg_id = await service.replay_dead_letter_job(letter_id)
    sent = json.loads(await connection.fetchval("select headers from pgmq.q_jobs"))
    assert sent["meshhook-replayed-from"]["dead_letter_id"] == letter_id
    assert await connection.fetchval("select msg_id from pgmq.q_jobs") == msg_id


@pytest.mark.parametrize("body", ["null", "[1]", '"text"', "7", '{"payload": 1}'])
async def test_any_body_has_a_payload(
    pool: Pool, connection: Connection, queue_name: str, body: str
):
    """A body that is no object is its own payload."""
    letter_id = await send_foreign(connection, None, body)
    letter = await DLQService(pool, queue_name).get_dead_letter_job(letter_id)
    assert letter.payload == (1 if "payload" in body else json.loads(body))


async def test_a_missing_body_is_null(pool: Pool, connection: Connection, queue_name: str):
    """PGMQ stores a message that is SQL null, too."""
    await connection.execute("insert into pgmq.q_jobs_dlq (vt) values (now())")
    (letter,) = await DLQService(pool, queue_name).list_dead_letter_jobs()
    assert (letter.body, letter.payload) == ("null", None)


async def test_a_body_beyond_python_is_shown_as_text(
    pool: Pool, connection: Connection, queue_name: str
):
    """A number too long for Python spoils `payload`, and nothing else."""
    await send_foreign(connection, None, "1" * 5_000)
    (letter,) = await DLQService(pool, queue_name).list_dead_letter_jobs()
    assert letter.body == "1" * 5_000
    with pytest.raises(InvalidPayloadError, match=f"dead letter {letter.id}"):
        _ = letter.payload


async def test_pages_go_from_the_newest_to_the_oldest(pool: Pool, queue_name: str):
    """`before_id` goes on where the page before ended; nothing is shown twice or left out."""
    ids = [await dead(pool) for _ in range(5)]
    service = DLQService(pool, queue_name)
    seen: list[int] = []
    while page := await service.list_dead_letter_jobs(2, before_id=seen[-1] if seen else None):
        seen += [letter.id for letter in page]
    assert seen == ids[::-1]


async def test_a_list_can_be_of_one_error_type(pool: Pool, queue_name: str):
    """The filter goes with paging, and takes the type as it is."""
    first, _, last = [await dead(pool, kind) for kind in ("A'", "B", "A'")]
    service = DLQService(pool, queue_name)
    letters = await service.list_dead_letter_jobs(error_type="A'")
    assert [letter.id for letter in letters] == [last, first]
    letters = await service.list_dead_letter_jobs(error_type="A'", before_id=last)
    assert [letter.id for letter in letters] == [first]
    assert await service.list_dead_letter_jobs(error_type="C") == []


@pytest.mark.parametrize("limit", [0, -1, 1_001, True, 1.5, "5", None])
async def test_a_limit_out_of_range_is_refused(pool: Pool, queue_name: str, limit: Any):
    """The error names the setting, the range and the value, before anything is read."""
    service = DLQService(pool, queue_name)
    with pytest.raises(InvalidSettingError, match=r"limit is .* 1 to 1000, got"):
        await service.list_dead_letter_jobs(limit)
    with pytest.raises(InvalidSettingError, match="limit"):
        await service.get_jobs_by_error_type(limit)
    with pytest.raises(InvalidSettingError, match="limit"):
        await service.replay_multiple_jobs(limit=limit)


@pytest.mark.parametrize("dead_letter_id", [0, -5, 4, 2**63, 2**80, -(2**70)])
async def test_an_id_that_is_not_there_is_named(pool: Pool, queue_name: str, dead_letter_id: int):
    """Whatever the number, also beyond what the database counts to, it is simply not there."""
    service = DLQService(pool, queue_name)
    with pytest.raises(DeadLetterNotFoundError, match=f"no dead letter {dead_letter_id};"):
        await service.get_dead_letter_job(dead_letter_id)
    with pytest.raises(DeadLetterNotFoundError, match=f"no dead letter {dead_letter_id};"):
        await service.replay_dead_letter_job(dead_letter_id)
    assert not await service.delete_dead_letter_job(dead_letter_id)


@pytest.mark.parametrize("dead_letter_id", ["1", 1.0, None, True])
async def test_an_id_that_is_no_number_is_refused(pool: Pool, queue_name: str, dead_letter_id: Any):
    """A wrong type is an error of the caller's, not a dead letter that is missing."""
    with pytest.raises(InvalidSettingError, match="dead_letter_id is a whole number"):
        await DLQService(pool, queue_name).get_dead_letter_job(dead_letter_id)


async def test_a_replayed_job_is_like_new(pool: Pool, connection: Connection, queue_name: str):
    """It is ready at once with all attempts before it, the same body, and where it came from."""
    letter_id = await dead(pool)
    service = DLQService(pool, queue_name)
    letter = await service.get_dead_letter_job(letter_id)
    msg_id = await service.replay_dead_letter_job(letter_id)
    job = await QueueService[Any](pool, queue_name).dequeue()
    assert job is not None
    assert (job.msg_id, job.attempt, job.body) == (msg_id, 1, letter.body)
    assert job.headers == {
        "tenant": "acme",
        "meshhook-replayed-from": {
            "queue": "jobs",
            "dead_letter_id": letter_id,
            "msg_id": letter.msg_id,
            "replays": 1,
        },
    }
    assert await count(connection) == 0


async def test_replays_are_counted(pool: Pool, queue_name: str):
    """A job that dies again and is replayed again says how often."""
    service = DLQService(pool, queue_name)
    letter_id = await dead(pool)
    for replays in (1, 2, 3):
        await service.replay_dead_letter_job(letter_id)
        job = await QueueService[Any](pool, queue_name).dequeue()
        assert job is not None
        assert job.headers["meshhook-replayed-from"]["replays"] == replays
        await service.move_to_dead_letter(job, "again")
        letter_id = (await service.list_dead_letter_jobs(1))[0].id


async def test_the_history_says_what_a_job_was_replayed_as(
    pool: Pool, connection: Connection, queue_name: str
):
    """One row for the original job and its last attempt, by nobody, with the new id."""
    service = DLQService(pool, queue_name)
    letter_id = await dead(pool)
    letter = await service.get_dead_letter_job(letter_id)
    msg_id = await service.replay_dead_letter_job(letter_id)
    (row,) = await connection.fetch(
        "select * from meshhook.job_attempts where outcome = 'replayed'"
    )
    assert (row["queue"], row["msg_id"], row["attempt"]) == ("jobs", letter.msg_id, 1)
    assert (row["replayed_as"], row["worker"], row["run_id"]) == (msg_id, None, "r")
    assert row["enqueued_at"] == letter.first_enqueued_at
    assert row["finished_at"] == await connection.fetchval("select enqueued_at from pgmq.q_jobs")


async def test_ten_replays_at_once_make_one_job(
    pool: Pool, connection: Connection, queue_name: str
):
    """One of ten on connections of their own succeeds; the rest are told; one message comes."""
    letter_id = await dead(pool)
    start = asyncio.Barrier(10)

    async def replay() -> int:
        async with pool.acquire() as own:
            await start.wait()
            return await DLQService(own, queue_name).replay_dead_letter_job(letter_id)

    results = await asyncio.gather(*(replay() for _ in range(10)), return_exceptions=True)
    assert [result for result in results if isinstance(result, int)] == [
        await connection.fetchval("select msg_id from pgmq.q_jobs")
    ]
    assert sum(isinstance(result, DeadLetterNotFoundError) for result in results) == 9
    assert (await count(connection, "q_jobs"), await count(connection)) == (1, 0)


async def test_replays_of_many_at_once_share_the_work(
    pool: Pool, connection: Connection, queue_name: str
):
    """Several that replay everything at once move each dead letter exactly once."""
    for _ in range(40):
        await send_foreign(connection, None)
    service = DLQService(pool, queue_name)

    async def replay_all() -> list[int]:
        ids: list[int] = []
        while replayed := await service.replay_multiple_jobs(limit=7):
            ids += [letter_id for letter_id, _ in replayed]
        return ids

    shares = await asyncio.gather(*(replay_all() for _ in range(5)))
    assert sorted(chain.from_iterable(shares)) == list(range(1, 41))
    assert (await count(connection, "q_jobs"), await count(connection)) == (40, 0)


async def test_a_replay_can_go_to_another_queue(
    pool: Pool, connection: Connection, queue_name: str
):
    """The job turns up in the queue that was named, and only there."""
    await create_queue(Database(pool), "other")
    letter_id = await dead(pool)
    msg_id = await DLQService(pool, queue_name).replay_dead_letter_job(
        letter_id, target_queue="other"
    )
    assert await connection.fetchval("select msg_id from pgmq.q_other") == msg_id
    assert await count(connection, "q_jobs") == 0


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("missing", QueueNotFoundError),
        ("jobs_dlq", InvalidQueueNameError),
        ('x"; drop table pgmq.q_jobs_dlq; --', InvalidQueueNameError),
        ("Jobs", InvalidQueueNameError),
        ("", InvalidQueueNameError),
        (7, InvalidQueueNameError),
    ],
)
async def test_a_replay_to_a_wrong_queue_loses_nothing(
    pool: Pool, connection: Connection, queue_name: str, target: Any, error: type[MeshHookError]
):
    """The dead letter stays as it was, and the error names the queue."""
    letter_id = await dead(pool)
    service = DLQService(pool, queue_name)
    before = await service.get_dead_letter_job(letter_id)
    with pytest.raises(error, match="missing" if target == "missing" else None):
        await service.replay_dead_letter_job(letter_id, target_queue=target)
    with pytest.raises(error):
        await service.replay_multiple_jobs(target_queue=target)
    assert await service.get_dead_letter_job(letter_id) == before


async def test_a_replay_that_fails_half_way_loses_nothing(
    pool: Pool, connection: Connection, queue_name: str
):
    """Where the target refuses the message, the dead letter stays, and no history is written."""
    letter_id = await dead(pool)
    await connection.execute("alter table pgmq.q_jobs add check (message is null)")
    with pytest.raises(DatabaseError, match="check"):
        await DLQService(pool, queue_name).replay_dead_letter_job(letter_id)
    assert await count(connection) == 1
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 1


async def test_many_are_replayed_in_order_and_without_those_gone(pool: Pool, queue_name: str):
    """Named in any order, they come oldest first; what is gone or named twice is left out."""
    ids = [await dead(pool) for _ in range(4)]
    service = DLQService(pool, queue_name)
    await service.delete_dead_letter_job(ids[1])
    replayed = await service.replay_multiple_jobs([ids[3], ids[1], 10**6, ids[0], ids[0]])
    assert [letter_id for letter_id, _ in replayed] == [ids[0], ids[3]]
    new_ids = [msg_id for _, msg_id in replayed]
    assert new_ids == sorted(new_ids)
    assert [letter.id for letter in await service.list_dead_letter_jobs()] == [ids[2]]


async def test_the_oldest_of_an_error_type_are_replayed(pool: Pool, queue_name: str):
    """By error type and limit, the oldest go first and the others stay."""
    ids = [await dead(pool, kind) for kind in ("A", "B", "A", "A")]
    service = DLQService(pool, queue_name)
    replayed = await service.replay_multiple_jobs(error_type="A", limit=2)
    assert [letter_id for letter_id, _ in replayed] == [ids[0], ids[2]]
    assert await service.replay_multiple_jobs(error_type="C") == []
    assert [letter.id for letter in await service.list_dead_letter_jobs()] == [ids[3], ids[1]]


async def test_a_locked_dead_letter_is_skipped(pool: Pool, connection: Connection, queue_name: str):
    """Nobody waits for a dead letter that somebody else is replaying, and it is not lost."""
    first, second = [await dead(pool), await dead(pool)]
    service = DLQService(pool, queue_name)
    async with connection.transaction():
        await connection.execute(f"select from pgmq.q_jobs_dlq where msg_id = {first} for update")
        assert [pair[0] for pair in await service.replay_multiple_jobs()] == [second]
        with pytest.raises(DeadLetterNotFoundError):
            await service.replay_dead_letter_job(first)
    assert await service.replay_dead_letter_job(first)


async def test_a_choice_of_replays_must_be_clear(pool: Pool, queue_name: str):
    """Ids and an error type together, and too many ids, are refused; no ids are no replays."""
    await dead(pool)
    service = DLQService(pool, queue_name)
    with pytest.raises(InvalidSettingError, match="not both"):
        await service.replay_multiple_jobs([1], error_type="A")
    with pytest.raises(InvalidSettingError, match=r"at most 1000 .* got 1001"):
        await service.replay_multiple_jobs(range(1_001))
    assert await service.replay_multiple_jobs([]) == []


async def test_a_deleted_dead_letter_is_gone(pool: Pool, queue_name: str):
    """Deleting says whether it was there."""
    letter_id = await dead(pool)
    service = DLQService(pool, queue_name)
    assert await service.delete_dead_letter_job(letter_id)
    assert not await service.delete_dead_letter_job(letter_id)


async def test_a_purge_deletes_all_dead_letters_and_nothing_else(
    pool: Pool, connection: Connection, queue_name: str
):
    """It returns how many went; the queue's own messages stay."""
    await send_many(connection, 20_500)
    await QueueService[Any](pool, queue_name).enqueue({})
    service = DLQService(pool, queue_name)
    assert await service.purge_dlq() == 20_500
    assert await service.purge_dlq() == 0
    assert (await count(connection, "q_jobs"), await count(connection)) == (1, 0)


async def test_metrics_of_none(pool: Pool, queue_name: str):
    """Without dead letters there are no ages."""
    metrics = await DLQService(pool, queue_name).get_dlq_metrics()
    assert (metrics.queue, metrics.dead_letters, metrics.capped) == ("jobs", 0, False)
    assert (metrics.oldest_age_seconds, metrics.newest_age_seconds) == (None, None)
    assert metrics.newest_errors == ()


async def test_metrics_of_some(pool: Pool, connection: Connection, queue_name: str):
    """Ages are of the oldest and the newest, errors of the newest five; the count is capped."""
    ids = [await dead(pool, f"E{n}", f"m{n}") for n in range(6)]
    await connection.execute(
        "update pgmq.q_jobs_dlq set enqueued_at = now() - interval '1 hour' where msg_id = $1",
        ids[0],
    )
    service = DLQService(pool, queue_name)
    metrics = await service.get_dlq_metrics()
    assert (metrics.dead_letters, metrics.capped) == (6, False)
    assert 3_600 <= (metrics.oldest_age_seconds or 0) < 3_700
    assert 0 <= (metrics.newest_age_seconds or -1) < 100
    assert [error.id for error in metrics.newest_errors] == ids[:0:-1]
    assert (metrics.newest_errors[0].error_type, metrics.newest_errors[0].error_message) == (
        "E5",
        "m5",
    )
    capped = await service.get_dlq_metrics(count_limit=3)
    assert (capped.dead_letters, capped.capped) == (3, True)


async def test_errors_are_grouped_by_type(pool: Pool, connection: Connection, queue_name: str):
    """The most frequent comes first, with its newest dead letter as the sample."""
    ids = [await dead(pool, kind, f"{kind} {n}") for n, kind in enumerate("ABABA")]
    await send_foreign(connection, None)
    service = DLQService(pool, queue_name)
    groups = await service.get_jobs_by_error_type()
    assert [(group.error_type, group.count) for group in groups] == [("A", 3), ("B", 2), (None, 1)]
    letters = {letter.id: letter for letter in await service.list_dead_letter_jobs()}
    assert groups[0].first_dead_at == letters[ids[0]].dead_at
    assert groups[0].last_dead_at == letters[ids[4]].dead_at
    assert (groups[0].sample_id, groups[0].sample_message) == (ids[4], "A 4")
    assert not groups[0].capped
    assert [group.error_type for group in await service.get_jobs_by_error_type(1)] == ["A"]


async def test_grouping_stops_at_the_newest_ten_thousand(
    pool: Pool, connection: Connection, queue_name: str
):
    """However many there are, the cost is bounded, and each group says that there are more."""
    await send_many(connection, 10_001)
    (group,) = await DLQService(pool, queue_name).get_jobs_by_error_type()
    assert (group.count, group.capped) == (10_000, True)


async def test_a_missing_queue_is_named(pool: Pool):
    """Every method of a queue that does not exist says which one, and how to make it."""
    service = DLQService(pool, "nowhere")
    for call in (
        service.list_dead_letter_jobs(),
        service.get_dead_letter_job(1),
        service.replay_dead_letter_job(1),
        service.replay_multiple_jobs(),
        service.delete_dead_letter_job(1),
        service.get_dlq_metrics(),
        service.get_jobs_by_error_type(),
        service.purge_dlq(),
    ):
        with pytest.raises(QueueNotFoundError, match="meshhook queue create nowhere"):
            await call


async def test_dead_letters_are_readable_where_nothing_may_be_written(
    pool: Pool, connection: Connection, queue_name: str
):
    """On a replica they can be looked at; a replay is refused with the reason."""
    letter_id = await dead(pool)
    await connection.execute("set default_transaction_read_only = on")
    service = DLQService(connection, queue_name)
    assert [letter.id for letter in await service.list_dead_letter_jobs()] == [letter_id]
    assert (await service.get_dlq_metrics()).dead_letters == 1
    with pytest.raises(DatabaseReadOnlyError):
        await service.replay_dead_letter_job(letter_id)
    with pytest.raises(DatabaseReadOnlyError):
        await service.delete_dead_letter_job(letter_id)


async def test_it_works_on_every_supported_pgmq(pgmq_database: Connection):
    """Queues without the newer columns can have dead letters, and replay them."""
    await create_queue(Database(pgmq_database), "jobs")
    queue = QueueService[Any](pgmq_database, "jobs")
    await queue.enqueue({"n": 1})
    job = await queue.dequeue()
    assert job is not None
    service = DLQService(pgmq_database, "jobs")
    assert await service.move_to_dead_letter(job, "broken")
    (letter,) = await service.list_dead_letter_jobs()
    assert await service.replay_multiple_jobs() == [(letter.id, job.msg_id + 1)]
    assert await service.purge_dlq() == 0


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        ("list_dead_letters", (15_000, 100)),
        ("get_dead_letter", (5,)),
        ("lock_dead_letters", (100, [])),
        ("replay_dead_letters", ([1, 2, 3], "jobs", True, None)),
        ("delete_dead_letter", (5, "jobs")),
        ("count_dead_letters_by_error", (10_000, 20)),
        ("dlq_metrics", (10_000,)),
        ("list_newest_errors", (5,)),
    ],
)
async def test_statements_go_by_index(
    connection: Connection, queue_name: str, statement: str, arguments: tuple[Any, ...]
):
    """However many dead letters there are, none of these reads them all."""
    await send_many(connection, 20_000)
    await connection.execute("analyze pgmq.q_jobs_dlq")
    sql = queries.load(statement, queue_name, target=queue_name)
    plan = "\n".join(row[0] for row in await connection.fetch(f"explain {sql}", *arguments))
    assert "q_jobs_dlq_pkey" in plan
    assert "Seq Scan on q_jobs_dlq" not in plan
