"""Roles of least privilege: each can do all of its work, for one queue or for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

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
    list_queue_scaling,
    list_workers,
    set_queue_config,
)
from meshhook.administration import describe_tables, get_queue_snapshot, list_queues
from meshhook.errors import HiddenRowsError
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.roles import grant_role
from meshhook.schema import Migration, available_migrations, migrate
from meshhook.statistics import job_statistics
from meshhook.store import queries
from meshhook.store.queries import QueueTables
from meshhook.tracking import find_jobs, get_job
from meshhook.worker.connections import WorkerConnection
from meshhook.worker.housekeeping import Housekeeper
from support import giants
from support.pgbouncer import pgbouncer
from support.roles import Roles
from support.roles import url_of as url_of_login
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DEAD_LETTER = "insert into pgmq.q_orders_dlq (vt, message) values (now(), '{}') returning msg_id"


@pytest.fixture(params=["of_orders", "of_all_queues"])
async def url_of(
    request: pytest.FixtureRequest, database_url: str, connection: Connection
) -> AsyncIterator[Callable[[str], str]]:
    """Makes queues and roles; returns the URL that a role of a kind logs in with.

    The roles are for the queue `orders` alone, or for all; another queue and its role are there.
    """
    for queue in ("orders", "others"):
        await create_queue(Database(connection), queue)
    async with Roles(database_url, connection) as roles:
        await roles.make(RoleKind.WORKER, "others")
        for kind in RoleKind:
            if kind is not RoleKind.OWNER:
                by_queue = kind.is_by_queue and request.param == "of_orders"
                await roles.make(kind, *(["orders"] if by_queue else []), name=f"test_{kind}")
        yield lambda kind: roles.url(f"test_{kind}")


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
    """What is expired goes, and the history's partitions come and go; nothing is put off."""
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
    assert [record.__dict__["step"] for record in caplog.records] == []


async def test_a_reader_sees_everything(
    database_of: Callable[[str], Any], connection: Connection
) -> None:
    """Lists, one job's life, dead letters, statistics, workers, and the exporter's figures."""
    msg_id = await QueueService[Any](connection, "orders").enqueue({"payload": 1})
    await connection.execute(DEAD_LETTER)
    database = await database_of("reader")
    assert "orders" in [each.queue for each in await list_queues(database)]
    assert (await get_queue_snapshot(database, "orders")).enqueued_total >= 1
    assert (await get_job(database, "orders", msg_id)).msg_id == msg_id
    assert await find_jobs(database)
    assert await list_workers(database) == []
    assert await list_queue_scaling(database) == []
    assert isinstance(await job_statistics(database), list)
    dead_letters = DLQService(database, "orders")
    assert len(await dead_letters.list_dead_letter_jobs()) == 1
    assert (await dead_letters.get_dlq_metrics()).dead_letters == 1
    assert await dead_letters.get_jobs_by_error_type()
    exporter = QueueExporter(database, registry=CollectorRegistry())
    assert await exporter.collect()
    assert [row["problem"] for row in exporter.rows if row["queue"] == "orders"] == [None]
    assert all(row["problem"] is None for row in exporter.rows)


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


@pytest.mark.parametrize("queues", [(), ("mails",)], ids=["of_all_queues", "of_mails"])
async def test_an_operator_makes_reads_and_drops_queues_that_others_work_on(
    database_url: str, connection: Connection, queues: tuple[str, ...]
) -> None:
    """What it makes is its own, and roles that are for it may use it at once, wake-ups included."""
    async with Roles(database_url, connection) as roles:
        for kind in (RoleKind.OPERATOR, RoleKind.WORKER, RoleKind.PRODUCER):
            await roles.make(kind, *(queues if kind.is_by_queue else ()), name=f"test_{kind}")
        database = await Database.connect(roles.url("test_operator"))
        producer = await Database.connect(roles.url("test_producer"))
        for _ in range(2):  # what it dropped and made again works as well
            assert await create_queue(database, "mails")
            await set_queue_config(database, "mails", max_retry_attempts=3)

            async def handler(_: Job[Any]) -> None:
                pass

            async with make_worker(roles.url("test_worker"), handler, queue_name="mails"):
                await eventually(
                    lambda: connection.fetchval("select count(*) from meshhook.workers")
                )
                await QueueService[Any](producer, "mails").enqueue({})
                is_empty = "select count(*) = 0 from pgmq.q_mails"
                await eventually(partial(connection.fetchval, is_empty))
                read = "select * from meshhook.queue_demand('{mails}', '{9}', '{mails}', 5)"
                assert (await database.fetch(read))[0]["problem"] is None
            done = "select distinct outcome from meshhook.job_attempts"
            assert await connection.fetchval(done) == "succeeded"
            assert await database.fetchval("select meshhook.drop_queue_if_empty('mails')")
        await database.close()
        await producer.close()


async def test_a_worker_of_one_queue_works_behind_a_pooler(
    tmp_path: Path, database_url: str, connection: Connection
) -> None:
    """In transaction mode, with no connection of its own beside it."""
    await create_queue(Database(connection), "orders")
    done = asyncio.Event()

    async def handler(_: Job[Any]) -> None:
        done.set()

    async with Roles(database_url, connection) as roles:
        await roles.make(RoleKind.WORKER, "orders", name="test_worker")
        url = roles.url("test_worker")
        with pgbouncer(tmp_path, url, pool_size=4) as pooler:
            async with make_worker(pooler.url(url), handler, queue_name="orders", pooled=True):
                await QueueService[Any](connection, "orders").enqueue({})
                await done.wait()
        outcome = "select outcome from meshhook.job_attempts"
        assert await connection.fetchval(outcome) == "succeeded"


