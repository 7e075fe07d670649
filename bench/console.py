"""What the console costs: opening pages of a deep queue, and many viewers beside a load.

    python -m bench.console open --rows 5000000
    python -m bench.console viewers

It makes queues in a database of its own on a throw-away server, and prints a JSON object a line.
`viewers` takes four minutes; it shows tables and how it goes on standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import signal
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
from rich.console import Console
from rich.table import Table

from bench import console_pages
from bench.console_figures import lines, tables
from bench.console_viewers import SETTINGS as VIEWER_SETTINGS
from bench.console_viewers import Options, measure_viewers
from meshhook.administration import create_queue, set_queue_config
from meshhook.embedded import EmbeddedPostgres
from meshhook.schema import migrate

if TYPE_CHECKING:
    from collections.abc import Coroutine

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


async def _migrated(url: str) -> None:
    connection = await asyncpg.connect(url)
    await migrate(connection)
    await connection.close()


def _viewers(
    server: EmbeddedPostgres, other_server: EmbeddedPostgres, options: argparse.Namespace
) -> int:
    wanted = Options(
        **{each.name: getattr(options, each.name) for each in dataclasses.fields(Options)}
    )
    report = asyncio.run(
        _until_signal(
            measure_viewers(server, other_server, wanted, lambda text: print(text, file=sys.stderr))
        )
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(*lines(report), sep="\n", flush=True)
    console = Console(stderr=True)
    console.width = max(console.width, 100)
    for title, (head, *found) in tables(report).items():
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(head):
            table.add_column(column, justify="right" if number and len(head) > 4 else "left")
        for line in found:
            table.add_row(*line)
        console.print(table)
    console.print(f"Other programs used {report['other_cpu_percent']:.0f}% of the processors.")
    for text in report["dropped"]:
        console.print(f"Dropped, since the rates differ by more than 2%: {text}.", markup=False)
    for text in report["failures"]:
        console.print(f"FAILED: {text}", markup=False)
    return 1 if report["failures"] else 0


async def _until_signal(measuring: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """Measure; SIGTERM ends it as Ctrl-C does, so that all processes are stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await measuring


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.console", description=__doc__.partition("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    opening = commands.add_parser(
        "open", help="open each page of a deep queue, and of an empty one"
    )
    opening.add_argument("--rows", type=int, default=5_000_000)
    opening.add_argument("--openings", type=int, default=5, help="of each page")
    opening.add_argument("--only", default="", help="only pages with this in their names")
    watching = commands.add_parser(
        "viewers", help="compare the database's work for each job with viewers and without"
    )
    default = Options()
    for name, kind, text in (
        ("viewers", int, "pages of the overview that are open"),
        ("rate", float, "jobs a second that are enqueued and run"),
        ("rounds", int, "windows of each kind of viewers; there is one more of those without"),
        ("window-seconds", float, "how long each window is; best a multiple of the refresh"),
        ("job-ms", float, "how long a job takes, in milliseconds; 0 is a no-op"),
        ("queues", int, "queues that the overview shows; all but one are idle"),
        ("refresh-seconds", float, "how often the console's pages are refreshed; 1 or more"),
    ):
        value = getattr(default, name.replace("-", "_"))
        watching.add_argument(
            f"--{name}", type=kind, default=value, help=f"{text}; default {value:g}"
        )
    watching.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    options = parser.parse_args()
    if options.command == "viewers":
        for name in ("viewers", "rate", "rounds", "window_seconds", "queues"):
            if not getattr(options, name) > 0:
                option = name.replace("_", "-")
                parser.error(f"--{option} is more than 0, got {getattr(options, name):g}")
        if options.window_seconds < 2 * options.refresh_seconds:
            parser.error(
                "--window-seconds is at least twice --refresh-seconds, so that each window has its "
                f"share of reads; got {options.window_seconds:g} and {options.refresh_seconds:g}"
            )
    return options


def main() -> int:
    """Run one of the two, and return the exit code: 1 if a page was not answered."""
    options = _arguments()
    settings = VIEWER_SETTINGS if options.command == "viewers" else SETTINGS
    with tempfile.TemporaryDirectory(prefix="meshhook-bench-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres", settings=settings)
        other_server = EmbeddedPostgres(Path(directory) / "other", settings=settings)
        try:
            url = server.start()
            if options.command == "viewers":
                other_server.start()
                return _viewers(server, other_server, options)
            asyncio.run(_migrated(url))
            asyncio.run(measure_open(server, options.rows, options.openings, options.only))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return 130
        finally:
            server.stop()
            if options.command == "viewers":
                other_server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
