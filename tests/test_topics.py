"""Topics: PGMQ's own routing to queues, where the installed PGMQ has it."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeAlias

import asyncpg
import psycopg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from meshhook import (
    QueueService,
    SyncQueueService,
    bind_topic,
    create_queue,
    drop_queue,
    list_topic_bindings,
    unbind_topic,
)
from meshhook.errors import (
    InvalidJobError,
    InvalidSettingError,
    JobTooLargeError,
    QueueNotFoundError,
    UnsupportedPgmqError,
)

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


async def stored(connection: Connection, queue: str) -> list[tuple[Any, ...]]:
    """Return the messages of a queue, with their ids, headers and delays in whole minutes."""
    rows = await connection.fetch(
        f"select msg_id, message, headers, round(extract(epoch from vt - enqueued_at) / 60)::int "
        f"from pgmq.q_{queue} order by msg_id"
    )
    return [(row[0], json.loads(row[1]), row[2] and json.loads(row[2]), row[3]) for row in rows]


async def test_publishing_or_what_is_missing(
    pgmq_database: Connection, pgmq_version: str, pgmq_database_url: str
) -> None:
    """Each queue that is bound gets a job, from Python with and without a loop and from SQL."""
    for queue in ("orders", "audit", "others"):
        await create_queue(pgmq_database, queue)
    service = QueueService[Any](pgmq_database, "others")
    if pgmq_version == WITHOUT:
        with pytest.raises(UnsupportedPgmqError, match=r"PGMQ 1\.11\.0 or newer"):
            await service.publish("shop.sold", {})
        with pytest.raises(asyncpg.PostgresError) as caught:
            await pgmq_database.execute("select meshhook.publish('shop.sold', '{}')")
        assert caught.value.sqlstate == "MHQ12"
        return
    assert await service.publish("shop.sold", {}) == {}
    await pgmq_database.execute("select pgmq.create('Foreign')")
    for queue, pattern in (
        ("orders", "shop.*"),
        ("orders", "shop.sold"),
        ("audit", "#"),
        ("Foreign", "shop.#"),
        ("others", "other"),
    ):
        await pgmq_database.execute("select pgmq.bind_topic($1, $2)", pattern, queue)
    found = await service.publish("shop.sold", {"n": 1}, 60, key="a", headers={"h": 1})
    assert found == {"Foreign": 1, "audit": 1, "orders": 1}
    by_thread = SyncQueueService[Any](pgmq_database_url, "others")
    with by_thread:
        found = await asyncio.to_thread(by_thread.publish, "shop.eu.sold", [2])
    assert found == {"Foreign": 2, "audit": 2}
    rows = await pgmq_database.fetch(
        "select * from meshhook.publish('shop.sold', '3', delay => '1 hour', key => 'b')"
    )
    assert [tuple(row) for row in rows] == [("Foreign", 3), ("audit", 3), ("orders", 2)]
    first = (1, {"n": 1}, {"h": 1, "x-pgmq-group": "a"}, 1)
    assert await stored(pgmq_database, "orders") == [first, (2, 3, {"x-pgmq-group": "b"}, 60)]
    assert await stored(pgmq_database, "foreign") == await stored(pgmq_database, "audit")
    assert await stored(pgmq_database, "others") == []


async def test_publishing_is_part_of_the_callers_transaction(
    connection: Connection, queue_name: str
) -> None:
    """Over asyncpg and over psycopg; a rollback takes back all of it."""
    await bind_topic(connection, queue_name, "a")
    service = QueueService[Any](connection, queue_name)
    transaction = connection.transaction()
    await transaction.start()
    assert await service.publish("a", 1, connection=connection) == {queue_name: 1}
    await transaction.rollback()
    assert await stored(connection, queue_name) == []


async def test_publishing_over_a_connection_that_blocks(
    connection: Connection, queue_name: str, database_url: str
) -> None:
    """It is part of the transaction on it; what a queue refuses has the same error."""
    await bind_topic(connection, queue_name, "a")

    def publish() -> None:
        with psycopg.connect(database_url) as own:
            service = SyncQueueService[Any](own)
            assert service.publish("a", {"n": 1}, key="k") == {queue_name: 1}
            own.rollback()
            assert service.publish("a", {"n": 2}) == {queue_name: 2}
            with pytest.raises(InvalidJobError, match="meshhook-x"):
                service.publish("a", 1, headers={"meshhook-x": 1})

    await asyncio.to_thread(publish)
    assert await stored(connection, queue_name) == [(2, {"n": 2}, None, 0)]


async def test_what_one_queue_refuses_is_published_nowhere(
    connection: Connection, queue_name: str
) -> None:
    """The error names the queue that finds it too large."""
    await create_queue(connection, "small")
    await connection.execute(
        "update meshhook.queue_config set max_payload_bytes = 1024 where queue = 'small'"
    )
    for queue in (queue_name, "small"):
        await bind_topic(connection, queue, "a")
    with pytest.raises(JobTooLargeError, match=r'1026 bytes of JSON; queue "small".*most 1024'):
        await QueueService[Any](connection, queue_name).publish("a", "x" * 1024)
    assert await stored(connection, queue_name) == []
    await QueueService[Any](connection, queue_name).publish("a", "x" * 1022)
    assert len(await stored(connection, "small")) == 1


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"topic": ""}, InvalidSettingError, "1 to 255 characters"),
    ({"topic": "x" * 256}, InvalidSettingError, "1 to 255 characters"),
    ({"topic": 7}, InvalidSettingError, "1 to 255 characters"),
    ({"topic": "a.*"}, InvalidSettingError, "single dots"),
    ({"topic": "a..b"}, InvalidSettingError, "single dots"),
    ({"topic": "a\n"}, InvalidSettingError, "single dots"),
    ({"delay_seconds": -1}, InvalidSettingError, "0 to 31622400"),
    ({"job": {1, 2}}, InvalidJobError, "JSON"),
    ({"headers": {"meshhook-settled": 1}}, InvalidJobError, "the queue's own"),
    ({"headers": {"x-pgmq-group": "b"}, "key": "a"}, InvalidJobError, "leave one of them out"),
    ({"key": ""}, InvalidJobError, "1 to 200 characters"),
]


@pytest.mark.parametrize(("arguments", "error", "says"), WRONG)
async def test_what_cannot_be_published_is_refused_by_name(
    connection: Connection,
    queue_name: str,
    arguments: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    """As when it is enqueued, and before the database is asked."""
    service = QueueService[Any](connection, queue_name)
    with pytest.raises(error, match=says):
        await service.publish(**{"topic": "a", "job": {}, **arguments})


@pytest.mark.parametrize(
    ("call", "sqlstate"),
    [
        ("null, '{}'", "MHQ08"),
        ("'a..b', '{}'", "MHQ08"),
        (r"e'a\n', '{}'", "MHQ08"),
        ("repeat('x', 256), '{}'", "MHQ08"),
        ("'a', null", "MHQ07"),
        ("'a', '{}', headers => '[]'", "MHQ07"),
        ("'a', '{}', headers => '{\"meshhook-settled\": 1}'", "MHQ07"),
        ("'a', '{}', key => ''", "MHQ07"),
        ("'a', '{}', headers => '{\"x-pgmq-group\": \"b\"}', key => 'a'", "MHQ07"),
        ("'a', '{}', delay => '-1 second'", "MHQ08"),
    ],
)
async def test_sql_refuses_to_publish_the_same(
    connection: Connection, queue_name: str, call: str, sqlstate: str
) -> None:
    """Whether a queue is bound or not."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await connection.execute(f"select meshhook.publish({call})")
    assert caught.value.sqlstate == sqlstate


async def test_publishing_carries_the_trace(connection: Connection, queue_name: str) -> None:
    """The span is that of the topic, and each job names it."""
    await bind_topic(connection, queue_name, "a")
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    service = QueueService[Any](connection, queue_name, tracer_provider=provider)
    await service.publish("a", {})
    (span,) = spans.get_finished_spans()
    assert span.name == "send a"
    assert span.context is not None
    ((_, _, headers, _),) = await stored(connection, queue_name)
    assert f"{span.context.trace_id:032x}" in headers["traceparent"]


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
