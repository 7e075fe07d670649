"""`meshhook roles`: making roles, granting to them and checking them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import create_queue, drop_queue
from meshhook.errors import DatabaseError, InvalidSettingError
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.roles import (
    Login,
    check_role,
    create_role,
    default_role_name,
    grant_role,
    list_roles,
    login_from_url,
    quoted_identifier,
    scram_verifier,
    script,
)
from meshhook.schema import migrate
from support.databases import server_directory
from support.pgmq_versions import pgmq_sql
from support.psql import run_psql
from support.roles import url_of
from support.waiting import eventually, lock_waiters

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

ODD_NAMES = (
    'the "quoted"',
    "o'clock",
    "back\\slash'",
    "$do$ and $do1$",
    "$do",
    "semi; colon -- comment */",
    "Ümläut ☃",
    "UPPER",
    "line\nbreak",
    ":variable and :'quoted' {0} %s %I",
    "select",
    "x" * 63,
)


@pytest.fixture
async def dropped(connection: Connection) -> AsyncIterator[list[str]]:
    """Names of roles to drop at the end, if they are there."""
    names: list[str] = []
    yield names
    for name in names:
        if await connection.fetchval("select 1 from pg_roles where rolname = $1", name):
            quoted = quoted_identifier(name)
            await connection.execute(f"reassign owned by {quoted} to current_user")
            await connection.execute(f"drop owned by {quoted} cascade; drop role {quoted}")


@pytest.fixture
async def queues(connection: Connection) -> list[str]:
    """Two queues."""
    names = ["my-jobs", "orders"]
    for name in names:
        await create_queue(Database(connection), name)
    return names


@pytest.mark.parametrize("kind", [kind for kind in RoleKind if kind is not RoleKind.OWNER])
async def test_a_new_role_lacks_nothing_and_has_nothing_beyond(
    connection: Connection, queues: list[str], dropped: list[str], kind: RoleKind
) -> None:
    """What is granted is what the check expects, for all queues and for some."""
    for of in ([], queues)[: 2 if kind.is_by_queue else 1]:
        dropped.append(default_role_name(kind, of))
        report = await create_role(Database(connection), kind, queues=of)
        assert report.created
        found = await check_role(Database(connection), report.role)
        assert (found.lacks, found.beyond) == ((), ())
        again = await create_role(Database(connection), kind, queues=of)
        assert not again.created


@pytest.mark.parametrize("name", ODD_NAMES)
async def test_the_script_runs_in_psql_with_any_name(
    database_url: str,
    connection: Connection,
    queues: list[str],
    dropped: list[str],
    name: str,
) -> None:
    """It does what the command does, twice as well as once, and holds no password."""
    dropped.append(name)
    text = script(RoleKind.WORKER, name, queues)
    for _ in range(2):
        await run_psql(database_url, text)
    found = await check_role(Database(connection), name)
    assert (found.lacks, found.beyond) == ((), ())
    assert [(each.role, each.queues) for each in found.kinds] == [(name, tuple(queues))]


@pytest.mark.parametrize("name", ["", "x" * 64, "ü" * 32, "pg_mine", "public", "nul\0", "\udc80"])
async def test_a_name_that_no_role_can_have_is_refused(connection: Connection, name: str) -> None:
    """Before anything is sent."""
    with pytest.raises(InvalidSettingError, match="role name"):
        script(RoleKind.READER, name)


def test_a_name_that_was_not_given_fits() -> None:
    """It names kind and queues, and has a hash in the place of what is too much."""
    assert default_role_name(RoleKind.WORKER) == "meshhook_worker"
    assert default_role_name(RoleKind.WORKER, ["orders"]) == "meshhook_worker_orders"
    longest = [default_role_name(RoleKind.PRODUCER, ["x" * 42 + each]) for each in "ab"]
    many = [default_role_name(RoleKind.WORKER, [f"queue-{n}" for n in range(m)]) for m in (9, 10)]
    assert all(len(each) <= 63 for each in longest + many)
    assert len({*longest, *many}) == 4


def test_the_verifier_is_that_of_the_standard() -> None:
    """The example of RFC 7677, and passwords as RFC 4013 prepares them."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    assert scram_verifier("pencil", salt) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"
        "WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert scram_verifier("pencil") != scram_verifier("pencil")
    assert scram_verifier("I\u00adX", salt) == scram_verifier("IX", salt)
    assert scram_verifier("\u2168", salt) == scram_verifier("IX", salt)
    assert scram_verifier("user", salt) != scram_verifier("USER", salt)


