"""Settlements and the statement that records them."""

from __future__ import annotations

import re
from typing import Any

import asyncpg

from meshhook import Job, QueueService
from meshhook.outcomes import AttemptOutcome
from meshhook.store import queries
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
