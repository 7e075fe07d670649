"""The doctor: each check finds its fault, with the way out, and is quiet on a healthy database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import Database, add_schedule, create_queue, hold_key, set_queue_config
from meshhook.doctor import (
    CHECKS,
    Finding,
    Severity,
    examination,
    examine,
    queue_settings,
    schema,
    server,
    transactions,
    vacuum,
)
from meshhook.doctor import (
    connection as way,
)
from meshhook.doctor.case import Case
from meshhook.queue_config import QueueConfig
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from support.pgbouncer import pgbouncer
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")


async def found(source: Any, check: str, **options: Any) -> list[Finding]:
    """Return what one check finds."""
    case = Case(Database.of(source), None, **options)
    (wanted,) = (each for each in CHECKS if each.name == check)
    return list(await examination._run(wanted, case))


def only(findings: Sequence[Finding], severity: Severity, *words: str) -> Finding:
    """Return the one finding, which is so bad, says these words, and has a way out."""
    (finding,) = findings
    assert finding.severity is severity, finding
    for each in words:
        assert each in f"{finding.subject}: {finding.message} -> {finding.remedy}"
    assert finding.remedy
    return finding


def files_in(folder: Path) -> list[Path]:
    """Return what is in a folder."""
    return list(folder.iterdir())


async def test_a_healthy_database_has_no_findings(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every check says once what is fine."""
    # The server of the tests is as fast as it can be.
    monkeypatch.setattr(server, "_MUST_BE_ON", {})
    everything = await examine(Database(connection), pooled=False, listen_url=database_url)
    assert [each for each in everything if each.severity is not Severity.OK] == []
    assert [each.check for each in everything] == [each.name for each in CHECKS]


async def test_findings_come_the_worst_first(connection: Connection) -> None:
    """Of the queues that were named only."""
    await connection.execute("drop index pgmq.q_jobs_vt_idx")
    await set_queue_config(connection, "jobs", job_timeout_seconds=None)
    severities = [each.severity for each in await examine(connection, ["jobs"])]
    assert severities == sorted(severities, key=list(Severity).index)
    others = await examine(connection, ["others"])
    assert {each.severity for each in others if each.check in {"indexes", "settings"}} == {
        Severity.OK
    }


async def test_a_missing_migration_is_found(connection: Connection) -> None:
    """And checks that need it say so, while the rest goes on."""
    await connection.execute(
        "delete from meshhook.migrations m "
        "where m.version = (select max(version) from meshhook.migrations)"
    )
    only(
        await found(connection, "schema"), Severity.CRITICAL, "lacks migration", "meshhook migrate"
    )
    await connection.execute("drop schema meshhook cascade")
    everything = {each.check: each for each in await examine(connection)}
    assert everything["queues"].message.startswith("could not be checked")
    assert everything["wraparound"].severity is Severity.OK


def test_a_schema_of_a_later_version_is_found() -> None:
    """Workers of this version go on; the newest migration decides."""
    only(list(schema.judge(50, 48)), Severity.WARNING, "0050", "upgrade")
    assert list(schema.judge(48, 48)) == []


SERVER = {
    "is_replica": False,
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "used": 10,
    "connections": 97,
}


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"is_replica": True}, Severity.CRITICAL, "replica"),
        ({"fsync": "off"}, Severity.CRITICAL, "alter system set fsync = on"),
        ({"full_page_writes": "off"}, Severity.CRITICAL, "full_page_writes"),
        ({"synchronous_commit": "off"}, Severity.WARNING, "synchronous_commit"),
        ({"used": 80}, Severity.WARNING, "80 of 97"),
        ({"used": 97}, Severity.CRITICAL, "MESHHOOK_POOLED"),
    ],
)
def test_a_server_that_loses_or_refuses_is_found(
    change: dict[str, Any], severity: Severity, words: str
) -> None:
    """By its settings and its connections."""
    only(list(server.judge(SERVER | change)), severity, words)
    assert list(server.judge(SERVER)) == []