@pytest.mark.parametrize(
    "password", ["plainly", "p@ss:w/rd'$%", "\u00a0I\u00adX\u2168ü", "\u0627\u0031"]
)
async def test_a_role_logs_in_with_its_password_and_the_server_never_sees_it(
    database_url: str, connection: Connection, dropped: list[str], password: str
) -> None:
    """Its verifier is computed here; asyncpg and libpq prove the password by it."""
    dropped.append("test_login")
    sent: list[str] = []
    connection.add_query_logger(lambda query: sent.append(query.query))
    await create_role(Database(connection), RoleKind.READER, login=Login("test_login", password))
    assert sent
    assert not [sql for sql in sent if password in sql]
    own = await asyncpg.connect(url_of(database_url, "test_login", password))
    assert await own.fetchval("select current_user") == "test_login"
    await own.close()
    kept = await connection.fetchval(
        "select rolpassword from pg_authid where rolname = 'test_login'"
    )
    assert kept.startswith("SCRAM-SHA-256$4096:")


async def test_a_password_is_changed_only_where_that_is_asked_for(
    database_url: str, connection: Connection, dropped: list[str]
) -> None:
    """A role that can log in keeps its password; one that cannot gets one."""
    dropped.append("test_login")
    database = Database(connection)

    async def make(password: str | None, **options: Any) -> str | None:
        login = None if password is None else Login("test_login", password)
        report = await create_role(
            database, RoleKind.READER, name="test_login", login=login, **options
        )
        return report.password

    async def may_log_in(password: str) -> bool:
        try:
            await (await asyncpg.connect(url_of(database_url, "test_login", password))).close()
        except asyncpg.InvalidPasswordError:
            return False
        return True

    assert await make(None) is None
    assert await make("first") == "set"
    assert await make("second") == "kept"
    assert await may_log_in("first")
    assert await make("second", reset_password=True) == "set"
    assert not await may_log_in("first")
    assert await may_log_in("second")
    with pytest.raises(InvalidSettingError, match="differ"):
        await create_role(database, RoleKind.READER, name="other", login=Login("test_login", "x"))


def test_a_login_shows_no_password() -> None:
    """Neither its repr nor an error about its URL."""
    assert "secret" not in repr(login_from_url("postgresql://u:secret@h/d", "X"))
    for url in ("postgresql://:secret@h/d", "http://u:secret@h/d", "postgresql://u:secret@h:x/d"):
        with pytest.raises(InvalidSettingError) as raised:
            login_from_url(url, "environment variable X")
        assert "secret" not in str(raised.value)


async def test_grant_makes_a_role_what_it_is_said_to_be(
    connection: Connection, queues: list[str], dropped: list[str]
) -> None:
    """Queues that are no longer named are taken from it, and so is what was granted by hand."""
    dropped.append("test_role")
    database = Database(connection)
    await connection.execute("create role test_role; grant select on pgmq.a_orders to test_role")
    await grant_role(database, RoleKind.WORKER, name="test_role", queues=queues)
    await grant_role(database, RoleKind.PRODUCER, name="test_role", queues=["orders"])
    await grant_role(database, RoleKind.WORKER, name="test_role", queues=["my-jobs"])
    found = await check_role(database, "test_role")
    assert (found.lacks, found.beyond) == ((), ())
    privilege = "select has_table_privilege('test_role', $1, 'delete')"
    assert await connection.fetchval(privilege, 'pgmq."q_my-jobs"')
    assert not await connection.fetchval(privilege, "pgmq.q_orders")
    with pytest.raises(InvalidSettingError, match="does not exist; make it"):
        await grant_role(database, RoleKind.WORKER, name="nobody_such")


async def test_a_queue_that_is_made_again_belongs_to_its_roles_again(
    connection: Connection, queues: list[str], dropped: list[str]
) -> None:
    """And a new one to those that are for all."""
    database = Database(connection)
    reports = [await create_role(database, RoleKind.WORKER, queues=of) for of in ([], ["orders"])]
    dropped += [each.role for each in reports]
    await drop_queue(database, "orders")
    for each in dropped:
        lacks = (await check_role(database, each)).lacks
        assert ("pgmq.q_orders is not there" in lacks) is (each != "meshhook_worker")
    await create_queue(database, "orders")
    await create_queue(database, "another")
    for each in dropped:
        assert (await check_role(database, each)).lacks == ()


