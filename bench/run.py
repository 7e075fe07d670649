"""The benchmark: MeshHook Queue beside raw PGMQ and its peers, on a PostgreSQL of its own.

python -m bench.run [--quick | --short] [--rounds N] [--minutes N] [--only MODE] [--subjects NAMES]
    [--lines] [--json FILE] [--document FILE] [--keys-document FILE] [--from-json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fnmatch
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bench.document import KEYS_PART, PART, write_document, write_keys
from bench.headline import write_headline
from bench.lines import lines
from bench.mode import ModePlan
from bench.plan import SUBJECTS, modes
from bench.progress import Steps
from bench.runner import BENCH, FORMAT, ProbeError, Report, Run, prepare
from bench.sizes import FULL, QUICK, SHORT, TINY
from bench.tables import show
from meshhook.embedded import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCS = BENCH.parent / "docs"
SERVER_SETTINGS = {"max_connections": "600"}
"""The default of 100 is too few for 128 workers of 3 connections; all else is as by default."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run", description="MeshHook Queue beside raw PGMQ and its peers"
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="one small round, at most 5 minutes")
    sizes.add_argument("--short", action="store_true", help="three rounds, in 20 minutes or so")
    sizes.add_argument("--tiny", action="store_true", help="only to see that it works")
    sizes.add_argument(
        "--from-json", type=Path, metavar="FILE", help="measure nothing; show and write that report"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help="leave out what is not measured by then; default 4 with --quick, 20 with --short",
    )
    parser.add_argument("--rounds", type=int, help="default 3, with --quick 1")
    parser.add_argument(
        "--only",
        action="append",
        metavar="MODE",
        help="only the modes of that name or pattern, as in 'drain_*'; may be repeated",
    )
    parser.add_argument(
        "--subjects",
        default=",".join(subject.name for subject in SUBJECTS),
        metavar="NAMES",
        help="only these, with commas in between; raw PGMQ is needed for ratios",
    )
    parser.add_argument("--lines", action="store_true", help="print a JSON object a line")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write all numbers there; default docs/benchmarks.json after a full run of everything",
    )
    parser.add_argument(
        "--document",
        type=Path,
        metavar="FILE",
        help="write tables and plots there; default docs/benchmarks.md, as with --json",
    )
    parser.add_argument(
        "--keys-document",
        type=Path,
        metavar="FILE",
        help="write what was measured of queues with keys there; default as with --document",
    )
    parser.add_argument(
        "--headline",
        type=Path,
        metavar="FILE",
        help="write the few figures of a README there; default README.md, as with --json",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=BENCH.parent / ".meshhook" / "bench",
        help="where the database is made, and removed at the end; on a real disk",
    )
    parser.add_argument(
        "--environments",
        type=Path,
        default=BENCH.parent / ".meshhook" / "peers",
        help="where the virtual environments of the peers are kept",
    )
    arguments = parser.parse_args()
    _complete(parser, arguments)
    return arguments


def _complete(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error(f"--rounds is 1 or more, got {arguments.rounds}")
    arguments.size = next(
        (size for size in (QUICK, SHORT, TINY) if getattr(arguments, size.name)),
        FULL,
    )
    if arguments.minutes is not None:
        if not arguments.minutes > 0:
            parser.error(f"--minutes is more than 0, got {arguments.minutes:g}")
        arguments.size = replace(arguments.size, budget_seconds=arguments.minutes * 60)
    names = arguments.subjects.split(",")
    known = [subject.name for subject in SUBJECTS]
    if unknown := [name for name in names if name not in known]:
        parser.error(f"--subjects: {', '.join(unknown)} not found; there are {', '.join(known)}")
    plans = modes(arguments.size)
    arguments.plans = _chosen(plans, arguments.only)
    if not arguments.plans:
        parser.error(f"--only: no such mode; there are {', '.join(plan.mode for plan in plans)}")
    arguments.chosen = [subject for subject in SUBJECTS if subject.name in names]
    everything = (
        arguments.size.name == FULL.name and not arguments.only and len(names) == len(known)
    )
    if arguments.from_json is None and everything:
        arguments.json = arguments.json or DOCS / "benchmarks.json"
        arguments.document = arguments.document or DOCS / "benchmarks.md"
        arguments.keys_document = arguments.keys_document or DOCS / "benchmarks.md"
        arguments.headline = arguments.headline or BENCH.parent / "README.md"
    parts = (
        (arguments.document, PART),
        (arguments.headline, PART),
        (arguments.keys_document, KEYS_PART),
    )
    for document, part in parts:
        if document is None:
            continue
        try:
            part.check(document)
        except (OSError, ValueError) as error:
            parser.error(str(error))


def _chosen(plans: Sequence[ModePlan], patterns: list[str] | None) -> list[ModePlan]:
    return [
        plan
        for plan in plans
        if patterns is None or any(fnmatch.fnmatch(plan.mode, pattern) for pattern in patterns)
    ]


def _measure(arguments: argparse.Namespace, progress: Steps) -> Report:
    began = time.monotonic()
    interpreters, left_out = prepare(
        arguments.chosen,
        arguments.environments,
        lambda title: progress.note(f"environment of {title}"),
    )
    for name, reason in left_out.items():
        progress.note(f"{name} is left out: {reason}")
    if not interpreters:
        raise ProbeError("none of the subjects can be measured")

    def on_mode(mode: dict[str, Any], subjects: list[dict[str, Any]]) -> None:
        if arguments.lines:
            for line in lines(mode, subjects):
                print(line, flush=True)

    run = Run(
        size=arguments.size,
        rounds=arguments.rounds or arguments.size.rounds,
        plans=arguments.plans,
        subjects=[subject for subject in arguments.chosen if subject.name in interpreters],
        interpreters=interpreters,
        left_out=left_out,
        began=began,
        on_step=progress.step,
        on_mode=on_mode,
    )
    # Of this run alone: two at once would spoil each other's figures, but not their data.
    server = EmbeddedPostgres(arguments.directory / str(os.getpid()), settings=SERVER_SETTINGS)
    try:
        server.start()
        return asyncio.run(_run_until_signal(run, server))
    finally:
        server.stop()
        for directory in {server.home, server.directory}:
            shutil.rmtree(directory, ignore_errors=True)
        with contextlib.suppress(OSError):
            arguments.directory.rmdir()  # unless another run is there


async def _run_until_signal(run: Run, server: EmbeddedPostgres) -> Report:
    """Run; SIGTERM ends it as Ctrl-C does, so that the server is stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run.on(server)


def _read(path: Path) -> Report:
    report: Report = json.loads(path.read_text(encoding="utf-8"))
    if report.get("format") != FORMAT:
        raise ValueError(f"{path} has format {report.get('format')!r}; {FORMAT} is needed")
    return report


def main() -> int:
    """Run the benchmark, and return the exit code: 1 if a measurement failed."""
    arguments = _arguments()
    try:
        if arguments.from_json:
            report = _read(arguments.from_json)
            if arguments.lines:
                for mode in report["modes"]:
                    print(*lines(mode, report["subjects"]), sep="\n")
        else:
            with Steps(Console(stderr=True)) as progress:
                report = _measure(arguments, progress)
    except (ProbeError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.document:
        write_document(report, arguments.document)
    if arguments.keys_document:
        write_keys(report, arguments.keys_document)
    if arguments.headline:
        write_headline(report, arguments.headline)
    show(report, Console(stderr=arguments.lines))
    # What an earlier run could not measure is in its report, and no failure of this one.
    return 1 if report["failures"] and not arguments.from_json else 0


if __name__ == "__main__":
    sys.exit(main())