async def test_a_short_time_limit_of_a_role_or_database_is_found(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the statement that raises it."""
    monkeypatch.setattr(server, "_MUST_BE_ON", {})
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database \"{name}\" set statement_timeout = '900ms'")
    only(
        await found(connection, "server"),
        Severity.WARNING,
        "all roles: statement_timeout is 0.9 s",
        f'alter database "{name}" set statement_timeout',
    )


async def test_a_pooler_that_is_not_declared_is_found(database_url: str, tmp_path: Path) -> None:
    """Nor one that is, without a way to listen; and nobody hears through it."""
    with pgbouncer(tmp_path, database_url, pool_size=2) as pooler:
        url = pooler.url(database_url)
        source = await Database.connect(url, pooled=True)
        try:
            only(await found(source, "pooler", pooled=False), Severity.WARNING, "MESHHOOK_POOLED")
            only(await found(source, "pooler", pooled=True), Severity.WARNING, "LISTEN_URL")
            heard = await found(source, "pooler", pooled=True, listen_url=database_url)
            assert [each.severity for each in heard] == [Severity.OK]
        finally:
            await source.close()


async def test_a_pooler_that_is_not_there_is_found(connection: Connection) -> None:
    """It costs time, and wake-ups."""
    only(await found(connection, "pooler", pooled=True), Severity.WARNING, "unset MESHHOOK_POOLED")


async def test_wakeups_that_nobody_hears_are_found(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the URL leads to another database; and those that are heard are fine."""
    monkeypatch.setattr(way, "HEARD_SECONDS", 60.0)
    fine = await found(connection, "wakeups", listen_url=database_url)
    assert [each.severity for each in fine] == [Severity.OK]
    monkeypatch.setattr(way, "HEARD_SECONDS", 0.2)
    elsewhere = database_url.rpartition("/")[0] + "/postgres"
    only(
        await found(connection, "wakeups", listen_url=elsewhere),
        Severity.WARNING,
        "not heard",
        "MESHHOOK_LISTEN_URL",
    )
    await connection.execute("set meshhook.notify = off")
    only(await found(connection, "wakeups"), Severity.WARNING, "meshhook.notify is off")


def test_a_full_queue_of_notifications_is_found() -> None:
    """Before it is full."""
    row = {"usage": 0.3, "may_notify": True, "reason": ""}
    only(list(way.judge_notifications(row)), Severity.WARNING, "30%", "pg_terminate_backend")
    only(list(way.judge_notifications(row | {"usage": 0.6})), Severity.CRITICAL, "60%")


@pytest.mark.parametrize(("at", "severity"), [(95.0, Severity.WARNING), (107.5, Severity.WARNING)])
def test_clocks_that_differ_are_found(at: float, severity: Severity) -> None:
    """In both directions, beyond what the question itself took."""
    only(list(way.judge_clock(at, 100.0, 101.0)), severity, "NTP")
    assert list(way.judge_clock(100.5, 100.0, 101.0)) == []
    assert list(way.judge_clock(102.5, 100.0, 101.0)) == []


async def test_an_old_transaction_is_found(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its process and program, and how to end it."""
    monkeypatch.setattr(transactions, "OLD_SECONDS", 0.0)
    own = await asyncpg.connect(database_url, server_settings={"application_name": "idler"})
    try:
        await own.execute("begin; select txid_current()")
        pid = own.get_server_pid()
        only(
            await found(connection, "transactions"),
            Severity.WARNING,
            "(idler), idle in transaction",
            f"pg_terminate_backend({pid})",
        )
    finally:
        await own.close()


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"kind": "prepared", "name": "it's"}, "rollback prepared 'it''s'"),
        ({"kind": "slot", "name": "old", "seconds": None}, "pg_drop_replication_slot('old')"),
        ({"kind": "standby", "name": "s1", "seconds": None}, "hot_standby_feedback"),
    ],
)
def test_what_else_holds_transaction_ids_is_found(row: dict[str, Any], words: str) -> None:
    """By its age, or by how many came since."""
    whole = {"pid": 5, "state": None, "seconds": 4000.0, "behind": 200_000_000} | row
    only(list(transactions.judge_holders([whole])), Severity.CRITICAL, words)
    quiet = whole | {"seconds": 10.0, "behind": 10}
    assert list(transactions.judge_holders([quiet])) == []


def test_transaction_ids_that_run_out_are_found() -> None:
    """A warning long before, and critical when it is near."""
    row = {"name": "shop", "kind": "transaction", "age": 600_000_000}
    only(list(transactions.judge_ids([row])), Severity.WARNING, "freeze")
    only(list(transactions.judge_ids([row | {"age": 1_500_000_000}])), Severity.CRITICAL)
    assert list(transactions.judge_ids([row | {"age": 200_000_000}])) == []


async def test_autovacuum_that_is_off_for_a_table_is_found(connection: Connection) -> None:
    """With the statement that turns it on."""
    await connection.execute("alter table pgmq.q_jobs set (autovacuum_enabled = false)")
    only(
        await found(connection, "vacuum"),
        Severity.CRITICAL,
        "pgmq.q_jobs",
        "alter table pgmq.q_jobs reset (autovacuum_enabled)",
    )


def test_autovacuum_that_is_behind_or_off_is_found() -> None:
    """Behind by far, or off for the server."""
    row = {
        "name": "pgmq.q_jobs",
        "is_server_on": True,
        "is_on": True,
        "dead": 1_000_000,
        "starts_at": 10_000.0,
        "last_vacuum": None,
    }
    only(list(vacuum.judge_vacuum([row])), Severity.WARNING, "1,000,000", "vacuum (verbose)")
    assert list(vacuum.judge_vacuum([row | {"dead": 40_000}])) == []
    off = [row | {"is_server_on": False}] * 3
    only(list(vacuum.judge_vacuum(off)), Severity.CRITICAL, "alter system set autovacuum")


async def test_empty_space_is_found(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a table and of its indexes, each with its own statement."""
    monkeypatch.setattr(vacuum, "LEAST_BYTES", 8_192)
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 9000)"
    )
    await connection.execute("delete from pgmq.q_jobs where msg_id < 9000")
    await connection.execute("vacuum analyze pgmq.q_jobs")
    await connection.execute("select pg_stat_clear_snapshot()")
    names = {each.subject: each.remedy for each in await found(connection, "bloat")}
    assert names["pgmq.q_jobs"].startswith("vacuum (full, verbose) pgmq.q_jobs;")
    assert names["pgmq.q_jobs_vt_idx"] == "reindex index concurrently pgmq.q_jobs_vt_idx;"


