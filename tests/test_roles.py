"""The roles of docs/operations.md: each can do all of its work, and nothing else."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import (
    DeadLetter,
    DLQService,
    Job,
    QueueExporter,
    QueueService,
    RetryAfter,
    Snooze,
    create_queue,
    list_workers,
    set_queue_config,
)
from meshhook.administration import get_queue_snapshot, list_queues
from meshhook.database import Database
from meshhook.queries import QueueTables
from meshhook.statistics import job_statistics
from meshhook.tracking import find_jobs, get_job
from meshhook.worker.connections import WorkerConnection
from meshhook.worker.housekeeping import Housekeeper
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

GUIDE = Path(__file__).parent.parent / "docs" / "operations.md"
DEAD_LETTER = "insert into pgmq.q_orders_dlq (vt, message) values (now(), '{}') returning msg_id"
ROLES = (
    "orders_producer",
    "orders_worker",
    "orders_reader",
    "orders_oncall",
    "shop_operator",
    "shop_jobs",
)


def statements() -> str:
    """Return the SQL of the guide's section on permissions."""
    section = GUIDE.read_text().split("## Permissions\n")[1].split("\n## ")[0]
    return "".join(re.findall(r"```sql\n(.*?)```", section, re.DOTALL))


@pytest.fixture
async def url_of(database_url: str, connection: Connection) -> AsyncIterator[Callable[[str], str]]:
    """Makes the queue and the roles as the guide says; returns the URL that a role logs in with."""
    await connection.execute("select meshhook.create_queue('orders')")
    await connection.execute(statements())
    for role in ROLES:
        await connection.execute(f"alter role {role} password 'secret'")
    parts = urlsplit(database_url)

    def url(role: str) -> str:
        name = next(each for each in ROLES if each.endswith(f"_{role}"))
        return f"postgresql://{name}:secret@{parts.hostname}:{parts.port}{parts.path}"

    yield url
    for role in ROLES:
        await connection.execute(f"drop owned by {role}; drop role {role}")


@pytest.fixture
async def database_of(url_of: Callable[[str], str]) -> AsyncIterator[Callable[[str], Any]]:
    """Opens a `Database` as a role; all are closed at the end."""
    opened: list[Database] = []

    async def connect(role: str) -> Database:
        opened.append(await Database.connect(url_of(role)))
        return opened[-1]

    yield connect
    for database in opened:
        await database.close()


async def test_a_producer_and_a_worker_do_all_their_work(
    url_of: Callable[[str], str], database_of: Callable[[str], Any], connection: Connection
) -> None:
    """Jobs end in every way there is, from the wake-up of a waiting worker to its last report."""
    producer = QueueService[Any](await database_of("producer"), "orders")
    begun: set[int] = set()

    async def handler(job: Job[Any]) -> object:
        if job.payload == "fail":
            return DeadLetter("as asked")
        if job.msg_id not in begun:
            begun.add(job.msg_id)
            return {"retry": RetryAfter(0.01), "snooze": Snooze(0.01)}.get(job.payload)
        return None

    is_empty = "select count(*) = 0 from pgmq.q_orders"
    async with make_worker(url_of("worker"), handler, queue_name="orders"):
        await eventually(lambda: connection.fetchval("select count(*) from meshhook.workers"))
        await producer.enqueue("succeed")
        await producer.enqueue_many(["fail", "retry", "snooze"])
        await eventually(lambda: connection.fetchval(is_empty))
    await set_queue_config(Database(connection), "orders", dlq_enabled=False)
    async with make_worker(url_of("worker"), handler, queue_name="orders"):
        await producer.enqueue("fail")
        await eventually(lambda: connection.fetchval(is_empty))
    rows = await connection.fetch("select distinct outcome from meshhook.job_attempts")
    assert {row["outcome"] for row in rows} == {
        "succeeded",
        "retried",
        "snoozed",
        "dead_lettered",
        "archived",
    }
    assert await connection.fetchval("select count(*) from meshhook.workers") == 0


