"""The benchmark: MeshHook Queue beside raw PGMQ, on a PostgreSQL of its own.

python bench/run.py [--quick] [--rounds N] [--degradation] [--json FILE] [--document FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg
from machine import OtherUse, describe_machine, describe_settings, describe_versions
from plan import FULL, QUICK, SUBJECTS, TINY, MeasurePlan, Size, SubjectPlan, measures
from report import check_document, is_quiet, show, write
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from summary import summarize

from meshhook.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Callable

BENCH = Path(__file__).parent
PROBE_TIMEOUT_SECONDS = 600.0
FORMAT = 1
"""The version of the JSON's shape."""


class ProbeError(Exception):
    """A measurement failed."""


class Bench:
    """Measures on one server. Each measurement gets a database and a process of its own."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        """Take a server that runs."""
        self._server = server

    async def __aenter__(self) -> Self:
        """Connect."""
        self.connection = await asyncpg.connect(self._server.url("postgres"))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        await self.connection.close()

    async def install(self, subject: SubjectPlan) -> dict[str, str]:
        """Make the database that those of the subject's measurements are copies of."""
        template = f"bench_{subject.name}"
        await self.connection.execute(f'create database "{template}"')
        return await self._probe(subject, template, "install", {})

    async def measure(self, subject: SubjectPlan, plan: MeasurePlan) -> dict[str, Any]:
        """Take one measurement."""
        template = f"bench_{subject.name}"
        await self.connection.execute(f'create database bench template "{template}"')
        try:
            result = await self._probe(subject, "bench", plan.measure, plan.parameters)
        finally:
            await self.connection.execute("drop database bench with (force)")
        return result | {"tracking": subject.tracking, "metrics": subject.metrics}

    async def _probe(
        self, subject: SubjectPlan, database: str, measure: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        request = {
            "subject": subject.name,
            "url": self._server.url(database),
            "measure": measure,
            "parameters": parameters,
        }
        process = await asyncio.create_subprocess_exec(
            subject.python,
            str(BENCH / "probe.py"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                output, errors = await process.communicate(json.dumps(request).encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise ProbeError(f"{subject.title}, {measure} {parameters}:\n{errors.decode()}")
        result: dict[str, Any] = json.loads(output)
        return result


async def run(
    server: EmbeddedPostgres,
    size: Size,
    rounds: int,
    *,
    degradation: bool,
    on_step: Callable[[str, int], None],
) -> dict[str, Any]:
    """Measure everything in interleaved rounds, and return the report.

    Args:
        server: where to measure.
        size: how much of everything.
        rounds: how often each measurement is taken.
        degradation: whether to measure with delayed messages in front, too.
        on_step: called before each measurement with its name and how many there are.
    """
    plans = measures(size, degradation=degradation)
    results: list[list[dict[str, dict[str, Any]]]] = [[] for _ in plans]
    other_cpu_percent: list[float] = []
    versions: dict[str, str] = {}
    async with Bench(server) as bench:
        for subject in SUBJECTS:
            versions |= await bench.install(subject)
        assert server.pid is not None
        others = OtherUse(server.pid)
        for number in range(rounds):
            # Each goes first as often as the others.
            first = number % len(SUBJECTS)
            order = SUBJECTS[first:] + SUBJECTS[:first]
            for plan, taken in zip(plans, results, strict=True):
                found = {}
                for subject in order:
                    name = f"round {number + 1}: {plan.group}, {plan.title}, {subject.title}"
                    on_step(name, rounds * len(plans) * len(SUBJECTS))
                    found[subject.name] = await bench.measure(subject, plan)
                taken.append({subject.name: found[subject.name] for subject in SUBJECTS})
            other_cpu_percent.append(round(others.percent(), 1))
        return {
            "format": FORMAT,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": size.name,
            "rounds": rounds,
            "quiet": is_quiet(other_cpu_percent),
            "other_cpu_percent": other_cpu_percent,
            "machine": describe_machine(server.home),
            "versions": await describe_versions(bench.connection, versions),
            "postgresql_settings": await describe_settings(bench.connection),
            "subjects": [_without_python(subject) for subject in SUBJECTS],
            "measures": [
                {
                    "group": plan.group,
                    "title": plan.title,
                    "measure": plan.measure,
                    "parameters": plan.parameters,
                    "rounds": taken,
                    "summary": summarize(plan.figures, taken),
                }
                for plan, taken in zip(plans, results, strict=True)
            ],
        }


def _without_python(subject: SubjectPlan) -> dict[str, Any]:
    # The interpreter's path says nothing to others, and names this machine's folders.
    return {key: value for key, value in asdict(subject).items() if key != "python"}


async def _run_until_signal(*arguments: Any, **keywords: Any) -> dict[str, Any]:
    """Run; SIGTERM ends it as Ctrl-C does, so that the server is stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(*arguments, **keywords)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="MeshHook Queue beside raw PGMQ")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="one small round, under 2 minutes")
    sizes.add_argument("--tiny", action="store_true", help="only to see that it works")
    parser.add_argument("--rounds", type=int, help="default 5; 1 with --quick")
    parser.add_argument(
        "--degradation", action="store_true", help="also drain behind 100,000 delayed messages"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument(
        "--document",
        type=Path,
        metavar="FILE",
        help="write the tables between its markers; default docs/benchmarks.md, none with --quick",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=BENCH.parent / ".meshhook" / "bench",
        help="where the database is made, and removed at the end; on a real disk",
    )
    arguments = parser.parse_args()
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds is 1 or more, got {arguments.rounds}")
    if arguments.document is None and not (arguments.quick or arguments.tiny):
        arguments.document = BENCH.parent / "docs" / "benchmarks.md"
    if arguments.document is not None:
        try:
            check_document(arguments.document)
        except (OSError, ValueError) as error:
            parser.error(str(error))
    return arguments


def main() -> int:
    """Run the benchmark, and return the exit code."""
    arguments = _arguments()
    size = QUICK if arguments.quick else TINY if arguments.tiny else FULL
    # Of this run alone: two at once would spoil each other's figures, but not their data.
    server = EmbeddedPostgres(arguments.directory / str(os.getpid()))
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    try:
        server.start()
        with progress:
            task = progress.add_task("prepare", total=None)
            started = -1

            def on_step(name: str, total: int) -> None:
                nonlocal started
                started += 1
                progress.update(task, description=name, total=total, completed=started)

            report = asyncio.run(
                _run_until_signal(
                    server,
                    size,
                    arguments.rounds or size.rounds,
                    degradation=arguments.degradation,
                    on_step=on_step,
                )
            )
    except ProbeError as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    finally:
        server.stop()
        for directory in {server.home, server.directory}:
            shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            arguments.directory.rmdir()  # unless another run is there
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if arguments.document:
        write(report, arguments.document)
    show(report, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
