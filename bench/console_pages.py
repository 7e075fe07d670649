"""Opening each page of the console, in a database without jobs and in one with millions."""

from __future__ import annotations

import statistics
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx

from bench.processor_time import ServerTime
from meshhook.console.app import console_app

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUEUE = "deep"
PAGE_ROWS = 50
AUDIT_PAGE_ROWS = 50
DAYS = 7
"""Over how many days the dead letters and changes are spread."""
_MEMORY = "set maintenance_work_mem = '512MB'"
_WAITING_SQL = """
insert into pgmq.q_deep (vt, message)
select now() - make_interval(secs => ($1::bigint - n) / 1000.0), jsonb_build_object(
    'run_id', 'run-' || n / 100, 'workflow_id', 'workflow-' || n % 50,
    'project_id', 'project-' || n % 1000, 'payload', jsonb_build_object('order', n))
from generate_series(1, $1::bigint) n
"""
_LATER_SQL = """
insert into pgmq.q_deep (vt, message, read_ct)
select now() + '1 day', '{"payload": {}}', 0 from generate_series(1, 500)
"""
_DEAD_SQL = """
insert into pgmq.q_deep_dlq (vt, enqueued_at, message, headers)
select now(), now() - make_interval(secs => $2::float8 * ($1::bigint - n) / $1::bigint),
    jsonb_build_object('run_id', 'run-' || n / 100, 'workflow_id', 'workflow-' || n % 50,
        'project_id', 'project-' || n % 1000, 'payload', jsonb_build_object('order', n)),
    jsonb_build_object('x-pgmq-group', 'key-' || n % 100, 'meshhook-dead-letter',
        jsonb_build_object('queue', 'deep', 'msg_id', 10 * $1::bigint + n, 'attempts', 3,
            'error_message', 'no answer within 5 s', 'error_type', case when n = 7 then 'RareError'
                else (array['TimeoutError', 'ValueError', 'HTTPError'])[1 + n % 3] end))
from generate_series(1, $1::bigint) n
"""
_AUDIT_SQL = """
insert into meshhook.audit_log (at, database_role, actor, source, action, queue, count)
select now() - make_interval(secs => $2::float8 * ($1::bigint - n) / $1::bigint), 'oncall',
    case when n = 7 then 'rare' else 'person-' || n % 10 end, 'console',
    case when n = 8 then 'rare.action' else 'dead_letters.replayed' end,
    case when n = 9 then 'rare' else 'deep' end, 1
from generate_series(1, $1::bigint) n
"""
_INDEXES_SQL = """
select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition
from pg_index i
where i.indrelid in ('pgmq.q_deep'::regclass, 'pgmq.q_deep_dlq'::regclass,
    'meshhook.audit_log'::regclass)
  and not i.indisprimary
"""


@dataclass(frozen=True, slots=True)
class Opening:
    """What opening a page took."""

    page: str
    empty_ms: float
    """The time from asking to answering, in milliseconds: the shortest of all openings."""
    deep_ms: float
    empty_cpu_ms: float
    """The processor time of the console and the database, in milliseconds: the median."""
    deep_cpu_ms: float
    kilobytes: float
    """How long the page of the deep queue is, without its files."""

    @property
    def ratio(self) -> float:
        """How much more processor time the deep queue took."""
        return self.deep_cpu_ms / self.empty_cpu_ms


