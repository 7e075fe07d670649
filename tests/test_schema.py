"""Migrations: what runs, what is recorded, and what is refused."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import AsyncIterator

import asyncpg
import pytest

from meshhook.embedded import EmbeddedPostgres
from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    InvalidSettingError,
    MigrationError,
    SchemaMissingError,
)
from meshhook.schema import (
    Migration,
    available_migrations,
    check_schema,
    migrate,
    plan,
    runner,
)
from meshhook.schema.migrations import MIGRATION_LOCK, available_names
from support import released_migrations
from support.databases import TEST_SETTINGS, Databases, server_directory
from support.waiting import eventually

FIRST = Migration.from_text("0001_first.sql", "create table meshhook.first ();")
SECOND = Migration.from_text("0002_second.sql", "create table meshhook.second ();")
BROKEN = Migration.from_text(
    "0002_broken.sql", "create table meshhook.half ();\n\nselect no_such_column;\n"
)


@pytest.fixture
async def other_connection(
    empty_database_url: str,
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A second connection to `empty_database_url`."""
    connection = await asyncpg.connect(empty_database_url)
    yield connection
    await connection.close()


async def applied_versions(connection):
    """Return the versions that are recorded."""
    return [row["version"] for row in await connection.fetch("table meshhook.migrations")]


def migrate_in_a_process(url: str) -> list[int]:
    """Migrate, and return the versions that this process applied."""

    async def run() -> list[int]:
        connection = await asyncpg.connect(url)
        try:
            report = await migrate(connection)
        finally:
            await connection.close()
        return [migration.version for migration in report.applied]

    return asyncio.run(run())


def test_a_released_migration_is_never_edited():
    """Each file that was released still has the text it had, and each new one is recorded."""
    available, released = released_migrations.available(), released_migrations.read_released()
    changed = {each for each in released if available.get(each) != released[each]}
    assert not changed, (
        f"migrations {sorted(changed)} were edited or deleted after their release: databases that "
        "ran them would never get the change. Put the old text back and add a new file"
    )
    new = sorted(available.keys() - released.keys())
    assert not new, (
        f"migrations {new} are not in {released_migrations.FILE.name} yet. When their text is "
        'final, record it: make test ARGS="--add-migrations". (Not released yet, and changed '
        "again? Delete the line first)"
    )


def test_the_files_are_numbered_without_gaps():
    """The versions are 1, 2, 3 and so on."""
    versions = [migration.version for migration in available_migrations()]
    assert versions == list(range(1, len(versions) + 1))


async def test_a_check_of_the_schema_reads_no_file(connection, monkeypatch):
    """The operator makes one with each attempt to connect, and nothing else goes on meanwhile."""
    files = available_migrations()
    assert list(available_names()) == [(each.version, each.name) for each in files]

    def read(*_: object) -> Migration:
        pytest.fail("a migration was read")

    monkeypatch.setattr(Migration, "from_text", read)
    await check_schema(connection)


def test_each_file_says_what_locks_it_takes():
    """The first lines of each file are a comment that names its locks and its time at size."""
    for migration in available_migrations():
        head = migration.sql.partition("\n\n")[0]
        assert head.startswith("-- "), migration.file_name
        assert "Locks:" in head, migration.file_name
        assert "Time at size:" in head, migration.file_name


def test_line_ends_do_not_change_the_checksum():
    """A checkout with other line ends, or blanks before them, is the same migration."""
    windows = Migration.from_text("0001_first.sql", FIRST.sql.replace(";", "; \r\n"))
    assert windows.checksum == FIRST.checksum
    other = Migration.from_text("0001_first.sql", FIRST.sql.replace("first", "other"))
    assert other.checksum != FIRST.checksum


@pytest.mark.parametrize("name", ["1_first.sql", "0001-first.sql", "0001_First.sql", "first.sql"])
def test_a_file_with_another_kind_of_name_is_refused(tmp_path, name):
    """A file that would be passed over by mistake is an error."""
    (tmp_path / name).write_text("select 1")
    with pytest.raises(MigrationError, match="four digits"):
        available_migrations(tmp_path)


def test_two_files_with_one_number_are_refused(tmp_path):
    """Two branches that both added a migration are found out."""
    (tmp_path / "0001_here.sql").write_text("select 1")
    (tmp_path / "0001_there.sql").write_text("select 1")
    with pytest.raises(MigrationError, match=r"0001_here\.sql and 0001_there\.sql have one number"):
        available_migrations(tmp_path)


def test_an_installation_without_migrations_is_refused(tmp_path):
    """A package that was built without its SQL files says so."""
    with pytest.raises(MigrationError, match="the installation is damaged"):
        available_migrations(tmp_path)