async def test_a_producer_enqueues_in_every_way(database_of: Callable[[str], Any]) -> None:
    """Calls that share a statement, bulk, later, and inside its own transaction."""
    database = await database_of("producer")
    async with QueueService[Any](database, "orders") as queue:
        ids = await asyncio.gather(*(queue.enqueue({"n": n}) for n in range(20)))
        ids += await queue.enqueue_many([{"n": n} for n in range(20)], delay_seconds=60)
        async with database.source.acquire() as own, own.transaction():
            ids.append(await queue.enqueue({"n": 0}, connection=own))
    assert len(set(ids)) == 41


async def test_a_handler_enqueues_where_its_role_is_a_producer_too(
    database_url: str, connection: Connection
) -> None:
    """One role of two kinds, each for its own queue."""
    for queue in ("orders", "others"):
        await create_queue(Database(connection), queue)
    async with Roles(database_url, connection) as roles:
        name = await roles.make(RoleKind.WORKER, "orders", name="test_worker")
        await grant_role(Database(connection), RoleKind.PRODUCER, name=name, queues=["others"])
        database = await Database.connect(roles.url(name))

        async def handler(_: Job[Any]) -> None:
            await QueueService[Any](database, "others").enqueue({})

        async with make_worker(roles.url(name), handler, queue_name="orders"):
            await QueueService[Any](connection, "orders").enqueue({})
            sent = "select count(*) from pgmq.q_others"
            await eventually(lambda: connection.fetchval(sent))
        with pytest.raises(HiddenRowsError):
            await describe_tables(database, "others")
        await database.close()


async def test_who_was_granted_rights_by_hand_keeps_them(
    empty_database_url: str, empty_connection: Connection
) -> None:
    """An upgrade takes what they needed from PUBLIC: they go on making queues and keeping house."""
    before = [each for each in available_migrations() if each.version < by_name("roles").version]
    await migrate(empty_connection, migrations=before)
    await empty_connection.execute(
        "create role test_operator login password 'secret'; "
        "grant usage, create on schema meshhook, pgmq to test_operator; "
        "grant select on meshhook.migrations, meshhook.workers to test_operator; "
        "grant select, insert, update, delete on meshhook.queue_config to test_operator; "
        "grant select, insert, delete on pgmq.meta to test_operator; "
        "grant select, insert, delete on meshhook.job_attempts to test_operator"
    )
    try:
        await migrate(empty_connection)
        own = await asyncpg.connect(url_of_login(empty_database_url, "test_operator", "secret"))
        try:
            assert await create_queue(Database(own), "mails")
            assert await own.fetchval("select meshhook.drop_queue_if_empty('mails')")
            for name in ("create_attempt_partitions", "drop_expired_attempt_partitions"):
                assert await own.fetchval(queries.load(name)) == 0
            assert await own.fetchval(queries.load("delete_expired_attempts")) == 0
        finally:
            await own.close()
    finally:
        await empty_connection.execute("drop owned by test_operator; drop role test_operator")


def by_name(name: str) -> Migration:
    """Return a migration by the name in its file's name."""
    return next(each for each in available_migrations() if each.name == name)


async def test_roles_are_made_while_workers_run(database_url: str, connection: Connection) -> None:
    """Row level security comes and grants are renewed under them: no job fails or is run twice."""
    await create_queue(Database(connection), "orders")
    runs: list[int] = []

    async def handler(job: Job[Any]) -> None:
        runs.append(job.msg_id)

    async with Roles(database_url, connection) as roles:
        await roles.make(RoleKind.WORKER, name="test_all")
        await roles.make(RoleKind.PRODUCER, name="test_producer")
        database = await Database.connect(roles.url("test_producer"))
        sent: list[int] = []
        async with make_worker(roles.url("test_all"), handler, queue_name="orders"):
            for queues in (["orders"], []) * 3:
                sent += [await QueueService[Any](database, "orders").enqueue({})]
                await roles.make(RoleKind.WORKER, "orders", name="test_one")
                await roles.make(RoleKind.WORKER, name="test_all")
                sent += await QueueService[Any](database, "orders").enqueue_many([{}] * 50)
                await grant_role(
                    Database(connection), RoleKind.READER, name="test_one", queues=queues
                )
            await eventually(lambda: connection.fetchval("select count(*) = 0 from pgmq.q_orders"))
        await database.close()
    assert sorted(runs) == sorted(sent)
    outcomes = await connection.fetch("select outcome, worker from meshhook.job_attempts")
    assert [row["outcome"] for row in outcomes] == ["succeeded"] * len(sent)


async def test_a_worker_of_one_queue_puts_giants_away(
    database_url: str, connection: Connection
) -> None:
    """Messages and headers that cannot be read become dead letters with its rights alone."""
    await create_queue(Database(connection), "orders")
    giant = giants.GIANTS["numbers past a gigabyte"]
    await giants.send(connection, giant, queue_name="orders")
    await giants.send(connection, "'{}'", headers_sql=giant, queue_name="orders")

    async def handler(_: Job[Any]) -> None:
        pass

    async with Roles(database_url, connection) as roles:
        await roles.make(RoleKind.WORKER, "orders", name="test_worker")
        async with make_worker(roles.url("test_worker"), handler, queue_name="orders"):
            dead = "select count(*) = 2 from pgmq.q_orders_dlq"
            await eventually(lambda: connection.fetchval(dead), timeout=60)
