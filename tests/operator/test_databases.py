"""One database with its queues: settings, demand and wake-ups, against a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook.errors import (
    DatabaseError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    MeshHookError,
    SchemaMissingError,
)
from meshhook.queue_config import KEY_SETTING_NAMES, QueueSettings
from meshhook_operator.databases.database import DatabaseAddress, QueueDatabase
from meshhook_operator.databases.demand import DemandRequest, QueueDemand, QueueProblem
from meshhook_operator.problems import problem_of
from support.waiting import eventually

SETTINGS = QueueSettings().model_dump(exclude={"paused", *KEY_SETTING_NAMES})
REQUEST = DemandRequest("jobs", 5, is_waiting=True)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer than ticks do: the server of a busy machine may stand still for seconds."""
    monkeypatch.setattr("meshhook_operator.databases.database.TICK_TIMEOUT_SECONDS", 60.0)
    monkeypatch.setattr("meshhook_operator.databases.database.FIRST_TICK_TIMEOUT_SECONDS", 60.0)


@pytest.fixture
def woken() -> asyncio.Queue[str]:
    """The names of the queues that were woken."""
    return asyncio.Queue()


@pytest.fixture
async def database(database_url: str, woken: asyncio.Queue[str]) -> AsyncIterator[QueueDatabase]:
    """The operator's view of the database."""
    database = make(database_url, woken)
    yield database
    await database.close()


def make(url: str, woken: asyncio.Queue[str], *, pooled: bool = False) -> QueueDatabase:
    """Return the operator's view of a database."""
    return QueueDatabase(
        DatabaseAddress(url, pooled),
        on_wake=woken.put_nowait,
        on_identity=lambda: None,
        registry=CollectorRegistry(),
    )


async def listening(connection: asyncpg.Connection[asyncpg.Record], channel: str) -> bool:
    """Whether the operator's session listens, by its last statement."""
    return bool(
        await connection.fetchval(
            "select exists (select from pg_stat_activity where state = 'idle' "
            "and datname = current_database() and application_name = 'meshhook-operator' "
            "and query like $1)",
            f'LISTEN%"{channel}"%',
        )
    )


async def test_a_queue_is_made_with_its_settings(database, connection):
    """A missing queue is created with the settings asked for."""
    found = (await database.read_demand([REQUEST], waiting_seconds=5))["jobs"]
    assert isinstance(found, QueueProblem)
    assert found.is_missing
    await database.ensure_queue("jobs", SETTINGS | {"max_retry_attempts": 9})
    found = (await database.read_demand([REQUEST], waiting_seconds=5))["jobs"]
    assert isinstance(found, QueueDemand)
    assert found.settings["max_retry_attempts"] == 9


async def test_making_a_queue_twice_changes_nothing(database, connection):
    """It can be repeated at each tick; messages and a manual pause are kept."""
    await database.ensure_queue("jobs", SETTINGS)
    await connection.execute("select pgmq.send('jobs', '{}')")
    await connection.execute("update meshhook.queue_config set paused = true")
    await database.ensure_queue("jobs", SETTINGS)
    assert await connection.fetchval("select count(*) from pgmq.q_jobs") == 1
    assert await connection.fetchval("select paused from meshhook.queue_config")


async def test_it_is_known_whatever_url_leads_there(database_url, database, woken):
    """Two addresses of one database have an identity in common."""
    other_way = make(f"{database_url}?application_name=other", woken)
    assert not database.identities
    for each in (database, other_way):
        await each.read_demand([REQUEST], waiting_seconds=5)
    assert len(database.identities) == 1
    assert database.identities == other_way.identities
    await other_way.close()


async def test_another_database_in_its_place_is_told_of(database, monkeypatch):
    """Samples of two databases must not be compared, even if they have the same URL."""
    await database.read_demand([REQUEST], waiting_seconds=5)
    before = database.generation
    database._is_checked = False
    await database.read_demand([REQUEST], waiting_seconds=5)
    assert database.generation == before
    monkeypatch.setattr(
        "meshhook_operator.databases.database.load_library_query",
        lambda _: "select 'another' as system, 'database' as name",
    )
    database._is_checked = False
    await database.read_demand([REQUEST], waiting_seconds=5)
    assert database.generation != before