async def test_migrating_an_empty_database(empty_connection):
    """All migrations run, in order, and are recorded with their checksums."""
    report = await migrate(empty_connection)
    assert list(report.applied) == available_migrations()
    assert report.applied_before == ()
    rows = await empty_connection.fetch("select version, name, checksum from meshhook.migrations")
    assert [tuple(row) for row in rows] == [
        (each.version, each.name, each.checksum) for each in available_migrations()
    ]
    await check_schema(empty_connection)


async def test_migrating_again_changes_nothing(empty_connection):
    """A second run applies nothing, and says what was there."""
    await migrate(empty_connection)
    report = await migrate(empty_connection)
    assert report.applied == ()
    assert report.applied_before == tuple(each.version for each in available_migrations())


async def test_only_what_is_missing_runs(empty_connection):
    """A database with the first migration gets the second one."""
    await migrate(empty_connection, migrations=[FIRST])
    report = await migrate(empty_connection, migrations=[FIRST, SECOND])
    assert report.applied == (SECOND,)
    assert report.applied_before == (1,)


def test_ten_processes_migrate_an_empty_database_at_once(empty_database_url):
    """Each migration is applied once, by one of them, and nobody fails."""
    with multiprocessing.get_context("spawn").Pool(10) as pool:
        applied = pool.map(migrate_in_a_process, [empty_database_url] * 10, chunksize=1)
    versions = sorted(version for each in applied for version in each)
    assert versions == [each.version for each in available_migrations()]


async def test_ten_connections_migrate_an_empty_database_at_once(empty_database_url):
    """The same with ten connections that are open already, so that they start together."""
    async with asyncpg.create_pool(empty_database_url, min_size=10, max_size=10) as pool:

        async def run() -> list[int]:
            async with pool.acquire() as connection:
                report = await migrate(connection)
                return [migration.version for migration in report.applied]

        applied = await asyncio.gather(*(run() for _ in range(10)))
    versions = sorted(version for each in applied for version in each)
    assert versions == [each.version for each in available_migrations()]


async def test_repeatable_read_as_default_is_no_obstacle(empty_database_url):
    """Whoever waited for another sees what that one did, whatever the default isolation is."""
    settings = {"default_transaction_isolation": "serializable"}
    async with asyncpg.create_pool(
        empty_database_url, min_size=4, max_size=4, server_settings=settings
    ) as pool:

        async def run() -> None:
            async with pool.acquire() as connection:
                await migrate(connection)

        await asyncio.gather(*(run() for _ in range(4)))


async def test_an_odd_search_path_is_no_obstacle(empty_database_url):
    """The migrations name every schema: they do not depend on the search path."""
    connection = await asyncpg.connect(
        empty_database_url, server_settings={"search_path": "nowhere"}
    )
    try:
        await migrate(connection)
        await connection.execute("select meshhook.create_queue('jobs')")
        await connection.fetch("select * from meshhook.queue_monitoring")
    finally:
        await connection.close()


async def test_a_failing_migration_is_named_and_leaves_the_earlier_ones(empty_connection):
    """The error has the file, the line and the server's words; only that file is undone."""
    with pytest.raises(MigrationError) as raised:
        await migrate(empty_connection, migrations=[FIRST, BROKEN])
    assert "migration 0002_broken.sql failed, line 3" in str(raised.value)
    assert 'column "no_such_column" does not exist (SQLSTATE 42703)' in str(raised.value)
    assert await applied_versions(empty_connection) == [1]
    assert await empty_connection.fetchval("select to_regclass('meshhook.half')") is None


async def test_after_a_failed_migration_a_mended_one_runs(empty_connection):
    """A migration that failed was not recorded, so that its new text is no change."""
    with pytest.raises(MigrationError):
        await migrate(empty_connection, migrations=[FIRST, BROKEN])
    report = await migrate(empty_connection, migrations=[FIRST, SECOND])
    assert report.applied == (SECOND,)


async def test_a_migration_waits_briefly_for_a_lock(
    empty_connection, other_connection, monkeypatch
):
    """A table in use makes the migration give up with a reason, not block its users."""
    monkeypatch.setattr(runner, "_LOCK_PAUSE_SECONDS", 0)
    monkeypatch.setattr(runner, "_LOCK_TRIES", 2)
    await migrate(empty_connection, migrations=[FIRST])
    altering = Migration.from_text(
        "0002_altering.sql",
        "set local lock_timeout = '100ms'; alter table meshhook.first add n int;",
    )
    async with other_connection.transaction():
        await other_connection.execute("lock table meshhook.first in access share mode")
        with pytest.raises(
            MigrationError, match="It waits at most 1s for a lock, 2 times; run it again"
        ):
            await migrate(empty_connection, migrations=[FIRST, altering])
    await migrate(empty_connection, migrations=[FIRST, altering])


