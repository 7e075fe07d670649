"""The audit log: who changed what, in the transaction of each change, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import (
    DLQService,
    InvalidSettingError,
    QueueService,
    WorkflowJob,
    add_schedule,
    create_queue,
    delete_schedule,
    drop_queue,
    hold_key,
    pause_schedule,
    resume_key,
    resume_schedule,
    run_schedule,
    set_key,
    set_queue_config,
)
from meshhook.actors import MAX_ACTOR_LENGTH, process_actor
from meshhook.audit import (
    AuditEntry,
    Source,
    acting_as,
    list_audit_entries,
    one_operation,
    sum_operations,
)
from meshhook.cli.audit import what
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.roles import create_role
from meshhook.store import queries
from meshhook.topics import bind_topic, unbind_topic
from support.console import visiting
from support.pgbouncer import pgbouncer
from support.roles import Roles

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Change: TypeAlias = Callable[[Any], Awaitable[object]]

pytestmark = pytest.mark.usefixtures("queue_name")

RARELY = "0 0 1 1 *"
JOB = WorkflowJob(run_id="r1", workflow_id="w", project_id="p", payload={"secret": "body"})


async def jobs(pool: Any, number: int = 2) -> list[int]:
    """Enqueue jobs, and return their ids."""
    return await QueueService[Any](pool, "jobs").enqueue_many([JOB] * number, delay_seconds=60)


async def dead(pool: Any, number: int = 1) -> list[int]:
    """Make dead letters, and return their ids."""
    rows = await pool.fetch(
        "insert into pgmq.q_jobs_dlq (vt, message, headers) select now(), $2::jsonb, $3::jsonb "
        "from generate_series(1, $1) returning msg_id",
        number,
        '{"secret": "body"}',
        '{"meshhook-dead-letter": {"queue": "jobs", "msg_id": 7, "error_type": "Broken"}}',
    )
    return [row["msg_id"] for row in rows]


async def entries(source: Any, **options: Any) -> list[AuditEntry]:
    """Return what the log has, the oldest first."""
    return (await list_audit_entries(source, **options))[::-1]


async def keyed(pool: Any) -> None:
    """Make the queue keyed."""
    await set_queue_config(pool, "jobs", keyed=True, breaker_failures=3)


async def scheduled(pool: Any) -> None:
    """Add a schedule."""
    await add_schedule(pool, "jobs", "yearly", RARELY, payload={"secret": "body"})


def _jobs(method: str, **options: Any) -> Change:
    """Return a change of two jobs by the library."""

    async def change(pool: Any) -> object:
        ids = await jobs(pool)
        return await getattr(QueueService[Any](pool, "jobs"), method)(ids, **options)

    return change


def _jobs_in_sql(call: str) -> Change:
    """Return a change of two jobs by an SQL function."""

    async def change(pool: Any) -> object:
        await jobs(pool)
        return await pool.fetch(f"select * from meshhook.{call}")

    return change


def _sql(text: str, *before: Change) -> Change:
    """Return a change by SQL that somebody writes."""

    async def change(pool: Any) -> object:
        for each in before:
            await each(pool)
        return await pool.fetch(text)

    return change


def _keys(function: Any, *arguments: Any, **options: Any) -> Change:
    """Return a change of a key."""

    async def change(pool: Any) -> object:
        await keyed(pool)
        return await function(pool, "jobs", "acme", *arguments, **options)

    return change


def _schedules(function: Any, *, is_paused: bool = False) -> Change:
    """Return a change of a schedule."""

    async def change(pool: Any) -> object:
        await scheduled(pool)
        if is_paused:
            await pause_schedule(pool, "jobs", "yearly")
        return await function(pool, "jobs", "yearly")

    return change


async def _resume_key(pool: Any) -> None:
    await keyed(pool)
    await hold_key(pool, "jobs", "acme", reason="a flood")
    await resume_key(pool, "jobs", "acme")


async def _close_breaker(pool: Any) -> None:
    await keyed(pool)
    await pool.execute(
        "insert into meshhook.breakers (queue, key, failures, failed_at, error_type) "
        "values ('jobs', 'acme', 2, now(), 'Broken')"
    )
    await resume_key(pool, "jobs", "acme")


async def _replay(pool: Any) -> None:
    await DLQService(pool, "jobs").replay_multiple_jobs(await dead(pool, 2))


async def _replay_oldest(pool: Any) -> None:
    await dead(pool, 2)
    await DLQService(pool, "jobs").replay_multiple_jobs(error_type="Broken", limit=2)


async def _delete_dead(pool: Any) -> None:
    await DLQService(pool, "jobs").delete_dead_letter_job((await dead(pool))[0])


async def _purge_dead(pool: Any) -> None:
    await dead(pool, 2)
    await DLQService(pool, "jobs").purge_dlq()


async def _purge(pool: Any) -> None:
    await jobs(pool)
    await QueueService[Any](pool, "jobs").purge_queue()


async def _change_schedule(pool: Any) -> None:
    await scheduled(pool)
    await add_schedule(pool, "jobs", "yearly", RARELY, payload={"other": "body"}, tz="Asia/Tokyo")


async def _unbind(pool: Any) -> None:
    await bind_topic(pool, "jobs", "shop.*")
    await unbind_topic(pool, "jobs", "shop.*")


IDS = {"msg_ids": [1, 2]}
BY_RUN = {"run_id": "r1"}
KEY = {"key": "acme"}
YEARLY = {"schedule": "yearly"}

# Every change of a person or a program: what it does, and what is written of it.
CHANGES: dict[str, tuple[Change, str, dict[str, Any] | None, int | None]] = {
    "create_queue": (lambda pool: create_queue(pool, "new"), "queue.created", None, None),
    "drop_queue": (lambda pool: drop_queue(pool, "jobs"), "queue.dropped", None, None),
    "pause": (
        lambda pool: set_queue_config(pool, "jobs", paused=True),
        "queue.paused",
        None,
        None,
    ),
    "set_queue_config": (
        lambda pool: set_queue_config(pool, "jobs", max_retry_attempts=7),
        "settings.changed",
        None,
        None,
    ),
    "settings in SQL": (
        _sql("update meshhook.queue_config set dlq_enabled = false"),
        "settings.changed",
        None,
        None,
    ),
    "purge_queue": (_purge, "queue.purged", None, 2),
    "replay_multiple_jobs": (_replay, "dead_letters.replayed", {"dead_letter_ids": [1, 2]}, 2),
    "replay the oldest": (
        _replay_oldest,
        "dead_letters.replayed",
        {"dead_letter_ids": [1, 2], "error_type": "Broken", "limit": 2},
        2,
    ),
    "delete_dead_letter_job": (
        _delete_dead,
        "dead_letters.deleted",
        {"dead_letter_ids": [1]},
        1,
    ),
    "purge_dlq": (_purge_dead, "dead_letters.purged", None, 2),
    "cancel": (_jobs("cancel", reason="no need"), "jobs.cancelled", IDS, 2),
    "reschedule": (_jobs("reschedule", delay_seconds=5), "jobs.rescheduled", IDS, 2),
    "set_priority": (_jobs("set_priority", priority="low"), "jobs.reprioritized", IDS, 2),
    "set_priority in SQL": (
        _jobs_in_sql("set_priority('jobs', priority => 'low', run_id => 'r1')"),
        "jobs.reprioritized",
        BY_RUN,
        2,
    ),
    "run_now": (_jobs("run_now"), "jobs.run_now", IDS, 2),
    "delete_jobs": (_jobs("delete_jobs"), "jobs.deleted", IDS, 2),
    "cancel in SQL": (_jobs_in_sql("cancel('jobs', run_id => 'r1')"), "jobs.cancelled", BY_RUN, 2),
    "reschedule in SQL": (
        _jobs_in_sql("reschedule('jobs', delay => interval '5 s', run_id => 'r1')"),
        "jobs.rescheduled",
        BY_RUN,
        2,
    ),
    "run_now in SQL": (_jobs_in_sql("run_now('jobs', run_id => 'r1')"), "jobs.run_now", BY_RUN, 2),
    "delete_jobs in SQL": (
        _jobs_in_sql("delete_jobs('jobs', array[1, 2])"),
        "jobs.deleted",
        IDS,
        2,
    ),
    "set_key": (_keys(set_key, weight=2), "key.set", KEY, None),
    "hold_key": (_keys(hold_key, 60, reason="a flood"), "key.held", KEY, None),
    "resume_key": (_resume_key, "key.resumed", KEY, None),
    "close a breaker": (_close_breaker, "key.breaker_closed", KEY, 1),
    "key in SQL": (
        _sql("insert into meshhook.keys (queue, key, max_running) values ('jobs', 'acme', 3)"),
        "key.set",
        KEY,
        None,
    ),
    "add_schedule": (scheduled, "schedule.added", YEARLY, None),
    "change a schedule": (_change_schedule, "schedule.changed", YEARLY, None),
    "pause_schedule": (_schedules(pause_schedule), "schedule.paused", YEARLY, None),
    "resume_schedule": (
        _schedules(resume_schedule, is_paused=True),
        "schedule.resumed",
        YEARLY,
        None,
    ),
    "run_schedule": (_schedules(run_schedule), "schedule.run", YEARLY, None),
    "delete_schedule": (_schedules(delete_schedule), "schedule.deleted", YEARLY, None),
    "bind_topic": (
        lambda pool: bind_topic(pool, "jobs", "shop.*"),
        "topic.bound",
        {"pattern": "shop.*"},
        None,
    ),
    "unbind_topic": (_unbind, "topic.unbound", {"pattern": "shop.*"}, None),
    "retention in SQL": (
        _sql("update meshhook.audit_settings set retention_days = 30"),
        "audit.retention_changed",
        None,
        None,
    ),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_is_written_with_who_what_filter_and_count(pool: Pool, name: str) -> None:
    """One row of that action, naming the actor who was said, and no body."""
    change, action, filter_, count = CHANGES[name]
    (last,) = await list_audit_entries(pool, limit=1)
    with acting_as("anna@example.com", source="console"):
        await change(pool)
    found = [each for each in await entries(pool, action=action) if each.id > last.id]
    assert [(each.action, each.filter, each.count) for each in found] == [(action, filter_, count)]
    (entry,) = found
    is_sql = "in SQL" in name
    assert (entry.actor, entry.source) == (
        (entry.database_role, "sql") if is_sql else ("anna@example.com", "console")
    )
    of_queue = {"create_queue": "new", "retention in SQL": None}.get(name, "jobs")
    assert entry.queue == of_queue
    assert entry.database_role == await pool.fetchval("select session_user::text")
    assert "body" not in repr(entry.filter) + repr(entry.details)


async def test_a_setting_is_written_with_its_old_and_new_value(pool: Pool) -> None:
    """And those that stayed the same are not."""
    await set_queue_config(pool, "jobs", max_retry_attempts=7, paused=True)
    await set_queue_config(pool, "jobs", max_retry_attempts=7, paused=True)
    found = await entries(pool, queue="jobs")
    assert [each.action for each in found] == ["queue.created", "queue.paused", "settings.changed"]
    assert found[-1].details == {"max_retry_attempts": {"old": 5, "new": 7}}


@pytest.mark.parametrize("name", CHANGES)
async def test_what_is_rolled_back_is_not_written(pool: Pool, name: str) -> None:
    """The change and its row are one."""
    change, action, _, _ = CHANGES[name]
    async with pool.acquire() as connection:
        before = len(await entries(connection, action=action))
        transaction = connection.transaction()
        await transaction.start()
        await change(connection)
        assert len(await entries(connection, action=action)) > before
        await transaction.rollback()
        assert len(await entries(connection, action=action)) == before


async def test_a_role_is_written_as_granted_and_as_revoked(connection: Connection) -> None:
    """Granting again replaces its row, and revokes nothing."""
    name = "test_audited_reader"
    try:
        for _ in range(2):
            await create_role(Database(connection), RoleKind.READER, name=name)
        await connection.execute(
            "delete from meshhook.roles where role = 'test_audited_reader'::regrole"
        )
        found = await entries(connection, action="role")
    finally:
        await connection.execute(f"drop owned by {name}; drop role {name}")
    assert [(each.action, each.filter) for each in found] == [
        (action, {"role": name, "kind": "reader"})
        for action in ("role.granted", "role.granted", "role.revoked")
    ]
    assert found[0].details == {"queues": "all"}
    assert {each.actor for each in found[:2]} == {process_actor()}


async def test_a_library_call_names_the_user_and_the_host(pool: Pool) -> None:
    """If nobody says who acts."""
    await set_queue_config(pool, "jobs", paused=True)
    (entry,) = await entries(pool, action="queue.paused")
    assert (entry.actor, entry.source) == (process_actor(), Source.LIBRARY)


async def test_the_actor_does_not_reach_the_next_transaction(
    pool: Pool, database_url: str, tmp_path: Path
) -> None:
    """Of another client of the same pooled session, or of the same caller."""
    with pgbouncer(tmp_path, database_url, pool_size=1) as pooler:
        url = pooler.url(database_url)
        source = await Database.connect(url, pooled=True)
        other = await asyncpg.connect(url, statement_cache_size=0)
        try:
            with acting_as("anna", source="console"):
                await set_queue_config(source, "jobs", paused=True)
            await other.execute("update meshhook.queue_config set paused = false")
        finally:
            await other.close()
            await source.close()
    paused, resumed = (await entries(pool, queue="jobs"))[-2:]
    assert (paused.action, paused.actor) == ("queue.paused", "anna")
    assert (resumed.action, resumed.actor) == ("queue.resumed", resumed.database_role)


async def test_in_a_transaction_of_the_caller_the_actor_is_for_the_call_only(pool: Pool) -> None:
    """What the caller does next is the caller's."""
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("select set_config('meshhook.actor', 'caller', true)")
        with acting_as("anna"):
            await set_queue_config(connection, "jobs", paused=True)
        await connection.execute("update meshhook.queue_config set paused = false")
    found = (await entries(pool, queue="jobs"))[-2:]
    assert [each.actor for each in found] == ["anna", "caller"]


