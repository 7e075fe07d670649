"""`meshhook.find_jobs`: what the library finds, found from SQL, page by page."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook.administration import create_queue, drop_queue, set_queue_config
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.tracking import find_jobs
from support.plans import buffers
from support.roles import Roles

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

SINCE = datetime(2026, 1, 1, 20, tzinfo=UTC)
UNTIL = datetime(2026, 1, 3, 6, tzinfo=UTC)
HISTORY = """
    insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, workflow_id,
        project_id, enqueued_at, finished_at, error_type, error_message)
    select 'jobs', n, t, case when t < 1 + n % 3 then 'retried' else
            (array['succeeded', 'dead_lettered', 'cancelled', 'retried'])[1 + n % 4] end,
        'r' || n % 7, 'w' || n % 2, 'p' || n % 3, '2026-01-01Z',
        '2026-01-01Z'::timestamptz + n * interval '1h' + t * interval '1s',
        case when t < 1 + n % 3 or n % 4 in (1, 3) then 'E' || n % 2 end, 'it broke'
    from generate_series(1, 60) n, generate_series(1, 1 + n % 3) t
"""
MESSAGES = """
    insert into pgmq.q_jobs (msg_id, vt, read_ct, enqueued_at, message, headers)
        overriding system value
    select n, now() + (n % 3 - 1) * interval '1 day', n % 2 * (1 + n % 3),
        case when n > 60 then '2026-01-01Z'::timestamptz + (n - 60) * interval '1h'
            else '2026-01-01Z' end,
        jsonb_build_object('run_id', 'r' || n % 7, 'workflow_id', 'w' || n % 2,
            'project_id', 'p' || n % 3),
        jsonb_build_object('x-pgmq-group', 'k' || n % 5, 'meshhook-settled',
            case when n % 5 = 0 then 9 else 0 end, 'meshhook-priority', n % 4)
    from generate_series(1, 120) n
    where n > 60 or n % 4 = 3 and n % 8 = 3
