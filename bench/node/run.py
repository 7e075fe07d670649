"""The benchmark of the scaler on a real node; see README.md beside it.

python -m bench.node.run [--only TRACE] [--lanes N] [--json FILE] [--document FILE]
"""

from __future__ import annotations

import argparse
import fnmatch
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.node.prediction import predict
from bench.node.report import new_report, read_report, write_report
from bench.node.section import PART, section
from bench.node.stage import NAMESPACE, ROOT, NodeError, running_node
from bench.scaling.node_traces import SECONDS, node_traces
from support.image import IMAGE

if TYPE_CHECKING:
    from types import FrameType

    from bench.node.report import Report

LANES = 4
TRIES = 2
INTERRUPTED = 130


def say(text: str) -> None:
    """Tell people how it goes."""
    print(text, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace, names: list[str], file: Path) -> Report:
    """Play the traces on a node, and return the report, which is also in the file."""
    if not (options.resume and file.exists()):
        write_report(new_report(revision=_revision(), lanes=options.lanes), file)
    report = read_report(file)
    left = _left(names, report)
    if not left:
        say("nothing is left to be played")
        return report
    arguments = [
        f"--seconds={options.seconds}",
        f"--lanes={options.lanes}",
        f"--namespace={NAMESPACE}",
        f"--image={IMAGE}",
        f"--json={file.resolve()}",
        *([f"--raw={options.raw.resolve()}"] if options.raw else []),
    ]
    with running_node(say) as node:
        for _ in range(TRIES):
            traces = [f"--trace={name}" for name in left]
            code = node.run("bench.node.lanes", *traces, *arguments, f"--node-pid={node.pid}")
            report = read_report(file)
            left = _left(names, report)
            if not code or not left:
                break
            say(f"the program in the node's network ended with exit code {code}")
    return report


def _left(names: list[str], report: Report) -> list[str]:
    return [name for name in names if name not in report["traces"]]


def _revision() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip() or "an unknown revision"


def _chosen(patterns: list[str] | None) -> list[str]:
    """Return the names of the traces that match one of the patterns.

    Raises:
        ValueError: if a pattern matches none.
    """
    names = [trace.name for trace in node_traces()]
    for pattern in patterns or ():
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no trace is called {pattern!r}; there are: {', '.join(names)}")
    return [
        name
        for name in names
        if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.node.run", description="Benchmark the scaler on a real node."
    )
    parser.add_argument(
        "--only", action="append", metavar="TRACE", help="only this trace, or those of a pattern"
    )
    parser.add_argument("--lanes", type=int, default=LANES, help="how many traces at a time")
    parser.add_argument(
        "--seconds", type=int, default=SECONDS, help="only the beginning of each trace"
    )
    parser.add_argument("--json", type=Path, help="write the figures, after each trace")
    parser.add_argument(
        "--resume", action="store_true", help="play only what that file does not hold"
    )
    parser.add_argument("--raw", type=Path, metavar="DIR", help="write all that was noted")
    parser.add_argument("--document", type=Path, help="write the section between its markers")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="play nothing")
    return parser


def main() -> None:
    """Run what the command line says."""
    parser = _parser()
    options = parser.parse_args()
    try:
        names = _chosen(options.only)
        if options.document:
            PART.check(options.document)
        report = read_report(options.from_json) if options.from_json else None
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if options.resume and not options.json:
        parser.error("--resume needs --json: the file that holds what was played before")
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _interrupt)
    try:
        if report is None:
            with tempfile.TemporaryDirectory(prefix="meshhook-bench-") as scratch:
                report = measure(options, names, options.json or Path(scratch) / "report.json")
    except NodeError as error:
        sys.exit(f"bench-node: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    text = section(report, node_traces(), predict)
    if options.document:
        PART.replace(options.document, text)
    print(text)
    if not options.from_json and (missing := _left(names, report)):
        sys.exit(f"bench-node: not played: {', '.join(missing)}")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
