"""What the console costs: opening pages of a deep queue, and many viewers beside a load.

    python -m bench.console open --rows 5000000
    python -m bench.console viewers --viewers 200 --seconds 30

It makes queues in a database of its own on a throw-away server, and prints a JSON object a line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from meshhook.administration import create_queue
from meshhook.console.app import console_app
from meshhook.console.server import address_of, listening_socket, server_of
from meshhook.console.settings import ConsoleSettings
from meshhook.embedded import EmbeddedPostgres
from meshhook.postgres.database import Database
from meshhook.queues import QueueService
from meshhook.schema import migrate
from meshhook.worker import Worker

OPENINGS = 15
PAGES = ("/queues/{}", "/queues/{}/dead-letters", "/search?queue={}&state=ready")
JOBS_PER_SECOND = 800
_FILL_SQL = """
insert into pgmq.q_deep (vt, message) select now(), '{"run_id": "r", "payload": {"order": 1}}'
from generate_series(1, $1::bigint)
"""
_FILL_DEAD_SQL = """
insert into pgmq.q_deep_dlq (vt, message, headers) select now(), '{"payload": {}}',
    '{"meshhook-dead-letter": {"queue": "deep", "error_type": "TimeoutError"}}'
from generate_series(1, $1::bigint)
"""


async def measure_open(url: str, rows: int) -> None:
    """Open pages of an empty queue and of one with many rows, each time anew."""
    connection = await asyncpg.connect(url)
    for name in ("empty", "deep"):
        await create_queue(connection, name)
    for sql in (_FILL_SQL, _FILL_DEAD_SQL):
        await connection.execute(sql, rows, timeout=3_600)
    await connection.execute("vacuum analyze", timeout=3_600)
    await connection.close()
    app = console_app(url)
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for page in ("/", *PAGES):
            times: dict[str, list[float]] = {"empty": [], "deep": []}
            for _ in range(OPENINGS):
                for name, seen in times.items():
                    app.state.console.snapshots.forget_all()
                    began = time.perf_counter()
                    answer = await client.get(page.format(name))
                    seen.append(time.perf_counter() - began)
                    answer.raise_for_status()
            empty, deep = (statistics.median(times[name]) for name in ("empty", "deep"))
            print(
                json.dumps(
                    {
                        "page": page,
                        "rows": rows,
                        "empty_ms": round(empty * 1000, 1),
                        "deep_ms": round(deep * 1000, 1),
                        "ratio": round(deep / empty, 2),
                    }
                ),
                flush=True,
            )
    await app.state.close()


async def measure_viewers(url: str, viewers: int, seconds: float) -> None:
    """Compare the database's work with and without viewers, beside a steady load."""
    connection = await asyncpg.connect(url)
    await create_queue(connection, "load")
    settings = ConsoleSettings()
    database = await Database.connect(url, min_size=0, max_size=4)
    with listening_socket(settings, "127.0.0.1", 0) as listener:
        server = server_of(console_app(database, settings=settings))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        loading = asyncio.create_task(_load(url))
        try:
            await asyncio.sleep(5)
            found: dict[str, list[float]] = {"alone": [], "watched": []}
            for _ in range(3):
                found["alone"].append(await _work(connection, seconds))
                watching = [
                    asyncio.create_task(_watch(address_of(listener), settings.refresh_seconds))
                    for _ in range(viewers)
                ]
                found["watched"].append(await _work(connection, seconds))
                for task in watching:
                    task.cancel()
                await asyncio.gather(*watching, return_exceptions=True)
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            server.should_exit = True
            await serving
    await connection.close()
    alone, watched = (statistics.median(found[name]) for name in ("alone", "watched"))
    print(
        json.dumps(
            {
                "viewers": viewers,
                "jobs_per_second": JOBS_PER_SECOND,
                "database_ms_per_job_alone": round(alone, 4),
                "database_ms_per_job_watched": round(watched, 4),
                "ratio": round(watched / alone, 3),
            }
        )
    )


async def _load(url: str) -> None:
    async def handle(_: Any) -> None:
        return

    async with QueueService[Any](url, "load") as queue, Worker(url, "load", handle):
        at = time.monotonic()
        while True:
            await queue.enqueue_many([{"payload": {}}] * (JOBS_PER_SECOND // 10))
            at += 0.1
            await asyncio.sleep(max(0.0, at - time.monotonic()))


async def _watch(url: str, refresh_seconds: float) -> None:
    """Do what an open overview does."""
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            (await client.get(url)).raise_for_status()
            await asyncio.sleep(refresh_seconds)


async def _work(connection: Any, seconds: float) -> float:
    """Return how many milliseconds of statements the database had for each job that ended."""
    before = await _counts(connection)
    await asyncio.sleep(seconds)
    after = await _counts(connection)
    return float((after[0] - before[0]) / max(1, after[1] - before[1]))


async def _counts(connection: Any) -> tuple[float, int]:
    await asyncio.sleep(2)  # sessions report to the statistics once a second
    row = await connection.fetchrow(
        "select active_time, (select last_value from pgmq.q_load_msg_id_seq) as jobs "
        "from pg_stat_database where datname = current_database()"
    )
    return float(row[0]), int(row[1])


async def _migrated(url: str) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection)
    await connection.close()


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    opening = commands.add_parser("open")
    opening.add_argument("--rows", type=int, default=5_000_000)
    watching = commands.add_parser("viewers")
    watching.add_argument("--viewers", type=int, default=200)
    watching.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshhook-bench-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres")
        url = server.start()
        try:
            asyncio.run(_migrated(url))
            if options.command == "open":
                asyncio.run(measure_open(url, options.rows))
            else:
                asyncio.run(measure_viewers(url, options.viewers, options.seconds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
