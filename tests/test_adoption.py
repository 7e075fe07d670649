"""Adopting queues of PGMQ: what would lose, hide or reorder messages is refused, with a way out."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import QueueService
from meshhook.administration import create_queue, describe_tables, drop_queue, list_queues
from meshhook.errors import HiddenRowsError, UnsuitableQueueError
from meshhook.postgres.database import Database

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

COLUMNS = """msg_id bigint primary key generated always as identity, read_ct int default 0 not null,
    enqueued_at timestamptz default now() not null, vt timestamptz not null, message jsonb"""
ARCHIVE = f"create table pgmq.a_jobs ({COLUMNS}, headers jsonb)"


@pytest.fixture
def database(pool: Pool) -> Database:
    """The migrated database of this test."""
    return Database(pool)


@pytest.mark.parametrize(
    ("sql", "message", "remedy"),
    [
        pytest.param(
            "select pgmq.create_unlogged('jobs')",
            "pgmq.q_jobs is unlogged",
            "alter table pgmq.q_jobs set logged",
            id="unlogged",
        ),
        pytest.param(
            "select pgmq.create('jobs'); select pgmq.create_unlogged('jobs_dlq')",
            "pgmq.q_jobs_dlq is unlogged",
            "alter table pgmq.q_jobs_dlq set logged",
            id="unlogged dead letters",
        ),
        pytest.param(
            "select pgmq.create('jobs'); alter table pgmq.a_jobs set unlogged",
            "pgmq.a_jobs is unlogged",
            "alter table pgmq.a_jobs set logged",
            id="unlogged archive",
        ),
        pytest.param(
            "select pgmq.create('jobs'); alter sequence pgmq.q_jobs_msg_id_seq set unlogged",
            "pgmq.q_jobs_msg_id_seq is unlogged",
            "alter sequence pgmq.q_jobs_msg_id_seq set logged",
            id="unlogged sequence",
        ),
        pytest.param(
            "select pgmq.create('jobs'); create index on pgmq.q_jobs (enqueued_at, vt); "
            "drop index pgmq.q_jobs_vt_idx",
            "pgmq.q_jobs has no index on vt",
            "create index concurrently q_jobs_vt_idx on pgmq.q_jobs (vt)",
            id="no index",
        ),
        pytest.param(
            "select pgmq.create('jobs'); alter table pgmq.q_jobs drop constraint q_jobs_pkey",
            "pgmq.q_jobs has no unique index on msg_id",
            "alter table pgmq.q_jobs add primary key (msg_id)",
            id="no primary key",
        ),
        pytest.param(
            "select pgmq.create('jobs'); alter table pgmq.q_jobs drop column headers",
            "pgmq.q_jobs lacks what PGMQ 1.5.0 gives a queue: headers jsonb",
            "add the columns",
            id="no headers",
        ),
        pytest.param(
            "select pgmq.create('jobs'); alter table pgmq.q_jobs alter message type text",
            "pgmq.q_jobs lacks what PGMQ 1.5.0 gives a queue: message jsonb",
            "Update PGMQ",
            id="a column of another type",
        ),
        pytest.param(
            "select pgmq.create('jobs'); alter table pgmq.q_jobs add tenant int not null",
            "pgmq.q_jobs has a column tenant that is not null",
            "alter table pgmq.q_jobs alter column tenant drop not null",
            id="a column that must be given",
        ),
        pytest.param(
            "select pgmq.create('jobs'); create function pgmq.keep() returns trigger "
            "language plpgsql as 'begin return null; end'; create trigger keep before delete "
            "on pgmq.q_jobs for each row execute function pgmq.keep()",
            "pgmq.q_jobs has the trigger keep",
            "drop trigger keep on pgmq.q_jobs",
            id="a trigger before changes",
        ),
        pytest.param(
            "select pgmq.create('jobs'); create rule keep as on delete to pgmq.q_jobs "
            "do instead nothing",
            "pgmq.q_jobs has the rule keep",
            "drop rule keep on pgmq.q_jobs",
            id="a rule",
        ),
        pytest.param(
            f"{ARCHIVE}; create view pgmq.q_jobs as select * from pgmq.a_jobs",
            "pgmq.q_jobs is a view",
            "choose another name",
            id="a view",
        ),
        pytest.param(
            f"{ARCHIVE}; create table pgmq.q_jobs (like pgmq.a_jobs) partition by range (msg_id)",
            "pgmq.q_jobs is partitioned",
            "Move its messages to a queue made by pgmq.create",
            id="partitioned",
        ),
        pytest.param(
            f"{ARCHIVE}; create foreign data wrapper w; create server s foreign data wrapper w; "
            "create foreign table pgmq.q_jobs (msg_id bigint) server s",
            "pgmq.q_jobs is a foreign table",
            "choose another name",
            id="foreign",
        ),
        pytest.param(
            "select pgmq.create('jobs'); create table pgmq.more () inherits (pgmq.q_jobs)",
            "pgmq.q_jobs has tables that inherit from it",
            "no inherit pgmq.q_jobs",
            id="inherited",
        ),
        pytest.param(
            "select pgmq.create('jobs'); drop table pgmq.a_jobs",
            "pgmq.q_jobs has no archive pgmq.a_jobs",
            "pgmq.create('jobs')",
            id="no archive",
        ),
        pytest.param(
            f"{ARCHIVE}; create table pgmq.q_jobs (like pgmq.a_jobs including indexes); "
            "create index on pgmq.q_jobs (vt)",
            "pgmq.q_jobs gives out msg_id by no sequence",
            "add generated always as identity",
            id="no identity",
        ),
    ],
)
async def test_a_queue_that_would_not_work_is_refused(
    database: Database, connection: Connection, sql: str, message: str, remedy: str
) -> None:
    """Adoption fails, says what is wrong with which table and what to do, and changes nothing."""
    await connection.execute(sql)
    with pytest.raises(UnsuitableQueueError) as caught:
        await create_queue(database, "jobs")
    assert message in str(caught.value)
    assert remedy in str(caught.value)
    assert await list_queues(database) == []
    assert await connection.fetchval("select to_regclass('meshhook.waiting_jobs')") is None


async def test_an_unlogged_queue_is_adopted_once_it_is_logged(
    database: Database, connection: Connection
) -> None:
    """What the error says to do is enough."""
    await connection.execute("select pgmq.create_unlogged('jobs')")
    await connection.execute("alter table pgmq.q_jobs set logged")
    assert await create_queue(database, "jobs")
    unlogged = "select count(*) from pg_class where relname like '%jobs%' and relpersistence = 'u'"
    assert await connection.fetchval(unlogged) == 0


async def test_a_table_that_took_the_place_of_an_adopted_one_is_looked_at(
    database: Database, connection: Connection
) -> None:
    """Its settings are there still; the table is another."""
    await create_queue(database, "jobs")
    await connection.execute("select pgmq.drop_queue('jobs')")
    await connection.execute("select pgmq.create_unlogged('jobs')")
    with pytest.raises(UnsuitableQueueError, match="unlogged"):
        await create_queue(database, "jobs")


@pytest.mark.parametrize(
    "sql",
    [
        """select pgmq.send('jobs', '{}'::jsonb, '{"x-pgmq-group": "a"}'::jsonb)""",
        "select pgmq.create_fifo_index('jobs')",
    ],
)
async def test_a_queue_with_fifo_groups_is_adopted_only_on_purpose(
    database: Database, connection: Connection, sql: str
) -> None:
    """The error says that the order within a group is lost, and how to adopt the queue anyway."""
    await connection.execute("select pgmq.create('jobs')")
    await connection.execute(sql)
    with pytest.raises(UnsuitableQueueError, match=r"in any order.*--ignore-fifo-groups"):
        await create_queue(database, "jobs")
    assert await create_queue(database, "jobs", ignore_fifo_groups=True)
    assert not await create_queue(database, "jobs")


async def test_a_queue_whose_name_has_capitals_is_adopted_and_dropped_whole(
    database: Database, connection: Connection
) -> None:
    """PGMQ keeps `Mixed` in its list and folds the table's name: nothing stays behind."""
    await connection.execute("select pgmq.create('Mixed'), pgmq.create('Mixed_dlq')")
    await connection.execute("select pgmq.send('Mixed', '{}')")
    await create_queue(database, "mixed")
    assert await QueueService[Any](database, "mixed").dequeue() is not None
    assert await drop_queue(database, "mixed")
    assert await connection.fetch("select * from pgmq.metrics_all()") == []
    assert await connection.fetch("select * from pgmq.list_queues()") == []