async def test_a_hostile_actor_does_no_harm(pool: Pool) -> None:
    """A name is cut and escaped, whether the library or SQL says it."""
    with acting_as("a\0b\x1b[31m\n\ud800" + "x" * 1000):
        await set_queue_config(pool, "jobs", paused=True)
    async with pool.acquire() as connection, connection.transaction():
        for name, value in (
            ("actor", "c\x1b\n" + "y" * 1000),
            ("source", "somewhere"),
            ("filter", '{"a": "\\u0000"'),
            ("operation", "no uuid"),
        ):
            await connection.execute("select set_config('meshhook.' || $1, $2, true)", name, value)
        await connection.execute("update meshhook.queue_config set paused = false")
    first, second = (await entries(pool, queue="jobs"))[-2:]
    assert first.actor.startswith("a\\x00b\\x1b[31m\\n\\ud800x")
    assert second.actor.startswith("c??y")
    assert {len(first.actor), len(second.actor)} == {MAX_ACTOR_LENGTH}
    assert (second.source, second.operation, second.filter) == ("sql", None, None)


@pytest.mark.parametrize(("actor", "source"), [("", "cli"), (5, "cli"), ("a", "sql"), ("a", "x")])
def test_an_actor_that_is_none_is_refused(actor: Any, source: str) -> None:
    """Naming the argument."""
    with (
        pytest.raises(InvalidSettingError, match=r"^(actor|source) is"),
        acting_as(actor, source=source),
    ):
        pass