async def test_the_check_finds_what_is_missing_and_what_is_too_much(
    connection: Connection, queues: list[str], dropped: list[str]
) -> None:
    """Grants, columns, policies, attributes, memberships, ownership, PUBLIC."""
    dropped += ["meshhook_worker_orders", "test_group"]
    database = Database(connection)
    role = (await create_role(database, RoleKind.WORKER, queues=["orders"])).role
    await connection.execute(
        f"revoke insert on meshhook.job_attempts from {role}; "
        f"revoke update (vt) on pgmq.q_orders from {role}; "
        f"drop policy {role} on meshhook.workers; "
        f"alter role {role} createrole bypassrls; "
        f"create role test_group; grant test_group to {role}; "
        "grant select on pgmq.a_orders_dlq to test_group; "
        f"grant delete on meshhook.workers to {role}; "
        f"grant create on schema public to {role}; "
        f"create table public.owned (); alter table public.owned owner to {role}; "
        'grant select (headers) on pgmq."q_my-jobs" to public; '
        "create policy every on meshhook.job_attempts for select using (true)"
    )
    found = await check_role(database, role)
    assert set(found.lacks) == {
        "insert on meshhook.job_attempts",
        "update (vt) on pgmq.q_orders",
        "a policy on meshhook.workers with the condition (queue = ANY ('{orders}'::text[]))",
    }
    assert set(found.beyond) == {
        "may make roles (createrole)",
        "bypasses row level security (bypassrls)",
        "is a member of test_group",
        "may create in schema public",
        "owns public.owned",
        "select on pgmq.a_orders_dlq (granted to test_group)",
        f"delete on meshhook.workers (granted to {role})",
        "select (headers) on pgmq.q_my-jobs (as PUBLIC)",
        "policy every on meshhook.job_attempts shows it true",
    }
    await connection.execute("drop table public.owned")


async def test_a_login_is_checked_by_what_it_is_a_member_of(
    database_url: str, connection: Connection, queues: list[str], dropped: list[str]
) -> None:
    """Two roles of queues make one login for both, which may check itself."""
    database = Database(connection)
    dropped.append("test_login")
    await connection.execute("create role test_login login password 'secret'")
    for queue in queues:
        report = await create_role(database, RoleKind.WORKER, queues=[queue])
        dropped.append(report.role)
        await connection.execute(f"grant {quoted_identifier(report.role)} to test_login")
    own = await asyncpg.connect(url_of(database_url, "test_login", "secret"))
    try:
        found = await check_role(Database(own))
        assert (found.role, found.lacks, found.beyond) == ("test_login", (), ())
        assert [each.queues for each in found.kinds] == [("my-jobs",), ("orders",)]
        wanted = await check_role(Database(own), kind=RoleKind.PRODUCER, queues=["orders"])
        assert {
            "insert (headers, message, msg_id, vt) on pgmq.q_orders",
            "insert on meshhook.unique_keys",
        } <= set(wanted.lacks)
        assert not [each for each in wanted.lacks if "my-jobs" in each]
        assert len(await list_roles(Database(own))) == 2
    finally:
        await own.close()


async def test_a_role_may_be_made_from_many_places_at_once(
    pool: asyncpg.Pool[asyncpg.Record], queues: list[str], dropped: list[str]
) -> None:
    """One makes it, the others find it; queues are made beside."""
    dropped += ["meshhook_worker_orders", "meshhook_worker"]
    made = [["orders"], []] * 4
    reports, _ = await asyncio.gather(
        asyncio.gather(*(create_role(Database(pool), RoleKind.WORKER, queues=of) for of in made)),
        asyncio.gather(*(create_queue(Database(pool), f"new-{n}") for n in range(4))),
    )
    assert sum(each.created for each in reports) == 2
    for name in dropped:
        found = await check_role(Database(pool), name)
        assert (found.lacks, found.beyond) == ((), ())


async def test_a_queue_and_a_role_that_are_made_at_the_same_time_know_each_other(
    pool: asyncpg.Pool[asyncpg.Record], dropped: list[str]
) -> None:
    """Whichever is first, and whether or not it has ended when the other begins."""
    dropped.append("meshhook_worker")
    async with pool.acquire() as making, making.transaction():
        await create_role(Database(making), RoleKind.WORKER)
        creating = asyncio.create_task(create_queue(Database(pool), "orders"))
        await eventually(lambda: lock_waiters(pool))
    assert await creating
    async with pool.acquire() as making, making.transaction():
        await create_queue(Database(making), "mails")
        granting = asyncio.create_task(
            grant_role(Database(pool), RoleKind.WORKER, name="meshhook_worker")
        )
        await eventually(lambda: lock_waiters(pool))
    await granting
    assert (await check_role(Database(pool), "meshhook_worker")).lacks == ()


