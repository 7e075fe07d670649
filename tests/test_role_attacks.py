"""What a role of one queue tries against another queue, and against its own limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import DLQService, create_queue
from meshhook.administration import describe_tables
from meshhook.errors import HiddenRowsError
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

KINDS = [kind for kind in RoleKind if kind.is_by_queue]
SHARED = ("queue_config", "job_attempts", "workers")
REFUSED = (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidGrantOperationError)

ROWS = """
select pgmq.send('{queue}', '{{"payload": "secret of {queue}"}}');
select pgmq.send('{queue}_dlq', '{{"payload": "secret of {queue}"}}');
select pgmq.archive('{queue}', pgmq.send('{queue}', '{{"payload": "secret of {queue}"}}'));
insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at, error_message)
    values ('{queue}', 1, 1, 'retried', now(), 'secret of {queue}');
insert into meshhook.workers (queue, worker, host, concurrency, running, processed, busy_seconds)
    values ('{queue}', 'w', 'secret of {queue}', 1, 0, 0, 0);
"""
STATE = """
select 'message', array_agg(q::text order by q.msg_id) from pgmq.q_others q
union all select 'dead', array_agg(q::text order by q.msg_id) from pgmq.q_others_dlq q
union all select 'archive', array_agg(q::text order by q.msg_id) from pgmq.a_others q
union all select 'history', array_agg(h::text order by h::text) from meshhook.job_attempts h
    where h.queue <> 'orders'
union all select 'workers', array_agg(w::text order by w::text) from meshhook.workers w
    where w.queue <> 'orders'
union all select 'config', array_agg(c::text order by c::text) from meshhook.queue_config c
    where c.queue_name <> 'orders'
union all select 'waiting', array[last_value::text] from meshhook.waiting_others
union all select 'roles', array_agg(r::text order by r::text) from meshhook.roles r
union all select 'grants', array_agg(g::text order by g::text) from meshhook.role_grants g
union all select 'acl', array_agg(c.relname || coalesce(c.relacl::text, '') order by c.relname)
    from pg_class c where c.relnamespace in ('meshhook'::regnamespace, 'pgmq'::regnamespace)
union all select 'schemas', array_agg(n.nspname || coalesce(n.nspacl::text, '') order by n.nspname)
    from pg_namespace n where n.nspname !~ '^pg_'
"""


@pytest.fixture
async def as_role(
    database_url: str, connection: Connection
) -> AsyncIterator[Callable[[RoleKind], Any]]:
    """Connects as the role of a kind for the queue `orders`; `others` is another's."""
    for queue in ("orders", "others"):
        await create_queue(Database(connection), queue)
        await connection.execute(ROWS.format(queue=queue))
    opened: list[Connection] = []
    async with Roles(database_url, connection) as roles:
        for kind in RoleKind:
            if kind.is_by_queue:
                await roles.make(kind, "orders", name=f"test_{kind}")
                await roles.make(kind, "others", name=f"test_{kind}_of_others")
        await roles.make(RoleKind.OPERATOR, name="test_operator")

        async def connect(kind: RoleKind) -> Connection:
            opened.append(await asyncpg.connect(roles.url(f"test_{kind}")))
            return opened[-1]

        yield connect
        for each in opened:
            await each.close()


async def refused(own: Connection, sql: str, *arguments: object) -> bool:
    """Run a statement for good, and say whether it was refused for want of a privilege."""
    try:
        await own.fetch(sql, *arguments)
    except REFUSED:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
async def test_no_column_of_a_table_of_another_queue_is_reached(
    as_role: Callable[[RoleKind], Any], kind: RoleKind
) -> None:
    """Nor a partition of the history, whose rows no policy guards."""
    own = await as_role(kind)
    rows = await own.fetch(
        "select c.relname, p.privilege from pg_class c, "
        "unnest(array['select', 'insert', 'update', 'delete', 'truncate', 'references', "
        "'trigger']) as p (privilege) "
        "where (c.relname ~ '_others' or c.relname ~ '^job_attempts_') "
        "and c.relnamespace in ('meshhook'::regnamespace, 'pgmq'::regnamespace) "
        "and c.relkind in ('r', 'p', 'v') and (has_table_privilege(c.oid, p.privilege) "
        "or p.privilege in ('select', 'insert', 'update', 'references') "
        "and has_any_column_privilege(c.oid, p.privilege))"
    )
    assert rows == []
    rows = await own.fetch(
        "select c.relname from pg_class c where c.relname ~ '_others' and case c.relkind "
        "when 'S' then has_sequence_privilege(c.oid, 'usage, select, update') end"
    )
    assert rows == []


