"""The metrics of queues: what they say, and what happens to them when something goes wrong."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import QueueExporter, QueueService, create_queue, drop_queue, set_queue_config
from meshhook.errors import InvalidSettingError
from meshhook.observability.metrics import METRICS, Source
from meshhook.observability.priority_series import PRIORITY_FAMILIES
from meshhook.observability.queue_series import KEY_FAMILIES
from meshhook.postgres.database import Database
from meshhook.store import queries
from support import odd_rows
from support.waiting import eventually

Pool = asyncpg.Pool
Connection = asyncpg.Connection

STATES = """
    insert into pgmq.q_jobs (vt, read_ct, message, headers) values
        (now() - interval '90 seconds', 0, '{}', null),
        (now() - interval '10 seconds', 0, '{}', null),
        (now() + interval '1 hour', 0, '{}', null),
        (now() + interval '1 hour', 1, '{}', null),
        (now() + interval '1 hour', 1, '{}', '{"meshhook-settled": 1}'),
        (now() + interval '1 hour', 2, '{}', '{"meshhook-settled": 2}'),
        (now() - interval '1 second', 1, '{}', null);
    insert into pgmq.q_jobs_dlq (vt, enqueued_at, message)
    values (now(), now() - interval '2 hours', '{}'), (now(), now(), '{}');
    insert into meshhook.workers
        (queue, worker, host, concurrency, running, processed, busy_seconds, seen_at)
    values ('jobs', 'a', 'a', 50, 0, 0, 0, now()), ('jobs', 'b', 'b', 20, 0, 0, 0, now()),
        ('jobs', 'gone', 'c', 20, 0, 0, 0, now() - interval '31 seconds');
"""


@pytest.fixture
def registry() -> CollectorRegistry:
    """A registry of its own."""
    return CollectorRegistry()


@pytest.fixture
async def exporter(
    pool: Pool[Any], queue_name: str, registry: CollectorRegistry
) -> AsyncIterator[QueueExporter]:
    """A running exporter that reads often."""
    async with QueueExporter(Database(pool), registry=registry, interval_seconds=0.1) as exporter:
        await eventually(lambda: exporter.rows)
        yield exporter


def value(registry: CollectorRegistry, name: str, queue: str = "jobs", **labels: str) -> Any:
    """Return the value of a queue's series, None if there is no such series."""
    return registry.get_sample_value(f"meshhook_queue_{name}", {"queue": queue, **labels})


def errors(registry: CollectorRegistry, error_type: str) -> float:
    """Return how many readings have failed with an error."""
    name = "meshhook_exporter_collection_errors_total"
    return registry.get_sample_value(name, {"error_type": error_type}) or 0


def age(registry: CollectorRegistry) -> float:
    """Return how long ago the queues were read, as it is exported."""
    found = registry.get_sample_value("meshhook_exporter_last_collection_age_seconds")
    assert found is not None
    return found


async def test_every_metric_of_the_table_is_exported(
    exporter: QueueExporter, registry: CollectorRegistry
) -> None:
    """One empty queue has series of all families but those of keys, priorities and schedules."""
    families = {family.name for family in registry.collect() if family.samples}
    own = {name for name, metric in METRICS.items() if Source.EXPORTER in metric.sources}
    own = {
        name
        for name in own - KEY_FAMILIES - PRIORITY_FAMILIES
        if not name.startswith("meshhook_schedule_")
    }
    assert families == {name.removesuffix("_total") for name in own}


async def test_what_the_series_say(
    exporter: QueueExporter,
    registry: CollectorRegistry,
    connection: Connection[Any],
    pool: Pool[Any],
) -> None:
    """States, ages, dead letters, workers, sizes and the number ever enqueued, of one moment."""
    await connection.execute(STATES)
    await set_queue_config(Database(pool), "jobs", paused=True)
    # The number ever enqueued is seen before its transaction commits.
    await eventually(lambda: value(registry, "messages", state="ready") == 2)
    await eventually(lambda: value(registry, "enqueued_total") == 7)
    states = {
        state: value(registry, "messages", state=state)
        for state in ("ready", "scheduled", "running", "retrying", "lost")
    }
    assert states == {"ready": 2, "scheduled": 1, "running": 1, "retrying": 2, "lost": 1}
    # The transaction that reads may have begun a moment before the rows were committed.
    assert 89 <= value(registry, "oldest_ready_seconds") < 150
    assert value(registry, "dlq_messages") == 2
    assert 7199 <= value(registry, "dlq_oldest_seconds") < 7260
    await eventually(lambda: value(registry, "paused") == 1)
    assert value(registry, "messages_capped") == 0
    assert value(registry, "workers") == 2
    assert value(registry, "worker_slots") == 70
    for table in ("queue", "dlq"):
        assert value(registry, "table_bytes", table=table) > 8192
        assert value(registry, "dead_tuples", table=table) == 0
    assert value(registry, "table_bytes", table="archive") >= 8192
    assert (registry.get_sample_value("meshhook_history_bytes") or 0) > 8192
    assert (registry.get_sample_value("meshhook_finished_jobs_bytes") or 0) > 8192


