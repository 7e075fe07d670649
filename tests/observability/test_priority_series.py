"""The series by priority: what they say, and that a queue without priorities has none."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from meshhook import Done, Job, QueueExporter, create_job_handler, set_queue_config
from meshhook.observability.metrics.label_values import PRIORITIES
from meshhook.observability.priority_series import PRIORITY_FAMILIES
from meshhook.role_kinds import RoleKind
from meshhook.store import queries
from support.plans import buffers, explained, nodes
from support.roles import Roles
from support.waiting import eventually
from support.workers import make_worker

pytestmark = pytest.mark.usefixtures("queue_name")

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

SEND = """
    insert into pgmq.q_jobs (vt, enqueued_at, message, headers)
    select clock_timestamp() - make_interval(secs => $3::float8), now() - interval '1 h', '{}',
        jsonb_build_object('meshhook-priority', $1::int)
    from generate_series(1, $2::int)
"""


@pytest.fixture
async def prioritized(connection: Connection) -> Connection:
    """A connection to a database whose queue `jobs` has priorities."""
    await set_queue_config(
        connection, "jobs", prioritized=True, priority_target_seconds=(1, 10, 60, 3600)
    )
    return connection


def samples(registry: CollectorRegistry, prefix: str) -> dict[tuple[str, str], float]:
    """Return the values of all series with this prefix, by the rest of the name and priority."""
    return {
        (sample.name.removeprefix(prefix), sample.labels["priority"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith(prefix)
    }


async def series(source: Any, **options: Any) -> dict[tuple[str, str], float]:
    """Return the values of the exporter's series by priority."""
    registry = CollectorRegistry()
    # One reading, however long a busy machine takes.
    options |= {"interval_seconds": 3_600, "statement_timeout_seconds": 60}
    exporter = QueueExporter(source, registry=registry, **options)
    async with exporter:
        assert await exporter.collect()
        return samples(registry, "meshhook_queue_priority_")


