"""Pages of a deep queue: each statement reads little, and finds what it should."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshhook.audit import find_audit_entries
from meshhook.dead_letter_search import (
    DeadLetterFilter,
    find_dead_letters,
    list_error_groups,
    match_dead_letters,
)
from meshhook.postgres.connecting import connect
from meshhook.postgres.database import Database
from meshhook.store import queries
from meshhook.tracking import find_jobs
from support.plans import buffers, explained, nodes, scans_of

DEPTH = 60_000
MANY = 9_223_372_036_854_775_807
FILL = """
    insert into pgmq.q_jobs_dlq (vt, enqueued_at, message, headers)
    select now(), now() - make_interval(mins => $1::int - n), '{"run_id": "r"}',
        jsonb_build_object('meshhook-dead-letter', jsonb_build_object('queue', 'jobs', 'msg_id', n,
            'attempts', 3, 'error_message', 'error ' || n, 'error_type',
            case when n <= 2 then 'RareError' else 'Error' || n % 3 end))
    from generate_series(1, $1::int) n
"""
FILL_AUDIT = """
    insert into meshhook.audit_log (at, database_role, actor, source, action, queue)
    select now() - make_interval(mins => $1::int - n), 'r',
        case when n = 7 then 'ada' else 'bob' end, 'console', 'queue.paused',
        case when n = 9 then 'rare' else 'jobs' end
    from generate_series(1, $1::int) n
