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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from bench import console_pages
from meshhook.administration import create_queue, set_queue_config
from meshhook.console.app import console_app
from meshhook.console.server import address_of, listening_socket, server_of
from meshhook.console.settings import ConsoleSettings
from meshhook.embedded import EmbeddedPostgres
from meshhook.postgres.database import Database
from meshhook.queues import QueueService
from meshhook.schema import migrate
from meshhook.worker import Worker

JOBS_PER_SECOND = 800
SETTINGS = {"shared_buffers": "512MB", "max_wal_size": "8GB", "fsync": "off"}
"""Of the server: millions of rows are filled in without waiting for the disk."""


async def measure_open(server: EmbeddedPostgres, rows: int, openings: int, only: str) -> None:
    """Open pages of an empty queue and of one with many rows, each time anew."""
    urls = server.url("empty"), server.url("deep")
    connection = await asyncpg.connect(server.url())
    for name in ("empty", "deep"):
        await connection.execute(f"create database {name}")
    await connection.close()
    for url in urls:
        await _migrated(url)
        await create_queue(url, console_pages.QUEUE)
        await set_queue_config(url, console_pages.QUEUE, keyed=True)
    connection = await asyncpg.connect(urls[1])
    await console_pages.fill(connection, rows)
    await connection.close()
    async for each in console_pages.measure(
        urls, _postmaster(server), rows, openings=openings, only=only
    ):
        print(json.dumps(asdict(each) | {"rows": rows, "ratio": round(each.ratio, 2)}), flush=True)


def _postmaster(server: EmbeddedPostgres) -> int:
    if server.pid is None:
        raise RuntimeError("the server has ended")
    return server.pid


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
    opening.add_argument("--openings", type=int, default=5, help="of each page")
    opening.add_argument("--only", default="", help="only pages with this in their names")
    watching = commands.add_parser("viewers")
    watching.add_argument("--viewers", type=int, default=200)
    watching.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshhook-bench-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres", settings=SETTINGS)
        url = server.start()
        try:
            asyncio.run(_migrated(url))
            if options.command == "open":
                asyncio.run(measure_open(server, options.rows, options.openings, options.only))
            else:
                asyncio.run(measure_viewers(url, options.viewers, options.seconds))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
