"""`meshhook.enqueue` and `meshhook.enqueue_many`: jobs from SQL, checked as the library checks."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import DuplicateJobError, MeshHookError, QueueService, create_queue
from meshhook.role_kinds import RoleKind
from meshhook.unique import ServiceOptions
from support import conformance
from support.conformance import Case
from support.psql import run_psql
from support.roles import Roles
from support.waiting import eventually

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def enqueue_by_sql(connection: Connection, case: Case) -> list[int]:
    """Enqueue what a case says, by SQL."""
    fields = case.fields
    headers = "null" if fields.get("headers_are_null") else json.dumps(case.headers)
    texts = [None if fields.get("message_is_missing") else json.dumps(m) for m in case.messages]
    has_headers = case.headers is not None or fields.get("headers_are_null")
    if case.is_several:
        rows = await connection.fetch(
            "select * from meshhook.enqueue_many($1, $2::text[]::jsonb[], headers => $3, "
            "delay => make_interval(secs => $4), key => $5, unique_keys => $6, "
            "unique_until => $7, unique_for => make_interval(secs => $8), on_conflict => $9)",
            *(case.queue, texts, headers if has_headers else None, case.delay_seconds, case.key),
            *(case.unique_keys, *case.unique_in_sql),
        )
        return [row[0] for row in rows]
    return [
        await connection.fetchval(
            "select meshhook.enqueue($1, $2, headers => $3, "
            "delay => make_interval(secs => $4), key => $5, unique_key => $6, "
            "unique_until => $7, unique_for => make_interval(secs => $8), on_conflict => $9)",
            *(case.queue, texts[0], headers if has_headers else None, case.delay_seconds, case.key),
            *(case.unique_keys[0] if case.unique_keys else None, *case.unique_in_sql),
        )
    ]


@pytest.mark.parametrize("case", conformance.cases("sql"))
async def test_sql_conforms(connection: Connection, case: Case) -> None:
    """Each case is stored as the file says, or refused with its SQLSTATE and nothing stored."""
    await check_sql(connection, case)


async def check_sql(connection: Connection, case: Case) -> None:
    """Check one case of SQL."""
    await conformance.prepare(connection, case)
    begun_at = await conformance.server_time(connection)
    if case.error is None:
        msg_ids = await enqueue_by_sql(connection, case)
        await conformance.check_stored(connection, case, msg_ids, begun_at)
        return
    with pytest.raises(asyncpg.PostgresError) as caught:
        await enqueue_by_sql(connection, case)
    assert caught.value.sqlstate == case.error["sqlstate"]
    assert case.error.get("says", "") in str(caught.value)
    if "position" in case.error:
        assert f"Job {case.error['position']} of the batch" in str(caught.value.detail)
    await conformance.check_nothing_stored(connection)


@pytest.mark.parametrize("case", conformance.cases("library"))
async def test_the_library_conforms(connection: Connection, case: Case) -> None:
    """The library stores and refuses the same, with errors of the class that the file names."""
    await check_library(connection, case)


async def check_library(connection: Connection, case: Case) -> None:
    """Check one case of the library."""
    await conformance.prepare(connection, case)
    begun_at = await conformance.server_time(connection)
    options: ServiceOptions = {"headers": case.headers, "key": case.key}

    async def enqueue() -> list[int]:
        queue = QueueService[Any](connection, case.queue, encryption=case.ring)
        return await conformance.enqueue(queue, case, options)

    if case.error is None:
        await conformance.check_stored(connection, case, await enqueue(), begun_at)
        return
    with pytest.raises(MeshHookError) as caught:
        await enqueue()
    conformance.check_refusal(case, caught.value)
    await conformance.check_nothing_stored(connection)


async def test_sql_conforms_on_each_pgmq(pgmq_database: Connection) -> None:
    """Both functions, and PGMQ's own send beside them, work on old and new versions."""
    await create_queue(pgmq_database, "orders")
    ids = [
        await pgmq_database.fetchval("select meshhook.enqueue('orders', '{\"n\": 1}')"),
        *(
            row[0]
            for row in await pgmq_database.fetch(
                "select meshhook.enqueue_many('orders', array['2', '3']::jsonb[])"
            )
        ),
        await pgmq_database.fetchval("select pgmq.send('orders', '4')"),
    ]
    assert ids == [1, 2, 3, 4]
    queue = QueueService[Any](pgmq_database, "orders")
    payloads = [job.payload for _ in ids if (job := await queue.dequeue()) is not None]
    assert payloads == [{"n": 1}, 2, 3, 4]


