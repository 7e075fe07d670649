"""Measures MeshHook Queue beside raw PGMQ: `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from measures import MEASURES
from rich.console import Console
from rich.table import Table
from subjects import MeshHook, RawPgmq, Subject

from meshhook import migrate
from meshhook.embedded import EmbeddedPostgres

DOCUMENT = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- begin: written by make bench -->", "<!-- end -->"


async def measure(url: str, *, rounds: int, scale: float, console: Console) -> dict[str, Any]:
    """Run all measures, the subjects in turn, and return the figures of every round."""
    connection = await asyncpg.connect(url)
    report = await migrate(connection)
    server = await connection.fetchval("show server_version")
    settings = {
        name: await connection.fetchval(f"show {name}") for name in ("fsync", "synchronous_commit")
    }
    await connection.close()
    figures: dict[str, dict[str, list[float]]] = {}
    units: dict[str, str] = {}
    for number in range(rounds):
        for each in MEASURES:
            for kind in (RawPgmq, MeshHook):
                subject: Subject = kind(url)
                console.print(f"round {number + 1} of {rounds}: {each.name}, {subject.name}")
                await subject.open()
                try:
                    found = await each.run(subject, scale)
                finally:
                    await subject.close()
                for name, value in found.items():
                    units[name] = each.unit
                    figures.setdefault(name, {}).setdefault(subject.name, []).append(value)
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "load_before": round(os.getloadavg()[2], 2),
        },
        "versions": {
            "meshhook-queue": version("meshhook-queue"),
            "python": platform.python_version(),
            "postgresql": server,
            "pgmq": report.pgmq.version,
        },
        "settings": settings,
        "rounds": rounds,
        "units": units,
        "figures": figures,
    }


def rows_of(result: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (measure, raw, ours, ratio) as text, of the medians."""
    rows = []
    for name, by_subject in result["figures"].items():
        raw, ours = (statistics.median(by_subject[kind.name]) for kind in (RawPgmq, MeshHook))
        unit = result["units"][name]
        form = ",.0f" if unit == "jobs/s" else ",.1f"
        rows.append((name, f"{raw:{form}} {unit}", f"{ours:{form}} {unit}", f"{ours / raw:.2f}"))
    return rows


def markdown(result: dict[str, Any]) -> str:
    """Return the part of docs/benchmarks.md that a run writes."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        f"{result['date'][:10]}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB. PostgreSQL {versions['postgresql']}, PGMQ {versions['pgmq']}, "
        f"Python {versions['python']}, meshhook-queue {versions['meshhook-queue']}; fsync "
        f"{result['settings']['fsync']}, synchronous_commit {result['settings']['synchronous_commit']}. "
        f"Medians of {result['rounds']} rounds. MeshHook Queue with history and metrics on.",
        "",
        "| measure | raw PGMQ | MeshHook Queue | ratio |",
        "|---|---:|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in rows_of(result)),
    ]
    return "\n".join(lines)


def write_document(result: dict[str, Any]) -> None:
    """Put the table into docs/benchmarks.md."""
    text = DOCUMENT.read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{markdown(result)}\n\n{END}{after}")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small round; writes no document")
    parser.add_argument("--rounds", type=int, default=3, help="default 3")
    parser.add_argument("--scale", type=float, default=1.0, help="how much work; default 1")
    parser.add_argument("--json", type=Path, help="write every figure of every round to this file")
    options = parser.parse_args()
    rounds, scale = (1, options.scale / 3) if options.quick else (options.rounds, options.scale)
    console = Console(stderr=True)
    directory = Path(tempfile.mkdtemp(prefix="meshhook-bench-"))
    directory.chmod(0o711)
    server = EmbeddedPostgres(directory / "postgres", settings={"max_wal_size": "4GB"})
    try:
        result = uvloop.run(measure(server.start(), rounds=rounds, scale=scale, console=console))
    finally:
        server.stop()
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    table = Table("measure", "raw PGMQ", "MeshHook Queue", "ratio")
    for row in rows_of(result):
        table.add_row(*row)
    Console().print(table)
    if not options.quick:
        write_document(result)
        console.print(f"wrote {DOCUMENT.name}")
    return 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    sys.exit(main())
