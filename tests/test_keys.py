"""Keys of messages: given by producers, switched on and off for a queue."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from meshhook import App, DLQService, Job, QueueService, create_queue
from meshhook.administration import get_queue_config, set_queue_config
from meshhook.errors import DatabaseError, InvalidJobError, InvalidSettingError
from meshhook.names import KEY_HEADER
from meshhook.postgres.database import Database
from meshhook.queue_config import KeyPlace
from meshhook.role_kinds import RoleKind
from support.roles import Roles

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

KEY_SQL = "select headers ->> 'x-pgmq-group' from pgmq.q_jobs order by msg_id"
INDEXES = (
    "select indexname from pg_indexes where tablename = 'q_jobs' and indexname ~ '_(key|running)_'"
)


@pytest.fixture
def database(pool: Pool) -> Database:
    """The migrated database of this test."""
    return Database(pool)


@pytest.fixture
async def service(pool: Pool) -> AsyncIterator[QueueService[Any]]:
    """A producer of the queue."""
    async with QueueService[Any](pool, "jobs") as service:
        yield service


async def keys(connection: Connection) -> list[str | None]:
    """Return the keys of the messages, oldest first."""
    return [row[0] for row in await connection.fetch(KEY_SQL)]


async def indexes(connection: Connection) -> set[str]:
    """Return the names of the indexes for keys."""
    return {row[0] for row in await connection.fetch(INDEXES)}


async def test_each_way_to_enqueue_takes_a_key(
    service: QueueService[Any], pool: Pool, connection: Connection
) -> None:
    """One job, several, alone or with others, in a transaction of the caller, from an app."""
    app = App(pool)

    @app.job("jobs")
    async def handle(job: Job[Any]) -> None: ...

    tenant = UUID(int=7)
    await service.enqueue({}, key="a")
    await service.enqueue_many([{}, {}], key=tenant)
    async with connection.transaction():
        await service.enqueue({}, key="b", connection=connection, headers={"x": 1})
        await service.enqueue_many([{}], key="c", connection=connection)
    await app.enqueue("jobs", {}, key="d")
    await app.enqueue_many("jobs", [{}], key="e")
    await handle.enqueue({}, key="f")
    await handle.enqueue_many([{}], key="g")
    await service.enqueue({})
    await app.close()
    expected = ["a", str(tenant), str(tenant), *"bcdefg", None]
    assert await keys(connection) == expected
    headers = await connection.fetchval("select headers from pgmq.q_jobs where headers ? 'x'")
    assert KEY_HEADER in headers


@pytest.mark.parametrize("key", ["", "k" * 201, 7, ["a"], b"a"])
async def test_a_wrong_key_is_refused(service: QueueService[Any], key: Any) -> None:
    """The error names the argument, the rule and the value."""
    with pytest.raises(InvalidJobError, match="key is a string of 1 to 200 characters or a UUID"):
        await service.enqueue({}, key=key)


async def test_a_key_is_given_once(service: QueueService[Any], database: Database) -> None:
    """Beside the header that holds it, or where the queue takes it from the body, it is refused."""
    with pytest.raises(InvalidJobError, match="leave one of them out"):
        await service.enqueue({}, key="a", headers={KEY_HEADER: "b"})
    await set_queue_config(database, "jobs", keyed=True, key_path="payload.customer")
    async with QueueService[Any](database, "jobs") as other:
        with pytest.raises(InvalidJobError, match=r"from the body, at payload\.customer"):
            await other.enqueue_many([{}], key="a")
        await other.enqueue({"payload": {"customer": "a"}})


async def test_the_setting_builds_and_drops_the_indexes(
    database: Database, connection: Connection
) -> None:
    """They are there while the queue is keyed; setting it again changes nothing."""
    config = await set_queue_config(database, "jobs", keyed="true")
    assert config.keys == KeyPlace()
    built = await indexes(connection)
    assert built == {"q_jobs_key_idx", "q_jobs_running_idx"}
    oids = "select array_agg(oid order by oid) from pg_class where relname = any ($1)"
    before = await connection.fetchval(oids, built)
    await set_queue_config(database, "jobs", keyed=True, max_retry_attempts=3)
    assert await connection.fetchval(oids, built) == before
    assert (await set_queue_config(database, "jobs", keyed=False)).keys is None
    assert await indexes(connection) == set()


async def test_the_indexes_of_an_interrupted_run_are_built_anew(
    database: Database, connection: Connection
) -> None:
    """An index that is not valid, or of other keys, is no reason to take the keys for ready."""
    await connection.execute("create index q_jobs_key_idx on pgmq.q_jobs (msg_id)")
    await set_queue_config(database, "jobs", keyed=True)
    await connection.execute(
        "update pg_index set indisvalid = false "
        "where indexrelid = 'pgmq.q_jobs_running_idx'::regclass"
    )
    with pytest.raises(asyncpg.PostgresError, match="no indexes for keys"):
        await connection.execute("update meshhook.queue_config set keyed = true")
    await set_queue_config(database, "jobs", keyed=True)
    assert await connection.fetchval(
        "select bool_and(indisvalid) from pg_index where indrelid = 'pgmq.q_jobs'::regclass"
    )
    assert "vt" in await connection.fetchval(
        "select indexdef from pg_indexes where indexname = 'q_jobs_key_idx'"
    )


async def test_sql_alone_does_not_make_a_queue_keyed(connection: Connection) -> None:
    """The database refuses it without the indexes, and the error has the command."""
    with pytest.raises(asyncpg.PostgresError, match='"jobs" has no indexes for keys') as refused:
        await connection.execute("update meshhook.queue_config set keyed = true")
    assert refused.value.hint == "Build them: meshhook queue set jobs keyed=true"


async def test_the_keys_of_a_keyed_queue_stay_where_they_are(database: Database) -> None:
    """The path changes with the keys turned off."""
    await set_queue_config(database, "jobs", keyed=True)
    with pytest.raises(InvalidSettingError, match="Turn them off first"):
        await set_queue_config(database, "jobs", key_path="customer")
    await set_queue_config(database, "jobs", keyed=False, key_path="customer")
    assert (await set_queue_config(database, "jobs", keyed=True)).keys == KeyPlace("customer")
    with pytest.raises(InvalidSettingError, match="Turn them off first"):
        await set_queue_config(database, "jobs", key_path="none")


@pytest.mark.parametrize("path", ["", "a b", "a..b", "a'b", "a." * 8 + "a", "{a}"])
async def test_a_wrong_path_is_refused(database: Database, path: str) -> None:
    """The error names the setting and what a path is made of."""
    with pytest.raises(InvalidSettingError, match=r"key_path=.*separated by dots"):
        await set_queue_config(database, "jobs", keyed=True, key_path=path)
    assert not (await get_queue_config(database, "jobs")).keyed


async def test_a_small_queue_becomes_keyed_in_a_transaction(connection: Connection) -> None:
    """So does one that is made in it; a large one is refused, since everybody would wait."""
    async with connection.transaction():
        await create_queue(connection, "new")
        await set_queue_config(connection, "new", keyed=True)
        await set_queue_config(connection, "jobs", keyed=True)
    await set_queue_config(connection, "jobs", keyed=False)
    await connection.execute(
        "insert into pgmq.q_jobs (vt, message) select now(), to_jsonb(repeat('x', 1000)) "
        "from generate_series(1, 10000)"
    )
    with pytest.raises(DatabaseError, match="too large to build its indexes"):
        async with connection.transaction():
            await set_queue_config(connection, "jobs", keyed=True)
    assert (await set_queue_config(connection, "jobs", keyed=True)).keyed


async def test_an_app_declares_a_keyed_queue(pool: Pool, connection: Connection) -> None:
    """A queue that the app creates is keyed from the start."""
    app = App(pool)

    @app.job("tenants", keyed=True)
    async def handle(job: Job[Any]) -> None: ...

    await handle.enqueue({}, key="a")
    await app.close()
    assert (await get_queue_config(connection, "tenants")).keyed


async def test_whoever_is_on_call_pauses_a_keyed_queue(
    database: Database, connection: Connection, database_url: str
) -> None:
    """The other settings need no right to build indexes; the keys themselves do."""
    await set_queue_config(database, "jobs", keyed=True)
    async with Roles(database_url, connection) as roles:
        own = await asyncpg.connect(roles.url(await roles.make(RoleKind.ONCALL)))
        try:
            assert (await set_queue_config(own, "jobs", paused=True)).keyed
            with pytest.raises(DatabaseError, match=r"denied|owner"):
                await set_queue_config(own, "jobs", keyed=False)
        finally:
            await own.close()


async def test_a_replayed_job_keeps_its_key(
    service: QueueService[Any], pool: Pool, connection: Connection
) -> None:
    """So does one that was moved to the dead letters by hand."""
    await service.enqueue({}, key="a")
    job = await service.dequeue()
    assert job is not None
    dead_letters = DLQService(pool, "jobs")
    assert await dead_letters.move_to_dead_letter(job, "no") is not None
    (found,) = await dead_letters.list_dead_letter_jobs()
    await dead_letters.replay_dead_letter_job(found.id)
    assert await keys(connection) == ["a"]


async def test_a_queue_of_ours_with_groups_is_mended(
    service: QueueService[Any], database: Database, connection: Connection
) -> None:
    """Keys are no reason to refuse a queue that MeshHook has had before."""
    await service.enqueue({}, key="a")
    await connection.execute("drop table pgmq.q_jobs_dlq")
    assert await create_queue(database, "jobs")