async def test_the_time_to_wait_for_a_lock_is_set(empty_connection):
    """Within a migration lock_timeout is a second: others wait behind the migration."""
    shown = Migration.from_text(
        "0001_shown.sql",
        "create table meshhook.shown as select current_setting('lock_timeout') as value",
    )
    await migrate(empty_connection, migrations=[shown])
    assert await empty_connection.fetchval("table meshhook.shown") == "1s"
    assert await empty_connection.fetchval("show lock_timeout") == "0"


async def test_a_migration_comes_back_to_a_table_in_use(
    empty_connection, other_connection, monkeypatch
):
    """It lets others pass and is tried again, so that whoever uses the table ends in peace."""
    monkeypatch.setattr(runner, "_LOCK_PAUSE_SECONDS", 0.02)
    await migrate(empty_connection, migrations=[FIRST])
    altering = Migration.from_text(
        "0002_altering.sql",
        "set local lock_timeout = '50ms'; alter table meshhook.first add n int;",
    )
    tries = 0
    transaction = other_connection.transaction()
    apply_next = runner._apply_next

    async def counted(*arguments):
        nonlocal tries
        tries += 1
        if tries == 3:
            await transaction.rollback()
        return await apply_next(*arguments)

    monkeypatch.setattr(runner, "_apply_next", counted)
    await transaction.start()
    await other_connection.execute("lock table meshhook.first in access share mode")
    assert (await migrate(empty_connection, migrations=[FIRST, altering])).applied == (altering,)


async def test_each_of_those_who_race_counts_all_migrations(empty_database_url):
    """What a report has as run before, and what it ran itself, are all that the database has."""
    async with asyncpg.create_pool(empty_database_url, min_size=10, max_size=10) as pool:

        async def run():
            async with pool.acquire() as connection:
                return await migrate(connection)

        reports = await asyncio.gather(*(run() for _ in range(10)))
    for report in reports:
        versions = {*report.applied_before, *(each.version for each in report.applied)}
        assert versions == {each.version for each in available_migrations()}
    assert sum(report.pgmq_before is None for report in reports) == 1


