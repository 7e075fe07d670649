"""No function or operator of others runs in the place of PostgreSQL's, whatever the search_path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook.schema import available_migrations, migrate, script
from meshhook.worker.connections import WorkerConnection
from support.hostile_objects import (
    depending,
    hijacked,
    hostile_parts,
    shadow,
)
from support.pgbouncer import pgbouncer
from support.sql_texts import Statement, statements, unqualified_calls

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

PINNED = "pg_catalog, pg_temp"
PACKAGES = [Path(str(resources.files(name))) for name in ("meshhook", "meshhook_operator")]
WITHOUT_PATH = """
    select p.oid::regprocedure::text as name
    from pg_catalog.pg_proc p
    where p.pronamespace = 'meshhook'::regnamespace and p.prosqlbody is null
      and not coalesce(p.proconfig @> array['search_path=pg_catalog, pg_temp'], false)
    order by name
"""
FUNCTIONS = """
    select p.oid::regprocedure::text as name, pg_catalog.pg_get_functiondef(p.oid) as definition
    from pg_catalog.pg_proc p where p.pronamespace = 'meshhook'::regnamespace order by name
"""


# --- Functions ---------------------------------------------------------------------------------


async def test_each_function_has_a_path_of_its_own_or_needs_none(connection: Connection) -> None:
    """A body that is kept as text is read under a pinned path; the others were parsed before."""
    rows = await connection.fetch(WITHOUT_PATH)
    assert [row["name"] for row in rows] == []


async def test_an_upgrade_ends_as_a_new_database_does(
    connection: Connection, empty_connection: Connection
) -> None:
    """Functions are the same whether a database was made before they were pinned or after."""
    await migrate(empty_connection, migrations=available_migrations()[:10])
    assert await empty_connection.fetch(WITHOUT_PATH)
    await migrate(empty_connection)
    upgraded = await empty_connection.fetch(FUNCTIONS)
    assert upgraded == await connection.fetch(FUNCTIONS)


# --- Statements --------------------------------------------------------------------------------


async def parameter_types(connection: Connection, statement: Statement) -> list[str] | None:
    """Return the types of a statement's parameters; None if it is no statement after all."""
    try:
        prepared = await connection.prepare(statement.sql)
    except asyncpg.PostgresSyntaxError:
        return None
    return [parameter.name for parameter in prepared.get_parameters()]


async def all_hostile_parts(connection: Connection, pinned: Connection) -> dict[str, list[str]]:
    """Return the statements that would use others' objects on a connection, with these."""
    found: dict[str, list[str]] = {}
    checked = 0
    for statement in statements():
        if not statement.is_whole:
            continue
        types = await parameter_types(pinned, statement)
        if types is None:
            assert ":" in statement.name, f"{statement.name}.sql cannot be parsed"
            continue
        checked += 1
        if parts := await hostile_parts(connection, statement.sql, types):
            found[statement.name] = parts
    assert checked > 60
    return found


def test_each_statement_names_the_schema_of_each_function() -> None:
    """So that none is looked up along a path, wherever it runs."""
    found = {each.name: unqualified_calls(each.sql) for each in statements()}
    assert {name: calls for name, calls in found.items() if calls} == {}


async def test_each_statement_uses_postgresqls_own_functions_and_operators(
    hostile_queues_url: str,
) -> None:
    """Under the path that everybody has, and behind a pooler keeps, no overload is taken."""
    pinned = await asyncpg.connect(hostile_queues_url, server_settings={"search_path": PINNED})
    callers = await asyncpg.connect(hostile_queues_url)
    try:
        assert await all_hostile_parts(callers, pinned) == {}
    finally:
        await pinned.close()
        await callers.close()


async def test_no_temporary_table_of_a_caller_takes_the_place_of_another(
    hostile_queues_url: str,
) -> None:
    """Tables and types that a session made for itself are not found by our statements."""
    pinned = await asyncpg.connect(hostile_queues_url, server_settings={"search_path": PINNED})
    callers = await asyncpg.connect(hostile_queues_url)
    try:
        await shadow(callers)
        assert await all_hostile_parts(callers, pinned) == {}
    finally:
        await pinned.close()
        await callers.close()