async def test_a_message_wakes(database, connection, queue_name, woken):
    """A message to a waiting queue is reported at once."""
    database.listen(frozenset({"jobs"}))
    async with asyncio.timeout(60):
        assert await woken.get() == "jobs", "what came before it listened is looked for"
    await eventually(lambda: listening(connection, "meshhook_wake_jobs"))
    assert woken.empty()
    await database.read_demand([REQUEST], waiting_seconds=30)
    await connection.execute("select pgmq.send('jobs', '{}')")
    async with asyncio.timeout(60):
        assert await woken.get() == "jobs"


async def test_a_listener_that_was_cut_off_comes_back(database, connection, queue_name, woken):
    """Terminating its session does not end the wake-ups; messages sent meanwhile are found."""
    database.listen(frozenset({"jobs"}))
    async with asyncio.timeout(60):
        assert await woken.get() == "jobs"
    await eventually(lambda: listening(connection, "meshhook_wake_jobs"))
    ended = await connection.fetch(
        "select pid, pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and application_name = 'meshhook-operator'"
    )

    async def is_cut_off() -> bool:
        pids = [row["pid"] for row in ended]
        sql = "select count(*) from pg_stat_activity where pid = any($1)"
        return bool(await connection.fetchval(sql, pids) == 0)

    async def is_woken() -> bool:
        database.listen(frozenset({"jobs"}))  # as each tick does
        return not woken.empty()

    assert ended
    await eventually(is_cut_off)
    await eventually(is_woken)
    assert woken.get_nowait() == "jobs"


@pytest.mark.parametrize(("pooled", "listens"), [(False, True), (True, False)])
async def test_no_listening_through_a_pooler(database_url, woken, pooled, listens):
    """A pooler would give the session to other clients."""
    database = make(database_url, woken, pooled=pooled)
    database.listen(frozenset({"jobs"}))
    assert (database._wake_ups._task is not None) == listens
    await database.close()


async def test_few_connections(database, connection):
    """The number of connections does not grow with the number of queues."""
    names = [f"queue_{number}" for number in range(10)]
    async with asyncio.TaskGroup() as tasks:
        for name in names:
            tasks.create_task(database.ensure_queue(name, SETTINGS))
    await database.read_demand([DemandRequest(name, 5) for name in names], waiting_seconds=5)
    count = await connection.fetchval(
        "select count(*) from pg_stat_activity where datname = current_database() "
        "and application_name like 'meshhook%'"
    )
    assert 1 <= count <= 3


async def test_missing_migrations(empty_database_url, woken):
    """A database without the schema is reported as such, and used once it is migrated."""
    database = make(empty_database_url, woken)
    with pytest.raises(SchemaMissingError, match="meshhook migrate"):
        await database.read_demand([REQUEST], waiting_seconds=5)
    await database.close()


async def test_a_wrong_password(database_url, woken):
    """A refused login is reported without the password."""
    wrong = database_url.replace("postgres:", "nobody_like_that:")
    database = make(wrong, woken)
    with pytest.raises(DatabaseError, match="refused the login") as caught:
        await database.read_demand([REQUEST], waiting_seconds=5)
    assert database_url.split(":")[2].split("@")[0] not in str(caught.value)
    await database.close()


async def test_nobody_there(woken):
    """An unreachable server is a DatabaseUnavailableError."""
    database = make("postgresql://postgres@127.0.0.1:1/postgres", woken)
    with pytest.raises(DatabaseUnavailableError):
        await database.read_demand([REQUEST], waiting_seconds=5)
    await database.close()


