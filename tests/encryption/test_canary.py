"""A secret in payloads: found in plain nowhere but in the handlers of workers with the keys.

Files of the server are searched too: what was stored for a moment stands in the WAL.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import BaseModel

from meshhook import (
    DeadLetter,
    DLQService,
    Done,
    FollowUp,
    InvalidJobError,
    Job,
    JobTooLargeError,
    KeyRing,
    QueueService,
    RetryAfter,
    Worker,
    add_schedule,
    bind_topic,
    create_job_handler,
    create_queue,
    run_schedule,
    set_queue_config,
)
from support.command_line import run_command
from support.console import visiting
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

pytestmark = pytest.mark.usefixtures("queue_name")

KEYS = {"k1": bytes(range(32))}


class Card(BaseModel):
    """A payload with a secret."""

    what: str
    card: str
    amount: int = 1


class Everything:
    """All that was written, said or shown, by where that was."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    def add(self, where: str, text: object) -> None:
        """Note a text."""
        self.texts.append((where, str(text)))

    def places_of(self, secret: str) -> list[str]:
        """Return where a secret stands, with some of what is around it."""
        return [
            f"{where}: ...{text[max(text.index(secret) - 200, 0) : text.index(secret) + 40]}"
            for where, text in self.texts
            if secret in text
        ]


async def rows_of(connection: Connection) -> AsyncIterator[tuple[str, str]]:
    """Yield each row of each table of the database as text, those of PostgreSQL's own included."""
    tables = await connection.fetch(
        "select c.oid::regclass::text as name from pg_class c "
        "where c.relkind in ('r', 'm', 'p') and c.relpersistence <> 't' "
        "and has_table_privilege(c.oid, 'select')"
    )
    for table in tables:
        for row in await connection.fetch(f"select t::text as row from {table['name']} t"):
            yield table["name"], row["row"]


def files_with(folder: Path, secret: str) -> list[str]:
    """Return the files of the server in whose bytes a secret stands, the WAL among them."""
    found = []
    for path in folder.rglob("*"):
        try:
            if not path.is_file() or not path.stat().st_size:
                continue
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
                if m.find(secret.encode()) >= 0:
                    found.append(str(path.relative_to(folder)))
        except (FileNotFoundError, ValueError, PermissionError):
            continue  # gone or emptied meanwhile
    return found


@pytest.fixture
def logged() -> Iterator[Everything]:
    """Collect each log record of this process, whatever it carries, of all levels."""
    found = Everything()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.add(f"log {record.name}", record.getMessage())
            found.add(f"fields of log {record.name}", vars(record))
            if record.exc_info and record.exc_info[1]:
                error = record.exc_info[1]
                found.add(f"stack in log {record.name}", "".join(traceback.format_exception(error)))

    collector, root = Collector(0), logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in (None, "meshhook", "asyncio")}
    root.addHandler(collector)
    for name in levels:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield found
    root.removeHandler(collector)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


async def handle(job: Job[Card]) -> object:  # noqa: C901 - a way to end each
    """End in each way that quotes the payload."""
    card, what = job.payload, job.payload.what
    if what == "raise":
        raise RuntimeError(f"cannot charge {card!r}")
    if what == "chain":
        error = KeyError(card.card)
        error.add_note(f"it was {card.card}")
        raise ExceptionGroup(card.card, [error, ValueError(card.card)]) from error
    if what == "retry":
        if job.attempt > 1:
            return {"charged": card.card}
        raise RetryAfter(0.01, f"later: {card.card}")
    if what == "bury":
        raise DeadLetter(f"no {card.card}", error_type="Refused")
    if what == "hang":
        await asyncio.sleep(60)
    if what == "follow":
        then = [FollowUp("after", {"card": card.card}, delay=0)]
        return Done(then=then, result={"charged": card.card})
    if what == "bad result":
        return {"charged": object(), card.card: card.card}
    if what == "bad follow-up":
        return Done(then=[FollowUp("after", {card.card: float("nan")})])
    if what == "background":
        task = asyncio.create_task(_fail(card.card), name=card.what)
        await asyncio.wait([task])
        return task.result()
    return {"charged": card.card}


async def _fail(text: str) -> None:
    raise RuntimeError(text)


async def fill(pool: Pool, keys: KeyRing | None, secret: str, tracer: TracerProvider) -> int:
    """Enqueue jobs with the secret on every way, and return how many will end."""
    card = {"card": secret}
    async with QueueService[Any](pool, "jobs", encryption=keys, tracer_provider=tracer) as service:
        whats = ("raise", "chain", "retry", "bury", "hang", "follow", "bad result")
        for what in (*whats, "bad follow-up", "background", "fine"):
            job = {"run_id": f"run-{what}", "payload": {"what": what, **card}}
            follow_up = FollowUp("after", card) if what in ("raise", "bury") else None
            await service.enqueue(job, on_dead_letter=follow_up)
        # What no model takes: the error of the validation quotes the input.
        await service.enqueue({"what": secret, "card": [secret], "amount": secret})
        await service.enqueue({"what": "fine", **card}, unique_key="u")
        await service.enqueue({"what": "fine", **card}, unique_key="u", on_conflict="replace")
        await service.enqueue_many(
            [{"what": "fine", **card}] * 2, group="g", on_complete=FollowUp("after", card)
        )
        await service.publish("cards.new", {"what": "fine", **card})
        waiting = await service.enqueue({"what": "fine", **card}, delay_seconds=3600)
        await service.cancel(waiting, reason="no longer wanted")
        for wrong in ({"payload": object(), **card}, {"card": secret + "x" * 2_000_000}):
            with pytest.raises((InvalidJobError, JobTooLargeError)) as refused:
                await service.enqueue(wrong)
            assert secret not in str(refused.value)
        # This error names the field to its caller; the span of the send does not.
        with pytest.raises(InvalidJobError, match=secret):
            await service.enqueue({secret: object()})
    await add_schedule(
        pool, "jobs", "nightly", every=3600, payload={"what": "fine", **card}, encryption=keys
    )
    await run_schedule(pool, "jobs", "nightly")
    return 16