@pytest.mark.parametrize("kind", KINDS)
async def test_no_statement_runs_on_the_tables_of_another_queue(
    as_role: Callable[[RoleKind], Any], kind: RoleKind, connection: Connection
) -> None:
    """Whichever statement of ours it is, and whatever is in it."""
    own = await as_role(kind)
    passed = []
    for file in resources.files("meshhook.store").joinpath("sql").iterdir():
        name = file.name.removesuffix(".sql")
        text = file.read_text("utf-8")
        if "_table}" not in text or name == "last_message_id":
            continue
        sql = queries.load(name, "others", target="others")
        types = (await connection.prepare(sql)).get_parameters()
        nothing: list[object] = [[] if each.name.endswith("[]") else None for each in types]
        if not await refused(own, sql, *nothing):
            passed.append(name)
    assert passed == []
    assert await own.fetchval(queries.load("last_message_id", "others")) is None


@pytest.mark.parametrize("kind", KINDS)
async def test_no_row_of_another_queue_is_seen(
    as_role: Callable[[RoleKind], Any], kind: RoleKind
) -> None:
    """In the tables that queues share, by views, functions, errors and conditions that leak."""
    own = await as_role(kind)
    await own.execute(
        "create function pg_temp.leak(text, text) returns boolean language plpgsql cost 0.0001 as "
        "$$ begin if $1 = 'others' or $2 ~ 'others' then raise exception 'leaked %', $2; end if; "
        "return true; end $$"
    )
    for sql in (
        "select * from meshhook.queue_config where queue_name <> 'orders'",
        "select * from meshhook.job_attempts where queue <> 'orders'",
        "select * from meshhook.workers where queue <> 'orders'",
        "select * from meshhook.job_attempts where pg_temp.leak(queue, error_message)",
        "select * from meshhook.workers where pg_temp.leak(queue, host)",
        "select * from meshhook.queue_config where pg_temp.leak(queue_name, queue_name)",
        "select * from meshhook.job_tracking where queue <> 'orders'",
        "select * from meshhook.job_statistics where queue <> 'orders'",
        "select * from meshhook.queue_monitoring where queue <> 'orders'",
        "select * from meshhook.live_jobs() where queue <> 'orders'",
        "select * from meshhook.queue_metrics() where queue <> 'orders'",
        "select * from meshhook.roles where role::text ~ 'others'",
    ):
        try:
            rows = await own.fetch(sql)
        except asyncpg.InsufficientPrivilegeError:
            continue
        assert all("others" not in str(dict(row)) for row in rows), sql
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await own.fetch("select * from meshhook.queue_snapshot('others')")
    demand = await own.fetchrow("select * from meshhook.queue_demand('{others}', '{9}', '{}', 5)")
    assert demand["ready"] is None
    assert demand["config"] is None


