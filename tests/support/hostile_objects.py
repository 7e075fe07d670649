"""Objects in schema public that take over whatever is not named, or matched, exactly.

Each function and operator writes down in public.hijacked that it ran, and as whom.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

_TYPES = (
    "text", "varchar", "name", '"char"', "boolean", "smallint", "integer", "bigint",
    "oid", "regclass", "double precision", "numeric", "json", "jsonb", "date", "timestamp",
    "timestamptz", "interval", "tid", "text[]", "bigint[]", "integer[]", "double precision[]",
    "name[]", "oid[]", '"char"[]', "tid[]", "int2vector", "regnamespace", "regrole",
)  # fmt: skip
"""The types that the statements and functions of MeshHook use, and their neighbours."""

_FEWER_TYPES = (
    "text", "varchar", "name", "smallint", "integer", "bigint", "double precision", "numeric",
    "jsonb", "boolean", "date", "timestamptz", "interval", "regclass", "oid", "text[]",
    "bigint[]",
)  # fmt: skip
"""For functions of two arguments."""

_FEWEST_TYPES = ("text", "integer", "bigint", "double precision", "jsonb", "timestamptz")
"""For functions of three arguments."""

_SHADOWS = (
    "text", "jsonb", "float8", "timestamptz", "regclass", "record", "int4", "int8", "bool",
    "pg_class", "pg_attribute", "pg_trigger", "pg_locks", "pg_database", "pg_stat_activity",
    "pg_inherits", "pg_proc", "pg_namespace", "pg_index", "pg_am", "pg_policy", "pg_rewrite",
    "pg_available_extensions", "pg_extension", "pg_roles", "queue_config", "job_attempts",
    "workers", "migrations", "pgmq_installation", "meta", "q_jobs", "q_jobs_dlq", "a_jobs",
    "item", "gone", "removed", "settled", "claimed",
)  # fmt: skip
"""Names of types, catalogs and tables; tables of these names hold nothing."""

_SETUP = """
create table public.hijacked (what pg_catalog.text, by pg_catalog.text);
-- No rollback takes a sequence back.
create sequence public.hijacks;
create function public.hijack(what pg_catalog.text) returns void
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform nextval('public.hijacks');
    insert into public.hijacked values (what, current_user);
end
$$;
grant all on public.hijacked, public.hijacks to public;
"""

_CREATE = """
do $do$
declare
    types constant text[] := {types};
    fewer constant text[] := {fewer};
    fewest constant text[] := {fewest};
    body constant text := 'language plpgsql as $f$ begin perform public.hijack(%L); '
        'return null; end $f$';
    signature text;
    one text;
    each record;
    made integer := 0;
begin
    -- Operators of one and two operands. The result is what the operator of that name has, so that
    -- the statement goes on unaware.
    for each in
        select o.name, l.type as l, r.type as r, coalesce((
            select f.oprresult::regtype::text from pg_operator f
            where f.oprname = o.name and f.oprkind = 'b' and not exists (
                select from pg_type t where t.oid = f.oprresult and t.typtype = 'p')
            order by (f.oprleft = l.type::regtype)::int + (f.oprright = r.type::regtype)::int desc,
                f.oid limit 1), l.type) as result
        from unnest({operators}::text[]) as o (name), unnest(types) as l (type),
            unnest(types) as r (type)
    loop
        signature := format('%I(%s, %s)', 'hostile ' || each.name, each.l, each.r);
        execute format('create function public.%s returns %s ', signature, each.result)
            || format(body, format('operator %s (%s, %s)', each.name, each.l, each.r));
        execute format(
            'create operator public.%s (leftarg = %s, rightarg = %s, function = public.%I)',
            each.name, each.l, each.r, 'hostile ' || each.name);
        made := made + 1;
        -- A transaction holds a lock on each.
        if made % 500 = 0 then
            commit;
        end if;
    end loop;
    for each in
        select p.name, a.types, case
            when p.result = 'void' then 'text' else p.result end as result
        from (
            select f.proname as name, min(format_type(case when t.typtype = 'p'
                    then 'text'::regtype else f.prorettype end, null)) as result,
                min(f.pronargs - f.pronargdefaults) as least,
                max(case when f.provariadic <> 0 then 3 else f.pronargs end) as most
            from pg_proc f join pg_type t on t.oid = f.prorettype
            where f.pronamespace = 'pg_catalog'::regnamespace
              and f.proname = any ({functions}::text[])
            group by f.proname
        ) p cross join lateral (
            select array[]::text[] where p.least = 0
            union all select array[l] from unnest(types) l where p.least <= 1 and p.most >= 1
            union all select array[l, r] from unnest(fewer) l, unnest(fewer) r
                where p.least <= 2 and p.most >= 2
            union all select array[l, m, r]
                from unnest(fewest) l, unnest(fewest) m, unnest(fewest) r
                where p.least <= 3 and p.most >= 3
        ) as a (types)
    loop
        signature := format('%I(%s)', each.name, array_to_string(each.types, ', '));
        execute format('create function public.%s returns %s ', signature, each.result)
            || format(body, signature);
        made := made + 1;
        if made % 500 = 0 then
            commit;
        end if;
    end loop;
    foreach one in array {shadows}::text[] loop
        execute format('create table public.%I (hostile integer)', one);
    end loop;
