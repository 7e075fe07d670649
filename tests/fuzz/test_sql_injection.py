"""No text of others lands in a statement as SQL: it is refused, or comes back as it was."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from meshhook import (
    Database,
    DLQService,
    InvalidQueueNameError,
    InvalidSettingError,
    Job,
    MeshHookError,
    QueueExporter,
    QueueService,
    create_queue,
    list_queues,
)
from meshhook.names import validate_queue_name
from meshhook.role_kinds import RoleKind
from meshhook.roles import script as role_script
from meshhook.statistics import job_statistics
from meshhook.store import queries
from meshhook.tracking import find_jobs
from support.fuzzing import examples
from support.sql_texts import PACKAGES
from support.waiting import eventually
from support.workers import make_worker

Run = Callable[[Awaitable[Any]], Any]

DROP = "drop table public.canary"
FRAGMENTS = (
    "'", '"', "''", '""', ";", "--", "/*", "*/", "\\", "$$", "$1", "$x$", "%I", "%L", "%s", "%1$s",
    "%", ":name", ":'name'", "{queue_table}", "{moment q.vt}", "{0}", "E'", "U&'", "\n", "\t", "\r",
    "\u02bc", "\uff07", "\u2019", "\u00a0", "jobs", "_dlq", "q_", "A", "\u0130", "\u00e9", " ",
    f"; {DROP}; --", f"'; {DROP}; --", f'"; {DROP}; --', f"'); {DROP}; --", f"$$; {DROP}; --",
    "' or ''='", "' union select 1 --", "pg_sleep(9)",
)  # fmt: skip
ODD = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    min_size=1,
    max_size=5,
).map(lambda parts: "".join(parts).replace("\0", ""))
"""Texts that try to be SQL, and any others that PostgreSQL can store."""
NAMES = ODD | st.from_regex(r"[a-z0-9_-]{0,45}\n?", fullmatch=True)

SYNTAX = {"42601", "42703", "42883", "42P02"}
"""What the server says of text that became SQL: no such syntax, column, function or parameter."""

FUNCTIONS = """
    select p.oid::regprocedure::text as signature, p.proname,
        array(select format_type(t, null) from pg_catalog.unnest(p.proargtypes::oid[]) t) as types
    from pg_catalog.pg_proc p
    where p.pronamespace = 'meshhook'::regnamespace and p.prorettype <> 'trigger'::regtype
    order by signature
"""
STATEMENTS = sorted(path.stem for path in (PACKAGES[0] / "store" / "sql").glob("*.sql"))
CHECK_NAME = "select meshhook.check_queue_name($1::text)"
EVALUATES = {"policy_holds", "claim_in_turn", "extend_in_turn"}
"""The first is given the condition of a policy, which the owner of the table has written; the
others the library's own statement, which they run with the rights of their caller."""


@pytest.fixture(scope="module")
def canary(run: Run, database: Database) -> Iterator[Callable[[], Any]]:
    """Returns what says that nothing was made or dropped: every relation outside of catalogs."""
    run(database.fetch("create table public.canary ()"))

    def relations() -> Any:
        return run(
            database.fetchval(
                "select array_agg(c.oid::regclass::text order by c.oid) from pg_catalog.pg_class c "
                "where c.relnamespace in "
                "('public'::regnamespace, 'meshhook'::regnamespace, 'pgmq'::regnamespace)"
            )
        )

    before = relations()
    assert "public.canary" in before
    yield relations
    run(database.fetch("drop table if exists public.canary"))


async def state_of(database: Database, sql: str, *values: Any) -> str | None:
    """Return the SQLSTATE that a statement fails with, if it does; nothing of it is kept."""
    async with database.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.fetch(sql, *values)
        except asyncpg.PostgresError as error:
            return error.sqlstate
        finally:
            await transaction.rollback()
    return None


# --- Names -------------------------------------------------------------------------------------