"""
ERROR = "'RareError', null, null, null, null, null, null"
STATEMENTS = {
    "list_error_groups": ("20, 200, 500", 1_500),
    "find_dead_letter_id": ("now() - interval '20 days'", 200),
    "match_dead_letters": (f"{MANY}, 51, null, null, null, null, null, null, null, 0", 60),
    "match_dead_letters_by_error_type": (f"{MANY}, 51, {ERROR}, 0", 60),
    "list_dead_letter_lines": (f"array{[*range(1, 51)]}::bigint[]", 250),
    "find_audit_id": ("now() - interval '20 days'", 200),
    "bound_audit_entries": (f"null, {MANY}, 5000, 0", 400),
    "bound_audit_entries_of_queue": (f"'rare', {MANY}, 5000, 0", 60),
    "list_audit_entries": (f"null, null, null, null, null, {MANY}, 50, 0", 60),
    "list_audit_entries_of_queue": (f"'rare', null, null, null, null, {MANY}, 50, 0", 60),
}
"""Statements, with arguments as an EXECUTE takes them, and how many buffers they may read."""
MODES = ["auto", "force_generic_plan", "force_custom_plan"]


@pytest.mark.parametrize("is_analyzed", [True, False])
async def test_statements_of_pages_read_by_index(
    is_analyzed: bool, database_url: str, connection: Any, queue_name: str
) -> None:
    """A type, a queue or a time that is rare in a deep table is found without the rest."""
    await connection.execute(FILL, DEPTH)
    await connection.execute(FILL_AUDIT, DEPTH)
    if is_analyzed:
        await connection.execute("vacuum analyze pgmq.q_jobs_dlq, meshhook.audit_log")
    for mode in MODES:
        session = await connect(database_url)
        await session.execute(f"set plan_cache_mode = {mode}")
        for name, (arguments, most) in STATEMENTS.items():
            if "audit" in name and not is_analyzed:
                continue  # taken for a small table; autovacuum analyzes the log as it grows
            await session.execute(f"prepare {name} as {queries.load(name, queue_name)}")
            plan = await explained(session, name, arguments)
            case = f"{name}, {mode}: {json.dumps(plan)[:4000]}"
            for table in ("q_jobs_dlq", "audit_log"):
                assert "Seq Scan" not in scans_of(plan, table), case
            assert buffers(plan) <= most, case
            rows = [node["Actual Rows"] * node["Actual Loops"] for node in nodes(plan)]
            assert max(rows) <= 10_000, case
        await session.close()


async def test_errors_are_counted_however_old_and_rare(connection: Any, queue_name: str) -> None:
    """Each type has its first and newest dead letter; counts stop at 500."""
    await connection.execute(FILL, 12_000)
    await connection.execute("insert into pgmq.q_jobs_dlq (vt, message) values (now(), '1')")
    groups = await list_error_groups(connection, queue_name)
    assert [(each.error_type, each.count, each.capped) for each in groups] == [
        ("Error0", 500, True),
        ("Error2", 500, True),
        ("Error1", 500, True),
        ("RareError", 2, False),
        (None, 1, False),
    ]
    rare = groups[3]
    assert (rare.sample_id, rare.sample_message) == (2, "error 2")
    assert rare.last_dead_at - rare.first_dead_at == timedelta(minutes=1)


async def test_the_most_frequent_of_many_types_come_first(connection: Any, queue_name: str) -> None:
    """With more types than are shown, those of the newest dead letters are not left out."""
    await connection.execute(FILL.replace("n % 3", "lpad(n::text, 9, '0')"), 300)
    await connection.execute(FILL.replace("n % 3", "'Zebra'"), 100)
    groups = await list_error_groups(connection, queue_name, limit=3)
    assert groups[0].error_type == "ErrorZebra"
    assert groups[0].count == 98
    assert len(groups) == 3


async def test_errors_are_counted_without_the_index(connection: Any, queue_name: str) -> None:
    """A queue whose index is missing has its newest dead letters counted."""
    await connection.execute(FILL, 12)
    await connection.execute("drop index pgmq.q_jobs_dlq_error_idx")
    groups = await list_error_groups(connection, queue_name)
    assert {each.error_type: each.count for each in groups} == {
        "Error0": 4,
        "Error1": 3,
        "Error2": 3,
        "RareError": 2,
    }


@pytest.mark.parametrize("error_type", [None, "Error1"])
async def test_a_time_is_found_without_reading_what_is_newer(
    error_type: str | None, connection: Any, queue_name: str
) -> None:
    """Exactly those of the time are found, page by page, and no others are looked at for long."""
    await connection.execute(FILL, 30_000)
    now = datetime.now(UTC)
    wanted = DeadLetterFilter(
        error_type=error_type,
        since=now - timedelta(minutes=20_100),
        until=now - timedelta(minutes=20_000),
    )
    rows = await connection.fetch(
        "select msg_id from pgmq.q_jobs_dlq where enqueued_at >= $1 and enqueued_at < $2 and "
        "($3::text is null or headers #>> '{meshhook-dead-letter,error_type}' = $3) "
        "order by 1 desc",
        wanted.since,
        wanted.until,
        error_type,
    )
    expected = [row[0] for row in rows]
    assert len(expected) in {33, 34, 100}
    found: list[int] = []
    before = None
    while True:
        page = await find_dead_letters(connection, queue_name, wanted, before_id=before, limit=30)
        assert page.is_complete
        found += [each.id for each in page.dead_letters]
        before = page.next_before
        if before is None:
            break
    assert found == expected
    matched = await match_dead_letters(connection, queue_name, wanted)
    assert (matched.ids, matched.is_complete) == (expected, True)


async def test_a_time_before_all_finds_nothing(connection: Any, queue_name: str) -> None:
    """So it is in an empty queue, and where all are newer or older."""
    now = datetime.now(UTC)
    early, late = (
        DeadLetterFilter(until=now - timedelta(days=99)),
        DeadLetterFilter(since=now + timedelta(days=1)),
    )
    for count in (0, 3):
        await connection.execute(FILL, count)
        for wanted in (early, late):
            found = await find_dead_letters(connection, queue_name, wanted)
            assert (found.dead_letters, found.next_before) == ([], None)
    everything = DeadLetterFilter(since=now - timedelta(days=99), until=now + timedelta(days=1))
    assert len((await find_dead_letters(connection, queue_name, everything)).dead_letters) == 3


async def test_what_is_newer_only_by_its_id_is_read_at_once(
    monkeypatch: pytest.MonkeyPatch, connection: Any, queue_name: str
) -> None:
    """Thousands died in the minutes after a time, and one statement reads past them all."""
    await connection.execute(
        FILL.replace("mins => $1::int - n", "secs => 0.2 * ($1::int - n)"), 30_000
    )
    read: list[int] = []
    fetchrow = Database.fetchrow

    async def noted(self: Database, query: str, *args: Any) -> Any:
        if "looked_at" in query:
            read.append(args[1])
        return await fetchrow(self, query, *args)

    monkeypatch.setattr(Database, "fetchrow", noted)
    until = datetime.now(UTC) - timedelta(minutes=30)
    wanted = DeadLetterFilter(until=until)
    found = await find_dead_letters(connection, queue_name, wanted, limit=50)
    newest = await connection.fetchval(
        "select max(msg_id) from pgmq.q_jobs_dlq where enqueued_at < $1", until
    )
    assert [each.id for each in found.dead_letters] == [*range(newest, newest - 50, -1)]
    assert len(read) == 1
    # 3,000 in ten minutes, and the page.
    assert 3_000 < read[0] < 3_200


async def test_a_large_side_is_counted_and_not_read(
    database_url: str, connection: Any, queue_name: str
) -> None:
    """Of more messages in the state's half of the queue than may be read, none is."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '1' from generate_series(1, 20000)"
    )
    await connection.execute("vacuum analyze pgmq.q_jobs")
    for mode in MODES:
        session = await connect(database_url)
        await session.execute(f"set plan_cache_mode = {mode}")
        name = "find_live_jobs_by_state"
        await session.execute(f"prepare {name} as {queries.load(name, queue_name)}")
        for most, rows in ((10_000, 0), (20_000, 20_000)):
            plan = await explained(
                session,
                name,
                f"null, null, null, {most}, 'ready', true, 50, null, null, null, {MANY}, null",
            )
            case = f"{mode}: {json.dumps(plan)[:4000]}"
            assert "Seq Scan" not in scans_of(plan), case
            read = [
                node["Actual Rows"] * node["Actual Loops"]
                for node in nodes(plan)
                if node["Node Type"] == "Index Scan"
            ]
            assert sum(read) == rows, case
        await session.close()