async def test_chunks_of_one_operation_can_be_summed(pool: Pool) -> None:
    """Each transaction has its row; together they are one change."""
    letters = DLQService(pool, "jobs")
    ids = await dead(pool, 3)
    with acting_as("anna"), one_operation():
        for each in ids:
            await letters.replay_dead_letter_job(each)
    await letters.delete_dead_letter_job((await dead(pool))[0])
    found = await list_audit_entries(pool, "jobs", action="dead_letters")
    assert len({each.operation for each in found[1:]}) == 1
    deleted, replayed = sum_operations(found)
    assert (deleted.count, deleted.operation) == (1, None)
    assert (replayed.count, replayed.actor, replayed.id) == (3, "anna", found[1].id)


async def test_entries_are_filtered_and_paged(pool: Pool) -> None:
    """By queue, action or group, actor and time; pages go down by id."""
    # The database of a test may be made some time before it.
    before = datetime.now(UTC) - timedelta(days=1)
    for actor in ("anna", "ben", "anna"):
        with acting_as(actor):
            await scheduled(pool)
            await delete_schedule(pool, "jobs", "yearly")
    assert len(await list_audit_entries(pool, action="schedule")) == 6
    assert len(await list_audit_entries(pool, action="schedule.added", actor="anna")) == 2
    assert await list_audit_entries(pool, "others") == []
    assert await list_audit_entries(pool, until=before) == []
    everything = await list_audit_entries(pool, since=before)
    paged: list[AuditEntry] = []
    while page := await list_audit_entries(pool, before=paged[-1].id if paged else None, limit=3):
        paged += page
    assert paged == everything
    assert [each.id for each in paged] == sorted((each.id for each in paged), reverse=True)