@examples(200)
@given(name=NAMES)
@example("jobs\n")
@example("jobs_dlq\n")
@example("a" * 44)
@example("\u0131")
def test_a_name_is_one_for_the_library_and_the_database_alike(
    run: Run, database: Database, name: str
) -> None:
    """What Python takes for a queue's name, the database does, and nothing else."""
    try:
        validate_queue_name(name)
    except InvalidQueueNameError:
        with pytest.raises(MeshHookError, match="queue name"):
            run(database.fetch(CHECK_NAME, name))
    else:
        run(database.fetch(CHECK_NAME, name))


@examples(100)
@given(name=NAMES)
def test_a_statement_takes_nothing_but_names(name: str) -> None:
    """A queue's name, or a target, that is none is refused; one that is stands in quotes."""
    for statement in STATEMENTS:
        try:
            sql = queries.load(statement, name, target=name)
        except InvalidQueueNameError:
            with pytest.raises(InvalidQueueNameError):
                validate_queue_name(name)
            break
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,42}", name)
        plain = queries.load(statement, "jobs", target="jobs")
        for prefix, suffix in (("q_", ""), ("q_", "_dlq"), ("a_", "")):
            sql = sql.replace(f'"{prefix}{name}{suffix}"', f'"{prefix}jobs{suffix}"')
        assert sql == plain


def arguments(types: list[str], text: str) -> list[Any]:
    """Return arguments for a function of these types, in which every text is this one."""
    known: dict[str, Any] = {
        "text": text,
        "text[]": [text],
        "boolean": True,
        "integer": 3,
        "bigint": 1,
        "double precision": 1.0,
        "double precision[]": [1.0],
        "jsonb": "{}",
        "jsonb[]": ["{}"],
        "interval": timedelta(0),
        "timestamp with time zone": datetime.now(UTC),
        "timestamp with time zone[]": [datetime.now(UTC)],
        "date": date(2026, 11, 29),
        "oid": 0,
        "integer[]": [1],
        "bigint[]": [1],
        "uuid": UUID(int=0),
    }
    return [known[name] for name in types]


@examples(12)
@given(text=ODD)
def test_a_function_takes_no_text_as_sql(
    run: Run, database: Database, canary: Callable[[], Any], text: str
) -> None:
    """Every function with every text: none of it is parsed, and nothing is made or dropped."""
    before = canary()

    async def call_all() -> None:
        for row in await database.fetch(FUNCTIONS):
            if not {"text", "text[]"} & set(row["types"]) or row["proname"] in EVALUATES:
                continue
            marks = ", ".join(f"${n}::{name}" for n, name in enumerate(row["types"], start=1))
            sql = f"select meshhook.{row['proname']}({marks})"
            state = await state_of(database, sql, *arguments(row["types"], text))
            assert state not in SYNTAX, row["signature"]

    run(call_all())
    assert canary() == before


# --- Values ------------------------------------------------------------------------------------


@examples(25)
@given(text=ODD.filter(lambda text: text.strip() == text and len(text) <= 200))
def test_texts_of_jobs_and_errors_come_back_as_they_were(
    run: Run, database: Database, canary: Callable[[], Any], text: str
) -> None:
    """Identifiers, headers and errors are stored, listed, sought and replayed by their text."""
    assume(text)
    before = canary()

    async def go_round() -> None:
        queue, dlq = QueueService[Any](database, "jobs"), DLQService(database, "jobs")
        await queue.purge_queue()
        await dlq.purge_dlq()
        body = {"payload": {text: text}, "run_id": text, "workflow_id": text, "project_id": text}
        msg_id = await queue.enqueue(body, headers={text: text})
        found = await find_jobs(database, run_id=text, workflow_id=text)
        assert msg_id in {job.msg_id for job in found}
        job = await queue.dequeue()
        assert job is not None
        assert (job.payload, job.run_id, job.headers[text]) == ({text: text}, text, text)
        await dlq.move_to_dead_letter(job, text, error_type=text)
        [dead] = await dlq.list_dead_letter_jobs(error_type=text)
        assert (dead.error_type, dead.error_message) == (text, text)
        assert [group.error_type for group in await dlq.get_jobs_by_error_type()] == [text]
        assert not await dlq.list_dead_letter_jobs(error_type=text + "x")
        assert await dlq.replay_multiple_jobs(error_type=text)
        assert await find_jobs(database, run_id=text)
        await queue.close()

    run(go_round())
    assert canary() == before


