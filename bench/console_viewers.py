"""The database's work for each job with many viewers on the overview, and without any.

Jobs are enqueued and run steadily by one process; the console is another, as `meshhook console`
starts it, with a role of its own, so that the server can tell its statements from others. Windows
without viewers take turns with those with viewers. In those without, as many pages are open of the
console of another server: on a busier machine jobs are claimed and settled in larger batches, which
would hide what viewers cost. A window's work is the processor time of all processes of the server
for each job that ran; its ratio is that to the mean of the windows before and after it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import asyncpg

from bench.console_figures import ALONE, KINDS, TITLES, Window, compared, said
from bench.console_processes import console_process, load_process
from bench.console_visits import Visits
from bench.machine import OtherUse, describe_machine, describe_settings, describe_versions
from bench.processor_time import ServerTime
from meshhook.administration import create_queue
from meshhook.role_kinds import RoleKind
from meshhook.roles import Login, create_role
from meshhook.schema import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from meshhook.embedded import EmbeddedPostgres

SETTINGS = {
    "shared_preload_libraries": "pg_stat_statements",
    # Small and often: what comes once a minute would fall into some windows only.
    "autovacuum_naptime": "5s",
    "checkpoint_timeout": "1h",
    "max_wal_size": "8GB",
}
"""Of the server; all else is as by default."""
WARM_UP_SECONDS = 10.0
SETTLE_SECONDS = 1.0
"""How long nothing is measured after pages were opened; a refresh interval at most."""
SAMPLE_SECONDS = 0.2
ANSWER_SECONDS = 60.0
_QUEUE = "viewed-1"
_ROLE = "viewed_console"
_STATEMENTS_SQL = """
select coalesce(sum(s.calls), 0)::bigint from pg_stat_statements s
join pg_roles r on r.oid = s.userid where r.rolname = $1
"""
_EACH_SQL = """
select s.query, s.calls, s.total_exec_time / s.calls as mean_ms from pg_stat_statements s
join pg_roles r on r.oid = s.userid where r.rolname = $1 order by s.calls desc
"""
_SESSIONS_SQL = "select pid from pg_stat_activity where usename = $1"


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured."""

    viewers: int = 200
    rate: float = 800.0
    """Jobs a second."""
    rounds: int = 2
    """How many windows of each kind of viewers."""
    window_seconds: float = 10.0
    job_ms: float = 5.0
    queues: int = 10
    """How many the overview shows; all but one are idle."""
    refresh_seconds: float = 5.0
    """The console's setting."""


class Stage:
    """The processes that run, and what they have done so far."""

    def __init__(
        self, sql: asyncpg.Connection[Any], server: ServerTime, load: asyncio.subprocess.Process
    ) -> None:
        self._sql = sql
        self._server = server
        self._load = load

    async def window(self, kind: str, seconds: float, visits: Visits) -> Window:
        """Let a window pass."""
        loaded = visits.loaded
        statements = await self._statements()
        pids = await self._sessions()
        jobs, (began, used) = (
            (await self._jobs())["done"],
            (time.monotonic(), self._server.seconds()),
        )
        own = self._server.seconds_of(pids)
        while (left := began + seconds - time.monotonic()) > 0:
            await asyncio.sleep(min(left, SAMPLE_SECONDS))
            self._server.seconds()  # so that processes that end, as of autovacuum, are counted
        after, (ended, used_after) = await self._jobs(), (time.monotonic(), self._server.seconds())
        return Window(
            kind,
            seconds=ended - began,
            jobs=after["done"] - jobs,
            jobs_waiting=after["enqueued"] - after["done"],
            database_cpu_seconds=used_after - used,
            # Those that began meanwhile had used nothing before.
            console_cpu_seconds=self._server.seconds_of(pids | await self._sessions()) - own,
            console_statements=await self._statements() - statements,
            pages_loaded=visits.loaded - loaded,
        )

    async def statements(self) -> list[dict[str, Any]]:
        """Return the console's statements so far, the most frequent first."""
        return [
            {
                "calls": row["calls"],
                "mean_ms": row["mean_ms"],
                "query": " ".join(row["query"].split())[:160],
            }
            for row in await self._sql.fetch(_EACH_SQL, _ROLE)
        ]

    async def _jobs(self) -> dict[str, int]:
        assert self._load.stdin is not None
        assert self._load.stdout is not None
        self._load.stdin.write(b"\n")
        line = await asyncio.wait_for(self._load.stdout.readline(), ANSWER_SECONDS)
        if not line:
            raise RuntimeError("the process that enqueues and runs jobs has ended")
        found: dict[str, int] = json.loads(line)
        return found

    async def _statements(self) -> int:
        return int(await self._sql.fetchval(_STATEMENTS_SQL, _ROLE))

    async def _sessions(self) -> set[int]:
        return {row["pid"] for row in await self._sql.fetch(_SESSIONS_SQL, _ROLE)}