async def test_a_table_whose_rows_are_not_counted_is_not_empty(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a crash or a reset of the statistics, what vacuum noted counts."""
    monkeypatch.setattr(vacuum, "LEAST_BYTES", 8_192)
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '{}' from generate_series(1, 9000)"
    )
    await connection.execute("vacuum analyze pgmq.q_jobs")
    await connection.execute("select pg_stat_reset()")
    await connection.execute("select pg_stat_clear_snapshot()")
    names = {each.subject for each in await found(connection, "bloat")}
    assert not names & {"pgmq.q_jobs", "pgmq.q_jobs_vt_idx"}


async def test_a_missing_or_invalid_index_is_found(connection: Connection) -> None:
    """Of due times, of keys, of ids, or one whose build was interrupted."""
    await set_queue_config(connection, "jobs", keyed=True, lookup_by="run_id")
    names = [
        row["relname"]
        for row in await connection.fetch(
            "select x.relname from pg_index i join pg_class x on x.oid = i.indexrelid "
            "where i.indrelid = 'pgmq.q_jobs'::regclass and i.indexprs is not null"
        )
    ]
    assert len(names) >= 2
    for name in names:
        await connection.execute(f"drop index pgmq.{name}")
    await connection.execute("drop index pgmq.q_jobs_vt_idx")
    await connection.execute(
        "update pg_index set indisvalid = false "
        "where indexrelid = 'pgmq.q_jobs_dlq_error_idx'::regclass"
    )
    remedies = {each.severity: each.remedy for each in await found(connection, "indexes")}
    texts = [each.remedy for each in await found(connection, "indexes")]
    assert set(remedies) == {Severity.CRITICAL, Severity.WARNING}
    assert 'create index concurrently q_jobs_vt_idx on pgmq."q_jobs" (vt);' in texts
    assert any(
        each.startswith("reindex index concurrently pgmq.q_jobs_dlq_error") for each in texts
    )
    assert "meshhook queue set jobs keyed=true" in texts
    assert "meshhook queue set jobs lookup_by=run_id" in texts
    await connection.execute("create index q_jobs_vt_idx on pgmq.q_jobs (vt)")
    await connection.execute("reindex index pgmq.q_jobs_dlq_error_idx")
    await set_queue_config(connection, "jobs", keyed=True, lookup_by="run_id")
    assert [each.severity for each in await found(connection, "indexes")] == [Severity.OK]


async def test_a_missing_partition_is_found(connection: Connection) -> None:
    """Of tomorrow."""
    name = await connection.fetchval(
        "select meshhook.job_attempts_partition_name((now() at time zone 'UTC')::date + 1)"
    )
    await connection.execute(f"drop table meshhook.{name}")
    only(await found(connection, "history"), Severity.WARNING, "create_attempt_partitions")


async def test_a_missing_partition_of_finished_jobs_is_found(connection: Connection) -> None:
    """If a queue keeps bodies; the way out makes it quiet."""
    name = await connection.fetchval(
        "select 'finished_jobs_' || to_char((now() at time zone 'UTC')::date + 1, 'YYYYMMDD')"
    )
    await connection.execute(f"drop table if exists meshhook.{name}")
    assert [each.severity for each in await found(connection, "history")] == [Severity.OK]
    await set_queue_config(connection, "jobs", keep_bodies_days=3)
    await connection.execute(f"drop table if exists meshhook.{name}")
    finding = only(await found(connection, "history"), Severity.WARNING, "meshhook.finished_jobs")
    await connection.execute(finding.remedy.partition(";")[0])
    assert [each.severity for each in await found(connection, "history")] == [Severity.OK]


@pytest.mark.parametrize("parent", ["job_attempts", "finished_jobs"])
async def test_partitions_of_long_ago_are_found(connection: Connection, parent: str) -> None:
    """If no queue has kept them for two days; the way out makes it quiet."""
    for day in (40, 8):
        name = await connection.fetchval(
            "select $1 || '_' || to_char((now() at time zone 'UTC')::date - $2::int, 'YYYYMMDD')",
            parent,
            day,
        )
        await connection.execute(
            f"create table meshhook.{name} partition of meshhook.{parent} "
            f"for values from (now()::date - {day}) to (now()::date - {day - 1})"
        )
    await set_queue_config(connection, "jobs", history_retention_days=7, keep_bodies_days=7)
    finding = only(
        await found(connection, "history"), Severity.WARNING, f"meshhook.{parent}", "1 partitions"
    )
    await connection.execute(finding.remedy.partition(";")[0])
    assert [each.severity for each in await found(connection, "history")] == [Severity.OK]


async def test_a_missing_or_invalid_index_of_priorities_is_found(connection: Connection) -> None:
    """Claims would read the whole queue; the way out makes it quiet."""
    await set_queue_config(connection, "jobs", prioritized=True)
    assert [each.severity for each in await found(connection, "indexes")] == [Severity.OK]
    await connection.execute("drop index pgmq.q_jobs_priority_idx")
    finding = only(await found(connection, "indexes"), Severity.CRITICAL, "its priorities")
    assert finding.remedy == "meshhook queue set jobs prioritized=true"
    await set_queue_config(connection, "jobs", prioritized=True)
    assert [each.severity for each in await found(connection, "indexes")] == [Severity.OK]
    await connection.execute(
        "update pg_index set indisvalid = false "
        "where indexrelid = 'pgmq.q_jobs_priority_idx'::regclass"
    )
    findings = await found(connection, "indexes")
    assert {each.severity for each in findings} == {Severity.CRITICAL, Severity.WARNING}
    await set_queue_config(connection, "jobs", prioritized=True)
    assert [each.severity for each in await found(connection, "indexes")] == [Severity.OK]


async def test_slots_for_urgent_jobs_that_a_worker_does_not_have_are_found(
    connection: Connection,
) -> None:
    """Half of its slots at the most are kept free; without priorities none are."""
    await connection.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, draining, started_at, seen_at) "
        "values ('jobs', 'w', 'pod', 4, 0, 0, 0, false, now(), now())"
    )
    await set_queue_config(connection, "jobs", urgent_slots=3)
    assert [each.severity for each in await found(connection, "queues")] == [Severity.OK]
    await set_queue_config(connection, "jobs", prioritized=True)
    only(
        await found(connection, "queues"),
        Severity.WARNING,
        "of a worker with 4 slots 2 are kept free",
        "urgent_slots=2",
    )
    await set_queue_config(connection, "jobs", urgent_slots=2)
    assert [each.severity for each in await found(connection, "queues")] == [Severity.OK]


async def test_a_limit_of_connections_is_found(
    connection: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the database; the way out makes it quiet."""
    monkeypatch.setattr(server, "_MUST_BE_ON", {})
    name = await connection.fetchval("select current_database()")
    await connection.execute(f'alter database "{name}" connection limit 1')
    finding = only(
        await found(connection, "server"), Severity.CRITICAL, f"database {name}", "1 connections"
    )
    assert finding.remedy.startswith(f'alter database "{name}" connection limit 2;')
    await connection.execute(f'alter database "{name}" connection limit 20')
    assert [each.severity for each in await found(connection, "server")] == [Severity.OK]


async def test_a_deadline_before_the_first_retry_is_found(connection: Connection) -> None:
    """But not where jobs have one attempt, or the retry may come in time."""
    await set_queue_config(
        connection,
        "jobs",
        retry_backoff_base_ms=60_000,
        retry_jitter=0.5,
        job_expiry_seconds=30,
    )
    [finding] = await found(connection, "retries")
    only([finding], Severity.WARNING, "30 seconds", "job_expiry_seconds=721")
    await set_queue_config(connection, "jobs", max_retry_attempts=1)
    assert (await found(connection, "retries"))[0].severity is Severity.OK
    await set_queue_config(connection, "jobs", max_retry_attempts=5, job_expiry_seconds=721)
    assert (await found(connection, "retries"))[0].severity is Severity.OK


async def test_a_budget_that_is_spent_for_long_is_found(connection: Connection) -> None:
    """As long as more fails than it lets through; another budget begins anew."""
    await set_queue_config(connection, "jobs", max_retries_per_second=0.1)
    await connection.fetchval("select meshhook.grant_retries('jobs', 50)")
    assert (await found(connection, "retries"))[0].severity is Severity.OK
    await connection.fetchval("select meshhook.grant_retries('jobs', 50)")
    only(await found(connection, "retries"), Severity.WARNING, "0.1", "max_retries_per_second=")
    await set_queue_config(connection, "jobs", max_retries_per_second=5)
    assert (await found(connection, "retries"))[0].severity is Severity.OK


async def test_a_follow_up_queue_that_is_gone_is_found(connection: Connection) -> None:
    """Its dead letters would be followed by nothing."""
    await connection.execute("update meshhook.queue_config set dead_letter_follow_up = 'gone'")
    only(await found(connection, "retries"), Severity.WARNING, "meshhook queue create gone")


async def test_a_follow_up_queue_that_requires_encryption_is_found(connection: Connection) -> None:
    """What the database enqueues is refused there, and only its log says so."""
    await create_queue(connection, "next")
    await set_queue_config(connection, "jobs", dead_letter_follow_up="next")
    assert (await found(connection, "retries"))[0].severity is Severity.OK
    await set_queue_config(connection, "next", encryption="require")
    only(await found(connection, "retries"), Severity.WARNING, "next encryption=accept")


async def test_more_replicas_than_connections_are_found(connection: Connection) -> None:
    """By what JobQueues allow; the way out makes it quiet, and so does a pooler."""
    await connection.execute(
        "insert into meshhook.queue_scaling (queue, jobqueue_uid, jobqueue, target_age_seconds, "
        "min_replicas, max_replicas, replicas, ready_replicas) "
        "values ('jobs', 'u', 'shop/jobs', 30, 0, 4000, 0, 0)"
    )
    only(await found(connection, "replicas"), Severity.WARNING, "12000", "that of shop/jobs")
    pooled = await found(connection, "replicas", pooled=True)
    assert [each.severity for each in pooled] == [Severity.OK]
    await connection.execute("update meshhook.queue_scaling set max_replicas = 2")
    assert [each.severity for each in await found(connection, "replicas")] == [Severity.OK]


@pytest.fixture
async def roles(database_url: str, connection: Connection) -> AsyncIterator[Roles]:
    """Makes roles."""
    async with Roles(database_url, connection) as roles:
        yield roles


async def test_a_role_that_lacks_rights_is_found(connection: Connection, roles: Roles) -> None:
    """With the command that grants them."""
    role = await roles.make(RoleKind.WORKER, "jobs")
    await connection.execute(f"revoke delete on pgmq.q_jobs from {role}")
    only(
        await found(connection, "rights"),
        Severity.CRITICAL,
        "delete on pgmq.q_jobs",
        f"meshhook roles grant worker --name {role} --queue jobs",
    )


async def test_a_role_sees_how_many_connections_there_are(
    connection: Connection, roles: Roles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of other roles, of whose sessions it sees nothing else."""
    monkeypatch.setattr(server, "_MUST_BE_ON", {})
    role = await roles.make(RoleKind.ONCALL)
    limited = await roles.make(RoleKind.READER)
    name = await connection.fetchval("select current_database()")
    others = await asyncpg.connect(roles.url(limited))
    try:
        async with asyncpg.create_pool(roles.url(role), min_size=1, max_size=1) as own:
            await connection.execute(f'alter database "{name}" connection limit 2')
            await connection.execute(f"alter role {limited} connection limit 1")
            findings = await found(own, "server")
            used = await own.fetchval(queries.load("examine_server"), column=4)
            total = await connection.fetchval(queries.load("examine_server"), column=4)
    finally:
        await others.close()
    assert {each.subject for each in findings} == {f"database {name}", f"role {limited}"}
    assert used == total >= 3


@pytest.mark.parametrize("kind", [each for each in RoleKind if each is not RoleKind.OWNER])
async def test_each_kind_of_role_may_examine(
    connection: Connection, roles: Roles, kind: RoleKind
) -> None:
    """What it may not see is a finding, and the rest goes on."""
    role = await roles.make(kind)
    async with connection.transaction():
        await connection.execute(f"set local role {role}")
        everything = await examine(connection)
    assert {each.check for each in everything} == {each.name for each in CHECKS}
    unseen = {each.check for each in everything if "could not be checked" in each.message}
    assert unseen <= {
        *("replicas", "queues", "workers", "unique_keys", "transactions", "wakeups", "retries")
    }
    assert all("meshhook roles create" in e.remedy for e in everything if e.check in unseen)


async def ready(connection: Connection) -> None:
    """Let a job have been ready for an hour."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) values (now() - interval '1 hour', '{}')"
    )


async def test_a_queue_without_a_worker_is_found(connection: Connection) -> None:
    """If jobs wait; and one whose workers are all cordoned or stopping."""
    await ready(connection)
    only(await found(connection, "queues"), Severity.CRITICAL, "no worker of it is alive")
    await connection.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds, draining, started_at, seen_at) "
        "values ('jobs', 'w', 'pod', 10, 0, 0, 0, true, now(), now())"
    )
    only(await found(connection, "queues"), Severity.WARNING, "cordoned or stopping")
    await connection.execute("update meshhook.workers set draining = false")
    assert [each.severity for each in await found(connection, "queues")] == [Severity.OK]