async def test_a_worker_keeps_house(
    url_of: Callable[[str], str], connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    """What is expired goes; only the history's partitions are left to their owner."""
    config = await set_queue_config(
        Database(connection), "orders", dlq_retention_days=1, archive_retention_days=1
    )
    await connection.execute(
        "insert into pgmq.q_orders_dlq (vt, message, enqueued_at) values (now(), '{}', now() - "
        "interval '2 days'); insert into pgmq.a_orders (msg_id, vt, message, archived_at) values "
        "(1, now(), '{}', now() - interval '2 days'); insert into meshhook.job_attempts (queue, "
        "msg_id, attempt, outcome, finished_at) values ('orders', 1, 1, 'succeeded', now() - "
        "interval '20 days')"
    )
    own = WorkerConnection(url_of("worker"), application_name="under test")
    try:
        tables = QueueTables("orders")
        await Housekeeper(connection=own, configs={tables: lambda: config}).keep_house()
    finally:
        await own.close()
    for table in ("pgmq.q_orders_dlq", "pgmq.a_orders", "meshhook.job_attempts"):
        assert await connection.fetchval(f"select count(*) from {table}") == 0
    steps = {record.__dict__["step"] for record in caplog.records}
    assert steps <= {"create_attempt_partitions", "drop_expired_attempt_partitions"}


async def test_a_reader_sees_everything(
    database_of: Callable[[str], Any], connection: Connection
) -> None:
    """Lists, one job's life, dead letters, statistics, workers, and the exporter's figures."""
    msg_id = await QueueService[Any](connection, "orders").enqueue({"payload": 1})
    await connection.execute(DEAD_LETTER)
    database = await database_of("reader")
    assert [each.queue for each in await list_queues(database)] == ["orders"]
    assert (await get_queue_snapshot(database, "orders")).enqueued_total >= 1
    assert (await get_job(database, "orders", msg_id)).msg_id == msg_id
    assert await find_jobs(database)
    assert await list_workers(database) == []
    assert isinstance(await job_statistics(database), list)
    dead_letters = DLQService(database, "orders")
    assert len(await dead_letters.list_dead_letter_jobs()) == 1
    assert (await dead_letters.get_dlq_metrics()).dead_letters == 1
    assert await dead_letters.get_jobs_by_error_type()
    exporter = QueueExporter(database, registry=CollectorRegistry())
    assert await exporter.collect()
    [row] = exporter.rows
    assert row["problem"] is None


async def test_who_is_on_call_replays_deletes_and_pauses(
    database_of: Callable[[str], Any], connection: Connection
) -> None:
    """What a page asks for."""
    first, second = [await connection.fetchval(DEAD_LETTER) for _ in range(2)]
    database = await database_of("oncall")
    dead_letters = DLQService(database, "orders")
    assert await dead_letters.replay_dead_letter_job(first)
    assert await dead_letters.delete_dead_letter_job(second)
    assert (await set_queue_config(database, "orders", paused=True)).paused
    assert (await get_queue_snapshot(database, "orders")).ready == 1


async def test_an_operator_makes_reads_and_drops_queues_that_others_work_on(
    url_of: Callable[[str], str], database_of: Callable[[str], Any], connection: Connection
) -> None:
    """What it makes belongs to it, and workers and producers may use it, wake-ups included."""
    database = await database_of("operator")
    assert await create_queue(database, "mails")
    assert (await set_queue_config(database, "mails", max_retry_attempts=3)).queue_name == "mails"

    async def handler(_: Job[Any]) -> None:
        pass

    async with make_worker(url_of("jobs"), handler, queue_name="mails"):
        await eventually(lambda: connection.fetchval("select count(*) from meshhook.workers"))
        await QueueService[Any](await database_of("jobs"), "mails").enqueue({})
        done = "select count(*) from meshhook.job_attempts where outcome = 'succeeded'"
        await eventually(lambda: connection.fetchval(done))
        read = "select * from meshhook.queue_demand('{mails}', '{9}', '{mails}', 5)"
        assert (await database.fetch(read))[0]["problem"] is None
    may_read = "select has_sequence_privilege('postgres', 'meshhook.waiting_mails', 'select')"
    assert await connection.fetchval(may_read)
    assert await database.fetchval("select meshhook.drop_queue_if_empty('mails')")
    assert await database.fetchval("select count(*) from pgmq.meta") == 2


@pytest.mark.parametrize(
    ("role", "sql"),
    [
        ("producer", "select message from pgmq.q_orders"),
        ("producer", "delete from pgmq.q_orders"),
        ("producer", "update pgmq.q_orders set vt = now()"),
        ("producer", "insert into pgmq.q_orders (vt, read_ct) values (now(), 9)"),
        ("producer", "select * from meshhook.job_attempts"),
        ("producer", "update meshhook.queue_config set paused = true"),
        ("worker", "insert into pgmq.q_orders (vt, message) values (now(), '{}')"),
        ("worker", "update meshhook.job_attempts set outcome = 'succeeded'"),
        ("worker", "update meshhook.queue_config set paused = true"),
        ("worker", "select meshhook.drop_queue('orders')"),
        ("reader", "delete from pgmq.q_orders_dlq"),
        ("reader", "delete from meshhook.job_attempts"),
        ("reader", "select setval('meshhook.waiting_orders', 1)"),
        ("oncall", "delete from pgmq.q_orders"),
        ("oncall", "delete from meshhook.job_attempts"),
        ("oncall", "select meshhook.create_queue('another')"),
        ("operator", "select * from meshhook.job_attempts"),
        ("operator", "select meshhook.drop_queue('orders')"),
        ("jobs", "select meshhook.create_queue('another')"),
    ],
)
async def test_a_role_may_do_nothing_else(
    url_of: Callable[[str], str], role: str, sql: str
) -> None:
    """Spot checks of what belongs to other roles."""
    own = await asyncpg.connect(url_of(role))
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await own.execute(sql)
    finally:
        await own.close()
