"""Encrypted jobs of batch handlers and of schedules."""

from __future__ import annotations

from typing import Any, TypeAlias

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from meshhook import (
    App,
    InvalidJobError,
    Job,
    KeyRing,
    QueueService,
    add_schedule,
    create_job_handler,
    run_schedule,
)
from meshhook.administration import set_queue_config
from support.waiting import eventually
from support.workers import make_worker

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

CANARY = "canary-3782-8224"
KEYS = KeyRing({"k1": bytes(range(32))})
OTHERS = KeyRing({"k9": bytes(32)})


async def test_a_batch_has_decrypted_jobs_and_leaves_out_those_that_are_not(
    database_url: str, connection: Connection, pool: Pool
) -> None:
    """One of a lost key and one that was changed have ends of their own; the rest run together."""
    batches: list[list[Any]] = []

    async def handle(jobs: list[Job[Any]]) -> None:
        batches.append([(job.payload["n"], job.is_encrypted) for job in jobs])

    await set_queue_config(connection, "jobs", max_retry_attempts=1, encryption="require")
    async with (
        QueueService[Any](pool, "jobs", encryption=KEYS) as service,
        QueueService[Any](pool, "jobs", encryption=OTHERS) as stranger,
    ):
        ids = await service.enqueue_many([{"n": n, "card": CANARY} for n in range(3)])
        lost = await stranger.enqueue({"n": 3, "card": CANARY})
        changed = await service.enqueue({"run_id": "a", "n": 4, "card": CANARY})
    await connection.execute(
        "update pgmq.q_jobs set message = jsonb_set(message, '{run_id}', '\"b\"') "
        "where msg_id = $1",
        changed,
    )
    # By a client that encrypts nothing.
    plain = await connection.fetchval("select pgmq.send('jobs', '{\"n\": 5}')")
    handler = create_job_handler(handle, batch=10)
    async with make_worker(database_url, handler, encryption=KEYS) as worker:
        await eventually(lambda: worker.get_stats().processed == 6)
    ran = [each for batch in batches for each in batch]
    assert sorted(ran) == [(n, True) for n in range(3)]
    rows = await connection.fetch("select msg_id, outcome, error_type from meshhook.job_attempts")
    assert {tuple(row) for row in rows} == {
        *((msg_id, "succeeded", None) for msg_id in ids),
        (lost, "dead_lettered", "UnknownEncryptionKeyError"),
        (changed, "dead_lettered", "DecryptionError"),
        (plain, "dead_lettered", "UnencryptedMessageError"),
    }


async def test_a_failing_batch_tells_nothing_of_its_encrypted_jobs(
    database_url: str, connection: Connection, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """What the handler raises may quote any of its jobs: for all it is withheld."""

    async def handle(jobs: list[Job[Any]]) -> None:
        raise ValueError(str([job.payload for job in jobs]))

    await set_queue_config(connection, "jobs", max_retry_attempts=1)
    async with QueueService[Any](pool, "jobs", encryption=KEYS) as service:
        await service.enqueue_many([{"card": CANARY}] * 2)
    await QueueService[Any](pool, "jobs").enqueue({"plain": 1})
    handler = create_job_handler(handle, batch=10)
    async with make_worker(database_url, handler, encryption=KEYS) as worker:
        await eventually(lambda: worker.get_stats().processed == 3)
    rows = await connection.fetch("select t::text as row from meshhook.job_attempts t")
    rows += await connection.fetch("select t::text as row from pgmq.q_jobs_dlq t")
    assert len(rows) == 6
    assert CANARY not in "".join(row["row"] for row in rows)
    assert "ValueError" in "".join(row["row"] for row in rows)
    assert CANARY not in caplog.text


async def test_ends_for_other_jobs_tell_nothing_of_encrypted_ones(
    database_url: str, connection: Connection, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """Their error quotes what the handler returned, also for the plain jobs of the batch."""

    async def handle(jobs: list[Job[Any]]) -> dict[Any, None]:
        return {job.payload["card"]: None for job in jobs}

    await set_queue_config(connection, "jobs", max_retry_attempts=1)
    await QueueService[Any](pool, "jobs").enqueue({"card": "plain"})
    async with QueueService[Any](pool, "jobs", encryption=KEYS) as service:
        await service.enqueue({"card": CANARY})
    spans, tracer = InMemorySpanExporter(), TracerProvider()
    tracer.add_span_processor(SimpleSpanProcessor(spans))
    handler = create_job_handler(handle, batch=10)
    async with make_worker(
        database_url, handler, encryption=KEYS, tracer_provider=tracer
    ) as worker:
        await eventually(lambda: worker.get_stats().processed == 2)
    rows = await connection.fetch("select t::text as row from pgmq.q_jobs_dlq t")
    assert [("UnusableResultError" in row["row"], CANARY in row["row"]) for row in rows] == [
        (True, False)
    ] * 2
    assert CANARY not in caplog.text
    assert CANARY not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_the_schedules_of_an_app_with_keys_are_encrypted(
    database_url: str, connection: Connection
) -> None:
    """Where the schedule is stored, and in each job: its handler reads it. Also in such a queue."""
    app = App(database_url, encryption=KEYS)
    seen: list[Any] = []

    @app.periodic("0 0 1 1 *", payload={"card": CANARY}, name="yearly")
    @app.job("jobs", encryption="require")
    async def handle(job: Job[Any]) -> None:
        seen.append((job.payload, job.is_encrypted))

    await set_queue_config(connection, "jobs", encryption="require")
    async with app.workers(registry=CollectorRegistry()):
        stored = await connection.fetchval("select message::text from meshhook.schedules")
        await run_schedule(database_url, "jobs", "yearly")
        await eventually(lambda: seen)
        await run_schedule(database_url, "jobs", "yearly")
        await eventually(lambda: len(seen) == 2)
    assert seen == [({"card": CANARY}, True)] * 2
    assert stored.startswith('{"enc": ')
    tables = await connection.fetch(
        "select format('%I.%I', schemaname, tablename) as name from pg_tables "
        "where schemaname in ('meshhook', 'pgmq')"
    )
    for table in tables:
        rows = await connection.fetch(f"select t::text as row from {table['name']} t")
        assert CANARY not in "".join(row["row"] for row in rows), table["name"]
    await app.close()


async def test_a_schedule_without_keys_is_refused_where_encryption_is_required(pool: Pool) -> None:
    """When it is stored, so that nobody waits for jobs that never come."""
    await set_queue_config(pool, "jobs", encryption="require")
    with pytest.raises(InvalidJobError, match="takes encrypted jobs only"):
        await add_schedule(pool, "jobs", "hourly", every=3600, payload={"card": CANARY})
    assert await add_schedule(pool, "jobs", "hourly", every=3600, encryption=KEYS)