CHANGES = (
    "update meshhook.queue_config set paused = true where queue_name = 'others'",
    "update meshhook.queue_config set paused = true",
    "update meshhook.queue_config set queue_name = 'stolen' where queue_name = 'others'",
    "delete from meshhook.queue_config where queue_name = 'others'",
    "insert into meshhook.queue_config (queue_name) values ('third')",
    "delete from meshhook.job_attempts where queue = 'others'",
    "delete from meshhook.job_attempts",
    "update meshhook.job_attempts set outcome = 'succeeded'",
    (
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "values ('others', 2, 1, 'succeeded', now())"
    ),
    (
        "insert into meshhook.job_attempts_default (queue, msg_id, attempt, outcome, finished_at) "
        "values ('others', 2, 1, 'succeeded', 'infinity')"
    ),
    (
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds) values ('others', 'forged', 'h', 1, 0, 0, 0)"
    ),
    (
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds) values ('others', 'w', 'h', 1, 0, 0, 0) on conflict (queue, worker) "
        "do update set seen_at = '-infinity'"
    ),
    "update meshhook.workers set seen_at = '-infinity'",
    "update meshhook.workers set queue = 'others'",
    "delete from meshhook.workers",
    "select meshhook.delete_past_attempts()",
    "select meshhook.mend_tables()",
    "select meshhook.drop_queue('others')",
    "select meshhook.drop_queue_if_empty('others')",
    "select meshhook.create_queue('others')",
    "select setval('meshhook.waiting_others', 99999)",
    "select pgmq.send('others', '{}')",
    "select pgmq.purge_queue('others')",
    "select pgmq.drop_queue('others')",
    "delete from pgmq.meta",
    # Without the right to, these grant nothing, and warn.
    "grant select on pgmq.q_orders to public",
    "grant usage on schema pgmq to public",
)


@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_of_another_queue_is_changed(
    as_role: Callable[[RoleKind], Any], kind: RoleKind, connection: Connection
) -> None:
    """What is not refused changes rows of its own queue only."""
    before = await connection.fetch(STATE)
    own = await as_role(kind)
    for sql in CHANGES:
        await refused(own, sql)
    assert await connection.fetch(STATE) == before


ESCALATIONS = (
    "set role postgres",
    "set role test_worker_of_others",
    "set session authorization test_worker_of_others",
    "set role test_operator",
    "grant test_operator to current_user",
    "create role mine",
    "alter role current_user bypassrls",
    "alter role current_user superuser",
    "create schema mine",
    "create function meshhook.mine() returns int language sql return 1",
    "create function pgmq.mine() returns int language sql return 1",
    "create function public.format(text, text) returns text language sql return $1",
    "create table pgmq.q_mine ()",
    "create or replace function meshhook.may_notify() returns boolean language sql return true",
    "alter function meshhook.may_notify() owner to current_user",
    (
        "create trigger mine after insert on pgmq.q_orders for each statement "
        "execute function meshhook.announce_queue_config()"
    ),
    "create rule mine as on insert to pgmq.q_orders do instead nothing",
    "create policy mine on meshhook.job_attempts using (true)",
    "alter table meshhook.job_attempts disable row level security",
    "drop policy test_worker on meshhook.job_attempts",
    "alter default privileges for role test_operator grant all on tables to public",
    (
        "alter default privileges in schema pgmq for role test_worker_of_others "
        "grant all on tables to public"
    ),
    "copy (select 1) to program 'true'",
    "copy pgmq.q_orders to '/tmp/mine'",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "insert into meshhook.roles (role, kind) values (current_user::regrole, 'operator')",
    "update meshhook.roles set queues = null",
    (
        "insert into meshhook.role_grants (role, kind, object, privilege) "
        "values (current_user::regrole, 'worker', 'queue', 'delete')"
    ),
    "select meshhook.apply_role(current_user::text)",
    "select meshhook.separate_queues()",
    "select meshhook.create_attempt_partitions(10000)",
    (
        "select meshhook.drop_expired_attempt_partitions(), 1 / "
        "(has_table_privilege('meshhook.job_attempts', 'delete'))::int"
    ),
    "lock table meshhook.job_attempts in share mode",
    "lock table meshhook.job_attempts in access exclusive mode",
    "lock table meshhook.workers in share mode",
    "lock table meshhook.queue_config in share mode",
    "lock table meshhook.migrations in share mode",
    "lock table pgmq.q_others in access share mode",
    "lock table pgmq.meta in share mode",
    "truncate pgmq.q_orders",
    "truncate meshhook.job_attempts",
    "select rolpassword from pg_authid",
    "select * from pgmq.meta",
)