async def test_an_address_shows_nothing():
    """It appears in task names and logs, and holds a password."""
    assert "secret" not in repr(DatabaseAddress("postgresql://a:secret@b/c", pooled=False))


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_sessions_that_only_read_are_replaced(connection, database_url, woken, is_waiting):
    """After a failover, once the address leads to the primary again, ticks succeed again."""
    name = await connection.fetchval("select current_database()")
    await connection.execute("select meshhook.create_queue('jobs')")
    await connection.execute(f'alter database "{name}" set default_transaction_read_only = on')
    database = make(database_url, woken)
    request = DemandRequest("jobs", 5, is_waiting=is_waiting)
    try:
        for _ in range(2):
            with pytest.raises(DatabaseReadOnlyError):
                await database.read_demand([REQUEST], waiting_seconds=5)
            with pytest.raises(DatabaseReadOnlyError):
                await database.ensure_queue("jobs", SETTINGS | {"max_retry_attempts": 9})
        await connection.execute(f'alter database "{name}" reset default_transaction_read_only')
        await eventually(lambda: works(database, request))
        for _ in range(5):
            assert await works(database, request)
    finally:
        await database.close()


async def works(database: QueueDatabase, request: DemandRequest) -> bool:
    """Whether a tick can read and change the queue."""
    try:
        found = await database.read_demand([request], waiting_seconds=5)
        if request.is_waiting:
            return isinstance(found["jobs"], QueueDemand)
        await database.ensure_queue("jobs", SETTINGS | {"max_retry_attempts": 9})
        await database.ensure_queue("jobs", SETTINGS)
    except DatabaseError:
        return False
    return isinstance(found["jobs"], QueueDemand)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "InvalidDatabaseUrl"),
        ("hunter2", "InvalidDatabaseUrl"),
        ("postgresql://me:hunter2/x@127.0.0.1/jobs", "InvalidDatabaseUrl"),
        ("postgresql://me:1hunter2#@127.0.0.1/jobs", "InvalidDatabaseUrl"),
        ("postgresql://me:hunter2@127.0.0.1:99999/jobs", "InvalidDatabaseUrl"),
        ("postgresql://me:hunter2@[::1/jobs", "InvalidDatabaseUrl"),
        ("postgresql://me:hunter2@127.0.0.1/jobs?sslmode=hunter2", "InvalidDatabaseUrl"),
        (
            "postgresql://me:hunter2@127.0.0.1/jobs?channel_binding=require&sslmode=disable",
            "InvalidDatabaseUrl",
        ),
        ("postgresql://me:hunter2@127.0.0.1/jobs?service=none", "InvalidDatabaseUrl"),
        ("mysql://me:hunter2@127.0.0.1/jobs", "InvalidDatabaseUrl"),
        ("postgresql://me:hunter2@127.0.0.1:1,127.0.0.1:2/jobs", "SourceUnavailable"),
        ("postgresql://me:hunter2@" + "x" * 300 + "/jobs", "InvalidDatabaseUrl"),
    ],
)
async def test_any_url_has_a_reason_to_show(woken, url, reason):
    """Whatever a Secret holds, the condition says what is wrong without the password."""
    database = make(url, woken)
    with pytest.raises(MeshHookError) as caught:
        await database.read_demand([REQUEST], waiting_seconds=5)
    problem = problem_of(caught.value)
    assert problem.reason == reason
    assert "hunter2" not in problem.message
    await database.close()


async def test_workers_are_cordoned_and_uncordoned(
    database: QueueDatabase, connection: asyncpg.Connection[asyncpg.Record], queue_name: str
) -> None:
    """Those on the hosts named, and nobody else of the queue."""
    await connection.execute(
        "insert into meshhook.workers (queue, worker, host, concurrency, running, processed, "
        "busy_seconds) values ('jobs', 'a', 'pod-a', 10, 0, 0, 0), "
        "('jobs', 'b', 'pod-b', 10, 0, 0, 0)"
    )
    cordoned = "select array_agg(worker) from meshhook.workers where cordoned_until > now()"
    assert await database.cordon(queue_name, ["pod-b"], 30) == 1
    assert await connection.fetchval(cordoned) == ["b"]
    assert await database.cordon(queue_name, [], 30) == 1
    assert await connection.fetchval(cordoned) is None