async def test_workers_of_another_version_are_found(connection: Connection) -> None:
    """Those of an older version, and those that say none; not those that are gone."""
    newest = await connection.fetchval("select max(version) from meshhook.migrations")
    for name, version, seconds in (
        ("a", newest, 0),
        ("b", newest - 1, 0),
        ("c", None, 0),
        ("d", None, 0),
        ("e", None, 60),
    ):
        await connection.execute(
            "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
            "busy_seconds, schema_version, seen_at) "
            "values ('jobs', $1, $1, 1, 0, 0, 0, $2, now() - make_interval(secs => $3))",
            name,
            version,
            float(seconds),
        )
    silent, older = await found(connection, "workers")
    assert silent.message.startswith("2 workers are of a version that does not say its schema")
    assert older.message.startswith(f"1 worker is of schema {newest - 1:04}")
    assert older.severity is Severity.WARNING
    assert "meshhook workers jobs" in older.remedy


async def test_a_queue_that_has_been_paused_for_long_is_found(connection: Connection) -> None:
    """If jobs wait in it."""
    await ready(connection)
    await connection.execute("alter table meshhook.queue_config disable trigger user")
    await connection.execute(
        "update meshhook.queue_config set paused = true, updated_at = now() - interval '3 days'"
    )
    only(await found(connection, "queues"), Severity.WARNING, "3 days", "queue resume jobs")


