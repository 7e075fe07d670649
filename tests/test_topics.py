"""Topics: PGMQ's own routing to queues, where the installed PGMQ has it."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    QueueService,
    bind_topic,
    create_queue,
    drop_queue,
    list_topic_bindings,
    unbind_topic,
)
from meshhook.errors import InvalidSettingError, QueueNotFoundError, UnsupportedPgmqError

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

WITHOUT = "1.5.1"
SEND = "select pgmq.send_topic($1, $2::jsonb, $3::jsonb, 0)"


async def test_topics_or_what_is_missing(pgmq_database: Connection, pgmq_version: str) -> None:
    """A queue gets what is sent to its topics; an older PGMQ is told which version is needed."""
    for queue in ("orders", "audit"):
        await create_queue(pgmq_database, queue)
    if pgmq_version == WITHOUT:
        for each in (
            bind_topic(pgmq_database, "orders", "shop.*"),
            unbind_topic(pgmq_database, "orders", "shop.*"),
            list_topic_bindings(pgmq_database),
        ):
            with pytest.raises(UnsupportedPgmqError, match=r"PGMQ 1\.11\.0 or newer.*has 1\.5"):
                await each
        return
    assert await bind_topic(pgmq_database, "orders", "shop.*")
    assert not await bind_topic(pgmq_database, "orders", "shop.*"), "it was bound already"
    assert await bind_topic(pgmq_database, "audit", "#")
    assert await pgmq_database.fetchval(SEND, "shop.sold", '{"n": 1}', '{"x-pgmq-group": "a"}') == 2
    assert await pgmq_database.fetchval(SEND, "shop.eu.sold", '{"n": 2}', None) == 1
    found = await list_topic_bindings(pgmq_database)
    assert [(each.queue, each.pattern) for each in found] == [("audit", "#"), ("orders", "shop.*")]
    assert [each.pattern for each in await list_topic_bindings(pgmq_database, "orders")] == [
        "shop.*"
    ]
    assert await unbind_topic(pgmq_database, "orders", "shop.*")
    assert not await unbind_topic(pgmq_database, "orders", "shop.*")
    await pgmq_database.fetchval(SEND, "shop.sold", '{"n": 3}', None)
    async with QueueService[Any](pgmq_database, "orders") as orders:
        job = await orders.dequeue()
        assert job is not None
        assert (job.payload, job.headers["x-pgmq-group"]) == ({"n": 1}, "a")
        assert await orders.dequeue() is None
    await drop_queue(pgmq_database, "audit")
    assert await list_topic_bindings(pgmq_database) == []


@pytest.mark.parametrize(
    ("pattern", "rule"),
    [
        ("", "1 to 255 characters"),
        ("x" * 256, "1 to 255 characters"),
        (7, "1 to 255 characters"),
        (".a", "single dots"),
        ("a.", "single dots"),
        ("a..b", "single dots"),
        ("a b", "single dots"),
        ("a\n", "single dots"),
        ("a.**", "side by side"),
        ("a.*#", "side by side"),
        ("##", "side by side"),
    ],
)
async def test_what_pgmq_refuses_is_refused_by_name(
    connection: Connection, queue_name: str, pattern: Any, rule: str
) -> None:
    """The error has the rule and the value; PGMQ would refuse each of them, too."""
    with pytest.raises(InvalidSettingError, match=rule):
        await bind_topic(connection, queue_name, pattern)
    if isinstance(pattern, str):
        with pytest.raises(asyncpg.RaiseError):
            await connection.fetchval("select pgmq.validate_topic_pattern($1)", pattern)


async def test_a_queue_that_is_not_there_is_named(connection: Connection) -> None:
    """Nothing is bound to it."""
    with pytest.raises(QueueNotFoundError, match="'none'"):
        await bind_topic(connection, "none", "a")