async def measure_viewers(
    server: EmbeddedPostgres,
    other_server: EmbeddedPostgres,
    options: Options,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return the report.

    Args:
        server: where jobs run.
        other_server: another one, whose console has the pages while the first has none.
        options: what is measured.
        say: is told how each window went.
    """
    began, url, postmaster = time.monotonic(), server.url(), server.pid or 0
    windows: list[Window] = []
    errors: list[str] = []
    async with AsyncExitStack() as stack:
        sql = await stack.enter_async_context(_prepared(url, options))
        other_sql = await stack.enter_async_context(_prepared(other_server.url(), options))
        consoles = [
            await stack.enter_async_context(
                console_process(
                    await _url_of_console(each, place.url()),
                    place.directory.parent / f"{place.directory.name}-console.txt",
                    refresh_seconds=options.refresh_seconds,
                )
            )
            for each, place in ((sql, server), (other_sql, other_server))
        ]
        load = await stack.enter_async_context(
            load_process(url, _QUEUE, rate=options.rate, job_ms=options.job_ms)
        )
        stage = Stage(sql, ServerTime(postmaster), load)
        pids = (other_server.pid or 0, load.pid, *(process.pid for process, _ in consoles))
        others = OtherUse(postmaster, *pids)
        settle = min(SETTLE_SECONDS, options.refresh_seconds)
        await asyncio.sleep(min(WARM_UP_SECONDS, 2 * options.window_seconds))
        for kind in KINDS:
            for name in (*(ALONE, kind) * options.rounds, ALONE):
                _, address = consoles[1 if name == ALONE else 0]
                async with Visits(
                    address,
                    options.viewers,
                    refresh_seconds=options.refresh_seconds,
                    is_streaming=kind == "streams",
                ) as visits:
                    await asyncio.sleep(settle)
                    windows.append(await stage.window(name, options.window_seconds, visits))
                errors += [f"{TITLES[kind]}: {error}" for error in visits.errors]
                say(said(windows[-1]))
        percent = others.percent()
        statements = await stage.statements()
        settings = await describe_settings(sql)
        versions = await describe_versions(sql, {})
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - began,
        "options": asdict(options),
        "machine": describe_machine(server.directory),
        "versions": versions,
        "postgresql_settings": settings | SETTINGS,
        "other_cpu_percent": percent,
        "windows": [asdict(each) for each in windows],
        "console_statements": statements,
        "failures": sorted({f"{error} ({errors.count(error)} times)" for error in errors}),
    } | compared(windows)


@asynccontextmanager
async def _prepared(url: str, options: Options) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Make schema and queues, and yield a connection."""
    sql = await asyncpg.connect(url)
    try:
        await migrate(sql)
        await sql.execute("create extension pg_stat_statements")
        for number in range(options.queues):
            await create_queue(sql, f"viewed-{number + 1}")
        await sql.execute("checkpoint")
        yield sql
    finally:
        await sql.close()


async def _url_of_console(sql: asyncpg.Connection[Any], url: str) -> str:
    """Make the console's role, and return the URL with it."""
    login = Login(_ROLE, secrets.token_urlsafe(24))
    await create_role(sql, RoleKind.ONCALL, login=login)
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{login.user}:{login.password}@{place}").geturl()