async def test_dead_letters_that_grow_are_found(connection: Connection) -> None:
    """Within the last hour."""
    await connection.execute(
        "insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, finished_at) "
        "select 'jobs', n, 1, 'dead_lettered', now() from generate_series(1, 150) n"
    )
    only(await found(connection, "queues"), Severity.WARNING, "150", "meshhook dlq errors jobs")


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (
            {"max_retry_attempts": 50, "retry_backoff_max_ms": 86_400_000}
            | {"retry_backoff_base_ms": 86_400_000},
            "history_retention_days=50",
        ),
        ({"visibility_timeout_seconds": 2}, "visibility_timeout_seconds=30"),
        ({"job_timeout_seconds": None}, "job_timeout_seconds=3600"),
        ({"dlq_retention_days": 30}, "history_retention_days=30"),
        (
            {"keyed": True, "max_running": 5, "max_running_per_key": 9},
            "max_running_per_key=5",
        ),
    ],
)
def test_settings_that_fight_each_other_are_found(settings: dict[str, Any], remedy: str) -> None:
    """And what mends one is quiet."""
    base = {
        "queue": "jobs",
        "created_at": "2030-01-01T00:00:00Z",
        "updated_at": "2030-01-01T00:00:00Z",
    }
    bad = QueueConfig.model_validate(base | settings)
    only(list(queue_settings.judge(bad)), Severity.WARNING, f"meshhook queue set jobs {remedy}")
    name, _, value = remedy.partition("=")
    mended = QueueConfig.model_validate(base | settings | {name: int(value)})
    assert list(queue_settings.judge(mended)) == []