end
$do$;
"""

_DEPENDING = """
select distinct pg_describe_object(d.classid, d.objid, d.objsubid) || ' uses '
    || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) as one
from pg_depend d
cross join lateral pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) used
cross join lateral pg_identify_object(d.classid, d.objid, d.objsubid) user_
where used.schema = 'public' and coalesce(user_.schema, '') not in ('public', 'pg_toast')
  and user_.identity !~ '(^| )public\\.'
order by one
"""

_PARTS = """
select distinct pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) as one
from pg_depend d cross join lateral pg_identify_object(d.refclassid, d.refobjid, d.refobjsubid) u
where d.classid = 'pg_proc'::regclass and d.objid = $1::text::regproc
  and u.schema not in ('pg_catalog', 'meshhook', 'pgmq') and u.type <> 'schema'
order by one
"""

_OPERATOR = re.compile(r"[-+*/<>=~!@#%^&|?]+")
_CALL = re.compile(r"\b([a-z_][a-z0-9_]*)\s*\(")


class Way(NamedTuple):
    """How to connect."""

    url: str
    is_pooled: bool
    """Whether a pooler in transaction mode stands between."""


def functions_in(sql: str) -> set[str]:
    """Return every name in a text that a parenthesis follows; only some are functions."""
    return set(_CALL.findall(sql.lower()))


def operators_in(sql: str) -> set[str]:
    """Return every operator in a text, and what its words stand for."""
    found = set(_OPERATOR.findall(re.sub(r"--[^\n]*", "", sql)))
    return found | {"=", "<>", "<", ">", "<=", ">=", "~~", "!~~"}


async def create_hostile_objects(connection: Connection, sql: Iterable[str]) -> None:
    """Create overloads of every function and operator that these texts use, and more.

    Args:
        connection: as a role that may create in schema public.
        sql: statements and functions; what else it has of names that a parenthesis follows is no
            matter.
    """
    texts = list(sql)
    operators = set.union(*map(operators_in, texts))
    known = {
        row["oprname"]
        for row in await connection.fetch("select distinct oprname::text from pg_operator")
    }

    def literal(values: Iterable[str]) -> str:
        return "array[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"

    await connection.execute(_SETUP)
    await connection.execute("set search_path = pg_catalog, pg_temp")
    # They are all alike: parsing each of 58,000 takes five seconds.
    await connection.execute("set check_function_bodies = off")
    await connection.execute(
        _CREATE.format(
            types=literal(_TYPES),
            fewer=literal(_FEWER_TYPES),
            fewest=literal(_FEWEST_TYPES),
            operators=literal(sorted(operators & known)),
            functions=literal(sorted(set.union(*map(functions_in, texts)))),
            shadows=literal(_SHADOWS),
        )
    )
    await connection.execute("reset check_function_bodies")
    await connection.execute("reset search_path")
    await forget(connection)


async def forget(connection: Connection) -> None:
    """Forget what ran so far."""
    await connection.execute(
        "set search_path = pg_catalog, pg_temp; truncate public.hijacked; "
        "select setval('public.hijacks', 1, false); reset search_path"
    )


async def hijacked(connection: Connection) -> list[str]:
    """Return what ran of the hostile functions and operators, each with the role that ran it."""
    async with connection.transaction():
        await connection.execute("set local search_path = pg_catalog, pg_temp")
        rows = await connection.fetch(
            "select distinct format('%s as %s', what, by) as one from public.hijacked order by one"
        )
        undone = await connection.fetchval("select is_called from public.hijacks")
    return [row["one"] for row in rows] or ["some, undone since"] * undone


async def what_ran(url: str) -> list[str]:
    """Return the same of the database that a URL leads to."""
    connection = await asyncpg.connect(url)
    try:
        return await hijacked(connection)
    finally:
        await connection.close()


async def depending(connection: Connection) -> list[str]:
    """Return what of other schemas uses an object of schema public, such as an operator of it."""
    async with connection.transaction():
        await connection.execute("set local search_path = pg_catalog, pg_temp")
        rows = await connection.fetch(_DEPENDING)
    return [row["one"] for row in rows]


async def hostile_parts(connection: Connection, sql: str, types: Iterable[str]) -> list[str]:
    """Return what a statement would use of others' objects, on this connection and its path.

    Args:
        connection: to a database with hostile objects, in schema public or of the session's own.
        sql: one statement; its parameters are $1 and so on.
        types: those of its parameters.
    """
    parameters = ", ".join(f"pg_catalog.{name}" for name in types)
    transaction = connection.transaction()
    await transaction.start()
    try:
        # Such a body is parsed at once, and all that it uses is recorded.
        await connection.execute(
            f"create function public.probe({parameters}) returns void begin atomic {sql}\n; end"
        )
        await connection.execute("set local search_path = pg_catalog, pg_temp")
        rows = await connection.fetch(_PARTS, "public.probe")
    except asyncpg.PostgresError as error:
        return [f"{error.sqlstate}: {error}"]
    finally:
        await transaction.rollback()
    return [row["one"] for row in rows]


async def shadow(connection: Connection) -> None:
    """Create temporary tables, and so types, of the names of PostgreSQL's and of ours."""
    await connection.execute("set search_path = pg_catalog, pg_temp")
    for name in _SHADOWS:
        await connection.execute(f'create temporary table "{name}" (hostile integer)')
    await connection.execute("reset search_path")
