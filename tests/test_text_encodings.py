"""Databases whose encoding holds less than Unicode: jobs run, and every outcome is recorded."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from meshhook import (
    Database,
    DeadLetter,
    DLQService,
    Job,
    QueueService,
    Worker,
    set_queue_config,
)
from meshhook.audit import acting_as, list_audit_entries
from meshhook.errors import DatabaseError, InvalidJobError, UnstorableTextError
from meshhook.postgres.text_encodings import ASCII, fitted_text
from support.waiting import eventually
from support.workers import make_worker, outcomes

Connection = asyncpg.Connection

ENCODINGS = ("LATIN1", "WIN1252", "EUC_JP", "SQL_ASCII", "LATIN10", "EUC_TW")


@pytest.fixture(params=ENCODINGS)
def encoding(request: pytest.FixtureRequest) -> str:
    """An encoding that a database may have."""
    value: str = request.param
    return value


@pytest.mark.parametrize(
    ("text", "encoding", "fitted"),
    [
        ("grün 😀 \ufffd", "LATIN1", "grün ? ?"),
        ("grün 😀", "UTF8", "grün 😀"),
        ("grün 😀", "SQL_ASCII", "grün 😀"),
        ("grün 😀", None, "grün 😀"),
        ("grün 😀", ASCII, "gr?n ?"),
        ("grün 😀", "MULE_INTERNAL", "gr?n ?"),
        ("漢字 😀", "EUC_JP", "漢字 ?"),
        ("plain", "LATIN1", "plain"),
    ],
)
def test_what_an_encoding_cannot_hold_becomes_question_marks(
    text: str, encoding: str | None, fitted: str
) -> None:
    """All else stays; where nothing is known of an encoding it holds ASCII."""
    assert fitted_text(text, encoding) == fitted


async def test_every_outcome_is_recorded(
    encoded_url: str, encoded: Connection[Any], encoding: str
) -> None:
    """Errors, outcomes and names with any character at all, also in one batch with others."""
    await set_queue_config(Database(encoded), "jobs", max_retry_attempts=1)

    error_class = type("Gr\u00fcn\U0001f600Error", (Exception,), {})

    async def handler(job: Job[Any]) -> None:
        if job.payload == "error":
            raise error_class("gr\u00fcn \U0001f600 \x00 \ud800")
        if job.payload == "long":
            raise ValueError("\u6f22" * 50_000)
        if job.payload == "dead":
            raise DeadLetter("no \U0001f600", error_type="type \U0001f600")

    ids = await QueueService[Any](encoded, "jobs").enqueue_many(
        [{"payload": kind, "run_id": "run"} for kind in ("error", "long", "dead", "good")]
    )
    async with make_worker(encoded_url, handler, name="w\u00f6rker \U0001f600") as worker:
        await eventually(lambda: worker.get_stats().processed == 4)
        reported = "select count(*) = 1 from meshhook.workers"
        await eventually(lambda: encoded.fetchval(reported))
    ended = [await outcomes(encoded, msg_id) for msg_id in ids]
    assert ended == [[("dead_lettered", 1)]] * 3 + [[("succeeded", 1)]]
    dead = await DLQService(encoded, "jobs").list_dead_letter_jobs()
    assert len(dead) == 3
    if encoding == "LATIN1":
        [error] = [each for each in dead if each.msg_id == ids[0]]
        assert (error.error_type, error.error_message) == ("Gr\u00fcn?Error", "gr\u00fcn ? ? ?")
        assert worker.name == "w\u00f6rker ?"


@pytest.mark.parametrize("encoding", ["LATIN1"], indirect=True)
async def test_a_job_moved_by_hand_is_recorded(encoded: Connection[Any]) -> None:
    """`move_to_dead_letter` writes what the database can hold of the error."""
    queue = QueueService[Any](encoded, "jobs")
    await queue.enqueue({})
    job = await queue.dequeue()
    assert job is not None
    letters = DLQService(encoded, "jobs", worker_name="\U0001f600")
    await letters.move_to_dead_letter(job, error_type="Odd", error_message="\U0001f600 gr\u00fcn")
    [dead] = await letters.list_dead_letter_jobs()
    assert dead.error_message == "? gr\u00fcn"


@pytest.mark.parametrize("encoding", ["LATIN1"], indirect=True)
@pytest.mark.parametrize("job", [{"payload": "\U0001f600"}, {"run_id": "\u20ac", "payload": 1}])
async def test_a_job_that_the_encoding_cannot_hold_is_refused(
    encoded: Connection[Any], encoded_url: str, job: dict[str, Any]
) -> None:
    """It is an invalid job, whichever way it is enqueued; others in the same batch are stored."""
    async with asyncpg.create_pool(encoded_url, min_size=1, max_size=2) as pool:
        queue = QueueService[Any](pool, "jobs")
        with pytest.raises(InvalidJobError, match="encoding UTF8"):
            await queue.enqueue(job)
        with pytest.raises(UnstorableTextError, match="LATIN1"):
            await queue.enqueue_many([{}, job])
        with pytest.raises(DatabaseError, match="LATIN1"):
            async with pool.acquire() as connection, connection.transaction():
                await queue.enqueue(job, connection=connection)
        assert await queue.enqueue({"payload": "gr\u00fcn"}) > 0
    assert await encoded.fetchval("select count(*) from pgmq.q_jobs") == 1


async def test_a_text_that_no_database_holds_is_refused_and_not_tried_again(
    database_url: str, queue_name: str
) -> None:
    """Half of a surrogate pair cannot be sent: that is no reason to connect again."""
    database = await Database.connect(database_url)
    try:
        with pytest.raises(UnstorableTextError, match="no database can hold"):
            await database.fetch("select $1::text", "\udcff")
        with pytest.raises(UnstorableTextError, match="0x00"):
            await database.fetch("select $1::text", "\x00")
    finally:
        await database.close()


async def test_whoever_has_a_name_that_the_encoding_cannot_hold_may_change_things(
    encoded: Connection[Any], encoding: str
) -> None:
    """The audit log has question marks in it."""
    with acting_as("当番 grün 😀"):
        await set_queue_config(encoded, "jobs", paused=True)
    entry = (await list_audit_entries(encoded, "jobs", action="queue.paused"))[0]
    # Of bytes in no encoding, PostgreSQL takes some for control characters.
    if encoding != "SQL_ASCII":
        assert entry.actor == fitted_text("当番 grün 😀", encoding)


def test_a_worker_without_a_database_keeps_its_name() -> None:
    """Its name is made to fit when it starts, once the encoding is known."""

    async def handler(_: Job[Any]) -> None:
        """Do nothing."""

    worker: Worker = make_worker("postgresql://localhost/x", handler, name="w\u00f6rker")
    assert worker.name == "w\u00f6rker"