async def test_a_schedule_that_fails_or_is_late_is_found(connection: Connection) -> None:
    """But not a paused one."""
    await add_schedule(connection, "jobs", "daily", "@daily")
    await connection.execute("update meshhook.schedules set error = 'no such zone'")
    failing = only(await found(connection, "schedules"), Severity.CRITICAL, "jobs/daily", "zone")
    assert failing.remedy.startswith("meshhook schedule list --queue jobs;")
    await connection.execute(
        "update meshhook.schedules set error = null, next_at = now() - interval '1 hour'"
    )
    only(await found(connection, "schedules"), Severity.CRITICAL, "60 minutes", "roles grant")
    await connection.execute("update meshhook.schedules set paused = true")
    assert [each.severity for each in await found(connection, "schedules")] == [Severity.OK]


async def test_an_old_hold_or_open_breaker_is_found(connection: Connection) -> None:
    """The oldest of a queue, and how many there are."""
    await set_queue_config(connection, "jobs", keyed=True, breaker_failures=3)
    for key in ("a", "b"):
        await hold_key(connection, "jobs", key)
    assert [each.severity for each in await found(connection, "keys")] == [Severity.OK]
    await connection.execute("update meshhook.keys set held_at = now() - interval '3 days'")
    only(await found(connection, "keys"), Severity.WARNING, "1 others", "keys resume jobs")
    await connection.execute("delete from meshhook.keys")
    await connection.execute(
        "insert into meshhook.breakers (queue, key, failures, failed_at, opened_at, probe_at) "
        "values ('jobs', 'c', 9, now(), now() - interval '5 hours', now())"
    )
    only(await found(connection, "keys"), Severity.WARNING, "'c'", "5 hours", "open breaker")