async def test_unique_keys_conform_on_each_pgmq(pgmq_database: Connection) -> None:
    """What is stored and refused, from SQL and by the library; and keys that jobs have or had."""
    cases = conformance.cases_with_unique_keys()
    assert {case.error is None for case in cases} == {True, False}
    for case in cases:
        await check_sql(pgmq_database, case)
        await check_library(pgmq_database, case)
    await pgmq_database.execute(f"delete from pgmq.q_{conformance.QUEUE}")
    queue = QueueService[Any](pgmq_database, conformance.QUEUE)
    first = await queue.enqueue({"n": 1}, unique_key="k", unique="until_started")
    found = await pgmq_database.fetchrow(
        "select * from meshhook.enqueue_unique($1, array['2']::jsonb[], unique_keys => array['k'], "
        "unique_until => 'started', on_conflict => 'replace')",
        conformance.QUEUE,
    )
    assert found is not None
    assert tuple(found) == (first, "replaced")
    assert (await queue.enqueue({}, unique_key="k", unique="until_started")) == first
    job = await queue.dequeue()
    assert job is not None
    assert (job.msg_id, job.payload) == (first, 2)
    assert (await queue.enqueue({}, unique_key="k")).is_new
    assert await queue.acknowledge(job)
    with pytest.raises(DuplicateJobError):
        await queue.enqueue({}, unique_key="k", on_conflict="error")
    job = await queue.dequeue()
    assert job is not None
    assert await queue.acknowledge(job)
    assert await pgmq_database.fetchval("select count(*) from meshhook.unique_keys") == 0


async def test_a_job_is_part_of_the_callers_transaction(connection: Connection) -> None:
    """A rollback takes it back, and a savepoint that is rolled back only what came after it."""
    await create_queue(connection, "orders")
    await connection.execute(
        """
        begin; select meshhook.enqueue('orders', '"rolled back"'); rollback;
        begin;
        select meshhook.enqueue('orders', '"kept"');
        savepoint s; select meshhook.enqueue_many('orders', '{1,2}'); rollback to s;
        commit;
        """
    )
    assert await connection.fetchval("select array_agg(message) from pgmq.q_orders") == ['"kept"']


async def test_a_trigger_enqueues(connection: Connection) -> None:
    """Once for each row, and once for each statement with all of its rows, in order."""
    await create_queue(connection, "orders")
    await connection.execute(
        """
        create table invoices (n int primary key);
        create function announce() returns trigger language plpgsql as $$
        begin
            if tg_level = 'ROW' then
                perform meshhook.enqueue('orders', to_jsonb(new.n), delay => '1 min');
                return new;
            end if;
            perform meshhook.enqueue_many('orders',
                (select array_agg(to_jsonb(i) order by i.n desc) from new_rows i));
            return null;
        end $$;
        create trigger each_row after insert on invoices for each row execute function announce();
        create trigger each_statement after insert on invoices referencing new table as new_rows
            for each statement execute function announce();
        insert into invoices values (1), (2);
        """
    )
    rows = await connection.fetch("select message from pgmq.q_orders order by msg_id")
    # PostgreSQL fires row triggers first.
    assert [json.loads(row["message"]) for row in rows] == [
        1,
        2,
        {"n": 2},
        {"n": 1},
    ]


async def test_psql_enqueues(database_url: str, connection: Connection) -> None:
    """By position or by name, with literals alone."""
    await create_queue(connection, "orders")
    out = await run_psql(
        database_url,
        """
        \\pset tuples_only
        select meshhook.enqueue('orders', '{"n": 1}');
        select meshhook.enqueue(queue => 'orders', message => '{"n": 2}', delay => '1 hour');
        select * from meshhook.enqueue_many('orders', array['{"n": 3}', '{"n": 4}']::jsonb[]);
        """,
    )
    assert out.split() == ["1", "2", "3", "4"]