async def test_a_role_of_one_queue_takes_nothing_from_those_that_were_there(
    connection: Connection, queues: list[str], dropped: list[str]
) -> None:
    """Row level security comes with it: roles of all queues and grants by hand see every row."""
    dropped += ["test_by_hand", "meshhook_reader", "meshhook_reader_orders"]
    database = Database(connection)
    await connection.execute(
        "create role test_by_hand; grant usage on schema meshhook to test_by_hand; "
        "grant select on meshhook.queue_config to test_by_hand"
    )
    await create_role(database, RoleKind.READER)
    await create_role(database, RoleKind.READER, queues=["orders"])

    async def seen(role: str) -> int:
        await connection.execute(f"set role {role}")
        try:
            return int(await connection.fetchval("select count(*) from meshhook.queue_config"))
        finally:
            await connection.execute("reset role")

    assert [await seen(role) for role in dropped] == [2, 2, 1]


async def test_rights_of_public_stand_in_the_way_of_roles_of_one_queue(
    connection: Connection, queues: list[str], dropped: list[str]
) -> None:
    """Everybody would see everything: the error says what to revoke."""
    dropped.append("meshhook_reader_orders")
    await connection.execute("grant select on meshhook.job_attempts to public")
    with pytest.raises(DatabaseError, match=r"revoke all on meshhook\.job_attempts from public"):
        await create_role(Database(connection), RoleKind.READER, queues=["orders"])
    count = "select count(*) from pg_roles where rolname = 'meshhook_reader_orders'"
    assert await connection.fetchval(count) == 0


@pytest.mark.parametrize("kind", [RoleKind.OWNER, RoleKind.OPERATOR])
def test_an_owner_and_an_operator_are_of_all_queues(kind: RoleKind) -> None:
    """What they make cannot be told from what others made."""
    with pytest.raises(InvalidSettingError, match="is for all queues"):
        script(kind, "x", ["orders"])


@pytest.fixture
async def owner(connection: Connection, dropped: list[str]) -> str:
    """The name of a role that owns nothing and may make nothing."""
    dropped.append("test_owner")
    await connection.execute("create role test_owner login password 'secret'")
    return "test_owner"


async def test_an_owner_migrates_a_new_database_without_being_a_superuser(
    empty_database_url: str, empty_connection: Connection, owner: str
) -> None:
    """It needs no more than to create schemas in it; all of it is its own, and it keeps house."""
    report = await create_role(Database(empty_connection), RoleKind.OWNER, name=owner)
    assert report.kind is RoleKind.OWNER
    own = await asyncpg.connect(url_of(empty_database_url, owner, "secret"))
    try:
        assert (await migrate(own)).applied
        await works_as_owner(own, owner)
        assert await own.fetchval("select meshhook.mend_tables()") == 0
    finally:
        await own.close()
        await empty_connection.execute("drop owned by test_owner cascade")


async def test_an_owner_takes_over_what_a_superuser_installed(
    database_url: str, connection: Connection, queues: list[str], dropped: list[str], owner: str
) -> None:
    """Tables, functions and types become its own; roles and operators keep their rights."""
    database = Database(connection)
    before = await create_role(database, RoleKind.WORKER, queues=["orders"])
    operator = await create_role(database, RoleKind.OPERATOR)
    dropped += [before.role, operator.role]
    await connection.execute("set role meshhook_operator; select meshhook.create_queue('made')")
    await connection.execute("reset role")
    for _ in range(2):
        await create_role(database, RoleKind.OWNER, name=owner)
        found = await check_role(database, owner)
        assert (found.lacks, found.beyond) == ((), ())
    for role in (before.role, operator.role):
        found = await check_role(database, role)
        assert (found.lacks, found.beyond) == ((), ())
    own = await asyncpg.connect(url_of(database_url, owner, "secret"))
    try:
        await works_as_owner(own, owner)
        # What an operator made is the owner's to grant, too.
        await grant_role(Database(own), RoleKind.READER, name="meshhook_worker_orders")
        assert (await check_role(Database(own), "meshhook_worker_orders")).lacks == ()
    finally:
        await own.close()
    assert (
        await connection.fetchval(
            "select relowner::regrole::text from pg_class where relname = 'q_made'"
        )
        == operator.role
    )