@pytest.mark.parametrize(
    "key", ["a b", "it's $(touch $TMPDIR/done)", "`touch $TMPDIR/done`'", "-x", '";touch done;"']
)
async def test_a_command_that_is_copied_into_a_shell_has_the_key_as_one_word(
    connection: Connection, key: str, tmp_path: Path
) -> None:
    """Whatever a producer has chosen: nothing in it is run, and it is no option."""
    await set_queue_config(connection, "jobs", keyed=True)
    await hold_key(connection, "jobs", key)
    await connection.execute("update meshhook.keys set held_at = now() - interval '3 days'")
    (finding,) = await found(connection, "keys")
    # The shell's own words, of a command that does nothing but say them.
    shell = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-c", f"meshhook() {{ printf '%s\\n' \"$@\"; }}; {finding.remedy}"),
        stdout=asyncio.subprocess.PIPE,
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path)},
    )
    said, _ = await shell.communicate()
    words = said.decode().splitlines()
    between = ["--"] if key.startswith("-") else []
    assert words == [
        *("keys", "show", "jobs", *between, key),
        *("keys", "resume", "jobs", *between, key),
    ]
    assert files_in(tmp_path) == []


async def test_unique_keys_of_jobs_that_are_gone_are_found(connection: Connection) -> None:
    """If there are many."""
    await connection.execute(
        "insert into meshhook.unique_keys (queue, key, msg_id, enqueued_at) "
        "select 'jobs', 'k' || n, n, now() from generate_series(1, 600) n"
    )
    only(await found(connection, "unique_keys"), Severity.WARNING, "600 of 600")


async def test_a_check_that_takes_too_long_stops_no_other(
    connection: Connection, database_url: str
) -> None:
    """As when a table is locked."""
    own = await asyncpg.connect(database_url)
    try:
        await own.execute("begin; lock table pgmq.q_jobs in access exclusive mode")
        everything = {each.check: each for each in await examine(connection)}
    finally:
        await own.close()
    assert everything["bloat"].message.startswith("could not be checked")
    assert everything["bloat"].severity is Severity.WARNING
    assert everything["schedules"].severity is Severity.OK