async def fill(connection: asyncpg.Connection[Any], rows: int) -> None:
    """Put as many messages, dead letters and changes into the queue, indexes last."""
    indexes = await connection.fetch(_INDEXES_SQL)
    await connection.execute(_MEMORY)
    for index in indexes:
        await connection.execute(f"drop index {index['name']}")
    seconds = DAYS * 86_400.0
    await connection.execute(_WAITING_SQL, rows, timeout=3_600)
    await connection.execute(_LATER_SQL)
    await connection.execute(_DEAD_SQL, rows, seconds, timeout=3_600)
    await connection.execute(_AUDIT_SQL, rows // 10, seconds, timeout=3_600)
    for index in indexes:
        await connection.execute(index["definition"], timeout=3_600)
    await connection.execute("vacuum analyze", timeout=3_600)


def pages(rows: int) -> dict[str, str]:
    """Return the addresses of the pages, by what they are called."""
    now = datetime.now(UTC)
    middle = (now - timedelta(days=DAYS / 2)).isoformat().replace("+", "%2B")
    hour = (now - timedelta(hours=1)).isoformat().replace("+", "%2B")
    dead, search = f"/queues/{QUEUE}/dead-letters", f"/search?queue={QUEUE}"
    newest = f"run-{rows // 100 - 1}"
    second, thousandth = max(1, rows - PAGE_ROWS + 1), max(1, rows - 999 * PAGE_ROWS + 1)
    return {
        "overview": "/",
        "queue": f"/queues/{QUEUE}",
        "dead letters: errors": "/dead-letters",
        "dead letters": dead,
        "dead letters: page 2": f"{dead}?before={second}",
        "dead letters: page 1000": f"{dead}?before={thousandth}",
        "dead letters: error": f"{dead}?error_type=TimeoutError",
        "dead letters: error, page 1000": f"{dead}?error_type=TimeoutError&before={thousandth}",
        "dead letters: rare error": f"{dead}?error_type=RareError",
        "dead letters: no such error": f"{dead}?error_type=NoError",
        "dead letters: since": f"{dead}?since={hour}",
        "dead letters: until": f"{dead}?until={middle}",
        "dead letters: key": f"{dead}?key=key-7",
        "dead letters: run": f"{dead}?run_id={newest}",
        "dead letters: workflow": f"{dead}?workflow_id=workflow-7",
        "dead letters: project": f"{dead}?project_id=project-7",
        "search: queue": search,
        "search: page 2": f"{search}&before={second}",
        "search: page 1000": f"{search}&before={thousandth}",
        "search: ready": f"{search}&state=ready",
        "search: ready, page 1000": f"{search}&state=ready&before={thousandth}",
        "search: scheduled": f"{search}&state=scheduled",
        "search: running": f"{search}&state=running",
        "search: succeeded": f"{search}&state=succeeded",
        "search: dead letters": f"{search}&state=dead_lettered",
        "search: run": f"{search}&run_id={newest}",
        "search: workflow": f"{search}&workflow_id=workflow-7",
        "search: project": f"{search}&project_id=project-7",
        "search: error": f"{search}&error_type=TimeoutError",
        "search: since": f"{search}&since={hour}",
        "keys": f"/queues/{QUEUE}/keys",
        "workers": "/workers",
        "schedules": "/schedules",
        "audit": "/audit",
        "audit: page 2": f"/audit?before={rows // 10 - AUDIT_PAGE_ROWS}",
        "audit: page 1000": f"/audit?before={max(1, rows // 10 - 999 * AUDIT_PAGE_ROWS)}",
        "audit: queue": f"/audit?queue={QUEUE}",
        "audit: rare queue": "/audit?queue=rare",
        "audit: who": "/audit?actor=person-7",
        "audit: rare who": "/audit?actor=rare",
        "audit: what": "/audit?action=dead_letters",
        "audit: rare what": "/audit?action=rare.action",
        "audit: since": f"/audit?since={hour}",
        "audit: until": f"/audit?until={middle}",
    }


async def measure(
    urls: tuple[str, str], postmaster: int, rows: int, *, openings: int, only: str = ""
) -> AsyncIterator[Opening]:
    """Open each page as often in both databases, in turns and each time anew.

    Args:
        urls: the database without jobs, and the one with them.
        postmaster: the process id of their server.
        rows: how many the second one has.
        openings: how often each page is opened.
        only: only pages with this in their names. Default: all.
    """
    server = ServerTime(postmaster)
    async with AsyncExitStack() as stack:
        consoles = [await stack.enter_async_context(_asked(url)) for url in urls]
        for page, path in pages(rows).items():
            if only not in page:
                continue
            times: list[list[float]] = [[], []]
            costs: list[list[float]] = [[], []]
            size = 0
            for turn in range(openings + 1):
                for (client, app), seen, cost in zip(consoles, times, costs, strict=True):
                    app.state.console.snapshots.forget_all()
                    began, used = time.perf_counter(), server.seconds() + time.process_time()
                    answer = await client.get(path)
                    took = time.perf_counter() - began
                    answer.raise_for_status()
                    size = len(answer.content)
                    # The first one opens connections, prepares statements and reads templates.
                    if turn:
                        seen.append(took * 1000)
                        cost.append((server.seconds() + time.process_time() - used) * 1000)
            yield Opening(
                page,
                empty_ms=min(times[0]),
                deep_ms=min(times[1]),
                empty_cpu_ms=statistics.median(costs[0]),
                deep_cpu_ms=statistics.median(costs[1]),
                kilobytes=size / 1000,
            )


@asynccontextmanager
async def _asked(url: str) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    app = console_app(url)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        client.timeout = httpx.Timeout(60)
        try:
            yield client, app
        finally:
            await app.state.close()