@examples(50)
@given(name=NAMES)
def test_a_target_of_a_replay_is_a_name(
    run: Run, database: Database, canary: Callable[[], Any], name: str
) -> None:
    """Dead letters go to a queue that is there, or nowhere."""
    before = canary()

    async def replay() -> None:
        dlq = DLQService(database, "jobs")
        with suppress(MeshHookError):
            await dlq.replay_multiple_jobs(target_queue=name)

    run(replay())
    assert canary() == before


@examples(25)
@given(text=ODD)
def test_what_other_clients_write_is_text(
    run: Run, database: Database, canary: Callable[[], Any], text: str
) -> None:
    """Headers of a dead letter say where it died and of what: that is text to all who read it."""
    before = canary()

    async def go_round() -> None:
        dlq = DLQService(database, "jobs")
        await dlq.purge_dlq()
        await database.fetch(
            "insert into pgmq.q_jobs_dlq (vt, message, headers) select now(), to_jsonb($1::text), "
            "jsonb_build_object('meshhook-dead-letter', jsonb_build_object('queue', $1::text, "
            "'msg_id', 1, 'error_type', $1::text, 'error_message', $1::text, "
            "'first_enqueued_at', $1::text, 'attempts', $1::text))",
            text,
        )
        [dead] = await dlq.list_dead_letter_jobs()
        assert dead.error_type == text[:200]
        msg_id = await dlq.replay_dead_letter_job(dead.id)
        origin = await database.fetchval(
            "select headers #>> '{meshhook-replayed-from,queue}' from pgmq.q_jobs "
            "where msg_id = $1",
            msg_id,
        )
        assert origin == text
        await job_statistics(database)

    run(go_round())
    assert canary() == before


# --- Connections -------------------------------------------------------------------------------


@examples(20)
@given(text=ODD.filter(str.isprintable))
def test_parameters_of_a_url_are_settings_of_the_session(
    run: Run, shared_url: str, canary: Callable[[], Any], text: str
) -> None:
    """A name of an application, or the value of a setting, is that text and nothing else."""
    from urllib.parse import quote  # noqa: PLC0415 - of this test alone

    before = canary()

    async def ask(parameter: str, setting: str) -> str | None:
        try:
            found = await Database.connect(f"{shared_url}?{parameter}={quote(text)}", max_size=1)
        except MeshHookError:
            return None
        try:
            value: str = await found.fetchval(f"select current_setting('{setting}')")
        finally:
            await found.close()
        return value

    shown = run(ask("application_name", "application_name"))
    # PostgreSQL keeps 63 bytes, and puts something else for what is not ASCII.
    assert not text or shown is None or shown[:10] == text[:10] or not text.isascii()
    assert run(ask("meshhook.anything", "meshhook.anything")) in {text, None}
    run(ask("options", "application_name"))
    run(ask("search_path", "search_path"))
    assert canary() == before


# --- Objects with odd names --------------------------------------------------------------------

ODD_NAMES = (
    'a"; drop table public.canary; --',
    "UPPER",
    "Mixed Case",
    "\u00fcnic\u00f6de",
    "x" * 47,
    "%I %s %1$s",
    "{queue_table}",
    "new\nline",
)


