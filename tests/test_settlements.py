"""Settlements and the statement that records them."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import pytest

from meshhook import Job, QueueService
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
from meshhook.store.alike_settlements import LEAST_JOBS_A_ROW, alike_rows
from meshhook.store.claims import claim
from meshhook.store.settlements import Settlement, find_settled, settle, storable_text

TABLES = queries.QueueTables("jobs")


def settlement(job: Job[Any], outcome: AttemptOutcome, started: float) -> Settlement:
    """The outcome of a job that has just run for a millisecond."""
    return Settlement(
        msg_id=job.msg_id,
        read_ct=job.read_ct,
        enqueued=job.enqueued_timestamp,
        attempt=job.attempt,
        outcome=outcome,
        started_at=started,
        finished_at=started + 0.001,
    )


def test_the_fields_are_the_parameters_of_the_statement() -> None:
    """A settlement's fields stand in the order in which the statement takes its columns."""
    text = queries.load("settle", "jobs")
    found = re.search(r"as item \(\s*([^)]*?), position\)", text)
    assert found is not None
    names = tuple(found.group(1).replace("\n", " ").replace(" ", "").split(","))
    assert (*names, "has_links", "follow_ups", "result", "group_id") == Settlement._fields


def test_the_fields_of_a_success_are_the_parameters_of_its_statement() -> None:
    """The columns of sql/settle_succeeded.sql are fields of a settlement, in the same order."""
    text = queries.load("settle_succeeded", "jobs")
    found = re.search(r"as item \(\s*([^)]*?)\s*position\)", text)
    assert found is not None
    names = [name for name in found.group(1).replace("\n", " ").replace(" ", "").split(",") if name]
    assert [name for name in Settlement._fields if name in names] == names