async def test_a_second_runner_waits_for_the_first(empty_connection, other_connection):
    """While somebody holds the migration lock nothing runs; then it does."""
    async with other_connection.transaction():
        await other_connection.execute("select pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        running = asyncio.create_task(migrate(empty_connection, migrations=[FIRST]))
        await eventually(
            lambda: other_connection.fetchval(
                "select exists (select from pg_locks where locktype = 'advisory' and not granted "
                "and database = (select oid from pg_database where datname = current_database()))"
            )
        )
        assert await other_connection.fetchval("select to_regnamespace('meshhook')") is None
    assert (await running).applied == (FIRST,)


@pytest.mark.parametrize("act", [migrate, plan])
async def test_a_changed_migration_is_refused(empty_connection, act):
    """A file whose text has changed since it ran is named."""
    await migrate(empty_connection, migrations=[FIRST])
    changed = Migration.from_text("0001_first.sql", FIRST.sql + " select 1;")
    with pytest.raises(MigrationError, match=r"0001_first\.sql has changed since it ran"):
        await act(empty_connection, migrations=[changed, SECOND])
    assert await empty_connection.fetchval("select to_regclass('meshhook.second')") is None


async def test_a_newer_database_will_do_for_work(empty_connection):
    """Workers of the version before start while an upgrade is under way."""
    await migrate(empty_connection)
    newest = available_migrations()[-1].version
    await empty_connection.execute(
        "insert into meshhook.migrations (version, name, checksum, duration_ms, library_version) "
        "values ($1, 'next', 'x', 0, '99')",
        newest + 1,
    )
    await check_schema(empty_connection)


@pytest.mark.parametrize("act", [migrate, plan])
async def test_a_newer_database_is_refused(empty_connection, act):
    """A migration that this library does not know is named, with what to do."""
    await migrate(empty_connection, migrations=[FIRST, SECOND])
    with pytest.raises(SchemaMissingError, match=r"it has migration 0002.*pip install --upgrade"):
        await act(empty_connection, migrations=[FIRST])


async def test_missing_migrations_are_named(empty_connection):
    """The check of a worker names what is missing, and the command."""
    with pytest.raises(SchemaMissingError, match="0001_first, 0002_second; run: meshhook migrate"):
        await check_schema(empty_connection, migrations=[FIRST, SECOND])
    await migrate(empty_connection, migrations=[FIRST])
    with pytest.raises(SchemaMissingError, match="lacks migration 0002_second; run"):
        await check_schema(empty_connection, migrations=[FIRST, SECOND])


async def test_a_role_without_rights_is_told_what_it_lacks(empty_connection, empty_database_url):
    """A role that may not read the schema gets an error about that, not about migrations."""
    await migrate(empty_connection)
    role = "no_rights_" + empty_database_url[-8:]
    await empty_connection.execute(f"create role {role}")
    try:
        await empty_connection.execute(f"set role {role}")
        with pytest.raises(DatabaseError, match="may not read the schema meshhook"):
            await check_schema(empty_connection)
        with pytest.raises(DatabaseError, match="permission denied"):
            await migrate(empty_connection)
    finally:
        await empty_connection.execute(f"reset role; drop role {role}")


async def test_a_role_that_may_not_create_schemas_is_sent_to_an_administrator(
    empty_connection, empty_database_url
):
    """The error for a role without rights on the database mentions the script."""
    role = "no_schemas_" + empty_database_url[-8:]
    await empty_connection.execute(f"create role {role}")
    try:
        await empty_connection.execute(f"set role {role}")
        with pytest.raises(MigrationError, match="give an administrator the script"):
            await migrate(empty_connection)
    finally:
        await empty_connection.execute(f"reset role; drop role {role}")


async def test_an_owner_of_the_schemas_alone_can_migrate(empty_connection, empty_database_url):
    """An administrator may create the schemas, and a role that owns nothing else does the rest."""
    role = "owner_" + empty_database_url[-8:]
    await empty_connection.execute(
        f"create role {role}; create schema meshhook authorization {role}; "
        f"grant create on database {empty_database_url.rpartition('/')[2]} to {role}"
    )
    try:
        await empty_connection.execute(f"set role {role}")
        await migrate(empty_connection)
        await empty_connection.execute("select meshhook.create_queue('jobs')")
    finally:
        await empty_connection.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_a_session_that_may_only_read_is_refused(empty_database_url):
    """default_transaction_read_only gives an error that names it; planning still works."""
    connection = await asyncpg.connect(
        empty_database_url, server_settings={"default_transaction_read_only": "on"}
    )
    try:
        with pytest.raises(DatabaseReadOnlyError, match="default_transaction_read_only is on"):
            await migrate(connection)
        assert len((await plan(connection)).pending) == len(available_migrations())
    finally:
        await connection.close()


async def test_a_replica_is_refused():
    """A server that replays the log of another one takes no writes, and the error says so."""
    with server_directory(in_memory=True) as directory:
        server = EmbeddedPostgres(directory / "postgres", settings=TEST_SETTINGS)
        server.start()
        server.stop()
        (server.home / "data" / "standby.signal").touch()
        connection = await asyncpg.connect(server.start())
        try:
            with pytest.raises(DatabaseReadOnlyError, match="a replica that takes no writes"):
                await migrate(connection)
            with pytest.raises(SchemaMissingError):
                await check_schema(connection)
        finally:
            await connection.close()
            server.stop()


async def test_a_connection_in_a_transaction_is_refused(empty_connection):
    """Each migration needs a transaction of its own."""
    async with empty_connection.transaction():
        with pytest.raises(InvalidSettingError, match="a transaction of its own"):
            await migrate(empty_connection)


async def test_a_connection_that_breaks_is_not_a_failed_migration(
    empty_connection, other_connection
):
    """When the server ends the session, the error says that the database is unavailable."""
    await migrate(empty_connection, migrations=[FIRST])
    slow = Migration.from_text("0002_slow.sql", "select pg_sleep(60)")
    running = asyncio.create_task(migrate(empty_connection, migrations=[FIRST, slow]))
    ended = "select pg_terminate_backend(pid) from pg_stat_activity where query like $1"
    await eventually(lambda: other_connection.fetchval(ended, "select pg_sleep(60)"))
    with pytest.raises(DatabaseUnavailableError):
        await running


async def test_planning_changes_nothing(empty_connection):
    """A plan names what would run, and leaves the database empty."""
    planned = await plan(empty_connection)
    assert planned.applied == ()
    assert list(planned.pending) == available_migrations()
    assert await empty_connection.fetchval("select to_regnamespace('meshhook')") is None


async def test_a_pool_can_be_checked(databases: Databases, database_url):
    """Planning and checking take a pool as well as a connection."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=2) as pool:
        await check_schema(pool)
        assert (await plan(pool)).pending == ()


def test_new_migrations_are_added_and_old_ones_kept(tmp_path, monkeypatch):
    """Recording adds what is new, and never overwrites what was released."""
    file = tmp_path / "released.json"
    file.write_text(json.dumps({"0001": "old"}))
    monkeypatch.setattr(released_migrations, "FILE", file)
    released_migrations.add_new()
    recorded = json.loads(file.read_text())
    assert recorded["0001"] == "old"
    assert recorded.keys() == released_migrations.available().keys()