async def works_as_owner(own: Connection, owner: str) -> None:
    """Make a queue, grant to a role, keep house, drop the queue."""
    database = Database(own)
    for name in ("first", "second"):
        assert await create_queue(database, name)
    await own.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "values ('first', 1, 1, 'succeeded', now() - interval '20 days')"
    )
    assert await own.fetchval("select meshhook.delete_past_attempts()") == 1
    assert await own.fetchval("select meshhook.make_coming_partitions()") == 0
    await own.execute("update meshhook.queue_config set history_retention_days = 1")
    await own.execute("select meshhook.drop_past_partitions()")
    assert await drop_queue(database, "second")
    assert (await migrate(own)).applied == ()
    found = await check_role(database, owner)
    assert (found.lacks, found.beyond) == ((), ())


async def test_an_owner_who_may_not_make_roles_is_told_what_an_administrator_runs(
    database_url: str, connection: Connection, owner: str
) -> None:
    """Making a role takes CREATEROLE; granting to one that is there does not."""
    await create_role(Database(connection), RoleKind.OWNER, name=owner)
    own = await asyncpg.connect(url_of(database_url, owner, "secret"))
    try:
        with pytest.raises(DatabaseError, match="permission denied to create role"):
            await create_role(Database(own), RoleKind.READER, name="test_reader")
    finally:
        await own.close()


async def test_an_owner_works_with_pgmq_as_an_extension_of_an_administrator(
    empty_database_url: str, empty_connection: Connection, owner: str
) -> None:
    """What the extension made stays the extension's; the owner migrates and makes queues."""
    with server_directory() as directory:
        folder = directory / "extension"
        folder.mkdir()
        (folder / "pgmq.control").write_text(
            "default_version = '1.11.1'\nrelocatable = false\nschema = 'pgmq'\n"
        )
        (folder / "pgmq--1.11.1.sql").write_text(pgmq_sql("1.11.1"))
        directory.chmod(0o755)
        await empty_connection.execute(
            f"set extension_control_path = '$system:{directory}'; create extension pgmq"
        )
    await create_role(Database(empty_connection), RoleKind.OWNER, name=owner)
    own = await asyncpg.connect(url_of(empty_database_url, owner, "secret"))
    try:
        assert (await migrate(own)).applied
        await works_as_owner(own, owner)
        assert await empty_connection.fetchval(
            "select count(*) = 0 from pg_class c join pg_depend d on d.objid = c.oid "
            "and d.deptype = 'e' where c.relowner = 'test_owner'::regrole"
        )
    finally:
        await own.close()
        await empty_connection.execute("drop extension pgmq cascade; drop owned by test_owner")


async def test_an_owner_who_may_make_roles_makes_all_of_them(
    empty_database_url: str, empty_connection: Connection, dropped: list[str], owner: str
) -> None:
    """With CREATEROLE it needs no superuser, from the migration to the last login."""
    await empty_connection.execute(f"alter role {owner} createrole")
    await create_role(Database(empty_connection), RoleKind.OWNER, name=owner)
    own = await asyncpg.connect(url_of(empty_database_url, owner, "secret"))
    made = []
    try:
        await migrate(own)
        database = Database(own)
        await create_queue(database, "orders")
        for _ in range(2):
            for kind in RoleKind:
                if kind is not RoleKind.OWNER:
                    queues = ["orders"] if kind.is_by_queue else []
                    login = Login(f"test_{kind}", "secret")
                    made.append(login.user)
                    await create_role(
                        database, kind, queues=queues, login=login, reset_password=True
                    )
                    found = await check_role(database, login.user)
                    assert (found.lacks, found.beyond) == ((), ())
                    other = await asyncpg.connect(url_of(empty_database_url, login.user, "secret"))
                    if kind is RoleKind.OPERATOR:
                        await create_queue(Database(other), "mails")
                    await other.close()
        await grant_role(database, RoleKind.WORKER, name="test_worker", queues=["mails"])
        assert (await check_role(database, "test_worker")).lacks == ()
        assert (await check_role(database, owner)).lacks == ()
    finally:
        await own.close()
        for name in (*dict.fromkeys(made), owner):
            await empty_connection.execute(f"drop owned by {name} cascade")
        for name in dict.fromkeys(made):
            await empty_connection.execute(f"drop role {name}")