@pytest.fixture
async def reader(connection: Connection, pool: Pool, queue_name: str) -> Any:
    """A role that row level security applies to, as a function that acts as it."""
    await connection.execute("create role rls_reader")
    await connection.execute(
        "grant usage on schema meshhook, pgmq to rls_reader; "
        "grant all on all tables in schema meshhook, pgmq to rls_reader"
    )

    async def describe() -> None:
        async with pool.acquire() as own:
            await own.execute("set role rls_reader")
            try:
                await describe_tables(Database(own), queue_name)
            finally:
                await own.execute("reset role")

    yield describe
    await connection.execute("drop owned by rls_reader; drop role rls_reader")


@pytest.mark.parametrize(
    "policy",
    [
        "",
        "create policy part on pgmq.q_jobs using (msg_id > 1)",
        "create policy alone on pgmq.q_jobs for select using (true)",
        "create policy others on pgmq.q_jobs using (current_user = 'somebody')",
        (
            "create policy every on pgmq.q_jobs using (true); "
            "create policy narrow on pgmq.q_jobs as restrictive using (msg_id > 1)"
        ),
    ],
)
async def test_rows_that_are_hidden_from_the_role_are_noticed(
    connection: Connection, reader: Any, policy: str
) -> None:
    """A worker that would see a part of the messages is told the table and its role."""
    await connection.execute(f"alter table pgmq.q_jobs enable row level security; {policy}")
    with pytest.raises(HiddenRowsError, match=r"rows of pgmq\.q_jobs from role 'rls_reader'"):
        await reader()


@pytest.mark.parametrize(
    "table", ["pgmq.q_jobs", "pgmq.q_jobs_dlq", "pgmq.a_jobs", "meshhook.job_attempts"]
)
async def test_every_table_that_a_worker_uses_counts(
    connection: Connection, reader: Any, table: str
) -> None:
    """The queue, its dead letters, its archive and the history."""
    await connection.execute(f"alter table {table} enable row level security")
    with pytest.raises(HiddenRowsError, match=table):
        await reader()


@pytest.mark.parametrize(
    "policy",
    [
        "create policy every on pgmq.q_jobs to rls_reader using (true) with check (true)",
        "create policy every on pgmq.q_jobs using (current_user = 'rls_reader')",
        (
            "create policy looking on pgmq.q_jobs for select using (true); "
            "create policy changing on pgmq.q_jobs for update using (1 = 1); "
            "create policy deleting on pgmq.q_jobs for delete using (true); "
            "create policy no_more on pgmq.q_jobs as restrictive using (now() > '-infinity')"
        ),
    ],
)
async def test_row_level_security_that_hides_nothing_is_fine(
    connection: Connection, reader: Any, policy: str
) -> None:
    """Policies that let the role see and change every row are enough, however they say so."""
    await connection.execute(f"alter table pgmq.q_jobs enable row level security; {policy}")
    await reader()