async def test_successes_alone_leave_the_history_that_a_mixed_batch_leaves(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """Both statements record the same row of a success, whatever it is settled with."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue_many([{}] * 3)
    jobs = [job for _ in range(3) if (job := await queue.dequeue()) is not None]
    started = jobs[0].started_timestamp

    def success(position: int) -> Settlement:
        success = settlement(jobs[position], AttemptOutcome.SUCCEEDED, started)
        return success._replace(run_id="r", project_id="p", trace_id="t")

    assert await settle(connection, TABLES, "w", [success(0)]) == {0}
    retried = settlement(jobs[2], AttemptOutcome.RETRIED, started)
    assert await settle(connection, TABLES, "w", [success(1), retried]) == {0, 1}
    alone, mixed = await connection.fetch(
        "select (to_jsonb(a) - 'msg_id' - 'enqueued_at')::text from meshhook.job_attempts a "
        "where outcome = 'succeeded' order by msg_id"
    )
    assert alone == mixed


async def test_successes_say_which_leases_held(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """A success whose lease is lost changes nothing, among others and by itself."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue_many([{}] * 2)
    jobs = [job for _ in range(2) if (job := await queue.dequeue()) is not None]
    held, lost = (settlement(job, AttemptOutcome.SUCCEEDED, 1.0) for job in jobs)
    lost = lost._replace(read_ct=2)
    assert await settle(connection, TABLES, "w", [lost, held]) == {1}
    assert await settle(connection, TABLES, "w", [lost]) == set()
    assert await settle(connection, TABLES, "w", []) == set()
    assert await connection.fetchval("select count(*) from meshhook.job_attempts") == 1


ALIKE = 3 * LEAST_JOBS_A_ROW
"""How many settlements in three rows are worth the statement for rows."""


class Noting:
    """A connection that notes the statements it is asked to run."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self.seen: list[str] = []

    async def fetch(self, sql: str, *arguments: Any) -> Any:
        """Run a statement."""
        self.seen.append(sql)
        return await self._connection.fetch(sql, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def alike(pool: asyncpg.Pool[Any], **common: Any) -> list[Settlement]:
    """Claim jobs that were enqueued in three transactions, and return how they ended."""
    queue = QueueService[Any](pool, "jobs")
    for _ in range(3):
        await queue.enqueue_many([{}] * LEAST_JOBS_A_ROW)
    claimed = await claim(pool, TABLES, lease_seconds=60.0, limit=ALIKE, max_attempts=5)
    return [
        settlement(job, AttemptOutcome.SUCCEEDED, job.enqueued_timestamp)._replace(
            run_id=f"run {job.msg_id}", **common
        )
        for job in claimed.jobs
    ]


async def rows_of_history(connection: asyncpg.Connection[Any]) -> list[dict[str, Any]]:
    """Return the history, in the order of the messages."""
    rows = await connection.fetch("select * from meshhook.job_attempts order by msg_id")
    return [dict(row) for row in rows]


async def test_jobs_that_are_alike_leave_the_history_that_others_leave(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """Rows of jobs that have all but their ids in common are recorded like any others."""
    common = {"workflow_id": "w", "project_id": None, "trace_id": "t"}
    settlements = await alike(pool, **common)
    database = Noting(connection)
    assert await settle(database, TABLES, "me", settlements) == set(range(ALIKE))
    assert database.seen == [queries.load("settle_alike", "jobs")]
    found = await rows_of_history(connection)
    assert [row["run_id"] for row in found] == [each.run_id for each in settlements]
    assert {row["enqueued_at"].timestamp() for row in found} == {
        each.enqueued for each in settlements
    }
    await connection.execute("truncate meshhook.job_attempts")
    others = await alike(pool, **common)
    # One job a statement is no row of alike ones.
    for each in others:
        assert await settle(connection, TABLES, "me", [each]) == {0}
    for row, other in zip(found, await rows_of_history(connection), strict=True):
        differs = {name for name in row if row[name] != other[name]}
        assert differs == {"msg_id", "run_id", "enqueued_at", "started_at", "finished_at"}
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 0


async def test_jobs_that_are_alike_are_fenced_one_by_one(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """A lease that is lost in a row of others changes nothing, and the others are recorded."""
    settlements = await alike(pool)
    claimed_again, other_job = settlements[3].msg_id, settlements[ALIKE - 2].msg_id
    await connection.execute(
        "update pgmq.q_jobs set read_ct = read_ct + 1 where msg_id = $1", claimed_again
    )
    await connection.execute(
        "update pgmq.q_jobs set enqueued_at = now() where msg_id = $1", other_job
    )
    held = set(range(ALIKE)) - {3, ALIKE - 2}
    database = Noting(connection)
    assert await settle(database, TABLES, "me", settlements) == held
    assert database.seen == [queries.load("settle_alike", "jobs")]
    assert [row["msg_id"] for row in await rows_of_history(connection)] == [
        settlements[position].msg_id for position in sorted(held)
    ]
    left = await connection.fetch("select msg_id from pgmq.q_jobs order by msg_id")
    assert [row["msg_id"] for row in left] == [claimed_again, other_job]
    assert await settle(connection, TABLES, "me", settlements) == set()


async def test_an_attempt_that_is_not_the_read_is_recorded_for_jobs_that_are_alike(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """As where other clients have read the messages."""
    settlements = [each._replace(attempt=7) for each in await alike(pool)]
    assert await settle(connection, TABLES, "me", settlements) == set(range(ALIKE))
    assert {row["attempt"] for row in await rows_of_history(connection)} == {7}


@pytest.mark.parametrize(
    "odd", [None, "", "a\x1fb", "\x1f", '{a,"b"}', "ünïcödé\U0001f40d", "null", "NULL"]
)
async def test_any_run_is_recorded_of_jobs_that_are_alike(
    pool: asyncpg.Pool[Any],
    connection: asyncpg.Connection[Any],
    queue_name: str,
    odd: str | None,
) -> None:
    """Whatever its id has in it, the same is in the history."""
    settlements = await alike(pool)
    settlements[1] = settlements[1]._replace(run_id=odd)
    assert await settle(connection, TABLES, "me", settlements) == set(range(ALIKE))
    assert [row["run_id"] for row in await rows_of_history(connection)] == [
        each.run_id for each in settlements
    ]


async def test_jobs_without_a_run_can_be_alike(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """Then there is none in the history."""
    settlements = [each._replace(run_id=None) for each in await alike(pool)]
    database = Noting(connection)
    assert await settle(database, TABLES, "me", settlements) == set(range(ALIKE))
    assert database.seen == [queries.load("settle_alike", "jobs")]
    assert {row["run_id"] for row in await rows_of_history(connection)} == {None}


def test_rows_begin_where_any_column_changes() -> None:
    """A row has the jobs between two changes, and of each column the value that they share."""
    ids = range(10, 10 + ALIKE)
    half, third = ALIKE // 2, ALIKE // 3
    found = alike_rows(
        ids,
        None,
        [["a"] * half + ["b"] * (ALIKE - half), None, [1] * third + [2] * (ALIKE - third)],
    )
    assert found is not None
    assert (found.first, found.last) == ([1, third + 1, half + 1], [third, half, ALIKE])
    assert found.columns == [["a", "a", "b"], None, [1, 2, 2]]
    assert found.msg_ids == "{" + ",".join(map(str, ids)) + "}"


def test_few_jobs_a_row_are_not_worth_it() -> None:
    """Nor are jobs that differ in every other one, however few values there are."""
    assert alike_rows([1], None, [[1]]) is None
    assert alike_rows(range(ALIKE), None, [list(range(ALIKE))]) is None
    assert alike_rows(range(ALIKE), None, [[1, 2] * (ALIKE // 2)]) is None


async def test_a_snooze_is_not_taken_for_a_later_outcome_of_its_attempt(
    pool: asyncpg.Pool[Any], connection: asyncpg.Connection[Any], queue_name: str
) -> None:
    """A snooze gives the attempt back: the next outcome is of the same one, and not there yet."""
    queue = QueueService[Any](pool, "jobs")
    await queue.enqueue({})

    async def attempt(outcome: AttemptOutcome) -> Settlement:
        job = await queue.dequeue()
        assert job is not None
        return settlement(job, outcome, job.started_timestamp)

    found = {"snoozed": AttemptOutcome.SNOOZED, "succeeded": AttemptOutcome.SUCCEEDED}
    snoozed = await attempt(AttemptOutcome.SNOOZED)
    assert await find_settled(connection, "jobs", "w", [snoozed]) == {}
    assert await settle(connection, TABLES, "w", [snoozed]) == {0}
    assert await find_settled(connection, "jobs", "w", [snoozed]) == {0: found["snoozed"]}
    succeeded = await attempt(AttemptOutcome.SUCCEEDED)
    assert succeeded.attempt == snoozed.attempt
    both = [succeeded, snoozed]
    assert await find_settled(connection, "jobs", "w", both) == {1: found["snoozed"]}
    assert await settle(connection, TABLES, "w", [succeeded]) == {0}
    assert await find_settled(connection, "jobs", "w", both) == dict(
        enumerate((found["succeeded"], found["snoozed"]))
    )
    assert await find_settled(connection, "jobs", "another", [succeeded]) == {}
    refused = succeeded._replace(outcome=AttemptOutcome.DEAD_LETTERED, started_at=None)
    assert await find_settled(connection, "jobs", "w", [refused]) == {}
    namesake = succeeded._replace(enqueued=succeeded.enqueued + 1)
    assert await find_settled(connection, "jobs", "w", [namesake]) == {}


def test_storable_text_cuts_the_middle() -> None:
    """A long text keeps its beginning and its end, and is no longer than asked for."""
    cut = storable_text("a" * 500 + "b" * 500, 100)
    assert len(cut) <= 100
    assert cut.startswith("aaa")
    assert cut.endswith("bbb")
    assert "characters cut" in cut


def test_storable_text_replaces_what_postgresql_cannot_store() -> None:
    """U+0000 and halves of surrogate pairs become U+FFFD; all else stays."""
    assert storable_text("a\x00b\ud800c\U0001f600", 100) == "a\ufffdb\ufffdc\U0001f600"