async def test_a_waiting_worker_is_woken_at_commit(
    database_url: str, connection: Connection
) -> None:
    """By a job from SQL as by any other: once, and not by one that is rolled back."""
    await create_queue(connection, "orders")
    heard: list[str] = []
    listener = await asyncpg.connect(database_url)
    await listener.add_listener("meshhook_wake_orders", lambda *args: heard.append(args[2]))
    await connection.execute(
        "select setval('meshhook.waiting_orders', (extract(epoch from now()) * 1000 + 60000)::int8)"
    )
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("select meshhook.enqueue('orders', '{}')")
    await transaction.rollback()
    await connection.execute("select meshhook.enqueue_many('orders', '{1,2}')")
    await eventually(lambda: bool(heard))
    assert heard == ["meshhook_wake_orders"]
    await listener.close()


async def test_strings_of_an_old_kind_change_nothing(connection: Connection) -> None:
    """A caller with standard_conforming_strings off or another search_path gets the same."""
    await create_queue(connection, "orders")
    await connection.execute("set standard_conforming_strings = off; set search_path = ''")
    message = json.dumps({'a, "b': 'c: \\", d'})
    size = await connection.fetchval("select meshhook.json_bytes($1)", message)
    assert size == len(json.dumps(json.loads(message), separators=(",", ":")))
    assert await connection.fetchval("select meshhook.enqueue('orders', $1)", message) == 1


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "EUC_JP"])
async def test_sizes_are_those_of_utf8(encoded: Connection) -> None:
    """Whatever the encoding of the database, a message has as many bytes as the library counts."""
    message = json.dumps({"a": "x" * 20, "b": [1, 2]}, ensure_ascii=False)
    encoding = await encoded.fetchval("select current_setting('server_encoding')")
    if encoding == "LATIN1":
        message = message.replace("xx", "é")
    expected = len(message.replace(", ", ",").replace(": ", ":").encode())
    assert await encoded.fetchval("select meshhook.json_bytes($1)", message) == expected


# --- Roles -------------------------------------------------------------------------------------


@pytest.fixture
async def roles(database_url: str, connection: Connection) -> AsyncIterator[Roles]:
    """Makes roles in a database with two queues."""
    for queue in ("orders", "others"):
        await create_queue(connection, queue)
    async with Roles(database_url, connection) as roles:
        yield roles
        await connection.execute("reset role")


async def test_a_producer_of_one_queue_enqueues_into_it_alone(
    connection: Connection, roles: Roles
) -> None:
    """Of other queues it learns nothing, not even that they exist."""
    role = await roles.make(RoleKind.PRODUCER, "orders", name="test_producer")
    await connection.execute(f"set role {role}")
    assert await connection.fetchval("select meshhook.enqueue('orders', '{}')") == 1
    rows = await connection.fetch("select meshhook.enqueue_many('orders', '{1,2}')")
    assert [row[0] for row in rows] == [2, 3]
    with pytest.raises(asyncpg.PostgresError, match='queue "others" does not exist') as caught:
        await connection.execute("select meshhook.enqueue('others', '{}')")
    assert caught.value.sqlstate == "MHQ05"


async def test_a_reader_does_not_enqueue(connection: Connection, roles: Roles) -> None:
    """The functions lend nobody the rights of their owner."""
    role = await roles.make(RoleKind.READER, name="test_reader")
    await connection.execute(f"set role {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("select meshhook.enqueue('orders', '{}')")


# --- The documentation ---------------------------------------------------------------------------


async def test_the_sql_of_the_documentation_runs(connection: Connection) -> None:
    """Block after block, in one database, and each job is there at the end."""
    await create_queue(connection, "orders")
    await connection.execute("create table invoices (n int, customer text)")
    text = (Path(__file__).parents[1] / "docs" / "producers.md").read_text()
    for block in re.findall(r"```sql\n(.*?)```", text, re.DOTALL):
        await connection.execute(block)
    assert await connection.fetchval("select count(*) from pgmq.q_orders") == 5
    await connection.execute("insert into invoices (n) values (20), (21)")
    assert await connection.fetchval("select count(*) from pgmq.q_orders") == 9


def test_the_documentation_names_each_sqlstate() -> None:
    """With the class of the library's error."""
    text = (Path(__file__).parents[1] / "docs" / "producers.md").read_text()
    for parameter in conformance.cases("sql"):
        error = parameter.values[0].error
        if error and "class" in error:
            assert re.search(
                rf"^\| .*`{error['sqlstate']}`.*`{error['class']}`", text, re.MULTILINE
            )
