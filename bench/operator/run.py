"""The benchmark of the operator: many JobQueues on a real control plane; see README.md beside it.

python -m bench.operator.run [--queues N] [--pods N] [--json FILE] [--document FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

from bench.machine import describe_machine
from bench.operator.measurements import (
    measure_restart,
    measure_start,
    measure_steady,
    measure_surge,
    measure_wakes,
    percentile,
)
from bench.operator.section import PART, section
from bench.operator.stage import running_stage
from support.cluster.programs import CONTROL_PLANE, build, version

HERE = Path(__file__).parent
ASLEEP_SECONDS = 3.0
Report = dict[str, Any]
FORMAT = 1
"""The version of the JSON's shape."""


async def run(
    *, queues: int, pods: int, steady_seconds: float, wakes: int, keep: Callable[[Report], None]
) -> Report:
    """Measure everything, and return the report; `keep` is given what there is after each part."""
    names = [f"queue-{number:04}" for number in range(queues)]
    report: Report = {
        "format": FORMAT,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(HERE),
        "kubernetes": version("kube-apiserver"),
        "queues": queues,
        "pods": pods,
    }
    async with running_stage() as stage:
        others = _Others(stage.postmaster_pid)
        parts: dict[str, Callable[[], Awaitable[dict[str, Any]]]] = {
            "start": lambda: measure_start(stage, names, pods=pods),
            "steady": lambda: measure_steady(stage, seconds=steady_seconds),
            "restart": lambda: measure_restart(stage, queues),
            "surge": lambda: measure_surge(stage, names, pods=pods),
            "wake": lambda: measure_wakes(stage, count=wakes, asleep_seconds=ASLEEP_SECONDS),
            "wake_just_asleep": lambda: measure_wakes(stage, count=wakes, asleep_seconds=0.0),
        }
        for name, measure in parts.items():
            report[name] = _say(name, await measure())
            report["others_percent"] = others.percent()
            keep(report)
    return report


def _say(what: str, figures: dict[str, Any]) -> dict[str, Any]:
    shown = {
        key: f"p50 {percentile(value, 50):.2f}, max {max(value):.2f}"
        if key.endswith("_seconds") and isinstance(value, list)
        else value
        for key, value in figures.items()
    }
    print(f"{what}: {json.dumps(shown, indent=1)}", file=sys.stderr, flush=True)
    return figures


class _Others:
    """How much of the processors is used by what this benchmark did not start."""

    def __init__(self, postmaster_pid: int) -> None:
        self._roots = [psutil.Process(), psutil.Process(postmaster_pid)]
        self._last = self._look()

    def percent(self) -> float:
        """Return their share since the start, in percent of all processors."""
        total, busy, own = (now - then for now, then in zip(self._look(), self._last, strict=True))
        return max(0.0, (busy - own) / total * 100)

    def _look(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        total = sum(times) - times.guest - times.guest_nice
        own = 0.0
        for root in self._roots:
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    spent = process.cpu_times()
                    own += spent.user + spent.system + spent.children_user + spent.children_system
        return total, total - times.idle - times.iowait, own


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.operator.run", description="Benchmark the operator."
    )
    parser.add_argument("--queues", type=int, default=500)
    parser.add_argument("--pods", type=int, default=2000)
    parser.add_argument("--steady-seconds", type=float, default=180)
    parser.add_argument("--wakes", type=int, default=20)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--document", type=Path)
    parser.add_argument("--from-json", type=Path)
    options = parser.parse_args()

    if options.document:
        try:
            PART.check(options.document)
        except ValueError as error:
            parser.error(str(error))

    def keep(report: Report) -> None:
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n")

    if options.from_json:
        report = json.loads(options.from_json.read_text())
    else:
        build(CONTROL_PLANE, say=print)
        report = asyncio.run(
            run(
                queues=options.queues,
                pods=options.pods,
                steady_seconds=options.steady_seconds,
                wakes=options.wakes,
                keep=keep,
            )
        )
    if options.document:
        PART.replace(options.document, section(report))
    else:
        print(section(report))


if __name__ == "__main__":
    main()
