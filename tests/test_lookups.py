"""Jobs in a queue by run, workflow and project: indexes that its setting `lookup_by` asks for."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, TypeAlias

import asyncpg
import pytest

from meshhook import App, Job, QueueService, create_queue
from meshhook.administration import get_queue_config, set_queue_config
from meshhook.errors import DatabaseError, InvalidSettingError
from meshhook.postgres.database import Database
from meshhook.role_kinds import RoleKind
from meshhook.store import job_search
from meshhook.tracking import find_jobs
from support.roles import Roles

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

ALL = "run_id,workflow_id,project_id"
INDEXES = "select indexname from pg_indexes where tablename = 'q_jobs' and indexname ~ '_id_idx$'"
VALID = "select bool_and(indisvalid) from pg_index where indrelid = 'pgmq.q_jobs'::regclass"
ODD_IDS = (
    '"r"',
    '"' + "x" * 1_000_000 + '"',
    '"' + "\N{SMILING FACE WITH HALO}" * 300 + '"',
    '"' + "é" * 201 + '"',
    '""',
    '"a\\"b\\\\c\\n"',
    "7",
    "-7.50",
    "1e399",
    "1e400",
    "1e131071",
    "1e-16000",
    f"0.{'1' * 500}",
    "null",
    "true",
    "[1]",
    '{"a": 1}',
    f"[{','.join(['1e131071'] * 9_000)}]",
)
"""What other clients may write for an id: as JSON."""


@pytest.fixture
def database(pool: Pool) -> Database:
    """The migrated database of this test."""
    return Database(pool)


async def indexes(connection: Connection) -> set[str]:
    """Return the names of the indexes of ids."""
    return {row[0] for row in await connection.fetch(INDEXES)}


async def fill(connection: Connection, count: int) -> None:
    """Add messages of 2 runs, 3 workflows and 5 projects."""
    await connection.execute(
        """insert into pgmq.q_jobs (vt, message)
        select now(), jsonb_build_object('run_id', 'r' || n % 2, 'workflow_id', 'w' || n % 3,
            'project_id', n % 5)
        from generate_series(1, $1::int) n""",
        count,
    )


async def test_the_setting_builds_and_drops_the_indexes(
    database: Database, connection: Connection
) -> None:
    """Of the ids that it names, in any order; those that stay are not built again."""
    config = await set_queue_config(database, "jobs", lookup_by="project_id, run_id")
    assert config.lookup_by == ("run_id", "project_id")
    assert await indexes(connection) == {"q_jobs_run_id_idx", "q_jobs_project_id_idx"}
    oid = "select 'pgmq.q_jobs_run_id_idx'::regclass::oid"
    before = await connection.fetchval(oid)
    await set_queue_config(database, "jobs", lookup_by=["workflow_id", "run_id"], paused=True)
    assert await indexes(connection) == {"q_jobs_run_id_idx", "q_jobs_workflow_id_idx"}
    assert await connection.fetchval(oid) == before
    assert (await get_queue_config(database, "jobs")).lookup_by == ("run_id", "workflow_id")
    assert (await set_queue_config(database, "jobs", lookup_by="none")).lookup_by == ()
    assert await indexes(connection) == set()


async def test_the_index_of_an_interrupted_run_is_built_anew(
    database: Database, connection: Connection
) -> None:
    """An index that is not valid, or something else, is used by nobody, and is replaced."""
    await connection.execute("create index q_jobs_project_id_idx on pgmq.q_jobs (msg_id)")
    await set_queue_config(database, "jobs", lookup_by=ALL)
    await connection.execute(
        "update pg_index set indisvalid = false "
        "where indexrelid = 'pgmq.q_jobs_run_id_idx'::regclass"
    )
    assert await connection.fetchval("select meshhook.indexed_ids('jobs')") == [
        "workflow_id",
        "project_id",
    ]
    with pytest.raises(asyncpg.PostgresError, match="no index of run_id yet"):
        await connection.execute("update meshhook.queue_config set lookup_by = lookup_by")
    await set_queue_config(database, "jobs", lookup_by=ALL)
    assert await connection.fetchval(VALID)
    assert "indexed_id" in await connection.fetchval(
        "select indexdef from pg_indexes where indexname = 'q_jobs_project_id_idx'"
    )


async def test_sql_alone_does_not_set_it(connection: Connection) -> None:
    """The database refuses it without the index, and the error has the command."""
    with pytest.raises(asyncpg.PostgresError, match='"jobs" has no index of run_id') as refused:
        await connection.execute("update meshhook.queue_config set lookup_by = '{run_id}'")
    assert refused.value.hint == "Build it: meshhook queue set jobs lookup_by=run_id"
    for wrong in ("{key}", "{{run_id}}", "{NULL}"):
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(f"update meshhook.queue_config set lookup_by = '{wrong}'")
    with pytest.raises(asyncpg.PostgresError, match=r'lookup_by names .* got "key"'):
        await connection.fetch("select meshhook.lookup_index_statements('jobs', '{key}', true)")


@pytest.mark.parametrize("wrong", ["", "key", "run_id;project_id", ["run_id", None], 7, {"run_id"}])
async def test_a_wrong_id_is_refused(database: Database, wrong: object) -> None:
    """The error names the setting, what it takes and what came."""
    with pytest.raises(InvalidSettingError, match=r"lookup_by=.*run_id, workflow_id, project_id"):
        await set_queue_config(database, "jobs", lookup_by=wrong)
    assert (await get_queue_config(database, "jobs")).lookup_by == ()


async def test_a_small_queue_is_indexed_in_a_transaction(connection: Connection) -> None:
    """So is one that is made in it; a large one is refused, since everybody would wait."""
    async with connection.transaction():
        await create_queue(connection, "new")
        await set_queue_config(connection, "new", lookup_by="run_id")
    assert (await get_queue_config(connection, "new")).lookup_by == ("run_id",)
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), to_jsonb(repeat('x', 1000)) "
        "from generate_series(1, 10000)"
    )
    with pytest.raises(DatabaseError, match="too large to build its indexes for lookup_by"):
        async with connection.transaction():
            await set_queue_config(connection, "jobs", lookup_by="run_id")
    assert (await set_queue_config(connection, "jobs", lookup_by="run_id")).lookup_by
    async with connection.transaction():
        assert not (await set_queue_config(connection, "jobs", lookup_by=None)).lookup_by


async def test_an_app_declares_it(pool: Pool, connection: Connection) -> None:
    """A queue that the app creates has the index from the start."""
    app = App(pool)

    @app.job("imports", lookup_by=["run_id"])
    async def handle(job: Job[Any]) -> None: ...

    await handle.enqueue({})
    await app.close()
    assert await connection.fetchval("select meshhook.indexed_ids('imports')") == ["run_id"]


async def test_whoever_is_on_call_changes_the_other_settings(
    database: Database, connection: Connection, database_url: str
) -> None:
    """That needs no right to build indexes; the setting itself does. All roles may look."""
    await set_queue_config(database, "jobs", lookup_by="run_id")
    msg_id = await QueueService[Any](database, "jobs").enqueue({"run_id": "r"})
    async with Roles(database_url, connection) as roles:
        own = await asyncpg.connect(roles.url(await roles.make(RoleKind.ONCALL)))
        try:
            assert (await set_queue_config(own, "jobs", paused=True)).lookup_by == ("run_id",)
            with pytest.raises(DatabaseError):
                await set_queue_config(own, "jobs", lookup_by="project_id")
            assert [job.msg_id for job in await find_jobs(own, run_id="r")] == [msg_id]
        finally:
            await own.close()


@pytest.mark.parametrize("is_indexed_first", [True, False])
async def test_whatever_stands_in_a_message_is_stored_and_found(
    database: Database, connection: Connection, *, is_indexed_first: bool
) -> None:
    """No insert fails for an index, nor does building it; and it finds what reading finds."""
    if is_indexed_first:
        await set_queue_config(database, "jobs", lookup_by=ALL)
    for text in ODD_IDS:
        await connection.execute(
            """insert into pgmq.q_jobs (vt, message)
            values (now(), format('{"run_id": %1$s, "project_id": %1$s}', $1::text)::jsonb)""",
            text,
        )
    for whole in ('"run_id"', '[{"run_id": "r"}]', "null", "{}"):
        await connection.execute("insert into pgmq.q_jobs (vt, message) values (now(), $1)", whole)
    await connection.execute("insert into pgmq.q_jobs (vt) values (now())")
    await set_queue_config(database, "jobs", lookup_by=ALL)
    ids = [
        row[0]
        for row in await connection.fetch(
            "select distinct meshhook.message_id_text(message, 'run_id') from pgmq.q_jobs"
        )
    ]
    assert len(ids) > 8
    by_index = {
        (name, text): [job.msg_id for job in await find_jobs(database, **{name: text})]
        for text in filter(lambda each: each is not None, ids)
        for name in ("run_id", "project_id")
    }
    await set_queue_config(database, "jobs", lookup_by="none")
    for (name, text), found in by_index.items():
        assert found
        assert found == [job.msg_id for job in await find_jobs(database, **{name: text})]


@pytest.mark.parametrize("lookup_by", ["run_id", "workflow_id", "project_id", ALL, "none"])
async def test_jobs_are_found_by_each_id(
    database: Database, connection: Connection, monkeypatch: pytest.MonkeyPatch, lookup_by: str
) -> None:
    """Alone and together, page by page and in small parts, with an index and without."""
    await set_queue_config(database, "jobs", lookup_by=lookup_by)
    await fill(connection, 200)
    monkeypatch.setattr(job_search, "FIRST_CHUNK_ROWS", 7)
    for filters, fits in (
        ({"run_id": "r1"}, lambda n: n % 2 == 1),
        ({"workflow_id": "w2"}, lambda n: n % 3 == 2),
        ({"project_id": "4"}, lambda n: n % 5 == 4),
        ({"run_id": "r1", "workflow_id": "w0", "project_id": "3"}, lambda n: n % 30 == 3),
        ({"workflow_id": "w0", "state": "ready"}, lambda n: n % 3 == 0),
        ({"project_id": "0", "state": "running"}, lambda _: False),
        ({"run_id": "none"}, lambda _: False),
    ):
        wanted = [n for n in range(200, 0, -1) if fits(n)]
        found = await find_jobs(database, queue="jobs", limit=1_000, **filters)  # type: ignore[arg-type]
        assert [job.msg_id for job in found] == wanted
        assert found.is_complete
        pages: list[int] = []
        before_id = None
        while page := await find_jobs(
            database,
            queue="jobs",
            limit=9,
            before_id=before_id,
            **filters,  # type: ignore[arg-type]
        ):
            pages += [job.msg_id for job in page]
            before_id = pages[-1]
        assert pages == wanted


async def test_a_search_by_index_reads_nothing_else(
    database: Database, connection: Connection
) -> None:
    """Of a thousand messages it looks at those with the id alone, and so does a change of them."""
    await fill(connection, 1_000)
    await set_queue_config(database, "jobs", lookup_by="run_id,project_id")
    assert (await find_jobs(database, run_id="r1", state="ready", limit=1_000)).seen == 500
    assert (await find_jobs(database, run_id="gone")).seen == 0
    assert (await find_jobs(database, project_id="3", limit=1_000)).seen == 200
    assert (await find_jobs(database, workflow_id="gone")).seen == 1_000
    service = QueueService[Any](database, "jobs")
    tried = await service.cancel(project_id="3", dry_run=True)
    assert (tried.seen, tried.matched, tried.lookup) == (200, 200, "project_id")
    assert (await service.reschedule(run_id="r0", delay_seconds=60)).lookup == "run_id"
    assert (await service.cancel(workflow_id="gone")).lookup is None
    assert (await service.cancel(project_id="3")).changed == 200
    assert await find_jobs(database, project_id="3", state="ready") == []


@pytest.mark.parametrize("lookup_by", ["none", "workflow_id,project_id", ALL])
async def test_changes_from_sql_take_the_oldest_that_fit(
    database: Database, connection: Connection, lookup_by: str
) -> None:
    """With every choice of indexes; an id is compared as the 200 characters that jobs have."""
    await set_queue_config(database, "jobs", lookup_by=lookup_by)
    await fill(connection, 300)
    matching = "select meshhook.matching_messages('jobs', $1, $2, $3, null, $4, 10)"
    for values, step, rest in (
        (("r1", None, None, None), 2, 1),
        ((None, "w2", None, None), 3, 2),
        ((None, None, "4", "ready"), 5, 4),
        (("r1", "w2", None, None), 6, 5),
    ):
        found = await connection.fetchval(matching, *values)
        assert found == [n for n in range(1, 301) if n % step == rest][:10]
    long = "x" * 250
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) "
        "values (now(), jsonb_build_object('run_id', $1::text))",
        long,
    )
    assert await connection.fetchval(matching, long, None, None, None) == [301]
    rows = await connection.fetch("select * from meshhook.cancel('jobs', project_id => '2')")
    assert len(rows) == 60
    assert all(one["msg_id"] < other["msg_id"] for one, other in pairwise(rows))


async def test_a_plain_queue_is_as_before(connection: Connection) -> None:
    """The setting is off, and nothing is built."""
    assert await indexes(connection) == set()
    assert await connection.fetchval("select meshhook.indexed_ids('jobs')") == []