"""
SEARCHES: tuple[dict[str, Any], ...] = (
    {},
    {"run_id": "r3"},
    {"run_id": "r3", "state": "succeeded"},
    {"run_id": "r3", "error_type": "E1"},
    {"workflow_id": "w1", "project_id": "p2"},
    {"workflow_id": "w1", "state": "cancelled"},
    {"key": "k2"},
    {"key": "k2", "state": "ready"},
    {"priority": "urgent"},
    {"priority": "normal", "run_id": "r3"},
    {"priority": "low", "state": "ready", "until": UNTIL},
    {"priority": "high", "key": "k2"},
    *({"state": s} for s in ("ready", "scheduled", "running", "retrying", "lost", "succeeded")),
    *({"state": s} for s in ("dead_lettered", "cancelled", "archived", "expired", "replayed")),
    {"error_type": "E1"},
    {"error_type": "E1", "state": "dead_lettered"},
    {"error_type": "E1", "state": "retrying"},
    {"since": SINCE},
    {"until": UNTIL},
    {"since": SINCE, "until": UNTIL},
    {"since": SINCE, "until": UNTIL, "error_type": "E0"},
    {"since": SINCE, "until": UNTIL, "state": "ready"},
    {"run_id": "none"},
    {"error_type": "none"},
)


@pytest.fixture
def database(pool: asyncpg.Pool[Any]) -> Database:
    """The migrated database of this test."""
    return Database(pool)


async def page(connection: Connection, **arguments: Any) -> list[asyncpg.Record]:
    """Call the function with named arguments."""
    names = ", ".join(f"{name} => ${at}" for at, name in enumerate(arguments, 2))
    comma = ", " if names else ""
    return await connection.fetch(
        f"select * from meshhook.find_jobs($1{comma}{names})", "jobs", *arguments.values()
    )


async def all_pages(connection: Connection, **arguments: Any) -> list[asyncpg.Record]:
    """Return the jobs of all pages."""
    found: list[asyncpg.Record] = []
    before_id = None
    while rows := await page(connection, before_id=before_id, **arguments):
        lowest = min(row["msg_id"] for row in rows)
        assert before_id is None or lowest < before_id
        before_id = lowest
        assert [row["msg_id"] for row in rows] == sorted(
            (row["msg_id"] for row in rows), reverse=True
        )
        found += [row for row in rows if row["state"] != "unread"]
    return found


@pytest.mark.parametrize("lookup_by", ["none", "run_id,workflow_id"])
@pytest.mark.parametrize(
    "limits",
    [
        {"max_jobs": 1_000},
        {"max_jobs": 7},
        {"max_jobs": 9, "max_read": 20},
    ],
    ids=json.dumps,
)
async def test_it_finds_what_the_library_finds(
    database: Database, connection: Connection, lookup_by: str, limits: dict[str, int]
) -> None:
    """Whatever is asked for, in one page or in many, and however little each may read."""
    await connection.execute(HISTORY)
    await connection.execute(MESSAGES)
    await set_queue_config(database, "jobs", lookup_by=lookup_by)
    for filters in SEARCHES:
        expected = await find_jobs(database, queue="jobs", limit=1_000, **filters)
        assert expected.is_complete
        found = await all_pages(connection, **filters, **limits)
        assert [
            (row["msg_id"], row["state"], row["attempts"], row["run_id"], row["workflow_id"],
             row["project_id"], row["enqueued_at"], row["ready_at"])
            for row in found
        ] == [
            (job.msg_id, job.state, job.attempts, job.run_id, job.workflow_id,
             job.project_id, job.enqueued_at, job.ready_at)
            for job in sorted(expected, key=lambda job: -job.msg_id)
        ], filters  # fmt: skip


async def test_the_smallest_pages_come_to_the_end(
    database: Database, connection: Connection
) -> None:
    """A page of one job that may look at one message and one attempt gets further all the same."""
    await connection.execute(HISTORY)
    await connection.execute(MESSAGES)
    for filters in ({}, {"run_id": "r3"}, {"error_type": "E1"}):
        expected = await find_jobs(database, queue="jobs", limit=1_000, **filters)  # type: ignore[arg-type]
        found = await all_pages(connection, **filters, max_jobs=1, max_read=1)
        assert len(found) == len(expected)


async def test_a_page_that_was_cut_off_says_so(connection: Connection) -> None:
    """Its last row is no job, and names the id before which the search goes on."""
    await connection.execute(
        """insert into pgmq.q_jobs (vt, message)
        select now(), jsonb_build_object('run_id', 'r' || n) from generate_series(1, 30) n"""
    )
    rows = await page(connection, run_id="r5", max_read=10)
    assert [(row["msg_id"], row["state"]) for row in rows] == [(21, "unread")]
    rows = await page(connection, run_id="r25", max_read=10)
    assert [(row["msg_id"], row["state"]) for row in rows] == [(25, "ready"), (21, "unread")]
    rows = await page(connection, run_id="r5", before_id=21, max_read=20)
    assert [(row["msg_id"], row["state"]) for row in rows] == [(5, "ready")]
    assert await page(connection, run_id="r5", before_id=5) == []


async def test_many_attempts_of_one_job_do_not_stop_a_search(connection: Connection) -> None:
    """Each page gets further, though the attempts of one job are more than it may read."""
    await connection.execute(
        """insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, enqueued_at,
            finished_at)
        select 'jobs', 1 + n / 50, n, 'snoozed', 'r', '2026-01-01Z', now() + n * interval '1s'
        from generate_series(0, 99) n"""
    )
    for filters in ({}, {"run_id": "r"}):
        found = await all_pages(connection, max_read=3, **filters)
        assert [(row["msg_id"], row["attempts"]) for row in found] == [(2, 99), (1, 49)]


async def test_two_jobs_with_one_id(database: Database, connection: Connection) -> None:
    """Those of a queue that was dropped and made again are both there."""
    await connection.execute(
        """insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, enqueued_at,
            finished_at)
        values ('jobs', 1, 1, 'succeeded', 'before', '2026-01-01Z', '2026-01-01Z')"""
    )
    await drop_queue(database, "jobs")
    await create_queue(database, "jobs")
    await connection.execute("insert into pgmq.q_jobs (vt, message) values (now(), '{}')")
    found = await page(connection, max_jobs=1)
    assert {(row["msg_id"], row["state"]) for row in found} == {(1, "ready"), (1, "succeeded")}
    assert [row["run_id"] for row in await page(connection, state="succeeded")] == ["before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_jobs": 0}, "max_jobs is 1 to 1000, got 0"),
        ({"max_jobs": None}, "max_jobs is 1 to 1000, got null"),
        ({"max_read": 10_000_001}, "max_read is 1 to 10000000, got 10000001"),
        ({"state": "'; drop table x; --"}, 'state is ready, .*, got "\'; drop table x; --"'),
        ({"state": "unread"}, "state is ready, "),
        ({"since": UNTIL, "until": SINCE}, "since is before until, got 2026-01-03"),
        ({"key": "k", "error_type": "E"}, "key: the history has no keys"),
        ({"key": "k", "state": "succeeded"}, "key: the history has no keys"),
        ({"priority": "low", "error_type": "E"}, "priority: the history has no priorities"),
        ({"priority": "low", "state": "expired"}, "priority: the history has no priorities"),
    ],
)
async def test_a_wrong_argument_is_named(
    connection: Connection, arguments: dict[str, Any], message: str
) -> None:
    """By an error that says what would be right."""
    with pytest.raises(asyncpg.PostgresError, match=message) as refused:
        await page(connection, **arguments)
    assert refused.value.sqlstate == "MHQ08"


async def test_what_is_no_priority_is_named(connection: Connection) -> None:
    """By the error of every function that takes one; a number is one, too."""
    with pytest.raises(asyncpg.PostgresError, match=r'priority is urgent.*, got "soon"') as refused:
        await page(connection, priority="soon")
    assert refused.value.sqlstate == "MHQ07"
    assert await page(connection, priority="0") == []


async def test_a_queue_that_is_not_there_is_named(connection: Connection) -> None:
    """As with every function of the contract; so is a name that cannot be one."""
    for name, state in (("nope", "MHQ05"), ("no pe", "42602"), ("jobs_dlq", "42602")):
        with pytest.raises(asyncpg.PostgresError, match=name) as refused:
            await connection.fetch("select * from meshhook.find_jobs($1)", name)
        assert refused.value.sqlstate == state


@pytest.mark.parametrize("text", ["'", "%s", "$1", "\\", "{}", '"', "\N{SNOWMAN}" * 300, ""])
async def test_every_text_is_a_value(connection: Connection, text: str) -> None:
    """Ids, keys and errors are compared with what jobs have, and never run."""
    await connection.execute(
        """insert into pgmq.q_jobs (vt, message, headers)
        values (now(), jsonb_build_object('run_id', $1::text),
            jsonb_build_object('x-pgmq-group', $1::text))""",
        text,
    )
    assert len(await page(connection, run_id=text, key=text)) == 1
    assert await page(connection, workflow_id=text, project_id=text) == []
    assert await page(connection, error_type=text) == []


@pytest.mark.parametrize("kind", [RoleKind.READER, RoleKind.ONCALL, RoleKind.WORKER])
async def test_whoever_may_read_the_queue_may_search(
    connection: Connection, database_url: str, kind: RoleKind
) -> None:
    """With no more rights than the role has; a role for other queues does not see the queue."""
    await create_queue(connection, "other")
    await connection.execute("insert into pgmq.q_jobs (vt, message) values (now(), '{}')")
    async with Roles(database_url, connection) as roles:
        role = await roles.make(kind, "jobs", name="test_own")
        other = await roles.make(kind, "other", name="test_other")
        await connection.execute(f"set role {role}")
        assert len(await page(connection)) == 1
        await connection.execute(f"set role {other}")
        with pytest.raises(asyncpg.PostgresError):
            await page(connection)
        await connection.execute("reset role")


async def test_a_search_reads_by_index_what_it_was_told_to(
    database: Database, connection: Connection
) -> None:
    """Of 100,000 messages and as many attempts, a page reads some hundred pages."""
    await connection.execute(
        """insert into pgmq.q_jobs (vt, message)
        select now(), jsonb_build_object('run_id', 'r' || n / 50, 'project_id', 'p' || n % 2)
        from generate_series(1, 100000) n"""
    )
    await connection.execute(
        """insert into meshhook.job_attempts (queue, msg_id, attempt, outcome, run_id, project_id,
            enqueued_at, finished_at, error_type)
        select 'jobs', n, 1, case when n % 2000 = 0 then 'cancelled' else 'succeeded' end,
            'r' || n / 50, 'p' || n % 2, now(), now(), case when n % 2000 = 0 then 'Rare' end
        from generate_series(1, 100000) n"""
    )
    await set_queue_config(database, "jobs", lookup_by="run_id,project_id")
    read = {}
    for is_analyzed in (False, True):
        if is_analyzed:
            await connection.execute("vacuum analyze pgmq.q_jobs")
            await connection.execute("vacuum analyze meshhook.job_attempts")
        for arguments in (
            "run_id => 'r7'",
            "project_id => 'p1', before_id => 50000",
            "project_id => 'gone', state => 'ready'",
            "state => 'cancelled'",
            "error_type => 'Rare'",
            "error_type => 'Never'",
            "before_id => 50000",
            "workflow_id => 'gone', max_read => 1000",
            "priority => 'urgent', max_read => 1000",
        ):
            sql = f"select * from meshhook.find_jobs('jobs', {arguments})"
            await connection.fetch(sql)
            text = await connection.fetchval(f"explain (analyze, buffers, format json) {sql}")
            read[arguments, is_analyzed] = buffers(json.loads(text)[0]["Plan"])
    assert max(read.values()) < 4_000, read


async def test_the_sql_of_the_guide_runs(database: Database, connection: Connection) -> None:
    """Each block, on a queue with a job."""
    await create_queue(database, "orders")
    await connection.execute("select meshhook.enqueue('orders', '{\"run_id\": \"7f8c0d3e\"}')")
    text = (Path(__file__).parents[1] / "docs" / "how-to" / "find-jobs.md").read_text()
    blocks = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    assert blocks
    for block in blocks:
        await connection.execute(block)