@pytest.mark.parametrize("kind", KINDS)
async def test_no_role_gets_beyond_itself(
    as_role: Callable[[RoleKind], Any], kind: RoleKind
) -> None:
    """Roles, schemas, functions, triggers, policies, default privileges, files, locks, records."""
    own = await as_role(kind)
    passed = []
    for sql in ESCALATIONS:
        transaction = own.transaction()
        await transaction.start()
        try:
            await own.execute(sql)
            passed.append(sql)
        except (*REFUSED, asyncpg.DivisionByZeroError):
            pass
        except asyncpg.PostgresError as error:
            passed.append(f"{sql}: {error}")
        finally:
            await transaction.rollback()
    assert passed == []


async def test_what_runs_with_its_owners_rights_serves_no_trigger_of_others(
    as_role: Callable[[RoleKind], Any],
) -> None:
    """A role's own temporary table cannot call them with names of its choice."""
    own = await as_role(RoleKind.WORKER)
    await own.execute("create temporary table mine (queue text, worker text, seen_at timestamptz)")
    for function in ("delete_withdrawn_worker", "wake_waiting_workers"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await own.execute(
                f"create trigger mine after insert on mine for each row "
                f"execute function meshhook.{function}()"
            )


async def test_settings_of_a_session_do_not_reach_what_runs_with_its_owners_rights(
    as_role: Callable[[RoleKind], Any], connection: Connection
) -> None:
    """Partitions are plain tables in the database's own place, made by their owner."""
    own = await as_role(RoleKind.WORKER)
    tomorrow = await connection.fetchval(
        "select to_char(now() at time zone 'UTC' + interval '1 day', 'YYYYMMDD')"
    )
    await connection.execute(
        f"drop table meshhook.job_attempts_{tomorrow}; "
        "create access method other type table handler heap_tableam_handler"
    )
    await own.execute(
        "create function pg_temp.format(text, text) returns text language plpgsql as "
        "$$ begin raise exception 'hijacked'; end $$; "
        "set search_path = pg_temp, public, pg_catalog; set timezone = 'Pacific/Kiritimati'; "
        "set row_security = off; set role test_worker; set default_table_access_method = 'other'"
    )
    assert await own.fetchval("select meshhook.make_coming_partitions()") == 1
    row = await connection.fetchrow(
        f"select c.relowner::regrole::text as owner, relacl, am.amname from pg_class c "
        f"join pg_am am on am.oid = c.relam where relname = 'job_attempts_{tomorrow}'"
    )
    assert row is not None
    assert row["owner"] == "postgres"
    assert row["relacl"] is None
    assert row["amname"] == "heap"


async def test_a_dead_letter_that_names_another_queue_makes_no_history_there(
    as_role: Callable[[RoleKind], Any], connection: Connection
) -> None:
    """A worker may write what it likes into its own dead letters; who replays them is not used."""
    before = await connection.fetch(STATE)
    own = await as_role(RoleKind.WORKER)
    dead_letter_id = await own.fetchval(
        "insert into pgmq.q_orders_dlq (vt, message, headers) values (now(), '{}', "
        """'{"meshhook-dead-letter": {"queue": "others", "msg_id": 1, "attempts": 1}}') """
        "returning msg_id"
    )
    assert await DLQService(connection, "orders").replay_dead_letter_job(dead_letter_id)
    assert await connection.fetch(STATE) == before


async def test_a_worker_of_one_queue_is_told_that_another_is_not_its_own(
    as_role: Callable[[RoleKind], Any],
) -> None:
    """With the command that would change that; its own queue hides nothing from it."""
    database = Database(await as_role(RoleKind.WORKER))
    await describe_tables(database, "orders")
    with pytest.raises(HiddenRowsError, match=r"of meshhook\.job_attempts.*roles grant worker"):
        await describe_tables(database, "others")


async def test_a_policy_of_others_that_hides_rows_still_counts(
    as_role: Callable[[RoleKind], Any], connection: Connection
) -> None:
    """Beside ours, a restrictive one on any column is found."""
    await connection.execute(
        "create policy narrow on meshhook.job_attempts as restrictive using (msg_id > 5)"
    )
    with pytest.raises(HiddenRowsError, match=r"rows of meshhook\.job_attempts from"):
        await describe_tables(Database(await as_role(RoleKind.WORKER)), "orders")