async def work(
    url: str, keys: KeyRing | None, ends: int, tracer: TracerProvider, registry: CollectorRegistry
) -> None:
    """Run a worker until that many jobs have ended."""
    options: dict[str, Any] = {"encryption": keys, "tracer_provider": tracer, "grace_seconds": 5}
    handler = create_job_handler(handle, payload_model=Card)
    sql = (
        "select count(*) from meshhook.job_attempts where queue = 'jobs' "
        "and outcome in ('succeeded', 'dead_lettered', 'cancelled')"
    )
    async with (
        asyncpg.create_pool(url) as pool,
        Worker(url, "jobs", handler, registry=registry, **options),
    ):

        async def all_ended() -> bool:
            return int(await pool.fetchval(sql)) >= ends

        await eventually(all_ended, message="all jobs have ended")


async def shown(pool: Pool, found: Everything) -> None:
    """Look at everything with each command and each page that shows jobs, without the keys."""
    ids = [row[0] for row in await pool.fetch("select distinct msg_id from meshhook.job_attempts")]
    dead = [each.id for each in await DLQService(pool, "jobs").list_dead_letter_jobs()]
    commands = [
        ["jobs", "list", "--queue", "jobs"],
        ["jobs", "list", "--queue", "jobs", "--json"],
        ["dlq", "list", "jobs"],
        ["dlq", "list", "jobs", "--json"],
        ["audit", "export"],
        ["doctor"],
        ["stats"],
        ["schedule", "list"],
        ["groups", "list", "--queue", "jobs"],
        ["encryption", "status", "jobs"],
        *(["jobs", "show", "jobs", str(each)] for each in ids),
        *(["dlq", "show", "jobs", str(each)] for each in dead),
    ]
    for command in commands:
        done = await asyncio.to_thread(run_command, command)
        assert done.code in ((0, 1) if command[0] == "doctor" else (0,)), done
        found.add(f"meshhook {' '.join(command)}", done.out + done.err)
    async with visiting(pool) as visitor:
        pages = ["/", "/queues/jobs", "/queues/jobs/dead-letters", "/dead-letters", "/audit"]
        pages += [
            "/audit.csv",
            "/schedules",
            "/search?queue=jobs&run_id=run-raise",
            "/doctor",
            "/workers",
        ]
        pages += [f"/queues/jobs/jobs/{each}" for each in ids]
        pages += [f"/queues/jobs/dead-letters/{each}" for each in dead]
        for page in pages:
            answer = await visitor.get(page)
            assert answer.status_code == 200, page
            found.add(f"page {page}", answer.text)


@pytest.mark.parametrize("is_encrypted", [True, False])
async def test_a_secret_is_in_plain_nowhere(  # noqa: PLR0917 - fixtures
    is_encrypted: bool,
    database_url: str,
    pool: Pool,
    connection: Connection,
    logged: Everything,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without keys the same search finds it, in tables, files, spans, commands and pages."""
    secret = f"canary{uuid4().hex}"
    monkeypatch.setenv("MESHHOOK_DATABASE_URL", database_url)
    keys = KeyRing(KEYS) if is_encrypted else None
    spans, registry = InMemorySpanExporter(), CollectorRegistry()
    tracer = TracerProvider()
    tracer.add_span_processor(SimpleSpanProcessor(spans))
    for queue in ("after", "others"):
        await create_queue(pool, queue)
    await bind_topic(pool, "jobs", "cards.*")
    for queue in ("jobs", "after", "others"):
        await set_queue_config(
            pool,
            queue,
            results=True,
            keep_bodies_days=5,
            max_retry_attempts=2,
            retry_backoff_base_ms=0,
            retry_backoff_max_ms=0,
            job_timeout_seconds=1,
            max_payload_bytes=1_000_000,
        )
    ends = await fill(pool, keys, secret, tracer)
    await work(database_url, keys, ends, tracer, registry)
    dlq = DLQService(pool, "jobs", encryption=keys)
    first, second, *_ = await dlq.list_dead_letter_jobs()
    await dlq.replay_dead_letter_job(first.id, body=f'{{"what": "fine", "card": "{secret}"}}')
    await dlq.replay_dead_letter_job(second.id, "others")

    found = logged
    async for where, row in rows_of(connection):
        found.add(f"table {where}", row)
    for span in spans.get_finished_spans():
        found.add(f"span {span.name}", span.to_json())
    found.add("metrics", generate_latest(registry).decode())
    await shown(pool, found)
    written = capfd.readouterr()
    found.add("output", written.out + written.err)
    # Finds what a checkpoint or the WAL has, also of rows that are gone.
    await connection.execute("checkpoint")
    folder = Path(await connection.fetchval("show data_directory"))
    files = await asyncio.to_thread(files_with, folder, secret)

    places = found.places_of(secret)
    if is_encrypted:
        assert places == []
        assert files == []
        return
    text = "\n".join(places)
    for where in ("table pgmq.q_jobs_dlq", "table meshhook.finished_jobs_", "log meshhook", "span"):
        assert where in text
    for where in ("meshhook jobs show", "meshhook dlq show", "page /queues/jobs/jobs/"):
        assert where in text
    assert any("pg_wal" in Path(each).parts for each in files)