@pytest.mark.parametrize(
    "options",
    [{"limit": 0}, {"before": "x"}, {"action": 5}, {"actor": "\ud800"}, {"since": "today"}],
)
async def test_a_wrong_argument_of_a_list_is_named(pool: Pool, options: dict[str, Any]) -> None:
    """Before the database is asked."""
    with pytest.raises(InvalidSettingError, match=next(iter(options))):
        await list_audit_entries(pool, **options)


@pytest.fixture
async def roles(database_url: str, connection: Connection) -> AsyncIterator[Roles]:
    """Makes roles."""
    await create_queue(Database(connection), "others")
    async with Roles(database_url, connection) as roles:
        yield roles


async def _as_role(connection: Connection, role: str, sql: str) -> None:
    async with connection.transaction():
        await connection.execute(f"set local role {role}")
        await connection.execute(sql)


async def test_nobody_but_the_owner_changes_or_deletes_entries(
    connection: Connection, roles: Roles
) -> None:
    """Not even those who may write them by their changes; and a made-up one names its role."""
    for kind in (RoleKind.WORKER, RoleKind.PRODUCER, RoleKind.READER, RoleKind.ONCALL):
        async with connection.transaction():
            role = await roles.make(kind, name=f"test_{kind}")
            for sql in (
                "update meshhook.audit_log set actor = 'ben'",
                "delete from meshhook.audit_log",
                "insert into meshhook.audit_log (at, actor) values (now(), 'x')",
                "update meshhook.audit_settings set retention_days = 1",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await _as_role(connection, role, sql)


async def test_a_made_up_entry_names_the_role_that_wrote_it(
    connection: Connection, roles: Roles
) -> None:
    """Whatever actor it claims."""
    role = await roles.make(RoleKind.ONCALL, name="test_audited_oncall")
    own = await asyncpg.connect(roles.url(role))
    try:
        await own.execute(
            "begin; select set_config('meshhook.actor', 'somebody else', true), "
            "meshhook.audit('queue.paused', 'jobs'); commit"
        )
    finally:
        await own.close()
    (entry,) = await entries(connection, action="queue.paused")
    assert (entry.actor, entry.database_role) == ("somebody else", role)


@pytest.mark.parametrize(
    "value",
    [
        "'7'",
        "'[1, {\"old\": 1}]'",
        "'\"text\"'",
        '\'{"a": {"b": [1e5000]}}\'',
        "('{\"a\": ' || repeat('[', 500) || repeat(']', 500) || '}')::jsonb",
        "('{\"a\": ' || repeat('[', 3000) || repeat(']', 3000) || '}')::jsonb",
        "('{\"a\": ' || repeat('{\"b\":', 1500) || '1' || repeat('}', 1500) || '}')::jsonb",
    ],
)
async def test_no_entry_keeps_anybody_from_reading_the_log(
    connection: Connection, roles: Roles, value: str
) -> None:
    """Not even one that a role of the least rights has made up."""
    role = await roles.make(RoleKind.WORKER, "jobs")
    await _as_role(
        connection,
        role,
        f"select meshhook.audit('odd.change', 'jobs', filter => {value}, details => {value})",
    )
    [entry] = await list_audit_entries(connection, action="odd.change")
    for shown in (entry.filter, entry.details):
        assert shown is None or isinstance(shown, dict)
    assert entry.details
    assert json.loads(json.dumps(asdict(entry)["details"])) == entry.details
    assert what(entry)
    async with visiting(connection) as visitor:
        for path in ("/audit", "/audit.csv", "/queues/jobs", "/audit?queue=jobs"):
            answer = await visitor.get(path)
            assert answer.status_code == 200, path
        assert "odd.change" in answer.text


async def test_a_role_for_some_queues_sees_the_entries_of_these(
    connection: Connection, roles: Roles
) -> None:
    """One for all queues also sees those of queues that are gone, and those of none."""
    await create_queue(Database(connection), "gone")
    await drop_queue(Database(connection), "gone")
    some = await roles.make(RoleKind.READER, "others", name="test_some")
    every = await roles.make(RoleKind.READER, name="test_every")
    seen = {}
    for role in (some, every):
        async with connection.transaction():
            await connection.execute(f"set local role {role}")
            seen[role] = {each.queue for each in await entries(connection)}
    assert seen == {some: {"others"}, every: {"jobs", "others", "gone", None}}


async def test_old_entries_are_deleted_in_chunks(connection: Connection) -> None:
    """Those beyond the retention, up to 5,000 at a time, and no newer ones."""
    await connection.execute(
        "insert into meshhook.audit_log (at, database_role, actor, source, action) "
        "overriding system value select now() - interval '366 days', 'x', 'x', 'sql', 'x.y' "
        "from generate_series(1, 5010)"
    )
    await connection.execute("update meshhook.audit_settings set retention_days = 364")
    delete = queries.load("delete_expired_audit_entries")
    await connection.execute("delete from meshhook.audit_log where action = 'queue.created'")
    assert [await connection.fetchval(delete) for _ in range(3)] == [5000, 10, 0]
    assert [each.action for each in await entries(connection)] == ["audit.retention_changed"]


async def test_jobs_that_come_and_go_write_nothing(pool: Pool) -> None:
    """Neither sends nor claims nor outcomes nor due schedules touch the audit log."""
    before = len(await entries(pool))
    service = QueueService[Any](pool, "jobs")
    await service.enqueue_many([JOB] * 3)
    while (job := await service.dequeue()) is not None:
        await service.acknowledge(job)
    assert len(await entries(pool)) == before


async def test_all_that_people_set_of_a_schedule_is_written(connection: Connection) -> None:
    """A column is watched, or is one that workers write."""
    watched = await connection.fetch(
        "select a.attname, t.tgname is not null as is_watched from pg_attribute a "
        "left join pg_trigger t on t.tgrelid = a.attrelid and a.attnum = any (t.tgattr) "
        "and t.tgname = 'audit_changed_schedules' "
        "where a.attrelid = 'meshhook.schedules'::regclass and a.attnum > 0"
    )
    counters = {"enqueued_total", "overlapped_total", "missed_total", "failed_total"}
    assert {row["attname"] for row in watched if not row["is_watched"]} == counters | {
        *("queue", "name", "created_at", "next_at", "try_at", "error", "failed_at"),
        "resource",  # It is set once, with the schedule.
    }


# Statements and functions that change rows and write no entry, since no person makes the change:
# what is new fails a test until it writes one, or stands here.
AUTOMATIC = {
    "begin_budget_anew()",
    # Jobs come in.
    *("enqueue", "enqueue_unique", "enqueue_unique_new", "enqueue_many()", "enqueue_unique()"),
    *("create_group()", "enqueue_group()", "insert_group_callback()", "publish()"),
    # Workers take and settle them.
    *(
        "advance_messages",
        "claim",
        "claim_keyed",
        "claim_prioritized",
        "extend",
        "release",
        "settle",
    ),
    *("settle_alike", "settle_succeeded", "fail_schedule", "fire_schedule()", "send_firing()"),
    *("count_ended_jobs()", "enqueue_follow_ups()", "enqueue_group_callback()"),
    "follow_dead_letters()",
    *("grant_retries()", "repair_groups()", "carry_out_cancellations()", "hold_keys_of_jobs"),
    *("record_key_failures()", "record_key_successes()", "hold_key_of_dead_letter()"),
    *("report_workers", "withdraw_worker", "forget_workers", "delete_withdrawn_worker()"),
    # They keep house.
    "delete_expired_finished()",
    *("delete_expired_archived", "delete_expired_attempts()", "delete_expired_dead_letters"),
    *("delete_idle_breakers()", "delete_past_cancellations()", "delete_past_firings()"),
    *("delete_past_groups()", "delete_unused_unique_keys", "delete_freed_key()"),
    *("delete_past_audit_entries()", "forget_former_unique_keys()", "forget_unique_keys()"),
    # What follows from a change that has its entry.
    *(
        "replace_messages",
        "take_keys_of_replayed",
        "resume_keys_of_dead_letters()",
        "resume_keys_of_queue()",
    ),
    # The operator renews cordons with each tick, and says how it scales.
    *("cordon_workers()", "report_scaling", "forget_scaling"),
    # Parts of functions that write the entry; it changes nothing; it writes the entry.
    *(
        "cancel_messages()",
        "move_messages()",
        "prioritize_messages()",
        "erase_jobs()",
        "check_adoptable_tables()",
        "audit()",
    ),
}
# Those whose tables have triggers that write the entry.
TRIGGERED = {
    "replace_message_of_schedule",
    *("create_queue()", "drop_queue()", "set_queue_config", "set_breaker", "set_keys"),
    *("set_limits", "set_lookups", "set_key", "set_declared_keys", "hold_key", "forget_key"),
    *("set_retries", "set_priorities", "set_encryption", "set_kept_bodies"),
    *("add_schedule()", "pause_schedule", "run_schedule", "delete_schedule", "apply_role()"),
    *("declare_schedule()", "delete_declared_schedule"),
}


def _writes(text: str) -> bool:
    code = re.sub(r"--[^\n]*", "", text)
    return bool(
        re.search(
            r"(?i)\b(insert\s+into|update|delete\s+from)\s+(only\s+)?(pgmq|meshhook|[{])", code
        )
    )


async def test_whatever_changes_rows_is_in_the_log_or_in_a_list(connection: Connection) -> None:
    """Each statement and function writes an entry, or says here that it is automatic."""
    texts: dict[str, str] = {}
    for package in ("meshhook.store", "meshhook_operator"):
        for file in resources.files(package).joinpath("sql").iterdir():
            texts[file.name.removesuffix(".sql")] = file.read_text("utf-8")
    rows = await connection.fetch(
        "select p.proname || '()' as name, p.prosrc from pg_proc p "
        "where p.pronamespace = 'meshhook'::regnamespace and p.prosrc <> ''"
    )
    texts |= {row["name"]: row["prosrc"] for row in rows}
    writing = {name for name, text in texts.items() if _writes(text)}
    silent = {name for name in writing if "meshhook.audit(" not in texts[name]}
    assert silent == AUTOMATIC | TRIGGERED