async def test_an_overload_would_be_noticed(hostile_queues_url: str) -> None:
    """The tests above see what they look for: an operator and a function of others."""
    connection = await asyncpg.connect(hostile_queues_url)
    try:
        assert (
            await hostile_parts(connection, "select pg_catalog.lower('A'), $1 + 1", ["int4"]) == []
        )
        for sql, part in {
            "select 2.0::numeric * 1": "operator public.*(numeric,integer)",
            "select $1 || '{}'::int[]": "operator public.||(integer[],integer[])",
            "select format('x', $1)": "function public.format(text,text)",
            "select unnest($1)": "function public.unnest(text[])",
            "select t.what from hijacked t": "column what of table public.hijacked",
        }.items():
            types = {"$1 |": ["int4[]"], "x', $1": ["text"], "unnest": ["text[]"]}
            known = next((found for text, found in types.items() if text in sql), [])
            assert part in await hostile_parts(connection, sql, known), sql
        assert unqualified_calls("select lower(pg_catalog.left('f(', 1)), now()") == [
            "lower",
            "now",
        ]
    finally:
        await connection.close()


# --- Migrations --------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 10])
async def test_migrating_runs_and_keeps_nothing_hostile(hostile: Connection, first: int) -> None:
    """Neither a new database nor an upgrade of an older one calls, or stores, what others made."""
    if first:
        await migrate(hostile, migrations=available_migrations()[:first])
    await migrate(hostile)
    assert await hijacked(hostile) == []
    assert await depending(hostile) == []


async def test_the_script_runs_and_keeps_nothing_hostile(hostile: Connection) -> None:
    """Nor does the script for administrators, under the path of their session."""
    await hostile.execute(script(pgmq_sql=True))
    assert await hijacked(hostile) == []
    assert await depending(hostile) == []


# --- Sessions ----------------------------------------------------------------------------------


async def test_our_own_sessions_have_a_pinned_path(database_url: str) -> None:
    """Each way in which the library connects sets the path, whatever role and database say."""
    connection = await connect(database_url)
    database = await Database.connect(database_url)
    worker = WorkerConnection(database_url, application_name="test")
    try:
        assert await connection.fetchval("show search_path") == PINNED
        assert await database.fetchval("show search_path") == PINNED
        # Again: a pool resets a session that is given back.
        assert await database.fetchval("show search_path") == PINNED
        assert await worker.fetchval("show search_path") == PINNED
    finally:
        await connection.close()
        await database.close()
        await worker.close()


async def test_a_url_may_name_another_path(database_url: str) -> None:
    """Triggers that find their tables by the path can be given one on purpose."""
    database = await Database.connect(f"{database_url}?search_path=app,public")
    connection = await connect(f"{database_url}?search_path=app")
    try:
        assert await database.fetchval("show search_path") == "app,public"
        assert await connection.fetchval("show search_path") == "app"
    finally:
        await connection.close()
        await database.close()


async def test_a_worker_behind_a_pooler_pins_each_transaction(
    database_url: str, tmp_path: Path
) -> None:
    """A pooler in transaction mode refuses settings at connect, and has no session to keep them."""
    with pgbouncer(tmp_path, database_url, pool_size=1) as pooler:
        worker = WorkerConnection(pooler.url(database_url), application_name="test", pooled=True)
        other = await asyncpg.connect(pooler.url(database_url), statement_cache_size=0)
        try:
            assert await worker.fetchval("show search_path") == PINNED
            assert await other.fetchval("show search_path") == '"$user", public'
        finally:
            await worker.close()
            await other.close()


async def test_a_migration_leaves_its_callers_path_as_it_was(empty_connection: Connection) -> None:
    """The path is pinned for the transactions of the migration, not for the session."""
    await empty_connection.execute("set search_path = app")
    await migrate(empty_connection)
    assert await empty_connection.fetchval("show search_path") == "app"
