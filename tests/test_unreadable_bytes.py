"""Databases that check no bytes: a message with bytes that are no text is refused alone."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from meshhook import Database, DLQService, Job, QueueService
from meshhook.tracking import find_jobs
from support.waiting import eventually
from support.workers import make_worker, outcomes

Connection = asyncpg.Connection


async def insert(connection: Connection[Any], table: str, column: str) -> int:
    """Store a message with bytes that are not UTF-8 in its body or its headers."""
    # By way of bytes: the driver sends nothing else than UTF-8.
    await connection.execute(
        f"do $$ begin execute convert_from(convert_to("
        f"'insert into pgmq.{table} (vt, message, headers) values (now(), ', 'SQL_ASCII')"
        f" || convert_to('{'' if column == 'message' else chr(39) * 2 + '{}' + chr(39) * 2 + ','}'"
        f" || '''{{\"a\": \"', 'SQL_ASCII') || '\\xfffe'::bytea || convert_to('\"}}''"
        f"{', null' if column == 'message' else ''})', 'SQL_ASCII'), 'SQL_ASCII'); end $$"
    )
    msg_id: int = await connection.fetchval(f"select max(msg_id) from pgmq.{table}")
    return msg_id


@pytest.mark.parametrize("column", ["message", "headers"])
async def test_bytes_that_are_no_text_are_a_dead_letter(
    encoded_url: str, encoded: Connection[Any], column: str
) -> None:
    """With the reason; its neighbours run, with any text that is one."""
    queue = QueueService[Any](encoded, "jobs")
    seen: list[Any] = []

    async def handler(job: Job[Any]) -> None:
        seen.append(job.payload)

    before = await queue.enqueue({"payload": "gr\u00fcn"})
    bad = await insert(encoded, "q_jobs", column)
    after = await queue.enqueue({"payload": "\u65e5\u672c"}, headers={"name": "\u65e5\u672c"})
    async with make_worker(encoded_url, handler) as worker:
        await eventually(lambda: worker.get_stats().succeeded == 2)
        await eventually(lambda: worker.get_stats().moved_to_dlq == 1)
    assert sorted(seen) == sorted(["gr\u00fcn", "\u65e5\u672c"])
    for good in (before, after):
        assert await outcomes(encoded, good) == [("succeeded", 1)]
    row = await encoded.fetchrow(
        "select outcome, attempt, error_type, error_message from meshhook.job_attempts "
        "where msg_id = $1",
        bad,
    )
    assert row is not None
    assert tuple(row)[:3] == ("dead_lettered", 1, "MessageUnreadableError")
    assert "not UTF-8" in row["error_message"]


async def test_lists_show_such_bytes_and_replays_keep_them(
    encoded_url: str, encoded: Connection[Any]
) -> None:
    """A question mark stands for each; what is stored stays as it is."""
    dead = await insert(encoded, "q_jobs_dlq", "message")
    await insert(encoded, "q_jobs_dlq", "headers")
    await insert(encoded, "q_jobs", "message")
    database = await Database.connect(encoded_url)
    try:
        service = DLQService(database, "jobs")
        assert len(await service.list_dead_letter_jobs()) == 2
        assert (await service.get_dead_letter_job(dead)).payload == {"a": "??"}
        assert len(await find_jobs(database)) == 1
        msg_id = await service.replay_dead_letter_job(dead)
    finally:
        await database.close()
    found = await encoded.fetchval(
        "select convert_to(message ->> 'a', 'SQL_ASCII') from pgmq.q_jobs where msg_id = $1", msg_id
    )
    assert found == b"\xff\xfe"