async def test_states_are_paged_in_a_deep_queue(connection: Any, queue_name: str) -> None:
    """The few that run are found among many that wait, from any id down."""
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), '1' from generate_series(1, 3000)"
    )
    await connection.execute(
        "update pgmq.q_jobs set vt = now() + '1 hour', read_ct = 1 where msg_id % 1000 = 1"
    )
    found = await find_jobs(connection, queue=queue_name, state="running", limit=2)
    assert [job.msg_id for job in found] == [2001, 1001]
    assert (found.is_complete, found.seen) == (True, 3)
    found = await find_jobs(connection, queue=queue_name, state="running", before_id=1001)
    assert [job.msg_id for job in found] == [1]
    assert found.seen == 3
    found = await find_jobs(connection, queue=queue_name, state="ready", limit=50)
    assert len(found) == 50
    assert found.seen < 1_000


async def test_changes_are_searched_a_part_at_a_time(connection: Any) -> None:
    """A rare actor is found by going on; of a time, only its changes are looked at."""
    await connection.execute(FILL_AUDIT, 12_000)
    found = await find_audit_entries(connection, actor="ada")
    parts = 1
    while not found.is_complete:
        assert (found.entries, found.next_before is None) == ([], False)
        found = await find_audit_entries(connection, actor="ada", before=found.next_before)
        parts += 1
    assert [each.actor for each in found.entries] == ["ada"]
    assert parts == 3
    now = datetime.now(UTC)
    found = await find_audit_entries(
        connection,
        "jobs",
        since=now - timedelta(minutes=11_960),
        until=now - timedelta(minutes=11_930),
    )
    assert len(found.entries) == 30
    assert (found.is_complete, found.next_before) == (True, None)