async def test_a_database_that_never_answers_is_given_up(
    pool: Pool[Any], registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is the beginning of the transaction that is not answered."""
    monkeypatch.setattr("meshhook.exporter.queue_exporter.ANSWER_MARGIN_SECONDS", 0.05)
    database = Database(pool)

    @asynccontextmanager
    async def hanging() -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(database, "transaction", hanging)
    exporter = QueueExporter(database, registry=registry, statement_timeout_seconds=0.1)
    assert not await exporter.collect()
    assert exporter.readiness()[0].fault is not None


async def test_counts_stop_at_the_limit(
    pool: Pool[Any], queue_name: str, registry: CollectorRegistry
) -> None:
    """Beyond the limit a count is the limit, and the queue is marked as capped."""
    await QueueService[Any](pool, queue_name).enqueue_many([{}] * 12)
    async with QueueExporter(Database(pool), registry=registry, count_limit=10) as exporter:
        await eventually(lambda: exporter.rows)
        assert value(registry, "messages", state="ready") == 10
        assert value(registry, "messages_capped") == 1
        assert value(registry, "enqueued_total") == 12


async def test_odd_rows_disturb_no_figure(
    connection: Connection[Any], pool: Pool[Any], queue_name: str, registry: CollectorRegistry
) -> None:
    """Whatever other clients left in the tables: the queue is read, and each figure is a number."""
    for table in ("q_jobs", "q_jobs_dlq"):
        for statement, arguments in odd_rows.statements(table):
            await connection.execute(statement, *arguments)
    await connection.execute(odd_rows.HISTORY, list(odd_rows.MOMENTS))
    await connection.execute(odd_rows.WORKERS)
    exporter = QueueExporter(Database(pool), registry=registry, statement_timeout_seconds=60)
    assert await exporter.collect()
    (row,) = exporter.rows
    assert row["problem"] is None
    async with exporter:
        figures = [
            sample.value
            for family in registry.collect()
            for sample in family.samples
            if sample.labels.get("queue") == queue_name
        ]
    assert len(figures) > 10
    assert all(math.isfinite(value) for value in figures)


async def test_series_follow_the_queues(
    exporter: QueueExporter, registry: CollectorRegistry, pool: Pool[Any]
) -> None:
    """A new queue is there at the next reading; those of a dropped one vanish, all of them."""
    database = Database(pool)
    await create_queue(database, "other")
    await eventually(lambda: value(registry, "messages", "other", state="ready") == 0)
    await drop_queue(database, "jobs")
    await eventually(lambda: value(registry, "messages", state="ready") is None)
    left = {s.labels["queue"] for f in registry.collect() for s in f.samples if "queue" in s.labels}
    assert left == {"other"}


async def test_a_database_without_queues(pool: Pool[Any], registry: CollectorRegistry) -> None:
    """The reading succeeds, and the history has a size."""
    exporter = QueueExporter(Database(pool), registry=registry)
    async with exporter:
        await eventually(lambda: exporter.last_success_timestamp_seconds)
        assert registry.get_sample_value("meshhook_history_bytes") is not None


async def test_a_queue_that_is_locked_disturbs_no_other(
    exporter: QueueExporter,
    registry: CollectorRegistry,
    pool: Pool[Any],
    connection: Connection[Any],
) -> None:
    """It is left out until it can be read again, and that is counted."""
    await create_queue(Database(pool), "other")
    await eventually(lambda: value(registry, "paused", "other") == 0)
    async with connection.transaction():
        await connection.execute("lock table pgmq.q_jobs in access exclusive mode")
        await eventually(lambda: value(registry, "paused") is None)
        assert value(registry, "paused", "other") == 0
        assert errors(registry, "QueueUnreadable") >= 1
        assert [check.fault for check in exporter.readiness()] == [None]
    await eventually(lambda: value(registry, "paused") == 0)


async def test_a_history_that_is_locked_holds_nothing_up(
    exporter: QueueExporter, registry: CollectorRegistry, connection: Connection[Any]
) -> None:
    """While a partition is dropped, queues are read all the same."""
    async with connection.transaction():
        await connection.execute("lock table meshhook.job_attempts in access exclusive mode")
        before = exporter.last_success_timestamp_seconds
        await eventually(lambda: exporter.last_success_timestamp_seconds > before)


async def test_a_reading_that_takes_too_long_is_stopped(
    exporter: QueueExporter, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statement timeout ends it; the last values stay, the fault is told."""
    real = queries.load
    monkeypatch.setattr(exporter, "_timeout_seconds", 0.1)
    monkeypatch.setattr(
        queries,
        "load",
        lambda name: "select pg_sleep(60), $1::int" if name == "queue_metrics" else real(name),
    )
    await eventually(lambda: errors(registry, "StatementTimeout") >= 1)
    assert value(registry, "paused") == 0
    # Now and then the client gives up before the server does.
    await eventually(lambda: "statement timeout" in str(exporter.readiness()[0].fault))


async def test_values_vanish_rather_than_mislead(
    exporter: QueueExporter, registry: CollectorRegistry, pool: Pool[Any]
) -> None:
    """A queue's series vanish after a while without success, and come back later."""
    await pool.execute("alter function meshhook.queue_metrics rename to away")
    await eventually(lambda: errors(registry, "SchemaMissingError") >= 1)
    assert value(registry, "paused") == 0
    exporter._stale_seconds = 0.0
    assert value(registry, "paused") is None
    assert 0 < age(registry) < exporter.age_seconds
    exporter._stale_seconds = 60.0
    await pool.execute("alter function meshhook.away rename to queue_metrics")
    await eventually(lambda: exporter.readiness()[0].fault is None)
    assert value(registry, "paused") == 0


async def test_a_clock_that_is_wrong_changes_no_age(
    exporter: QueueExporter, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prometheus compares the age with a limit, and no clock with another."""
    await eventually(lambda: exporter.readiness()[0].fault is None)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    await exporter.collect()
    assert age(registry) <= exporter.age_seconds
    monkeypatch.setattr(time, "time", lambda: 1e12)
    assert 0 < age(registry) <= exporter.age_seconds


async def test_a_database_that_is_away_is_waited_for(registry: CollectorRegistry) -> None:
    """Without a server every reading fails as such; the exporter lives on, alive and not ready."""
    database = await Database.connect("postgresql://nobody@127.0.0.1:1/none", min_size=0)
    async with QueueExporter(database, registry=registry, interval_seconds=0.1) as exporter:
        await eventually(lambda: errors(registry, "DatabaseUnavailableError") >= 2)
        assert [check.fault for check in exporter.liveness()] == [None]
        assert "cannot be reached" in str(exporter.readiness()[0].fault)
        assert 0 < age(registry) < exporter.age_seconds
    await database.close()


async def test_terminated_connections_are_replaced(
    exporter: QueueExporter, registry: CollectorRegistry, connection: Connection[Any]
) -> None:
    """A reading whose connection is terminated fails at most, and a later one succeeds."""
    await connection.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    before = exporter.last_success_timestamp_seconds
    await eventually(lambda: exporter.last_success_timestamp_seconds > before)


async def test_two_databases_in_one_registry(
    exporter: QueueExporter, registry: CollectorRegistry, pool: Pool[Any], caplog: Any
) -> None:
    """Two exporters share the families; a queue that both have is exported once, and told."""
    async with QueueExporter(Database(pool), registry=registry) as second:
        await eventually(lambda: second.rows)
        samples = [s for f in registry.collect() for s in f.samples if s.name.endswith("_paused")]
        assert len(samples) == 1
    assert "two databases have a queue of this name" in caplog.text


async def test_starting_and_stopping_twice(
    pool: Pool[Any], queue_name: str, registry: CollectorRegistry
) -> None:
    """Both are idempotent; a stopped exporter shows nothing, and can be started again."""
    exporter = QueueExporter(Database(pool), registry=registry)
    for _ in range(2):
        exporter.start()
        exporter.start()
        await eventually(lambda: value(registry, "paused") == 0)
        await exporter.stop()
        await exporter.stop()
        assert value(registry, "paused") is None
        assert exporter.liveness() == []


@pytest.mark.parametrize(
    "options",
    [
        {"interval_seconds": 0},
        {"interval_seconds": "10"},
        {"statement_timeout_seconds": 61},
        {"count_limit": 0},
    ],
    ids=str,
)
async def test_settings_out_of_range(pool: Pool[Any], options: dict[str, Any]) -> None:
    """The error names the setting, the range and the value."""
    (name,) = options
    with pytest.raises(InvalidSettingError, match=f"{name} is .*, got"):
        QueueExporter(Database(pool), registry=CollectorRegistry(), **options)


@pytest.mark.parametrize(
    "columns",
    [
        "7 as queue",
        "repeat('x', 64) as queue",
        "'text' as ready",
        "null::int as ready",
        "'{}'::jsonb as queue_bytes",
        "nothing",
    ],
)
async def test_rows_that_make_no_sense_spoil_no_scrape(
    pool: Pool[Any], registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """A server that is not what it seems fails its own reading; the page stays whole."""
    database, load = Database(pool), queries.load
    await create_queue(database, "jobs")
    # Of two columns of one name, the last counts.
    odd = f"select r.*, {columns} from ({load('queue_metrics')}) r"
    if columns == "nothing":
        odd = "select 1 as nothing where $1::int is not null"
    monkeypatch.setattr(
        queries, "load", lambda name: odd if name == "queue_metrics" else load(name)
    )
    exporter = QueueExporter(database, registry=registry, statement_timeout_seconds=60)
    assert not await exporter.collect()
    assert errors(registry, "DatabaseError") == 1
    assert list(registry.collect())