def identifier(name: str) -> str:
    """Return a name in double quotes."""
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_a_queue_of_pgmq_with_an_odd_name_is_left_alone(database_url: str, name: str) -> None:
    """It is not adopted, and no list, figure or housekeeping stumbles over it."""
    database = await Database.connect(database_url)
    try:
        await database.fetch("create table public.canary ()")
        await create_queue(database, "jobs")
        for made in (name, f"{name[:43]}_dlq"):
            with suppress(MeshHookError):  # PGMQ refuses some of them
                await database.fetch("select pgmq.create($1::text)", made)
        await database.fetch(
            f"create table if not exists pgmq.{identifier('q_' + name[:40])} (id int)"
        )
        with pytest.raises(InvalidQueueNameError):
            await create_queue(database, name)
        with pytest.raises(MeshHookError, match="queue name"):
            await database.fetch("select meshhook.create_queue($1::text, true)", name)
        assert [queue.queue for queue in await list_queues(database)] == ["jobs"]
        await QueueExporter(database, registry=CollectorRegistry()).collect()
        await database.fetch("select * from meshhook.queue_monitoring")
        await database.fetch("select meshhook.mend_tables()")
        assert await database.fetchval("select to_regclass('public.canary') is not null")
    finally:
        await database.close()


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_mending_quotes_what_it_finds(
    connection: asyncpg.Connection[asyncpg.Record], name: str
) -> None:
    """Sequences, partitions and roles of odd names are mended, and nothing else happens."""
    sequence = identifier(f"waiting_{name}"[:60])
    role = identifier(f"r{name}"[:50])
    await connection.execute(
        f"""
        create table public.canary ();
        create role {role};
        create unlogged sequence meshhook.{sequence};
        alter sequence meshhook.{sequence} owner to {role};
        grant select on sequence meshhook.{sequence} to {role};
        create table meshhook.{identifier("job_attempts_" + name[:40])}
            (like meshhook.job_attempts including constraints);
        alter table meshhook.job_attempts
            attach partition meshhook.{identifier("job_attempts_" + name[:40])}
            for values from ('2001-01-01') to ('2001-01-02');
        """
    )
    try:
        await connection.execute("select meshhook.mend_tables()")
        await connection.execute("select meshhook.create_attempt_partitions()")
        await connection.execute("select meshhook.drop_expired_attempt_partitions()")
        kept = await connection.fetchval(
            "select relpersistence from pg_class where oid = $1::text::regclass",
            f"meshhook.{sequence}",
        )
        assert kept == b"p"
        assert await connection.fetchval("select to_regclass('public.canary') is not null")
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")


@examples(15)
@given(name=ODD)
@pytest.mark.parametrize("kind", [RoleKind.WORKER, RoleKind.OWNER])
def test_a_script_for_roles_makes_the_role_of_that_name(
    run: Run, shared_url: str, canary: Callable[[], Any], kind: RoleKind, name: str
) -> None:
    """Whatever the name, one role is made, of exactly that name."""
    try:
        text = role_script(kind, name)
    except InvalidSettingError:
        return
    before = canary()
    lines = [line for line in text.split("\n") if not line.startswith("\\set ")]

    async def make() -> list[str]:
        connection = await asyncpg.connect(shared_url)
        try:
            had = {row[0] for row in await connection.fetch("select rolname from pg_roles")}
            await connection.execute("\n".join(lines).replace("\ncommit;\n", "\n"))
            rows = await connection.fetch("select rolname from pg_roles")
            await connection.execute("rollback")
        finally:
            await connection.close()
        return [row[0] for row in rows if row[0] not in had]

    assert run(make()) == [name]
    assert canary() == before


# --- Notifications -----------------------------------------------------------------------------


async def test_notifications_of_anybody_do_nothing_but_wake(
    database_url: str, connection: asyncpg.Connection[asyncpg.Record], queue_name: str
) -> None:
    """A worker goes on, whatever others send on its channels."""
    done: list[int] = []

    async def handle(job: Job[Any]) -> None:
        done.append(job.msg_id)

    await connection.execute("create table public.canary ()")
    worker = make_worker(database_url, handle)
    running = asyncio.create_task(worker.run())
    try:
        async with QueueService[Any](connection, queue_name) as queue:
            await queue.enqueue(1)
            await eventually(lambda: len(done) == 1)
            for text in FRAGMENTS:
                await connection.execute("select pg_notify('meshhook_config', $1)", text)
                await connection.execute("select pg_notify('meshhook_wake_jobs', $1)", text)
            await queue.enqueue(2)
            await eventually(lambda: len(done) == 2)
    finally:
        await worker.stop()
        await running
    assert await connection.fetchval("select to_regclass('public.canary') is not null")