async def test_a_queue_without_priorities_has_none(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bands are not even asked for."""
    loaded = []
    load = queries.load

    def noting_load(name: str, *arguments: Any, **options: Any) -> str:
        loaded.append(name)
        return load(name, *arguments, **options)

    monkeypatch.setattr(queries, "load", noting_load)
    await connection.execute(SEND, 0, 3, 10)
    assert await series(connection) == {}
    assert "queue_metrics" in loaded
    assert "priority_metrics" not in loaded


async def test_each_band_is_there_from_the_start(prioritized: Connection) -> None:
    """An empty queue with priorities has every series; only the targets are not 0."""
    found = await series(prioritized)
    assert {f"meshhook_queue_priority_{name}" for name, _ in found} == PRIORITY_FAMILIES
    targets = {band: value for (name, band), value in found.items() if name == "target_seconds"}
    assert targets == dict(zip(PRIORITIES, (1, 10, 60, 3600), strict=True))
    assert {value for (name, _), value in found.items() if name != "target_seconds"} == {0}


async def test_each_band_has_its_own_figures(prioritized: Connection) -> None:
    """What is due counts, with its age; what is delayed, or is no priority, does not disturb."""
    await prioritized.execute(SEND, 0, 2, 30)
    await prioritized.execute(SEND, 3, 5, 4_000)
    await prioritized.execute(SEND, 1, 7, -600)
    await prioritized.execute(
        """insert into pgmq.q_jobs (vt, message, headers) values
        (now() - interval '100 s', '{}', null), ('-infinity', '{}', '{"meshhook-priority": []}')"""
    )
    found = await series(prioritized)
    waiting = {band: value for (name, band), value in found.items() if name == "waiting_messages"}
    assert waiting == {"urgent": 2, "high": 0, "normal": 2, "low": 5}
    for band, seconds in {"urgent": 30, "high": 0, "normal": 100, "low": 4_000}.items():
        near = pytest.approx(seconds, abs=30) if seconds else 0
        assert found["oldest_ready_seconds", band] == near


async def test_counting_stops_at_the_limit(prioritized: Connection) -> None:
    """For each band."""
    await prioritized.execute(SEND, 0, 20, 30)
    await prioritized.execute(SEND, 3, 3, 30)
    found = await series(prioritized, count_limit=10)
    assert found["waiting_messages", "urgent"] == 10
    assert found["waiting_messages", "low"] == 3


async def test_a_queue_that_cannot_be_read_disturbs_no_other(prioritized: Connection) -> None:
    """Its index was dropped by hand, or its table: the others have their figures."""
    await prioritized.execute("select meshhook.create_queue('other')")
    await set_queue_config(prioritized, "other", prioritized=True)
    await prioritized.execute("alter table pgmq.q_jobs rename column headers to gone")
    rows = await prioritized.fetch("select * from meshhook.priority_metrics()")
    assert [(row["queue"], row["priority"]) for row in rows] == [
        ("jobs", None),
        *(("other", name) for name in PRIORITIES),
    ]
    assert "headers" in rows[0]["problem"]
    assert rows[1]["problem"] is None


async def test_whoever_reads_figures_reads_them(database_url: str, prioritized: Connection) -> None:
    """The roles of the operator, of monitoring and of workers."""
    await prioritized.execute(SEND, 0, 2, 30)
    async with Roles(database_url, prioritized) as roles:
        for kind in (RoleKind.OPERATOR, RoleKind.READER, RoleKind.WORKER):
            found = await series(roles.url(await roles.make(kind)))
            assert found["waiting_messages", "urgent"] == 2


async def test_the_bands_are_read_by_their_index(prioritized: Connection) -> None:
    """However many messages are there, in whatever band, each band reads what it counts."""
    await prioritized.execute(SEND, 3, 100_000, 30)
    await prioritized.execute(SEND, 2, 100_000, -600)
    await prioritized.execute("prepare waits as select * from meshhook.priority_waits($1, $2, $3)")
    plan = await explained(prioritized, "waits", "'jobs', array[1,2,3,4], 100")
    assert nodes(plan)
    assert buffers(plan) <= 400


async def worked_off(
    url: str, connection: Connection, **options: Any
) -> dict[tuple[str, str], float]:
    """Let a worker run all jobs, and return its series by priority."""
    registry = CollectorRegistry()

    async def handle(_: Any) -> Done:
        return Done()

    handler: Any = create_job_handler(handle, **options)
    async with make_worker(url, handler, registry=registry):
        await eventually(
            lambda: connection.fetchval("select not exists (select from pgmq.q_jobs)"), 60
        )
    return samples(registry, "meshhook_worker_priority_")


@pytest.mark.parametrize("options", [{}, {"batch": 3}])
async def test_a_worker_notes_waits_by_priority(
    database_url: str, prioritized: Connection, options: Any
) -> None:
    """The attempts of each band, and those that started after its target."""
    await prioritized.execute(SEND, 0, 2, 30)
    await prioritized.execute(SEND, 3, 3, 30)
    found = await worked_off(database_url, prioritized, **options)
    counts = {band: n for (name, band), n in found.items() if name == "wait_seconds_count"}
    assert counts == {"urgent": 2, "high": 0, "normal": 0, "low": 3}
    late = {band: n for (name, band), n in found.items() if name == "late_total"}
    assert late == {"urgent": 2, "high": 0, "normal": 0, "low": 0}
    assert found["wait_seconds_sum", "low"] >= 90


async def test_a_job_of_a_batch_that_fails_is_noted(
    database_url: str, prioritized: Connection
) -> None:
    """Like one of a batch in which all are done."""
    await set_queue_config(prioritized, "jobs", max_retry_attempts=1)
    await prioritized.execute(SEND, 1, 2, 30)
    registry = CollectorRegistry()

    async def fail(_: list[Job[Any]]) -> None:
        raise ValueError

    async with make_worker(database_url, create_job_handler(fail, batch=2), registry=registry):
        await eventually(
            lambda: prioritized.fetchval("select count(*) = 2 from pgmq.q_jobs_dlq"), 60
        )
    found = samples(registry, "meshhook_worker_priority_")
    assert found["wait_seconds_count", "high"] == 2
    assert found["late_total", "high"] == 2


async def test_a_worker_of_a_plain_queue_has_no_series_by_priority(
    database_url: str, connection: Connection
) -> None:
    """Also if messages say one."""
    await connection.execute(SEND, 0, 2, 30)
    assert await worked_off(database_url, connection) == {}
